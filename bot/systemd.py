"""What systemd is told, where it started us: ready, alive, stopping (sd_notify(3)). One datagram a message, no library."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Mapping

log = logging.getLogger(__name__)

READY = "READY=1"
STOPPING = "STOPPING=1"
ALIVE = "WATCHDOG=1"


class Systemd:
    """Tells systemd how the process fares; does nothing where nobody listens. Any thread, never blocks, never raises."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Read `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`, which systemd sets."""
        address = environ.get("NOTIFY_SOCKET", "")
        # "@" stands for the zero byte that an address without a file begins with.
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        micros, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
        ours = not pid or pid == str(os.getpid())
        self.watchdog_s = int(micros) / 1e6 if micros.isdigit() and ours else None
        """How long systemd bears our silence, in seconds; None where it does not watch."""

    def tell(self, *assignments: str) -> None:
        """Send assignments such as `READY` or "STATUS=drawing" as one message."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
                channel.setblocking(False)
                channel.sendto("\n".join(assignments).encode(), self._address)
        except OSError as error:
            log.warning("systemd could not be told %s: %s", assignments[0], error)

    async def keep_alive(self) -> None:
        """Say that the event loop turns, twice in each of the watchdog's intervals, until cancelled. Event loop only."""
        if not self._address or not self.watchdog_s:
            return
        while True:
            self.tell(ALIVE)
            await asyncio.sleep(self.watchdog_s / 2)
