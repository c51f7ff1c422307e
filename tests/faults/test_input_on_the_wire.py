"""Faults 36 to 43 against the real process: what comes over the wire is refused privately, or shown inert, in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.faults.test_pictures import apng
from tests.loopback import BotProcess, LoopbackDiscord, Upload
from tests.loopback.stage import HF_TOKEN, PROMPT, ROOM, Stage, is_drawn, shown
from tests.loopback.test_bot_info import bomb, png

pytestmark = pytest.mark.asyncio(loop_scope="session")
ACKNOWLEDGED_WITHIN_S = 3.0
DRAWN_WITHIN_S = 200.0
QUICK: dict[str, Any] = {"steps": 1, "width": 64, "height": 64}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def stage(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    """One bot for all of these; it need not have drawn anything, since most of them are refused before."""
    environment = {"EASEL_LOG_LEVEL": "debug", "HF_TOKEN": HF_TOKEN, **ROOM}
    folder = tmp_path_factory.mktemp("bot")
    async with LoopbackDiscord() as discord, BotProcess(discord, folder, environment=environment) as bot:
        await bot.ready()
        async with asyncio.timeout(DRAWN_WITHIN_S):
            while "drawing on" not in bot.logs:  # the engine has started, so that nobody waits for that in line
                await asyncio.sleep(0.2)
        stage = Stage(discord, bot)
        yield stage
        assert bot.returncode is None
        stage.check()


REFUSED: list[Any] = [
    pytest.param({"prompt": ""}, "The prompt is empty", id="36 empty"),
    pytest.param({"prompt": "\u200b\u3164\u202e"}, "The prompt is empty", id="36 invisible"),
    pytest.param({"prompt": "🦊" * 6000}, "6,000 characters; at most 1,500 fit", id="36 6,000 characters"),
    pytest.param({"prompt": "a\0cat"}, "control character (U+0000)", id="36 NUL"),
    pytest.param({"model": "@everyone `x`"}, "There is no model", id="37 model"),
    pytest.param({"model": "../../etc/passwd"}, "There is no model", id="38 model"),
    pytest.param({"sampler": "../../x"}, "There is no sampler", id="38 sampler"),
    pytest.param({"seed": -1}, "Seed goes from 0", id="40 seed"),
    pytest.param({"seed": 2**64}, "Seed goes from 0", id="40 large seed"),
    pytest.param({"steps": 10**9}, "Steps goes from 1", id="40 steps"),
    pytest.param({"width": 10**6}, "is too large", id="40 width"),
    pytest.param({"height": -64}, "is too small", id="40 height"),
    pytest.param({"guidance": 1e308}, "Guidance goes from 0", id="40 guidance"),
    pytest.param({"guidance": float("nan")}, "Guidance takes a number", id="40 not a number"),
    pytest.param({"count": 100}, "Count goes from 1", id="40 count"),
]  # fmt: skip


@pytest.mark.fault(36)
@pytest.mark.fault(37)
@pytest.mark.fault(38)
@pytest.mark.fault(40)
@pytest.mark.parametrize(("options", "words"), REFUSED)
async def test_fault_36_and_37_and_38_and_40_input_that_no_client_lets_through_refused_privately(
    stage: Stage,
    options: dict[str, Any],
    words: str,
) -> None:
    rows = len(stage.jobs())
    one = await stage.person("ada").slash("imagine", "imagine", unchecked=True, **{"prompt": PROMPT, **options})
    await one.answered()
    assert words in shown(one.private_text)
    assert len(one.private_text) < 400
    assert not any(part in one.private_text for part in ("@everyone", "`"))
    assert len(stage.jobs()) == rows


@pytest.mark.fault(36)
@pytest.mark.fault(37)
async def test_fault_36_and_37_prompt_of_mentions_markup_and_overrides_drawn_and_inert(stage: Stage) -> None:
    prompt = "@everyone <@1> `code` **loud** https://x.y [a](https://x.y) \u202egnp.exe \u2067 ```"
    before = len(stage.discord.requests)
    one = await stage.imagine("ada", prompt=prompt, **QUICK)
    message = (await one.wait_for(is_drawn, timeout_s=DRAWN_WITHIN_S)).message
    assert message is not None
    title = message.text.split("\n")[0]
    for part in ("@everyone", "<@1>", "https://", "\u202e", "\u2067", "](https://"):
        assert part not in title
    assert "\\*\\*loud\\*\\*" in title
    for call in stage.discord.requests[before:]:
        body = call.body if isinstance(call.body, dict) else {}
        data = body.get("data") or body
        if isinstance(data, dict) and data.get("components"):
            assert data.get("allowed_mentions", {}).get("parse") == []


@pytest.mark.fault(39)
@pytest.mark.parametrize(
    "char", ["\u3316", "\ufdfa", "1", "a"], ids=["expands to six", "to eighteen", "digits", "letters"]
)
async def test_fault_39_pathological_prompt_acknowledged_in_time(stage: Stage, char: str) -> None:
    one = await stage.imagine("bob", prompt=char * 1500, negative_prompt=char * 1000, **QUICK)
    await one.acknowledged(timeout_s=30)
    assert one.acknowledged_after_s is not None
    assert one.acknowledged_after_s < ACKNOWLEDGED_WITHIN_S
    await one.wait_for(is_drawn, timeout_s=DRAWN_WITHIN_S)


@pytest.mark.fault(41)
@pytest.mark.parametrize(
    ("upload", "words"),
    [
        pytest.param(Upload("bomb.png", bomb()), "megapixels", id="bomb"),
        pytest.param(Upload("half.jpg", png((300, 300))[:200]), "damaged or cut off", id="truncated and mislabelled"),
        pytest.param(Upload("film.png", apng(2**31 - 1)), "animated", id="frames"),
        pytest.param(Upload("film.png", b"GIF89a" + png()), "not a PNG, JPEG or WebP", id="polyglot"),
        pytest.param(Upload("model.png", b"\x80\x02cposix\nsystem\n."), "not a PNG, JPEG or WebP", id="pickle"),
    ],
)
async def test_fault_41_hostile_picture_gets_one_sentence(stage: Stage, upload: Upload, words: str) -> None:
    one = await (await stage.person("bob").slash("imagine", "info", image=upload)).answered(timeout_s=30)
    assert words in one.private_text
    assert len(one.private_text) < 250


@pytest.mark.fault(43)
@pytest.mark.parametrize(
    "url",
    ["http://169.254.169.254/latest/meta-data/a.png", "https://[::1]/a.png", "https://2130706433/a.png", "file:///etc/passwd",
     "https://cdn.discordapp.com@10.0.0.1/a.png", "http://localhost:PORT/cdn/attachments/1/a.png"],
    ids=["metadata", "six", "decimal", "file", "user", "our own server by another name"],
)  # fmt: skip
async def test_fault_43_attachment_from_elsewhere_refused_unasked(
    stage: Stage,
    monkeypatch: pytest.MonkeyPatch,
    url: str,
) -> None:
    keep = stage.discord.store
    forged = url.replace("PORT", str(stage.discord._port))

    def store(upload: Upload) -> Any:
        file = keep(upload)
        file.url = forged
        return file

    monkeypatch.setattr(stage.discord, "store", store)
    before = len(stage.discord.requests)
    one = await (await stage.person("bob").slash("imagine", "info", image=Upload("a.png", png()))).answered(
        timeout_s=20
    )
    assert "Discord's own servers" in one.private_text
    assert not any("/cdn/" in call.path for call in stage.discord.requests[before:])
