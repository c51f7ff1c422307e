"""What the wiring does where the device fails."""

from __future__ import annotations

import os
import sys
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from bot import app
from bot.config import read_settings


class _Gpu:
    def __init__(self) -> None:
        self.lost: Future[str] = Future()

    def stop(self, timeout_s: float) -> bool:
        return not self.lost.done()


@pytest.mark.parametrize(
    ("code", "restarted"), [(app.EXIT_DEVICE_LOST, True), (app.EXIT_OK, False)], ids=["lost", "ok"]
)
def test_run_bot_starts_anew_where_the_device_is_lost(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int, restarted: bool
) -> None:
    started: list[Any] = []
    machine: Any = type("Machine", (), {"gpu": _Gpu()})()

    async def serve(*_: Any) -> int:
        if restarted:
            machine.gpu.lost.set_result("The GPU has failed.")
        return code

    def execv(path: str, arguments: list[str]) -> None:
        started.append((path, arguments))
        raise SystemExit(0)  # a process that is replaced does not come back

    monkeypatch.setattr(app, "start_machine", lambda settings: machine)
    monkeypatch.setattr(app, "_serve", serve)
    monkeypatch.setattr(os, "execv", execv)
    settings = read_settings({"DISCORD_TOKEN": "a token", "EASEL_DATA_DIR": str(tmp_path)})
    if not restarted:
        assert app.run_bot(settings) == app.EXIT_OK
    else:
        with pytest.raises(SystemExit):
            app.run_bot(settings)
    assert started == ([(sys.executable, [sys.executable, *sys.orig_argv[1:]])] if restarted else [])
