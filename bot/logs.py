"""Logging: text or JSON lines on standard error, with every token blotted out; crash reports likewise."""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
import traceback
from collections.abc import Iterable
from types import TracebackType
from typing import Any

BLOT = "[redacted]"

# Interaction tokens stand in webhook addresses; bot tokens have three dotted parts; Hugging Face's begin with hf_.
_PATTERNS = (
    re.compile(r"(?<=/webhooks/)(\d+)/[\w.~-]{16,}"),
    re.compile(r"(?<=/interactions/)(\d+)/[\w.~-]{16,}"),
    re.compile(r"\b[\w-]{23,28}\.[\w-]{6,7}\.[\w-]{27,}\b"),
    re.compile(r"\bhf_[A-Za-z0-9]{16,}\b"),
    re.compile(r"\baW50ZXJhY3Rpb246[\w=-]{16,}"),
)


class Redactor:
    """Blots known secrets and everything shaped like one out of a text."""

    def __init__(self, secrets: Iterable[str | None]) -> None:
        self._secrets = sorted({s for s in secrets if s and len(s) >= 4}, key=len, reverse=True)

    def __call__(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, BLOT)
        for pattern in _PATTERNS:
            text = pattern.sub(lambda m: f"{m[1]}/{BLOT}" if m.re.groups else BLOT, text)
        return text


class _TextFormatter(logging.Formatter):
    def __init__(self, redact: Redactor) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%Y-%m-%d %H:%M:%S")
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        return self._redact(super().format(record))


class _JsonFormatter(logging.Formatter):
    def __init__(self, redact: Redactor) -> None:
        super().__init__()
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": self.formatTime(record, "%Y-%m-%dT%H:%M:%S%z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return self._redact(json.dumps(entry, ensure_ascii=False))


class _Handler(logging.StreamHandler[Any]):
    """Writes to standard error; a line that cannot be written is reported without what it would have said."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Say where a line failed. The standard library prints its arguments, which may hold a token."""
        kind = sys.exc_info()[0]
        name = "?" if kind is None else kind.__name__
        _write(f"a log line at {record.pathname}:{record.lineno} could not be written ({name})\n")


_redact = Redactor([])


def know_secrets(secrets: Iterable[str | None]) -> None:
    """Blot these out of everything that is written from now on."""
    global _redact
    _redact = Redactor(secrets)


def redact(text: str) -> str:
    """Blot every known secret, and what is shaped like one, out of a text."""
    return _redact(text)


def guard_crashes() -> None:
    """Blot tokens out of what Python itself prints of errors nobody caught, and send its warnings to the log."""
    sys.excepthook = _report
    threading.excepthook = lambda hook: _report(hook.exc_type, hook.exc_value, hook.exc_traceback)
    sys.unraisablehook = lambda hook: _report(hook.exc_type, hook.exc_value, hook.exc_traceback)
    logging.captureWarnings(True)


def _report(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    if kind is not SystemExit:  # a thread may end itself so
        _write("".join(traceback.format_exception(kind, error, trace)))


def _write(text: str) -> None:
    if sys.stderr is not None:  # closed while the interpreter ends
        sys.stderr.write(_redact(text))


def set_up_logging(level: str, style: str, secrets: Iterable[str | None]) -> None:
    """Send all logging to standard error, at `level`, as "text" or "json"; `secrets` never appear in it."""
    know_secrets(secrets)
    handler = _Handler(sys.stderr)
    handler.setFormatter(_JsonFormatter(_redact) if style == "json" else _TextFormatter(_redact))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for chatty in ("discord", "httpx", "urllib3", "alembic", "PIL"):
        logging.getLogger(chatty).setLevel(max(logging.getLogger().level, logging.WARNING))
