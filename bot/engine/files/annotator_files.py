"""What an annotator's files are, as transformers saves them: one folder with settings and weights. Reads headers; no torch.

Nothing of it can run code: weights are safetensors, and classes are transformers' own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol, cast

from bot.catalogue.annotators import AnnotatorSpec
from bot.catalogue.models import Catalogue
from bot.engine.files.sources import SHARD, TEXTS, Kind, Source, json_object, read_text
from bot.engine.files.vetting import MAX_SETTINGS_BYTES, vet_file
from bot.errors import ModelError

SETTINGS = "config.json"
_IMAGE_SETTINGS = ("preprocessor_config.json", "processor_config.json")
MAX_SIDE_PX = 4096
"""The largest picture that settings may ask for; the networks in use look at 224 to 1400 pixels."""
_WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")


class Locate(Protocol):
    """Who finds the files, as `ModelFiles` does."""

    def is_local(self, model_id: str) -> bool:
        """Whether it can be loaded without a network."""
        ...

    def locate_annotator(self, annotator_id: str) -> Path:
        """Give its folder. Raises ModelError."""
        ...


def wanted_annotator_files(names: Iterable[str], settings: str) -> list[str]:
    """Choose which files of a repository to fetch: its settings and one set of weights, `config.json` last. Raises ValueError where that is none."""
    _model_type(settings)
    there = [name for name in sorted(names) if "/" not in name and "\\" not in name and name.isprintable()]
    texts = [name for name in there if name.endswith(TEXTS) and name != SETTINGS]
    weights = [name for name in there if _WEIGHTS.fullmatch(name)]
    if "model.safetensors" in weights:
        weights = ["model.safetensors"]
    return [*texts, *weights, SETTINGS]


def is_whole(folder: Path) -> bool:
    """Whether a downloaded folder has its settings and all of its weights."""
    found = [path.name for path in folder.glob("*.safetensors") if _WEIGHTS.fullmatch(path.name)]
    shards = [int(match.group(1)) for name in found if (match := SHARD.search(name)) is not None]
    return (folder / SETTINGS).is_file() and (
        "model.safetensors" in found or (bool(shards) and len(shards) >= shards[0])
    )


def check_folder(spec: AnnotatorSpec, source: Source) -> Path:
    """Give a local annotator's folder. Raises ModelError naming what it lacks and what to do."""
    assert source.path is not None
    if source.kind is not Kind.FOLDER:
        raise ModelError(f"{spec.name}: {source.path} is a single file; name the folder with its settings.")
    if not source.path.is_dir():
        raise ModelError(f"{spec.name}: there is no folder {source.path}; correct its source in the models file.")
    if not (source.path / SETTINGS).is_file():
        raise ModelError(f"{spec.name}: {source.path} is no folder of a transformers model: it has no {SETTINGS}.")
    if not is_whole(source.path):
        raise ModelError(
            f"{spec.name}: {source.path} has no .safetensors weights, or not all; others are refused unread."
        )
    return source.path


def vet_annotator(spec: AnnotatorSpec, folder: Path) -> str:
    """Look through an annotator's folder before a library reads it; its kind, as transformers names it ("blip"). Raises ModelError."""
    for path in sorted(folder.iterdir()):
        if path.is_file():
            vet_file(spec, path)
    for name in _IMAGE_SETTINGS:
        _vet_sizes(spec, folder / name)
    try:
        return _model_type(read_text(folder / SETTINGS, MAX_SETTINGS_BYTES))
    except (OSError, ValueError) as error:
        raise ModelError(f"{spec.name}: {folder / SETTINGS} cannot be read ({error}).") from None


def _model_type(settings: str) -> str:
    kind = json_object(settings).get("model_type")
    if not isinstance(kind, str):
        raise ValueError("it names no kind of model")
    return kind


def _vet_sizes(spec: AnnotatorSpec, path: Path) -> None:
    """Refuse settings that enlarge every picture beyond all measure."""
    if not path.is_file():
        return
    try:
        left: list[Any] = [json_object(read_text(path, MAX_SETTINGS_BYTES))]
    except (OSError, ValueError) as error:
        raise ModelError(f"{spec.name}: {path} cannot be read ({error}).") from None
    while left:
        value = left.pop()
        if isinstance(value, dict):
            left += cast("dict[str, Any]", value).values()
        elif isinstance(value, list):
            left += cast("list[Any]", value)
        elif isinstance(value, (int, float)) and not abs(value) <= MAX_SIDE_PX:
            raise ModelError(f"{spec.name}: {path} asks for pictures of more than {MAX_SIDE_PX} px a side.")


def annotators_here(catalogue: Catalogue, files: Locate, kind: str) -> tuple[list[str], list[str]]:
    """Name the annotators of a kind that can be loaded, and say of each that is here and cannot be, why. Touches the disk."""
    there: list[str] = []
    problems: list[str] = []
    for spec in catalogue.annotators:
        if spec.kind == kind and files.is_local(spec.id):
            try:
                vet_annotator(spec, files.locate_annotator(spec.id))
                there.append(spec.id)
            except ModelError as error:
                problems.append(str(error).rstrip("."))
    return there, problems
