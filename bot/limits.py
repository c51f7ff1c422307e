"""Turn what somebody asked for into a complete request, or refuse it with one sentence that says what to do."""

from __future__ import annotations

import difflib
import math
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace

from bot.catalogue.models import ASPECTS, Catalogue, ModelSpec
from bot.errors import LimitReached, RequestError
from bot.generation import DRAFT, QUALITIES, STANDARD, GenerationOptions, GenerationRequest, Variant
from bot.prompts.addons import read_option, resolve_loras, resolve_words, take_tags
from bot.prompts.choices import NO_WILDCARDS, Wildcards, expand, read
from bot.prompts.grids import resolve_grid
from bot.prompts.lists import MAX_LIST_PIXELS, numbered
from bot.prompts.pictures import resolve_pictures, size_like
from bot.prompts.readers import PictureInfo
from bot.prompts.styles import find_style
from bot.prompts.text import is_blank, legible, quoted
from bot.prompts.upscaling import redraws
from bot.prompts.weights import check_weights

MAX_PROMPT_CHARS = 1500
MAX_NEGATIVE_CHARS = 1000
MAX_LORA_CHARS = 400
MAX_COUNT = 4
MAX_WAITING = 20
# A Discord integer option is a double underneath: whole numbers are exact up to here.
MAX_SEED = 2**53 - 1
MIN_STEPS = 1
MAX_STEPS = 150
MIN_GUIDANCE = 0.0
MAX_GUIDANCE = 30.0
MIN_SIDE = 64
MAX_SIDE = 2048

PIXEL_STEPS = 1_000_000
"""Pixel-steps in one megapixel-step."""

_LIST_AT_MOST = 12


def resolve(
    options: GenerationOptions,
    catalogue: Catalogue,
    *,
    new_seed: Callable[[], int],
    max_count: int = MAX_COUNT,
    wildcards: Wildcards = NO_WILDCARDS,
) -> GenerationRequest:
    """Check `options` and fill what was left out from the model's entry.

    `new_seed` gives a seed in 0..2**32-1 and is called only where none was asked for; picture n of the
    request is drawn with `seed + n`. Raises RequestError with what is wrong and what would be right;
    nothing is corrected silently. Pure; any thread.
    """
    if options.lines:
        return _resolve_list(options, catalogue, new_seed, wildcards)
    if options.axes:
        return resolve_grid(options, lambda plain: _resolve_one(plain, catalogue, new_seed, wildcards, max_count))
    return _resolve_one(options, catalogue, new_seed, wildcards, max_count)


def _resolve_list(
    options: GenerationOptions, catalogue: Catalogue, new_seed: Callable[[], int], wildcards: Wildcards
) -> GenerationRequest:
    """Resolve a list of prompts: one request, and a variant of it for each line."""
    if options.count is not None:
        raise RequestError("A list draws one picture a line; leave the count out.")
    prompts = numbered(options.lines)
    for number, prompt in prompts:
        try:
            checked_text(prompt, "prompt", MAX_PROMPT_CHARS)
        except RequestError as error:
            raise RequestError(f"Line {number}: {error}") from None
    count = len(prompts)
    base = _resolve_one(
        replace(options, prompt=prompts[0][1], lines=()), catalogue, new_seed, wildcards, max_count=1, pictures=count
    )
    if base.width * base.height * count > MAX_LIST_PIXELS:
        most = MAX_LIST_PIXELS // (base.width * base.height)
        raise RequestError(
            f"{count} pictures of {base.width}×{base.height} are too many for one request; at most {most} fit. "
            "Split the list, or choose a smaller size."
        )
    each: list[GenerationRequest] = []
    for n, (number, prompt) in enumerate(prompts):
        line = replace(options, prompt=prompt, lines=(), seed=base.seed + n)
        try:
            each.append(_resolve_one(line, catalogue, new_seed, wildcards, max_count=1))
        except RequestError as error:
            raise RequestError(f"Line {number}: {error}") from None
    shared = all(one.loras == base.loras for one in each)
    variants = (Variant(one.alone(0).prompt, loras=None if shared else one.loras) for one in each)
    return replace(base, count=count, variants=tuple(variants), prompts=(), loras=base.loras if shared else ())


def _resolve_one(
    options: GenerationOptions,
    catalogue: Catalogue,
    new_seed: Callable[[], int],
    wildcards: Wildcards,
    max_count: int,
    pictures: int = 1,
) -> GenerationRequest:
    """Resolve what is no list. `pictures` is how many seeds have to fit where there is no count."""
    prompt, tagged = take_tags(checked_text(options.prompt, "prompt", MAX_PROMPT_CHARS))
    if is_blank(prompt):  # also where only invisible characters stand
        raise RequestError("The prompt is empty; say what the picture should show.")
    spec = _model(options.model, catalogue)
    quality = _quality(options.quality, spec, catalogue)
    if quality == DRAFT:
        spec = spec.drafted()
    negative = checked_text(options.negative_prompt or "", "negative prompt", MAX_NEGATIVE_CHARS).strip()
    if negative and not spec.negative_prompt:
        raise RequestError(f"{spec.name} takes no negative prompt; leave it out, or choose another model.")
    if take_tags(negative)[1]:
        raise RequestError(
            "A LoRA goes into the prompt, not into the negative one; give it a weight below 0 to draw away from it."
        )
    prompt, negative = (resolve_words(text, spec, catalogue) for text in (prompt, negative))
    check_weights(negative, spec, "negative prompt")
    style = find_style(options.style, catalogue.styles) if options.style else None
    avoided = (style.negative if style else "", catalogue.negative)
    loras = resolve_loras(
        (*tagged, *read_option(checked_text(options.lora or "", "LoRA", MAX_LORA_CHARS))), spec, catalogue
    )
    width, height = _size(options, spec)
    count = 1 if options.count is None else _whole(options.count, "Count", 1, max_count)
    steps = spec.steps
    if options.steps is not None:
        steps = _whole(options.steps, "Steps", MIN_STEPS, min(MAX_STEPS, spec.max_steps), spec.name)
    if options.base_seed is not None:
        _whole(options.base_seed, "The base seed", 0, MAX_SEED)
    drawn_from = resolve_pictures(options, spec, steps, quality, catalogue.annotators)
    # The last picture's seed has to fit as well.
    most = MAX_SEED - max(count, pictures) + 1
    seed = new_seed() if options.seed is None else _whole(options.seed, "Seed", 0, most)
    return GenerationRequest(
        prompt=prompt.strip(),
        negative_prompt=negative,
        model=spec.id,
        width=width,
        height=height,
        count=count,
        num_inference_steps=steps,
        guidance_scale=_guidance(options.guidance, spec),
        seed=seed,
        sampler=_sampler(options.sampler, spec),
        private=options.private,
        spoiler=options.spoiler,
        quality=quality,
        guidance_end=spec.guidance_end,
        **asdict(drawn_from),
        loras=loras,
        prompts=_chosen(prompt.strip(), spec, wildcards, seed, count),
        style=style.id if style else "",
        wrap=style.prompt if style else "",
        more_negative=", ".join(filter(None, avoided)) if spec.negative_prompt else "",
    )


def told_by(info: PictureInfo | None, catalogue: Catalogue) -> tuple[str, str, str]:
    """Give what a picture's file says of its making, made fit for a request: prompt, negative prompt, and the model where it is here."""
    if info is None:
        return "", "", ""
    spec = catalogue.get(info.model or "")
    prompt, negative = (_untagged(legible(text)) for text in (info.prompt, info.negative_prompt))
    return prompt[:MAX_PROMPT_CHARS], negative[:MAX_NEGATIVE_CHARS], "" if spec is None else spec.id


def _untagged(text: str) -> str:
    """Leave out the tags that name LoRAs, which are no words."""
    try:
        return take_tags(text)[0].strip()
    except RequestError:
        return text


def _chosen(prompt: str, spec: ModelSpec, wildcards: Wildcards, seed: int, count: int) -> tuple[str, ...]:
    """Choose among the alternatives of a prompt for each picture, by its own seed; nothing where there are none. Raises RequestError."""
    scanned = read(prompt, wildcards)
    if (
        scanned.plain and expand(scanned, wildcards, seed) == prompt
    ):  # nothing to choose, no brace written with a backslash
        check_weights(prompt, spec, "prompt")
        return ()
    chosen = tuple(expand(scanned, wildcards, seed + n) for n in range(count))
    for one in chosen:
        checked_text(one, "prompt with its choices made", MAX_PROMPT_CHARS)
        if is_blank(one):
            raise RequestError("The prompt can become empty by its choices; put some words beside them.")
        check_weights(one, spec, "prompt")
    return chosen


def price(request: GenerationRequest) -> int:
    """Price a request in pixel-steps: pixels × steps × pictures. Whole numbers, so that sums are exact. Pure."""
    return drawn_price(request, [(n, request.width, request.height) for n in range(request.count)])


def drawn_price(request: GenerationRequest, drawn: Iterable[tuple[int, int, int]]) -> int:
    """Price the pictures that were really drawn, given their numbers and their sizes in pixels. Pure.

    To enlarge one costs a step of its new size, and those in which its details are redrawn.
    """

    def steps(n: int) -> int:
        taken = request.alone(n).steps_taken
        return taken if not request.upscale else 1 + taken if redraws(request) else 1

    return sum(width * height * steps(n) for n, width, height in drawn)


def check_budget(price: int, spent: int, budget: int) -> None:
    """Refuse what does not fit into a member's budget of today; all in pixel-steps. Raises LimitReached. Pure."""
    if spent + price <= budget:
        return
    asked, whole, left = (_megapixel_steps(amount) for amount in (price, budget, max(0, budget - spent)))
    advice = "Choose a smaller size, fewer steps or fewer pictures"
    if price > budget:
        raise LimitReached(f"This takes {asked} megapixel-steps, and a member may use {whole} a day. {advice}.")
    raise LimitReached(
        f"This takes {asked} megapixel-steps, and you have {left} of {whole} left today. {advice}, or wait for "
        "midnight UTC; what fails or is cancelled is given back."
    )


def _megapixel_steps(amount: int) -> str:
    return f"{amount / PIXEL_STEPS:,.1f}".removesuffix(".0")


def checked_text(text: object, what: str, limit: int) -> str:
    """Refuse what is no text, is too long, or has control characters. Raises RequestError."""
    if not isinstance(text, str):
        raise RequestError(f"The {what} takes words, not {_shown(text)}.")
    if len(text) > limit:
        raise RequestError(
            f"The {what} has {len(text):,} characters; at most {limit:,} fit. Shorten it by {len(text) - limit:,}."
        )
    for index, char in enumerate(text):
        category = unicodedata.category(char)
        if (category == "Cc" and char not in "\n\r\t") or category == "Cs":
            raise RequestError(
                f"The {what} has a control character (U+{ord(char):04X}) at position {index + 1}; remove it."
            )
    return text


def _shown(value: object, limit: int = 60) -> str:
    if isinstance(value, int) and value.bit_length() > 256:  # Python writes no number of thousands of digits
        return "a number of more than 70 digits"
    return quoted(str(value), limit)


def _unknown(what: str, got: str, known: Iterable[str], all_of_them: str) -> RequestError:
    """Name what was not found, the nearest that exists, and where the rest is."""
    names = list(known)
    by_lower = {name.lower(): name for name in names}
    near = difflib.get_close_matches(got.lower().strip(), list(by_lower), n=2, cutoff=0.6)
    asked = f" did you mean {' or '.join(by_lower[n] for n in near)}?" if near else ""
    return RequestError(f"There is no {what} '{_shown(got)}'{';' if near else '.'}{asked} {all_of_them}")


def _model(model_id: str | None, catalogue: Catalogue) -> ModelSpec:
    spec = catalogue.get(model_id if model_id is not None else catalogue.default)
    if spec is None:
        raise _unknown("model", str(model_id), (m.id for m in catalogue.models), "/models lists them all.")
    return spec


def _quality(quality: str | None, spec: ModelSpec, catalogue: Catalogue) -> str:
    if quality is None:
        return STANDARD
    found = quality.strip().lower()
    if found not in QUALITIES:
        raise _unknown("quality", quality, QUALITIES, f"It takes {' or '.join(QUALITIES)}.")
    if found == DRAFT and spec.draft is None:
        able = [m.name for m in catalogue.models if m.draft is not None]
        instead = f", or choose {' or '.join(able[:3])}" if able else ""
        raise RequestError(f"{spec.name} draws no drafts; leave the quality out{instead}.")
    return found


def _sampler(sampler: str | None, spec: ModelSpec) -> str:
    if sampler is None:
        return spec.sampler
    known = {name.lower(): name for name in spec.samplers}
    found = known.get(sampler.strip().lower())
    if found is None:
        names = ", ".join(spec.samplers[:_LIST_AT_MOST])
        raise _unknown("sampler", sampler, spec.samplers, f"{spec.name} draws with {names}.")
    return found


def _size(options: GenerationOptions, spec: ModelSpec) -> tuple[int, int]:
    if options.aspect is not None and options.aspect not in ASPECTS:
        raise RequestError(f"There is no aspect '{_shown(options.aspect)}'; choose one of {', '.join(ASPECTS)}.")
    if options.aspect is not None and options.aspect not in spec.sizes:
        raise RequestError(f"{spec.name} has no size for {options.aspect}; it has {', '.join(spec.sizes)}.")
    like = options.image or options.control
    base = spec.default_size if like is None else size_like(like, spec)
    if options.aspect is not None:
        base = spec.sizes[options.aspect]
    width = _side(options.width, base[0], "Width", spec)
    height = _side(options.height, base[1], "Height", spec)
    if width * height > spec.max_pixels:
        side = math.isqrt(spec.max_pixels) // spec.side_multiple * spec.side_multiple
        raise RequestError(
            f"{width}×{height} is more than {spec.name} draws at once ({spec.max_pixels:,} pixels, as {side}×{side}); "
            "choose a smaller width or height."
        )
    return width, height


def _side(value: int | None, default: int, what: str, spec: ModelSpec) -> int:
    if value is None:
        return default
    side = _integer(value, what)
    if side > spec.max_side:
        raise RequestError(f"{spec.name} draws at most {spec.max_side} px a side; {_shown(side)} is too large.")
    if side < spec.min_side:
        raise RequestError(f"{spec.name} draws at least {spec.min_side} px a side; {_shown(side)} is too small.")
    multiple = spec.side_multiple
    if side % multiple:
        below = side // multiple * multiple
        near = [n for n in (below, below + multiple) if spec.min_side <= n <= spec.max_side]
        nearest = f"the nearest are {near[0]} and {near[1]}" if len(near) == 2 else f"the nearest is {near[0]}"
        raise RequestError(f"{what} {side} is not a multiple of {multiple}; {nearest}.")
    return side


def _integer(value: object, what: str) -> int:
    # Callers below Discord (the shell, a form) may hand over more than the annotation promises.
    if isinstance(value, bool) or not isinstance(value, int):
        raise RequestError(f"{what} takes a whole number, not {_shown(value)}.")
    return value


def _whole(value: int, what: str, low: int, high: int, model: str = "") -> int:
    number = _integer(value, what)
    if not low <= number <= high:
        with_model = f" with {model}" if model else ""
        raise RequestError(f"{what} goes from {low} to {high}{with_model}; {_shown(number)} does not fit.")
    return number


def _guidance(value: object, spec: ModelSpec) -> float:
    if value is None:
        return spec.guidance
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or (isinstance(value, float) and not math.isfinite(value))
    ):
        raise RequestError(f"Guidance takes a number, not {_shown(value)}.")
    high = min(MAX_GUIDANCE, spec.max_guidance)
    if high == 0 and value != 0:
        raise RequestError(f"{spec.name} takes no guidance; leave it out, or choose another model.")
    if not MIN_GUIDANCE <= value <= high:
        raise RequestError(
            f"Guidance goes from {MIN_GUIDANCE:g} to {high:g} with {spec.name}; {_shown(value)} does not fit."
        )
    return float(value) or 0.0  # never -0
