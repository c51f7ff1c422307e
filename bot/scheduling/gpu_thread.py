"""The one thread that touches the GPU. It can start before any event loop exists."""

from __future__ import annotations

import logging
import queue
import threading
from concurrent.futures import Future
from dataclasses import dataclass

from bot.engine.base import Engine, EngineInfo, Listener
from bot.errors import EaselError, GenerationError
from bot.generation import GenerationRequest, GenerationResult

log = logging.getLogger(__name__)

UNEXPECTED = (
    "Something went wrong while drawing this. It was logged; try again, and tell whoever runs the bot if it stays."
)


@dataclass(frozen=True, slots=True)
class _Order:
    request: GenerationRequest
    listener: Listener
    future: Future[GenerationResult]


class GpuThread:
    """Starts the engine on a thread of its own and draws there, one request after the other.

    `ready` is done once the engine is: with its EngineInfo, or with the EaselError that says why it cannot draw.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._orders: queue.SimpleQueue[_Order | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._stopping = False
        # A daemon: a device call that never returns must not keep the process from ending.
        self._thread = threading.Thread(target=self._live, name="gpu", daemon=True)
        self.ready: Future[EngineInfo] = Future()
        # Marked as running at once: whoever stops waiting for it must not cancel it for the others.
        self.ready.set_running_or_notify_cancel()

    def start(self) -> None:
        """Begin; the engine imports what it needs at once. Call it once, from any thread."""
        self._thread.start()

    def submit(self, request: GenerationRequest, listener: Listener) -> Future[GenerationResult]:
        """Draw a request after those before it; any thread. The future's error is an EaselError.

        The listener is called on the GPU thread.
        """
        order = _Order(request, listener, Future())
        with self._lock:
            if self._stopping:
                order.future.set_exception(GenerationError("Easel is stopping; the request waits for the next start."))
            else:
                self._orders.put(order)
        return order.future

    def stop(self, timeout_s: float) -> bool:
        """Take no more and let the running request end; whether the thread ended in time. Blocks; any other thread.

        To end sooner, cancel through the listener. Repeatable.
        """
        with self._lock:
            if not self._stopping:
                self._stopping = True
                self._orders.put(None)
        if self._thread.ident is None:
            return True  # never started
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            log.warning("the GPU thread did not end within %g s; it is left behind", timeout_s)
        return not self._thread.is_alive()

    def _live(self) -> None:
        try:
            info = self._engine.start()
        except BaseException as error:
            self.ready.set_exception(_as_easel_error(error, "The engine could not start; the bot's log says why."))
            self._refuse_all("The engine could not start; the bot's log says why.")
            return
        self.ready.set_result(info)
        while (order := self._orders.get()) is not None:
            if order.future.set_running_or_notify_cancel():
                self._draw(order)
        self._refuse_all("Easel is stopping; the request waits for the next start.")
        try:
            self._engine.close()
        except Exception:
            log.exception("the engine did not close cleanly")

    def _draw(self, order: _Order) -> None:
        try:
            result = self._engine.generate(order.request, order.listener)
        except BaseException as error:  # whatever comes, the thread lives on: the next request may be fine
            order.future.set_exception(_as_easel_error(error, UNEXPECTED))
        else:
            order.future.set_result(result)

    def _refuse_all(self, why: str) -> None:
        with self._lock:
            if not self._stopping:
                self._stopping = True
            while True:
                try:
                    order = self._orders.get_nowait()
                except queue.Empty:
                    return
                if order is not None and order.future.set_running_or_notify_cancel():
                    order.future.set_exception(GenerationError(why))


def _as_easel_error(error: BaseException, sentence: str) -> EaselError:
    if isinstance(error, EaselError):
        return error
    log.error("the engine failed in an unexpected way", exc_info=error)
    wrapped = GenerationError(sentence)
    wrapped.__cause__ = error
    return wrapped
