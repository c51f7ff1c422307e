"""The crash run: load, a kill at a boundary or a random moment, a restart, and what must hold then; again and again."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash import traps
from tests.crash.checks import CHECKS, FINAL, Aftermath, Asked
from tests.loopback import BotProcess, LoopbackDiscord
from tests.loopback.options import ClientRefused
from tests.loopback.stage import Stage, is_drawn, is_waiting

ANY_TIME = "any time"
AT_THE_START = ("open", "recover")
NEEDS = {"fail": "broken", "mark_told": "broken", "cancel": "cancel", "delete": "delete", "put_back": "slow"}
"""Points that only a request of a certain kind passes."""
KINDS = ("plain", "plain", "plain", "plain", "private", "broken", "cancel", "delete")
READY_WITHIN_S, DIES_WITHIN_S, SETTLES_WITHIN_S = 180.0, 90.0, 120.0
"""On a machine that has other things to do; each wait ends as soon as it may."""
SECOND_CRASH = 0.25


@dataclass(slots=True)
class Tally:
    """What happened in a run."""

    iterations: int = 0
    requests: int = 0
    kills: Counter[str] = field(default_factory=Counter[str])
    unreached: Counter[str] = field(default_factory=Counter[str])
    ends: Counter[str] = field(default_factory=Counter[str])
    problems: list[str] = field(default_factory=list[str])

    def __str__(self) -> str:
        ends = ", ".join(f"{count} {name}" for name, count in sorted(self.ends.items()))
        unreached = f"; not reached {dict(self.unreached)}" if self.unreached else ""
        return (
            f"{self.iterations} iterations, {sum(self.kills.values())} kills at {len(self.kills)} points{unreached}\n"
            f"{self.requests} requests: {ends}\n"
            f"problems: {len(self.problems)}" + "".join(f"\n  {problem}" for problem in self.problems)
        )


def plan(iterations: int, seed: int, points: tuple[str, ...] = traps.POINTS) -> list[tuple[str, int]]:
    """Choose where each iteration is killed: every point in turn, every third kill at a random moment."""
    dice = random.Random(seed)
    left: list[str] = []
    chosen: list[tuple[str, int]] = []
    for number in range(iterations):
        if number % 3 == 2:
            chosen.append((ANY_TIME, 0))
            continue
        if not left:
            left = dice.sample(points, len(points))
        point = left.pop()
        chosen.append((point, 0 if point.startswith(AT_THE_START) else dice.choice((0, 0, 1, 2))))
    return chosen


class CrashRun:
    """One server and one data folder, through all kills."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.dice = random.Random(seed)
        self.tally = Tally()
        self.traps = folder / "traps"
        self.traps.mkdir(parents=True, exist_ok=True)

    async def run(self, kills: list[tuple[str, int]], tell: Callable[[str], None]) -> Tally:
        """Go through the kills; the tally, also of what went wrong."""
        environment = {"VICTIM_TRAPS": str(self.traps), "VICTIM_DRAIN_S": "1", "EASEL_MAX_BATCH": "4"}
        async with LoopbackDiscord() as discord:
            bot = BotProcess(discord, self.folder, environment=environment, arguments=("-m", "tests.crash.victim"))
            self.stage = Stage(discord, bot)
            async with bot:
                await bot.ready(timeout_s=READY_WITHIN_S)
                for number, (point, passes) in enumerate(kills):
                    before = len(self.tally.problems)
                    await self._iteration(point, passes)
                    self.tally.iterations += 1
                    for problem in self.tally.problems[before:]:
                        tell(f"iteration {number} ({point}, {passes}): {problem}")
                    if len(self.tally.problems) > 50:
                        break
                await bot.kill()
        return self.tally

    async def _iteration(self, point: str, passes: int) -> None:
        at_start = point.startswith(AT_THE_START)
        armed = point != ANY_TIME and not at_start
        if armed:
            self._arm(point, passes)
        asked = await self._load(NEEDS.get(point.split()[0]))
        if armed:
            await self._wait_for_the_end(point, asked)
        else:
            await self._act_for(asked, self.dice.uniform(0.0, 1.5))
            await self._kill(ANY_TIME)
        if at_start:
            self._arm(point, passes)
            await self.stage.bot.start()
            await self._dead_or_killed(point)
        self._disarm()
        await self.stage.bot.start()
        await self.stage.bot.ready(timeout_s=READY_WITHIN_S)
        if self.dice.random() < SECOND_CRASH:
            await self._act_for(asked, self.dice.uniform(0.0, 0.5))
            await self._kill(ANY_TIME)
            await self.stage.bot.start()
            await self.stage.bot.ready(timeout_s=READY_WITHIN_S)
        await self._settle(asked)
        self._check(asked)

    async def _load(self, needed: str | None) -> list[Asked]:
        asked: list[Asked] = []
        kinds = [self.dice.choice(KINDS) for _ in range(self.dice.randint(3, 6))]
        for kind in [*([needed, needed] if needed else []), *kinds]:
            words = {"cancel": "slow a house", "slow": "slow a house", "broken": "broken a house"}
            count = self.dice.choice((1, 1, 2, 3))
            steps = 40 if kind == "slow" else self.dice.choice((4, 10, 40))
            options = {
                "prompt": words.get(kind, "a house"),
                "count": count,
                "steps": steps,
                "private": kind == "private",
            }
            name = self.dice.choice(("ada", "bob", "eve"))
            invocation = await self.stage.imagine(name, **options)
            asked.append(Asked(invocation, kind, count))
        return asked

    async def _wait_for_the_end(self, point: str, asked: list[Asked]) -> None:
        """Let members act until the point is reached; a stop is what some points need."""
        if point.startswith("put_back"):
            await self._act_for(asked, 0.3)
            if self.stage.bot.returncode is None:
                with suppress(TimeoutError):
                    await self.stage.bot.terminate(timeout_s=DIES_WITHIN_S)
        else:
            await self._act_for(asked, DIES_WITHIN_S, until_idle=True)
        await self._dead_or_killed(point, within_s=0.5)

    async def _act_for(self, asked: list[Asked], seconds: float, *, until_idle: bool = False) -> None:
        """Press what members press, for so long, or until the process is dead or (`until_idle`) all has ended."""
        end = asyncio.get_running_loop().time() + seconds
        while self.stage.bot.returncode is None and asyncio.get_running_loop().time() < end:
            for one in asked:
                await self._press(one)
            if until_idle and self._all_ended(asked):
                await asyncio.sleep(0.2)
                return
            await asyncio.sleep(0.02)

    async def _press(self, one: Asked) -> None:
        message = one.invocation.message
        label = {"cancel": "Cancel", "delete": "Delete"}.get(one.kind)
        ripe = is_waiting(one.invocation) if one.kind == "cancel" else is_drawn(one.invocation)
        if label is None or message is None or one.presses or not ripe or label not in message.buttons:
            return
        person = self.stage.person(one.invocation.user.name)
        with suppress(ClientRefused):
            one.presses.append(await person.click(message, label=label))

    async def _kill(self, point: str) -> None:
        if self.stage.bot.returncode is None:
            await self.stage.bot.kill()
        self.tally.kills[point] += 1

    async def _dead_or_killed(self, point: str, within_s: float = READY_WITHIN_S) -> None:
        """Count a kill at the point; one that was not reached is counted apart, and the process killed all the same."""
        try:
            code = await self.stage.bot.exited(timeout_s=within_s)
        except TimeoutError:
            code = None
        if code == -9:
            self.tally.kills[point] += 1
            return
        self.tally.unreached[point] += 1
        if code is None:
            await self._kill(ANY_TIME)
        elif code:
            self.tally.problems.append(f"the process ended by itself with {code} on the way to {point}")

    async def _settle(self, asked: list[Asked]) -> None:
        """Wait until everything that has a row has ended and was told."""
        end = asyncio.get_running_loop().time() + SETTLES_WITHIN_S
        while asyncio.get_running_loop().time() < end:
            for one in asked:
                await self._press(one)
            if self._all_ended(asked):
                await asyncio.sleep(0.1)
                if self._all_ended(asked):
                    return
            await asyncio.sleep(0.05)

    def _all_ended(self, asked: list[Asked]) -> bool:
        with self._database() as database:
            ids = ",".join(str(one.id) for one in asked)
            marks = ",".join(f"'{status}'" for status in FINAL)
            query = (
                f"SELECT count(*) FROM jobs WHERE interaction_id IN ({ids}) AND (status NOT IN ({marks}) OR NOT told)"
            )
            open_ = database.execute(query).fetchone()[0]
            there = {
                row[0] for row in database.execute(f"SELECT interaction_id FROM jobs WHERE interaction_id IN ({ids})")
            }
        in_hand = any(self._may_still_be_taken(one) or (one.id in there and self._is_deleting(one)) for one in asked)
        return not open_ and not in_hand

    def _is_deleting(self, one: Asked) -> bool:
        """Whether this process was told to delete the request."""
        pressed = one.kind == "delete" and any(press.sent_at > self.stage.bot.started_at for press in one.presses)
        return pressed and self.stage.bot.returncode is None

    def _may_still_be_taken(self, one: Asked) -> bool:
        """Whether a request without an answer may yet get one; a process that is dead gives none any more."""
        original = one.invocation.original
        unanswered = original is None or (original.loading and not original.deleted)
        return unanswered and self.stage.bot.returncode is None and one.invocation.sent_at > self.stage.bot.started_at

    def _database(self) -> closing[sqlite3.Connection]:
        path = self.folder / "data" / "easel.db"
        database = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)
        database.row_factory = sqlite3.Row
        return closing(database)

    def _check(self, asked: list[Asked]) -> None:
        self.tally.requests += len(asked)
        with self._database() as database:
            after = Aftermath(asked, self.stage, database)
            rows = after.rows()
            self.tally.ends.update(rows[one.id]["status"] if one.id in rows else _rowless_end(one) for one in asked)
            self.tally.problems.extend(problem for check in CHECKS for problem in check(after))

    def _arm(self, point: str, passes: int) -> None:
        part = self.traps / "crash-at.part"
        part.write_text(f"{point} {passes}")
        part.replace(self.traps / "crash-at")

    def _disarm(self) -> None:
        (self.traps / "crash-at").unlink(missing_ok=True)


def _rowless_end(one: Asked) -> str:
    return "deleted" if one.deleted else "never taken"


def points_of(*transitions: str) -> Iterator[str]:
    """The points of some transitions."""
    return (point for point in traps.POINTS if point.split()[0] in transitions)
