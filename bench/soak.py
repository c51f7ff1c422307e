"""Thousands of requests through the real process and a loopback Discord, to see what grows that should not.

The denoiser does nothing (`bench/still.py`), all else is the bot's own: gateway, queue, database, text encoder, decoder,
classifier, files, messages. Members ask, wait, cancel, press *Again*, *Info* and *Delete*, and look at `/queue`. It exits
with 1 where a bound is broken:

memory           resident memory, the last tenth against the tenth after the first fifth: at most 5 % more
open files       file descriptors, likewise: no more
first answers    99th percentile of all interactions: 250 ms
database         bytes a request in the second half: at most a quarter more than in the first
the promise      every request ended, each shown once
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sqlite3
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil
from discord import Permissions

from bench.bench import Line, drawn
from bench.numbers import percentile
from tests.loopback import BotProcess, Invocation, LoopbackDiscord, Person
from tests.loopback.world import MEMBER_PERMISSIONS, User

ANSWER_P99_S = 0.25
MEMORY_GROWTH = 0.05
DATABASE_GROWTH = 0.25
PAGE_BYTES = 4096
ENDS = {"posted", "cancelled"}
KEPT = 400
SAMPLES = 100
NOTED_WITHIN_S = 10.0
"""What is shown already may be noted in the database a moment later."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What the process held after `done` requests."""

    done: int
    memory_bytes: int
    open_files: int
    database_bytes: int


@dataclass(slots=True)
class Record:
    """What a soak saw."""

    samples: list[Sample] = field(default_factory=list[Sample])
    answers_s: list[float] = field(default_factory=list[float])
    committed: int = 0
    faults: list[str] = field(default_factory=list[str])


def window(samples: Sequence[Sample], begin: float, end: float) -> list[Sample]:
    """Give the samples between two shares of the requests."""
    last = samples[-1].done
    return [sample for sample in samples if begin * last <= sample.done <= end * last]


def growth(samples: Sequence[Sample], what: str) -> float:
    """Tell by what share the median of the last tenth is above that of the tenth after the first fifth."""
    before = statistics.median(getattr(sample, what) for sample in window(samples, 0.2, 0.3))
    after = statistics.median(getattr(sample, what) for sample in window(samples, 0.9, 1.0))
    return after / before - 1.0


def bytes_a_request(samples: Sequence[Sample]) -> float:
    """Fit the database's size over the requests."""
    fit = statistics.linear_regression([s.done for s in samples], [s.database_bytes for s in samples])
    return fit.slope


def judge(record: Record) -> list[Line]:
    """Hold a record against the bounds. Needs samples from the whole length."""
    samples = record.samples
    memory, files = growth(samples, "memory_bytes"), growth(samples, "open_files")
    first, second = bytes_a_request(window(samples, 0.2, 0.6)), bytes_a_request(window(samples, 0.6, 1.0))
    p99 = percentile(record.answers_s, 0.99)
    linear = second <= first * (1 + DATABASE_GROWTH) + PAGE_BYTES * 0.1
    last = samples[-1]
    return [
        Line("memory", f"{last.memory_bytes / 2**20:.0f} MiB, {memory:+.1%}", "5 % more", memory <= MEMORY_GROWTH),
        Line("open files", f"{last.open_files}, {files:+.1%}", "no more", files <= 0.0),
        Line(
            f"first answers of {len(record.answers_s)}, p50 / p99",
            f"{percentile(record.answers_s, 0.5) * 1000:.0f} / {p99 * 1000:.0f} ms", "p99 250 ms", p99 <= ANSWER_P99_S,
        ),
        Line("database, bytes a request, halves", f"{first:.0f} / {second:.0f}", "a quarter more", linear),
        Line("requests that did not end once", str(len(record.faults)), "none", not record.faults),
    ]  # fmt: skip


class Soak:
    """One soak: members work through a common number of requests, and the process is looked at meanwhile."""

    def __init__(self, discord: LoopbackDiscord, bot: BotProcess, *, requests: int, members: int, timeout_s: float):
        self._discord = discord
        self._bot = bot
        self._requests = requests
        self._timeout_s = timeout_s
        self._begun = self._done = 0
        self.record = Record()
        self._names = [f"member{n}" for n in range(members)]
        for name in self._names:
            rights = Permissions(MEMBER_PERMISSIONS.value)
            discord.users[name] = User(discord.snowflakes.new(), name, permissions=rights)

    async def run(self) -> Record:
        """Ask until all are done. Raises TimeoutError where one is not answered or drawn."""
        self._look()
        async with asyncio.TaskGroup() as members:
            for name in self._names:
                members.create_task(self._live(self._discord.member(name)))
        self._look()
        await self._check_database()
        return self.record

    async def _live(self, person: Person) -> None:
        while self._begun < self._requests:
            number = self._begun
            self._begun += 1
            await self._one(person, number)
            self._done += 1
            if self._done % max(1, self._requests // SAMPLES) == 0:
                self._look()
                self._forget()

    async def _one(self, person: Person, number: int) -> None:
        prompt = f"a large red circle, number {number}"
        steps = 4 + number % 5
        asked = await person.slash("imagine", "imagine", prompt=prompt, steps=steps, private=number % 7 == 3)
        self.record.committed += 1
        await self._answered(asked)
        if number % 10 == 5:
            await self._answered(await person.slash("imagine", "cancel"))
            await asked.wait_for(lambda one: drawn(one) or "cancelled" in one.text, timeout_s=self._timeout_s)
            return
        await asked.wait_for(drawn, timeout_s=self._timeout_s)
        message = asked.message
        if message is None:
            return
        if number % 6 == 1:
            await self._answered(await person.click(message, label="Info"))
        if number % 9 == 4:
            await self._answered(await person.slash("imagine", "queue"))
        if number % 8 == 2:
            again = await person.click(message, label="Again")
            self.record.committed += 1
            await self._answered(again)
            await again.wait_for(drawn, timeout_s=self._timeout_s)
        if number % 8 == 6:
            await self._answered(await person.click(message, label="Delete"))
            self.record.committed -= 1  # its row goes with it

    async def _answered(self, one: Invocation) -> None:
        await one.acknowledged(timeout_s=self._timeout_s)
        if one.acknowledged_after_s is not None:
            self.record.answers_s.append(one.acknowledged_after_s)

    def _look(self) -> None:
        process = psutil.Process(self._bot.pid)
        path = self._bot.data_dir / "data" / "easel.db"
        size = path.stat().st_size
        self.record.samples.append(Sample(self._done, self._bot.memory_bytes(), process.num_fds(), size))

    def _forget(self) -> None:
        """Drop what the loopback server remembers of long ago: its memory is not what is measured, but the machine's."""
        discord = self._discord
        del discord.requests[:-KEPT]
        for known in (discord.messages, discord.interactions, discord.files):
            for key in list(known)[: max(0, len(known) - KEPT)]:
                del known[key]

    async def _check_database(self) -> None:
        until = time.monotonic() + NOTED_WITHIN_S
        while (ends := self._ends()).keys() - ENDS and time.monotonic() < until:
            await asyncio.sleep(0.1)
        self.record.faults += [status for status in ends.elements() if status not in ENDS]
        missing = self.record.committed - ends.total()
        self.record.faults += ["no row" if missing > 0 else "one too many"] * abs(missing)

    def _ends(self) -> Counter[str]:
        path = self._bot.data_dir / "data" / "easel.db"
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            return Counter(row[0] for row in database.execute("SELECT status FROM jobs"))


async def soak(requests: int, members: int, still: Sequence[str], *, timeout_s: float = 300.0) -> Record:
    """Start everything in a folder of its own, run, stop. Raises RuntimeError where the bot does not end with 0."""
    environment = {"EASEL_LOG_LEVEL": "warning"}
    with tempfile.TemporaryDirectory(prefix="easel-soak-") as folder:
        async with (
            LoopbackDiscord() as discord,
            BotProcess(discord, Path(folder), environment=environment, arguments=("-m", "bench.still", *still)) as bot,
        ):
            await bot.ready(timeout_s=timeout_s)
            record = await Soak(discord, bot, requests=requests, members=members, timeout_s=timeout_s).run()
            code = await bot.terminate(timeout_s=timeout_s)
            if code:
                raise RuntimeError(f"the bot ended with {code}:\n{bot.logs[-3000:]}")
            return record


def main(argv: list[str] | None = None) -> int:
    """Run the soak; the exit code is 1 where a bound is broken."""
    parser = argparse.ArgumentParser(prog="python -m bench.soak", description="Look for what grows and should not.")
    parser.add_argument("--requests", type=int, default=5000, help="how many (default: 5000)")
    parser.add_argument("--members", type=int, default=8, help="how many ask at once (default: 8)")
    parser.add_argument(
        "--still", nargs="+", default=["denoiser"], help="what is taken out: denoiser (default), engine, classifier"
    )
    parser.add_argument("--json", type=Path, help="also write the samples to this file")
    arguments = parser.parse_args(argv)
    began = time.monotonic()
    try:
        record = asyncio.run(soak(arguments.requests, arguments.members, arguments.still))
    except (RuntimeError, TimeoutError, ExceptionGroup) as error:
        errors = error.exceptions if isinstance(error, ExceptionGroup) else (error,)
        sys.stderr.write("".join(f"{one}\n" for one in errors))
        return 1
    lines = judge(record)
    taken_s = time.monotonic() - began
    print(f"{record.committed} requests of {arguments.members} members in {taken_s:.0f} s, without {arguments.still}")
    for line in lines:
        print(line)
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(sample) for sample in record.samples]), encoding="utf-8")
    return 1 if any(line.met is False for line in lines) else 0


if __name__ == "__main__":
    sys.exit(main())
