"""Pictures in the making, and the passes they share."""
