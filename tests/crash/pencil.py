"""An engine without torch that draws coloured noise, and misbehaves where a word of the prompt says so."""

from __future__ import annotations

import os
import random
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from bot.engine.base import EngineInfo, Order, Question, Work
from bot.engine.metrics import Metrics
from bot.errors import DeviceLost, GenerationCancelled, GenerationError
from bot.generation import GenerationRequest, GenerationResult, Progress, RawPicture

STEP_S = 0.002
SLOW_STEP_S = 0.1
BUSY_S = 8.0
STUCK_S, STUCK_LIMIT_S = 600.0, 1.0
BROKEN = "The pencil broke; try again."


@dataclass(slots=True)
class _Sheet:
    order: Order
    step: int = 0

    @property
    def words(self) -> set[str]:
        return set(self.order.request.prompt.split())


class Pencil:
    """Takes one step of every order a turn. Words of a prompt it obeys, all half-way through the drawing:

    slow (every step takes a tenth of a second), busy (one step takes eight), broken (fails), poison (kills the process), poison-once, lost-once (the device is lost),
    stuck-once (never comes back). The `-once` ones leave a file in `notes`, so that the next process behaves.
    """

    def __init__(self, notes: Path) -> None:
        self._notes = notes
        self._sheets: list[_Sheet] = []
        self.work: Work | None = None
        self.metrics = Metrics()

    def start(self) -> EngineInfo:
        return EngineInfo("cpu", "pencil", "fp32", None)

    def admit(self, order: Order) -> None:
        self._sheets.append(_Sheet(order))

    @property
    def busy(self) -> bool:
        return bool(self._sheets)

    def turn(self) -> bool:
        slow = any("slow" in sheet.words for sheet in self._sheets)
        time.sleep(SLOW_STEP_S if slow else STEP_S)
        for sheet in list(self._sheets):
            if sheet.order.over or self._step(sheet):
                self._sheets.remove(sheet)
        return self.busy

    def ask(self, question: Question) -> None:
        question.fail(GenerationError(BROKEN))

    def close(self) -> None:
        self._sheets.clear()

    def _step(self, sheet: _Sheet) -> bool:
        """Take a step; whether the order has ended."""
        order, request = sheet.order, sheet.order.request
        if order.listener.cancelled():
            order.fail(GenerationCancelled("cancelled"))
            return True
        sheet.step += 1
        if sheet.step == (request.num_inference_steps + 1) // 2 and not self._obey(sheet):
            return True
        order.listener.on_progress(Progress(sheet.step, request.num_inference_steps))
        if sheet.step < request.num_inference_steps:
            return False
        order.finish(GenerationResult(drawn(request), 0.01 * sheet.step, 0.01 * sheet.step, "cpu", "fp32"))
        return True

    def _obey(self, sheet: _Sheet) -> bool:
        """Do as the prompt says; whether the drawing goes on."""
        if "broken" in sheet.words:
            sheet.order.fail(GenerationError(BROKEN))
            return False
        if "busy" in sheet.words:
            time.sleep(BUSY_S)
        if "poison" in sheet.words or ("poison-once" in sheet.words and self._first("poison-once")):
            os.kill(os.getpid(), signal.SIGKILL)
        if "lost-once" in sheet.words and self._first("lost-once"):
            raise DeviceLost("a step failed: CUDA error: an illegal memory access was encountered")
        if "stuck-once" in sheet.words and self._first("stuck-once"):
            self.work = Work("a step", (sheet.order,), time.monotonic(), STUCK_LIMIT_S)
            time.sleep(STUCK_S)
        return True

    def _first(self, word: str) -> bool:
        try:
            (self._notes / word).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


def drawn(request: GenerationRequest) -> tuple[RawPicture, ...]:
    """Draw the pictures of a request: noise that its seeds decide, a small square blown up."""
    pictures: list[RawPicture] = []
    for n in range(request.count):
        row = random.Random(request.seed + n).randbytes(request.width * 3)
        pictures.append(RawPicture(n, request.seed + n, request.width, request.height, row * request.height))
    return tuple(pictures)
