"""18 to 22: the gateway falls silent, ends the session, refuses, is short of connections; and the GPU keeps it waiting."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
from pathlib import Path

import pytest

from bot.exits import EXIT_BAD_TOKEN, EXIT_GATEWAY_REFUSED
from bot.gateway import LONGEST_GAP_S, IdentifyGap, StartLimit
from tests.faults.stages import START_S, Victims, VictimStage
from tests.loopback.gateway import Gateway
from tests.loopback.stage import is_drawn

session = pytest.mark.asyncio(loop_scope="session")
pytestmark = pytest.mark.timeout(900)

UNIT = Path(__file__).resolve().parents[2] / "docs" / "easel.service"
QUICK = {"VICTIM_HEARTBEAT_TIMEOUT_S": "2", "VICTIM_IDENTIFY_GAP_S": "0.4"}
SLOW = {"prompt": "slow a house", "steps": 60}
"""Six seconds."""
PATIENT_S = 60.0


@session
@pytest.mark.fault(18)
@pytest.mark.fault(19)
async def test_fault_18_silent_gateway_is_resumed_and_19_an_ended_session_identified_anew_with_jobs_unaffected(
    victims: Victims,
) -> None:
    stage = await victims(QUICK, heartbeat_interval_s=0.5)
    gateway, bell = stage.discord.gateway, stage.discord.bell
    asked = await stage.waiting(await stage.imagine("ada", **SLOW))
    gateway.acknowledge_heartbeats = False
    await bell.until(lambda: gateway.resumed_at, timeout_s=PATIENT_S, what="a resume")
    # Once more, now with events that still come: they prove nothing about the way from us to Discord.
    chatter = asyncio.create_task(_chatter(gateway))
    try:
        await bell.until(lambda: len(gateway.resumed_at) > 1, timeout_s=PATIENT_S, what="a resume in spite of events")
    finally:
        chatter.cancel()
    gateway.acknowledge_heartbeats = True
    assert len(gateway.identified_at) == 1
    behind = await stage.waiting(await stage.imagine("bob", steps=4))

    gateway.invalidate_next = 3
    await gateway.invalidate()
    await bell.until(
        lambda: len(gateway.identified_at) == 5 and gateway.connected, timeout_s=PATIENT_S, what="a new session"
    )
    gaps = [after - before for before, after in itertools.pairwise(gateway.identified_at[1:])]
    assert all(gap >= wanted for gap, wanted in zip(gaps, (0.4, 0.8, 1.6), strict=True)), gaps

    for one in (asked, behind):
        await stage.drawn(one)
        assert stage.row(one.interaction.id)["attempt"] == 1
    await stage.draw("eve", steps=2)


async def _chatter(gateway: Gateway) -> None:
    while True:
        await gateway.dispatch("TYPING_START", {"channel_id": "1", "user_id": "2", "timestamp": 0})
        await asyncio.sleep(0.2)


@pytest.mark.fault(19)
def test_fault_19_gap_before_an_identify_in_vain_doubles_up_to_a_limit_and_begins_anew() -> None:
    gap = IdentifyGap(5.0, jitter=lambda: 0.0)
    assert [gap.next_s() for _ in range(6)] == [5.0, 5.0, 10.0, 20.0, 40.0, LONGEST_GAP_S]
    gap.taken()
    assert gap.next_s() == 5.0
    assert IdentifyGap(5.0, jitter=lambda: 1.0).next_s() == 6.25


@session
@pytest.mark.fault(20)
@pytest.mark.parametrize(
    ("close", "code", "words"),
    [(4004, EXIT_BAD_TOKEN, "Copy it anew"), (4014, EXIT_GATEWAY_REFUSED, "intents")],
)
async def test_fault_20_gateway_that_refuses_for_good_ends_the_process_and_nothing_starts_it_again(
    victims: Victims, close: int, code: int, words: str
) -> None:
    stage = await victims(start=False)
    stage.discord.gateway.refuse_identify_with = close
    await stage.bot.start()
    assert await stage.bot.exited(timeout_s=START_S) == code
    assert words in stage.bot.logs
    assert len(stage.discord.gateway.identified_at) == 1
    (line,) = (line for line in UNIT.read_text().splitlines() if line.startswith("RestartPreventExitStatus="))
    assert str(code) in line.split("=")[1].split()


@session
@pytest.mark.fault(21)
async def test_fault_21_storm_of_restarts_leaves_the_last_identifies_and_spreads_them(victims: Victims) -> None:
    stage = await victims(QUICK, start=False)
    gateway = stage.discord.gateway
    gateway.session_start_limit = {"total": 10, "remaining": 0, "reset_after": 600_000}
    await stage.bot.start()
    await stage.discord.bell.until(lambda: stage.discord.calls("GET", "/gateway/bot"), timeout_s=START_S)
    await asyncio.sleep(0.5)
    await stage.bot.kill()
    assert gateway.identified_at == []
    gateway.session_start_limit = {"total": 10, "remaining": 1, "reset_after": 1_500}
    await stage.start()
    asked_at = stage.discord.calls("GET", "/gateway/bot")[-1].at
    assert len(gateway.identified_at) == 1
    assert gateway.identified_at[0] - asked_at >= 1.5
    assert "only 1 of today's 10 connections" in stage.bot.logs

    # Nor does a session that ends meanwhile take the last ones.
    gateway.session_start_limit = {"total": 10, "remaining": 1, "reset_after": 1_500}
    at = stage.discord.now()
    await gateway.invalidate()
    await stage.discord.bell.until(lambda: len(gateway.identified_at) == 2, timeout_s=PATIENT_S, what="an identify")
    assert gateway.identified_at[1] - at >= 1.5
    await stage.draw("ada", steps=2)


@pytest.mark.fault(21)
@pytest.mark.parametrize(
    ("remaining", "expected"), [(1000, 0.0), (101, 0.0), (100, 360.0), (10, 3600.0), (1, 36_000.0), (0, 36_000.0)]
)
def test_fault_21_wait_before_an_identify_is_an_equal_part_of_the_time_once_they_are_scarce(
    remaining: int, expected: float
) -> None:
    assert StartLimit(1000, remaining, 36_000.0).wait_s == expected


@session
@pytest.mark.fault(22)
async def test_fault_22_gpu_that_is_busy_in_one_call_lets_heartbeats_go_on_time(victim: VictimStage) -> None:
    stage = victim
    asked = await stage.waiting(await stage.imagine("ada", prompt="busy a house", steps=2))
    await stage.until_status(asked, "running")
    began = stage.discord.now()
    await asked.wait_for(is_drawn, timeout_s=PATIENT_S)
    ended = stage.discord.now()
    assert ended - began > 6  # the call takes eight seconds
    late = [beat.lateness_s or 0.0 for beat in stage.discord.heartbeats if began <= beat.at <= ended]
    assert len(late) >= 4
    assert max(late) < 4.0, late


def test_unit_file_is_one_that_systemd_understands() -> None:
    found = subprocess.run(["systemd-analyze", "verify", str(UNIT)], capture_output=True, text=True, check=False)
    # Its paths are an operator's, not this machine's.
    complaints = [
        line for line in found.stderr.splitlines() if "easel.service" in line and "is not executable" not in line
    ]
    assert complaints == []
