"""From the text of a models file to its models, each key checked. Pure."""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from typing import Any, cast

from bot.catalogue.addons import ADDON_NAME, EMBEDDED, FAMILIES, UNETS
from bot.catalogue.annotators import parse_annotators
from bot.catalogue.controls import read_controls
from bot.catalogue.entries import check_number, check_revision, located, read_checksums, read_table
from bot.catalogue.models import (
    ASPECTS,
    GUIDED_IN_LANES,
    MAX_SIDE_PX,
    QUANTIZATIONS,
    SIZE_MULTIPLE,
    Catalogue,
    DraftSpec,
    ModelSpec,
)
from bot.catalogue.references import IP_ADAPTER_KEYS, read_ip_adapter
from bot.errors import ConfigError

MAX_STEPS = 1000
_VARIANT = re.compile(r"[A-Za-z0-9]\w{0,31}")


def sizes_for(base_px: int, multiple: int) -> dict[str, tuple[int, int]]:
    """Give each aspect the size nearest to `base_px` squared pixels, sides rounded to `multiple`."""
    sizes: dict[str, tuple[int, int]] = {}
    for aspect in ASPECTS:
        across, down = (int(part) for part in aspect.split(":"))
        ratio = across / down
        width = max(1, round(base_px * math.sqrt(ratio) / multiple)) * multiple
        height = max(1, round(base_px / math.sqrt(ratio) / multiple)) * multiple
        sizes[aspect] = (width, height)
    return sizes


def parse_catalogue(text: str, *, origin: str, default: str | None = None) -> Catalogue:
    """Read a catalogue file's text.

    Each `[models.ID]` table needs `name source family licence`; the head of `models.toml` explains these and the other keys. What an
    `[annotators.ID]` table takes is said by `bot/catalogue/annotators.py`.

    Raises ConfigError naming `origin`, the model and the key.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{origin} is not valid TOML: {error}.") from None
    tables = data.get("models")
    if not isinstance(tables, dict) or not tables:
        raise ConfigError(f"{origin} names no models: it needs at least one [models.ID] table.")
    models = tuple(make_model(key, table, origin) for key, table in cast("dict[str, Any]", tables).items())
    chosen = default or str(data.get("default") or models[0].id)
    if chosen not in {m.id for m in models}:
        known = ", ".join(m.id for m in models)
        raise ConfigError(f"The default model {chosen!r} is not in {origin}; it knows {known}.")
    annotators = parse_annotators(data.get("annotators"), origin=origin, taken=frozenset(m.id for m in models))
    return Catalogue(models, chosen, annotators=annotators)


_KEYS = {
    "name": str, "source": str, "family": str, "licence": str, "description": str, "base_px": int,
    "size_multiple": int, "sizes": dict, "side_multiple": int, "min_side": int, "max_side": int, "max_pixels": int, "steps": int,
    "max_steps": int, "guidance": (int, float), "max_guidance": (int, float), "sampler": str, "samplers": list,
    "negative_prompt": bool, "licence_url": str, "gated": bool, "revision": str, "variant": str,
    "download_gb": (int, float), "max_sequence_length": int, "guidance_end": (int, float), "draft_lora": str,
    "draft_steps": int, "draft_guidance": (int, float), "draft_sampler": str, "tiny_vae": str, "quantization": str, "base": str,
    "sha256": (str, dict), "inpainting": str, "controls": dict, "loras": dict, "embeddings": dict, "vae": str,
    **IP_ADAPTER_KEYS,
}  # fmt: skip


def make_model(model_id: str, table: Any, origin: str) -> ModelSpec:
    """Make a model of its table in a catalogue file, `origin`. Raises ConfigError naming the model and the key."""
    where = located("model", model_id, origin)
    entry = read_table(model_id, table, _KEYS, ("name", "source", "family", "licence"), "model", origin)
    _check_numbers(entry, where)
    _check_names(entry, where)
    sampler = entry.get("sampler", "Default")
    samplers = tuple(str(s) for s in entry.get("samplers", [sampler]))
    if sampler not in samplers:
        samplers = (sampler, *samplers)
    if entry.get("max_sequence_length", 1) < 1:
        raise ConfigError(f"{where}: max_sequence_length is at least 1 token.")
    _check_quantization(entry, where)
    side_multiple = _side_multiple(entry, where)
    sizes = _sizes(entry, side_multiple, where)
    min_side = entry.get("min_side", 64)
    max_side = entry.get("max_side", max(max(size) for size in sizes.values()))
    if math.ceil(min_side / side_multiple) > max_side // side_multiple:
        raise ConfigError(
            f"{where}: no multiple of {side_multiple} lies from min_side {min_side} to max_side {max_side}."
        )
    steps, guidance = entry.get("steps", 30), float(entry.get("guidance", 5.0))
    download = entry.get("download_gb")
    return ModelSpec(
        id=model_id, name=entry["name"], source=entry["source"], family=entry["family"], licence=entry["licence"],
        description=entry.get("description", ""), sizes=sizes, min_side=min_side,
        max_side=max_side, max_pixels=entry.get("max_pixels", max_side * max_side), steps=steps,
        max_steps=entry.get("max_steps", max(100, steps)), guidance=guidance,
        max_guidance=float(entry.get("max_guidance", max(20.0, guidance))), sampler=sampler, samplers=samplers,
        negative_prompt=entry.get("negative_prompt", True), licence_url=entry.get("licence_url"),
        gated=entry.get("gated", False), revision=entry.get("revision"), variant=entry.get("variant"),
        download_bytes=None if download is None else int(download * 1e9),
        side_multiple=side_multiple,
        max_sequence_length=entry.get("max_sequence_length"), quantization=entry.get("quantization"), base=entry.get("base"),
        draft=_draft(entry, sampler, where),
        guidance_end=_guidance_end(entry, where),
        sha256=read_checksums(entry, where),
        inpainting=_inpainting(entry, where),
        controls=read_controls(entry, where),
        vae=entry.get("vae") or None,
        ip_adapter=read_ip_adapter(entry, where),
        loras=_files(entry, "loras", FAMILIES, where), embeddings=_files(entry, "embeddings", EMBEDDED, where),
    )  # fmt: skip


def _inpainting(entry: dict[str, Any], where: str) -> str | None:
    source: str | None = entry.get("inpainting") or None
    if source is not None and entry["family"] not in UNETS:
        raise ConfigError(f"{where}: inpainting is for the families {', '.join(UNETS)}, not {entry['family']}.")
    return source


def _files(entry: dict[str, Any], key: str, families: tuple[str, ...], where: str) -> dict[str, str]:
    given = cast("dict[str, Any]", entry.get(key, {}))
    if given and entry["family"] not in families:
        raise ConfigError(f"{where}: {key} is for the families {', '.join(families)}, not {entry['family']}.")
    for name, path in given.items():
        if not ADDON_NAME.fullmatch(name):
            raise ConfigError(
                f"{where}: {key} names {name[:80]!r}; a name has no , : < > or line break, at most 64 characters."
            )
        if not isinstance(path, str) or not path:
            raise ConfigError(f"{where}: {key}.{name} is a .safetensors file, or a folder with one.")
    return {name: str(path) for name, path in given.items()}


def _draft(entry: dict[str, Any], sampler: str, where: str) -> DraftSpec | None:
    keys = ("draft_steps", "draft_guidance", "draft_sampler", "tiny_vae")
    if not entry.get("draft_lora"):
        if alone := [key for key in keys if key in entry]:
            raise ConfigError(
                f"{where}: {alone[0]} is for drafts, which need draft_lora: a folder or .safetensors file."
            )
        return None
    steps, guidance = entry.get("draft_steps", 4), float(entry.get("draft_guidance", 1.0))
    if not 1 <= steps <= entry.get("max_steps", 100):
        raise ConfigError(f"{where}: draft_steps goes from 1 to max_steps, got {steps}.")
    if not 0 <= guidance <= entry.get("max_guidance", 20.0):
        raise ConfigError(f"{where}: draft_guidance goes from 0 to max_guidance, got {guidance:g}.")
    return DraftSpec(
        entry["draft_lora"], steps, guidance, entry.get("draft_sampler", sampler), entry.get("tiny_vae") or None
    )


def _guidance_end(entry: dict[str, Any], where: str) -> float:
    end = float(entry.get("guidance_end", 1.0))
    if not 0 < end <= 1:
        raise ConfigError(f"{where}: guidance_end is a share of the steps, above 0 and at most 1, got {end:g}.")
    if end < 1 and entry["family"] not in GUIDED_IN_LANES:
        raise ConfigError(
            f"{where}: guidance_end is for the families {', '.join(GUIDED_IN_LANES)}, not {entry['family']}."
        )
    return end


def _check_quantization(entry: dict[str, Any], where: str) -> None:
    quantization = entry.get("quantization")
    if quantization is not None and quantization not in QUANTIZATIONS:
        raise ConfigError(f"{where}: quantization is one of {', '.join(QUANTIZATIONS)}, not {quantization!r}.")
    is_gguf = entry["source"].lower().endswith(".gguf")
    if is_gguf != (quantization == "gguf"):
        raise ConfigError(f'{where}: quantization = "gguf" and a source that ends in .gguf go together.')
    if is_gguf and not entry.get("base"):
        raise ConfigError(
            f"{where}: a .gguf file holds the denoiser alone; base names the model with the other parts, a Hub id or a folder."
        )
    if not is_gguf and "base" in entry:
        raise ConfigError(f"{where}: base is for a source that ends in .gguf.")


_NUMBERS: dict[str, tuple[float, float]] = {
    "base_px": (8, MAX_SIDE_PX), "size_multiple": (-MAX_SIDE_PX, MAX_SIDE_PX), "side_multiple": (-MAX_SIDE_PX, MAX_SIDE_PX),
    "min_side": (1, MAX_SIDE_PX), "max_side": (1, MAX_SIDE_PX), "max_pixels": (1, MAX_SIDE_PX**2), "steps": (1, MAX_STEPS),
    "max_steps": (1, MAX_STEPS), "guidance": (0, 1000), "max_guidance": (0, 1000), "download_gb": (0, 1e6),
    "max_sequence_length": (-(2**31), 2**31),
}  # fmt: skip


def _check_numbers(entry: Mapping[str, Any], where: str) -> None:
    for key, (low, high) in _NUMBERS.items():
        check_number(entry, key, low, high, where)
    for key, highest, default in (("steps", "max_steps", 30), ("guidance", "max_guidance", 5.0)):
        if highest in entry and entry.get(key, default) > entry[highest]:
            raise ConfigError(f"{where}: {key} is more than {highest}.")


def _check_names(entry: Mapping[str, Any], where: str) -> None:
    """Refuse names that would lead out of a folder: of these, paths are made."""
    check_revision(entry, where)
    variant = entry.get("variant")
    if variant is not None and not _VARIANT.fullmatch(variant):
        raise ConfigError(f"{where}: variant is a word as in the file names, like fp16, not {variant[:80]!r}.")


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
        sides = cast("list[Any]", pair)
        if not all(type(s) is int and 0 < s <= MAX_SIDE_PX and s % side_multiple == 0 for s in sides):
            raise ConfigError(f"{where}: sizes.{aspect} needs multiples of {side_multiple}, got {str(sides)[:80]}.")
        sizes[aspect] = (width, height)
    if not sizes:
        raise ConfigError(f"{where}: sizes is empty.")
    return sizes
