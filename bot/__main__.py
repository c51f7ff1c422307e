"""`python -m bot`."""

from __future__ import annotations

import sys

from bot.cli import main
from bot.logs import guard_crashes

if __name__ == "__main__":
    guard_crashes()
    sys.exit(main(sys.argv[1:]))
