"""FLUX.2 klein: a transformer over packed latents; the distilled one draws in one row, the base model is guided by a second."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bot.engine.conditioning.reach import behind_chat
from bot.engine.families.base import Conditioning, Family, Words, decode_with, timesteps_by
from bot.generation import GenerationRequest

if TYPE_CHECKING:
    import torch

_SHARED = frozenset({"txt_ids", "img_ids"})


class Flux2Klein(Family):
    """FLUX.2 klein, distilled and base."""

    max_sequence_length = 512

    @property
    def denoiser(self) -> Any:
        """The transformer."""
        return self.pipe.transformer

    def encode(self, request: GenerationRequest) -> Conditioning:
        """Run the language model over a request's prompts; the pipeline itself guides away from an empty one only."""
        words = self._words(request.prompt, request)
        guided = request.guidance_scale > 1 and not self.pipe.config.is_distilled
        away_from = self._words(request.negative_prompt, request) if guided else None
        return Conditioning(words, away_from, request.guidance_scale)

    def unread(self, prompt: str) -> str:
        """Give what the language model does not read."""
        return behind_chat(self.pipe.tokenizer, prompt, self.max_sequence_length, enable_thinking=False)

    def set_timesteps(self, scheduler: Any, request: GenerationRequest) -> None:
        """Prepare a scheduler for a request; the shift of the noise follows from size and steps, as its makers measured it."""
        import numpy as np
        from diffusers.pipelines.flux2 import pipeline_flux2_klein

        pipeline: Any = pipeline_flux2_klein
        steps = request.num_inference_steps
        rows, columns = self._patches(request.width, request.height)
        sigmas = None if scheduler.config.get("use_flow_sigmas", None) else np.linspace(1.0, 1 / steps, steps)
        mu = pipeline.compute_empirical_mu(image_seq_len=rows * columns, num_steps=steps)
        timesteps_by(scheduler, steps, "cpu", sigmas=sigmas, mu=mu)
        scheduler.set_begin_index(0)

    def noise_shape(self, width: int, height: int) -> tuple[int, ...]:
        """(1, 128, height/16, width/16), before packing."""
        return 1, self.denoiser.config.in_channels, *self._patches(width, height)

    def new_latents(self, width: int, height: int, generator: torch.Generator, sigma: float) -> torch.Tensor:
        """Draw the noise a picture begins with, packed: (1, height/16 · width/16, 128)."""
        return self.pipe._pack_latents(super().new_latents(width, height, generator, sigma))

    def stack(self, words: Sequence[Words]) -> dict[str, Any]:
        """Put the words of rows together; the transformer reads the positions of the first row only, so they are not repeated."""
        stacked = super().stack([Words({n: v for n, v in row.tensors.items() if n not in _SHARED}) for row in words])
        return {**stacked, **{name: words[0].tensors[name] for name in _SHARED}}

    def forward(self, latents: torch.Tensor, timesteps: torch.Tensor, words: dict[str, Any]) -> torch.Tensor:
        """Call the transformer once, a timestep a row, rounded as the pipeline rounds it."""
        return self.denoiser(
            hidden_states=latents,
            timestep=timesteps.to(latents.dtype) / 1000,
            guidance=None,
            return_dict=False,
            **words,
        )[0]

    def decode(self, latents: torch.Tensor, width: int, height: int) -> torch.Tensor:
        """Unpack and decode with the VAE."""
        return decode_with(self.pipe.vae, self.unpacked(latents, width, height))

    def unpacked(self, latents: torch.Tensor, width: int, height: int) -> torch.Tensor:
        """Put packed latents in their places and on the VAE's own scale: (pictures, 32, height/8, width/8)."""
        rows, columns = self._patches(width, height)
        vae = self.pipe.vae
        placed = latents.transpose(1, 2).reshape(len(latents), -1, rows, columns)
        mean, variance = (value.view(1, -1, 1, 1).to(placed) for value in (vae.bn.running_mean, vae.bn.running_var))
        return self.pipe._unpatchify_latents(placed * (variance + vae.config.batch_norm_eps).sqrt() + mean)

    def _words(self, prompt: str, request: GenerationRequest) -> Words:
        import torch

        embeds, txt_ids = self.pipe.encode_prompt(
            prompt=prompt, device=self.device, max_sequence_length=self.max_sequence_length
        )
        grid = torch.empty(1, 1, *self._patches(request.width, request.height))
        img_ids = self.pipe._prepare_latent_ids(grid).to(self.device)
        return Words({"encoder_hidden_states": embeds, "txt_ids": txt_ids, "img_ids": img_ids})

    def _patches(self, width: int, height: int) -> tuple[int, int]:
        """Rows and columns of latents, which are packed two by two."""
        factor = self.pipe.vae_scale_factor * 2
        return height // factor, width // factor
