"""From files to a pipeline on the device. GPU thread; never a network, never a pickle, never a model's own code."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from bot.catalogue import ModelSpec
from bot.engine.devices import Device, free_memory, is_out_of_memory
from bot.errors import GenerationError, ModelError, OutOfMemory

log = logging.getLogger(__name__)

_SINGLE_FILE_PIPELINES = {
    "sd15": "StableDiffusionPipeline",
    "sd21": "StableDiffusionPipeline",
    "sdxl": "StableDiffusionXLPipeline",
    "sd3": "StableDiffusion3Pipeline",
    "flux": "FluxPipeline",
}
_ROOM = 0.85
"""How much of the device's memory weights may take; the rest is for the picture in the making."""
_ROOM_ALONE = 0.95
"""The same for one part on its own: FLUX.1's denoiser, 23.8 GB, is run on cards of 24 GiB."""


def load_pipeline(spec: ModelSpec, weights: Path, settings: Path | None, device: Device) -> Any:
    """Load a diffusers pipeline into main memory, in the device's dtype; `place_pipeline` puts it on the device.

    `weights` is a diffusers folder or a `.safetensors` file; `settings` is the folder with a single file's
    configuration. Raises ModelError naming the model, or OutOfMemory.
    """
    try:
        pipe = _read(spec, weights, settings, device)
    except GenerationError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise OutOfMemory(
                f"{spec.name} does not fit into this machine's memory; choose a smaller model."
            ) from error
        log.exception("loading %s from %s failed", spec.id, weights)
        raise ModelError(
            f"{spec.name} cannot be loaded from {weights}: {_first_line(error)} "
            "Check that it is a complete text-to-image model with .safetensors weights."
        ) from error
    if not hasattr(pipe, "scheduler") or "prompt" not in _parameters(pipe):
        raise ModelError(f"{spec.name}: a {type(pipe).__name__} does not draw pictures from a prompt.")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def place_pipeline(pipe: Any, spec: ModelSpec, device: Device) -> None:
    """Put a loaded pipeline on the device; where it does not fit whole, parts are there only while they work.

    Raises OutOfMemory.
    """
    if not device.is_gpu:
        return
    # One picture at a time is decoded: the VAE's peak is what overflows a card, and it gains nothing from batches.
    if hasattr(getattr(pipe, "vae", None), "enable_slicing"):
        pipe.vae.enable_slicing()
    parts = _part_bytes(pipe)
    placed = placement(parts, device.memory_bytes)
    try:
        if placed == "whole":
            pipe.to(device.torch_device)
            return
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    if not device.torch_device.startswith("cuda"):
        raise OutOfMemory(f"{spec.name} does not fit into this machine's memory; choose a smaller model.")
    pipe.to("cpu")
    free_memory()
    if placed == "layers":
        log.warning(
            "the largest part of %s takes %.1f GB, too much for %s; its layers take turns there, which is slow",
            spec.id, max(parts) / 1e9, device.name,
        )  # fmt: skip
        pipe.enable_sequential_cpu_offload(device=device.torch_device)
        return
    log.info("%s does not fit onto %s whole; its parts take turns there", spec.id, device.name)
    pipe.enable_model_cpu_offload(device=device.torch_device)


def placement(part_bytes: Sequence[int], memory_bytes: int | None) -> Literal["whole", "parts", "layers"]:
    """Decide what of a model is on the GPU at a time, from its parts' sizes and the GPU's memory in bytes. Pure.

    A size of None, unknown, counts as enough.
    """
    if memory_bytes is None or sum(part_bytes) <= _ROOM * memory_bytes:
        return "whole"
    return "parts" if max(part_bytes) <= _ROOM_ALONE * memory_bytes else "layers"


def files_bytes(path: Path) -> int:
    """Add up the sizes of the weights in a folder or of one file, links followed, in bytes."""
    files = path.rglob("*.safetensors") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _read(spec: ModelSpec, weights: Path, settings: Path | None, device: Device) -> Any:
    diffusers: Any = importlib.import_module("diffusers")
    options: dict[str, Any] = {"dtype": device.torch_dtype, "local_files_only": True}
    if weights.is_dir():
        index = diffusers.DiffusionPipeline.load_config(str(weights))
        if "safety_checker" in index:
            # Easel looks at every finished picture itself; this one would paint pictures black.
            options |= {"safety_checker": None, "requires_safety_checker": False}
        if spec.variant is not None:
            options["variant"] = spec.variant
        return diffusers.DiffusionPipeline.from_pretrained(str(weights), use_safetensors=True, **options)
    name = _SINGLE_FILE_PIPELINES.get(spec.family)
    if name is None:
        raise ModelError(
            f"{spec.name}: a single file can be of the family {', '.join(_SINGLE_FILE_PIPELINES)}, "
            f"not {spec.family!r}; use the model's diffusers folder."
        )
    if spec.family in ("sd15", "sd21"):
        options["safety_checker"] = None
    return getattr(diffusers, name).from_single_file(str(weights), config=str(settings), **options)


def _part_bytes(pipe: Any) -> list[int]:
    modules = [part for part in pipe.components.values() if hasattr(part, "parameters")]
    return [sum(p.numel() * p.element_size() for p in module.parameters()) for module in modules]


def _parameters(pipe: Any) -> Any:
    import inspect

    return inspect.signature(type(pipe).__call__).parameters


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    line = text.splitlines()[0][:200] if text else type(error).__name__
    return line if line.endswith(".") else f"{line}."
