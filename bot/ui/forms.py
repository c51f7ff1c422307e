"""The *Edit* form. It is never remembered by discord.py: the answer is read from the interaction alone, so a form that
was open while the bot restarted still works."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Any, cast

import discord
from discord import ui

from bot.catalogue.models import ASPECTS, Catalogue
from bot.errors import RequestError
from bot.generation import STANDARD, GenerationOptions, GenerationRequest, InputRef, Job
from bot.limits import MAX_NEGATIVE_CHARS, MAX_PROMPT_CHARS
from bot.prompts.addons import spelled as spelled_loras
from bot.prompts.again import list_lines, picture_options
from bot.prompts.lists import split_lines
from bot.prompts.pictures import MASKED_STRENGTH, STRENGTH
from bot.prompts.text import quoted
from bot.ui.words import number

FORM_ID = re.compile(r"easel:v1:form:(?P<job>[0-9a-z]{4,32})")

REF = r"(?P<digest>[0-9a-f]{64}):(?P<width>[1-9]\d{0,4})x(?P<height>[1-9]\d{0,4})"
INPUT_FORM_ID = re.compile(rf"easel:v1:inputform:{REF}")

DRAW_FORM_ID = "easel:v1:drawform"
LIST_FORM_ID = "easel:v1:listform"
LIST_CHARS = 4000
"""What a form's box holds, by Discord's rules; longer lists come as a file."""

MORE_CHARS = 1000
KEEP_SIZE = "keep"


def edit_form(job: Job, catalogue: Catalogue) -> ui.Modal:
    """Build the form, filled with the job's parameters."""
    request = job.request
    form = ui.Modal(title="Edit and draw again", custom_id=f"easel:v1:form:{job.id}", timeout=None)
    if request.listed:
        form.add_item(_list_box(_listed(request)))
    else:
        form.add_item(_box("Prompt", "prompt", request.prompt, MAX_PROMPT_CHARS, required=True))
    form.add_item(_box("Negative prompt", "negative_prompt", request.negative_prompt, MAX_NEGATIVE_CHARS))
    models = [
        discord.SelectOption(label=m.name[:100], value=m.id, default=m.id == request.model)
        for m in catalogue.models[:25]
    ]
    form.add_item(ui.Label(text="Model", component=ui.Select(custom_id="model", options=models)))
    keep = discord.SelectOption(label=f"{request.width}×{request.height}, as it was", value=KEEP_SIZE, default=True)
    aspects = [keep, *(discord.SelectOption(label=aspect, value=aspect) for aspect in ASPECTS)]
    form.add_item(ui.Label(text="Aspect", component=ui.Select(custom_id="aspect", options=aspects)))
    form.add_item(_box("More, one “key: value” a line", "more", more_lines(job), MORE_CHARS))
    form.stop()
    return form


def input_form(ref: InputRef, catalogue: Catalogue) -> ui.Modal:
    """Build the form for a picture that was taken in by *Use as input*."""
    form = ui.Modal(title="Draw from this picture", custom_id=f"easel:v1:inputform:{spelled(ref)}", timeout=None)
    form.add_item(_box("Prompt", "prompt", "", MAX_PROMPT_CHARS, required=True))
    form.add_item(_box("Negative prompt", "negative_prompt", "", MAX_NEGATIVE_CHARS))
    able = [model for model in catalogue.models if model.from_pictures][:25]
    options = [discord.SelectOption(label=m.name[:100], value=m.id, default=m.id == catalogue.default) for m in able]
    form.add_item(ui.Label(text="Model", component=ui.Select(custom_id="model", options=options)))
    form.add_item(_box("More, one “key: value” a line", "more", f"strength: {number(STRENGTH)}", MORE_CHARS))
    form.stop()
    return form


def read_input_form(data: Mapping[str, Any], ref: InputRef) -> GenerationOptions:
    """Read a submitted form of `input_form`. Raises RequestError naming the line that is wrong."""
    answers = dict(_answers(data.get("components") or []))
    values: dict[str, Any] = {
        "prompt": answers.get("prompt", ""),
        "negative_prompt": answers.get("negative_prompt") or None,
        "model": answers.get("model") or None,
        "image": ref,
    }
    return GenerationOptions(**{**values, **read_more(answers.get("more", ""))})


def draw_form(options: GenerationOptions, catalogue: Catalogue, more: str = "") -> ui.Modal:
    """Build the form of a plain request, filled with its words and model; `more` are "key: value" lines."""
    form = ui.Modal(title="Draw this", custom_id=DRAW_FORM_ID, timeout=None)
    form.add_item(_box("Prompt", "prompt", options.prompt, MAX_PROMPT_CHARS, required=True))
    _add_choices(form, options, catalogue)
    form.add_item(_box("More, one “key: value” a line", "more", more, MORE_CHARS))
    form.stop()
    return form


def part_form(custom_id: str, request: GenerationRequest) -> ui.Modal:
    """Build the form for a part of a picture that `request` drew, filled with its words."""
    form = ui.Modal(title="Redraw a part", custom_id=custom_id, timeout=None)
    form.add_item(_box("Prompt", "prompt", request.prompt, MAX_PROMPT_CHARS, required=True))
    form.add_item(_box("Negative prompt", "negative_prompt", request.negative_prompt, MAX_NEGATIVE_CHARS))
    lines = f"strength: {number(MASKED_STRENGTH)}\ncount: 1"
    form.add_item(_box("More, one “key: value” a line", "more", lines, MORE_CHARS))
    form.stop()
    return form


def read_draw_form(data: Mapping[str, Any]) -> GenerationOptions:
    """Read a submitted form of `draw_form`. Raises RequestError naming the line that is wrong."""
    answers = dict(_answers(data.get("components") or []))
    return GenerationOptions(**{"prompt": answers.get("prompt", ""), **_chosen(answers)})


def read_part_form(data: Mapping[str, Any], options: GenerationOptions) -> GenerationOptions:
    """Read a submitted form of `part_form` over the options that redraw the part. Raises RequestError naming the line that is wrong."""
    answers = dict(_answers(data.get("components") or []))
    words = {"prompt": answers.get("prompt", ""), "negative_prompt": answers.get("negative_prompt") or None}
    return replace(options, **{**words, **read_more(answers.get("more", ""))})


def list_form(options: GenerationOptions, catalogue: Catalogue) -> ui.Modal:
    """Build the form for a list of prompts, filled with what was given with the command."""
    form = ui.Modal(title="Draw a list of prompts", custom_id=LIST_FORM_ID, timeout=None)
    form.add_item(_list_box(""))
    _add_choices(form, options, catalogue)
    form.add_item(_box("More, one “key: value” a line", "more", _given_lines(options), MORE_CHARS))
    form.stop()
    return form


def _add_choices(form: ui.Modal, options: GenerationOptions, catalogue: Catalogue) -> None:
    """Add the rows for what is avoided, the model and the aspect."""
    form.add_item(_box("Negative prompt", "negative_prompt", options.negative_prompt or "", MAX_NEGATIVE_CHARS))
    chosen = options.model or catalogue.default
    models = [
        discord.SelectOption(label=m.name[:100], value=m.id, default=m.id == chosen) for m in catalogue.models[:25]
    ]
    form.add_item(ui.Label(text="Model", component=ui.Select(custom_id="model", options=models)))
    own = discord.SelectOption(label="The model's own size", value=KEEP_SIZE, default=options.aspect is None)
    aspects = [own, *(discord.SelectOption(label=a, value=a, default=a == options.aspect) for a in ASPECTS)]
    form.add_item(ui.Label(text="Aspect", component=ui.Select(custom_id="aspect", options=aspects)))


def read_list_form(data: Mapping[str, Any]) -> GenerationOptions:
    """Read a submitted form of `list_form`. Raises RequestError naming the line that is wrong."""
    answers = dict(_answers(data.get("components") or []))
    lines = split_lines(answers.get("prompts", ""))
    return GenerationOptions(**{"prompt": "", "lines": lines, **_chosen(answers)})


def _chosen(answers: Mapping[str, str]) -> dict[str, Any]:
    aspect = answers.get("aspect") or KEEP_SIZE
    return {
        "negative_prompt": answers.get("negative_prompt") or None,
        "model": answers.get("model") or None,
        "aspect": None if aspect == KEEP_SIZE else aspect,
        **read_more(answers.get("more", "")),
    }


def editable(request: GenerationRequest) -> bool:
    """Whether a form has room for a request."""
    return not request.axes and len(_listed(request)) <= LIST_CHARS


def _listed(request: GenerationRequest) -> str:
    return "\n".join(list_lines(request))


def _list_box(value: str) -> ui.Label[Any]:
    return _box("Prompts, one a line", "prompts", value, LIST_CHARS, required=True)


def _given_lines(options: GenerationOptions) -> str:
    given = {name: getattr(options, name) for name in ("steps", "guidance", "seed", "sampler", "quality")}
    lines = {
        name: number(value) if name == "guidance" else str(value) for name, value in given.items() if value is not None
    }
    lines |= {name: "yes" if getattr(options, name) else "no" for name in ("private", "spoiler")}
    return "\n".join(f"{key}: {value}" for key, value in lines.items())


def spelled(ref: InputRef) -> str:
    """Write a taken picture as custom ids carry it; `REF` reads it."""
    return f"{ref.digest}:{ref.width}x{ref.height}"


def ref_of(match: re.Match[str]) -> InputRef:
    """Read what `spelled` wrote, out of a match of `REF`."""
    return InputRef(match["digest"], int(match["width"]), int(match["height"]))


def _box(label: str, name: str, value: str, limit: int, *, required: bool = False) -> ui.Label[Any]:
    style = discord.TextStyle.paragraph
    field: ui.TextInput[Any] = ui.TextInput(
        custom_id=name, style=style, default=value[:limit], max_length=limit, required=required
    )
    return ui.Label(text=label, component=field)


def more_lines(job: Job) -> str:
    """Write the parameters that have no row of their own as `key: value` lines."""
    request = job.request
    lines = {
        **({} if request.variants else {"count": str(request.count)}),
        "steps": str(request.num_inference_steps),
        "guidance": number(request.guidance_scale),
        "seed": str(request.seed),
        "sampler": request.sampler,
        "quality": request.quality,
        **({"style": request.style} if request.style else {}),
        **({"lora": spelled_loras(request.loras)} if request.loras else {}),
        **({"strength": number(request.strength)} if request.image else {}),
        **(
            {"control_type": request.control_type, "control_scale": number(request.control_scale)}
            if request.control
            else {}
        ),
        **({"tiling": "yes"} if request.tiling else {}),
        "private": "yes" if request.private else "no",
        "spoiler": "yes" if request.spoiler else "no",
    }
    return "\n".join(f"{key}: {value}" for key, value in lines.items())


def read_form(data: Mapping[str, Any], job: Job) -> GenerationOptions:
    """Read a submitted form; raises RequestError naming the line that is wrong."""
    answers = dict(_answers(data.get("components") or []))
    aspect = answers.get("aspect") or KEEP_SIZE
    model = answers.get("model") or job.request.model
    pictures = picture_options(job.request)
    values: dict[str, Any] = {
        **{name: pictures[name] for name in ("image", "mask", "control", "reference", "base_seed", "variation")},
        "prompt": answers.get("prompt", ""),
        "lines": split_lines(answers.get("prompts", "")) if job.request.listed else (),
        "negative_prompt": answers.get("negative_prompt") or None,
        "model": model,
    }
    if aspect != KEEP_SIZE:
        values["aspect"] = aspect
    elif model == job.request.model:
        values["width"], values["height"] = job.request.width, job.request.height
    values.update(read_more(answers.get("more", "")))
    if values.get("seed") != job.request.seed:
        values["base_seed"] = values["variation"] = (
            None  # another seed was asked for, not another way from the same one
        )
    # Drafts have steps, guidance and sampler of their own, as another model has.
    if model != job.request.model or values.get("quality", STANDARD) != job.request.quality:
        _drop_what_was_the_other_models(values, job)
    return GenerationOptions(**values)


def _drop_what_was_the_other_models(values: dict[str, Any], job: Job) -> None:
    # With another model chosen, boxes left as they were hold the old model's defaults, not this member's wish.
    untouched = {
        "steps": job.request.num_inference_steps,
        "guidance": job.request.guidance_scale,
        "sampler": job.request.sampler,
    }
    for key, value in untouched.items():
        if values.get(key) == value:
            values[key] = None


def _answers(components: list[Any]) -> Iterator[tuple[str, str]]:
    for component in components:
        if "custom_id" in component:
            chosen = cast("list[str]", component.get("values") or [])
            yield component["custom_id"], component.get("value") or (chosen[0] if chosen else "")
        inner = component.get("component")
        yield from _answers([inner] if inner else component.get("components") or [])


_MORE: dict[str, type] = {
    "count": int, "steps": int, "guidance": float, "seed": int, "sampler": str, "quality": str, "style": str, "lora": str, "private": bool, "spoiler": bool,
    "width": int, "height": int, "strength": float, "control_type": str, "control_scale": float,
    "tiling": bool,
}  # fmt: skip
_YES = {"yes": True, "true": True, "on": True, "no": False, "false": False, "off": False}


def read_more(text: str) -> dict[str, Any]:
    """Read `key: value` lines; a key without a value is left out. Raises RequestError quoting the line."""
    values: dict[str, Any] = {}
    for line in filter(None, (line.strip() for line in text.splitlines())):
        key, colon, value = (part.strip() for part in line.partition(":"))
        key = key.lower()
        if not colon or key not in _MORE:
            raise RequestError(f"The line “{quoted(line, 80)}” is not “key: value” with one of {', '.join(_MORE)}.")
        if not value:
            continue
        kind = _MORE[key]
        try:
            values[key] = _YES[value.lower()] if kind is bool else kind(value)
        except (ValueError, KeyError):
            takes = {int: "a whole number", float: "a number", bool: "yes or no"}[kind]
            raise RequestError(f"{key} is “{quoted(value, 40)}”; it takes {takes}.") from None
    return values


assert set(_MORE) <= {field.name for field in fields(GenerationOptions)}
