"""Fault 30: what was cancelled, and said to be cancelled, is never shown."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from tests.faults.house import House

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def cancelled(house: House, asked: Any) -> None:
    """Press *Cancel* and wait for the card to say so."""
    await house.person(asked.user.name).click(asked.message, label="Cancel")
    await asked.wait_for(lambda one: "cancelled" in one.text)
    assert house.row(asked, "status") == ("cancelled",)


async def never_shown(house: House, asked: Any) -> None:
    """Let another request through the whole house, then look."""
    await house.draw("eve", prompt="somebody else's")
    await asyncio.sleep(0.3)
    job = house.job_id(asked)
    assert house.showing(job) == []
    assert house.uploads(job) == []
    assert house.row(asked, "status") == ("cancelled",)
    assert "cancelled" in asked.text
    assert not list((house.bot.data_dir / "data" / "pictures").rglob(f"easel-{job}-*"))


@pytest.mark.fault(30)
async def test_fault_30_cancel_while_queued_is_never_drawn_or_shown(house: House) -> None:
    gate = house.weights.gates.setdefault("far", threading.Event())
    asked = await house.waiting(await house.imagine("ada", prompt="taken back in line", model="far"))
    await house.until_status(asked, "queued")
    await cancelled(house, asked)
    gate.set()
    await never_shown(house, asked)
    assert "taken back in line" not in house.engine.drawn


@pytest.mark.fault(30)
async def test_fault_30_cancel_while_running_is_never_shown(house: House) -> None:
    house.engine.deaf = True  # finishes all the same, as an engine in its last step does
    try:
        asked = await house.held("ada", "taken back while drawn")
        await cancelled(house, asked)
        house.hold("taken back while drawn").set()
        await never_shown(house, asked)
    finally:
        house.engine.deaf = False


@pytest.mark.fault(30)
async def test_fault_30_cancel_of_what_is_drawn_and_waits_for_discord_is_never_shown(house: House) -> None:
    first = await house.held("bob", "in the outage")
    asked = await house.held("ada", "taken back in an outage")
    outage = [house.discord.inject("*", path, status=503, times=None) for path in ("/webhooks/*", "/ch*", "/gateway")]
    house.hold("in the outage").set()
    await first.wait_for(lambda _: house.transport.down)
    house.hold("taken back in an outage").set()
    await house.until_status(asked, "rendered")
    await house.person("ada").click(asked.message, label="Cancel")
    await house.until_status(asked, "cancelled")
    for fault in outage:
        fault.lift()
    await asked.wait_for(lambda one: "cancelled" in one.text)
    await never_shown(house, asked)
    await house.drawn(first)


@pytest.mark.fault(30)
async def test_fault_30_cancel_while_posting_is_not_confirmed_and_the_pictures_stand_once(house: House) -> None:
    asked = await house.held("ada", "taken back too late")
    fault = house.discord.inject("PATCH", f"/webhooks/*/{asked.interaction.token}/*", hang_s=1.5)
    house.hold("taken back too late").set()
    await asked.wait_for(lambda _: fault.hits == 1)
    pressed = await house.person("ada").click(asked.message, label="Cancel")
    await pressed.wait_for(lambda one: "being shown right now" in one.private_text)
    message = await house.drawn(asked)
    await house.until_status(asked, "posted")
    assert house.showing(house.job_id(asked)) == [message]


@pytest.mark.fault(30)
async def test_fault_30_cancel_racing_with_the_posting_has_one_winner(house: House) -> None:
    for n in range(8):
        asked = await house.held("ada", f"a race, {n}")
        house.hold(f"a race, {n}").set()
        await asyncio.sleep(0.004 * n)
        pressed = await house.person("ada").click(
            asked.message, custom_id=f"easel:v1:cancel:{house.job_id(asked)}", unchecked=True
        )
        await house.until_status(asked, "posted", "cancelled")
        if house.status_of(asked) == "cancelled":
            await never_shown(house, asked)
        else:
            await pressed.wait_for(lambda one: one.private_text)
            assert "Cancelled" not in pressed.private_text
            assert len(house.showing(house.job_id(asked))) == 1
