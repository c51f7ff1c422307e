"""The real process, `python -m bot run`, against a loopback Discord."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import psutil

if TYPE_CHECKING:
    from tests.loopback.server import LoopbackDiscord

REPOSITORY = Path(__file__).resolve().parents[2]


class BotProcess:
    """One run of the bot at a time; an async context manager that starts it and kills what still runs at the end.

    `start()` after `kill()` or `terminate()` starts it again on the same data directory. Output goes to
    `<data_dir>/process-<n>.log`.
    """

    def __init__(
        self, discord: LoopbackDiscord, data_dir: Path, *, environment: Mapping[str, str] | None = None,
        arguments: tuple[str, ...] = ("-m", "bot", "run"),
    ) -> None:  # fmt: skip
        self._discord = discord
        self.data_dir = data_dir
        self.arguments = arguments
        self.environment = dict(environment or {})
        """Added to, and stronger than, the settings made here."""
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[int] | None = None
        self._runs = 0
        self._calls_before = 0
        self._identified_before = 0
        self.started_at = 0.0
        """Monotonic seconds."""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.kill()

    @property
    def log_path(self) -> Path:
        """Where the present run writes."""
        return self.data_dir / f"process-{self._runs}.log"

    @property
    def logs(self) -> str:
        """All output of the present run so far."""
        return self.log_path.read_text(encoding="utf-8", errors="replace") if self.log_path.exists() else ""

    @property
    def all_logs(self) -> str:
        """The output of every run."""
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.data_dir.glob("process-*.log")))

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError("the process was not started")
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        return None if self._process is None else self._process.returncode

    async def start(self) -> None:
        """Start the process; `ready()` waits until it serves."""
        if self._process is not None and self._process.returncode is None:
            raise RuntimeError("the process runs already")
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self._runs += 1
        self._calls_before = len(self._discord.requests)
        self._identified_before = len(self._discord.gateway.identified_at)
        with self.log_path.open("wb") as log:
            self.started_at = time.monotonic()
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, *self.arguments, stdout=log, stderr=log, cwd=self.data_dir, env=self._environ()
            )
        self._watch = asyncio.create_task(self._wait())

    def _environ(self) -> dict[str, str]:
        """The environment without the developer's own settings; no `.env` is near the working directory."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("EASEL_", "DISCORD_"))}
        paths = [str(REPOSITORY), *([inherited["PYTHONPATH"]] if inherited.get("PYTHONPATH") else [])]
        return {
            **inherited,
            "PYTHONPATH": os.pathsep.join(paths),
            "PYTHONUNBUFFERED": "1",
            "PYTHONFAULTHANDLER": "1",
            "DISCORD_TOKEN": self._discord.token,
            "DISCORD_API_URL": self._discord.api_url,
            "DISCORD_GATEWAY_URL": self._discord.gateway_url,
            "EASEL_DATA_DIR": str(self.data_dir / "data"),
            "EASEL_ATTACHMENT_HOSTS": "127.0.0.1",
            "EASEL_DEVICE": "cpu",
            **self.environment,
        }

    async def _wait(self) -> int:
        assert self._process is not None
        code = await self._process.wait()
        self._discord.bell.ring()
        return code

    async def ready(self, *, timeout_s: float = 60.0) -> float:
        """Wait until commands are registered and the gateway is READY; returns seconds since `start()`.

        Raises RuntimeError with the end of the log when the process ends before, TimeoutError likewise.
        """
        try:
            await self._discord.bell.until(lambda: self.returncode is not None or self._serving(), timeout_s=timeout_s)
        except TimeoutError as error:
            raise TimeoutError(f"the bot was not ready: {error}\n{self.logs[-3000:]}") from None
        if self.returncode is not None:
            raise RuntimeError(f"the bot ended with {self.returncode}:\n{self.logs[-3000:]}")
        return time.monotonic() - self.started_at

    def _serving(self) -> bool:
        calls = [one for one in self._discord.requests[self._calls_before :] if one.path.endswith("/commands")]
        synced = bool(calls) and all(one.status is not None and one.status < 300 for one in calls[-1:])
        registered = any(self._discord.command_sets.values())
        identified = len(self._discord.gateway.identified_at) > self._identified_before
        return synced and registered and identified and self._discord.gateway.connected

    async def exited(self, *, timeout_s: float = 30.0) -> int:
        """Wait for the end and return the exit code; raises TimeoutError."""
        if self._watch is None:
            raise RuntimeError("the process was not started")
        try:
            return await asyncio.wait_for(asyncio.shield(self._watch), timeout_s)
        except TimeoutError:
            raise TimeoutError(f"the bot still ran after {timeout_s:g} s:\n{self.logs[-3000:]}") from None

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self._process is None or self._watch is None:
            return
        if self._process.returncode is None:
            self._process.kill()
        await self._watch

    async def terminate(self, *, timeout_s: float = 30.0) -> int:
        """SIGTERM; returns the exit code."""
        if self._process is None:
            raise RuntimeError("the process was not started")
        self._process.terminate()
        return await self.exited(timeout_s=timeout_s)

    def memory_bytes(self) -> int:
        """Resident memory of the process and its children."""
        process = psutil.Process(self.pid)
        return sum(one.memory_info().rss for one in (process, *process.children(recursive=True)))
