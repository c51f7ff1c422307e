"""Words people typed: made safe to show. Pure."""
