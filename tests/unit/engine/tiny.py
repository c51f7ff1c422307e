"""Tiny pipelines of every family with random weights: the real classes of diffusers and transformers, small enough for a test."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import diffusers
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from tests.unit.engine.fakes import POCKET

# The noise of the published Stable Diffusion checkpoints; SDXL's Euler is the same one.
NOISE: dict[str, Any] = {
    "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}  # fmt: skip
DIFFUSION = ("sd15", "sd21", "lcm", "sdxl", "sdxl-turbo", "sdxl-lightning", "sdxl-lcm")
FLOW = ("sd3", "flux-dev", "flux-schnell", "flux2-klein", "flux2-klein-base", "z-image")
FAMILIES = (*DIFFUSION, *FLOW)
PROMPT_TOKENS = 96
"""Tokens of the prompt that the tiny language models read."""
CHAT = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"


def matrix(names: Sequence[str], cases: Sequence[str]) -> list[Any]:
    """Each family with each case: all cases of the first and a third of the others' in each run, all pairs in `make test-all`."""
    return [
        pytest.param(
            name, case, id=f"{case}-{name}", marks=() if first == 0 or (first + n) % 3 == 0 else pytest.mark.slow
        )
        for first, name in enumerate(names)
        for n, case in enumerate(cases)
    ]


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


@functools.cache
def chat_tokenizer() -> Any:
    """Bytes, and the marks of a chat."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Tokenizer(models.BPE(vocab={name: n for n, name in enumerate([*special, *alphabet])}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<|endoftext|>", eos_token="<|im_end|>", additional_special_tokens=special[1:2]
    )
    tokenizer.chat_template = CHAT
    return tokenizer


def qwen3(layers: int, *, with_head: bool) -> Any:
    config = transformers.Qwen3Config(
        vocab_size=len(chat_tokenizer()), hidden_size=16, intermediate_size=24, num_hidden_layers=layers,
        num_attention_heads=2, num_key_value_heads=1, head_dim=8, max_position_embeddings=1024,
    )  # fmt: skip
    return transformers.Qwen3ForCausalLM(config) if with_head else transformers.Qwen3Model(config)


def clip(*, projected: bool, width: int = 32) -> Any:
    tokenizer = clip_tokenizer()
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=37, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length, projection_dim=width, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, hidden_act="gelu",
    )  # fmt: skip
    return transformers.CLIPTextModelWithProjection(config) if projected else transformers.CLIPTextModel(config)


def t5(width: int = 32) -> Any:
    config = transformers.T5Config(
        vocab_size=len(t5_tokenizer()),
        d_model=width,
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


def inpainting(family: str) -> Any:
    """Make the pipeline of a family's inpainting weights: the UNet takes the mask and the latents outside of it as well."""
    library: Any = diffusers
    parts: dict[str, Any] = dict(pipeline(family).components)
    torch.manual_seed(1)
    settings = {name: value for name, value in parts["unet"].config.items() if not name.startswith("_")}
    parts["unet"] = diffusers.UNet2DConditionModel(**{**settings, "in_channels": 9}).eval().requires_grad_(False)
    if family == "sdxl":
        pipe = library.StableDiffusionXLInpaintPipeline(**parts, add_watermarker=False)
    else:
        pipe = library.StableDiffusionInpaintPipeline(**parts, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _sd15(scheduler: Any = None, **config: Any) -> Any:
    return diffusers.StableDiffusionPipeline(
        vae=vae(), text_encoder=clip(projected=False), tokenizer=clip_tokenizer(), unet=unet(cross_attention_dim=32, **config),
        scheduler=scheduler or diffusers.PNDMScheduler(**NOISE, skip_prk_steps=True), safety_checker=None, feature_extractor=None,  # pyright: ignore
        requires_safety_checker=False,
    )  # fmt: skip


def _sd21() -> Any:
    own = diffusers.DDIMScheduler(**NOISE, clip_sample=False, set_alpha_to_one=False, prediction_type="v_prediction")
    return _sd15(own, use_linear_projection=True)


def _sdxl(scheduler: Any = None, **config: Any) -> Any:
    denoiser = unet(
        cross_attention_dim=64, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=6 * 8 + 32, transformer_layers_per_block=(1, 2), use_linear_projection=True,
        **config,
    )  # fmt: skip
    return diffusers.StableDiffusionXLPipeline(
        vae=vae(), text_encoder=clip(projected=False), text_encoder_2=clip(projected=True), tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(), unet=denoiser,
        scheduler=scheduler or diffusers.EulerDiscreteScheduler(**NOISE, timestep_spacing="leading"), add_watermarker=False,
    )  # fmt: skip


def _lcm_scheduler() -> Any:
    return diffusers.LCMScheduler(**NOISE, clip_sample=False, set_alpha_to_one=True)


def _sdxl_turbo() -> Any:
    return _sdxl(diffusers.EulerAncestralDiscreteScheduler(**NOISE, timestep_spacing="trailing"))


def _sdxl_lightning() -> Any:
    return _sdxl(diffusers.EulerDiscreteScheduler(**NOISE, timestep_spacing="trailing"))


def _sd3(channels: int = 4) -> Any:
    """As Stable Diffusion 3.5 Medium: normalised queries and keys, a layer of double attention, three text encoders."""
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=channels, num_layers=2, attention_head_dim=8, num_attention_heads=4,
        joint_attention_dim=64, caption_projection_dim=32, pooled_projection_dim=64, out_channels=channels, qk_norm="rms_norm",
        dual_attention_layers=(0,),
    )  # fmt: skip
    return diffusers.StableDiffusion3Pipeline(
        transformer=transformer, scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), vae=vae(channels, shift_factor=0.06),
        text_encoder=clip(projected=True), tokenizer=clip_tokenizer(), text_encoder_2=clip(projected=True),
        tokenizer_2=clip_tokenizer(), text_encoder_3=t5(64), tokenizer_3=t5_tokenizer(),
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


def _flux2(*, is_distilled: bool) -> Any:
    transformer = diffusers.Flux2Transformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=3 * 16, timestep_guidance_channels=16, axes_dims_rope=(4, 4, 4, 4), guidance_embeds=False,
    )  # fmt: skip
    decoder = diffusers.AutoencoderKLFlux2(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=2, latent_channels=4, sample_size=64,
    )  # fmt: skip
    decoder.bn.running_mean.normal_(), decoder.bn.running_var.uniform_(0.5, 2.0)
    return diffusers.Flux2KleinPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0), vae=decoder,
        text_encoder=qwen3(27, with_head=True), tokenizer=chat_tokenizer(), transformer=transformer, is_distilled=is_distilled,
    )  # fmt: skip


def _z_image() -> Any:
    transformer = diffusers.ZImageTransformer2DModel(
        in_channels=4, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=16,
        axes_dims=[4, 6, 6], axes_lens=[256, 64, 64],
    )  # fmt: skip
    # Made empty; the published one has weights here.
    torch.nn.init.normal_(transformer.x_pad_token), torch.nn.init.normal_(transformer.cap_pad_token)
    return diffusers.ZImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0), vae=vae(shift_factor=0.1),
        text_encoder=qwen3(3, with_head=False), tokenizer=chat_tokenizer(), transformer=transformer,
    )  # fmt: skip


def _qwen_image() -> Any:
    """Has no lanes."""
    text = {
        "vocab_size": len(chat_tokenizer()), "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 1024,
        "rope_scaling": {"type": "default", "mrope_section": [1, 1, 2]},
    }  # fmt: skip
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision)
    return diffusers.QwenImagePipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, max_shift=0.9, max_image_seq_len=8192, shift=1.0, shift_terminal=0.02
        ),
        vae=diffusers.AutoencoderKLQwenImage(
            base_dim=8, z_dim=4, dim_mult=[1, 1, 1, 1], num_res_blocks=1, latents_mean=[0.1] * 4, latents_std=[1.5] * 4
        ),
        text_encoder=transformers.Qwen2_5_VLForConditionalGeneration(config), tokenizer=chat_tokenizer(),
        transformer=diffusers.QwenImageTransformer2DModel(
            in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=16, axes_dims_rope=(4, 6, 6),
        ),
    )  # fmt: skip


_MAKERS = {
    "sd15": _sd15,
    "sd21": _sd21,
    "lcm": lambda: _sd15(_lcm_scheduler(), time_cond_proj_dim=16),
    "sdxl": _sdxl,
    "sdxl-turbo": _sdxl_turbo,
    "sdxl-lightning": _sdxl_lightning,
    "sdxl-lcm": lambda: _sdxl(_lcm_scheduler(), time_cond_proj_dim=16),
    "sd3": _sd3,
    # diffusers' inpainting pipeline tells by their number whether the channels are those of inpainting weights.
    "sd3-16": functools.partial(_sd3, 16),
    "flux-dev": functools.partial(_flux, guidance_embeds=True),
    "flux-schnell": functools.partial(_flux, guidance_embeds=False),
    "flux2-klein": functools.partial(_flux2, is_distilled=True),
    "flux2-klein-base": functools.partial(_flux2, is_distilled=False),
    "z-image": _z_image,
    "qwen-image": _qwen_image,
}
