"""Stable Diffusion 1.5, SDXL and FLUX.1 dev in their published shapes with random weights: as fast as the real ones, and made without a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

from tests.unit.engine.tiny import clip_tokenizer, t5_tokenizer

NOISE: dict[str, Any] = {
    "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}  # fmt: skip
INDEX = {"sd15": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline", "flux": "FluxPipeline"}


def make_pipeline(kind: str, dtype: torch.dtype, device: str) -> Any:
    """Make a pipeline of `kind` (sd15, sdxl or flux) with random weights, directly in its dtype on its device."""
    before = torch.get_default_dtype()
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            pipe = {"sd15": _sd15, "sdxl": _sdxl, "flux": _flux}[kind]()
    finally:
        torch.set_default_dtype(before)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval().requires_grad_(False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def write_index(folder: Path, kind: str) -> None:
    """Write what makes a folder a model to the finder of files; nothing is loaded from it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": INDEX[kind]}), encoding="utf-8")


def _scheduler(name: str, **config: Any) -> Any:
    """Schedulers reckon in fp32 on the processor, whatever the weights are in."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"):
            return getattr(diffusers, name)(**config)
    finally:
        torch.set_default_dtype(before)


def _clip(width: int, layers: int, heads: int, *, projected: bool = False) -> Any:
    tokenizer = clip_tokenizer()
    config = transformers.CLIPTextConfig(
        vocab_size=49408, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=heads, max_position_embeddings=tokenizer.model_max_length, projection_dim=width,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return transformers.CLIPTextModelWithProjection(config) if projected else transformers.CLIPTextModel(config)


def _vae(channels: int = 4, **config: Any) -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2, latent_channels=channels, **config,
    )  # fmt: skip


def _sd15() -> Any:
    unet = diffusers.UNet2DConditionModel(
        sample_size=64, cross_attention_dim=768, block_out_channels=(320, 640, 1280, 1280), attention_head_dim=8,
    )  # fmt: skip
    return diffusers.StableDiffusionPipeline(
        vae=_vae(), text_encoder=_clip(768, 12, 12), tokenizer=clip_tokenizer(), unet=unet,
        scheduler=_scheduler("EulerDiscreteScheduler", **NOISE), safety_checker=None, feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    )  # fmt: skip


def _sdxl() -> Any:
    unet = diffusers.UNet2DConditionModel(
        sample_size=128, cross_attention_dim=2048, block_out_channels=(320, 640, 1280), attention_head_dim=(5, 10, 20),  # type: ignore[arg-type]
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"), transformer_layers_per_block=(1, 2, 10),
        use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )  # fmt: skip
    return diffusers.StableDiffusionXLPipeline(
        vae=_vae(scaling_factor=0.13025), text_encoder=_clip(768, 12, 12), text_encoder_2=_clip(1280, 32, 20, projected=True),
        tokenizer=clip_tokenizer(), tokenizer_2=clip_tokenizer(), unet=unet,
        scheduler=_scheduler("EulerDiscreteScheduler", **NOISE, timestep_spacing="leading"), add_watermarker=False,
    )  # fmt: skip


def _flux() -> Any:
    config = transformers.T5Config(
        vocab_size=32128, d_model=4096, d_kv=64, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu"
    )
    return diffusers.FluxPipeline(
        transformer=diffusers.FluxTransformer2DModel(guidance_embeds=True),
        scheduler=_scheduler("FlowMatchEulerDiscreteScheduler", use_dynamic_shifting=True, shift=3.0),
        vae=_vae(16, scaling_factor=0.3611, shift_factor=0.1159), text_encoder=_clip(768, 12, 12),
        tokenizer=clip_tokenizer(), text_encoder_2=transformers.T5EncoderModel(config), tokenizer_2=t5_tokenizer(),
    )  # fmt: skip
