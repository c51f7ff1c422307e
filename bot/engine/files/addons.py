"""The LoRAs and embeddings of this machine: found in the data directory and the models file, told by their headers. No torch.

Only headers are read here, and of sidecars a few words. What is no `.safetensors` file is refused unread.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from bot.catalogue.addons import ADDON_NAME, AddOn
from bot.catalogue.models import Catalogue
from bot.engine.files.addon_kinds import clean, embedding_width, family_of, kind_of, triggers_of, unet_family
from bot.engine.files.headers import read_header
from bot.engine.files.sources import PICKLES
from bot.generation import GenerationRequest

log = logging.getLogger(__name__)

LORAS, EMBEDDINGS = "loras", "embeddings"
MAX_FILES = 500
"""Of each folder; with more, those that come first by name are taken."""
SIDECAR_BYTES = 64 << 10
HASH_DIGITS = 12
_WEIGHTS = ".safetensors"


@dataclass(frozen=True, slots=True)
class Found:
    """What a folder holds, and a sentence for each file that is left out."""

    addons: tuple[AddOn, ...] = ()
    left_out: tuple[str, ...] = ()


def with_addons(catalogue: Catalogue, data_dir: Path) -> Catalogue:
    """Add to a catalogue what goes onto its models: their own first, then what lies in the data directory. Touches the disk."""
    found = {what: find_addons(catalogue, data_dir, what) for what in (LORAS, EMBEDDINGS)}
    for one in found.values():
        for sentence in one.left_out:
            log.warning("%s", sentence)
    return replace(catalogue, loras=found[LORAS].addons, embeddings=found[EMBEDDINGS].addons)


def find_addons(catalogue: Catalogue, data_dir: Path, what: str) -> Found:
    """Find the LoRAs or the embeddings (`what`: LORAS or EMBEDDINGS), whose names are told apart without regard to case."""
    addons: list[AddOn] = []
    left_out: list[str] = []
    for spec in catalogue.models:
        for name, path in (spec.loras if what == LORAS else spec.embeddings).items():
            _add(addons, left_out, name, _one_file(Path(path)), what, only=spec.id)
    listed, refused = list_files(data_dir / what)
    left_out += refused
    for file in listed:
        if any(addon.name.lower() == file.stem.lower() and addon.only is None for addon in addons):
            left_out.append(f"{file} is left out: another file has the same name.")
        else:
            _add(addons, left_out, file.stem, file, what)
    return Found(tuple(addons), tuple(left_out))


def list_files(folder: Path) -> tuple[list[Path], list[str]]:
    """List the `.safetensors` files of a folder and of those in it, in order, and say of each other file of weights why it is left out."""
    if not folder.is_dir():
        return [], []
    root, files, left_out = folder.resolve(), list[Path](), list[str]()
    for path in _one_level_deep(folder):
        suffix = path.suffix.lower()
        if suffix in PICKLES:
            left_out.append(f"{path} is left out: a pickle can run code as it is read; use a .safetensors file.")
        elif suffix == _WEIGHTS:
            if not path.resolve().is_relative_to(root):
                left_out.append(f"{path} is left out: it is a link that leads out of {folder}.")
            elif path.is_file():
                files.append(path)
    if len(files) > MAX_FILES:
        left_out.append(f"{folder} has {len(files)} files; the first {MAX_FILES} are used.")
    return files[:MAX_FILES], left_out


@functools.lru_cache(maxsize=MAX_FILES)
def short_hash(path: str) -> str:
    """Give the checksum by which A1111 and model sites know a LoRA: SHA-256 of what follows the header, shortened. Reads the file.

    Empty where the file is gone. Any thread but the event loop's.
    """
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb") as file:
            file.seek(8 + int.from_bytes(file.read(8), "little"))
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except (OSError, OverflowError, ValueError):
        return ""
    return digest.hexdigest()[:HASH_DIGITS]


def lora_hashes(catalogue: Catalogue, request: GenerationRequest) -> dict[str, str]:
    """Give the checksums of a request's LoRAs by name, as far as their files are there. Reads them at their first use."""
    paths = {name: path for name, _ in request.loras if (path := path_of(catalogue, request.model, name)) is not None}
    return {name: digest for name, path in paths.items() if (digest := short_hash(path))}


def path_of(catalogue: Catalogue, model: str, name: str) -> str | None:
    """Find the file of a LoRA that a request for a model names; the model's own goes before others."""
    named = [addon for addon in catalogue.loras if addon.name == name and addon.only in (None, model)]
    return min(named, key=lambda addon: addon.only is None).path if named else None


def _one_level_deep(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            yield from (inner for inner in sorted(path.iterdir()) if not inner.is_dir())
        else:
            yield path


def _one_file(path: Path) -> Path:
    files = sorted(path.glob(f"*{_WEIGHTS}")) if path.is_dir() else [path]
    return files[0] if len(files) == 1 else path


def _add(addons: list[AddOn], left_out: list[str], name: str, file: Path, what: str, only: str | None = None) -> None:
    try:
        addons.append(_told(name, file, what, only))
    except (ValueError, OSError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        left_out.append(f"{file} is left out: it {why}.")


def _told(name: str, file: Path, what: str, only: str | None) -> AddOn:
    """Tell what a file is. Raises ValueError with the rest of a sentence about it, OSError."""
    if not ADDON_NAME.fullmatch(name):
        raise ValueError("has a name that nobody could write; rename it without , : < > and to at most 64 characters")
    if file.suffix.lower() != _WEIGHTS:
        raise ValueError("is not one .safetensors file, and others are refused unread")
    header = read_header(file)
    triggers = _sidecar(file) or triggers_of(header.metadata)
    if what == EMBEDDINGS:
        width = embedding_width(header)
        if width is None:
            raise ValueError("is no textual inversion")
        return AddOn(name, str(file), *unet_family(width), "embedding", triggers, only)
    kind, family = kind_of(header), family_of(header)
    if kind is None:
        raise ValueError("is no LoRA")
    if family is None:
        raise ValueError("does not tell for which family of models it was made, or is for one that takes none here")
    return AddOn(name, str(file), *family, kind, triggers, only)


def _sidecar(file: Path) -> tuple[str, ...]:
    """Read the trigger words that lie beside a file: name.txt, or name.json as A1111 writes it."""
    for path in (file.with_suffix(".json"), file.with_suffix(".txt")):
        try:
            with path.open("rb") as beside:
                text = beside.read(SIDECAR_BYTES).decode("utf-8", "replace")
        except OSError:
            continue
        if path.suffix == ".txt":
            return clean(text.splitlines())
        try:
            data: Any = json.loads(text)
        except (ValueError, RecursionError):
            continue
        entry = cast("dict[str, Any]", data) if isinstance(data, dict) else {}
        words = entry.get("activation text") or entry.get("trainedWords")
        if found := clean(cast("list[object]", words) if isinstance(words, list) else [words]):
            return found
    return ()
