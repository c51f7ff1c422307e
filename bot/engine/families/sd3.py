"""Stable Diffusion 3 and 3.5: a transformer over patches, guided by a second row, drawing by flow matching."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bot.engine.families.base import Conditioning, Family, Words, decode_with, flow_first_step, shift, timesteps_by
from bot.generation import GenerationRequest

if TYPE_CHECKING:
    import torch


class StableDiffusion3(Family):
    """Stable Diffusion 3 and 3.5."""

    max_sequence_length = 256
    takes_pictures = True

    @property
    def denoiser(self) -> Any:
        """The transformer."""
        return self.pipe.transformer

    def encode(self, request: GenerationRequest) -> Conditioning:
        """Run the three text encoders over a request's prompts."""
        guided = request.guidance_scale > 1
        positive, negative, pooled, negative_pooled = self.pipe.encode_prompt(
            prompt=request.prompt,
            prompt_2=None,
            prompt_3=None,
            negative_prompt=request.negative_prompt or None,
            do_classifier_free_guidance=guided,
            device=self.device,
            num_images_per_prompt=1,
            max_sequence_length=self.max_sequence_length,
        )
        words = Words({"encoder_hidden_states": positive, "pooled_projections": pooled})
        away_from = None
        if guided:
            away_from = Words({"encoder_hidden_states": negative, "pooled_projections": negative_pooled})
        return Conditioning(words, away_from, request.guidance_scale)

    def set_timesteps(self, scheduler: Any, request: GenerationRequest) -> None:
        """Prepare a scheduler for a request; larger pictures may begin with more noise."""
        options: dict[str, Any] = {}
        if scheduler.config.get("use_dynamic_shifting", None):
            patch, factor = self.denoiser.config.patch_size, self.pipe.vae_scale_factor
            tokens = (request.height // factor // patch) * (request.width // factor // patch)
            options["mu"] = shift(scheduler, tokens, highest=1.16)
        timesteps_by(scheduler, request.num_inference_steps, "cpu", **options)

    def first_step(self, steps: int, strength: float) -> int:
        """Tell at which of its steps a picture enters."""
        return flow_first_step(steps, strength)

    def noise_shape(self, width: int, height: int) -> tuple[int, ...]:
        """(1, 16, height/8, width/8)."""
        factor = self.pipe.vae_scale_factor
        return 1, self.denoiser.config.in_channels, height // factor, width // factor

    def forward(self, latents: torch.Tensor, timesteps: torch.Tensor, words: dict[str, Any]) -> torch.Tensor:
        """Call the transformer once, a timestep a row."""
        return self.denoiser(hidden_states=latents, timestep=timesteps, return_dict=False, **words)[0]

    def decode(self, latents: torch.Tensor, width: int, height: int) -> torch.Tensor:
        """Decode with the VAE."""
        config = self.pipe.vae.config
        return decode_with(self.pipe.vae, latents / config.scaling_factor + config.shift_factor)
