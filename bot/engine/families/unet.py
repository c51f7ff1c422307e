"""Stable Diffusion 1.x and 2.x, and SDXL with its distilled descendants: a UNet, guided by a second row."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bot.engine.families.base import Conditioning, Family, Words, decode_with, timesteps_by
from bot.generation import GenerationRequest

if TYPE_CHECKING:
    import torch

_OWN_NAMES = frozenset({"encoder_hidden_states", "timestep_cond"})


class StableDiffusion(Family):
    """Stable Diffusion 1.x and 2.x, and latent consistency models made of them."""

    @property
    def denoiser(self) -> Any:
        """The UNet."""
        return self.pipe.unet

    def encode(self, request: GenerationRequest) -> Conditioning:
        """Run the text encoder over a request's prompts."""
        guided = self._is_guided(request)
        positive, negative = self.pipe.encode_prompt(
            request.prompt, self.device, 1, guided, request.negative_prompt or None
        )
        more = self._guidance_embedding(request, positive.dtype)
        words = Words({"encoder_hidden_states": positive, **more})
        away_from = Words({"encoder_hidden_states": negative, **more}) if guided else None
        return Conditioning(words, away_from, request.guidance_scale)

    def set_timesteps(self, scheduler: Any, request: GenerationRequest) -> None:
        """Prepare a scheduler for a request."""
        timesteps_by(scheduler, request.num_inference_steps, "cpu")

    def noise_shape(self, width: int, height: int) -> tuple[int, ...]:
        """(1, 4, height/8, width/8)."""
        factor = self.pipe.vae_scale_factor
        return 1, self.denoiser.config.in_channels, height // factor, width // factor

    def forward(self, latents: torch.Tensor, timesteps: torch.Tensor, words: dict[str, Any]) -> torch.Tensor:
        """Call the UNet once, a timestep a row."""
        added = {name: value for name, value in words.items() if name not in _OWN_NAMES}
        return self.denoiser(
            latents,
            timesteps,
            encoder_hidden_states=words["encoder_hidden_states"],
            timestep_cond=words.get("timestep_cond"),
            added_cond_kwargs=added or None,
            return_dict=False,
        )[0]

    def decode(self, latents: torch.Tensor, width: int, height: int) -> torch.Tensor:
        """Decode with the VAE."""
        return decode_with(self.pipe.vae, latents / self.pipe.vae.config.scaling_factor)

    def _is_guided(self, request: GenerationRequest) -> bool:
        return request.guidance_scale > 1 and self.denoiser.config.time_cond_proj_dim is None

    def _guidance_embedding(self, request: GenerationRequest, dtype: torch.dtype) -> dict[str, torch.Tensor]:
        """A latent consistency model has learned what guidance does, and is told how much of it to show."""
        import torch

        width = self.denoiser.config.time_cond_proj_dim
        if width is None:
            return {}
        scale = torch.tensor([request.guidance_scale - 1])
        return {
            "timestep_cond": self.pipe.get_guidance_scale_embedding(scale, embedding_dim=width).to(self.device, dtype)
        }


class StableDiffusionXL(StableDiffusion):
    """SDXL, Turbo, Lightning: two text encoders, and a row that also knows its size."""

    def encode(self, request: GenerationRequest) -> Conditioning:
        """Run both text encoders over a request's prompts."""
        guided = self._is_guided(request)
        positive, negative, pooled, negative_pooled = self.pipe.encode_prompt(
            request.prompt,
            device=self.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=guided,
            negative_prompt=request.negative_prompt or None,
        )
        size = (request.height, request.width)
        second: Any = self.pipe.text_encoder_2
        width = int(pooled.shape[-1]) if second is None else second.config.projection_dim
        time_ids = self.pipe._get_add_time_ids(
            size, (0, 0), size, dtype=positive.dtype, text_encoder_projection_dim=width
        ).to(self.device)
        more = {"time_ids": time_ids, **self._guidance_embedding(request, positive.dtype)}
        words = Words({"encoder_hidden_states": positive, "text_embeds": pooled, **more})
        away_from = None
        if guided:
            away_from = Words({"encoder_hidden_states": negative, "text_embeds": negative_pooled, **more})
        return Conditioning(words, away_from, request.guidance_scale)

    def set_timesteps(self, scheduler: Any, request: GenerationRequest) -> None:
        """Prepare a scheduler for a request; SDXL's pipeline begins at the first timestep by number."""
        super().set_timesteps(scheduler, request)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)

    def decode(self, latents: torch.Tensor, width: int, height: int) -> torch.Tensor:
        """Decode with the VAE, whose latents may have a mean and a deviation a channel."""
        import torch

        config = self.pipe.vae.config
        if self.pipe.vae.dtype == torch.float16 and config.force_upcast:
            # As the pipeline does: SDXL's VAE overflows in fp16.
            self.pipe.vae.to(torch.float32)
            try:
                return self.decode(latents, width, height)
            finally:
                self.pipe.vae.to(torch.float16)
        if getattr(config, "latents_mean", None) is None or getattr(config, "latents_std", None) is None:
            return super().decode(latents, width, height)
        mean, deviation = (
            torch.tensor(values).view(1, -1, 1, 1).to(latents) for values in (config.latents_mean, config.latents_std)
        )
        return decode_with(self.pipe.vae, latents * deviation / config.scaling_factor + mean)
