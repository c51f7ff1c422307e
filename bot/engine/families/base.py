"""What lanes need of a model: words for its rows, noise to begin with, one forward pass, pictures from latents.

GPU thread. Shapes: `rows` is how many rows a forward pass has, a picture with guidance having two.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bot.engine.lanes.timetables import Walk
from bot.generation import GenerationRequest

if TYPE_CHECKING:
    import torch


INPAINTING = "inpainting"
"""The name of what rows of inpainting weights are told besides: the mask and the latents outside of it, (1, 1 + channels, h, w)."""
CONTROL = "control"
"""The name under which `forward` finds the control networks of its rows."""


@dataclass(frozen=True, slots=True)
class Words:
    """What one row is told besides its latents: tensors with a leading 1, by the denoiser's own names for them."""

    tensors: Mapping[str, torch.Tensor]

    @property
    def shape(self) -> tuple[object, ...]:
        """The shapes of all tensors, with their names."""
        return tuple((name, tuple(value.shape)) for name, value in sorted(self.tensors.items()))

    def told(self, name: str, value: torch.Tensor) -> Words:
        """Give the same words with one tensor more."""
        return Words({**self.tensors, name: value})


@dataclass(frozen=True, slots=True)
class Conditioning:
    """A picture's words, the words to be guided away from (None: one row is enough), and how strongly; 1 is not at all."""

    words: Words
    away_from: Words | None
    guidance_scale: float

    def told(self, name: str, value: torch.Tensor) -> Conditioning:
        """Give the same conditioning with one tensor more for each row."""
        away_from = None if self.away_from is None else self.away_from.told(name, value)
        return Conditioning(self.words.told(name, value), away_from, self.guidance_scale)


class Family(ABC):
    """A pipeline, taken apart: its text encoders, denoiser and VAE as diffusers made them."""

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe

    @functools.cached_property
    def device(self) -> Any:
        """Where it computes."""
        return self.pipe._execution_device

    @property
    @abstractmethod
    def denoiser(self) -> Any:
        """The network that is called at every step."""

    @functools.cached_property
    def denoiser_name(self) -> str:
        """What the pipeline calls it."""
        return next(name for name, part in self.pipe.components.items() if part is self.denoiser)

    @functools.cached_property
    def dtype(self) -> torch.dtype:
        """The dtype of latents that enter the denoiser; kept, since asking diffusers walks over all its modules."""
        return self.denoiser.dtype

    takes_pictures = False
    """Whether its lanes may begin from a picture."""

    @property
    def inpaints(self) -> bool:
        """Whether its weights were made for inpainting: each row is told the mask and what lies outside of it."""
        return False

    @contextmanager
    def tiled(self, tiling: bool) -> Generator[None]:
        """Let the denoiser and the VAE take what lies beyond an edge from the opposite one, where `tiling` says so."""
        yield

    def expresses(self, request: GenerationRequest) -> bool:
        """Whether lanes draw this request as the pipeline does; what they do not, the pipeline draws itself."""
        return True

    @abstractmethod
    def encode(self, request: GenerationRequest) -> Conditioning:
        """Run the text encoders over a request's prompts."""

    def plainly(self, prompt: str) -> str:
        """Give a prompt as the pipeline itself takes it: the words alone, where it may have weights."""
        return prompt

    def spelled(self, request: GenerationRequest) -> dict[str, torch.Tensor]:
        """Embed a request's prompts where the pipeline cannot read them itself, by the names its call has for them, (1, ...) each."""
        return {}

    def unread(self, prompt: str) -> str:
        """Give the end of a prompt that is not read, since it is too long; empty where all of it is."""
        return ""

    @abstractmethod
    def set_timesteps(self, scheduler: Any, request: GenerationRequest) -> None:
        """Prepare a scheduler for a request, as the pipeline's own call does."""

    @abstractmethod
    def noise_shape(self, width: int, height: int) -> tuple[int, ...]:
        """The shape of the noise one picture of width × height pixels begins with, (1, channels, h, w)."""

    def new_latents(self, width: int, height: int, generator: torch.Generator, sigma: float) -> torch.Tensor:
        """Draw the noise a picture begins with, (1, ...); the generator is one of the CPU."""
        return self.pack(self.raw_noise(width, height, generator) * sigma)

    def raw_noise(self, width: int, height: int, generator: torch.Generator) -> torch.Tensor:
        """Draw noise of `noise_shape`; the generator is one of the CPU."""
        return draw_noise(self.noise_shape(width, height), generator, self.device, self.dtype)

    def pack(self, latents: torch.Tensor) -> torch.Tensor:
        """Put latents (1, channels, h, w) as the denoiser takes them."""
        return latents

    def first_step(self, steps: int, strength: float) -> int:
        """Tell at which of its steps a picture enters, of which the last `strength` are taken."""
        return max(steps - min(int(steps * strength), steps), 0)

    def encode_picture(self, pixels: torch.Tensor) -> Callable[[torch.Generator], torch.Tensor]:
        """Encode a picture (1, 3, height, width) on [-1, 1]; give what draws its latents, scaled for the denoiser."""
        vae: Any = self.pipe.vae
        encoded = vae.encode(pixels.to(self.device, vae.dtype))
        return lambda generator: self.scaled(_drawn_latents(encoded, generator).to(self.dtype))

    def scaled(self, latents: torch.Tensor) -> torch.Tensor:
        """Scale what the VAE encodes for the denoiser."""
        config = self.pipe.vae.config
        return (latents - (getattr(config, "shift_factor", None) or 0.0)) * config.scaling_factor

    def shape(self, words: Words) -> tuple[object, ...]:
        """What must be equal for rows with these words to be stacked."""
        return words.shape

    def stack(self, words: Sequence[Words]) -> dict[str, Any]:
        """Put the words of rows together, whose `shape` is the same, as `forward` takes them."""
        import torch

        return {name: torch.cat([row.tensors[name] for row in words]) for name in words[0].tensors}

    @abstractmethod
    def forward(self, latents: torch.Tensor, timesteps: torch.Tensor, words: dict[str, Any]) -> torch.Tensor:
        """Call the denoiser once: `latents` (rows, ...), `timesteps` (rows,), `words` as `stack` gives them.

        Returns its output, like `latents`.
        """

    @abstractmethod
    def decode(self, latents: torch.Tensor, width: int, height: int) -> torch.Tensor:
        """Make pictures of finished latents: (pictures, height, width, 3), float32 on [0, 1], on the CPU."""


def decode_with(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Decode unscaled latents (pictures, channels, h, w) as diffusers' image processors do; one at a time where the VAE slices."""
    pixels = vae.decode(latents.to(vae.dtype), return_dict=False)[0]
    return (pixels * 0.5 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).float().cpu()


def _drawn_latents(encoded: Any, generator: torch.Generator) -> torch.Tensor:
    """Draw latents as the pipelines do; a tiny VAE has no distribution to draw from."""
    return encoded.latent_dist.sample(generator) if hasattr(encoded, "latent_dist") else encoded.latents


def flow_first_step(steps: int, strength: float) -> int:
    """Tell at which of its steps a picture enters, as the pipelines of SD 3 and FLUX reckon."""
    return int(max(steps - min(steps * strength, steps), 0))


def draw_noise(shape: tuple[int, ...], generator: torch.Generator, device: Any, dtype: torch.dtype) -> torch.Tensor:
    """Draw noise as the pipelines and schedulers of diffusers do: on the generator's device, the CPU."""
    from diffusers.utils import torch_utils

    tools: Any = torch_utils
    return tools.randn_tensor(shape, generator=generator, device=device, dtype=dtype)


def random_walk(walk: Walk, shape: Sequence[int], seed: int) -> Callable[[float, float], torch.Tensor]:
    """Begin the random walk of one picture's noise as diffusers' SDE schedulers do: given two sigmas, the noise between them.

    On the CPU, so that a seed means the same on every device. Asked for the same sigmas again it gives the same again.
    """
    import torch
    from diffusers.schedulers import scheduling_dpmsolver_sde

    tools: Any = scheduling_dpmsolver_sde
    return tools.BrownianTreeNoiseSampler(torch.zeros(*shape), walk.least, walk.most, seed)


def timesteps_by(scheduler: Any, steps: int, device: Any, **options: Any) -> None:
    """Set a scheduler's timesteps as `retrieve_timesteps` of the pipelines does."""
    from diffusers.pipelines.stable_diffusion import pipeline_stable_diffusion

    pipeline: Any = pipeline_stable_diffusion
    pipeline.retrieve_timesteps(scheduler, steps, device, **options)


def shift(scheduler: Any, tokens: int, *, highest: float) -> float:
    """How far a scheduler's noise is shifted for a picture of so many tokens; `highest` is the pipeline's default."""
    from diffusers.pipelines.flux import pipeline_flux

    pipeline: Any = pipeline_flux
    config = scheduler.config
    return pipeline.calculate_shift(
        tokens,
        config.get("base_image_seq_len", 256),
        config.get("max_image_seq_len", 4096),
        config.get("base_shift", 0.5),
        config.get("max_shift", highest),
    )
