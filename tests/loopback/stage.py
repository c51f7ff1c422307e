"""The real bot on the loopback Discord, with what the tests of it keep asking for."""

from __future__ import annotations

import asyncio
import re
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.loopback.faults import Recorded
from tests.loopback.invocation import Invocation
from tests.loopback.messages import Message, Version
from tests.loopback.people import Person
from tests.loopback.process import BotProcess
from tests.loopback.server import LoopbackDiscord
from tests.loopback.world import Channel

PROMPT = "a large red circle on a blue background"
PICTURE = re.compile(r"(?:SPOILER_)?easel-(?P<job>[0-9a-z]+)-(?P<n>\d+)\.png")
HF_TOKEN = "hf_abcdefghijklmnopqrstuvwxyz012345"
DRAWN_WITHIN_S = 60.0
ROOM = {"EASEL_MAX_BATCH": "1"}
"""Four pictures are with the engine at once, so that one LONG request makes the others wait in line."""
LONG: dict[str, Any] = {"steps": 60, "count": 4, "width": 64, "height": 64}
"""Options that keep the built-in model busy for some seconds, with no room beside."""
ENDLESS: dict[str, Any] = {"width": 128, "height": 128, "count": 4, "steps": 100}
"""Options of a request that is cancelled when it has served its purpose."""


def pictures(one: Version | Message) -> list[str]:
    """The names of the finished pictures it shows."""
    return [name for name in one.file_names if PICTURE.fullmatch(name)]


def job_of(message: Message) -> str:
    """The request whose pictures a message shows."""
    match = PICTURE.fullmatch(pictures(message)[0])
    assert match is not None
    return match["job"]


def shown(text: str) -> str:
    """The words as Discord shows them: escapes taken away."""
    return re.sub(r"\\([^0-9A-Za-z\s])", r"\1", text).replace("\u2060", "")


def is_drawn(one: Invocation) -> bool:
    """Whether the finished pictures stand."""
    return one.message is not None and bool(pictures(one.message))


def is_waiting(one: Invocation) -> bool:
    """Whether the card stands, so that the request is committed."""
    return one.message is not None and not one.message.loading and bool(one.message.text)


@dataclass
class Stage:
    """One server and one bot on it."""

    discord: LoopbackDiscord
    bot: BotProcess

    def person(self, name: str) -> Person:
        return self.discord.member(name)

    async def imagine(
        self, name: str, channel: Channel | str = "imagine", prompt: str = PROMPT, **options: Any
    ) -> Invocation:
        """Type `/imagine`; nothing is waited for."""
        return await self.person(name).slash(channel, "imagine", prompt=prompt, **options)

    async def waiting(self, one: Invocation) -> Invocation:
        """Wait until the card stands."""
        return await one.wait_for(is_waiting)

    async def drawn(self, one: Invocation) -> Message:
        """Wait for the pictures; gives their message."""
        await one.wait_for(is_drawn, timeout_s=DRAWN_WITHIN_S)
        assert one.message is not None
        return one.message

    async def draw(self, name: str, channel: Channel | str = "imagine", **options: Any) -> Message:
        """Type `/imagine` and wait for the pictures; gives their message."""
        return await self.drawn(await self.imagine(name, channel, **options))

    async def busy(self, name: str = "eve", **options: Any) -> Invocation:
        """Keep the model busy with a long request; gives it once it is being drawn."""
        one = await self.waiting(await self.imagine(name, **{**LONG, **options}))
        await self.until_status(one, "running")
        return one

    async def until_status(self, one: Invocation, *wanted: str) -> None:
        """Wait until the request's row says so. Raises TimeoutError."""
        try:
            async with asyncio.timeout(DRAWN_WITHIN_S):
                while self.status_of(one) not in wanted:
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise TimeoutError(f"{one!r} is {self.status_of(one)}, not {wanted}") from None

    def status_of(self, one: Invocation) -> str | None:
        """The request's status in the database, None where it has no row."""
        return next((status for _, status, asked in self.jobs() if asked == one.interaction.id), None)

    def uploads(self, job_id: str) -> list[Recorded]:
        """The requests that carried this job's pictures, refused ones included."""
        return [
            call for call in self.discord.requests if any(f"easel-{job_id}-" in name for name, _ in call.files.values())
        ]

    def showing(self, job_id: str) -> list[Message]:
        """The messages, anywhere, that stand and show this job's pictures."""
        everywhere = [message for message in self.discord.messages.values() if not message.deleted]
        return [message for message in everywhere if any(f"-{job_id}-" in name for name in pictures(message))]

    def jobs(self) -> list[tuple[str, str, int]]:
        """Every row of the database: id, status, interaction id; the bot may be running."""
        path = self.bot.data_dir / "data" / "easel.db"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            return list(database.execute("SELECT id, status, interaction_id FROM jobs ORDER BY created_at, id"))

    def files(self, job_id: str) -> dict[int, bytes]:
        """The pictures of a job that are committed, by number; the bot may be running."""
        path = self.bot.data_dir / "data" / "easel.db"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            rows = list(database.execute("SELECT n, path FROM files WHERE job_id = ?", (job_id,)))
        return {n: Path(name).read_bytes() for n, name in rows}

    def ledger(self, one: Invocation) -> tuple[str, int] | None:
        """The state and the amount (pixel-steps) of the request's entry in the quota ledger."""
        path = self.bot.data_dir / "data" / "easel.db"
        query = "SELECT state, amount FROM ledger JOIN jobs ON jobs.id = job_id WHERE interaction_id = ?"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            found: tuple[str, int] | None = database.execute(query, (one.interaction.id,)).fetchone()
        return found

    def leaks(self) -> list[str]:
        """Every secret of this server that the bot wrote to its output."""
        secrets = [self.discord.token, HF_TOKEN, *(one.token for one in self.discord.interactions.values())]
        written = self.bot.all_logs
        return [secret for secret in secrets if secret in written]

    def check(self) -> None:
        """What must hold after every test: no token in the output, nothing that Discord's schema forbids."""
        print(self.bot.all_logs[-4000:])
        assert not self.leaks()
        assert self.discord.violations == [], self.discord.violations
        assert "Traceback" not in self.bot.all_logs
