"""Stable Diffusion 3 and 3.5: a transformer over patches, guided by a second row, drawing by flow matching."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from bot.engine.conditioning.weighting import TextEncoder, side_by_side
from bot.engine.families.base import Conditioning, Family, Words, decode_with, flow_first_step, shift, timesteps_by
from bot.generation import GenerationRequest
from bot.prompts.weights import Weighted, read_weights

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
        spelled = self.spelled(request)
        positive, negative, pooled, negative_pooled = self.pipe.encode_prompt(
            prompt=None if spelled else self.plainly(request.prompt),
            prompt_2=None,
            prompt_3=None,
            negative_prompt=None if spelled else self.plainly(request.negative_prompt) or None,
            do_classifier_free_guidance=guided,
            device=self.device,
            num_images_per_prompt=1,
            max_sequence_length=self.max_sequence_length,
            **spelled,
        )
        words = Words({"encoder_hidden_states": positive, "pooled_projections": pooled})
        away_from = None
        if guided:
            away_from = Words({"encoder_hidden_states": negative, "pooled_projections": negative_pooled})
        return Conditioning(words, away_from, request.guidance_scale)

    @functools.cached_property
    def readers(self) -> tuple[TextEncoder, TextEncoder]:
        """The two CLIPs."""
        pipe = self.pipe
        window = pipe.tokenizer_max_length
        return (
            TextEncoder(pipe, pipe.tokenizer, pipe.text_encoder, self.device, window, penultimate=True),
            TextEncoder(pipe, pipe.tokenizer_2, pipe.text_encoder_2, self.device, window, penultimate=True),
        )

    @functools.cached_property
    def long_reader(self) -> TextEncoder | None:
        """T5, which reads further than the CLIPs; None where the model is used without it."""
        pipe = self.pipe
        if pipe.text_encoder_3 is None:
            return None
        return TextEncoder(pipe, pipe.tokenizer_3, pipe.text_encoder_3, self.device, self.max_sequence_length)

    def plainly(self, prompt: str) -> str:
        """Give a prompt's words."""
        return read_weights(prompt).words

    def spelled(self, request: GenerationRequest) -> dict[str, torch.Tensor]:
        """Embed prompts with weights, or mixed ones."""
        prompts = {"": read_weights(request.prompt)}
        if request.guidance_scale > 1:
            prompts["negative_"] = read_weights(request.negative_prompt)
        if all(prompt.plain for prompt in prompts.values()):
            return {}
        spelled: dict[str, torch.Tensor] = {}
        for name, prompt in prompts.items():
            spelled[f"{name}prompt_embeds"], spelled[f"{name}pooled_prompt_embeds"] = self._embed(prompt)
        return spelled

    def unread(self, prompt: str) -> str:
        """Give what no text encoder reads."""
        return (self.long_reader or self.readers[0]).behind(read_weights(prompt))

    def _embed(self, prompt: Weighted) -> tuple[torch.Tensor, torch.Tensor]:
        """Embed a prompt, (1, tokens, width), what T5 makes of it behind what the CLIPs do; and as a whole, (1, width)."""
        import torch

        (short,) = side_by_side(self.readers, [prompt])
        width = self.denoiser.config.joint_attention_dim
        if self.long_reader is None:
            long = short.new_zeros(1, self.max_sequence_length, width)
        else:
            long = self.long_reader.embed(prompt).to(short.dtype)
        short = torch.nn.functional.pad(short, (0, width - short.shape[-1]))
        pooled = torch.cat([reader.pooled(prompt) for reader in self.readers], -1)
        return torch.cat([short, long], 1), pooled

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
