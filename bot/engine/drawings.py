"""One request in the engine: how far its pictures are, what it has cost, and its end. GPU thread."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from bot.catalogue.models import DRAFT_SUFFIX, INPAINTING_SUFFIX, Catalogue, ModelSpec
from bot.engine.base import Order
from bot.engine.conditioning.image_prompts import ImagePrompt
from bot.engine.lanes.canvas import Canvas
from bot.engine.lanes.lane import Lane
from bot.engine.upscaling.mosaic import Tiles
from bot.errors import InvalidOutput, ModelError, OutOfMemory, RequestError
from bot.generation import DRAFT, GenerationRequest, GenerationResult, Progress, RawPicture
from bot.prompts.text import quoted

log = logging.getLogger(__name__)

UNREAD_CHARS = 80
"""How much is shown of what was not read."""
_ROUNDING = 1e-6


Part = tuple[ModelSpec, list[int]]
"""A model, and the numbers of the pictures that it draws."""


def shares_of(request: GenerationRequest, catalogue: Catalogue, done: Collection[int] = ()) -> list[Part]:
    """Choose what draws a request: a model, or, of a sheet that compares models, one after another.

    `catalogue` has the drafts and inpainting weights, too; the pictures numbered in `done` are there already. Raises ModelError, RequestError where something is there no more.
    """
    numbers: dict[str, list[int]] = {model: [] for model in request.models}
    for n in (n for n in range(request.count) if n not in done):
        numbers[request.alone(n).model].append(n)
    return [(_spec_of(request, model, catalogue), mine) for model, mine in numbers.items() if mine]


def _spec_of(request: GenerationRequest, model: str, catalogue: Catalogue) -> ModelSpec:
    spec = catalogue.get(model)
    if spec is None:
        raise ModelError(f"The model {model!r} is not in the catalogue any more; choose another one.")
    if request.quality == DRAFT:
        draft = catalogue.get(model + DRAFT_SUFFIX)
        if draft is None:
            raise RequestError(f"{spec.name} draws no drafts here any more; leave the quality out.")
        return draft
    return catalogue.get(model + INPAINTING_SUFFIX) or spec if request.mask else spec


@dataclass(slots=True, eq=False)
class Drawing:
    """An admitted order.

    `request` is the order's with what its model does not take left out. `since`: since when it waits for its model, in the
    engine's monotonic seconds. `fresh`: pictures whose prompt is not encoded yet. `todo`: pictures that are left to the pipeline and that
    no call of it has begun yet. `canvas`: the picture it begins from, encoded; `image_prompt`: its reference picture; `control_map`: the map
    that was made of its control picture, where that took an annotator. `enlarging`: it is being enlarged and needs no model.
    `tiles`: its pictures are the tiles of one, which are redrawn, each from its own part. `later`: what other models draw of it, once
    the pictures of this one are there. `before` and `after` are steps that were taken
    before it, and will be after. `made_on` is the device and dtype of its pictures. Times are seconds of the GPU thread, a shared pass being split by rows.
    """

    order: Order
    spec: ModelSpec
    request: GenerationRequest
    arrived: int
    since: float
    fresh: list[int]
    todo: list[int] = field(default_factory=list[int])
    canvas: Canvas | None = None
    control_map: RawPicture | None = None
    image_prompt: ImagePrompt | None = None
    enlarging: bool = False
    tiles: Tiles | None = None
    later: list[Part] = field(default_factory=lambda: list[Part]())
    before: int = 0
    after: int = 0
    retried: bool = False
    denoise_s: float = 0.0
    other_s: float = 0.0
    previews: int = 0
    made_on: tuple[str, str] = "", ""
    _pictures: dict[int, RawPicture] = field(default_factory=dict[int, RawPicture])
    _shares: dict[int, float] = field(default_factory=dict[int, float])
    _drawn: int = 0
    _said: int = 0
    _lost: int = 0
    _finished: list[RawPicture] = field(default_factory=list[RawPicture])
    _unread: dict[tuple[str, str], dict[int, str]] = field(default_factory=dict[tuple[str, str], dict[int, str]])

    def __post_init__(self) -> None:
        self._shares.update(dict.fromkeys(self.order.done, 1.0))

    @property
    def prepared(self) -> bool:
        """Whether all its pictures have begun, or are left to the pipeline."""
        return not self.fresh

    def alike(self) -> list[int]:
        """List the next pictures to begin together: those that differ in nothing but the seed. All of them, as a rule.

        Of tiles the next alone, since each begins from a part of its own.
        """
        if self.tiles is not None:
            return self.fresh[:1]
        if not (self.request.variants or self.request.prompts):
            return list(self.fresh)
        first = self._but_for_seed(self.fresh[0])
        return [n for n in self.fresh if self._but_for_seed(n) == first]

    def _but_for_seed(self, n: int) -> GenerationRequest:
        return replace(self.request.alone(n), seed=0)

    @property
    def member(self) -> object:
        """Whose turns of the GPU it uses."""
        return self.order.member

    @property
    def complete(self) -> bool:
        """Whether all its pictures are drawn, now or before, or lost."""
        return len(self.order.done) + self._drawn + self._lost >= self.request.count

    @property
    def part_complete(self) -> bool:
        """Whether all that its model draws is there, and another one goes on."""
        left = sum(len(numbers) for _, numbers in self.later)
        return bool(left) and len(self.order.done) + self._drawn + self._lost >= self.request.count - left

    def go_on(self, since: float) -> None:
        """Let the next model draw its pictures; it is waited for `since` now."""
        self.spec, self.fresh = self.later.pop(0)
        self.since, self.canvas, self.image_prompt, self.retried = since, None, None, False

    @property
    def model(self) -> str:
        """The model that draws now, as requests name it."""
        waiting = {n for _, numbers in self.later for n in numbers}
        mine = (n for n in range(self.request.count) if n not in waiting and n not in self._pictures)
        return self.request.alone(next(mine, 0)).model

    def lose(self, n: int) -> bool:
        """Go on without a picture that came out broken; False where the request cannot: a list can, while it has any other."""
        if not self.request.listed or self._lost + 1 >= self.request.count:
            return False
        self._lost += 1
        self.reached(n, 1.0)
        return True

    def leave_unread(self, numbers: Iterable[int], prompt: str, negative_prompt: str) -> None:
        """Note which ends of their prompts the model does not read for these pictures; empty where it reads all."""
        for what, end in (("prompt", prompt), ("negative prompt", negative_prompt)):
            if end:
                self._unread.setdefault((self.spec.name, what), {}).update(dict.fromkeys(numbers, end))

    def note(self) -> str:
        """Say in a sentence what its models did not read; empty where they read everything."""
        said: dict[str, list[str]] = {}
        for (name, what), ends in self._unread.items():
            some = f" of {len(ends)} of {self.request.count} pictures" if len(ends) < self.request.count else ""
            said.setdefault(name, []).append(f"of the {what}{some}, “{quoted(ends[min(ends)], UNREAD_CHARS)}”")
        models = [f"{name} did not read the end {', and '.join(parts)}" for name, parts in said.items()]
        return f"{'; '.join(models)}; put what matters first, or shorten it." if models else ""

    def reached(self, n: int, share: float) -> None:
        """Note that picture `n` has taken this share of its steps, from 0 to 1."""
        self._shares[n] = share

    def tell(self, preview: Callable[[], RawPicture | None] | None = None) -> None:
        """Tell the listener of another step that was asked for, of all pictures on average, once there is one."""
        steps = self.request.steps_taken
        step = int(sum(self._shares.values()) / self.request.count * steps + _ROUNDING)
        if step <= self._said and not self._finished:
            return
        self._said = step
        listener = self.order.listener
        shown = _shown(preview) if preview is not None and listener.wants_preview() else None
        self.previews += shown is not None
        finished, self._finished = tuple(self._finished), []
        listener.on_progress(
            Progress(self.before + step, self.before + steps + self.after, shown, finished, *self.made_on)
        )

    def take(self, image: Any, n: int) -> None:
        """Take finished picture `n`, (height, width, 3) floats on [0, 1]. Raises InvalidOutput as `to_picture`."""
        seed = self.request.alone(n).seed
        picture = to_picture(self.spec, image, n, seed, may_be_black=self.tiles is not None)
        if self.tiles is None:
            self.add(picture)
        else:
            self.tiles.put(n, image)
            self._note(n)

    def add(self, picture: RawPicture) -> None:
        """Take a finished picture."""
        self._pictures[picture.n] = picture
        if self.request.variants:  # they are many, and are shown as they come
            self._finished.append(picture)
        self._note(picture.n)

    def _note(self, n: int) -> None:
        self._drawn += 1
        self.reached(n, 1.0)
        self.tell()

    def finish(self) -> None:
        """End the order with its pictures, or the one that its tiles make."""
        pictures = tuple(self._pictures[n] for n in sorted(self._pictures))
        if self.tiles is not None:
            pictures = (self.tiles.picture(self.request.seed),)
        self.order.finish(
            GenerationResult(pictures, self.denoise_s, self.denoise_s + self.other_s, *self.made_on, note=self.note()),
        )

    def no_room(self) -> OutOfMemory:
        """Say that the device has no room for it, even alone."""
        return OutOfMemory(
            f"{self.spec.name} has no room for {self.request.width}×{self.request.height} on this machine; "
            "ask for a smaller size or a smaller model."
        )

    def no_room_for_model(self) -> OutOfMemory:
        """Say that its model does not fit into the memory."""
        return OutOfMemory(f"{self.spec.name} does not fit into this machine's memory; choose a smaller model.")


def drawing_of(order: Order, catalogue: Catalogue, arrived: int, since: float) -> Drawing:
    """Begin an order, with the variants of its models that draw it. Raises ModelError or RequestError where there is none.

    `catalogue` has the variants, `arrived` grows with every order, `since` is now in the engine's monotonic seconds.
    """
    request = order.request.told
    (spec, pictures), *later = shares_of(request, catalogue, order.done)
    if not spec.negative_prompt:
        request = replace(request, negative_prompt="")
    return Drawing(order, spec, request, arrived, since, pictures, later=later)


def owners(lanes: Iterable[Lane]) -> list[Drawing]:
    """List the requests that lanes are of, each once."""
    return list(dict.fromkeys(lane.owner for lane in lanes))


def _shown(preview: Callable[[], RawPicture | None]) -> RawPicture | None:
    """Make a preview, which is never worth a failure: it is beside the step, and nobody's request may end with it."""
    try:
        return preview()
    except Exception:
        log.warning("a preview could not be made", exc_info=True)
        return None


def to_picture(spec: ModelSpec, image: Any, n: int, seed: int, *, may_be_black: bool = False) -> RawPicture:
    """Turn (height, width, 3) floats in [0, 1] into a picture.

    Raises InvalidOutput where they are not finite, or all black: only a part of a picture may be that.
    """
    import numpy as np

    if not np.isfinite(image).all():
        raise InvalidOutput(
            f"{spec.name} gave a broken picture (not a number); try another seed, or a lower guidance. "
            "If it happens often, the operator can set EASEL_DTYPE=fp32."
        )
    pixels = (np.asarray(image) * 255).round().clip(0, 255).astype(np.uint8)
    if not may_be_black and not pixels.any():
        raise InvalidOutput(
            f"{spec.name} gave a black picture; try another seed. "
            "If it happens often, the operator can set EASEL_DTYPE=fp32."
        )
    height, width = pixels.shape[:2]
    return RawPicture(n, seed, width, height, pixels.tobytes())
