"""How soon a request begins and ends beside others, counted in denoiser calls; how lanes and whole pipelines take turns.

Part of `make bench-engine`. The counts hold on any machine; the seconds are this one's.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from bench.arms import Arms, Silent, synchronize
from bench.numbers import percentile
from bot.engine.base import Order
from bot.engine.diffusers_engine import DiffusersEngine
from bot.generation import GenerationRequest

Calls = list[list[GenerationRequest]]
"""The requests that had rows in each denoiser call."""


class Leaver(Silent):
    """A listener who leaves when told to."""

    gone = False

    def cancelled(self) -> bool:
        """Whether it has left."""
        return self.gone


@dataclass(frozen=True, slots=True)
class Promptness:
    """Counts of denoiser calls, and seconds, one a round."""

    calls: tuple[int, ...]
    seconds: tuple[float, ...]

    def __str__(self) -> str:
        """The worst count and the median time."""
        return f"{max(self.calls)} denoiser calls at most, {statistics.median(self.seconds):.3f} s (median of {len(self.calls)})"


@dataclass(frozen=True, slots=True)
class Turns:
    """Lanes and a whole pipeline side by side: seconds alone and together, and whose the denoiser calls were, in order."""

    lanes_alone_s: float
    whole_alone_s: float
    together_s: float
    calls: tuple[str, ...]

    @property
    def longest_wait(self) -> int:
        """The most calls of one between two of the other, while both had some left."""
        last = min(max(n for n, who in enumerate(self.calls) if who == each) for each in set(self.calls))
        longest = run = 1
        for before, now in zip(self.calls, self.calls[1 : last + 1], strict=False):
            run = run + 1 if now == before else 1
            longest = max(longest, run)
        return longest

    def __str__(self) -> str:
        """One line."""
        alone = self.lanes_alone_s + self.whole_alone_s
        return (
            f"{self.together_s:.2f} s side by side, {alone:.2f} s one after the other; "
            f"neither waited for more than {self.longest_wait} calls of the other"
        )


def report(engine: DiffusersEngine, request: GenerationRequest, whole_model: str, say: Callable[[str], None]) -> None:
    """Measure all of it with a request, and say it; `whole_model` is drawn by its pipeline's own call meanwhile."""
    say(f"\nturns, {request.model}, {request.width}×{request.height}, {request.num_inference_steps} steps")
    say(f"  a request that joins a busy batch is in a step after  {joining(engine, request)}")
    say(f"  a request that is cancelled is gone after             {leaving(engine, request)}")
    say(f"  lanes and a whole pipeline: {side_by_side(engine, request, whole_model)}")
    theirs, ours = alone(engine, request)
    p50 = percentile(ours, 0.5) / percentile(theirs, 0.5)
    say(f"  one request, nobody else there: p50 {p50:.2f} times that of its pipeline's own call (goal: at most 1.10)")


def joining(engine: DiffusersEngine, request: GenerationRequest, rounds: int = 5) -> Promptness:
    """Count the denoiser calls that a request waits for, once it has joined others that are being drawn: 0 is the very next."""

    def once(number: int, calls: Calls) -> tuple[int, float]:
        orders = [_order(request, seed=seed, member=seed) for seed in range(3)]
        _make_busy(engine, orders, calls)
        newcomer = _order(request, prompt=f"{request.prompt}, newcomer {number}", seed=9, member=9)
        before, started = len(calls), time.perf_counter()
        engine.admit(newcomer)
        waited = 0
        while newcomer.request.prompt not in {who.prompt for turn in calls[before:] for who in turn}:
            waited = len(calls) - before
            engine.turn()
        seconds = time.perf_counter() - started
        _leave(engine, [*orders, newcomer])
        return waited, seconds

    return _rounds(engine, once, rounds)


def leaving(engine: DiffusersEngine, request: GenerationRequest, rounds: int = 5) -> Promptness:
    """Count the denoiser calls that a cancelled request is still in."""

    def once(number: int, calls: Calls) -> tuple[int, float]:
        orders = [_order(request, prompt=f"{request.prompt}, {n}", seed=n, member=n) for n in range(3)]
        _make_busy(engine, orders, calls)
        before, started = len(calls), time.perf_counter()
        _gone(orders[number % 3])
        while not orders[number % 3].over:
            engine.turn()
        seconds = time.perf_counter() - started
        for _ in range(2):
            engine.turn()
        still_in = sum(orders[number % 3].request in turn for turn in calls[before:])
        _leave(engine, orders)
        return still_in, seconds

    return _rounds(engine, once, rounds)


def side_by_side(engine: DiffusersEngine, request: GenerationRequest, whole_model: str) -> Turns:
    """Draw a request in a lane and another by its pipeline's own call, alone and then together."""
    whole = replace(request, model=whole_model)
    engine.generate(replace(whole, num_inference_steps=1), Silent())
    loaded = engine.residents.use(whole_model)
    family, loaded.family = loaded.family, None  # drawn by its pipeline
    try:
        with _calls_of(engine, (request.model, whole_model)) as calls:
            lanes_s, whole_s = _timed(engine, [_order(request)]), _timed(engine, [_order(whole)])
            calls.clear()
            together_s = _timed(engine, [_order(request, member=1), _order(whole, member=2)])
            return Turns(lanes_s, whole_s, together_s, tuple(calls))
    finally:
        loaded.family = family


def alone(engine: DiffusersEngine, request: GenerationRequest, rounds: int = 9) -> tuple[list[float], list[float]]:
    """Time single requests by their pipeline's own call and by the engine, in turns, each with a prompt of its own; seconds."""
    arms, theirs, ours = Arms(engine, 1), [], []
    for number in range(rounds + 1):
        fresh = replace(request, prompt=f"{request.prompt}, alone {number}")
        for seconds, way in ((theirs, arms.one_after_another), (ours, arms.easel)):
            synchronize()
            started = time.perf_counter()
            way([fresh])
            synchronize()
            seconds.append(time.perf_counter() - started)
    return theirs[1:], ours[1:]  # the first were warm-up


def _order(request: GenerationRequest, member: object = 0, **changes: Any) -> Order:
    return Order(replace(request, **changes), Leaver(), member)


def _gone(order: Order) -> None:
    assert isinstance(order.listener, Leaver)
    order.listener.gone = True


def _make_busy(engine: DiffusersEngine, orders: Sequence[Order], calls: Calls) -> None:
    """Let some requests take two steps together."""
    for order in orders:
        engine.admit(order)
    calls.clear()
    while sum(len(turn) == len(orders) for turn in calls) < 2:
        engine.turn()


def _leave(engine: DiffusersEngine, orders: Sequence[Order]) -> None:
    for order in orders:
        _gone(order)
    while engine.busy:
        engine.turn()


def _rounds(engine: DiffusersEngine, once: Callable[[int, Calls], tuple[int, float]], rounds: int) -> Promptness:
    """Do it some times, while it is noted whose requests are in each denoiser call."""
    room: Any = engine._lanes
    step, noted = room.step, list[list[GenerationRequest]]()

    def noting(loaded: Any, lanes: Sequence[Any]) -> None:
        noted.append(list({id(lane.owner): lane.owner.order.request for lane in lanes}.values()))
        step(loaded, lanes)

    room.step = noting
    try:
        counts = [once(number, noted) for number in range(rounds)]
    finally:
        del room.step
    return Promptness(tuple(calls for calls, _ in counts), tuple(seconds for _, seconds in counts))


@contextmanager
def _calls_of(engine: DiffusersEngine, models: Sequence[str]) -> Iterator[list[str]]:
    """Note whose denoiser is called."""
    calls: list[str] = []
    undo: list[Any] = []
    for model in models:
        pipe = engine.residents.use(model).pipe
        denoiser = getattr(pipe, "transformer", None) or pipe.unet

        def forward(*args: Any, model: str = model, original: Any = denoiser.forward, **kwargs: Any) -> Any:
            calls.append(model)
            return original(*args, **kwargs)

        denoiser.forward = forward
        undo.append(denoiser)
    try:
        yield calls
    finally:
        for denoiser in undo:
            del denoiser.forward


def _timed(engine: DiffusersEngine, orders: Sequence[Order]) -> float:
    synchronize()
    started = time.perf_counter()
    for order in orders:
        engine.admit(order)
    while engine.busy:
        engine.turn()
    synchronize()
    for order in orders:
        order.future.result(0)
    return time.perf_counter() - started
