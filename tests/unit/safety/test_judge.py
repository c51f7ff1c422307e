"""Every doubt about a picture counts as adult, and none of them stops the program."""

from __future__ import annotations

import logging
import threading
import time

import pytest

from bot.generation import RawPicture
from bot.safety.judge import MAX_HUNG, Judge, Verdict
from tests.unit.files.pictures import NOT_FINITE, FixedScore, raw


class Hanging:
    """Never answers before `gate` opens."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.asked = 0

    def score(self, picture: RawPicture) -> float:
        self.asked += 1
        self.gate.wait(20.0)
        return 0.01


@pytest.mark.parametrize(
    "given",
    [RuntimeError("no session"), ImportError("no package"), TimeoutError("its own"), SystemExit(3), *NOT_FINITE],
    ids=["raises", "no package", "own time-out", "exits", "nan", "inf"],
)
def test_judge_classifier_that_gives_no_score_counts_as_adult(given: float | BaseException) -> None:
    assert Judge(FixedScore(given)).judge(raw()) == Verdict(None, True)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("score", "verdict"),
    [(0.49, Verdict(0.49, False)), (0.5, Verdict(0.5, True)), (7.0, Verdict(1.0, True)), (-1.0, Verdict(0.0, False))],
    ids=["below", "at", "above one", "below nought"],
)
def test_judge_score_counts_from_the_threshold_on(score: float, verdict: Verdict) -> None:
    assert Judge(FixedScore(score)).judge(raw()) == verdict


def test_judge_classifier_that_hangs_counts_as_adult_and_is_left_alone_after_a_few(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hanging = Hanging()
    judge = Judge(hanging, timeout_s=0.05)
    with caplog.at_level(logging.CRITICAL):
        verdicts = [judge.judge(raw()) for _ in range(MAX_HUNG + 3)]
    assert verdicts == [Verdict(None, True)] * (MAX_HUNG + 3)
    assert hanging.asked == MAX_HUNG
    hanging.gate.set()
    until = time.monotonic() + 10.0
    while judge.judge(raw()).score is None and time.monotonic() < until:
        time.sleep(0.01)
    assert judge.judge(raw()).score == 0.01  # it answers again, so it is asked again


def test_judge_thread_that_hangs_does_not_keep_the_process() -> None:
    hanging = Hanging()
    Judge(hanging, timeout_s=0.05).judge(raw())
    hung = [thread for thread in threading.enumerate() if thread.name == "classifier"]
    assert hung
    assert all(thread.daemon for thread in hung)
    hanging.gate.set()
