"""Compare files with the catalogue's checksums, once: what was found right is remembered by its size and time. No torch."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bot.engine.files.sources import json_object, read_text
from bot.errors import ModelError

log = logging.getLogger(__name__)

MAX_NOTEBOOK_BYTES = 16 << 20
_CHUNK_BYTES = 1 << 20


class Checksums:
    """Which files have been compared, in a notebook on disk. Any thread; two that write at once cost a comparison."""

    def __init__(self, notebook: Path) -> None:
        """`notebook` is the JSON file where it is remembered; touches nothing."""
        self._notebook = notebook

    def verify(self, name: str, wanted: Mapping[Path, str]) -> None:
        """Compare each file with its SHA-256 (hexadecimal); blocks for as long as reading them takes, the first time.

        Raises ModelError naming the model `name` and the file, where one differs, is missing or cannot be read.
        """
        if not wanted:
            return
        known = self._read()
        learnt: dict[str, Any] = {}
        for path, digest in wanted.items():
            try:
                real = path.resolve(strict=True)
                stamp = _stamp(real)
                if known.get(str(real)) == [*stamp, digest]:
                    continue
                found = sha256_of(real)
            except OSError as error:
                raise ModelError(
                    f"{name}: {path} has a checksum in the models file and cannot be read: {error.strerror}."
                ) from None
            if found != digest:
                raise ModelError(
                    f"{name}: {path} is not the file the models file means: its sha256 is {found}, not {digest}. "
                    "Fetch it again, or correct the checksum if you know that the file is right."
                )
            learnt[str(real)] = [*stamp, digest]
        if learnt:
            self._write(learnt)

    def _read(self) -> dict[str, Any]:
        try:
            return json_object(read_text(self._notebook, MAX_NOTEBOOK_BYTES))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            log.warning("%s cannot be read, files are compared again: %s", self._notebook, error)
            return {}

    def _write(self, learnt: Mapping[str, Any]) -> None:
        entries = {path: entry for path, entry in self._read().items() if Path(path).exists()} | dict(learnt)
        part = self._notebook.with_name(f"{self._notebook.name}.{os.getpid()}.part")
        try:
            self._notebook.parent.mkdir(parents=True, exist_ok=True)
            part.write_text(json.dumps(entries), encoding="utf-8")
            part.replace(self._notebook)
        except OSError as error:
            log.warning("%s cannot be written, files will be compared again: %s", self._notebook, error)


def sha256_of(path: Path) -> str:
    """Hash a file, in hexadecimal. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _stamp(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]
