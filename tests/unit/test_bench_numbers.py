"""The benchmark's arithmetic."""

from __future__ import annotations

import pytest

from bench.numbers import intercept, percentile, stalls


@pytest.mark.parametrize(("share", "expected"), [(0.5, 50), (0.99, 99), (1.0, 100)], ids=["p50", "p99", "worst"])
def test_percentile_of_a_hundred_is_the_nearest_rank(share: float, expected: float) -> None:
    assert percentile([float(value) for value in range(100, 0, -1)], share) == expected


def test_percentile_of_few_values_at_99_is_the_worst() -> None:
    assert percentile([0.1, 0.9, 0.2], 0.99) == 0.9


def test_percentile_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_intercept_of_a_straight_line_splits_overhead_from_steps() -> None:
    overhead, per_step = intercept({4: [0.34, 0.30, 5.0], 24: [1.34]})
    assert overhead == pytest.approx(0.14)
    assert per_step == pytest.approx(0.05)


def test_intercept_of_one_step_count_is_refused() -> None:
    with pytest.raises(ValueError, match="two step counts"):
        intercept({4: [0.3]})


def test_stalls_gives_only_the_long_ones_longest_first() -> None:
    assert stalls([0.01, 0.06, 0.05, 0.2], above_s=0.05) == [0.2, 0.06]
