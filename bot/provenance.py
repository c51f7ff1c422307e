"""What a picture file says of its making: written into ours, read from anybody's. Pure: strings and dicts.

Three texts go into every file: `parameters`, which other Stable Diffusion programs read and write; `easel`,
JSON that is complete enough to draw the same picture again; and an XMP packet with the IPTC mark that the
picture is made by AI.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast
from xml.sax.saxutils import escape, quoteattr

from bot.catalogue.addons import MAX_LORAS
from bot.generation import STANDARD, Axis, GenerationRequest, Variant
from bot.prompts import addons, readers
from bot.prompts.grids import LORA_WEIGHT, grid_words
from bot.prompts.readers import PictureInfo, real, text_of, whole
from bot.prompts.upscaling import is_plain, redraws

__all__ = [
    "EaselRecord",
    "PictureInfo",
    "digital_source_type",
    "easel_json",
    "facts",
    "find_record",
    "iptc_xmp",
    "parameters_text",
    "parse_easel",
    "parse_parameters",
    "read_info",
]

DIGITAL_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
"""IPTC NewsCodes, digital source type: created by a trained model from sampled content."""

EASEL_KEY = "easel"
PARAMETERS_KEY = "parameters"
_FORMAT = 1

_SOURCES = {
    "easel": "Easel", "comfyui": "ComfyUI", "invokeai": "InvokeAI", "novelai": "NovelAI", "swarmui": "SwarmUI",
    "fooocus": "Fooocus",
}  # fmt: skip


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _quoted(value: str) -> str:
    # As A1111 does: a value that holds what separates values goes in JSON quotes.
    return json.dumps(value, ensure_ascii=False) if re.search(r'[,\n:"]', value) else value


def parameters_text(
    request: GenerationRequest, seed: int, model_name: str, version: str, lora_hashes: Mapping[str, str] | None = None
) -> str:
    """Write the `parameters` text of one picture, as A1111 and its kin do.

    The prompt with its LoRAs, whose checksums are in `lora_hashes` by name, then "Negative prompt: …" where there is one, then the settings in one line; `seed` is the
    picture's own (`request.seed + n`).
    """
    request = request.told
    drawn = {
        "Steps": str(request.num_inference_steps),
        "Sampler": request.sampler,
        "CFG scale": _number(request.guidance_scale),
        "Seed": str(seed if request.base_seed is None else request.base_seed),
    }
    settings = {
        **({} if is_plain(request) else drawn),
        "Size": f"{request.width}x{request.height}",
        "Model": model_name,
        **({"Quality": request.quality} if request.quality != STANDARD else {}),
        **_variation_settings(request, seed),
        **({"Tiling": "True"} if request.tiling else {}),
        **({"Denoising strength": _number(request.strength)} if request.image and not is_plain(request) else {}),
        **({"Postprocess upscale by": str(request.upscale)} if request.upscale else {}),
        **(
            {"Control": request.control_type, "Control scale": _number(request.control_scale)}
            if request.control
            else {}
        ),
        **({"Reference scale": _number(request.reference_scale)} if request.reference else {}),
        **_grid_settings(request),
        **(
            {"Lora hashes": ", ".join(f"{name}: {digest}" for name, digest in lora_hashes.items())}
            if lora_hashes
            else {}
        ),
        "Version": f"Easel {version}",
    }
    lines = [f"{request.prompt} {addons.tags(request.loras)}" if request.loras else request.prompt]
    if request.negative_prompt:
        lines.append(f"Negative prompt: {request.negative_prompt}")
    lines.append(", ".join(f"{key}: {_quoted(value)}" for key, value in settings.items()))
    return "\n".join(lines)


def _variation_settings(request: GenerationRequest, seed: int) -> dict[str, str]:
    if request.base_seed is None:
        return {}
    return {"Variation seed": str(seed), "Variation seed strength": _number(request.variation)}


def _grid_settings(request: GenerationRequest) -> dict[str, str]:
    """Say of a sheet what it compares, as A1111's own script for that does."""
    settings = {"Script": "X/Y/Z plot"} if request.axes else {}
    for side, axis in zip("XY", request.axes, strict=False):
        settings |= {f"{side} Type": axis.name, f"{side} Values": ",".join(axis.values)}
    return settings


def parse_parameters(text: str) -> PictureInfo | None:
    """Read a `parameters` text of A1111, Forge, SD.Next, Easel, or the JSON that SwarmUI and Fooocus put there."""
    if text.lstrip().startswith("{"):
        found = readers.read_json_parameters(text)
        if found is not None:
            return found
    return readers.read_parameters(text)


@dataclass(frozen=True, slots=True)
class EaselRecord:
    """What the `easel` chunk says: the whole request, and which of its pictures this is (`n` from 0)."""

    request: GenerationRequest
    n: int
    seed: int
    job_id: str
    device: str
    dtype: str
    version: str

    @property
    def alone(self) -> GenerationRequest:
        """The request that draws this one picture again, or all that are on this sheet."""
        if self.request.axes:
            return self.request
        chosen = self.request.prompts[self.n : self.n + 1]
        return dataclasses.replace(self.request, seed=self.seed, count=1, prompts=chosen)


# `private` and `spoiler` say where a picture was shown, not how it was made.
_REQUEST_FIELDS: dict[str, type] = {
    "prompt": str, "negative_prompt": str, "model": str, "width": int, "height": int, "count": int,
    "num_inference_steps": int, "guidance_scale": float, "seed": int, "sampler": str,
}  # fmt: skip

# What later versions added, with what it was before.
_LATER_FIELDS: dict[str, Any] = {
    "quality": STANDARD, "guidance_end": 1.0, "image": "", "strength": 1.0, "mask": "", "control": "", "control_type": "",
    "control_scale": 1.0, "variation": 0.0, "tiling": False, "loras": (), "upscale": 0, "upscale_mode": "", "upscale_source": "",
    "style": "", "wrap": "", "more_negative": "", "prompts": (), "reference": "", "reference_scale": 1.0,
}  # fmt: skip


def addon_facts(request: GenerationRequest) -> list[tuple[str, str]]:
    """Give what a request says of its LoRAs, as (label, value)."""
    if any(axis.name == LORA_WEIGHT for axis in request.axes):
        return [("LoRA", ", ".join(name for name, _ in request.loras))]
    return [("LoRA", addons.spelled(request.loras)[:400])] if request.loras else []


def picture_facts(request: GenerationRequest) -> list[tuple[str, str]]:
    """Give what a request says of its pictures' beginnings, edges and sheet, as (label, value)."""
    found: list[tuple[str, str]] = []
    if request.upscale:
        how = f", details redrawn at strength {_number(request.strength)}" if redraws(request) else ""
        found.append(("Upscaled", f"×{request.upscale}{how}"))
        found += [("Drawn by", request.upscale_source[:100])] if request.upscale_source else []
    elif request.image:
        found.append(
            ("From a picture", f"strength {_number(request.strength)}{', a part of it' if request.mask else ''}")
        )
    if request.control:
        found.append(("Control", f"{request.control_type[:40]}, scale {_number(request.control_scale)}"))
    if request.reference:
        found.append(("Reference", f"a picture, scale {_number(request.reference_scale)}"))
    if request.base_seed is not None:
        found.append(("Variation", f"{_number(request.variation)} away from seed {request.base_seed}"))
    if request.tiling:
        found.append(("Tiling", "yes"))
    if request.style:
        found.append(("Style", f"{request.style[:40]}: {request.wrap.replace('{prompt}', '…')[:200]}"))
    if request.axes:
        found.append(("Compares", grid_words(request.axes)))
    return found


def easel_json(
    request: GenerationRequest, n: int, seed: int, job_id: str, device: str, dtype: str, version: str
) -> str:
    """Write the `easel` chunk of picture `n` (from 0), whose own seed is `seed`; of a sheet with what each picture on it has of its own."""
    asked: dict[str, Any] = {name: getattr(request, name) for name in (*_REQUEST_FIELDS, *_LATER_FIELDS, "base_seed")}
    if request.axes:
        asked["variants"] = [variant.changes() for variant in request.variants]
        asked["axes"] = [dataclasses.asdict(axis) for axis in request.axes]
    record = {
        "easel": _FORMAT,
        "version": version,
        "job": job_id,
        "n": n,
        "seed": seed,
        "request": asked,
        "device": device,
        "dtype": dtype,
    }
    return json.dumps(record, ensure_ascii=False)


def parse_easel(text: str) -> EaselRecord | None:
    """Read an `easel` chunk; None where it is not one or is damaged."""
    data = readers.read_json(text)
    if data is None or data.get("easel") != _FORMAT or not isinstance(data.get("request"), dict):
        return None
    entry = cast("dict[str, Any]", data["request"])
    values: dict[str, Any] = {}
    for name, kind in _REQUEST_FIELDS.items():
        value: Any = entry.get(name)
        if kind is int:
            value = whole(value) if isinstance(value, int) else None
        elif kind is float:
            value = real(value) if isinstance(value, (int, float)) else None
        elif not isinstance(value, str):
            value = None
        if value is None:
            return None
        values[name] = value
    for name, before in _LATER_FIELDS.items():
        value = entry.get(name, before)
        if name == "loras":
            value = _loras(value)
        elif name == "prompts":
            value = _prompts(value, values["count"])
        if type(value) is not type(before):
            return None
        values[name] = value
    values["base_seed"] = whole(entry["base_seed"]) if isinstance(entry.get("base_seed"), int) else None
    sheet = _parse_sheet(entry, values["count"])
    if sheet is None:
        return None
    n, seed = whole(data.get("n")), whole(data.get("seed"))
    if n is None or seed is None:
        return None
    device, dtype, job = (text_of(data.get(key), 100) for key in ("device", "dtype", "job"))
    return EaselRecord(
        GenerationRequest(**values, **sheet), n, seed, job, device, dtype, text_of(data.get("version"), 40)
    )


def _parse_sheet(entry: Mapping[str, Any], count: int) -> dict[str, Any] | None:
    """Read what a sheet compares; nothing where it is none, None where that is damaged."""
    try:
        axes = tuple(Axis(str(axis["name"]), tuple(map(str, axis["values"]))) for axis in entry.get("axes", []))
        variants = tuple(_variant(own) for own in entry.get("variants", []))
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError):
        return None
    cells = math.prod(len(axis.values) for axis in axes) if axes else 0
    sound = len(axes) <= 2 and cells == len(variants) and cells in (0, count)
    return {"axes": axes, "variants": variants} if sound else None


def _variant(own: dict[str, Any]) -> Variant:
    kinds = _REQUEST_FIELDS | {name: type(before) for name, before in _LATER_FIELDS.items()}
    values: dict[str, Any] = {
        name: _loras(value) if name == "loras" else kinds[name](value) for name, value in own.items()
    }
    return Variant(**values)


def _prompts(value: object, count: int) -> tuple[str, ...] | None:
    """Read what each picture of a record chose; None where it is none."""
    if not isinstance(value, (list, tuple)):
        return None
    found = [text for text in cast("list[Any]", value) if isinstance(text, str) and len(text) <= readers.KEPT_CHARS]
    return tuple(found) if len(found) == len(cast("list[Any]", value)) <= count else None


def _loras(value: object) -> tuple[tuple[str, float], ...] | None:
    """Read the LoRAs of a record; None where they are none."""
    if not isinstance(value, (list, tuple)):
        return None
    found: list[tuple[str, float]] = []
    for pair in cast("list[Any]", value):
        named = cast("list[Any]", pair) if isinstance(pair, list) else []
        weight = real(named[1]) if len(named) == 2 else None
        if weight is None or not text_of(named[0], 100) or len(found) == MAX_LORAS:
            return None
        found.append((text_of(named[0], 100), weight))
    return tuple(found)


def _told(record: EaselRecord) -> PictureInfo:
    asked = record.request
    extra = [("Version", f"Easel {record.version}"), ("Picture", f"{record.n + 1} of {asked.count}")]
    extra += [("Quality", asked.quality[:100])] if asked.quality != STANDARD else []
    extra += [*addon_facts(asked), *picture_facts(asked)]
    extra += [(label, value) for label, value in (("Request", record.job_id), ("Drawn on", record.device)) if value]
    plain = is_plain(asked)
    return PictureInfo(
        source="easel", prompt=(record.alone.prompts or (asked.prompt,))[0][: readers.KEPT_CHARS],
        negative_prompt=asked.negative_prompt[: readers.KEPT_CHARS], steps=None if plain else asked.num_inference_steps,
        sampler=asked.sampler[:100], guidance=None if plain else asked.guidance_scale,
        seed=None if plain else record.seed, width=asked.width,
        height=asked.height, model=", ".join(asked.models)[:200], extra=tuple(extra),
    )  # fmt: skip


def read_info(chunks: Mapping[str, str], size: tuple[int, int]) -> PictureInfo | None:
    """Find out how a picture was made, from its text chunks and EXIF texts (by tag name).

    Easel's own record first, then the `parameters` text, then what ComfyUI, InvokeAI and NovelAI write.
    `size` (width, height) of the file stands in where the text names none. None where nothing is said.
    """
    info = _find(chunks)
    if info is None:
        return None
    if info.width is None or info.height is None:
        info = dataclasses.replace(info, width=size[0], height=size[1])
    return info


def find_record(chunks: Mapping[str, str]) -> EaselRecord | None:
    """Find Easel's own record among a picture's text chunks and EXIF texts; None where there is none, or a damaged one."""
    keys = (EASEL_KEY, "ImageDescription")  # in EXIF, where a file had to be made smaller
    return next((record for key in keys if key in chunks and (record := parse_easel(chunks[key]))), None)


def _find(chunks: Mapping[str, str]) -> PictureInfo | None:
    if record := find_record(chunks):
        return _told(record)
    for key in (PARAMETERS_KEY, "UserComment"):
        if key in chunks and (info := parse_parameters(chunks[key])):
            return info
    for key in ("prompt", "UserComment", "Make", "Model", "ImageDescription"):
        # In WebP and JPEG ComfyUI keeps its graph in EXIF, as "prompt:{…}".
        text = chunks.get(key, "")
        text = text[len("prompt:") :] if text[:7].lower() == "prompt:" else text
        if text.lstrip().startswith("{") and (info := readers.read_comfyui(text)):
            return info
    if "invokeai_metadata" in chunks and (info := readers.read_invokeai(chunks["invokeai_metadata"])):
        return info
    return readers.read_novelai(chunks.get("Description", ""), chunks.get("Comment", ""))


def facts(info: PictureInfo) -> list[tuple[str, str]]:
    """Give what `info` says besides the prompts as (label, value), in the order people look for it."""
    size = f"{info.width}×{info.height}" if info.width and info.height else None
    known = [
        ("Model", info.model),
        ("Size", size),
        ("Steps", None if info.steps is None else str(info.steps)),
        ("Guidance", None if info.guidance is None else _number(info.guidance)),
        ("Sampler", info.sampler),
        ("Seed", None if info.seed is None else str(info.seed)),
        *info.extra,
        ("Made with", _SOURCES.get(info.source) if info.source != "easel" else None),
    ]
    return [(label, value) for label, value in known if value]


_NOT_IN_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True, slots=True)
class Marks:
    """What a picture's file says of its making: PNG text chunks by keyword, and the XMP packet."""

    chunks: Mapping[str, str]
    xmp: str


def marks(
    request: GenerationRequest, n: int, *, job_id: str, model_name: str, device: str, dtype: str, version: str,
    lora_hashes: Mapping[str, str] | None = None,
) -> Marks:  # fmt: skip
    """Write down what made picture `n` (from 0) of a request, for its file. `job_id` is empty outside the bot.

    A picture of a list says what made it alone, and nothing of the others.
    """
    if request.listed:
        request, n = request.alone(n), 0
    seed = request.seed + n
    chunks = {
        PARAMETERS_KEY: parameters_text(
            request.alone(n) if request.prompts else request, seed, model_name, version, lora_hashes
        ),
        EASEL_KEY: easel_json(request, n, seed, job_id, device, dtype, version),
    }
    return Marks(chunks, iptc_xmp(version, request.prompt))


_SOURCE_TYPE = re.compile(
    r"""\w+:DigitalSourceType\s*(?:=\s*["']([^"']*)|[^<>]*resource=["']([^"']*)|[^<>]*>\s*([^<]*))"""
)


def digital_source_type(xmp: str) -> str | None:
    """Read the IPTC digital source type out of an XMP packet of any program; None where it names none."""
    found = _SOURCE_TYPE.search(xmp)
    return next((value.strip() for value in found.groups() if value), None) if found else None


def iptc_xmp(version: str, description: str = "") -> str:
    """Write the XMP packet that marks a picture as made by a trained model.

    `description` (the prompt) goes in as `dc:description`; what XML cannot hold is left out of it.
    """
    tool = quoteattr(f"Easel {version}")
    about = ""
    if description:
        text = escape(_NOT_IN_XML.sub("", description))
        about = f'<dc:description><rdf:Alt><rdf:li xml:lang="x-default">{text}</rdf:li></rdf:Alt></dc:description>'
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" '
        'xmlns:dc="http://purl.org/dc/elements/1.1/" '
        'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" '
        f'xmp:CreatorTool={tool} Iptc4xmpExt:DigitalSourceType="{DIGITAL_SOURCE_TYPE}">'
        f"{about}</rdf:Description></rdf:RDF></x:xmpmeta>"
        '<?xpacket end="w"?>'
    )
