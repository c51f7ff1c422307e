"""23 to 25, 29, 30: the process is killed, stopped, started twice, taken down by a request; and members cancel meanwhile."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from bot.exits import EXIT_IN_USE
from tests.crash.run import CrashRun
from tests.faults.stages import START_S, Victims, VictimStage
from tests.loopback import Invocation
from tests.loopback.stage import ROOM, is_waiting, job_of, pictures, shown

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(900)]

DRAIN_S = 3
SLOW = {"prompt": "slow a house"}
"""A tenth of a second a step."""
SHORT_RUN = [
    ("start after", 1), ("render inside", 0), ("render after", 0), ("begin_posting after", 0), ("mark_posted before", 0),
]  # fmt: skip
"""One boundary of each state that a process can die in; `make crash` goes through all boundaries."""


@pytest.mark.fault(23)
async def test_fault_23_kill_in_each_state_loses_nothing_and_shows_nothing_twice(tmp_path: Path) -> None:
    tally = await CrashRun(tmp_path, seed=23).run(SHORT_RUN, print)
    print(tally)
    assert tally.problems == []
    assert tally.iterations == len(SHORT_RUN)
    assert {point for point, _ in SHORT_RUN} <= set(tally.kills)
    assert tally.ends["posted"] > 0


@pytest.mark.fault(24)
async def test_fault_24_sigterm_stops_intake_and_ends_or_puts_back_the_work_within_the_deadline(
    victims: Victims,
) -> None:
    ear, heard = _ear(f"\0easel-fault-24-{os.getpid()}")
    systemd = {"NOTIFY_SOCKET": f"@easel-fault-24-{os.getpid()}", "WATCHDOG_USEC": "1000000"}
    stage = await victims({"VICTIM_DRAIN_S": str(DRAIN_S), **ROOM, **systemd})
    long = await stage.waiting(await stage.imagine("ada", **SLOW, steps=90, count=2))
    short = await stage.waiting(await stage.imagine("bob", **SLOW, steps=12, count=2))
    behind = await stage.waiting(await stage.imagine("eve", **SLOW, steps=12, count=2))
    await stage.until_status(short, "running")
    began = time.monotonic()
    os.kill(stage.bot.pid, signal.SIGTERM)
    late = await (await stage.imagine("eve", prompt="a boat")).answered()
    assert "restarting" in late.private_text
    assert await stage.bot.exited(timeout_s=60) == 0
    assert time.monotonic() - began < DRAIN_S + 20
    asyncio.get_running_loop().remove_reader(ear)
    ear.close()
    assert [one.split("\n")[0] for one in heard if one != "WATCHDOG=1"] == ["READY=1", "STOPPING=1"]
    assert "WATCHDOG=1" in heard[heard.index("STOPPING=1") :]  # also while it drains
    assert stage.status_of(short) == "posted"
    for one in (long, behind):
        assert (stage.row(one.interaction.id)["status"], stage.row(one.interaction.id)["attempt"]) == ("queued", 0)
    assert stage.status_of(late) is None
    await stage.start()
    for one in (long, behind):
        message = await stage.drawn(one)
        assert stage.showing(job_of(message)) == [message]


def _ear(address: str) -> tuple[socket.socket, list[str]]:
    """Listen in systemd's place; the socket, and what it hears as it comes."""
    ear = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    ear.bind(address)
    ear.setblocking(False)
    heard: list[str] = []
    asyncio.get_running_loop().add_reader(ear, lambda: heard.append(ear.recv(4096).decode()))
    return ear, heard


@pytest.mark.fault(25)
async def test_fault_25_second_instance_on_one_data_folder_refuses_and_the_first_goes_on(
    victim: VictimStage, victims: Victims
) -> None:
    stage = victim
    second = await victims({"EASEL_DATA_DIR": str(stage.bot.data_dir / "data")}, start=False)
    await second.bot.start()
    assert await second.bot.exited(timeout_s=START_S) == EXIT_IN_USE
    assert f"Another Easel (process {stage.bot.pid}) already uses the data folder" in second.bot.logs
    assert second.discord.requests == []
    await stage.draw("ada", steps=4)


@pytest.mark.fault(29)
async def test_fault_29_request_that_kills_the_process_is_given_up_and_takes_nobody_with_it(victims: Victims) -> None:
    stage = await victims({"EASEL_MAX_ATTEMPTS": "2"})
    innocent = [await stage.waiting(await stage.imagine(name, **SLOW, steps=30)) for name in ("ada", "bob")]
    for one in innocent:
        await stage.until_status(one, "running")
    poison = await stage.imagine("eve", prompt="poison a house", steps=4)
    crashes = 0
    while await _dies(stage, poison):
        crashes += 1
        assert crashes <= 3
        await stage.start()
    assert crashes == 3  # once among others, which counts against nobody, then twice alone
    behind = await stage.imagine("bob", prompt="a boat", steps=2)
    for one in (*innocent, behind):
        message = await stage.drawn(one)
        assert stage.showing(job_of(message)) == [message]
        assert stage.row(one.interaction.id)["attempt"] == 1
    message = (await poison.wait_for(lambda one: one.message and "given up" in shown(one.text), timeout_s=30)).message
    assert message is not None
    assert pictures(message) == []
    assert "2 times" in shown(poison.text)


async def _dies(stage: VictimStage, poison: Invocation) -> bool:
    """Wait until the process is dead or the request has ended; whether it is dead."""
    ended = ("failed", "posted")
    await stage.discord.bell.until(
        lambda: stage.bot.returncode is not None or _status(stage, poison) in ended, timeout_s=START_S
    )
    return stage.bot.returncode is not None


def _status(stage: VictimStage, one: Invocation) -> str | None:
    with closing(sqlite3.connect(f"file:{stage.database_path}?mode=ro", uri=True)) as database:
        row = database.execute("SELECT status FROM jobs WHERE interaction_id = ?", (one.interaction.id,)).fetchone()
    return row and row[0]


@pytest.mark.fault(30)
async def test_fault_30_cancel_while_queued_running_or_posting_shows_nothing_after_it_was_confirmed(
    victim: VictimStage,
) -> None:
    stage = victim
    running = await stage.busy("eve", **SLOW, steps=100, count=4)
    queued = await stage.waiting(await stage.imagine("ada", prompt="a boat"))
    for one in (queued, running):
        assert one.message is not None
        await stage.person(one.user.name).click(one.message, label="Cancel")
        await stage.until_status(one, "cancelled")

    # Discord takes its time with the pictures: too late to cancel, and said so.
    posting = await stage.waiting(await stage.imagine("ada", **SLOW, steps=5))
    message = posting.message
    assert message is not None
    hold = stage.discord.inject("PATCH", f"/webhooks/*/{posting.interaction.token}/*", hang_s=3.0, times=None)
    await stage.until_status(posting, "posting")
    pressed = await (await stage.person("ada").click(message, label="Cancel")).answered()
    hold.lift()
    assert "being shown right now" in pressed.private_text
    await stage.drawn(posting)

    dice = random.Random(30)
    raced: list[Invocation] = []
    for _ in range(12):
        one = await stage.imagine("bob", prompt="a boat", steps=dice.choice((1, 2, 4, 8)))
        await one.wait_for(lambda one: is_waiting(one) or (one.message and pictures(one.message)), timeout_s=30)
        if one.message is not None and "Cancel" in one.message.buttons:
            await stage.person("bob").click(one.message, label="Cancel")
        raced.append(one)
    for one in raced:
        await stage.until_status(one, "cancelled", "posted")
    await stage.draw("eve", steps=4)  # whatever was on its way has had its time
    for one in (queued, running, *raced):
        assert one.message is not None
        was_shown = any(pictures(version) for version in one.message.versions)
        assert was_shown == (stage.status_of(one) == "posted"), one
        assert one.followups == []
