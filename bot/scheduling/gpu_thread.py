"""The one thread that touches the GPU, and the one that watches it. Both can start before any event loop exists."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from bot.engine.base import NO_INPUTS, UNEXPECTED, Engine, EngineInfo, Listener, Order, Question, Work, as_easel_error
from bot.engine.metrics import Metrics
from bot.errors import DeviceLost, GenerationError
from bot.generation import GenerationRequest, GenerationResult, InputPictures

log = logging.getLogger(__name__)

THREAD_NAME = "gpu"
WATCH_S = 1.0
METRICS_S = 60.0
NOT_STARTED = "The engine could not start; the bot's log says why."
STOPPING = "Easel is stopping; the request waits for the next start."
STUCK = "The GPU did not answer while this was drawn, so it was given up; try again, or try a smaller size."
LOST = "The GPU has failed and Easel starts anew; try again in a minute."


class GpuThread:
    """Starts the engine on a thread of its own and turns it there for as long as it has orders.

    `ready` is done once the engine is: with its EngineInfo, or with the EaselError that says why it cannot draw.
    `lost` is done with a sentence once the device will not draw again in this process; nothing is taken from then on.
    """

    def __init__(self, engine: Engine, *, tick: Callable[[], float] = time.monotonic) -> None:
        """`tick` gives monotonic seconds, on any thread; it is the engine's, too."""
        self._engine = engine
        self._tick = tick
        self._orders: queue.SimpleQueue[Order | Question | None] = queue.SimpleQueue()
        self._open: set[Order | Question] = set()
        self._lock = threading.Lock()
        self._stopping = False
        self._ended = threading.Event()
        self._reported = tick()
        self._given_up: Work | None = None
        # Daemons: a device call that never returns must not keep the process from ending.
        self._thread = threading.Thread(target=self._live, name=THREAD_NAME, daemon=True)
        self._watchdog = threading.Thread(target=self._guard, name="gpu-watchdog", daemon=True)
        self.ready: Future[EngineInfo] = Future()
        self.lost: Future[str] = Future()
        # Marked as running at once: whoever stops waiting for it must not cancel it for the others.
        self.ready.set_running_or_notify_cancel()
        self.lost.set_running_or_notify_cancel()

    @property
    def metrics(self) -> Metrics:
        """The engine's numbers so far. Any thread."""
        return self._engine.metrics

    def start(self) -> None:
        """Begin; the engine imports what it needs at once. Call it once, from any thread."""
        self._thread.start()
        self._watchdog.start()

    def submit(
        self, request: GenerationRequest, listener: Listener, member: object = None,
        inputs: InputPictures = NO_INPUTS, done: frozenset[int] = frozenset(),
    ) -> Future[GenerationResult]:  # fmt: skip
        """Draw a request beside those before it; any thread. The future's error is an EaselError.

        The listener is called on the GPU thread. `member` is whose turns of the GPU it uses; `inputs` are the request's pictures;
        those numbered in `done` were drawn before, and others are missing.
        """
        order = Order(request, listener, member, inputs, done)
        self._put(order)
        return order.future

    def ask(self, question: Question) -> Future[str]:
        """Put a picture into words beside what is drawn; any thread. The future's error is an EaselError."""
        self._put(question)
        return question.future

    def stop(self, timeout_s: float) -> bool:
        """Take no more and let what is drawn end; whether the thread ended in time. Blocks; any other thread.

        To end sooner, cancel through the listeners. While the engine still starts, which is an import that cannot be
        interrupted, nothing is waited for. Repeatable.
        """
        with self._lock:
            if not self._stopping:
                self._stopping = True
                self._orders.put(None)
        if self._thread.ident is None:
            return True  # never started
        if not self.ready.done():
            return False
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            log.warning("the GPU thread did not end within %g s; it is left behind", timeout_s)
        return not self._thread.is_alive()

    def watch(self) -> None:
        """Look at the turn in progress once; the watchdog's thread does so every second.

        A turn over its limit costs the requests it is for; one that is still not over after as long again, the device.
        """
        work = self._engine.work
        if work is None:
            return
        taken_s = self._tick() - work.began
        if taken_s > work.limit_s and self._given_up is not work:
            self._given_up = work
            log.error("%s has taken %.0f s; its %d requests are given up", work.what, taken_s, len(work.orders))
            for order in work.orders:
                order.fail(GenerationError(STUCK))
        if taken_s > 2 * work.limit_s and not self.lost.done():
            self._lose(f"{work.what} has not come back for {taken_s:.0f} s")

    def _live(self) -> None:
        try:
            info = self._engine.start()
        except BaseException as error:
            self.ready.set_exception(as_easel_error(error, NOT_STARTED))
            self._refuse_all(NOT_STARTED)
            self._ended.set()
            return
        self.ready.set_result(info)
        while self._take():
            self._turn()
        while self._engine.busy and not self.lost.done():
            self._turn()
        self._refuse_all(STOPPING)
        self._ended.set()
        try:
            self._engine.close()
        except Exception:
            log.exception("the engine did not close cleanly")

    def _put(self, order: Order | Question) -> None:
        with self._lock:
            if self._stopping:
                order.fail(DeviceLost(LOST) if self.lost.done() else GenerationError(STOPPING))
            else:
                self._orders.put(order)

    def _take(self) -> bool:
        """Hand new orders to the engine, waiting for one only where there is nothing to draw; False at the end."""
        wait = not self._engine.busy
        while not self.lost.done():
            try:
                order = self._orders.get(block=wait)
            except queue.Empty:
                return True
            if order is None:
                return False
            if order.future.set_running_or_notify_cancel():
                self._open.add(order)
                order.future.add_done_callback(lambda _, order=order: self._open.discard(order))
                if isinstance(order, Order):
                    self._engine.admit(order)
                else:
                    self._engine.ask(order)
                wait = False
        return False

    def _turn(self) -> None:
        try:
            self._engine.turn()
        except DeviceLost as error:
            self._lose(str(error))
        except BaseException as error:  # the engine's own fault: those it had are lost, the next may be fine
            sentence = as_easel_error(error, UNEXPECTED)
            for order in list(self._open):
                order.fail(sentence)
            self._start_anew()
        if self._tick() - self._reported >= METRICS_S:
            self._reported = self._tick()
            log.info("%s", self._engine.metrics)

    def _start_anew(self) -> None:
        try:
            self._engine.close()
            self._engine.start()
        except BaseException as error:
            self._lose(f"the engine did not start again: {error}")

    def _guard(self) -> None:
        while not self._ended.wait(WATCH_S):
            self.watch()

    def _lose(self, why: str) -> None:
        """Take no more, and end what is in the engine as lost with the device: the store tries it again."""
        log.error("the device is lost: %s", why)
        with self._lock:
            self._stopping = True
            if not self.lost.done():
                self.lost.set_result(LOST)
        for order in list(self._open):
            order.fail(DeviceLost(LOST))
        self._refuse_all(LOST)
        self._orders.put(None)

    def _refuse_all(self, why: str) -> None:
        with self._lock:
            self._stopping = True
            while True:
                try:
                    order = self._orders.get_nowait()
                except queue.Empty:
                    return
                if order is not None and order.future.set_running_or_notify_cancel():
                    order.fail(DeviceLost(why) if self.lost.done() else GenerationError(why))


__all__ = ["LOST", "STUCK", "THREAD_NAME", "UNEXPECTED", "GpuThread"]
