"""A library's call that cannot be cut into turns, on a helper thread that takes turns with the GPU thread.

There is one baton: the GPU thread hands it over in `advance` and waits; the helper hands it back in `pause` and waits. So exactly one of
them touches the GPU.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from bot.engine.devices import is_out_of_memory
from bot.errors import OutOfMemory


class Aborted(Exception):
    """Raised out of `pause` where nobody wants the call's result any more."""


class Baton:
    """One call, begun by the first `advance`. `error` is what it ended with, where something went wrong."""

    def __init__(self, call: Callable[[Callable[[], None]], None], name: str) -> None:
        """`call` is given `pause`, and has to let Aborted through; `name` is the thread's."""
        self.over = False
        self.error: Exception | None = None
        self._call = call
        self._go = threading.Semaphore(0)
        self._back = threading.Semaphore(0)
        self._aborted = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def advance(self) -> None:
        """Let the call go on until its next pause, or its end. GPU thread."""
        if self._thread.ident is None:
            self._thread.start()
        self._go.release()
        self._back.acquire()
        if self.over:
            self._thread.join()

    def abort(self) -> None:
        """End the call at its next pause; one that has not begun never does. GPU thread."""
        self._aborted = True
        if self._thread.ident is None:
            self.over = True
        while not self.over:
            self.advance()

    def _pause(self) -> None:
        self._back.release()
        self._go.acquire()
        if self._aborted:
            raise Aborted

    def _run(self) -> None:
        self._go.acquire()
        try:
            self._call(self._pause)
        except Aborted:
            pass
        except Exception as error:
            # An error of the memory keeps its frames, which hold the tensors that are in the way.
            self.error = OutOfMemory(str(error)) if is_out_of_memory(error) else error
        finally:
            self.over = True
            self._back.release()
