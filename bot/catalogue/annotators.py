"""The models that look at a picture, as `models.toml` names them: `[annotators.ID]`. Pure: who loads them is `bot/engine/`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from bot.catalogue.entries import check_number, check_revision, located, read_checksums, read_table
from bot.errors import ConfigError

CAPTION, DEPTH, PEOPLE, POSE = "caption", "depth", "people", "pose"
ANNOTATOR_KINDS = (CAPTION, DEPTH, PEOPLE, POSE)
"""What they say of a picture: words, how far away each pixel is, where people are, how one of them stands."""
MAP_MAKERS: Mapping[str, tuple[str, ...]] = {"depth": (DEPTH,), "pose": (PEOPLE, POSE)}
"""Which kinds it takes to make a control map of a picture, by the map's kind; other maps take none."""


@dataclass(frozen=True, slots=True)
class AnnotatorSpec:
    """A model that looks at a picture; `kind` is one of ANNOTATOR_KINDS.

    `source` is a Hub id ("owner/name") or a folder as transformers saves it; relative paths count from the catalogue's folder.
    `sha256` are checksums in hexadecimal, by file inside of it.
    """

    id: str
    kind: str
    name: str
    source: str
    licence: str
    licence_url: str | None = None
    gated: bool = False
    revision: str | None = None
    download_bytes: int | None = None
    sha256: Mapping[str, str] = field(default_factory=dict[str, str])


def map_makers(annotators: Sequence[AnnotatorSpec], control_type: str) -> tuple[AnnotatorSpec, ...]:
    """Choose those that make the map of a control type of a picture, the first of each kind, in the order they are asked; none for a ready-made one.

    Raises LookupError with the kind of which there is none.
    """
    found: list[AnnotatorSpec] = []
    for kind in MAP_MAKERS.get(control_type, ()):
        spec = next((spec for spec in annotators if spec.kind == kind), None)
        if spec is None:
            raise LookupError(kind)
        found.append(spec)
    return tuple(found)


_KEYS = {
    "kind": str, "name": str, "source": str, "licence": str, "licence_url": str, "gated": bool, "revision": str,
    "download_gb": (int, float), "sha256": dict,
}  # fmt: skip
_NEEDED = ("kind", "name", "source", "licence")


def parse_annotators(tables: Any, *, origin: str, taken: frozenset[str] = frozenset()) -> tuple[AnnotatorSpec, ...]:
    """Read what stands under `annotators` in a models file; nothing where there is nothing.

    `taken` are the ids of its models, which are called in the same places. Raises ConfigError naming `origin`, the annotator and the key.
    """
    if tables is None:
        return ()
    if not isinstance(tables, dict):
        raise ConfigError(f"{origin}: write annotators as tables, [annotators.ID].")
    found: list[AnnotatorSpec] = []
    for annotator_id, table in cast("dict[str, Any]", tables).items():
        spec = _make(annotator_id, table, origin)
        if spec.id in taken:
            raise ConfigError(f"{located('annotator', spec.id, origin)}: a model has this id; give it another one.")
        found.append(spec)
    return tuple(found)


def _make(annotator_id: str, table: Any, origin: str) -> AnnotatorSpec:
    entry = read_table(annotator_id, table, _KEYS, _NEEDED, "annotator", origin)
    where = located("annotator", annotator_id, origin)
    if entry["kind"] not in ANNOTATOR_KINDS:
        raise ConfigError(f"{where}: kind is one of {', '.join(ANNOTATOR_KINDS)}, not {entry['kind'][:80]!r}.")
    if entry["source"].lower().endswith((".safetensors", ".gguf")):
        raise ConfigError(f"{where}: source is a Hub id or a folder with its settings and weights, not a single file.")
    check_number(entry, "download_gb", 0, 1e6, where)
    check_revision(entry, where)
    download = entry.get("download_gb")
    return AnnotatorSpec(
        annotator_id, entry["kind"], entry["name"], entry["source"], entry["licence"],
        licence_url=entry.get("licence_url"), gated=entry.get("gated", False), revision=entry.get("revision"),
        download_bytes=None if download is None else int(download * 1e9), sha256=read_checksums(entry, where),
    )  # fmt: skip
