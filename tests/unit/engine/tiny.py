"""Tiny pipelines of every family with random weights: the real classes of diffusers and transformers, small enough for a test."""

from __future__ import annotations

import functools
from typing import Any

import diffusers
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from tests.unit.engine.fakes import POCKET

# The noise of the published Stable Diffusion checkpoints; SDXL's Euler is the same one.
NOISE: dict[str, Any] = {
    "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}  # fmt: skip
FAMILIES = ("sd15", "lcm", "sdxl", "sd3", "flux-dev", "flux-schnell")


@functools.cache
def clip_tokenizer() -> Any:
    return transformers.CLIPTokenizer.from_pretrained(POCKET / "tokenizer")


@functools.cache
def t5_tokenizer() -> Any:
    words = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((f"\u2581{chr(n)}", -2.0) for n in range(97, 123))]
    words += [(chr(n), -3.0) for n in range(97, 123)] + [("\u2581", -2.5)]
    raw = Tokenizer(models.Unigram(words, unk_id=2))
    raw.pre_tokenizer = pre_tokenizers.Metaspace()  # pyright: ignore
    raw.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])  # pyright: ignore
    return transformers.T5TokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", extra_ids=0
    )


def clip(*, projected: bool, width: int = 32) -> Any:
    tokenizer = clip_tokenizer()
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length, projection_dim=width, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, hidden_act="gelu",
    )  # fmt: skip
    return transformers.CLIPTextModelWithProjection(config) if projected else transformers.CLIPTextModel(config)


def t5() -> Any:
    config = transformers.T5Config(
        vocab_size=len(t5_tokenizer()),
        d_model=32,
        d_kv=8,
        d_ff=37,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
    )
    return transformers.T5EncoderModel(config)


def vae(channels: int = 4, **config: Any) -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=2, latent_channels=channels, sample_size=64, **config,
    )  # fmt: skip


def unet(**config: Any) -> Any:
    return diffusers.UNet2DConditionModel(
        block_out_channels=(8, 16), layers_per_block=1, sample_size=16, norm_num_groups=4, attention_head_dim=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), **config,
    )  # fmt: skip


def pipeline(family: str) -> Any:
    """Make the pipeline of a family; the same one every time."""
    torch.manual_seed(0)
    pipe = _MAKERS[family]()
    pipe.set_progress_bar_config(disable=True)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    return pipe


def _sd15(**config: Any) -> Any:
    return diffusers.StableDiffusionPipeline(
        vae=vae(), text_encoder=clip(projected=False), tokenizer=clip_tokenizer(), unet=unet(cross_attention_dim=32, **config),
        scheduler=diffusers.PNDMScheduler(**NOISE, skip_prk_steps=True), safety_checker=None, feature_extractor=None,  # pyright: ignore
        requires_safety_checker=False,
    )  # fmt: skip


def _sdxl() -> Any:
    denoiser = unet(
        cross_attention_dim=64, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 32, transformer_layers_per_block=(1, 2), use_linear_projection=True,
    )  # fmt: skip
    return diffusers.StableDiffusionXLPipeline(
        vae=vae(), text_encoder=clip(projected=False), text_encoder_2=clip(projected=True), tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(), unet=denoiser,
        scheduler=diffusers.EulerDiscreteScheduler(**NOISE, timestep_spacing="leading"), add_watermarker=False,
    )  # fmt: skip


def _sd3() -> Any:
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=4, num_layers=2, attention_head_dim=8, num_attention_heads=4,
        joint_attention_dim=64, caption_projection_dim=32, pooled_projection_dim=64, out_channels=4,
    )  # fmt: skip
    return diffusers.StableDiffusion3Pipeline(
        transformer=transformer, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), vae=vae(shift_factor=0.06),
        text_encoder=clip(projected=True), tokenizer=clip_tokenizer(), text_encoder_2=clip(projected=True),
        tokenizer_2=clip_tokenizer(), text_encoder_3=None, tokenizer_3=None,  # pyright: ignore
    )  # fmt: skip


def _flux(*, guidance_embeds: bool) -> Any:
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8), guidance_embeds=guidance_embeds,
    )  # fmt: skip
    shifting: dict[str, Any] = {"use_dynamic_shifting": True, "shift": 3.0} if guidance_embeds else {"shift": 1.0}
    return diffusers.FluxPipeline(
        transformer=transformer, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**shifting), vae=vae(shift_factor=0.1),
        text_encoder=clip(projected=False), tokenizer=clip_tokenizer(), text_encoder_2=t5(), tokenizer_2=t5_tokenizer(),
    )  # fmt: skip


_MAKERS = {
    "sd15": _sd15,
    "lcm": functools.partial(_sd15, time_cond_proj_dim=16),
    "sdxl": _sdxl,
    "sd3": _sd3,
    "flux-dev": functools.partial(_flux, guidance_embeds=True),
    "flux-schnell": functools.partial(_flux, guidance_embeds=False),
}
