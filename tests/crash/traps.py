"""Where the victim can be made to die or to fail: around each transition of the store, and around each file it writes.

What is to happen stands in files of the folder `traps`, which the harness writes while the victim runs: `crash-at`
holds "<point> <n>", the point and how many times it may still be passed; `fault-<name>` is there for as long as the
fault is.
"""

from __future__ import annotations

import contextvars
import errno
import functools
import inspect
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sqlalchemy import Connection

from bot.files import archive
from bot.store.database import Database
from bot.store.jobs import JobStore

TRANSITIONS = (
    "open", "recover", "add", "start", "put_back", "render", "begin_posting", "mark_posted", "fail", "cancel", "delete",
    "set_message", "mark_told",
)  # fmt: skip
WHEN = ("before", "inside", "after")
FILE_POINTS = ("file before", "file half", "file after")
POINTS = (
    tuple(f"{name} {when}" for name in TRANSITIONS for when in WHEN if (name, when) != ("open", "inside")) + FILE_POINTS
)

NO_ROOM, FULL_DATABASE, READ_ONLY_DATABASE, FULL_PICTURES = (
    "no-room",
    "full-database",
    "read-only-database",
    "full-pictures",
)

_now_in: contextvars.ContextVar[str | None] = contextvars.ContextVar("transition", default=None)


class Traps:
    """Kills this process where the folder says so. Any thread."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._order = folder / "crash-at"
        self._passed: Counter[str] = Counter()
        self._lock = threading.Lock()

    def reach(self, point: str) -> None:
        """Die here, where this is the point and it was passed often enough."""
        try:
            wanted, passes = self._order.read_text().rsplit(" ", 1)
        except (FileNotFoundError, ValueError):
            return
        if wanted != point:
            return
        with self._lock:
            self._passed[point] += 1
            if self._passed[point] > int(passes):
                os.kill(os.getpid(), signal.SIGKILL)

    def fault(self, name: str) -> bool:
        """Whether that fault is on."""
        return (self._folder / f"fault-{name}").exists()


class TrappedDatabase(Database):
    """Passes a point in the middle of each transaction, and refuses as SQLite itself does while a fault is on."""

    def __init__(self, address: str, traps: Traps) -> None:
        super().__init__(address)
        self._traps = traps

    async def run(self, work: Callable[[Connection], Any]) -> Any:
        name = _now_in.get()

        def watched(connection: Connection) -> Any:
            result = work(connection)
            if name is not None:
                self._traps.reach(f"{name} inside")
            return result

        return await super().run(watched)

    def _run(self, work: Callable[[Connection], Any]) -> Any:
        if self._connection is not None:
            driver: Any = self._connection.connection.dbapi_connection
            # Before the transaction, which a read-only connection would not begin.
            driver.execute(f"PRAGMA max_page_count={1 if self._traps.fault(FULL_DATABASE) else 2**31 - 2}")
            driver.execute(f"PRAGMA query_only={int(self._traps.fault(READ_ONLY_DATABASE))}")
        return super()._run(work)


class TrappedStore(JobStore):
    """The real store, with a point before, inside and after each transition."""

    def __init__(self, address: str, traps: Traps) -> None:
        super().__init__(address)
        self._database = TrappedDatabase(address, traps)
        for name in TRANSITIONS:
            setattr(self, name, _trapped(name, getattr(self, name), traps))


def _trapped(name: str, method: Callable[..., Any], traps: Traps) -> Callable[..., Any]:
    assert inspect.iscoroutinefunction(method)

    @functools.wraps(method)
    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        traps.reach(f"{name} before")
        token = _now_in.set(name)
        try:
            result = await method(*args, **kwargs)
        finally:
            _now_in.reset(token)
        traps.reach(f"{name} after")
        return result

    return wrapped


def trap_files(traps: Traps) -> None:
    """Put the points around each picture's file, and the faults of its disk; for the whole process."""
    write, usage, fsync = archive.write_atomically, archive.shutil.disk_usage, os.fsync

    def write_atomically(path: Path, data: bytes) -> None:
        traps.reach("file before")
        write(path, data)
        traps.reach("file after")

    def watched_fsync(handle: int) -> None:
        if threading.current_thread().name.startswith("files"):
            traps.reach("file half")
            if traps.fault(FULL_PICTURES):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    def disk_usage(path: Any) -> Any:
        found = usage(path)
        return found._replace(free=0) if traps.fault(NO_ROOM) else found

    archive.write_atomically = write_atomically
    archive.shutil.disk_usage = disk_usage
    os.fsync = watched_fsync
