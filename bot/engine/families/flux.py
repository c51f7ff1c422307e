"""FLUX.1: a transformer over packed latents that is told the guidance, one row a picture."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bot.engine.conditioning.weighting import TextEncoder
from bot.engine.families.base import Conditioning, Family, Words, decode_with, flow_first_step, shift, timesteps_by
from bot.generation import GenerationRequest
from bot.prompts.weights import read_weights

if TYPE_CHECKING:
    import torch

_SHARED = frozenset({"txt_ids", "img_ids"})


class Flux(Family):
    """FLUX.1 dev, schnell and what is made of them."""

    max_sequence_length = 512
    takes_pictures = True

    @property
    def denoiser(self) -> Any:
        """The transformer."""
        return self.pipe.transformer

    def expresses(self, request: GenerationRequest) -> bool:
        """A model that is not told the guidance can only be guided by a second row, which these lanes do not have."""
        return bool(self.denoiser.config.guidance_embeds) or request.guidance_scale <= 1

    def encode(self, request: GenerationRequest) -> Conditioning:
        """Run both text encoders over a request's prompt."""
        import torch

        spelled = self.spelled(request)
        embeds, pooled, txt_ids = self.pipe.encode_prompt(
            prompt=None if spelled else self.plainly(request.prompt),
            prompt_2=None,
            device=self.device,
            num_images_per_prompt=1,
            max_sequence_length=self.max_sequence_length,
            **spelled,
        )
        height, width = self._packed_size(request.width, request.height)
        img_ids = self.pipe._prepare_latent_image_ids(1, height // 2, width // 2, self.device, embeds.dtype)
        tensors = {
            "encoder_hidden_states": embeds,
            "pooled_projections": pooled,
            "txt_ids": txt_ids,
            "img_ids": img_ids,
        }
        if self.denoiser.config.guidance_embeds:
            tensors["guidance"] = torch.full([1], request.guidance_scale, device=self.device, dtype=torch.float32)
        return Conditioning(Words(tensors), None, request.guidance_scale)

    @functools.cached_property
    def reader(self) -> TextEncoder:
        """T5, which reads the words."""
        pipe = self.pipe
        return TextEncoder(pipe, pipe.tokenizer_2, pipe.text_encoder_2, self.device, self.max_sequence_length)

    def plainly(self, prompt: str) -> str:
        """Give a prompt's words."""
        return read_weights(prompt).words

    def spelled(self, request: GenerationRequest) -> dict[str, torch.Tensor]:
        """Embed a prompt with weights, or a mixed one; CLIP, which tells what it is as a whole, knows no weights."""
        pipe, prompt = self.pipe, read_weights(request.prompt)
        if self.reader.takes(prompt):
            return {}
        whole = TextEncoder(pipe, pipe.tokenizer, pipe.text_encoder, self.device, pipe.tokenizer_max_length)
        return {"prompt_embeds": self.reader.embed(prompt), "pooled_prompt_embeds": whole.pooled(prompt)}

    def unread(self, prompt: str) -> str:
        """Give what T5 does not read."""
        return self.reader.behind(read_weights(prompt))

    def set_timesteps(self, scheduler: Any, request: GenerationRequest) -> None:
        """Prepare a scheduler for a request; larger pictures begin with more noise."""
        import numpy as np

        steps = request.num_inference_steps
        height, width = self._packed_size(request.width, request.height)
        sigmas = None if scheduler.config.get("use_flow_sigmas", None) else np.linspace(1.0, 1 / steps, steps)
        mu = shift(scheduler, height // 2 * (width // 2), highest=1.15)
        timesteps_by(scheduler, steps, "cpu", sigmas=sigmas, mu=mu)
        scheduler.set_begin_index(0)

    def first_step(self, steps: int, strength: float) -> int:
        """Tell at which of its steps a picture enters."""
        return flow_first_step(steps, strength)

    def noise_shape(self, width: int, height: int) -> tuple[int, ...]:
        """(1, 16, height/8, width/8), before packing."""
        return 1, self.denoiser.config.in_channels // 4, *self._packed_size(width, height)

    def pack(self, latents: torch.Tensor) -> torch.Tensor:
        """Pack latents two by two: (1, height/16 · width/16, 64)."""
        _, channels, rows, columns = latents.shape
        return self.pipe._pack_latents(latents, 1, channels, rows, columns)

    def stack(self, words: Sequence[Words]) -> dict[str, Any]:
        """Put the words of rows together; positions are the same for all rows and have no row dimension."""
        stacked = super().stack([Words({n: v for n, v in row.tensors.items() if n not in _SHARED}) for row in words])
        return {**stacked, **{name: words[0].tensors[name] for name in _SHARED}}

    def forward(self, latents: torch.Tensor, timesteps: torch.Tensor, words: dict[str, Any]) -> torch.Tensor:
        """Call the transformer once, a timestep a row, rounded as the pipeline rounds it."""
        return self.denoiser(
            hidden_states=latents,
            timestep=timesteps.to(latents.dtype) / 1000,
            guidance=words.get("guidance"),
            joint_attention_kwargs={},
            return_dict=False,
            **{name: value for name, value in words.items() if name != "guidance"},
        )[0]

    def decode(self, latents: torch.Tensor, width: int, height: int) -> torch.Tensor:
        """Unpack and decode with the VAE."""
        config = self.pipe.vae.config
        unpacked = self.pipe._unpack_latents(latents, height, width, self.pipe.vae_scale_factor)
        return decode_with(self.pipe.vae, unpacked / config.scaling_factor + config.shift_factor)

    def _packed_size(self, width: int, height: int) -> tuple[int, int]:
        """Rows and columns of latents before packing, which takes them two by two."""
        factor = self.pipe.vae_scale_factor * 2
        return 2 * (height // factor), 2 * (width // factor)
