"""What a lane begins from and keeps to besides words: a picture under noise, a mask, a control map. GPU thread.

Noise is drawn in the order of diffusers' own image-to-image and inpainting pipelines, so that a seed means the same picture here.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bot.generation import InputPictures, RawPicture

if TYPE_CHECKING:
    import torch

    from bot.engine.families.base import Family
    from bot.engine.lanes.timetables import Timetable

FEATHER = 64
"""A redrawn part fades into the picture over its shorter side's share of one in so many, inside the mask."""

Encoded = Callable[["torch.Generator"], "torch.Tensor"]
"""Draws latents from what a VAE made of a picture, (1, channels, h, w), scaled for the denoiser."""


@dataclass(frozen=True, slots=True)
class Canvas:
    """A request's input pictures, encoded: the same for all of its lanes.

    `mask` (1, 1, h, w), of the latents' size: 1 is redrawn; None redraws everything. `masked` draws the latents of the picture
    without what is redrawn, which weights that were made for inpainting are told; others keep to the picture after each step. `pixels` (height,
    width, 3) on [0, 1] and `alpha` (height, width, 1): what is pasted over the result outside of the mask, and how much of the
    result shows; on the CPU.
    """

    picture: Encoded
    strength: float
    mask: torch.Tensor | None = None
    masked: Encoded | None = None
    pixels: torch.Tensor | None = None
    alpha: torch.Tensor | None = None

    def paste(self, drawn: torch.Tensor) -> torch.Tensor:
        """Put what was drawn, (height, width, 3) on [0, 1], into the picture it was drawn from."""
        if self.pixels is None or self.alpha is None:
            return drawn
        return drawn * self.alpha + self.pixels * (1 - self.alpha)


@dataclass(frozen=True, slots=True)
class Keep:
    """What a lane keeps to after each step: `mask` (1, 1, h, w) or packed, 1 being free; latents and noise (1, ...)."""

    mask: torch.Tensor
    latents: torch.Tensor
    noise: torch.Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Hint:
    """A control map (1, 3, height, width) on [0, 1], the network that reads it, and how much it counts.

    `mode` is the number of the map's kind to a network that reads several kinds; None to one that reads one.
    """

    network: Any
    pixels: torch.Tensor
    scale: float
    mode: int | None = None


@dataclass(frozen=True, slots=True)
class Beginning:
    """A lane's first sample (1, ...), what it keeps to, and what is told to each of its rows besides words."""

    sample: torch.Tensor
    keep: Keep | None = None
    more: torch.Tensor | None = None


def make_canvas(family: Family, inputs: InputPictures, strength: float) -> Canvas | None:
    """Encode a request's pictures, which have its size; None where there is none to begin from."""
    import torch

    if inputs.image is None:
        return None
    pixels = floats(inputs.image)
    picture = family.encode_picture(signed(pixels))
    if inputs.mask is None:
        return Canvas(picture, strength)
    redrawn = (floats(inputs.mask).mean(-1, keepdim=True) >= 0.5).float()
    height, width = redrawn.shape[:2]
    factor = family.pipe.vae_scale_factor
    small = torch.nn.functional.interpolate(
        redrawn.permute(2, 0, 1)[None], size=(height // factor, width // factor)
    ).to(family.device, family.dtype)
    masked = family.encode_picture(signed(pixels) * (1 - redrawn.permute(2, 0, 1)[None]))
    return Canvas(picture, strength, small, masked, pixels, feathered(redrawn))


@dataclass(frozen=True, slots=True)
class Variation:
    """Noise between two seeds': that of the lane's generator and, at `amount` 1, that of `seed`."""

    seed: int
    amount: float

    def of(self, family: Family, size: tuple[int, int], noise: torch.Tensor) -> torch.Tensor:
        """Go this far from a lane's own noise, on the sphere that noise of its length lies on."""
        import torch

        other = family.raw_noise(*size, torch.Generator("cpu").manual_seed(self.seed))
        return spherical(noise, other, self.amount)


def spherical(one: torch.Tensor, other: torch.Tensor, amount: float) -> torch.Tensor:
    """Interpolate along the great circle (K. Shoemake, 1985), so that what is between two noises is noise, too."""
    import torch

    a, b = one.double(), other.double()
    cosine = (a * b).sum() / ((a * a).sum() * (b * b).sum()).sqrt()
    angle = torch.acos(cosine.clamp(-1, 1))
    if float(torch.sin(angle)) < 1e-6:
        return one
    return ((torch.sin((1 - amount) * angle) * a + torch.sin(amount * angle) * b) / torch.sin(angle)).to(one.dtype)


def begin_noise(
    family: Family, table: Timetable, size: tuple[int, int], generator: torch.Generator,
    variation: Variation | None = None,
) -> Beginning:  # fmt: skip
    """Begin with noise alone."""
    if variation is None:
        return Beginning(family.new_latents(*size, generator, table.init_noise_sigma))
    noise = variation.of(family, size, family.raw_noise(*size, generator))
    return Beginning(family.pack(noise * table.init_noise_sigma))


def begin_from(
    family: Family, table: Timetable, canvas: Canvas, size: tuple[int, int], generator: torch.Generator,
    variation: Variation | None = None,
) -> Beginning:  # fmt: skip
    """Begin with a picture under noise; with a mask and full strength it is noise alone, kept to the picture outside of it."""
    import torch

    assert table.entry is not None
    pure = canvas.mask is not None and canvas.strength >= 1.0
    latents = None if pure and family.inpaints else canvas.picture(generator)
    noise = family.raw_noise(*size, generator)
    if variation is not None:
        noise = variation.of(family, size, noise)
    if pure:
        sample = noise * table.init_noise_sigma
    else:
        assert latents is not None
        sample = table.entry[0] * latents + table.entry[1] * noise
    if canvas.mask is None:
        return Beginning(family.pack(sample))
    assert canvas.masked is not None
    outside = canvas.masked(generator)  # drawn by the pipelines even where nobody is told, and noise comes after it
    if family.inpaints:
        return Beginning(family.pack(sample), more=torch.cat([canvas.mask, outside], 1))
    assert latents is not None
    mask = family.pack(canvas.mask.expand_as(latents))
    return Beginning(family.pack(sample), Keep(mask, family.pack(latents), family.pack(noise)))


class Kept:
    """What the lanes of a formation keep to, stacked; those without a mask keep to nothing."""

    def __init__(self, keeps: Sequence[Keep | None], like: torch.Tensor) -> None:
        """`like` (lanes, ...): the lanes' samples. One at least has something to keep to."""
        import torch

        self._free = torch.ones_like(like)
        self._latents, self._noise = torch.zeros_like(like), torch.zeros_like(like)
        for place, keep in enumerate(keeps):
            if keep is not None:
                self._free[place] = keep.mask[0]
                self._latents[place], self._noise[place] = keep.latents[0], keep.noise[0]

    def apply(self, samples: torch.Tensor, amounts: torch.Tensor) -> torch.Tensor:
        """Give the samples (lanes, ...) back with what is kept, noised by `amounts` (lanes, 2): of the picture, and of noise."""
        shape = (-1, *[1] * (samples.ndim - 1))
        kept = amounts[:, 0].view(shape) * self._latents + amounts[:, 1].view(shape) * self._noise
        return (1 - self._free) * kept + self._free * samples


@dataclass(frozen=True, slots=True)
class _Call:
    """One call of a control network: for which rows, how much each counts (rows, 1, 1, 1), and what it is told of their maps.

    `apart` (rows, rows) is added to what rows see of each other, where the network lets them.
    """

    network: Any
    places: torch.Tensor
    scales: torch.Tensor
    maps: dict[str, Any]
    apart: torch.Tensor | None = None

    @contextmanager
    def lanes_apart(self) -> Generator[None]:
        """Let rows see none of other lanes meanwhile."""
        layers: list[Any] = [] if self.apart is None else list(self.network.transformer_layes)  # diffusers' spelling
        for layer in layers:
            layer.attn_mask = self.apart
        try:
            yield
        finally:
            for layer in layers:
                layer.attn_mask = None


def _of_kinds(call: _Call, modes: Sequence[int], lanes: Sequence[int]) -> _Call:
    """Tell a network that reads maps of several kinds which one each row has."""
    import torch

    pixels: torch.Tensor = call.maps["controlnet_cond"]
    kinds, owners = (torch.tensor(each, device=pixels.device) for each in (modes, lanes))
    one_hot = torch.nn.functional.one_hot(kinds, call.network.config.num_control_type).to(pixels.dtype)
    # Its forward looks an embedding up by the kind: given one a row, rows of different kinds share the call.
    maps = {"controlnet_cond": [pixels], "control_type": one_hot, "control_type_idx": [kinds]}
    # Its attention runs over the rows of the batch, not over the maps of a row (`nn.MultiheadAttention` without batch_first): what a
    # pipeline's call has is one picture, with the row it is guided away from. The mask leaves each lane these two.
    apart = torch.zeros(len(owners), len(owners), device=pixels.device, dtype=pixels.dtype)
    apart = apart.masked_fill(owners[:, None] != owners[None, :], float("-inf"))
    return replace(call, maps=maps, apart=apart)


class Control:
    """The control networks of a formation's rows: each is called once for the rows that have it, the others get nothing of it."""

    def __init__(self, hints: Sequence[Hint | None], lanes: Sequence[int], device: Any, dtype: Any) -> None:
        """`hints`: what each row of the pass has, one at least having one; `lanes`: of which lane each row is."""
        import torch

        self._rows = len(hints)
        self._calls: list[_Call] = []
        networks = {id(hint.network): hint.network for hint in hints if hint is not None}
        for identity, network in networks.items():
            places = [place for place, hint in enumerate(hints) if hint is not None and id(hint.network) == identity]
            mine = [hint for hint in hints if hint is not None and id(hint.network) == identity]
            pixels = torch.cat([hint.pixels for hint in mine]).to(device, dtype)
            scales = torch.tensor([hint.scale for hint in mine], device=device, dtype=dtype).view(-1, 1, 1, 1)
            modes = [hint.mode for hint in mine if hint.mode is not None]
            call = _Call(network, torch.tensor(places, device=device), scales, {"controlnet_cond": pixels})
            self._calls.append(_of_kinds(call, modes, [lanes[place] for place in places]) if modes else call)

    def residuals(
        self, latents: torch.Tensor, timesteps: torch.Tensor, words: torch.Tensor, added: dict[str, torch.Tensor]
    ) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Give what is added to the UNet's blocks for these rows: on the way down, and in the middle."""
        down: list[torch.Tensor] = []
        middle: torch.Tensor | None = None
        for call in self._calls:
            places = call.places
            told = {name: value[places] for name, value in added.items()}
            with call.lanes_apart():
                parts, last = call.network(
                    latents[places], timesteps[places], encoder_hidden_states=words[places],
                    added_cond_kwargs=told or None, return_dict=False, **call.maps,
                )  # fmt: skip
            spread = [self._spread(part * call.scales, places) for part in [*parts, last]]
            down = [one + other for one, other in zip(down, spread, strict=False)] if down else spread[:-1]
            middle = spread[-1] if middle is None else middle + spread[-1]
        assert middle is not None
        return down, middle

    def _spread(self, part: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        import torch

        if len(part) == self._rows:
            return part
        return torch.zeros(self._rows, *part.shape[1:], device=part.device, dtype=part.dtype).index_copy(
            0, places, part
        )


def floats(picture: RawPicture) -> torch.Tensor:
    """Give a picture's pixels as (height, width, 3) float32 on [0, 1]."""
    import torch

    flat = torch.frombuffer(bytearray(picture.pixels), dtype=torch.uint8)
    return flat.view(picture.height, picture.width, 3).float() / 255


def planes(pixels: torch.Tensor) -> torch.Tensor:
    """Turn (height, width, 3) into (1, 3, height, width)."""
    return pixels.permute(2, 0, 1)[None].contiguous()


def signed(pixels: torch.Tensor) -> torch.Tensor:
    """Turn (height, width, 3) on [0, 1] into (1, 3, height, width) on [-1, 1], as VAEs take pictures."""
    return planes(pixels) * 2 - 1


def feathered(redrawn: torch.Tensor) -> torch.Tensor:
    """Soften a mask (height, width, 1) of zeros and ones towards its inside; outside it stays zero."""
    import torch

    height, width = redrawn.shape[:2]
    reach = max(1, min(height, width) // FEATHER)
    mean = torch.nn.functional.avg_pool2d(
        redrawn.permute(2, 0, 1)[None], 2 * reach + 1, stride=1, padding=reach, count_include_pad=False
    )
    return (mean[0].permute(1, 2, 0) * 2 - 1).clamp(0, 1) * redrawn
