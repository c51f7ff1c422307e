"""`python -m bot`."""

from __future__ import annotations

import sys

from bot.cli import main
from bot.exits import leave
from bot.logs import guard_crashes

if __name__ == "__main__":
    guard_crashes()
    leave(main(sys.argv[1:]))
