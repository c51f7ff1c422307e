"""Pictures in the making, and one denoiser call for many of them.

A `Lane` is one picture: its state, its own timetable and position in it, its words, its guidance, its generator. A
`Formation` is the lanes that go through the denoiser together; it keeps their tensors stacked for as long as nobody joins or
leaves, and writes them back when it is dissolved. GPU thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bot.engine.conditioning.adapters import Changes, Weighted
from bot.engine.conditioning.image_prompts import ImageAttention, ImagePrompt
from bot.engine.families.base import CONTROL, INPAINTING, Conditioning, Family, draw_noise, random_walk
from bot.engine.lanes.canvas import Canvas, Control, Hint, Keep, Kept, Variation, begin_from, begin_noise
from bot.engine.lanes.timetables import Timetable, advance

if TYPE_CHECKING:
    import torch

    from bot.engine.lanes.networks import Network


@dataclass(slots=True, eq=False)
class Lane:
    """One picture in the making.

    `state` (states, ...): the sample first, then what its sampler remembers, float32 on the device. `owner` is whatever the
    engine keeps of the request; `member` is whose turn it is; `guided_turns` is after how many turns guidance is dropped; `walk`
    gives the noise between two sigmas where that is no draw from the generator; `keep` is what it keeps to outside of a mask, `hint` the
    control map it follows, `image_prompt` its reference picture, `loras` what its rows are drawn with besides.
    """

    owner: Any
    member: object
    n: int
    seed: int
    key: tuple[object, ...]
    table: Timetable
    conditioning: Conditioning
    generator: torch.Generator
    state: torch.Tensor
    guided_turns: int
    arrived: int = 0
    turn: int = 0
    walk: Callable[[float, float], torch.Tensor] | None = None
    keep: Keep | None = None
    hint: Hint | None = None
    image_prompt: ImagePrompt | None = None
    tiling: bool = False
    loras: Weighted = ()

    @property
    def done(self) -> bool:
        """Whether the last step is taken."""
        return self.turn >= self.table.turns

    @property
    def left(self) -> int:
        """How many turns it has still to take."""
        return self.table.turns - self.turn

    @property
    def guided(self) -> bool:
        """Whether the next turn takes two rows."""
        return self.conditioning.away_from is not None and self.turn < self.guided_turns

    @property
    def rows(self) -> int:
        """How many rows the next turn takes."""
        return 2 if self.guided else 1

    def fresh_noise(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """Draw the noise of the next turn as its scheduler would, (1, ...) float32, on the CPU."""
        if self.walk is None or self.table.walk is None:
            return draw_noise(shape, self.generator, "cpu", dtype).float()
        span = self.table.walk.spans[self.turn]
        assert span is not None
        return self.walk(*span)


def new_lane(
    family: Family,
    table: Timetable,
    conditioning: Conditioning,
    *,
    owner: Any,
    member: object,
    n: int,
    seed: int,
    size: tuple[int, int],
    model: str,
    arrived: int = 0,
    guidance_until: float = 1.0,
    canvas: Canvas | None = None,
    hint: Hint | None = None,
    image_prompt: ImagePrompt | None = None,
    base_seed: int | None = None,
    variation: float = 0.0,
    tiling: bool = False,
    loras: Weighted = (),
) -> Lane:
    """Begin a picture: `size` is (width, height) in pixels; from `guidance_until`, a share of its turns, guidance is dropped.

    `canvas` is the picture it begins from, whose `table` then has an entry; `hint` the control map it follows, `image_prompt` its reference picture; `loras`
    are those of the denoiser. With a `base_seed` it begins with noise that is `variation` of the way from that seed's to its own, and goes on with that
    seed's. With `tiling` opposite edges fit together.
    """
    import torch

    own = seed if base_seed is None else base_seed
    generator = torch.Generator("cpu").manual_seed(own)
    towards = None if base_seed is None else Variation(seed, variation)
    if canvas is None:
        start = begin_noise(family, table, size, generator, towards)
    else:
        start = begin_from(family, table, canvas, size, generator, towards)
    if start.more is not None:
        conditioning = conditioning.told(INPAINTING, start.more)
    sample = start.sample
    state = torch.zeros(table.state_size, *sample.shape[1:], dtype=torch.float32, device=sample.device)
    state[0] = sample[0]
    # The size, too: FLUX packs a picture and its upright twin into the same shape, and tells rows their places together.
    key = (model, size, tuple(sample.shape[1:]), family.shape(conditioning.words), tiling)
    guided_turns = round(guidance_until * table.turns)
    walk = None if table.walk is None else random_walk(table.walk, sample.shape, own)
    return Lane(
        owner, member, n, seed, key, table, conditioning, generator, state, guided_turns, arrived,
        walk=walk, keep=start.keep, hint=hint, image_prompt=image_prompt, tiling=tiling, loras=loras,
    )  # fmt: skip


class Formation:
    """Lanes of one key that share a forward pass."""

    def __init__(self, family: Family, lanes: Sequence[Lane], network: Network | None = None) -> None:
        """Stack the lanes' tensors; `step` may be called for as long as `fits` says so.

        `network` calls the denoiser as the levers have it; None is the family's own `forward`.
        """
        import torch

        self.lanes = tuple(lanes)
        self.family = family
        self._shape = _shape_of(lanes)
        device = lanes[0].state.device
        guided = [position for position, lane in enumerate(lanes) if lane.guided]
        words = [lane.conditioning.words for lane in lanes]
        words += [lane.conditioning.away_from for lane in lanes if lane.guided and lane.conditioning.away_from]
        lane_of_row = [*range(len(lanes)), *guided]
        hints = [lanes[position].hint for position in lane_of_row]
        controlled = any(hint is not None for hint in hints)
        self._added = _added(family, lanes, guided)
        # What is compiled or captured takes tensors alone, no residuals, no layers that do more, and pads with zeros.
        plain = network is None or controlled or lanes[0].tiling or bool(self._added)
        self._forward = family.forward if network is None or plain else network
        self._padding = 0 if network is None or plain else network.rows(len(words)) - len(words)
        # Any row will do for padding, and one that is drawn is no stranger to the model than its neighbours.
        self._words = family.stack([*words, *[words[0]] * self._padding])
        if controlled:
            self._words = {**self._words, CONTROL: Control(hints, lane_of_row, device, family.dtype)}
        self._all_guided = len(guided) == len(lanes)
        self._guided = torch.tensor(guided, device=device)
        ndim = lanes[0].state.ndim
        scales = [lanes[position].conditioning.guidance_scale for position in guided]
        self._scales = torch.tensor(scales, device=device).view(-1, *[1] * (ndim - 1))
        self._tables = _Tables(lanes, device)
        states = [torch.zeros(self._tables.states, *lane.state.shape[1:], device=device) for lane in lanes]
        for state, lane in zip(states, lanes, strict=True):
            state[: lane.table.state_size] = lane.state
        self._state = torch.stack(states)
        keeps = [lane.keep for lane in lanes]
        self._kept = Kept(keeps, self._state[:, 0]) if any(keep is not None for keep in keeps) else None
        self._entered: torch.Tensor | None = None
        self._output: torch.Tensor | None = None

    @property
    def rows(self) -> int:
        """How many rows its forward pass has, those that pad it left out."""
        return len(self.lanes) + len(self._guided)

    def fits(self, lanes: Sequence[Lane]) -> bool:
        """Whether these are exactly its lanes, guided as they were."""
        return _shape_of(lanes) == self._shape

    def step(self) -> None:
        """Call the denoiser once and take every lane one step on. Nothing waits for the GPU.

        Where it raises, for want of memory above all, every lane is as it was and may step again, here or elsewhere.
        """
        import torch

        count = len(self.lanes)
        timesteps, scales, updates, amounts = self._tables.now()
        entering = (self._state[:, 0] * scales.view(-1, *[1] * (self._state.ndim - 2))).to(self.family.dtype)
        rows, told = entering, timesteps
        if len(self._guided):
            rows = torch.cat([entering, entering if self._all_guided else entering[self._guided]])
            told = torch.cat([timesteps, timesteps if self._all_guided else timesteps[self._guided]])
        if self._padding:
            rows = torch.cat([rows, rows[:1].expand(self._padding, *rows.shape[1:])])
            told = torch.cat([told, told[:1].expand(self._padding)])
        with ExitStack() as stack:
            stack.enter_context(self.family.tiled(self.lanes[0].tiling))
            for added in self._added:
                stack.enter_context(added.in_place())
            output = self._forward(rows, told, self._words)[: self.rows].float()
        if len(self._guided):
            towards, away = output[:count], output[count:]
            if self._all_guided:
                output = away + self._scales * (towards - away)
            else:
                output = towards.index_copy(0, self._guided, away + self._scales * (towards[self._guided] - away))
        state = self._advanced(output, updates)
        if self._kept is not None:
            state = torch.cat([self._kept.apply(state[:, 0], amounts)[:, None], state[:, 1:]], 1)
        self._state = state
        self._entered, self._output = entering, output
        self._tables.move_on()
        for lane in self.lanes:
            lane.turn += 1

    def dissolve(self) -> None:
        """Give every lane its own state back; the formation must not step after that."""
        for position, lane in enumerate(self.lanes):
            lane.state = self._state[position, : lane.table.state_size].clone()

    def sample(self, lane: Lane) -> torch.Tensor:
        """A lane's latents as they are now, (1, ...) float32."""
        return self._state[self.lanes.index(lane), 0][None]

    def last(self, lane: Lane) -> tuple[torch.Tensor, torch.Tensor] | None:
        """What entered the denoiser for a lane last, and what came out, (1, ...) each; None before the first step."""
        if self._entered is None or self._output is None:
            return None
        position = self.lanes.index(lane)
        return self._entered[position : position + 1], self._output[position : position + 1]

    def _advanced(self, output: torch.Tensor, updates: torch.Tensor) -> torch.Tensor:
        """The state after a step; noise that was drawn in vain is put back."""
        noisy = [lane.generator for lane in self.lanes if lane.table.noisy[lane.turn]]
        before = [generator.get_state() for generator in noisy]
        try:
            return advance(self._state, output, self._noise(output), updates)
        except BaseException:
            for generator, state in zip(noisy, before, strict=True):
                generator.set_state(state)
            raise

    def _noise(self, like: torch.Tensor) -> torch.Tensor:
        """Fresh noise for the lanes whose step takes some, from their own generators, as their scheduler would draw it."""
        import torch

        noisy = [lane.table.noisy[lane.turn] for lane in self.lanes]
        if not any(noisy):
            return torch.zeros_like(like)
        shape = (1, *like.shape[1:])
        drawn = [
            lane.fresh_noise(shape, self.family.dtype) if takes else torch.zeros(shape)
            for lane, takes in zip(self.lanes, noisy, strict=True)
        ]
        return without_waiting(torch.cat(drawn), like.device)


class _Tables:
    """The timetables of some lanes on the device, end to end, and each lane's place in them."""

    def __init__(self, lanes: Sequence[Lane], device: torch.device) -> None:
        import torch

        self.states = max(lane.table.state_size for lane in lanes)
        tables = {id(lane.table): lane.table for lane in lanes}
        starts: dict[int, int] = {}
        for identity in tables:
            starts[identity] = sum(tables[earlier].turns for earlier in starts)
        self._timesteps = torch.cat([table.timesteps for table in tables.values()]).to(device)
        self._scales = torch.tensor([scale for table in tables.values() for scale in table.input_scales], device=device)
        nothing = (0.0, 0.0)
        amounts = [pair for table in tables.values() for pair in table.kept or [nothing] * table.turns]
        self._amounts = torch.tensor(amounts, device=device)
        self._updates = torch.cat([self._widened(table.updates) for table in tables.values()]).to(device)
        self._places = torch.tensor([starts[id(lane.table)] + lane.turn for lane in lanes], device=device)

    def now(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """What belongs to this turn of each lane.

        Timesteps (lanes,), input scales (lanes,), update matrices (lanes, states, states + 2), and how much of a picture's latents and
        of noise is kept after it (lanes, 2).
        """
        places = self._places
        return self._timesteps[places], self._scales[places], self._updates[places], self._amounts[places]

    def move_on(self) -> None:
        """Go to the next turn of every lane."""
        self._places = self._places + 1

    def _widened(self, updates: torch.Tensor) -> torch.Tensor:
        """Give matrices of a smaller state the common size; what is added stays zero."""
        import torch

        turns, states, _ = updates.shape
        wide = torch.zeros(turns, self.states, self.states + 2)
        wide[:, :states, :states] = updates[:, :, :states]
        wide[:, :states, self.states :] = updates[:, :, states:]
        return wide


def _added(family: Family, lanes: Sequence[Lane], guided: Sequence[int]) -> list[Changes | ImageAttention]:
    """Gather what the denoiser's layers do besides for rows of a pass, in the order in which it is put in place."""
    found: list[Changes | ImageAttention] = []
    loras = [lane.loras for lane in lanes]
    loras += [loras[position] for position in guided]
    if any(loras):
        found.append(Changes(family.denoiser, family.denoiser_name, loras))
    told = [None if lane.image_prompt is None else lane.image_prompt.towards for lane in lanes]
    prompts = [lanes[position].image_prompt for position in guided]
    told += [None if prompt is None else prompt.away_from for prompt in prompts]
    if any(seen is not None for seen in told):
        found.append(ImageAttention(family.denoiser, told))
    return found


def without_waiting(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor of the CPU to a device; to CUDA through pinned memory, since from elsewhere the copy waits for the GPU."""
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def _shape_of(lanes: Sequence[Lane]) -> tuple[tuple[int, bool], ...]:
    return tuple((id(lane), lane.guided) for lane in lanes)
