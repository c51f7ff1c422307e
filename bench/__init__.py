"""`make bench`: how quick the bot is, measured from outside on the real process."""
