from __future__ import annotations

import json
import logging

import pytest

from bot.logs import Redactor, set_up_logging

BOT_TOKEN = "MTIzNDU2Nzg5MDEyMzQ1Njc4.GabcdE.abcdefghijklmnopqrstuvwxyz0123456789AB"
INTERACTION = "aW50ZXJhY3Rpb246MTIzNDU2Nzg5MDEyMzQ1Njc4OmFiY2RlZg"


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bot {BOT_TOKEN}",
        f"PATCH https://discord.com/api/v10/webhooks/123/{INTERACTION}/messages/@original",
        f"POST /interactions/99/{INTERACTION}/callback",
        f"token={INTERACTION}",
        "hf_abcdefghijklmnopqrstuv",
        "the secret is swordfish",
    ],
)
def test_redactor_blots_every_kind_of_token(text: str) -> None:
    redacted = Redactor(["swordfish", None])(text)
    assert "[redacted]" in redacted
    for secret in (BOT_TOKEN, INTERACTION, "hf_abc", "swordfish"):
        assert secret not in redacted


def test_redactor_leaves_other_text_alone() -> None:
    text = "request 3kf0a9 drawn in 2.1 s, GET /channels/123/messages/456"
    assert Redactor([])(text) == text


def test_set_up_logging_exception_text_is_redacted(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        set_up_logging("info", "json", [BOT_TOKEN])
        try:
            raise RuntimeError(f"bad token {BOT_TOKEN}")
        except RuntimeError:
            logging.getLogger("easel").exception("failed with %s", BOT_TOKEN)
    finally:
        root.handlers[:], root.level = handlers, level
    line = capsys.readouterr().err.strip()
    assert BOT_TOKEN not in line
    entry = json.loads(line)
    assert entry["level"] == "error"
    assert "RuntimeError" in entry["exception"]
