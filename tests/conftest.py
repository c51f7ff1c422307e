"""For all tests: torch's threads sleep while they wait, as the engine has them (two workers share two cores here)."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
