"""`python -m tests.crash --iterations 200 --seed S`: exit code 1 where anything was lost, doubled or given up."""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from tests.crash.run import CrashRun, plan


def main() -> int:
    """Run and tell; the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--seed", type=int, default=None, help="the same seed chooses the same kills and the same load")
    parser.add_argument("--folder", type=Path, default=None, help="where to keep data and logs (a temporary folder)")
    options = parser.parse_args()
    seed = random.randrange(2**32) if options.seed is None else options.seed
    folder = options.folder or Path(tempfile.mkdtemp(prefix="easel-crash-"))
    print(f"{options.iterations} iterations, seed {seed}, in {folder}", flush=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the victim goes with us
    began = time.monotonic()
    tally = asyncio.run(
        CrashRun(folder, seed).run(plan(options.iterations, seed), lambda line: print(line, flush=True))
    )
    print(f"{tally}\nseed {seed}, {time.monotonic() - began:.0f} s")
    if not tally.problems and options.folder is None:
        shutil.rmtree(folder, ignore_errors=True)
    return 1 if tally.problems or tally.iterations < options.iterations else 0


if __name__ == "__main__":
    sys.exit(main())
