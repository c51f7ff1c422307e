"""What a diffusers scheduler does in a whole run, read off it once as small matrices.

A sampler's step is linear in the sample, the model's output, fresh noise and what the scheduler remembers of earlier steps
(its *memory*: earlier outputs, an earlier sample). So one run of diffusers' own scheduler on basis vectors tells all
coefficients, and the steps of pictures with different samplers and positions become one batched matrix product. What a
scheduler does that is not linear (clipping, thresholding) shows in a rehearsal against the scheduler itself, and is refused.

GPU thread, since schedulers are of torch; nothing here touches the GPU.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    import torch

MEMORIES = 8
"""How many earlier tensors a scheduler may remember; those of diffusers remember four at most."""
_SAMPLE, _OUTPUT, _NOISE, _FIRST_MEMORY = 0, 1, 2, 3
_WIDTH = _FIRST_MEMORY + MEMORIES
_REHEARSAL_ERROR = 2e-5


class NotLinear(Exception):
    """The scheduler's steps are no linear functions, or remember more than is followed here."""


@dataclass(frozen=True, slots=True)
class Walk:
    """Noise that is the way of a random walk between two moments, and no draw by itself (the SDE solvers').

    `least` and `most` are the sigmas it reaches over; `spans`: each turn's own from and to, None where it takes no noise.
    """

    least: float
    most: float
    spans: tuple[tuple[float, float] | None, ...]


@dataclass(frozen=True, slots=True)
class Timetable:
    """A run of `turns` denoiser calls: what goes in, and how its output is taken.

    `timesteps` (turns,): what the denoiser is told, float32. `input_scales`: the sample is multiplied by it before the denoiser.
    `updates` (turns, state, state + 2), float32: the state is the sample and the memories; each step's new state is
    this matrix times (state, output, noise). `noisy`: whether a step takes fresh noise; `walk`: of which kind, where it is not
    drawn from the generator. Where it begins with a picture, `entry` is how much of the picture's latents and of noise make the
    first sample, and `kept` how much of both is what a picture would be after each turn. All on the CPU.
    """

    timesteps: torch.Tensor
    input_scales: tuple[float, ...]
    updates: torch.Tensor
    noisy: tuple[bool, ...]
    init_noise_sigma: float
    walk: Walk | None = None
    entry: tuple[float, float] | None = None
    kept: tuple[tuple[float, float], ...] = ()

    @property
    def turns(self) -> int:
        """How many times the denoiser is called."""
        return len(self.input_scales)

    @property
    def state_size(self) -> int:
        """How many tensors of the sample's shape are carried from step to step, the sample among them."""
        return self.updates.shape[1]


def read_timetable(scheduler: Any, begin: int | None = None) -> Timetable:
    """Read the timetable off a scheduler whose `set_timesteps` has been called; the scheduler is used up.

    `begin` is the position among its timesteps where a picture that is there already enters; None begins with noise alone.
    Raises NotLinear where it has none.
    """
    import copy

    import torch

    sigma = float(scheduler.init_noise_sigma) if hasattr(scheduler, "init_noise_sigma") else 1.0
    timesteps = list(scheduler.timesteps)[begin or 0 :]
    if begin is not None and hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(begin)
    rehearsed = copy.deepcopy(scheduler)
    entry = None if begin is None else _noised(scheduler, timesteps[0])
    kept: list[tuple[float, float]] = []
    memory = _Memory(scheduler)
    scales: list[float] = []
    matrices: list[torch.Tensor] = []
    noisy: list[bool] = []
    spans: list[tuple[float, float] | None] = []
    with _noise_of(scheduler, lambda: _unit(_NOISE)) as asked:
        for timestep in timesteps:
            memory.relabel()
            scales.append(_scale(scheduler, timestep))
            before = asked.times
            moved = _step(scheduler, _unit(_OUTPUT), timestep, _unit(_SAMPLE))
            if asked.times - before > 1:
                raise NotLinear("a step takes noise twice")
            noisy.append(asked.times > before)
            spans.append(asked.span if noisy[-1] else None)
            matrices.append(_rows([moved, *memory.read()]))
            if begin is not None:
                ended = len(matrices) == len(timesteps)
                kept.append((1.0, 0.0) if ended else _noised(scheduler, timesteps[len(matrices)]))
    updates = _without_the_dead(matrices)
    table = Timetable(
        torch.stack([t.detach().float().cpu().reshape(()) for t in timesteps]),
        tuple(scales),
        updates,
        tuple(noisy),
        sigma,
        None if asked.reach is None else Walk(*asked.reach, tuple(spans)),
        entry,
        tuple(kept),
    )
    _rehearse(table, rehearsed, len(rehearsed.timesteps) - len(timesteps))
    return table


def advance(state: torch.Tensor, output: torch.Tensor, noise: torch.Tensor, update: torch.Tensor) -> torch.Tensor:
    """Take one step of many pictures at once.

    `state` (pictures, states, ...), `output` and `noise` (pictures, ...), `update` (pictures, states, states + 2): each
    picture's own matrix. Returns the new state, like `state`.
    """
    import torch

    flat = torch.cat([state.flatten(2), output.flatten(1)[:, None], noise.flatten(1)[:, None]], 1)
    return torch.bmm(update, flat).view(state.shape)


class _Memory:
    """The tensors that a scheduler keeps between steps, found by their shape and replaced by basis vectors."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._places: list[tuple[str, int | None]] = []

    def relabel(self) -> None:
        for number, (name, index) in enumerate(self._places):
            held = self._held(name, index)
            if held is None:
                continue
            fresh = _unit(_FIRST_MEMORY + number).to(held.dtype)
            if index is None:
                setattr(self._scheduler, name, fresh)
            else:
                getattr(self._scheduler, name)[index] = fresh

    def read(self) -> list[torch.Tensor | None]:
        for place in self._found():
            if place not in self._places:
                self._places.append(place)
        if len(self._places) > MEMORIES:
            raise NotLinear("the scheduler remembers too much")
        return [self._held(name, index) for name, index in self._places]

    def _found(self) -> Iterator[tuple[str, int | None]]:
        attributes = cast(dict[str, Any], vars(self._scheduler))
        for name, value in attributes.items():
            if _is_probe(value):
                yield name, None
            elif isinstance(value, list):
                items = cast(list[Any], value)
                yield from ((name, index) for index, item in enumerate(items) if _is_probe(item))

    def _held(self, name: str, index: int | None) -> torch.Tensor | None:
        value: Any = getattr(self._scheduler, name)
        if index is not None:
            value = value[index] if len(value) > index else None
        return value if _is_probe(value) else None


def _unit(place: int) -> torch.Tensor:
    import torch

    vector = torch.zeros(1, _WIDTH, 1, 1, dtype=torch.float64)
    vector[0, place] = 1
    return vector


def _is_probe(value: Any) -> bool:
    return getattr(value, "shape", None) == (1, _WIDTH, 1, 1)


def _rows(vectors: list[torch.Tensor | None]) -> torch.Tensor:
    """Stack what the sample and each memory have become, (1 + MEMORIES, _WIDTH)."""
    import torch

    matrix = torch.zeros(1 + MEMORIES, _WIDTH, dtype=torch.float64)
    for number, vector in enumerate(vectors):
        if vector is not None:
            matrix[number] = vector.flatten()
    return matrix


def _without_the_dead(matrices: list[torch.Tensor]) -> torch.Tensor:
    """Leave out the memories that never reach the sample; columns become (sample, memories, output, noise)."""
    import torch

    needed = {0}
    for matrix in [*reversed(matrices)] * 2:
        for row in tuple(needed):
            needed |= {1 + memory for memory in range(MEMORIES) if float(matrix[row, _FIRST_MEMORY + memory]) != 0.0}
    rows = sorted(needed)
    columns = [_SAMPLE, *(_FIRST_MEMORY + row - 1 for row in rows[1:]), _OUTPUT, _NOISE]
    return torch.stack([matrix[rows][:, columns] for matrix in matrices]).float()


def _scale(scheduler: Any, timestep: Any) -> float:
    import torch

    if not hasattr(scheduler, "scale_model_input"):
        return 1.0
    scaled = scheduler.scale_model_input(_unit(_SAMPLE), timestep).flatten()
    factor = float(scaled[_SAMPLE])
    if not torch.equal(scaled, (_unit(_SAMPLE).to(scaled.dtype) * factor).flatten()):
        raise NotLinear("the input is not only scaled")
    return factor


def _step(scheduler: Any, output: torch.Tensor, timestep: Any, sample: torch.Tensor) -> torch.Tensor:
    takes = inspect.signature(scheduler.step).parameters
    more: dict[str, Any] = {"generator": None} if "generator" in takes else {}
    return scheduler.step(output, timestep, sample, return_dict=False, **more)[0]


@dataclass(slots=True)
class _Asked:
    """How often a scheduler has asked for noise; where that is a walk's, the sigmas it reaches over and those asked for last."""

    times: int = 0
    reach: tuple[float, float] | None = None
    span: tuple[float, float] | None = None


@contextmanager
def _noise_of(scheduler: Any, noise: Callable[[], torch.Tensor]) -> Generator[_Asked]:
    """Let the scheduler's steps take their noise from `noise`."""
    module: Any = sys.modules[type(scheduler).__module__]
    asked = _Asked()

    def drawn(*_: Any, **options: Any) -> torch.Tensor:
        asked.times += 1
        return noise().to(options.get("dtype"))

    def walked(_: Any, least: float, most: float, *__: Any) -> Callable[[Any, Any], torch.Tensor]:
        asked.reach = (float(least), float(most))

        def between(one: Any, other: Any) -> torch.Tensor:
            asked.times += 1
            asked.span = (float(one), float(other))
            return noise()

        return between

    ours = {"randn_tensor": drawn, "BrownianTreeNoiseSampler": walked}
    theirs = {name: getattr(module, name) for name in ours if hasattr(module, name)}
    for name in theirs:
        setattr(module, name, ours[name])
    try:
        yield asked
    finally:
        for name, original in theirs.items():
            setattr(module, name, original)


def _noised(scheduler: Any, timestep: Any) -> tuple[float, float]:
    """Tell how much of a picture and of noise the scheduler's noising makes a sample of, at a timestep."""
    at = timestep.reshape(1)
    if hasattr(scheduler, "add_noise"):
        noised = scheduler.add_noise(_unit(_SAMPLE), _unit(_NOISE), at).flatten()
    else:
        noised = scheduler.scale_noise(_unit(_SAMPLE), at, _unit(_NOISE)).flatten()
    return float(noised[_SAMPLE]), float(noised[_NOISE])


def _rehearse(table: Timetable, scheduler: Any, begin: int = 0) -> None:
    """Run the scheduler itself beside the timetable, on numbers by chance. Raises NotLinear where they part."""
    import torch

    chance = torch.Generator().manual_seed(0)
    shape = (1, 4, 8, 8)

    def draw() -> torch.Tensor:
        return torch.randn(shape, generator=chance)

    sample = draw() * table.init_noise_sigma
    state = torch.zeros(1, table.state_size, *shape[1:])
    state[:, 0] = sample
    noise = draw()
    with _noise_of(scheduler, lambda: noise):
        for turn, timestep in enumerate(scheduler.timesteps[begin:]):
            noise, output = draw(), draw()
            if hasattr(scheduler, "scale_model_input"):
                scheduler.scale_model_input(sample, timestep)
            # Rounding is as large as what goes in: where noise begins without any signal, that is a thousand times the rest.
            size = max(1.0, float(sample.abs().max()))
            sample = _step(scheduler, output, timestep, sample)
            state = advance(state, output, noise, table.updates[turn : turn + 1])
            if not float((state[:, 0] - sample).abs().max()) <= _REHEARSAL_ERROR * max(size, float(sample.abs().max())):
                raise NotLinear(f"step {turn} of {type(scheduler).__name__} is no linear function")
            # From here on as the scheduler has it, or rounding would add up over the run.
            state[:, 0] = sample
