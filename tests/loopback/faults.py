"""The record of every request and the faults a test puts in the way."""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any


@dataclass(slots=True)
class Recorded:
    """One request as it came in: `body` is the parsed JSON (or form's `payload_json`); times are monotonic seconds."""

    method: str
    path: str
    query: dict[str, str]
    at: float
    body: Any = None
    files: dict[str, tuple[str, int]] = field(default_factory=dict[str, tuple[str, int]])
    """Form field to (file name, bytes)."""
    status: int | None = None
    finished_at: float | None = None
    injected: bool = False


@dataclass(slots=True)
class Injection:
    """A fault for requests that match `method` (`*` is any) and `path` (a glob, after /api/v10)."""

    method: str
    path: str
    status: int | None
    times: int | None
    retry_after: float
    via: bool
    after_accept: bool
    reset: bool
    truncate: bool
    hang_s: float | None
    code: int
    hits: int = 0

    def takes(self, method: str, path: str) -> bool:
        """Whether this fault applies to the request; counts it when it does."""
        if self.times is not None and self.hits >= self.times:
            return False
        if self.method not in ("*", method) or not fnmatchcase(path, self.path):
            return False
        self.hits += 1
        return True

    def lift(self) -> None:
        """Let every further request pass."""
        self.times = self.hits
