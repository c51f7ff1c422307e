"""What the operator's models file says: models, what goes onto them, and what looks at pictures. Pure."""
