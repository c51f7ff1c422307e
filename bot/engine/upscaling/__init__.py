"""Pictures being enlarged, a tile a turn."""
