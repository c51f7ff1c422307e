"""Control networks of a model: looked through, loaded when a request first asks for one, and kept beside it. GPU thread."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from typing import Any

from bot.catalogue import ModelSpec
from bot.engine.devices import Device, is_out_of_memory
from bot.engine.shelf import Loaded
from bot.engine.vetting import vet_part
from bot.errors import EaselError, ModelError, OutOfMemory

log = logging.getLogger(__name__)


def load_control(loaded: Loaded, kind: str, device: Device) -> None:
    """Put the control network of a kind beside a loaded model, on its device. Raises ModelError or OutOfMemory."""
    spec = loaded.spec
    folder = spec.controls.get(kind)
    if folder is None:
        raise ModelError(f"{spec.name} has no {kind} control any more; leave it out.")
    vet_part(spec, Path(folder))
    try:
        network = _read(folder, device)
        _check(spec, folder, network, loaded.pipe.unet)
        network.to(device.torch_device)
    except EaselError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise OutOfMemory(str(error)) from error
        log.exception("loading the control network %s failed", folder)
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise ModelError(f"The {kind} control of {spec.name} cannot be loaded from {folder}: {first}") from error
    loaded.controls[kind] = network
    loaded.size_bytes += sum(weight.numel() * weight.element_size() for weight in network.parameters())
    log.info("loaded the %s control of %s", kind, spec.id)


def _read(folder: str, device: Device) -> Any:
    diffusers: Any = importlib.import_module("diffusers")
    return (
        diffusers.ControlNetModel.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, dtype=device.torch_dtype
        )
        .eval()
        .requires_grad_(False)
    )


def _check(spec: ModelSpec, folder: str, network: Any, unet: Any) -> None:
    """Refuse a network that was made for another family; its residuals would not fit into the UNet."""
    for name in ("block_out_channels", "cross_attention_dim", "layers_per_block"):
        if getattr(network.config, name, None) != getattr(unet.config, name, None):
            raise ModelError(f"The control network {folder} was made for another family than {spec.name}'s.")
