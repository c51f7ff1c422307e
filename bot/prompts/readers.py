"""Read what other programs write into pictures: A1111 and its kin, ComfyUI, InvokeAI, NovelAI, SwarmUI, Fooocus.

Pure: text in, `PictureInfo` out, None where the text is not that program's. Strangers write these texts, so
nothing in them raises and nothing of any length is kept.
"""

from __future__ import annotations

import json
import math
import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

MAX_TEXT_CHARS = 1_000_000
KEPT_CHARS = 10_000


@dataclass(frozen=True, slots=True)
class PictureInfo:
    """What a picture says of its making; None is "does not say". Sizes are pixels.

    `source` is the program's kind: "easel", "parameters" (A1111, Forge, SD.Next and others that write the
    same text), "comfyui", "invokeai", "novelai", "swarmui" or "fooocus". `extra` holds what else it says.
    """

    source: str
    prompt: str = ""
    negative_prompt: str = ""
    steps: int | None = None
    sampler: str | None = None
    guidance: float | None = None
    seed: int | None = None
    width: int | None = None
    height: int | None = None
    model: str | None = None
    extra: tuple[tuple[str, str], ...] = ()


def whole(value: object) -> int | None:
    """Read a whole number, None where it is not one."""
    number = real(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value if abs(value) < 2**64 else None
    if isinstance(value, str) and re.fullmatch(r"\s*-?\d{1,19}\s*", value):
        return int(value)
    return int(number) if number is not None and number.is_integer() and abs(number) < 2**53 else None


def real(value: object) -> float | None:
    """Read a finite number, None where it is not one."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)) or len(str(value)[:65]) > 64:
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def text_of(value: object, limit: int = KEPT_CHARS) -> str:
    """Give a value that is a text, cut to `limit`; else nothing."""
    return value.strip()[:limit] if isinstance(value, str) else ""


def read_json(text: str) -> dict[str, Any] | None:
    """Read a JSON object; None for anything else, however broken or deep."""
    if len(text) > MAX_TEXT_CHARS:
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return cast("dict[str, Any]", value) if isinstance(value, dict) else None


# --- the `parameters` text of A1111 and its kin -------------------------------------------------------------------

# Bounded and possessive: a stranger's text may not make the pattern walk back and forth.
_PAIR = re.compile(r'(?<!\s)\s*+(\w[\w \-/]{0,60}+):\s*+("(?:\\.|[^\\"])*+"|[^,]*+)(?:,|$)')
_NEGATIVE = "Negative prompt:"
_SETTINGS_LINE = re.compile(r"\s*Steps:\s*\d+\s*(?:,|$)")
_SCHEDULES_NOT_NAMED = {"automatic", "normal", "default", "simple", ""}


def read_parameters(text: str) -> PictureInfo | None:
    """Read an A1111 `parameters` text; None where it holds neither settings nor a negative prompt.

    The settings are the last line that has them; what stands above is the prompt and, from a line that
    begins with "Negative prompt:", the negative one; both may run over several lines.
    """
    lines = text[:MAX_TEXT_CHARS].replace("\r\n", "\n").strip().split("\n")
    at = _settings_at(lines)
    settings: dict[str, str] = {}
    if at is not None:
        # A quoted value may hold newlines as \n, but some programs go on in a further line all the same.
        settings = _pairs(", ".join(line.strip().rstrip(",") for line in lines[at:]))
        lines = lines[:at]
    prompt: list[str] = []
    negative: list[str] | None = None
    for line in lines:
        if negative is None and line.lstrip().startswith(_NEGATIVE):
            negative = [line.lstrip().removeprefix(_NEGATIVE).lstrip()]
        elif negative is None:
            prompt.append(line)
        else:
            negative.append(line)
    if not settings and negative is None:
        return None
    return _from_settings(settings, "\n".join(prompt), "\n".join(negative or []))


def _settings_at(lines: list[str]) -> int | None:
    for at in range(len(lines) - 1, max(-1, len(lines) - 40), -1):
        if _SETTINGS_LINE.match(lines[at]):
            return at
    # A settings line need not begin with the steps; A1111 itself takes the last line if three pairs are in it.
    last = lines[-1]
    return len(lines) - 1 if not last.startswith(_NEGATIVE) and len(_pairs(last)) >= 3 else None


def _pairs(line: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for match in _PAIR.finditer(line[:20_000]):
        key, value = match.group(1).strip(), match.group(2).strip()
        if value.startswith('"') and value.endswith('"') and len(value) > 1:
            try:
                value = str(json.loads(value))
            except ValueError:
                value = value[1:-1]
        pairs.setdefault(key, value)
    return pairs


def _from_settings(settings: Mapping[str, str], prompt: str, negative: str) -> PictureInfo:
    named = {key.lower(): (key, value) for key, value in settings.items()}

    def take(*keys: str) -> str | None:
        found = [named.pop(key)[1] for key in keys if key in named]
        return found[0] if found else None

    sampler, schedule = take("sampler"), take("schedule type") or ""
    if sampler and schedule.lower() not in _SCHEDULES_NOT_NAMED and schedule.lower() not in sampler.lower():
        sampler = f"{sampler} {schedule}"
    width, height = _size(take("size") or "")
    guidance = real(take("cfg scale"))
    distilled = real(take("distilled cfg scale"))
    steps, seed, model = whole(take("steps")), whole(take("seed")), take("model")
    extra = [(key[:60], value[:300]) for key, value in named.values() if value][:20]
    return PictureInfo(
        source="parameters", prompt=text_of(prompt), negative_prompt=text_of(negative), steps=steps,
        sampler=text_of(sampler, 100) or None, guidance=guidance if distilled is None else distilled, seed=seed,
        width=width, height=height, model=text_of(model, 200) or None, extra=tuple(extra),
    )  # fmt: skip


def _size(text: str) -> tuple[int | None, int | None]:
    match = re.fullmatch(r"\s*(\d{1,6})\s*[x×X*,]\s*(\d{1,6})\s*", text.strip("()"))
    return (int(match[1]), int(match[2])) if match else (None, None)


# --- programs that write JSON -------------------------------------------------------------------------------------


def read_invokeai(text: str) -> PictureInfo | None:
    """Read `invokeai_metadata`."""
    data = read_json(text)
    if data is None or not {"positive_prompt", "seed", "model"} & data.keys():
        return None
    model = data.get("model")
    if isinstance(model, dict):
        entry = cast("dict[str, Any]", model)
        model = entry.get("name") or entry.get("model_name")
    return PictureInfo(
        source="invokeai", prompt=text_of(data.get("positive_prompt")),
        negative_prompt=text_of(data.get("negative_prompt")), steps=whole(data.get("steps")),
        sampler=text_of(data.get("scheduler"), 100) or None, guidance=real(data.get("cfg_scale")),
        seed=whole(data.get("seed")), width=whole(data.get("width")), height=whole(data.get("height")),
        model=text_of(model, 200) or None,
    )  # fmt: skip


def read_novelai(description: str, comment: str) -> PictureInfo | None:
    """Read NovelAI's `Description` and `Comment`."""
    data = read_json(comment)
    if data is None or not {"uc", "scale", "sampler"} & data.keys():
        return None
    return PictureInfo(
        source="novelai", prompt=text_of(data.get("prompt")) or text_of(description),
        negative_prompt=text_of(data.get("uc")), steps=whole(data.get("steps")),
        sampler=text_of(data.get("sampler"), 100) or None, guidance=real(data.get("scale")),
        seed=whole(data.get("seed")), width=whole(data.get("width")), height=whole(data.get("height")),
    )  # fmt: skip


def read_json_parameters(text: str) -> PictureInfo | None:
    """Read `parameters` texts that are JSON: SwarmUI's and Fooocus'."""
    data = read_json(text)
    if data is None:
        return None
    inner = data.get("sui_image_params")
    source = "fooocus"
    if isinstance(inner, dict):
        data, source = cast("dict[str, Any]", inner), "swarmui"
    elif "prompt" not in data:
        return None
    width, height = whole(data.get("width")), whole(data.get("height"))
    if width is None:
        width, height = _size(text_of(data.get("resolution"), 40))
    return PictureInfo(
        source=source, prompt=text_of(data.get("prompt")),
        negative_prompt=text_of(data.get("negativeprompt")) or text_of(data.get("negative_prompt")),
        steps=whole(data.get("steps")), sampler=text_of(data.get("sampler"), 100) or None,
        guidance=real(data.get("cfgscale", data.get("guidance_scale"))), seed=whole(data.get("seed")),
        width=width, height=height, model=text_of(data.get("model", data.get("base_model")), 200) or None,
    )  # fmt: skip


# --- ComfyUI's graph ----------------------------------------------------------------------------------------------

_TEXT_KEYS = ("text", "text_g", "string", "value", "prompt", "t5xxl", "clip_l", "positive")
_MODEL_KEYS = ("ckpt_name", "unet_name", "model_name", "diffusion_model")
_MAX_NODES = 2000


class _Graph:
    """A ComfyUI graph: nodes by id; an input is a value or a link [node id, output]."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.nodes: dict[str, tuple[str, Mapping[str, Any]]] = {}
        for key, node in list(data.items())[:_MAX_NODES]:
            if isinstance(node, dict):
                entry = cast("dict[str, Any]", node)
                inputs = entry.get("inputs")
                if isinstance(inputs, dict) and isinstance(entry.get("class_type"), str):
                    self.nodes[key] = (entry["class_type"], cast("dict[str, Any]", inputs))

    def behind(self, start: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Walk the nodes that feed a link, nearest first, each once."""
        waiting: deque[Any] = deque([start])
        seen: set[str] = set()
        while waiting:
            link = waiting.popleft()
            parts = cast("list[Any]", link) if isinstance(link, list) else []
            key = str(parts[0]) if len(parts) == 2 and isinstance(parts[0], (str, int)) else ""
            if key in seen or key not in self.nodes:
                continue
            seen.add(key)
            yield self.nodes[key]
            waiting.extend(self.nodes[key][1].values())

    def first(self, start: Any, *keys: str) -> Any:
        """Find the nearest plain value that is named one of `keys` behind a link, or the value itself."""
        if not isinstance(start, list):
            return start
        for _, inputs in self.behind(start):
            for key in keys:
                if key in inputs and not isinstance(inputs[key], (list, dict)):
                    return inputs[key]
        return None


def read_comfyui(text: str) -> PictureInfo | None:
    """Read ComfyUI's `prompt` graph as well as it can be: the first sampler, and what feeds it."""
    data = read_json(text)
    if data is None:
        return None
    graph = _Graph(data)
    if not graph.nodes:
        return None
    samplers = [inputs for kind, inputs in graph.nodes.values() if "sampler" in kind.lower() and _draws(inputs)]
    if not samplers:
        return PictureInfo(source="comfyui")
    at = samplers[0]
    guider = at.get("guider")
    positive = at.get("positive", guider)
    negative = at.get("negative")
    if negative is None and guider is not None:
        negative = next((inputs["negative"] for _, inputs in graph.behind(guider) if "negative" in inputs), None)
        positive = next(
            (i.get("positive", i.get("conditioning")) for _, i in graph.behind(guider) if {"positive", "conditioning"} & i.keys()),
            guider,
        )  # fmt: skip
    if any(kind == "ConditioningZeroOut" for kind, _ in list(graph.behind(negative))[:1]):
        negative = None  # "nothing", made from the prompt's own encoding
    latent = at.get("latent_image")
    sampler = text_of(graph.first(at.get("sampler_name", at.get("sampler")), "sampler_name"), 80)
    schedule = text_of(graph.first(at.get("scheduler", at.get("sigmas")), "scheduler"), 40)
    if sampler and schedule and schedule.lower() not in _SCHEDULES_NOT_NAMED:
        sampler = f"{sampler} {schedule}"
    return PictureInfo(
        source="comfyui",
        prompt=text_of(graph.first(positive, *_TEXT_KEYS)),
        negative_prompt=text_of(graph.first(negative, *_TEXT_KEYS)),
        steps=whole(graph.first(at.get("steps", at.get("sigmas")), "steps")),
        sampler=sampler or None,
        guidance=real(graph.first(at.get("cfg", guider), "cfg", "guidance")),
        seed=whole(graph.first(at.get("seed", at.get("noise_seed", at.get("noise"))), "seed", "noise_seed", "value")),
        width=whole(graph.first(latent, "width")) if latent is not None else None,
        height=whole(graph.first(latent, "height")) if latent is not None else None,
        model=text_of(graph.first(at.get("model", guider), *_MODEL_KEYS), 200) or None,
    )


def _draws(inputs: Mapping[str, Any]) -> bool:
    return bool({"latent_image", "positive", "guider"} & inputs.keys())
