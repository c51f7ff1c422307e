"""A Poisson trace of mixed steps, sizes and models, served by diffusers in order of arrival and by Easel."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bench.arms import Arms, Silent, synchronize
from bench.numbers import percentile
from bot.engine.base import Order
from bot.engine.diffusers_engine import DiffusersEngine
from bot.generation import GenerationRequest


@dataclass(frozen=True, slots=True)
class Arrival:
    """A request of the trace, and when it comes, in seconds from the start."""

    at_s: float
    request: GenerationRequest
    member: int


@dataclass(frozen=True, slots=True)
class Served:
    """What a trace's requests waited from their arrival to their pictures, and how long all of it took, in seconds."""

    waits_s: tuple[float, ...]
    whole_s: float

    def __str__(self) -> str:
        """Throughput and waits."""
        p50, p95 = percentile(self.waits_s, 0.5), percentile(self.waits_s, 0.95)
        return f"{len(self.waits_s) / self.whole_s:.2f} requests/s, p50 {p50:.2f} s, p95 {p95:.2f} s"


def make_trace(
    models: Sequence[str], sizes: Sequence[tuple[int, int]], steps: Sequence[int], template: GenerationRequest, *,
    count: int, rate_per_s: float, seed: int = 0,
) -> list[Arrival]:  # fmt: skip
    """Make up `count` arrivals, `rate_per_s` on average; the same for the same seed. Pure."""
    chance = random.Random(seed)
    at_s, trace = 0.0, []
    for number in range(count):
        at_s += chance.expovariate(rate_per_s)
        width, height = chance.choice(list(sizes))
        request = replace(
            template, prompt=f"{template.prompt}, number {number}", model=chance.choice(list(models)), width=width,
            height=height, num_inference_steps=chance.choice(list(steps)), seed=number,
        )  # fmt: skip
        trace.append(Arrival(at_s, request, chance.randrange(6)))
    return trace


def serve_in_order(arms: Arms, trace: Sequence[Arrival]) -> Served:
    """(a) One request after the other, in order of arrival."""
    started, waits = time.perf_counter(), []
    for arrival in trace:
        time.sleep(max(0.0, started + arrival.at_s - time.perf_counter()))
        arms.one_after_another([arrival.request])
        synchronize()
        waits.append(time.perf_counter() - started - arrival.at_s)
    return Served(tuple(waits), time.perf_counter() - started)


def serve_with_easel(engine: DiffusersEngine, trace: Sequence[Arrival]) -> Served:
    """(d) Admitted as they arrive."""
    started, waits = time.perf_counter(), []
    coming = list(reversed(trace))
    while coming or engine.busy:
        now = time.perf_counter() - started
        while coming and coming[-1].at_s <= now:
            arrival = coming.pop()
            order = Order(arrival.request, Silent(), arrival.member)
            order.future.add_done_callback(
                lambda done, at_s=arrival.at_s: (done.result(), waits.append(time.perf_counter() - started - at_s))
            )
            engine.admit(order)
        if engine.busy:
            engine.turn()
        else:
            time.sleep(max(0.0, coming[-1].at_s - now))
    return Served(tuple(waits), time.perf_counter() - started)
