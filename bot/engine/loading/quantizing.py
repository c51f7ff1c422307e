"""Smaller weights for small cards, where an operator asks for them: 8 bits by torchao, GGUF files by diffusers. GPU thread.

Both packages are optional (`requirements-extra.txt`). Only the denoiser is made smaller: it is the largest part of most models,
and the one that is there at every step. Its weights are small in memory and become numbers of the model's dtype where they are
multiplied; that costs some time a step, and changes the picture a little.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import logging
from pathlib import Path
from typing import Any, cast

from bot.catalogue.models import ModelSpec
from bot.engine.files.sources import INDEX
from bot.engine.memory.plans import DENOISERS
from bot.errors import ModelError

log = logging.getLogger(__name__)

_PACKAGES = {"int8": "torchao", "fp8": "torchao", "gguf": "gguf"}


def check_package(spec: ModelSpec) -> None:
    """Check that what a model's quantization needs is installed. Raises ModelError naming the package."""
    package = _PACKAGES.get(spec.quantization or "")
    if package is not None and importlib.util.find_spec(package) is None:
        raise ModelError(
            f'{spec.name} asks for quantization = "{spec.quantization}", which needs the package {package}: '
            f"`.venv/bin/pip install -r requirements-extra.txt`, then start again."
        )


def quantize(pipe: Any, spec: ModelSpec) -> None:
    """Store the denoiser's linear layers of a pipeline in main memory in 8 bits, with a scale a row. Raises ModelError."""
    check_package(spec)
    denoiser = next((getattr(pipe, name) for name in DENOISERS if getattr(pipe, name, None) is not None), None)
    if denoiser is None:
        raise ModelError(f"{spec.name}: a {type(pipe).__name__} has no denoiser that could be quantized.")
    tools: Any = importlib.import_module("torchao.quantization")
    # Weights alone: the numbers that run through keep the dtype, so it works on every device, and rows do not touch each other.
    kind = tools.Int8WeightOnlyConfig(version=2) if spec.quantization == "int8" else tools.Float8WeightOnlyConfig()
    denoiser.requires_grad_(False)
    tools.quantize_(denoiser, kind)


def read_gguf(spec: ModelSpec, weights: Path, base: Path, dtype: Any) -> dict[str, Any]:
    """Read a denoiser from a GGUF file: {its name in the pipeline: the denoiser}, in main memory.

    `base` is the diffusers folder with the other parts, whose index names the denoiser's class. Raises ModelError where the
    package is missing or diffusers reads no such file for that class.
    """
    check_package(spec)
    name, kind = denoiser_of(spec, base)
    diffusers: Any = importlib.import_module("diffusers")
    loaders: Any = importlib.import_module("diffusers.loaders.single_file_model")
    if kind not in loaders.SINGLE_FILE_LOADABLE_CLASSES:
        raise ModelError(f"{spec.name}: diffusers reads no GGUF files for a {kind}; use the model's diffusers folder.")
    denoiser = getattr(diffusers, kind).from_single_file(
        str(weights), config=str(base), subfolder=name, dtype=dtype, local_files_only=True,
        quantization_config=diffusers.GGUFQuantizationConfig(compute_dtype=dtype),
    )  # fmt: skip
    return {name: denoiser}


def denoiser_of(spec: ModelSpec, base: Path) -> tuple[str, str]:
    """Name a diffusers folder's denoiser and its class. Raises ModelError where it has none."""
    index = cast("dict[str, Any]", json.loads((base / INDEX).read_text(encoding="utf-8")))
    for name in DENOISERS:
        entry = cast("list[str | None] | None", index.get(name))
        if entry and entry[-1]:
            return name, entry[-1]
    raise ModelError(f"{spec.name}: {base} has no {' or '.join(DENOISERS)} that a GGUF file could stand in for.")
