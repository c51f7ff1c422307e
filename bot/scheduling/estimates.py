"""How long a request takes, learnt from those that were drawn. Pure; event loop only."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace

from bot.generation import STANDARD, GenerationRequest
from bot.prompts.upscaling import is_plain

_NEWEST = 0.3
"""Weight of the newest measurement: a few requests are enough to follow a change, one slow one does not mislead."""

_SHAPES_KEPT = 256

_Shape = tuple[str, int, int, int]


@dataclass(slots=True)
class _Average:
    value: float

    def take(self, measured: float) -> None:
        self.value += _NEWEST * (measured - self.value)


class StepTimes:
    """Seconds a denoising step of each shape (model, width, height, count), and of each model's work around the steps."""

    def __init__(self) -> None:
        self._steps: OrderedDict[_Shape, _Average] = OrderedDict()
        self._per_pixel: dict[str, _Average] = {}
        self._overheads: dict[str, _Average] = {}
        self.version = 0
        """Grows with every measurement."""

    def learn(self, request: GenerationRequest, denoise_s: float, total_s: float) -> None:
        """Take note of a drawn request: seconds of its steps alone and of all the GPU thread did for it."""
        step_s = denoise_s / max(1, request.steps_taken)
        overhead_s = max(0.0, total_s - denoise_s)
        shape = _shape(request)
        if shape in self._steps:
            self._steps[shape].take(step_s)
        else:
            self._steps[shape] = _Average(step_s)
        self._steps.move_to_end(shape)
        while len(self._steps) > _SHAPES_KEPT:
            self._steps.popitem(last=False)
        model, pixels = _model(request), _pixels(request)
        if model in self._per_pixel:
            self._per_pixel[model].take(step_s / pixels)
            # Loading the weights fell into the first one's time; a shorter time is the truer one.
            overhead = self._overheads[model]
            overhead.take(overhead_s) if overhead_s > overhead.value else _set(overhead, overhead_s)
        else:
            self._per_pixel[model] = _Average(step_s / pixels)
            self._overheads[model] = _Average(overhead_s)
        self.version += 1

    def step_s(self, request: GenerationRequest) -> float | None:
        """Estimate one denoising step, in seconds; from other sizes of the model where this one is new, else None."""
        known = self._steps.get(_shape(request))
        if known is not None:
            return known.value
        if len(request.models) > 1:
            return self._step_of_parts_s(request)
        rate = self._per_pixel.get(_model(request))
        return None if rate is None else rate.value * _pixels(request)

    def _step_of_parts_s(self, request: GenerationRequest) -> float | None:
        """Estimate a step of what several models draw one after another, from what each takes; None where one was not measured."""
        total_s = 0.0
        for part in _parts(request):
            step_s = self.step_s(part)
            if step_s is None:
                return None
            total_s += step_s * part.steps_taken
        return total_s / request.steps_taken

    def _overhead_s(self, request: GenerationRequest) -> float:
        known = self._overheads.get(_model(request))
        return known.value if known is not None else sum(self._overhead_s(part) for part in _parts(request))

    def duration_s(self, request: GenerationRequest) -> float | None:
        """Estimate the whole request, in seconds; None until its model has been measured."""
        return self.remaining_s(request, 0, request.steps_taken)

    def remaining_s(self, request: GenerationRequest, step: int, steps: int) -> float | None:
        """Estimate what is left after `step` of `steps` steps, in seconds; None until its model has been measured."""
        step_s = self.step_s(request)
        if step_s is None:
            return None
        left = max(0, steps - step) / max(1, steps)
        return left * step_s * request.steps_taken + self._overhead_s(request)


def _parts(request: GenerationRequest) -> list[GenerationRequest]:
    """Give what each of a request's models draws of it, as requests of their own; nothing where there is one model."""
    models = request.models if len(request.models) > 1 else ()
    found: list[GenerationRequest] = []
    for model in models:
        cells = tuple(own for own in request.variants if (own.model or request.model) == model)
        found.append(replace(request, model=model, variants=cells, count=len(cells)))
    return found


def _set(average: _Average, value: float) -> None:
    average.value = value


def _model(request: GenerationRequest) -> str:
    """Drafts have another decoder and mostly no guidance, a control network is called as well: to the clock they are other models.

    So is who enlarges, whose steps are tiles, and so are several that draw one sheet.
    """
    if request.upscale:
        return f"{request.model} upscale {request.upscale} {request.upscale_mode}"
    if len(request.models) > 1:
        return " and ".join(request.models)
    model = request.model if request.quality == STANDARD else f"{request.model} {request.quality}"
    return f"{model} control" if request.control else model


def _shape(request: GenerationRequest) -> _Shape:
    return _model(request), request.width, request.height, request.count


def _pixels(request: GenerationRequest) -> float:
    pixels = request.width * request.height * request.count
    # More tiles take longer, not each of them.
    return pixels / request.steps_taken if is_plain(request) else pixels
