"""The arithmetic of the benchmark: pure functions of lists of seconds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence


def percentile(values: Sequence[float], share: float) -> float:
    """Return the nearest-rank percentile; `share` is in (0, 1]. Raises ValueError on an empty list."""
    if not values:
        raise ValueError("no values to take a percentile of")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def intercept(times_by_steps: Mapping[int, Sequence[float]]) -> tuple[float, float]:
    """Fit `time = overhead + steps · per_step` through the medians; returns (overhead_s, per_step_s).

    Raises ValueError with fewer than two different step counts.
    """
    if len(times_by_steps) < 2:
        raise ValueError("two step counts are needed to tell the overhead from the steps")
    steps = list(times_by_steps)
    medians = [statistics.median(times_by_steps[count]) for count in steps]
    fit = statistics.linear_regression(steps, medians)
    return fit.intercept, fit.slope


def stalls(lateness_s: Sequence[float], *, above_s: float) -> list[float]:
    """Return the delays above `above_s`, longest first."""
    return sorted((late for late in lateness_s if late > above_s), reverse=True)
