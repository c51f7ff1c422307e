"""How the family is shipped: fp16 safetensors that load with plain `from_pretrained`."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn


def save_half(model: Any, folder: Path) -> int:
    """Write a copy of a diffusers or transformers model to `folder` in fp16; returns its size in bytes."""
    _halved(model).save_pretrained(folder)
    tidy(folder)
    return size_bytes(folder)


def save_pipeline_half(pipe: Any, folder: Path) -> int:
    """Write a copy of a diffusers pipeline to `folder` in fp16; returns its size in bytes. The pipeline stays as it is."""
    halved = copy.copy(pipe)
    for name, part in pipe.components.items():
        if isinstance(part, nn.Module):
            setattr(halved, name, _halved(part))
    halved.save_pretrained(folder)
    tidy(folder)
    return size_bytes(folder)


def _halved(model: Any) -> Any:
    return copy.deepcopy(model).to("cpu").half().to(memory_format=torch.contiguous_format)


def tidy(folder: Path) -> None:
    """Make what was saved in a folder the same wherever and from whatever it was saved.

    transformers is to load its models in fp32, as diffusers does, where no dtype is asked for: a CPU cannot draw in fp16. No
    file names the folder that weights once came from, and no tokenizer keeps the padding of its last call.
    """
    for path in folder.rglob("*config.json"):
        config = json.loads(path.read_text())
        for part in (config, *(value for value in config.values() if isinstance(value, dict))):
            part.pop("_name_or_path", None)
            if "dtype" in part:
                part["dtype"] = "float32"
        path.write_text(json.dumps(config, indent=2) + "\n")
    for path in folder.rglob("tokenizer.json"):
        tokenizer = json.loads(path.read_text())
        path.write_text(
            json.dumps(tokenizer | {"truncation": None, "padding": None}, indent=2, ensure_ascii=False) + "\n"
        )


def size_bytes(folder: Path) -> int:
    """Add up the weights in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def parameters(module: nn.Module) -> int:
    """Count the parameters of a network."""
    return sum(parameter.numel() for parameter in module.parameters())
