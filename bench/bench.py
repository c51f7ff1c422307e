"""Measure the real process against a loopback Discord, with no hook inside it.

start to commands   from spawning `python -m bot run` to registered commands and READY
first answer        from the interaction to the bot's acknowledgement, idle and with a full queue
queued stands       from the interaction to the first message that says more than "thinking"
loop stalls         the loopback asks for a heartbeat every 10 ms; discord.py's thread hands each to the event
                    loop, so a heartbeat that is late by d was held up by a loop (or interpreter) stalled for d to d + 10 ms
overhead            requests with few and with many steps; the intercept of time over steps is what is spent
                    outside the denoising steps: queue, text encoder, decoder, PNG, disk, delivery
memory              resident memory of the process and its children
with 10,000 waiting submit, position and cancel on the service itself, in this process (`bench/waiting.py`)
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.numbers import intercept, percentile, stalls
from tests.loopback import BotProcess, Invocation, LoopbackDiscord

HEARTBEAT_S = 0.01
STALL_S = 0.05
PROMPTS = (
    "a large red circle on a blue background",
    "a small green square on a white background",
    "a yellow triangle on black",
)


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the report; `target` is in words, `met` None where there is none."""

    what: str
    value: str
    target: str = ""
    met: bool | None = None

    def __str__(self) -> str:
        verdict = {True: "ok", False: "MISSED", None: ""}[self.met]
        return f"{self.what:<46} {self.value:>22}  {self.target:<14} {verdict}".rstrip()


@dataclass(slots=True)
class Lag:
    """How late the measuring side's own loop was; a stall shorter than that is not the bot's."""

    worst_s: float = 0.0


@asynccontextmanager
async def own_lag() -> AsyncIterator[Lag]:
    """Watch this process's loop: what it is late by must not be blamed on the bot."""
    lag = Lag()

    async def watch() -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            lag.worst_s = max(lag.worst_s, time.monotonic() - before - 0.01)

    task = asyncio.create_task(watch())
    try:
        yield lag
    finally:
        task.cancel()


def drawn(one: Invocation) -> bool:
    """Whether the finished pictures stand."""
    return one.message is not None and any(name.startswith("easel-") for name in one.message.file_names)


def queued_after_s(one: Invocation) -> float:
    """Seconds until the first message that said more than "thinking"."""
    original = one.original
    if original is None:
        raise RuntimeError("no answer came")
    return next(version.at for version in original.versions if version.text) - one.sent_at


def drawn_after_s(one: Invocation) -> float:
    """Seconds until the finished pictures stood."""
    original = one.original
    if original is None:
        raise RuntimeError("no answer came")
    done = (
        version.at for version in original.versions if any(name.startswith("easel-") for name in version.file_names)
    )
    return next(done) - one.sent_at


class Bench:
    """One run of all measurements on one process."""

    def __init__(self, discord: LoopbackDiscord, bot: BotProcess, *, timeout_s: float) -> None:
        self._discord = discord
        self._bot = bot
        self._timeout_s = timeout_s
        self.lines: list[Line] = []

    async def run(self, *, idle: int, load: int, repeats: int) -> list[Line]:
        """Measure in order; each part leaves an empty queue behind."""
        started_s = await self._bot.ready(timeout_s=self._timeout_s)
        self._add("start to registered commands", f"{started_s:.2f} s", "3 s", met=started_s <= 3)
        self._add("memory, commands registered", f"{self._bot.memory_bytes() / 2**20:.0f} MiB")
        warm = await self._draw("ada", steps=1)
        self._add("start to first picture", f"{warm.sent_at + drawn_after_s(warm) - self._bot.started_at:.2f} s")
        self._add("memory, model loaded", f"{self._bot.memory_bytes() / 2**20:.0f} MiB")
        ready_at = self._discord.now()
        async with own_lag() as lag:
            await self._idle(idle)
            await self._under_load(load)
            await self._overhead(repeats)
        self._loop(ready_at, lag)
        return self.lines

    async def _ask(self, name: str, **options: Any) -> Invocation:
        prompt = PROMPTS[len(self._discord.interactions) % len(PROMPTS)]
        return await self._discord.member(name).slash("imagine", "imagine", prompt=prompt, **options)

    async def _draw(self, name: str, **options: Any) -> Invocation:
        asked = await self._ask(name, **options)
        return await asked.wait_for(drawn, timeout_s=self._timeout_s)

    async def _idle(self, count: int) -> None:
        done = [await self._draw("ada", steps=1) for _ in range(count)]
        self._answers("idle", done)

    async def _under_load(self, count: int) -> None:
        """Members take turns and do not wait for each other's pictures; the memory is read while it draws."""
        asked: list[Invocation] = []
        for number in range(count):
            one = await self._ask(("ada", "bob", "eve")[number % 3])
            asked.append(await one.acknowledged(timeout_s=self._timeout_s))
        memory_bytes = self._bot.memory_bytes()
        for one in asked:
            await one.wait_for(drawn, timeout_s=self._timeout_s)
            memory_bytes = max(memory_bytes, self._bot.memory_bytes())
        self._answers(f"with {count} requests", asked)
        spent_s = max(one.sent_at + drawn_after_s(one) for one in asked) - asked[0].sent_at
        self._add(f"{count} pictures, first request to last picture", f"{spent_s:.1f} s")
        self._add("memory, highest under load", f"{memory_bytes / 2**20:.0f} MiB")

    async def _overhead(self, repeats: int) -> None:
        times: dict[int, list[float]] = {}
        for steps in (4, 24):
            times[steps] = [drawn_after_s(await self._draw("bob", steps=steps)) for _ in range(repeats)]
        overhead_s, per_step_s = intercept(times)
        self._add("overhead per picture outside the denoiser", f"{overhead_s * 1000:.0f} ms")
        self._add("one denoising step", f"{per_step_s * 1000:.1f} ms")

    def _answers(self, when: str, done: list[Invocation]) -> None:
        first = [one.acknowledged_after_s for one in done if one.acknowledged_after_s is not None]
        p50, p99 = percentile(first, 0.5), percentile(first, 0.99)
        self._add(
            f"first answer {when}, p50 / p99", f"{p50 * 1000:.0f} / {p99 * 1000:.0f} ms", "p99 250 ms", met=p99 <= 0.25
        )
        stood = [queued_after_s(one) for one in done]
        p50, p99 = percentile(stood, 0.5), percentile(stood, 0.99)
        self._add(
            f'"queued" stands {when}, p50 / p99', f"{p50 * 1000:.0f} / {p99 * 1000:.0f} ms", "p99 1 s", met=p99 <= 1
        )

    def _loop(self, since: float, lag: Lag) -> None:
        beats = [beat for beat in self._discord.heartbeats if beat.at >= since and beat.lateness_s is not None]
        late = [beat.lateness_s for beat in beats if beat.lateness_s is not None]
        found = stalls(late, above_s=STALL_S)
        longest = f", longest {found[0] * 1000:.0f} ms" if found else ""
        self._add(f"loop stalls above 50 ms, of {len(late)} probes", f"{len(found)}{longest}", "none", met=not found)
        self._add(
            "probes late by, p50 / p99", f"{percentile(late, 0.5) * 1000:.1f} / {percentile(late, 0.99) * 1000:.1f} ms"
        )
        self._add("the measuring side's own worst lag", f"{lag.worst_s * 1000:.0f} ms")

    def _add(self, what: str, value: str, target: str = "", *, met: bool | None = None) -> None:
        line = Line(what, value, target, met)
        self.lines.append(line)
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()


async def measure(arguments: argparse.Namespace) -> list[Line]:
    """Start everything in a folder of its own, measure, stop it."""
    environment = {"EASEL_MODEL": arguments.model, "EASEL_DEVICE": arguments.device, "EASEL_LOG_LEVEL": "warning"}
    with tempfile.TemporaryDirectory(prefix="easel-bench-") as folder:
        async with (
            LoopbackDiscord(heartbeat_interval_s=HEARTBEAT_S) as discord,
            BotProcess(discord, Path(folder), environment=environment) as bot,
        ):
            bench = Bench(discord, bot, timeout_s=arguments.timeout)
            lines = await bench.run(idle=arguments.idle, load=arguments.load, repeats=arguments.repeats)
            began = time.monotonic()
            code = await bot.terminate()
            stop = Line("SIGTERM to exit", f"{time.monotonic() - began:.2f} s, code {code}", "code 0", code == 0)
            sys.stdout.write(f"{stop}\n")
            lines += [stop]
    return [*lines, *await _waiting(arguments.waiting)]


async def _waiting(count: int) -> list[Line]:
    """Time the line itself; the disk's own commit stands beside it, since no submit can be faster."""
    from bench.waiting import measure as measure_waiting

    lines: list[Line] = []
    if count:
        times = await measure_waiting(count, 300)
        for name, value, met in times.report():
            what = "one commit of the disk" if name == "disk" else f"{name} with {count:,} waiting"
            lines.append(Line(f"{what}, p50 / p99", value, "" if met is None else "p99 10 ms", met))
            sys.stdout.write(f"{lines[-1]}\n")
    return lines


def main(argv: list[str] | None = None) -> int:
    """Run the benchmark; the exit code is 1 only with `--check` and a missed target."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure the bot from outside.")
    parser.add_argument("--model", default="pocket", help="model id (default: pocket)")
    parser.add_argument(
        "--device", default="cpu", choices=["auto", "cuda", "mps", "cpu"], help="what draws (default: cpu)"
    )
    parser.add_argument("--idle", type=int, default=30, help="requests one after the other (default: 30)")
    parser.add_argument("--load", type=int, default=20, help="requests at once (default: 20)")
    parser.add_argument("--repeats", type=int, default=5, help="requests a step count, for the overhead (default: 5)")
    parser.add_argument(
        "--waiting", type=int, default=10_000, help="requests in line (default: 10000; 0: leave it out)"
    )
    parser.add_argument("--timeout", type=float, default=180.0, help="seconds any one wait may take (default: 180)")
    parser.add_argument("--json", type=Path, help="also write the lines to this file")
    parser.add_argument("--check", action="store_true", help="exit 1 when a target is missed")
    arguments = parser.parse_args(argv)
    try:
        lines = asyncio.run(measure(arguments))
    except (RuntimeError, TimeoutError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(line) for line in lines], indent=1), encoding="utf-8")
    return 1 if arguments.check and any(line.met is False for line in lines) else 0
