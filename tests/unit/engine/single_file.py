"""Write a diffusers Stable Diffusion folder as one file with the original names, as checkpoints are passed around."""

from __future__ import annotations

import re
from pathlib import Path

from safetensors.torch import load_file, save_file

_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
_ENDS = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2", "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip


def write_single_file(folder: Path, target: Path, *, layers: int = 1) -> None:
    """Read `folder` (with `layers` a UNet block) and write `target`."""
    state = {}
    for name, tensor in load_file(folder / "unet" / "diffusion_pytorch_model.safetensors").items():
        state[f"model.diffusion_model.{_unet(name, layers)}"] = tensor
    vae = load_file(folder / "vae" / "diffusion_pytorch_model.safetensors")
    blocks = len({name.split(".")[2] for name in vae if name.startswith("decoder.up_blocks")})
    for name, tensor in vae.items():
        state[f"first_stage_model.{_vae(name, blocks)}"] = tensor
    for name, tensor in load_file(folder / "text_encoder" / "model.safetensors").items():
        inner = name if name.startswith("text_model.") else f"text_model.{name}"
        state[f"cond_stage_model.transformer.{inner}"] = tensor
    save_file(state, target)


def write_control_file(folder: Path, target: Path, *, layers: int = 1) -> None:
    """Read the control network in `folder` and write `target` with the names of ControlNet's authors."""
    state = {}
    for name, tensor in load_file(folder / "diffusion_pytorch_model.safetensors").items():
        state[f"control_model.{_control(name, layers)}"] = tensor
    save_file(state, target)


def _control(name: str, layers: int) -> str:
    name = re.sub(r"controlnet_cond_embedding\.blocks\.(\d)", lambda m: f"input_hint_block.{2 * int(m[1]) + 2}", name)
    name = name.replace("controlnet_cond_embedding.conv_in", "input_hint_block.0")
    name = name.replace("controlnet_cond_embedding.conv_out", "input_hint_block.14")
    name = re.sub(r"controlnet_down_blocks\.(\d+)", r"zero_convs.\1.0", name)
    name = name.replace("controlnet_mid_block", "middle_block_out.0")
    own = ("input_hint_block", "zero_convs", "middle_block_out")
    return name if name.startswith(own) else _unet(name, layers)


def _unet(name: str, layers: int) -> str:
    for own, original in _ENDS.items():
        if name.startswith(f"{own}."):
            return name.replace(own, original, 1)
    place, part, rest = _split(name)
    if place[0] == "down_blocks":
        block, layer = int(place[1]), int(place[3])
        if place[2] == "downsamplers":
            return f"input_blocks.{(block + 1) * (layers + 1)}.0.op.{rest}"
        return f"input_blocks.{block * (layers + 1) + 1 + layer}.{part}.{rest}"
    if place[0] == "up_blocks":
        block, layer = int(place[1]), int(place[3])
        if place[2] == "upsamplers":
            return f"output_blocks.{block * (layers + 1) + layers}.2.conv.{rest}"
        return f"output_blocks.{block * (layers + 1) + layer}.{part}.{rest}"
    layer = int(place[2])
    return f"middle_block.{1 if part else 2 * layer}.{rest}"


def _split(name: str) -> tuple[list[str], int, str]:
    parts = name.split(".")
    size = 3 if parts[0] == "mid_block" else 4
    place, rest = parts[:size], ".".join(parts[size:])
    if place[-2].endswith("samplers"):
        rest = rest.removeprefix("conv.")
    if place[-2] == "resnets":
        own = rest.split(".")[0]
        rest = rest.replace(own, _RESNET[own], 1)
    return place, int(place[-2] == "attentions"), rest


def _vae(name: str, blocks: int) -> str:
    name = re.sub(r"down_blocks\.(\d)\.resnets\.(\d)", r"down.\1.block.\2", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)", lambda m: f"up.{blocks - 1 - int(m[1])}", name)
    name = name.replace(".resnets.", ".block.") if ".up." in name else name
    name = name.replace("upsamplers.0", "upsample").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    return name.replace("conv_norm_out", "norm_out")
