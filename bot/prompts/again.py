"""From what was drawn back to what is asked: for *Again* and *Edit*, and for `generate --like` a picture's file. Pure."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from bot.catalogue.models import Catalogue
from bot.errors import RequestError
from bot.generation import GenerationOptions, GenerationRequest, InputRef
from bot.prompts.addons import spelled, tags
from bot.prompts.choices import literal
from bot.prompts.grids import OWN, compared
from bot.prompts.readers import PictureInfo


def options_of(request: GenerationRequest) -> GenerationOptions:
    """Turn a complete request back into options, all filled in; what its models each have of their own is theirs again."""
    options = GenerationOptions(
        prompt=request.prompt,
        lines=list_lines(request) if request.listed else (),
        axes=request.axes,
        negative_prompt=request.negative_prompt or None,
        model=request.model,
        width=request.width,
        height=request.height,
        count=None if request.variants else request.count,
        steps=request.num_inference_steps,
        guidance=request.guidance_scale,
        seed=request.seed,
        sampler=request.sampler,
        quality=request.quality,
        style=request.style or None,
        lora=spelled(request.loras) or None,
        private=request.private,
        spoiler=request.spoiler,
        **picture_options(request),
    )
    own = compared(request) if len(request.models) > 1 else set[str]()
    return replace(options, **{option: None for option in OWN if option in own})


def list_lines(request: GenerationRequest) -> tuple[str, ...]:
    """Write the lines of a list as they may be typed, those with LoRAs of their own with the tags that name them."""
    return tuple(f"{one.prompt or ''} {tags(one.loras or ())}".strip() for one in request.variants)


def picture_options(request: GenerationRequest) -> dict[str, Any]:
    """Give the options of a complete request that are about its pictures (which are of its size then), edges and variations."""

    def ref(digest: str) -> InputRef | None:
        return InputRef(digest, request.width, request.height) if digest else None

    return {
        "image": ref(request.image),
        "strength": request.strength if request.image else None,
        "mask": ref(request.mask),
        "control": ref(request.control),
        "control_type": request.control_type or None,
        "control_scale": request.control_scale if request.control else None,
        "reference": ref(request.reference),
        "base_seed": request.base_seed,
        "variation": None if request.base_seed is None else request.variation,
        "tiling": request.tiling,
    }


def options_from(drawn: GenerationRequest) -> GenerationOptions:
    """Give the options that draw one picture again, as its record tells: of its choices those that were made.

    Raises RequestError for a picture that was enlarged, which is not drawn from words.
    """
    if drawn.upscale:
        raise RequestError("That picture was upscaled; draw the one it was made of again, and upscale it.")
    chosen = literal(drawn.prompts[0]) if drawn.prompts else drawn.prompt
    return replace(options_of(drawn), prompt=chosen, style=None)


def options_told(info: PictureInfo, catalogue: Catalogue) -> GenerationOptions:
    """Give the options that another program's file tells of; the model where one of that id or name is in the catalogue."""
    name = (info.model or "").lower()
    spec = next((m for m in catalogue.models if name in (m.id.lower(), m.name.lower())), None)
    return GenerationOptions(
        info.prompt, info.negative_prompt or None, None if spec is None else spec.id, width=info.width, height=info.height,
        steps=info.steps, guidance=info.guidance, seed=info.seed, sampler=info.sampler,
    )  # fmt: skip


def overridden(told: GenerationOptions, given: GenerationOptions) -> GenerationOptions:
    """Put what is given in the place of what is told; an aspect takes that of width and height, a seed that of a variation's."""
    said = ((item.name, getattr(given, item.name)) for item in fields(given))
    # Nothing, no and no words are what is left out; a zero is not.
    changes = {
        name: value for name, value in said if value is not None and value is not False and value not in ("", ())
    }
    if given.aspect is not None:
        changes = {"width": None, "height": None} | changes
    if given.seed is not None:
        changes = {"base_seed": None, "variation": None} | changes
    return replace(told, **changes)


def as_told(request: GenerationRequest, drawn: GenerationRequest) -> GenerationRequest:
    """Let a request have the words around its prompts and the model's settings that a picture was drawn with, whatever the operator's files say now.

    So also the cells of a sheet.
    """
    names = ["style", "wrap", "more_negative", "guidance_end", *(["reference_scale"] if drawn.reference else [])]

    def told(to: Any, was: Any) -> Any:
        return replace(to, **{name: getattr(was, name) for name in names})

    same = len(request.variants) == len(drawn.variants)
    cells = zip(request.variants, drawn.variants, strict=True) if same else ()
    return told(replace(request, variants=tuple(told(*cell) for cell in cells) or request.variants), drawn)
