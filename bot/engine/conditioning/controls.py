"""Control networks of a model: looked through, loaded when a request first asks for one, and kept beside it. GPU thread."""

from __future__ import annotations

import importlib
import inspect
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bot.catalogue.controls import UNION_MODES, kind_of
from bot.catalogue.models import ModelSpec
from bot.catalogue.parts import NETWORK_WEIGHTS, control_of
from bot.engine.devices import Device
from bot.engine.files.headers import read_header
from bot.engine.files.sources import weight_set
from bot.engine.files.vetting import vet_part, vet_weights
from bot.engine.files.weights import ModelFiles
from bot.engine.lanes.canvas import Hint, floats, planes
from bot.engine.loading.reading import reading
from bot.engine.memory.shelf import Loaded
from bot.errors import ModelError
from bot.generation import GenerationRequest, RawPicture

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

_OF_A_UNION = "task_embedding"
"""The weights of a network that reads several kinds have this one, whatever its configuration is called."""


def load_control(loaded: Loaded, kind: str, device: Device, files: ModelFiles) -> None:
    """Put the control network of a kind, found by `files`, beside a loaded model, on its device. Raises ModelError or OutOfMemory."""
    spec = loaded.spec
    part = control_of(spec, kind)
    if part is None:
        raise ModelError(f"{spec.name} has no {kind} control any more; leave it out.")
    source, path = part.source, files.locate_part(part)
    with reading(f"{part.name} cannot be loaded from {source}"):
        network = _read_folder(spec, path, device) if path.is_dir() else _read_file(spec, path, loaded.pipe)
        _check(spec, source, network, loaded.pipe.unet)
        network.to(device.torch_device, device.torch_dtype)
    loaded.controls[source] = network.eval().requires_grad_(False)
    loaded.size_bytes += sum(weight.numel() * weight.element_size() for weight in network.parameters())
    log.info("loaded the %s control of %s", kind, spec.id)


def hint_for(loaded: Loaded, request: GenerationRequest, picture: RawPicture) -> Hint:
    """Say to a request's lanes which map they follow, with a network that is beside their model. Raises ModelError."""
    kind = kind_of(request.control_type)
    network, mode = loaded.control(kind), None
    if is_union(network):
        mode = UNION_MODES[kind]
        if mode >= network.config.num_control_type:
            raise ModelError(
                f"The control network of {loaded.spec.name} follows no {kind} maps; leave the control out, or choose another type."
            )
    return Hint(network, planes(floats(picture)), request.control_scale, mode)


def is_union(network: Any) -> bool:
    """Whether a control network reads maps of several kinds, and is told which."""
    return "num_control_type" in network.config


def _read_folder(spec: ModelSpec, folder: Path, device: Device) -> Any:
    vet_part(spec, folder)
    variant = _variant(spec, folder)
    files = [path for path in folder.iterdir() if weight_set(path.name) is not None]
    union = any(_OF_A_UNION in read_header(path).tensors for path in files)
    return _class(union=union).from_pretrained(
        str(folder), variant=variant, use_safetensors=True, local_files_only=True, dtype=device.torch_dtype
    )


def _variant(spec: ModelSpec, folder: Path) -> str | None:
    """Tell which set of weights a folder has; the plain one goes first."""
    sets = {weight_set(path.name) for path in folder.iterdir()} - {None}
    if not sets:
        raise ModelError(f"{spec.name}: {folder} has no {NETWORK_WEIGHTS}.safetensors.")
    return min(sets, key=lambda name: (name != "", name)) or None


def _read_file(spec: ModelSpec, path: Path, pipe: Any) -> Any:
    """Read a single file, as of diffusers or as the authors of ControlNet write them, with the configuration its model's UNet gives."""
    if path.suffix != ".safetensors":
        raise ModelError(f"{spec.name}: the control network {path} is no .safetensors file; others are refused unread.")
    vet_weights(spec, path)
    accelerate: Any = importlib.import_module("accelerate")
    reader: Any = importlib.import_module("safetensors.torch")
    tools: Any = importlib.import_module("diffusers.loaders.single_file_utils")
    weights: dict[str, torch.Tensor] = reader.load_file(path)
    made = _class(union=_OF_A_UNION in weights)
    config = _config_like(pipe, made)
    try:
        weights = tools.convert_controlnet_checkpoint(weights, config)
        with accelerate.init_empty_weights():
            network = made.from_config(config | _sizes(weights))
        network.load_state_dict(weights, assign=True)
    except (RuntimeError, KeyError, AttributeError) as error:
        log.warning("the file %s fits no control network of %s: %s", path, spec.id, str(error)[:500])
        raise ModelError(
            f"{path} is no control network for {spec.name}: it was made for another family, or is of another kind "
            "(as T2I-Adapter or LLLite)."
        ) from error
    return network


def _config_like(pipe: Any, made: Any) -> dict[str, Any]:
    """Give the configuration that diffusers would make of a UNet for its control network."""
    names = inspect.signature(made.__init__).parameters
    config = {name: value for name, value in pipe.unet.config.items() if name in names}
    return {**config, "in_channels": pipe.vae.config.latent_channels}


def _sizes(weights: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Read from a control network's weights what its UNet's configuration does not say."""
    embedding = "controlnet_cond_embedding"
    sizes: dict[str, Any] = {}
    widths = [weights[f"{embedding}.conv_in.weight"].shape[0]]
    while (last := weights.get(f"{embedding}.blocks.{2 * len(widths) - 1}.weight")) is not None:
        widths.append(last.shape[0])
    sizes["conditioning_embedding_out_channels"] = tuple(widths)
    if _OF_A_UNION in weights:
        sizes["num_control_type"], sizes["num_trans_channel"] = weights[_OF_A_UNION].shape
        sizes["num_proj_channel"] = weights["spatial_ch_projs.weight"].shape[0]
    return sizes


def _class(*, union: bool) -> Any:
    diffusers: Any = importlib.import_module("diffusers")
    return diffusers.ControlNetUnionModel if union else diffusers.ControlNetModel


def _check(spec: ModelSpec, source: str, network: Any, unet: Any) -> None:
    """Refuse a network that was made for another family; its residuals would not fit into the UNet."""
    for name in ("block_out_channels", "cross_attention_dim", "layers_per_block"):
        if getattr(network.config, name, None) != getattr(unet.config, name, None):
            raise ModelError(f"The control network {source} was made for another family than {spec.name}'s.")
