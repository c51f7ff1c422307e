"""Where models lie: on the card, in main memory, on disk; and how."""
