"""The one seam for waiting on what is not Discord: the engine, the clock, a queue.

The bot waits through `Patience`, so that a simulated Discord, which counts every unexplained wait as unfinished
work, can be told what the wait is for (`bot/demo.py` has that version).
"""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Awaitable
from typing import Any, TypeVar

T = TypeVar("T")


class Patience:
    """Waits on the event loop; all methods run there."""

    async def wait(self, awaitable: Awaitable[T], reason: str) -> T:
        """Wait for something from outside Discord; `reason` is for people who look at what is pending."""
        return await awaitable

    async def sleep(self, delay_s: float, reason: str) -> None:
        """Wait for the clock."""
        await self.wait(self._timer(delay_s), reason)

    async def wait_first(self, future: asyncio.Future[Any], timeout_s: float | None, reason: str) -> bool:
        """Wait for `future` or the clock, whichever is first; whether `future` is done. It is not cancelled."""
        if timeout_s is None:
            await self.wait(asyncio.wait({future}), reason)
        elif not future.done():
            timer = self._timer(timeout_s)
            try:
                await self.wait(asyncio.wait({future, timer}, return_when=asyncio.FIRST_COMPLETED), reason)
            finally:
                timer.cancel()
        return future.done()

    @staticmethod
    def _timer(delay_s: float) -> asyncio.Future[None]:
        # Set in an empty context: a simulated Discord would otherwise take the timer for the bot's own and hold it.
        loop = asyncio.get_running_loop()
        timer: asyncio.Future[None] = loop.create_future()

        def fire() -> None:
            if not timer.done():
                timer.set_result(None)

        handle = contextvars.Context().run(loop.call_later, delay_s, fire)
        timer.add_done_callback(lambda _: handle.cancel())
        return timer
