"""Whether a picture counts as adult, with every doubt counted as yes."""

from __future__ import annotations

import logging
import math
import threading
from concurrent.futures import Future
from dataclasses import dataclass

from bot.generation import RawPicture
from bot.safety.classifier import PUBLISHED_THRESHOLD, Classifier

log = logging.getLogger(__name__)

TIMEOUT_S = 30.0
MAX_HUNG = 2
"""So many scores that never came back, and no further one is asked for: each would cost a thread and a time-out."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """`score` is in [0, 1], None where the classifier failed; `adult` where it failed or reached the threshold."""

    score: float | None
    adult: bool


class Judge:
    """Asks the classifier and fails closed: an exception, a time-out or no number at all is an adult picture.

    Pool threads, several at a time. Each score runs on a thread of its own that does not keep the process from ending.
    """

    def __init__(self, classifier: Classifier, *, threshold: float | None = None, timeout_s: float = TIMEOUT_S) -> None:
        """`threshold` None is the classifier's own."""
        self._classifier = classifier
        own: float = getattr(classifier, "threshold", PUBLISHED_THRESHOLD)
        self._threshold = own if threshold is None else threshold
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._hung = 0

    def judge(self, picture: RawPicture) -> Verdict:
        """Judge a picture; never raises. Blocks until the score is there or its time is up."""
        score = self._score(picture)
        return Verdict(score, score is None or score >= self._threshold)

    def _score(self, picture: RawPicture) -> float | None:
        if self._hung >= MAX_HUNG:
            log.error("the picture classifier hangs and is not asked; the picture counts as adult")
            return None
        answer: Future[float] = Future()
        threading.Thread(target=self._ask, args=(picture, answer), name="classifier", daemon=True).start()
        try:
            score = answer.result(self._timeout_s)
        except TimeoutError as error:
            if answer.done():  # the classifier's own time-out, not ours
                log.error("the picture classifier failed; the picture counts as adult", exc_info=error)
                return None
            self._note_hung(answer)
            log.error("the picture classifier took over %g s; the picture counts as adult", self._timeout_s)
            return None
        except Exception as error:
            log.error("the picture classifier failed; the picture counts as adult", exc_info=error)
            return None
        if not math.isfinite(score):
            log.error("the picture classifier gave %r; the picture counts as adult", score)
            return None
        return min(1.0, max(0.0, score))

    def _ask(self, picture: RawPicture, answer: Future[float]) -> None:
        try:
            answer.set_result(float(self._classifier.score(picture)))
        except BaseException as error:
            answer.set_exception(error)

    def _note_hung(self, answer: Future[float]) -> None:
        with self._lock:
            self._hung += 1
        answer.add_done_callback(self._back)

    def _back(self, _: Future[float]) -> None:
        with self._lock:
            self._hung -= 1
