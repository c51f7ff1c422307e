"""Sheets that compare: one prompt over the values of one or two options. Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from bot.errors import RequestError
from bot.generation import Axis, GenerationOptions, GenerationRequest, Variant
from bot.prompts.addons import read_option, take_tags
from bot.prompts.text import quoted

MAX_VALUES = 8
MAX_CELLS = 25
MAX_GRID_PIXELS = MAX_CELLS * 1024 * 1024
"""What the pictures of one sheet have together: with its labels a sheet stays below what the bot itself opens (40 megapixels)."""
_VALUE_CHARS = 40

Resolve = Callable[[GenerationOptions], GenerationRequest]


@dataclass(frozen=True, slots=True)
class AxisKind:
    """What can be compared: how a value is read, how options are given it, what it takes, and an example."""

    read: Callable[[str], Any]
    put: Callable[[GenerationOptions, Any], GenerationOptions]
    takes: str
    example: str


def _option(name: str, read: Callable[[str], Any], takes: str, example: str) -> AxisKind:
    """Compare values of an option."""
    return AxisKind(read, lambda options, value: replace(options, **{name: value}), takes, example)


def _style(text: str) -> str | None:
    return None if text.lower() == NO_STYLE else text


def _weigh(options: GenerationOptions, weight: float) -> GenerationOptions:
    """Give the one LoRA of a request, from its option or its prompt, a weight. Raises RequestError where it has none, or several."""
    prompt, tagged = take_tags(options.prompt)
    loras = [*tagged, *read_option(options.lora or "")]
    if not loras:
        raise RequestError("There is no LoRA to weigh; name one in `lora`, or in the prompt as <lora:name:1>.")
    if len(loras) > 1:
        named = ", ".join(quoted(name, 40) for name, _ in loras)
        raise RequestError(
            f"One LoRA is weighed on a sheet, and here are {len(loras)} ({named}); leave all but one out."
        )
    return replace(options, prompt=prompt, lora=f"{loras[0][0]}:{weight}")


NO_STYLE = "none"
MODEL = "model"
LORA_WEIGHT = "lora weight"

AXES: Mapping[str, AxisKind] = {
    "steps": _option("steps", int, "whole numbers", "10, 20, 30"),
    "guidance": _option("guidance", float, "numbers", "2, 5, 8"),
    "sampler": _option("sampler", str, "names", "Euler a, DPM++ 2M Karras"),
    "seed": _option("seed", int, "whole numbers", "1, 2, 3"),
    MODEL: _option("model", str, "ids of models", "sd15, sdxl"),
    "style": _option("style", _style, "ids of styles", "none, neon, pixel-art"),
    LORA_WEIGHT: AxisKind(float, _weigh, "numbers", "0, 0.5, 1"),
}
"""Whatever is to be compared has a line here, and a field in `Variant` where the request has one of it."""


def read_axis(side: str, text: str) -> Axis:
    """Read "steps: 10, 20, 30"; `side` is the option it came with. Raises RequestError naming what is wrong; values are not checked."""
    name, colon, values = (part.strip() for part in text.partition(":"))
    name = name.lower()
    example = f"“steps: {AXES['steps'].example}”"
    if not colon:
        raise RequestError(f"{side} is “{quoted(text, 80)}”; write what to compare and its values, as {example}.")
    if name not in AXES:
        raise RequestError(f"{side} compares {', '.join(AXES)}, not “{quoted(name, 40)}”.")
    return Axis(name, tuple(value.strip() for value in values.split(",") if value.strip()))


OWN: Mapping[str, str] = {"steps": "num_inference_steps", "guidance": "guidance_scale", "sampler": "sampler"}
"""What each model has a default of: options, and what requests and variants call them."""


def compared(request: GenerationRequest) -> set[str]:
    """Name the options that differ from cell to cell of a sheet: those that it compares, and what models have of their own."""
    own = {name for variant in request.variants for name in variant.changes()}
    return {axis.name for axis in request.axes} | {
        option for option, name in OWN.items() if request.axes and name in own
    }


def grid_words(axes: tuple[Axis, ...]) -> str:
    """Write what a sheet compares in a line."""
    return " × ".join(f"{axis.name} {', '.join(axis.values)}" for axis in axes)


def resolve_grid(options: GenerationOptions, resolve: Resolve) -> GenerationRequest:
    """Resolve a sheet: one request, and a variant of it for each cell, row by row, all of one seed unless that is compared.

    `resolve` completes and checks a plain request; every cell goes through it. All have one size: where models are compared, that of
    the first one. Raises RequestError naming axis and value.
    """
    axes = options.axes
    if options.count is not None:
        raise RequestError("A sheet draws one picture a cell; leave the count out.")
    _check_axes(axes)
    plain = replace(options, axes=())
    for axis in axes:
        if axis.name == MODEL:
            plain = replace(plain, model=axis.values[0])
    base = resolve(plain)
    plain = replace(plain, seed=base.seed, aspect=None, width=base.width, height=base.height)
    sides = [[(axis, value, _setting(axis, value, plain, resolve)) for value in axis.values] for axis in axes]
    # The first axis lies along the top, so it changes fastest.
    cells = [_cell(tuple(reversed(cell)), base, plain, resolve) for cell in itertools.product(*reversed(sides))]
    if base.width * base.height * len(cells) > MAX_GRID_PIXELS:
        most = MAX_GRID_PIXELS // (base.width * base.height)
        raise RequestError(
            f"{len(cells)} pictures of {base.width}×{base.height} are too many for one sheet; at most {most} fit. "
            "Compare fewer values, or choose a smaller size."
        )
    return replace(base, count=len(cells), variants=tuple(cells), axes=axes)


def _check_axes(axes: tuple[Axis, ...]) -> None:
    names = [axis.name for axis in axes]
    if len(names) > 2 or len(set(names)) < len(names):
        raise RequestError(f"Both sides compare {names[0]}; choose another option for one of them.")
    for axis in axes:
        kind = AXES[axis.name]
        if len(axis.values) < 2:
            raise RequestError(f"{axis.name} takes at least two values to compare, as “{axis.name}: {kind.example}”.")
        if len(axis.values) > MAX_VALUES:
            raise RequestError(f"{axis.name} has {len(axis.values)} values; at most {MAX_VALUES} fit on one side.")
        twice = next((value for value in axis.values if axis.values.count(value) > 1), None)
        if twice is not None:
            raise RequestError(f"{axis.name} has “{quoted(twice, 40)}” twice; leave one out.")
        long = next((value for value in axis.values if len(value) > _VALUE_CHARS), None)
        if long is not None:
            raise RequestError(f"{axis.name} “{quoted(long, 40)}” is longer than {_VALUE_CHARS} characters.")
    cells = math.prod(len(axis.values) for axis in axes)
    if cells > MAX_CELLS:
        raise RequestError(f"That makes {cells} pictures; at most {MAX_CELLS} fit on one sheet. Compare fewer values.")


def _setting(axis: Axis, value: str, plain: GenerationOptions, resolve: Resolve) -> Any:
    """Read a value and see whether it fits by itself."""
    kind = AXES[axis.name]
    try:
        setting = kind.read(value)
    except ValueError:
        raise RequestError(f"{axis.name} takes {kind.takes}, not “{quoted(value, 40)}”.") from None
    _named(axis, value, lambda: resolve(kind.put(plain, setting)))
    return setting


def _named(axis: Axis, value: str, resolved: Callable[[], GenerationRequest]) -> GenerationRequest:
    try:
        return resolved()
    except RequestError as error:
        raise RequestError(f"{axis.name} “{quoted(value, 40)}”: {error}") from None


def _cell(
    cell: tuple[tuple[Axis, str, Any], ...], base: GenerationRequest, plain: GenerationOptions, resolve: Resolve
) -> Variant:
    axis, value, _ = cell[-1]
    for one, _, setting in cell:
        plain = AXES[one.name].put(plain, setting)
    drawn = _named(axis, value, lambda: resolve(plain))
    own = {name: getattr(drawn, name) for name in Variant.__dataclass_fields__}
    if replace(base, **own) != drawn:
        raise RequestError(f"{axis.name} “{quoted(value, 40)}” changes more of a picture than a sheet can compare.")
    changed = {name: value for name, value in own.items() if value != getattr(base, name)}
    return replace(Variant(**changed), seed=drawn.seed)
