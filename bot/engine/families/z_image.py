"""Z-Image and Z-Image Turbo: a transformer that takes prompts of any length beside each other, drawing by flow matching."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bot.engine.conditioning.reach import behind_chat
from bot.engine.families.base import Conditioning, Family, Words, decode_with, draw_noise, shift, timesteps_by
from bot.generation import GenerationRequest

if TYPE_CHECKING:
    import torch


class ZImage(Family):
    """Z-Image, base and Turbo."""

    max_sequence_length = 512

    @property
    def denoiser(self) -> Any:
        """The transformer."""
        return self.pipe.transformer

    def encode(self, request: GenerationRequest) -> Conditioning:
        """Run the language model over a request's prompts; any guidance above 0 takes a second row."""
        guided = request.guidance_scale > 0
        towards, away = self.pipe.encode_prompt(
            prompt=request.prompt,
            device=self.device,
            do_classifier_free_guidance=guided,
            negative_prompt=request.negative_prompt or None,
            max_sequence_length=self.max_sequence_length,
        )
        # Its pipeline adds `guidance` times the difference to the guided row, where others add it to the unguided one.
        away_from = Words({"cap_feats": away[0][None]}) if guided else None
        return Conditioning(Words({"cap_feats": towards[0][None]}), away_from, 1 + request.guidance_scale)

    def unread(self, prompt: str) -> str:
        """Give what the language model does not read."""
        return behind_chat(self.pipe.tokenizer, prompt, self.max_sequence_length, enable_thinking=True)

    def set_timesteps(self, scheduler: Any, request: GenerationRequest) -> None:
        """Prepare a scheduler for a request; larger pictures may begin with more noise."""
        from diffusers.pipelines.z_image import pipeline_z_image

        pipeline: Any = pipeline_z_image
        steps = request.num_inference_steps
        _, _, rows, columns = self.noise_shape(request.width, request.height)
        sigmas = pipeline.get_default_z_image_sigmas(steps)
        mu = shift(scheduler, rows // 2 * (columns // 2), highest=1.15)
        timesteps_by(scheduler, steps, "cpu", sigmas=sigmas, mu=mu)
        scheduler.set_begin_index(0)

    def noise_shape(self, width: int, height: int) -> tuple[int, ...]:
        """(1, 16, height/8, width/8)."""
        factor = self.pipe.vae_scale_factor * 2
        return 1, self.denoiser.in_channels, 2 * (height // factor), 2 * (width // factor)

    def new_latents(self, width: int, height: int, generator: torch.Generator, sigma: float) -> torch.Tensor:
        """Draw the noise a picture begins with, (1, 16, height/8, width/8), in fp32 whatever the transformer is in."""
        import torch

        return draw_noise(self.noise_shape(width, height), generator, self.device, torch.float32) * sigma

    def shape(self, words: Words) -> tuple[object, ...]:
        """Nothing: prompts of different lengths share a pass; the transformer fills them up and leaves the filling out."""
        return ()

    def stack(self, words: Sequence[Words]) -> dict[str, Any]:
        """Put the words of rows together: a list of (tokens, features)."""
        return {"cap_feats": [row.tensors["cap_feats"][0] for row in words]}

    def forward(self, latents: torch.Tensor, timesteps: torch.Tensor, words: dict[str, Any]) -> torch.Tensor:
        """Call the transformer once; its time runs the other way, and so does what it gives."""
        import torch

        rows = list(latents[:, :, None].unbind(0))
        given = self.denoiser(rows, (1000 - timesteps) / 1000, words["cap_feats"], return_dict=False)[0]
        return -torch.stack(list(given)).squeeze(2)

    def decode(self, latents: torch.Tensor, width: int, height: int) -> torch.Tensor:
        """Decode with the VAE."""
        vae = self.pipe.vae
        return decode_with(vae, latents.to(vae.dtype) / vae.config.scaling_factor + vae.config.shift_factor)
