"""Parts as small as they can be, with weights by chance, to test training with."""

from __future__ import annotations

import copy
import functools
import tempfile
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from tools.pocket.denoiser import Parts
from tools.pocket.networks import TEXT_LENGTH, new_scheduler
from tools.pocket.text import learn_tokenizer

CPU = torch.device("cpu")
WIDTH = 16


@functools.cache
def small_tokenizer() -> CLIPTokenizer:
    with tempfile.TemporaryDirectory() as folder:
        return learn_tokenizer(Path(folder), captions=200)


def small_parts(seed: int = 0) -> Parts:
    torch.manual_seed(seed)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
        mid_block_add_attention=False,
        sample_size=64,
    )
    unet = UNet2DConditionModel(
        sample_size=8,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        cross_attention_dim=WIDTH,
        attention_head_dim=2,
        norm_num_groups=2,
    )
    tokenizer = copy.deepcopy(small_tokenizer())  # a pipeline that loads a textual inversion adds to it
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=TEXT_LENGTH,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
    )
    return Parts(vae.eval(), unet.eval(), CLIPTextModel(config).eval(), tokenizer, new_scheduler())
