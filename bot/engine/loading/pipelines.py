"""From files to a pipeline on the device. GPU thread; never a network, never a pickle, never a model's own code."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from typing import Any

from bot.catalogue.models import ModelSpec
from bot.engine.devices import Device, is_out_of_memory
from bot.engine.files.vetting import vet
from bot.engine.loading.drafts import make_draft
from bot.engine.loading.quantizing import check_package, quantize, read_gguf
from bot.engine.loading.reading import first_line
from bot.engine.loading.vaes import exchange_vae
from bot.engine.memory.plans import DENOISERS
from bot.errors import EaselError, ModelError, OutOfMemory

log = logging.getLogger(__name__)

_SINGLE_FILE_PIPELINES = {
    "sd15": "StableDiffusionPipeline",
    "sd21": "StableDiffusionPipeline",
    "sdxl": "StableDiffusionXLPipeline",
    "sd3": "StableDiffusion3Pipeline",
    "flux": "FluxPipeline",
}


def load_pipeline(spec: ModelSpec, weights: Path, settings: Path | None, device: Device) -> Any:
    """Load a diffusers pipeline into main memory, in the device's dtype; `place_pipeline` puts it on the device.

    `weights` is a diffusers folder, a `.safetensors` file or a `.gguf` file of the denoiser; `settings` is the folder with a
    single file's configuration, or with a GGUF file's other parts. All of them are looked through first. Raises ModelError naming
    the model, or OutOfMemory.
    """
    check_package(spec)
    try:
        vet(spec, weights, settings)
        pipe = _read(spec, weights, settings, device)
        if spec.vae is not None:
            exchange_vae(pipe, spec, settings or weights, device)
        if spec.is_draft:
            make_draft(pipe, spec, device)
        if spec.quantization in ("int8", "fp8"):
            quantize(pipe, spec)
    except EaselError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise OutOfMemory(
                f"{spec.name} does not fit into this machine's memory; choose a smaller model."
            ) from error
        log.exception("loading %s from %s failed", spec.id, weights)
        raise ModelError(
            f"{spec.name} cannot be loaded from {weights}: {first_line(error).removesuffix('.')}. "
            "Check that it is a complete text-to-image model with .safetensors weights."
        ) from error
    if not hasattr(pipe, "scheduler") or "prompt" not in _parameters(pipe):
        raise ModelError(f"{spec.name}: a {type(pipe).__name__} does not draw pictures from a prompt.")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def model_files(weights: Path, settings: Path | None, spec: ModelSpec) -> list[Path]:
    """List the files with a model's weights, as `ModelFiles.locate` names them; of a GGUF file's base without its denoiser."""
    files = weight_files(weights)
    if spec.base is not None and settings is not None:
        files += [file for file in weight_files(settings) if file.relative_to(settings).parts[0] not in DENOISERS]
    return files


def weight_files(path: Path) -> list[Path]:
    """List the files with the weights of a folder, or the one file, links not followed."""
    files = sorted(path.rglob("*.safetensors")) if path.is_dir() else [path]
    return [file for file in files if file.is_file()]


def _read(spec: ModelSpec, weights: Path, settings: Path | None, device: Device) -> Any:
    diffusers: Any = importlib.import_module("diffusers")
    options: dict[str, Any] = {"dtype": device.torch_dtype, "local_files_only": True}
    if spec.quantization == "gguf":
        assert settings is not None
        options |= read_gguf(spec, weights, settings, device.torch_dtype)
        weights = settings
    if weights.is_dir():
        index = diffusers.DiffusionPipeline.load_config(str(weights))
        if "safety_checker" in index:
            # Easel looks at every finished picture itself; this one would paint pictures black.
            options |= {"safety_checker": None, "requires_safety_checker": False}
        # Those that have none of it were fetched plain.
        if spec.variant is not None and any(f".{spec.variant}." in file.name for file in weight_files(weights)):
            options["variant"] = spec.variant
        return diffusers.DiffusionPipeline.from_pretrained(
            str(weights), use_safetensors=True, trust_remote_code=False, **options
        )
    name = _SINGLE_FILE_PIPELINES.get(spec.family)
    if name is None:
        raise ModelError(
            f"{spec.name}: a single file can be of the family {', '.join(_SINGLE_FILE_PIPELINES)}, "
            f"not {spec.family!r}; use the model's diffusers folder."
        )
    if spec.family in ("sd15", "sd21"):
        options["safety_checker"] = None
    return getattr(diffusers, name).from_single_file(str(weights), config=str(settings), **options)


def _parameters(pipe: Any) -> Any:
    import inspect

    return inspect.signature(type(pipe).__call__).parameters
