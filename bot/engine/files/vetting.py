"""Look through a model's files before a library loads them: what they are, how large, and what they name. No torch.

`DiffusionPipeline.from_pretrained` trusts what a folder says; here nothing of it is believed that can run code,
reach outside the folder or ask for more memory than the files have bytes.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from bot.catalogue.entries import Entry
from bot.catalogue.models import ModelSpec
from bot.engine.files.headers import read_header
from bot.engine.files.sources import INDEX, MAX_INDEX_BYTES, PICKLES, folder_problem, json_object, read_text
from bot.errors import ModelError

MAX_SETTINGS_BYTES = 1 << 20
MAX_JSON_BYTES = 64 << 20
"""Tokenizers' vocabularies are JSON, too; the largest in use have about 35 MB."""
LIBRARIES = frozenset({"diffusers", "transformers"})
MAX_LAYERS = 1000
"""Of these a model is built before its weights are compared with it; the deepest in use have about a hundred."""
_LAYERS = re.compile(r"layers|depth|num_\w*blocks")
_SHARDS = ".safetensors.index.json"
_SETTINGS = ("config.json", "scheduler_config.json", "preprocessor_config.json", INDEX)


def vet(spec: ModelSpec, weights: Path, settings: Path | None) -> None:
    """Check a model's folder, or a single file and the folder of its settings. Reads headers and settings, no weights.

    Raises ModelError naming the model, the file and what is wrong with it. Any thread; touches the disk.
    """
    for path in draft_files(spec):
        vet_weights(spec, path)
    if weights.is_dir():
        _vet_folder(spec, weights)
        return
    if settings is not None:
        _vet_folder(spec, settings, with_weights=spec.base is not None)
    if spec.base is None:
        vet_weights(spec, weights)
    else:
        _vet_gguf(spec, weights)


def vet_part(spec: ModelSpec, folder: Path) -> None:
    """Check the folder of one network that a model has besides, as a control network. Raises ModelError."""
    if not (folder / "config.json").is_file():
        raise ModelError(f"{spec.name}: {folder} is no folder of a diffusers network: it has no config.json.")
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    if not any(path.suffix == ".safetensors" for path in files):
        raise ModelError(f"{spec.name}: {folder} has no .safetensors weights; others are refused unread.")
    for path in files:
        vet_file(spec, path)


def draft_files(spec: ModelSpec) -> list[Path]:
    """List the files of weights that make a model draw drafts."""
    if spec.draft is None or not spec.is_draft:
        return []
    given = [Path(path) for path in (spec.draft.lora, spec.draft.tiny_vae) if path is not None]
    return [file for path in given for file in (sorted(path.glob("*.safetensors")) if path.is_dir() else [path])]


def _vet_gguf(spec: ModelSpec, path: Path) -> None:
    """Check that a file is a GGUF file: its reader maps the file, and takes no more memory than that has bytes."""
    try:
        with path.open("rb") as file:
            begins = file.read(4)
    except OSError as error:
        raise ModelError(f"{spec.name}: {path} cannot be read: {error.strerror}.") from None
    if begins != b"GGUF":
        raise ModelError(f"{spec.name}: {path} is no GGUF file.")


def _vet_folder(spec: ModelSpec, folder: Path, *, with_weights: bool = True) -> None:
    if with_weights and (problem := folder_problem(folder)) is not None:
        raise ModelError(f"{spec.name}: {folder} is no diffusers model folder: {problem}.")
    try:
        index = json_object(read_text(folder / INDEX, MAX_INDEX_BYTES))
    except (OSError, ValueError) as error:
        raise ModelError(f"{spec.name}: {folder / INDEX} cannot be read ({error}).") from None
    for part, named in index.items():
        library = cast("list[Any]", named)[0] if isinstance(named, list) and named else None
        if part != "safety_checker" and isinstance(library, str) and not _is_known(library):
            raise ModelError(
                f"{spec.name}: the part {part[:60]!r} of {folder} is of {library[:60]!r}, which is not loaded; "
                "classes of diffusers and transformers are, and code of a model's own is never run."
            )
    for path in _files(folder):
        if with_weights or path.suffix != ".safetensors":
            vet_file(spec, path)


def vet_file(spec: Entry, path: Path) -> None:
    """Check a file by its name: JSON by its size and depth, weights by their header, other files not at all. Raises ModelError."""
    if path.name.endswith(_SHARDS):
        _vet_shards(spec, path)
    elif path.suffix == ".json":
        _vet_json(spec, path, MAX_SETTINGS_BYTES if path.name in _SETTINGS else MAX_JSON_BYTES)
    elif path.suffix == ".safetensors":
        vet_weights(spec, path)


def _files(folder: Path) -> Iterator[Path]:
    """List the files of a model's parts; what lies beside them is not read."""
    for part in sorted(folder.iterdir()):
        if part.is_dir():
            yield from (path for path in sorted(part.iterdir()) if path.is_file())


def _is_known(library: str) -> bool:
    if library in LIBRARIES:
        return True
    # What is left are the classes that one of diffusers' pipelines brings along, named by its folder there.
    found = importlib.util.find_spec("diffusers")
    if found is None or found.origin is None or not library.isidentifier() or library.startswith("_"):
        return False
    return (Path(found.origin).parent / "pipelines" / library).is_dir()


def vet_weights(spec: Entry, path: Path) -> None:
    """Check the header of a file of weights. Raises ModelError."""
    try:
        read_header(path)
    except ValueError as error:
        raise ModelError(f"{spec.name}: {path} {error}.") from None
    except OSError as error:
        raise ModelError(f"{spec.name}: {path} cannot be read: {error.strerror}.") from None


def _vet_json(spec: Entry, path: Path, max_bytes: int) -> None:
    size = path.stat().st_size
    if size > max_bytes:
        raise ModelError(f"{spec.name}: {path} has {size >> 20} MiB; at most {max_bytes >> 20} are read.")
    if path.name != "config.json":
        return
    try:
        config = json_object(read_text(path, max_bytes))
    except (OSError, ValueError) as error:
        raise ModelError(f"{spec.name}: {path} cannot be read ({error}).") from None
    if (key := _too_deep(config)) is not None:
        raise ModelError(f"{spec.name}: {path} asks for more than {MAX_LAYERS} layers ({key[:60]!r}).")


def _too_deep(config: Mapping[str, Any]) -> str | None:
    """Name the setting that asks for more layers than any model has, None where none does."""
    left = [config]  # a list, not calls: a stranger's settings may be deep
    while left:
        for key, value in left.pop().items():
            values = cast("list[Any]", value) if isinstance(value, list) else [value]
            numbers = [n for n in values if isinstance(n, (int, float))]
            if len(values) > MAX_LAYERS or (_LAYERS.search(key) and any(n > MAX_LAYERS for n in numbers)):
                return key
            if isinstance(value, dict):
                left.append(cast("dict[str, Any]", value))
    return None


def _vet_shards(spec: Entry, path: Path) -> None:
    """Check the list of a part's files: each a `.safetensors` beside it, or a loader would unpickle what it names."""
    try:
        named = json_object(read_text(path, MAX_JSON_BYTES)).get("weight_map")
    except (OSError, ValueError) as error:
        raise ModelError(f"{spec.name}: {path} cannot be read ({error}).") from None
    if not isinstance(named, dict):
        raise ModelError(f"{spec.name}: {path} lists no files.")
    for name in set(map(str, cast("dict[str, Any]", named).values())):
        if name.lower().endswith(PICKLES):
            raise ModelError(f"{spec.name}: {path} names the pickle {name[:80]!r}, which is refused unread.")
        if not name.endswith(".safetensors") or Path(name).name != name or "\\" in name:
            raise ModelError(f"{spec.name}: {path} names {name[:80]!r}, which is no .safetensors file beside it.")
        if not (path.parent / name).is_file():
            raise ModelError(f"{spec.name}: {path.parent / name} is missing.")
