"""Logging: text or JSON lines on standard error, with every token blotted out."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Iterable
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


def set_up_logging(level: str, style: str, secrets: Iterable[str | None]) -> None:
    """Send all logging to standard error, at `level`, as "text" or "json"; `secrets` never appear in it."""
    redact = Redactor(secrets)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonFormatter(redact) if style == "json" else _TextFormatter(redact))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for chatty in ("discord", "httpx", "urllib3", "alembic", "PIL"):
        logging.getLogger(chatty).setLevel(max(logging.getLogger().level, logging.WARNING))
