"""46: parallel requests against a quota stop exactly at it, and a kill changes nothing of what was counted."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from discord import Permissions

from bot.errors import LimitReached
from bot.generation import Actor, JobStatus
from bot.limits import MAX_WAITING, price
from bot.scheduling.events import Rendered
from bot.store.jobs import JobStore
from tests.faults.conftest import BIG
from tests.loopback import Invocation
from tests.loopback.stage import Stage
from tests.loopback.world import MEMBER_PERMISSIONS, User
from tests.unit.scheduling.fakes import World
from tests.unit.store.support import address, request

pytestmark = pytest.mark.fault(46)
FITS = 10
WITHIN_S = 60.0


def somebody_new(stage: Stage, name: str) -> str:
    """Let another member join, whose budget nobody has touched."""
    discord = stage.discord
    discord.users[name] = User(discord.snowflakes.new(), name, permissions=Permissions(MEMBER_PERMISSIONS.value))
    return name


def refusals(asked: list[Invocation], words: str) -> list[Invocation]:
    """Those that were answered privately with these words."""
    return [one for one in asked if words in one.private_text]


async def settled(stage: Stage, asked: list[Invocation], words: str) -> None:
    """Wait until each one has a row or a refusal."""

    def done() -> bool:
        refused = refusals(asked, words)
        return all(one in refused or (one.message is not None and one.message.text) for one in asked)

    await stage.discord.bell.until(done, timeout_s=WITHIN_S, what="an answer to each")


def unbalanced(stage: Stage) -> list[Any]:
    """The requests whose entry in the ledger does not fit their state."""
    query = """SELECT jobs.id, status, state FROM jobs LEFT JOIN ledger ON ledger.job_id = jobs.id WHERE state IS NOT
    CASE WHEN status IN ('queued', 'running') THEN 'reserved' WHEN status IN ('failed', 'cancelled') THEN 'refunded'
    ELSE 'settled' END"""
    path = stage.bot.data_dir / "data" / "easel.db"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return database.execute(query).fetchall()


@pytest.mark.asyncio(loop_scope="session")
async def test_fault_46_parallel_requests_on_the_wire_stop_exactly_at_the_budget_and_kill_9_changes_nothing(
    loud_stage: Stage,
) -> None:
    name = somebody_new(loud_stage, "quin")
    words = "megapixel-steps, and you have"
    asked = await asyncio.gather(*(loud_stage.imagine(name, **BIG) for _ in range(2 * FITS)))
    await settled(loud_stage, asked, words)
    refused = refusals(asked, words)
    taken = [one for one in asked if one not in refused]
    assert len(taken) == FITS
    assert Counter(loud_stage.status_of(one) for one in refused) == {None: FITS}
    for one in refused:  # what came late leaves nothing in the channel
        assert one.original is None or one.original.deleted or one.original.ephemeral
    await loud_stage.bot.kill()
    assert unbalanced(loud_stage) == []
    await loud_stage.bot.start()
    await loud_stage.bot.ready()
    assert words in (await (await loud_stage.imagine(name, **BIG)).answered()).private_text
    # What is cancelled is given back, to the last pixel-step and not one more.
    last = taken[-1].message
    assert last is not None
    await loud_stage.person(name).click(last, label="Cancel")
    await loud_stage.until_status(taken[-1], "cancelled")
    again = await asyncio.gather(*(loud_stage.imagine(name, **BIG) for _ in range(3)))
    await settled(loud_stage, again, words)
    assert len(refusals(again, words)) == 2
    await (await loud_stage.person(name).slash("imagine", "cancel", request="all")).answered()
    assert unbalanced(loud_stage) == []


@pytest.mark.asyncio(loop_scope="session")
async def test_fault_46_parallel_requests_on_the_wire_stop_exactly_at_twenty_waiting(loud_stage: Stage) -> None:
    name = somebody_new(loud_stage, "tess")
    busy = await loud_stage.waiting(
        await loud_stage.imagine("eve", prompt="a circle, drawn forever", steps=100, count=4)
    )
    await loud_stage.until_status(busy, "running")
    words = f"You have {MAX_WAITING} requests waiting"
    asked = await asyncio.gather(*(loud_stage.imagine(name, steps=1) for _ in range(MAX_WAITING + 10)))
    await settled(loud_stage, asked, words)
    assert len(refusals(asked, words)) == 10
    assert Counter(loud_stage.status_of(one) for one in asked) == {"queued": MAX_WAITING, None: 10}
    await (await loud_stage.person(name).slash("imagine", "cancel", request="all")).answered()
    assert busy.message is not None
    await loud_stage.person("eve").click(busy.message, label="Cancel")


async def test_fault_46_budget_across_submit_cancel_and_drawing_is_exact(tmp_path: Path) -> None:
    each = price(request())
    async with World(tmp_path, budget=6 * each) as world:
        world.hold("held")
        held = await world.submit("held")
        await world.begun("held")
        made = await asyncio.gather(*(world.submit(f"p{n}") for n in range(12)), return_exceptions=True)
        jobs = [one for one in made if not isinstance(one, BaseException)]
        assert len(jobs) == 5
        assert sum(isinstance(one, LimitReached) and "left today" in str(one) for one in made) == 7
        await world.service.cancel(jobs[0].id, Actor(7))
        more = await asyncio.gather(*(world.submit(f"q{n}") for n in range(4)), return_exceptions=True)
        assert sum(not isinstance(one, BaseException) for one in more) == 1
        world.engine.gates["held"].set()
        await world.heard(Rendered, held.id)
        await world.heard(Rendered, times=6)
        # This engine draws 8x8, whatever it is asked for, and that is what is charged in the end.
        assert await world.store.spent(7, world.now) == 6 * (8 * 8 * 2 * 4)
        assert await world.store.ledger_faults() == ()
        assert (await world.submit("another member's", user_id=8)).status is JobStatus.QUEUED


async def test_fault_46_refused_by_the_budget_frees_its_place_among_the_waiting(tmp_path: Path) -> None:
    async with World(tmp_path, budget=price(request())) as world:
        world.hold("held")
        await world.submit("held")
        for _ in range(MAX_WAITING + 5):
            with pytest.raises(LimitReached, match="left today"):
                await world.submit("over")
        assert world.service.overview(7).waiting == 0


async def test_fault_46_two_writers_on_one_database_share_the_budget(tmp_path: Path) -> None:
    """Exactness is the transaction's, not this process's: two stores, as two processes would have."""
    stores = [JobStore(address(tmp_path / "easel.db")) for _ in range(2)]
    for store in stores:
        await store.open()
    async with World(tmp_path / "unused") as world:
        where = [world.origin() for _ in range(20)]
        budget = 7 * price(request())
        made = await asyncio.gather(
            *(stores[n % 2].add(f"job{n}", request(), one, world.now, budget=budget) for n, one in enumerate(where)),
            return_exceptions=True,
        )
        assert sum(isinstance(one, LimitReached) for one in made) == 13
        assert await stores[0].spent(7, world.now) == budget
    for store in stores:
        await store.close()
