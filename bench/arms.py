"""The four ways to draw the same requests, on the same weights: diffusers one after another, batched, compiled, and Easel."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from bot.engine.base import Order
from bot.engine.diffusers_engine import DiffusersEngine
from bot.engine.lanes.samplers import build_scheduler
from bot.generation import FetchProgress, GenerationRequest, Progress

Arm = Callable[[Sequence[GenerationRequest]], None]


class Silent:
    """A listener who wants nothing."""

    def cancelled(self) -> bool:
        """Never."""
        return False

    def wants_preview(self) -> bool:
        """Never."""
        return False

    def on_progress(self, progress: Progress) -> None:
        """Ignore it."""

    def on_load(self, progress: FetchProgress) -> None:
        """Ignore it."""


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of the rounds of one arm."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.seconds)

    def __str__(self) -> str:
        """The median and what it lies between."""
        return f"{self.median:.3f} s ({min(self.seconds):.3f} to {max(self.seconds):.3f})"


class Arms:
    """Draws requests of one model in each way; the weights are those the engine has loaded."""

    def __init__(self, engine: DiffusersEngine, max_batch: int) -> None:
        self._engine = engine
        self._max_batch = max_batch
        self._compiled: dict[str, Any] = {}

    def one_after_another(self, requests: Sequence[GenerationRequest]) -> None:
        """(a) One call of the pipeline a request."""
        for request in requests:
            self._call([request])

    def batched(self, requests: Sequence[GenerationRequest]) -> None:
        """(b) Calls of the pipeline with lists of prompts; the requests are alike in all else."""
        for first in range(0, len(requests), self._max_batch):
            self._call(requests[first : first + self._max_batch])

    def easel(self, requests: Sequence[GenerationRequest]) -> None:
        """(d) All admitted at once, each by another member."""
        orders = [Order(request, Silent(), member) for member, request in enumerate(requests)]
        for order in orders:
            self._engine.admit(order)
        while self._engine.busy:
            self._engine.turn()
        for order in orders:
            order.future.result(0)

    def compiled(self, requests: Sequence[GenerationRequest]) -> None:
        """(c) As (a), with the denoiser compiled by torch.compile; the first call compiles. Raises where that fails here."""
        pipe = self._engine.residents.use(requests[0].model).pipe
        name = "transformer" if getattr(pipe, "transformer", None) is not None else "unet"
        plain = getattr(pipe, name)
        if requests[0].model not in self._compiled:
            self._compiled[requests[0].model] = torch.compile(plain)
        setattr(pipe, name, self._compiled[requests[0].model])
        try:
            self.one_after_another(requests)
        finally:
            setattr(pipe, name, plain)

    def _call(self, requests: Sequence[GenerationRequest]) -> None:
        first = requests[0]
        loaded = self._engine.residents.use(first.model)
        pipe = loaded.pipe
        pipe.scheduler = build_scheduler(first.sampler, loaded.scheduler)
        negative: dict[str, Any] = {}
        if not type(pipe).__name__.startswith("Flux") and first.negative_prompt:
            negative["negative_prompt"] = [request.negative_prompt for request in requests]
        try:
            with torch.inference_mode():
                pipe(
                    [request.prompt for request in requests], width=first.width, height=first.height,
                    num_inference_steps=first.num_inference_steps, guidance_scale=first.guidance_scale,
                    generator=[torch.Generator().manual_seed(request.seed) for request in requests], output_type="np",
                    **negative,
                )  # fmt: skip
        finally:
            pipe.scheduler = loaded.scheduler


def interleaved(
    arms: dict[str, Callable[[], None]], rounds: int, prepare: Callable[[str], None] = lambda _: None
) -> dict[str, Times]:
    """Time each arm once a round, each round beginning with another one, so that what the machine does else meets all.

    `prepare` is told the name of the arm before each of its turns, which is not timed.
    """
    names = list(arms)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for name in names:
        prepare(name)
        arms[name]()  # warm-up
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            prepare(name)
            synchronize()
            started = time.perf_counter()
            arms[name]()
            synchronize()
            seconds[name].append(time.perf_counter() - started)
    return {name: Times(tuple(values)) for name, values in seconds.items()}


def synchronize() -> None:
    """Wait for the GPU."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def product_flops_per_s(dtype: torch.dtype, device: str) -> tuple[float, float, float]:
    """Measure a large matrix product, in operations a second: the median of nine, the least and the most."""
    size = 8192 if device.startswith("cuda") else 1024
    one, other = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    one @ other
    rates: list[float] = []
    for _ in range(9):
        synchronize()
        started = time.perf_counter()
        for _ in range(4):
            one @ other
        synchronize()
        rates.append(4 * 2 * size**3 / (time.perf_counter() - started))
    return statistics.median(rates), min(rates), max(rates)


def row_flops(engine: DiffusersEngine, request: GenerationRequest) -> float:
    """Count the operations of one denoiser row of a request."""
    from torch.utils.flop_counter import FlopCounterMode

    loaded = engine.residents.use(request.model)
    denoiser = loaded.family.denoiser  # type: ignore[union-attr]
    network, loaded.network = loaded.network, None  # a graph that is replayed has nothing to count
    forward, counted = denoiser.forward, []

    def counting(*args: Any, **kwargs: Any) -> Any:
        if counted:
            return forward(*args, **kwargs)
        with FlopCounterMode(display=False) as counter:
            output = forward(*args, **kwargs)
        rows = (args[0] if args else kwargs["hidden_states"]).shape[0]
        counted.append(counter.get_total_flops() / rows)
        return output

    denoiser.forward = counting
    try:
        engine.generate(request, Silent())
    finally:
        del denoiser.forward
        loaded.network = network
    return counted[0]


def row_gain(engine: DiffusersEngine, model: str, few: int, many: int, repeats: int = 9) -> tuple[float, float, float]:
    """Measure how much faster a row is among `many` than among `few`: the limit of what sharing passes can gain.

    The median of pairs of passes, one after the other, and the least and the most of them.
    """
    loaded = engine.residents.use(model)
    family = loaded.family
    assert family is not None
    call = loaded.network or family.forward
    request = GenerationRequest("a forest", "", model, *_size(engine, model), 1, 4, 4.0, 1, "Default")
    gains: list[float] = []
    with torch.inference_mode():
        words = family.encode(request).words
        latents = family.new_latents(request.width, request.height, torch.Generator().manual_seed(0), 1.0)
        inputs = {
            rows: (
                torch.cat([latents] * rows),
                torch.full((rows,), 500.0, device=latents.device),
                family.stack([words] * rows),
            )
            for rows in (few, many)
        }
        for turn in range(repeats + 1):
            took: dict[int, float] = {}
            for rows, given in inputs.items():
                synchronize()
                started = time.perf_counter()
                call(*given)
                synchronize()
                took[rows] = (time.perf_counter() - started) / rows
            if turn:  # the first is to warm up
                gains.append(took[few] / took[many])
    return statistics.median(gains), min(gains), max(gains)


def _size(engine: DiffusersEngine, model: str) -> tuple[int, int]:
    return engine.residents.use(model).spec.default_size
