"""From files to a pipeline."""
