"""One instance on one data directory."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import TracebackType
from typing import IO

from bot.errors import AlreadyRunning, StorageError

LOCK_NAME = "easel.lock"


class InstanceLock:
    """Holds a data directory for this process; the system lets go when the process ends, however it ends.

    A context manager; `acquire` and `release` do the same by hand. Any thread.
    """

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / LOCK_NAME
        self._file: IO[str] | None = None

    def acquire(self) -> None:
        """Take the directory. Raises AlreadyRunning where another process holds it, StorageError where it is unusable."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # Not "w": that would wipe the holder's process id before we know whether the lock is ours.
            file = open(self._path, "a+", encoding="utf-8")  # noqa: SIM115  # kept open as long as the lock is held
        except OSError as error:
            raise StorageError(
                f"The data folder {self._path.parent} cannot be used: {error.strerror}. Set EASEL_DATA_DIR to a folder that can be written."
            ) from error
        try:
            _lock(file)
        except OSError:
            file.seek(0)
            holder = "" if sys.platform == "win32" else file.read(32).strip()
            file.close()
            who = f" (process {holder})" if holder.isdigit() else ""
            raise AlreadyRunning(
                f"Another Easel{who} already uses the data folder {self._path.parent.resolve()}. "
                "Stop it first, or give this one its own folder with EASEL_DATA_DIR."
            ) from None
        file.seek(0)
        file.truncate()
        file.write(f"{os.getpid()}\n")
        file.flush()
        self._file = file

    def release(self) -> None:
        """Let go; nothing where it is not held. The file stays, so that no second lock on another inode can arise."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __enter__(self) -> InstanceLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def _lock(file: IO[str]) -> None:
    """Lock the open file without waiting. Raises OSError where somebody else has it."""
    if sys.platform == "win32":
        import msvcrt

        file.seek(0)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
