"""The models that lie in the data directory: told by their headers, and added to the catalogue with what suits their family. No torch."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bot.catalogue.models import Catalogue, ModelSpec
from bot.catalogue.models_file import make_model
from bot.engine.files.headers import Header, read_header
from bot.engine.files.sources import INDEX, MAX_INDEX_BYTES, PICKLES, folder_problem, json_object, read_text
from bot.errors import ConfigError

log = logging.getLogger(__name__)

FOLDER = "checkpoints"
MAX_MODELS = 100
_WEIGHTS = ".safetensors"
_SAMPLERS = [
    "DPM++ 2M Karras",
    "DPM++ 2M",
    "DPM++ SDE Karras",
    "DPM++ 2M SDE Karras",
    "Euler",
    "Euler a",
    "UniPC",
    "DDIM",
    "Heun",
]
_DIFFUSION: dict[str, Any] = {"sampler": _SAMPLERS[0], "samplers": _SAMPLERS, "min_side": 256}
_LARGE: dict[str, Any] = {
    "base_px": 1024,
    "side_multiple": 16,
    "min_side": 256,
    "max_side": 1536,
    "max_pixels": 2097152,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "sd15": {**_DIFFUSION, "base_px": 512, "max_side": 1024, "max_pixels": 786432, "steps": 25, "guidance": 7.0},
    "sd21": {**_DIFFUSION, "base_px": 768, "max_side": 1024, "max_pixels": 1048576, "steps": 25, "guidance": 7.0},
    "sdxl": {**_DIFFUSION, "base_px": 1024, "min_side": 512, "max_side": 1536, "max_pixels": 1572864, "steps": 30, "guidance": 6.0},
    "sd3": {**_LARGE, "max_side": 1440, "steps": 40, "guidance": 4.5},
    "flux": {**_LARGE, "steps": 4, "guidance": 0.0, "max_guidance": 1.0, "negative_prompt": False, "max_sequence_length": 256},
}  # fmt: skip
"""What suits the published model of a family, as models.toml has it."""
_FLUX_DEV: dict[str, Any] = {"steps": 28, "guidance": 3.5, "max_guidance": 10.0, "max_sequence_length": 512}
_PIPELINES = {
    "StableDiffusionPipeline": "sd15", "StableDiffusionXLPipeline": "sdxl", "StableDiffusion3Pipeline": "sd3", "FluxPipeline": "flux",
}  # fmt: skip
_OWN_TABLE = "write a table for it in the models file"


@dataclass(frozen=True, slots=True)
class FoundModels:
    """The models of a data directory, and a sentence for each that is left out."""

    models: tuple[ModelSpec, ...] = ()
    left_out: tuple[str, ...] = ()


def with_checkpoints(catalogue: Catalogue, data_dir: Path) -> Catalogue:
    """Add a data directory's models to a catalogue, after its own. Touches the disk."""
    found = find_checkpoints(catalogue, data_dir)
    for sentence in found.left_out:
        log.warning("%s", sentence)
    return replace(catalogue, models=(*catalogue.models, *found.models))


def find_checkpoints(catalogue: Catalogue, data_dir: Path) -> FoundModels:
    """Find the models in `checkpoints/`: `.safetensors` files and diffusers folders, there or one folder deeper; headers are read, no weights."""
    root = (data_dir / FOLDER).resolve()
    models: list[ModelSpec] = []
    left_out: list[str] = []
    taken = {spec.id.lower() for spec in catalogue.models if not Path(spec.source).is_relative_to(root)}
    taken |= {spec.id.lower() for spec in catalogue.annotators}
    for path in _candidates(root) if root.is_dir() else ():
        try:
            spec = _told(path, root)
            if spec.id.lower() in taken:
                raise ValueError(f"would have the id {spec.id}, which is another model's; rename it")
            if len(models) == MAX_MODELS:
                raise ValueError(f"comes after {MAX_MODELS} others; {_OWN_TABLE}")
        except (ValueError, OSError, ConfigError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            left_out.append(f"{path} is left out: it {why}.")
            continue
        taken.add(spec.id.lower())
        models.append(spec)
    return FoundModels(tuple(models), tuple(left_out))


def _candidates(root: Path) -> Iterator[Path]:
    for path in sorted(root.iterdir()):
        if path.is_dir() and not _is_model(path) and not path.is_symlink():
            yield from (inner for inner in sorted(path.iterdir()) if _is_candidate(inner))
        elif _is_candidate(path):
            yield path


def _is_model(path: Path) -> bool:
    return (path / INDEX).is_file()


def _is_candidate(path: Path) -> bool:
    """Whether this is a model, or wants to be one; a folder beside a file of its name holds that file's settings."""
    if path.is_dir():
        return _is_model(path) and not path.with_name(path.name + _WEIGHTS).exists()
    return path.suffix.lower() in (_WEIGHTS, *PICKLES)


def _told(path: Path, root: Path) -> ModelSpec:
    """Tell what a model is. Raises ValueError with the rest of a sentence about it, OSError or ConfigError."""
    if path.suffix.lower() in PICKLES and path.is_file():
        raise ValueError("is a pickle, which can run code as it is read; use the model's .safetensors file")
    if not path.resolve().is_relative_to(root):
        raise ValueError(f"is a link that leads out of {root}")
    stem = path.name if path.is_dir() else path.stem
    model_id = re.sub(r"\.{2,}|[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:64]
    if not model_id:
        raise ValueError("has a name without letters or digits; rename it")
    family, width, more = _of_folder(path) if path.is_dir() else _of_file(read_header(path))
    entry = {
        "name": stem[:80], "source": str(path), "family": family, "licence": "see its page", "description": f"From {FOLDER}/",
        **DEFAULTS[family], **more,
    }  # fmt: skip
    return replace(make_model(model_id, entry, FOLDER), words_width=width)


def _of_folder(path: Path) -> tuple[str, int | None, Mapping[str, Any]]:
    if (problem := folder_problem(path)) is not None:
        raise ValueError(f"is no whole diffusers folder: {problem}")
    kind = json_object(read_text(path / INDEX, MAX_INDEX_BYTES)).get("_class_name")
    family = _PIPELINES.get(kind) if isinstance(kind, str) else None
    if family is None:
        raise ValueError(f"is a {str(kind)[:60]}, of which nothing is known here but what a table says; {_OWN_TABLE}")
    width, denoiser = None, "unet" if family in ("sd15", "sdxl") else "transformer"
    config = json_object(read_text(path / denoiser / "config.json", MAX_INDEX_BYTES))
    if denoiser == "unet":
        given = config.get("cross_attention_dim")
        width = given if type(given) is int else None
        if family == "sd15" and width == 1024:
            family = "sd21"
    return family, width, _FLUX_DEV if family == "flux" and config.get("guidance_embeds") else {}


def _of_file(header: Header) -> tuple[str, int | None, Mapping[str, Any]]:
    names, shapes = header.tensors.keys(), {name: tensor.shape for name, tensor in header.tensors.items()}
    unet = "model.diffusion_model."
    if f"{unet}input_blocks.0.0.weight" in names:
        family = next((known for start, known in _ENCODERS if any(name.startswith(start) for name in names)), None)
        widths = {shape[1] for name, shape in shapes.items() if name.endswith("attn2.to_k.weight") and len(shape) == 2}
        if family is None:
            raise ValueError("has a UNet without its text encoders; use the whole checkpoint")
        if shapes[f"{unet}input_blocks.0.0.weight"][1:2] != (4,):
            raise ValueError("holds weights for inpainting or editing, which draw nothing by themselves")
        if "v_pred" in names:
            raise ValueError(
                f"was trained to predict v, which its family's settings do not say; use its diffusers folder, or {_OWN_TABLE}"
            )
        if len(widths) != 1 or (family == "sdxl" and widths != {2048}):
            raise ValueError("is of a kind that is not known, as SDXL's refiner")
        return family, widths.pop(), {}
    if any("joint_blocks." in name or "double_blocks." in name for name in names):
        flux = any("double_blocks." in name for name in names)
        if not any(name.startswith("text_encoders.") for name in names):
            raise ValueError("holds the denoiser alone; use its diffusers folder, or a file with the text encoders")
        if flux == any("guidance_in." in name or ".attn2." in name for name in names):
            raise ValueError(
                f"is not the model of its family whose settings are known here; use its diffusers folder, or {_OWN_TABLE}"
            )
        return ("flux" if flux else "sd3"), None, {}
    raise ValueError(f"is no checkpoint of a kind that is known; if it is one, {_OWN_TABLE}")


_ENCODERS = (
    ("conditioner.embedders.1.", "sdxl"), ("cond_stage_model.transformer.", "sd15"), ("cond_stage_model.model.", "sd21"),
)  # fmt: skip
