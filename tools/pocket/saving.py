"""How the family is shipped: fp16 safetensors that load with plain `from_pretrained`."""

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn


def save_half(model: Any, folder: Path) -> int:
    """Write a copy of a diffusers or transformers model to `folder` in fp16; returns its size in bytes."""
    halved = copy.deepcopy(model).to("cpu", torch.float16).to(memory_format=torch.contiguous_format)
    halved.save_pretrained(folder, safe_serialization=True)
    return size_bytes(folder)


def size_bytes(folder: Path) -> int:
    """Add up the weights in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def parameters(module: nn.Module) -> int:
    """Count the parameters of a network."""
    return sum(parameter.numel() for parameter in module.parameters())
