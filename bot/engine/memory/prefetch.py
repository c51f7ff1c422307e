"""Reading the next model's files ahead of its turn, into the system's file cache.

Not the model itself: diffusers and transformers load under a changed default dtype and with `Module` patched, both of the whole
process, so that a load beside a drawing picture would spoil it. Files in the cache are read at the speed of memory, the
cache gives way where memory is short, and reading them touches neither torch nor the GPU.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from bot.engine.memory.main_memory import free_memory_bytes

log = logging.getLogger(__name__)

CHUNK_BYTES = 8 << 20
SHARE = 0.5
"""How much of the free main memory it may fill."""
_LEAVE_S = 2.0


class Prefetcher:
    """Reads the files of one model at a time on a thread of its own. The methods are called on the GPU thread."""

    def __init__(
        self, free_bytes: Callable[[], int | None] = free_memory_bytes, chunk_bytes: int = CHUNK_BYTES
    ) -> None:
        """`free_bytes` tells the free main memory."""
        self._free_bytes = free_bytes
        self._chunk_bytes = chunk_bytes
        self._model: str | None = None
        self._files: tuple[Path, ...] = ()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self.read_bytes = 0

    @property
    def model(self) -> str | None:
        """Whose files were asked for last, and not dropped since."""
        return self._model

    @property
    def busy(self) -> bool:
        """Whether it is reading."""
        return self._thread is not None and self._thread.is_alive()

    def want(self, model_id: str, files: Sequence[Path]) -> None:
        """Read these files, unless they would fill the memory; what is read of another model is dropped."""
        if model_id == self._model:
            return
        self.drop()
        self._model, self._files = model_id, tuple(files)
        free = self._free_bytes()
        size = sum(file.stat().st_size for file in files if file.is_file())
        if free is not None and size > SHARE * free:
            log.info(
                "%s is not read ahead: %.1f GB, and %.1f GB of main memory are free", model_id, size / 1e9, free / 1e9
            )
            return
        self._stop = threading.Event()
        # Without a hold on the process: a disk that hangs must not keep it from ending.
        self._thread = threading.Thread(target=self._read, args=(self._stop,), name="prefetch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop reading, within a chunk, because something else is going to read; what was read stays."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(_LEAVE_S)
        self._thread = None
        self._model = None

    def drop(self) -> None:
        """Stop, and give the memory of what was read back at once: it is not wanted any more."""
        files, read = self._files if self._model is not None else (), self.read_bytes
        self.stop()
        self._files, self.read_bytes = (), 0
        if read:
            for file in files:
                _forget(file)

    def _read(self, stop: threading.Event) -> None:
        buffer = memoryview(bytearray(self._chunk_bytes))
        self.read_bytes = 0
        try:
            for path in self._files:
                with path.open("rb", buffering=0) as file:
                    while not stop.is_set() and (count := file.readinto(buffer)):
                        self.read_bytes += count
        except OSError as error:
            log.info("%s could not be read ahead: %s", self._model, error)  # loading says what is wrong


def _forget(path: Path) -> None:
    """Tell the system that a file's pages are not needed; where it cannot be told, it finds out."""
    with suppress(OSError, AttributeError):
        file = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(file)
