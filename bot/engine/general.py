"""Every diffusers pipeline that has no lanes: called as a whole on a helper thread, which takes turns with the GPU thread.

There is one baton. The GPU thread hands it over in `advance` and waits; the helper hands it back after each step of the
pipeline, in `callback_on_step_end`, and waits. So exactly one of them touches the GPU, and between any two steps others may.
"""

from __future__ import annotations

import functools
import inspect
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from bot.catalogue.models import ModelSpec
from bot.engine.conditioning.reach import behind_all
from bot.engine.devices import is_out_of_memory
from bot.engine.drawings import Drawing
from bot.engine.fitting import Fitting
from bot.engine.lanes.previews import PreviewTap
from bot.engine.lanes.samplers import build_scheduler
from bot.engine.memory.residents import Loaded
from bot.errors import OutOfMemory, RequestError
from bot.generation import GenerationRequest, RawPicture
from bot.prompts.weights import asks_for_weights

log = logging.getLogger(__name__)


class _Aborted(Exception):
    """Raised in the pipeline's callback where nobody wants its pictures any more."""


class GeneralRun:
    """One call of a pipeline for pictures that are equal but for their seeds; a rider of the turnstile.

    All methods run on the GPU thread. `error` is what the call ended with, `images` its pictures: (rows, height, width, 3)
    floats on [0, 1].
    """

    def __init__(self, loaded: Loaded, rows: Sequence[tuple[Drawing, int]]) -> None:
        """`rows`: each picture's request and number; nothing happens before `begin`."""
        self.loaded = loaded
        self.pictures = tuple(rows)
        self.owner = rows[0][0]
        self.member = self.owner.member
        self.arrived = self.owner.arrived
        self.requests = [drawing.request.alone(n) for drawing, n in rows]
        r = self.requests[0]
        self.key: tuple[object, ...] = ("general", r.model, r.width, r.height)
        self.rows = len(rows)
        self.begun = False
        self.over = False
        self.images: Any = None
        self.error: Exception | None = None
        self.steps_taken = 0
        self._go = threading.Semaphore(0)
        self._back = threading.Semaphore(0)
        self._aborted = False
        self._thread: threading.Thread | None = None
        self._tap: PreviewTap | None = None
        self._latents: Any = None
        self._denoising_since: float | None = None
        self._share = 0.0

    @property
    def left(self) -> int:
        """How many turns it has still to take, about."""
        return max(1, self.requests[0].num_inference_steps - self.steps_taken)

    @property
    def by_steps(self) -> bool:
        """Whether its pipeline hands the baton back after each step; else it does all of them in one turn."""
        return "callback_on_step_end" in inspect.signature(type(self.loaded.pipe).__call__).parameters

    @property
    def drawings(self) -> list[Drawing]:
        """The requests its pictures are of."""
        return list(dict.fromkeys(drawing for drawing, _ in self.pictures))

    def begin(self) -> None:
        """Prepare the pipeline. Raises RequestError where it does not take the sampler, or weights in prompts."""
        pipe = self.loaded.pipe
        request = self.requests[0]
        if self.loaded.family is None and any(map(asks_for_weights, (request.prompt, request.negative_prompt))):
            raise RequestError(
                f"{self.loaded.spec.name} knows no weights or blends; write the prompt plainly, or choose another model."
            )
        scheduler = build_scheduler(request.sampler, self.loaded.scheduler)
        if hasattr(scheduler, "noise_sampler_seed"):  # the SDE schedulers take no generator
            scheduler.noise_sampler_seed = [one.seed for one in self.requests]
        self.begun = True
        self.loaded.make_way()
        self.loaded.decoder.prepare(request.width, request.height)
        pipe.scheduler = scheduler
        self._tap = PreviewTap(scheduler)
        # Pipelines set the timesteps after the prompt is encoded: from here on it is denoising.
        original = scheduler.set_timesteps
        scheduler.set_timesteps = functools.wraps(original)(functools.partial(self._set_timesteps, original))
        self._thread = threading.Thread(target=self._call, name="gpu-pipeline", daemon=True)
        self._thread.start()

    def advance(self) -> float:
        """Let the pipeline take its next step, or its last part; the seconds of it that were denoising.

        Once `over`, `images` or `error` is there.
        """
        before = self.steps_taken
        started = time.perf_counter()
        self._go.release()
        self._back.acquire()
        ended = time.perf_counter()
        if self.over and self._thread is not None:
            self._thread.join()
        if self.steps_taken == before or self._denoising_since is None:
            return 0.0
        return ended - max(started, self._denoising_since)

    def abort(self) -> None:
        """End the call within its current step; nothing is left of it but the pipeline as it was."""
        self._aborted = True
        while self.begun and not self.over:
            self.advance()

    def tell(self) -> None:
        """Tell the requests' listeners how far it is."""
        for drawing, n in self.pictures:
            drawing.reached(n, self._share)
        for row, (drawing, _) in enumerate(self.pictures):
            if not drawing.order.over:
                drawing.tell(functools.partial(self._preview, row, self.requests[row]))

    def _preview(self, row: int, request: GenerationRequest) -> RawPicture | None:
        latents = self._latents if self._tap is None or self._tap.estimate is None else self._tap.estimate
        if latents is None or len(latents) <= row:
            return None
        return self.loaded.previewer.draw(latents[row : row + 1], request.seed, request.width, request.height)

    def _call(self) -> None:
        self._go.acquire()
        try:
            self.images = self._draw()
        except _Aborted:
            pass
        except Exception as error:
            if is_out_of_memory(error):
                self.error = OutOfMemory(str(error))  # its frames hold the tensors that are in the way
            else:
                self.error = error
        finally:
            self.over = True
            self._latents = self._tap = None
            self._back.release()

    def _draw(self) -> Any:
        import torch

        pipe, spec = self.loaded.pipe, self.loaded.spec
        try:
            if self._aborted:
                raise _Aborted
            with torch.inference_mode():
                options = self._spelled(call_options(pipe, spec, self.requests[0], self.rows))
                options["generator"] = [torch.Generator("cpu").manual_seed(one.seed) for one in self.requests]
                if self.by_steps:
                    options["callback_on_step_end"] = self._after_step
                return pipe(**options).images
        finally:
            # diffusers skips this when the callback raises, and then the next request finds half a model moved.
            pipe.maybe_free_model_hooks()
            pipe.scheduler = self.loaded.scheduler

    def _spelled(self, options: dict[str, Any]) -> dict[str, Any]:
        """The options, prompts as the pipeline takes them: in words, or, where it cannot read those, embedded."""
        family, request = self.loaded.family, self.requests[0]
        texts = {name: options[name] for name in ("prompt", "negative_prompt") if name in options}
        unread = self._unread(texts, options.get("max_sequence_length"))
        for drawing, n in self.pictures:
            drawing.leave_unread([n], *unread)
        if family is None:
            return options
        spelled = family.spelled(request)
        if not spelled:
            return options | {name: [family.plainly(text) for text in given] for name, given in texts.items()}
        given = {name: value.repeat(self.rows, *[1] * (value.ndim - 1)) for name, value in spelled.items()}
        taken = {"prompt", *(["negative_prompt"] if "negative_prompt_embeds" in given else [])}
        return {name: value for name, value in options.items() if name not in taken} | given

    def _unread(self, texts: dict[str, list[str]], max_sequence_length: int | None) -> tuple[str, str]:
        """The ends of the prompt and the negative prompt that the pipeline does not read."""
        loaded = self.loaded
        prompt, negative = (texts.get(name, [""])[0] for name in ("prompt", "negative_prompt"))
        if loaded.family is not None:
            return loaded.family.unread(prompt), loaded.family.unread(negative)
        limit = max_sequence_length
        return behind_all(loaded.pipe, prompt, limit), behind_all(loaded.pipe, negative, limit)

    def _set_timesteps(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._denoising_since = time.perf_counter()
        return original(*args, **kwargs)

    def _after_step(self, pipe: Any, step: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        """Called by the pipeline on the helper thread: hand the baton back, and wait for it."""
        self.steps_taken = step + 1
        self._latents = values.get("latents")
        self._share = min((step + 1) / max(int(getattr(pipe, "num_timesteps", 0) or 0), 1), 1.0)
        self._back.release()
        self._go.acquire()
        if self._aborted:
            raise _Aborted
        return values


class GeneralRoom:
    """The requests whose pipelines are called as a whole. A pipeline does one call at a time; pictures of equal requests share it.

    GPU thread.
    """

    def __init__(self, max_rows: int) -> None:
        """`max_rows` is how many pictures are drawn in one call."""
        self._max_rows = max_rows
        self._fitting = Fitting()
        self._waiting: list[Drawing] = []
        self._runs: dict[str, GeneralRun] = {}

    @property
    def running(self) -> list[GeneralRun]:
        """The calls that have begun."""
        return list(self._runs.values())

    def wait(self, drawing: Drawing, numbers: Sequence[int]) -> None:
        """Let pictures of a request wait for their pipeline."""
        drawing.todo = sorted([*drawing.todo, *numbers])
        if drawing not in self._waiting:
            self._waiting.append(drawing)

    def riders(self, find: Callable[[str], Loaded | None]) -> list[GeneralRun]:
        """List what may take a turn: calls that have begun, and, where a pipeline is free, one for each request waiting."""
        found = self.running
        for drawing in self._waiting:
            model = drawing.spec.id
            if drawing.todo and model not in self._runs and (loaded := find(model)) is not None:
                found.append(GeneralRun(loaded, self._rows(drawing)))
        return found

    def begin(self, run: GeneralRun) -> None:
        """Begin a call that `riders` offered. Raises RequestError."""
        for drawing, n in run.pictures:
            drawing.todo.remove(n)
        self._runs[run.loaded.spec.id] = run
        run.begin()

    def ended(self, run: GeneralRun) -> None:
        """Take out a call that is over."""
        if run.error is None:
            self._fitting.went_well(_shape(run.pictures[0][0]))
        if self._runs.get(run.loaded.spec.id) is run:
            del self._runs[run.loaded.spec.id]

    def halve(self, run: GeneralRun) -> bool:
        """Put the pictures of a call without room back, to be drawn by half as many; False where it was one alone."""
        if run.rows == 1:
            return False
        self._fitting.was_full(_shape(run.pictures[0][0]), run.rows)
        self.again(run)
        return True

    def again(self, run: GeneralRun) -> None:
        """Put the pictures of a call that failed back."""
        for drawing, n in run.pictures:
            drawing.todo = sorted([*drawing.todo, n])

    def remove(self, drawing: Drawing) -> None:
        """Forget a request; a call that nobody else is in ends within its step."""
        if drawing in self._waiting:
            self._waiting.remove(drawing)
        for run in self.running:
            if drawing in run.drawings and all(other.order.over for other in run.drawings):
                self.ended(run)
                run.abort()

    def clear(self) -> None:
        """End everything."""
        self._waiting = []
        for run in self.running:
            self.ended(run)
            run.abort()

    def _rows(self, drawing: Drawing) -> list[tuple[Drawing, int]]:
        limit = self._fitting.most(_shape(drawing), self._max_rows)
        what = _what(drawing, drawing.todo[0])
        others = [other for other in self._waiting if other is not drawing and other.spec.id == drawing.spec.id]
        rows = [(one, n) for one in (drawing, *others) for n in one.todo if _what(one, n) == what]
        return rows[:limit]


def _what(drawing: Drawing, n: int) -> tuple[object, ...]:
    """Give what is equal for pictures that differ in nothing but the seed, so that one call draws both."""
    r = drawing.request.alone(n)
    return (
        r.model, r.quality, r.prompt, r.negative_prompt, r.width, r.height, r.num_inference_steps, r.guidance_scale, r.sampler,
    )  # fmt: skip


def _shape(drawing: Drawing) -> tuple[object, ...]:
    return drawing.spec.id, drawing.request.width, drawing.request.height


def call_options(pipe: Any, spec: ModelSpec, request: GenerationRequest, rows: int) -> dict[str, Any]:
    """Put a request into the words of `pipe.__call__`; what it has no parameter for is left out.

    Pipelines with a `true_cfg_scale` and no guidance embedding (Qwen-Image) take the guidance there, and need a
    negative prompt, if only a space, to guide away from.
    """
    takes = inspect.signature(type(pipe).__call__).parameters
    options: dict[str, Any] = {
        "prompt": [request.prompt] * rows,
        "width": request.width,
        "height": request.height,
        "num_inference_steps": request.num_inference_steps,
        "output_type": "np",
    }
    if spec.max_sequence_length is not None:
        options["max_sequence_length"] = spec.max_sequence_length
    negative = request.negative_prompt if spec.negative_prompt else ""
    embedded = bool(getattr(getattr(getattr(pipe, "transformer", None), "config", None), "guidance_embeds", False))
    if "true_cfg_scale" in takes and not embedded:
        options["true_cfg_scale"] = request.guidance_scale
        if request.guidance_scale > 1:
            options["negative_prompt"] = [negative or " "] * rows
    else:
        if "guidance_scale" in takes:
            options["guidance_scale"] = request.guidance_scale
        if "negative_prompt" in takes and negative:
            options["negative_prompt"] = [negative] * rows
    return {name: value for name, value in options.items() if name in takes}
