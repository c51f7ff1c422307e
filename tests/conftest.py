"""For all tests: one torch thread a process, sleeping while it waits; pytest's two workers share two cores already."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")
