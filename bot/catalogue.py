"""What a model is to the rest of Easel: its entry in `models.toml`, read and checked.

Pure: text in, dataclasses out. Who finds, fetches and loads the weights is `bot/engine/`.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from bot.errors import ConfigError

SIZE_MULTIPLE = 8


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One model of the catalogue.

    `source` is a Hub id ("owner/name"), a folder or a `.safetensors` file; relative paths count from the
    catalogue's folder. Sizes are pixels; `sizes` maps each aspect ("3:2") to (width, height), and every side is a
    multiple of `side_multiple`. `max_sequence_length` is how many tokens of the prompt are read; None leaves that to
    the pipeline.
    """

    id: str
    name: str
    source: str
    family: str
    licence: str
    description: str
    sizes: Mapping[str, tuple[int, int]]
    min_side: int
    max_side: int
    max_pixels: int
    steps: int
    max_steps: int
    guidance: float
    max_guidance: float
    sampler: str
    samplers: tuple[str, ...]
    negative_prompt: bool
    licence_url: str | None = None
    gated: bool = False
    revision: str | None = None
    variant: str | None = None
    download_bytes: int | None = None
    side_multiple: int = SIZE_MULTIPLE
    max_sequence_length: int | None = None

    @property
    def default_size(self) -> tuple[int, int]:
        """Width and height of the model's square (or first) size."""
        return self.sizes.get("1:1") or next(iter(self.sizes.values()))


ASPECTS = ("1:1", "3:2", "2:3", "4:3", "3:4", "16:9", "9:16")


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The models in the file's order; `default` is the id used where none is named."""

    models: tuple[ModelSpec, ...]
    default: str

    def get(self, model_id: str) -> ModelSpec | None:
        """Find a model by id; None where there is none."""
        return next((m for m in self.models if m.id == model_id), None)

    def name_of(self, model_id: str) -> str:
        """Name a model for people; its id where it has left the catalogue."""
        spec = self.get(model_id)
        return model_id if spec is None else spec.name

    def __getitem__(self, model_id: str) -> ModelSpec:
        spec = self.get(model_id)
        if spec is None:
            raise KeyError(model_id)
        return spec


def sizes_for(base_px: int, multiple: int) -> dict[str, tuple[int, int]]:
    """Give each aspect the size nearest to `base_px` squared pixels, sides rounded to `multiple`."""
    sizes: dict[str, tuple[int, int]] = {}
    for aspect in ASPECTS:
        across, down = (int(part) for part in aspect.split(":"))
        ratio = across / down
        width = round(base_px * math.sqrt(ratio) / multiple) * multiple
        height = round(base_px / math.sqrt(ratio) / multiple) * multiple
        sizes[aspect] = (width, height)
    return sizes


def parse_catalogue(text: str, *, origin: str, default: str | None = None) -> Catalogue:
    """Read a catalogue file's text.

    Each `[models.ID]` table needs `name source family licence`, and may give `description base_px
    size_multiple sizes side_multiple min_side max_side max_pixels steps max_steps guidance max_guidance sampler samplers
    negative_prompt licence_url gated revision variant download_gb max_sequence_length`.

    Raises ConfigError naming `origin`, the model and the key.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{origin} is not valid TOML: {error}.") from None
    tables = data.get("models")
    if not isinstance(tables, dict) or not tables:
        raise ConfigError(f"{origin} names no models: it needs at least one [models.ID] table.")
    models = tuple(_parse_model(key, table, origin) for key, table in cast("dict[str, Any]", tables).items())
    chosen = default or str(data.get("default") or models[0].id)
    if chosen not in {m.id for m in models}:
        known = ", ".join(m.id for m in models)
        raise ConfigError(f"The default model {chosen!r} is not in {origin}; it knows {known}.")
    return Catalogue(models, chosen)


_KEYS = {
    "name": str, "source": str, "family": str, "licence": str, "description": str, "base_px": int,
    "size_multiple": int, "sizes": dict, "side_multiple": int, "min_side": int, "max_side": int, "max_pixels": int, "steps": int,
    "max_steps": int, "guidance": (int, float), "max_guidance": (int, float), "sampler": str, "samplers": list,
    "negative_prompt": bool, "licence_url": str, "gated": bool, "revision": str, "variant": str,
    "download_gb": (int, float), "max_sequence_length": int,
}  # fmt: skip


def _parse_model(model_id: str, table: Any, origin: str) -> ModelSpec:
    where = f"{origin}, model {model_id!r}"
    if not isinstance(table, dict):
        raise ConfigError(f"{where}: write it as a table, [models.{model_id}].")
    entry = cast("dict[str, Any]", table)
    for key, value in entry.items():
        kind = _KEYS.get(key)
        if kind is None:
            raise ConfigError(f"{where}: {key!r} is no key of a model; it takes {', '.join(_KEYS)}.")
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ConfigError(f"{where}: {key} has the wrong type, got {value!r}.")
    for key in ("name", "source", "family", "licence"):
        if not entry.get(key):
            raise ConfigError(f"{where}: {key!r} is missing.")
    sampler = entry.get("sampler", "Default")
    samplers = tuple(str(s) for s in entry.get("samplers", [sampler]))
    if sampler not in samplers:
        samplers = (sampler, *samplers)
    if entry.get("max_sequence_length", 1) < 1:
        raise ConfigError(f"{where}: max_sequence_length is at least 1 token.")
    side_multiple = _side_multiple(entry, where)
    sizes = _sizes(entry, side_multiple, where)
    max_side = entry.get("max_side", max(max(size) for size in sizes.values()))
    download = entry.get("download_gb")
    return ModelSpec(
        id=model_id, name=entry["name"], source=entry["source"], family=entry["family"], licence=entry["licence"],
        description=entry.get("description", ""), sizes=sizes, min_side=entry.get("min_side", 64),
        max_side=max_side, max_pixels=entry.get("max_pixels", max_side * max_side), steps=entry.get("steps", 30),
        max_steps=entry.get("max_steps", 100), guidance=float(entry.get("guidance", 5.0)),
        max_guidance=float(entry.get("max_guidance", 20.0)), sampler=sampler, samplers=samplers,
        negative_prompt=entry.get("negative_prompt", True), licence_url=entry.get("licence_url"),
        gated=entry.get("gated", False), revision=entry.get("revision"), variant=entry.get("variant"),
        download_bytes=None if download is None else int(download * 1e9),
        side_multiple=side_multiple,
        max_sequence_length=entry.get("max_sequence_length"),
    )  # fmt: skip


def _side_multiple(entry: dict[str, Any], where: str) -> int:
    multiple = int(entry.get("side_multiple", SIZE_MULTIPLE))
    if multiple <= 0 or multiple % SIZE_MULTIPLE:
        raise ConfigError(f"{where}: side_multiple is a positive multiple of {SIZE_MULTIPLE}, got {multiple}.")
    return multiple


def _sizes(entry: dict[str, Any], side_multiple: int, where: str) -> dict[str, tuple[int, int]]:
    named = entry.get("sizes")
    if named is None:
        multiple = int(entry.get("size_multiple", max(64, side_multiple)))
        if multiple <= 0 or multiple % side_multiple:
            raise ConfigError(f"{where}: size_multiple is a positive multiple of {side_multiple}, got {multiple}.")
        return sizes_for(entry.get("base_px", 512), multiple)
    sizes: dict[str, tuple[int, int]] = {}
    for aspect, pair in named.items():
        if aspect not in ASPECTS:
            raise ConfigError(f"{where}: sizes knows the aspects {', '.join(ASPECTS)}, not {aspect!r}.")
        if not (isinstance(pair, list) and len(cast("list[Any]", pair)) == 2):
            raise ConfigError(f"{where}: sizes.{aspect} is [width, height].")
        width, height = cast("list[Any]", pair)
        if not all(isinstance(side, int) and side > 0 and side % side_multiple == 0 for side in (width, height)):
            raise ConfigError(f"{where}: sizes.{aspect} needs multiples of {side_multiple}, got {pair!r}.")
        sizes[aspect] = (width, height)
    if not sizes:
        raise ConfigError(f"{where}: sizes is empty.")
    return sizes
