"""Stable Diffusion 1.x and 2.x, and SDXL with its distilled descendants: a UNet, guided by a second row."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bot.engine.conditioning.weighting import TextEncoder, side_by_side
from bot.engine.families.base import CONTROL, INPAINTING, Conditioning, Family, Words, decode_with, timesteps_by
from bot.generation import GenerationRequest
from bot.prompts.weights import read_weights

if TYPE_CHECKING:
    import torch

_OWN_NAMES = frozenset({"encoder_hidden_states", "timestep_cond", INPAINTING, CONTROL})


class StableDiffusion(Family):
    """Stable Diffusion 1.x and 2.x, and latent consistency models made of them."""

    takes_pictures = True

    @property
    def inpaints(self) -> bool:
        """Whether the UNet takes the mask and what lies outside of it beside the latents."""
        channels: int = self.pipe.vae.config.latent_channels
        return self.denoiser.config.in_channels == 2 * channels + 1

    @property
    def denoiser(self) -> Any:
        """The UNet."""
        return self.pipe.unet

    @contextmanager
    def tiled(self, tiling: bool) -> Generator[None]:
        """Let all convolutions of UNet and VAE go around the edges meanwhile."""
        if not tiling:
            yield
            return
        import torch

        parts = (self.pipe.unet, self.pipe.vae)
        convolutions = [m for part in parts for m in part.modules() if isinstance(m, torch.nn.Conv2d)]
        for convolution in convolutions:
            convolution.padding_mode = "circular"
        try:
            yield
        finally:
            for convolution in convolutions:
                convolution.padding_mode = "zeros"

    def encode(self, request: GenerationRequest) -> Conditioning:
        """Run the text encoder over a request's prompts."""
        guided = self._is_guided(request)
        positive, negative = self.pipe.encode_prompt(
            device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=guided, **self.arguments(request)
        )
        more = self._guidance_embedding(request, positive.dtype)
        words = Words({"encoder_hidden_states": positive, **more})
        away_from = Words({"encoder_hidden_states": negative, **more}) if guided else None
        return Conditioning(words, away_from, request.guidance_scale)

    @functools.cached_property
    def readers(self) -> tuple[TextEncoder, ...]:
        """The text encoders, side by side."""
        pipe = self.pipe
        window = pipe.tokenizer.model_max_length
        return (TextEncoder(pipe, pipe.tokenizer, pipe.text_encoder, self.device, window, endless=True),)

    def plainly(self, prompt: str) -> str:
        """Give a prompt's words."""
        return read_weights(prompt).words

    def spelled(self, request: GenerationRequest) -> dict[str, torch.Tensor]:
        """Embed prompts with weights, mixed ones, and those of more than one window."""
        guided = self._is_guided(request)
        prompts = [read_weights(text) for text in (request.prompt, *([request.negative_prompt] if guided else []))]
        if all(reader.takes(prompt) for reader in self.readers for prompt in prompts):
            return {}
        made = side_by_side(self.readers, prompts)
        return dict(zip(("prompt_embeds", "negative_prompt_embeds"), made, strict=False))

    def arguments(self, request: GenerationRequest) -> dict[str, Any]:
        """Give a request's prompts as arguments of the pipeline: in words, or embedded."""
        words = {
            "prompt": self.plainly(request.prompt),
            "negative_prompt": self.plainly(request.negative_prompt) or None,
        }
        spelled = self.spelled(request)
        return {"prompt": None, **spelled} if spelled else words

    def set_timesteps(self, scheduler: Any, request: GenerationRequest) -> None:
        """Prepare a scheduler for a request."""
        timesteps_by(scheduler, request.num_inference_steps, "cpu")

    def noise_shape(self, width: int, height: int) -> tuple[int, ...]:
        """(1, 4, height/8, width/8)."""
        factor = self.pipe.vae_scale_factor
        return 1, self.pipe.vae.config.latent_channels, height // factor, width // factor

    def forward(self, latents: torch.Tensor, timesteps: torch.Tensor, words: dict[str, Any]) -> torch.Tensor:
        """Call the UNet once, a timestep a row, after the control networks of the rows that have one."""
        added = {name: value for name, value in words.items() if name not in _OWN_NAMES}
        told = words["encoder_hidden_states"]
        options: dict[str, Any] = {}
        if CONTROL in words:
            down, middle = words[CONTROL].residuals(latents, timesteps, told, added)
            options = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        if INPAINTING in words:
            import torch

            latents = torch.cat([latents, words[INPAINTING]], 1)
        return self.denoiser(
            latents,
            timesteps,
            encoder_hidden_states=told,
            timestep_cond=words.get("timestep_cond"),
            added_cond_kwargs=added or None,
            return_dict=False,
            **options,
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
            device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=guided, **self.arguments(request)
        )
        size = (request.height, request.width)
        second: Any = self.pipe.text_encoder_2
        width = int(pooled.shape[-1]) if second is None else second.config.projection_dim
        time_ids = self._time_ids(size, positive.dtype, width).to(self.device)
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

    @functools.cached_property
    def readers(self) -> tuple[TextEncoder, ...]:
        """The text encoders there are; a refiner has the second alone."""
        pipe = self.pipe
        pairs = ((pipe.tokenizer, pipe.text_encoder), (pipe.tokenizer_2, pipe.text_encoder_2))
        return tuple(
            TextEncoder(
                pipe, tokenizer, encoder, self.device, tokenizer.model_max_length, endless=True, penultimate=True
            )
            for tokenizer, encoder in pairs if encoder is not None
        )  # fmt: skip

    def spelled(self, request: GenerationRequest) -> dict[str, torch.Tensor]:
        """Embed prompts as Stable Diffusion does, each as a whole besides; without a negative prompt it is guided away from nothing."""
        spelled = super().spelled(request)
        if not spelled:
            return {}
        spelled["pooled_prompt_embeds"] = self.readers[-1].pooled(read_weights(request.prompt))
        if "negative_prompt_embeds" in spelled:
            pooled = self.readers[-1].pooled(read_weights(request.negative_prompt))
            spelled["negative_pooled_prompt_embeds"] = pooled
            if not request.negative_prompt and self.pipe.config.force_zeros_for_empty_prompt:
                spelled |= {name: value * 0 for name, value in spelled.items() if name.startswith("negative")}
        return spelled

    def encode_picture(self, pixels: torch.Tensor) -> Callable[[torch.Generator], torch.Tensor]:
        """Encode a picture, in fp32 where the VAE overflows in fp16."""
        with self._exact_vae():
            return super().encode_picture(pixels)

    def scaled(self, latents: torch.Tensor) -> torch.Tensor:
        """Scale what the VAE encodes for the denoiser."""
        spread = self._spread(latents)
        if spread is None:
            return super().scaled(latents)
        mean, deviation = spread
        return (latents - mean) * self.pipe.vae.config.scaling_factor / deviation

    def decode(self, latents: torch.Tensor, width: int, height: int) -> torch.Tensor:
        """Decode with the VAE, in fp32 where it overflows in fp16."""
        with self._exact_vae():
            spread = self._spread(latents)
            if spread is None:
                return super().decode(latents, width, height)
            mean, deviation = spread
            return decode_with(self.pipe.vae, latents * deviation / self.pipe.vae.config.scaling_factor + mean)

    def _time_ids(self, size: tuple[int, int], dtype: torch.dtype, width: int) -> torch.Tensor:
        """What a row is told of its size (height, width), (1, 6)."""
        return self.pipe._get_add_time_ids(size, (0, 0), size, dtype=dtype, text_encoder_projection_dim=width)

    @contextmanager
    def _exact_vae(self) -> Generator[None]:
        """Let the VAE compute in fp32 where its configuration asks for that, as the pipeline does."""
        import torch

        vae: Any = self.pipe.vae
        if not (vae.dtype == torch.float16 and vae.config.force_upcast):
            yield
            return
        vae.to(torch.float32)
        try:
            yield
        finally:
            vae.to(torch.float16)

    def _spread(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor] | None:
        """The latents' mean and deviation a channel, (1, channels, 1, 1) each, where the VAE has them."""
        import torch

        config = self.pipe.vae.config
        if getattr(config, "latents_mean", None) is None or getattr(config, "latents_std", None) is None:
            return None
        mean, deviation = (
            torch.tensor(values).view(1, -1, 1, 1).to(latents) for values in (config.latents_mean, config.latents_std)
        )
        return mean, deviation


class StableDiffusionXLInpaint(StableDiffusionXL):
    """SDXL with weights for inpainting."""

    def _time_ids(self, size: tuple[int, int], dtype: torch.dtype, width: int) -> torch.Tensor:
        nothing = (0, 0)
        positive, _ = self.pipe._get_add_time_ids(
            size, nothing, size, 6.0, 2.5, size, nothing, size, dtype=dtype, text_encoder_projection_dim=width
        )
        return positive
