"""What systemd hears, on a socket of our own in its place."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.systemd import ALIVE, READY, Systemd


@pytest.fixture(params=["file", "abstract"])
def ear(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A bound socket and its address as systemd writes it."""
    name = str(tmp_path / "notify") if request.param == "file" else f"@easel-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(name.replace("@", "\0"))
        bound.settimeout(5.0)
        yield bound, name


def test_systemd_is_told_all_assignments_in_one_message(ear: tuple[socket.socket, str]) -> None:
    Systemd({"NOTIFY_SOCKET": ear[1]}).tell(READY, "STATUS=takes requests")
    assert ear[0].recv(4096) == b"READY=1\nSTATUS=takes requests"


async def test_systemd_watchdog_is_answered_twice_in_its_interval(
    ear: tuple[socket.socket, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    async def sleep(delay_s: float) -> None:
        waits.append(delay_s)
        if len(waits) == 3:
            raise asyncio.CancelledError

    monkeypatch.setattr(asyncio, "sleep", sleep)
    systemd = Systemd({"NOTIFY_SOCKET": ear[1], "WATCHDOG_USEC": "120000000", "WATCHDOG_PID": str(os.getpid())})
    assert systemd.watchdog_s == 120.0
    with pytest.raises(asyncio.CancelledError):
        await systemd.keep_alive()
    assert waits == [60.0, 60.0, 60.0]
    assert [ear[0].recv(4096) for _ in range(3)] == [ALIVE.encode()] * 3


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WATCHDOG_USEC": "1000"},
        {"NOTIFY_SOCKET": "/nowhere/notify", "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"},
        {"NOTIFY_SOCKET": "/nowhere/notify", "WATCHDOG_USEC": "soon"},
    ],
    ids=["not started by it", "no socket", "another process is watched", "not a number"],
)
async def test_systemd_that_does_not_listen_is_no_fault(environ: dict[str, str]) -> None:
    systemd = Systemd(environ)
    systemd.tell(READY)
    await asyncio.wait_for(systemd.keep_alive(), 5.0)
