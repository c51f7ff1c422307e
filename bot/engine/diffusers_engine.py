"""Draws with diffusers pipelines. Everything but the constructor runs on the GPU thread."""

from __future__ import annotations

import functools
import importlib
import inspect
import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bot.catalogue import Catalogue, ModelSpec
from bot.engine.base import EngineInfo, Listener
from bot.engine.devices import Device, choose_device, free_memory, is_out_of_memory, quiet_libraries
from bot.engine.loading import files_bytes, load_pipeline, place_pipeline
from bot.engine.previews import Previewer, PreviewTap
from bot.engine.samplers import build_scheduler
from bot.engine.weights import ModelFiles
from bot.errors import GenerationCancelled, InvalidOutput, ModelError, OutOfMemory
from bot.generation import FetchProgress, GenerationRequest, GenerationResult, Progress, RawPicture

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Loaded:
    spec: ModelSpec
    pipe: Any
    scheduler: Any
    previewer: Previewer
    dtype: str


@dataclass(slots=True)
class _Progress:
    """How far a request is: whole batches behind it, and in all."""

    steps: int
    batches: int
    done: int = 0
    denoise_s: float = 0.0


def spin_briefly() -> None:
    """Let torch's CPU threads spin only briefly where they wait for each other; to be called before torch is imported.

    By default libgomp spins for long, and beside any other busy thread the one spun for does not get a core. Measured
    on two cores, 20 steps of the built-in model, alone and beside one busy process: by default 0.46 s and about 7 s,
    never spinning 0.83 s and 1.1 s, spinning 1,000 times 0.52 s and 1.2 s.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


class DiffusersEngine:
    """Draws one request at a time with the pipeline of its model; one model is kept in memory."""

    def __init__(
        self, catalogue: Catalogue, *, models_root: Path, cache_dir: Path, device: str, dtype: str, max_batch: int
    ) -> None:
        """Take note of the settings; touches nothing. Any thread.

        Relative sources of the catalogue count from `models_root`; downloads are in `cache_dir`; `device` and
        `dtype` are the settings' words; `max_batch` is how many pictures are drawn in one denoiser call.
        """
        self._catalogue = catalogue
        self._files = ModelFiles(catalogue, models_root=models_root, cache_dir=cache_dir, hf_token=None)
        self._settings = (device, dtype)
        self._max_batch = max_batch
        self._device: Device | None = None
        self._loaded: _Loaded | None = None

    def start(self) -> EngineInfo:
        """Import torch and diffusers, choose device and dtype.

        Raises GenerationError where the device asked for is missing.
        """
        if self._device is None:
            spin_briefly()
            quiet_libraries()
            # Imported here and not at the first request, which would wait for it.
            importlib.import_module("diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion")
            self._device = choose_device(*self._settings)
            log.info("drawing on %s (%s, %s)", self._device.torch_device, self._device.name, self._device.dtype)
        device = self._device
        return EngineInfo(device.torch_device, device.name, device.dtype, device.memory_bytes)

    def generate(self, request: GenerationRequest, listener: Listener) -> GenerationResult:
        """Draw a request whose model is local.

        Picture n has seed `seed + n`; its noise is made on the processor, so that a seed means the same picture on
        every device. Raises ModelError, OutOfMemory, InvalidOutput, GenerationCancelled or RequestError.
        """
        started = time.perf_counter()
        self.start()
        assert self._device is not None
        loaded = self._load(request.model, listener)
        waiting = [
            list(range(first, min(first + self._max_batch, request.count)))
            for first in range(0, request.count, self._max_batch)
        ]
        progress = _Progress(request.num_inference_steps, len(waiting))
        pictures: list[RawPicture] = []
        while waiting:
            batch = waiting.pop(0)
            try:
                pictures += self._draw(loaded, request, batch, progress, listener)
                progress.done += 1
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                text = str(error)
            else:
                continue
            # Outside the handler, because the exception's frames hold the tensors that are in the way.
            free_memory()
            if len(batch) == 1:
                raise OutOfMemory(
                    f"{loaded.spec.name} has no room for {request.width}×{request.height} on this machine; "
                    "ask for a smaller size or a smaller model."
                )
            log.warning("out of memory with %d pictures at once, trying half: %s", len(batch), text)
            middle = (len(batch) + 1) // 2
            waiting[:0] = [batch[:middle], batch[middle:]]
            progress.batches += 1
        total_s = time.perf_counter() - started
        return GenerationResult(tuple(pictures), progress.denoise_s, total_s, self._device.torch_device, loaded.dtype)

    def close(self) -> None:
        """Free the device."""
        if self._loaded is not None:
            self._loaded = None
            free_memory()

    def _load(self, model_id: str, listener: Listener) -> _Loaded:
        spec = self._catalogue.get(model_id)
        if spec is None:
            raise ModelError(f"The model {model_id!r} is not in the catalogue any more; choose another one.")
        if self._loaded is not None and self._loaded.spec == spec:
            return self._loaded
        if listener.cancelled():
            raise GenerationCancelled("Cancelled.")
        assert self._device is not None
        weights, settings = self._files.locate(model_id)
        # The old one goes first: two would not fit on most cards.
        self.close()
        size = files_bytes(weights)
        listener.on_load(FetchProgress(model_id, 0, size))
        started = time.perf_counter()
        device = self._device.suited_to(spec.family)
        pipe = load_pipeline(spec, weights, settings, device)
        # Before it is placed: where parts take turns on the GPU, calling the VAE would move the denoiser away.
        previewer = Previewer(pipe)
        place_pipeline(pipe, spec, device)
        listener.on_load(FetchProgress(model_id, size, size))
        log.info("loaded %s (%s) in %.1f s", model_id, device.dtype, time.perf_counter() - started)
        self._loaded = _Loaded(spec, pipe, pipe.scheduler, previewer, device.dtype)
        return self._loaded

    def _draw(
        self, loaded: _Loaded, request: GenerationRequest, batch: list[int], progress: _Progress, listener: Listener
    ) -> list[RawPicture]:
        import torch

        if listener.cancelled():
            raise GenerationCancelled("Cancelled.")
        pipe = loaded.pipe
        pipe.scheduler = build_scheduler(request.sampler, loaded.scheduler)
        steps = _StepWatch(loaded, request, request.seed + batch[0], progress, listener)
        seeds = [request.seed + n for n in batch]
        options = call_options(pipe, loaded.spec, request, len(batch))
        options["generator"] = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        if "callback_on_step_end" in inspect.signature(type(pipe).__call__).parameters:
            options["callback_on_step_end"] = steps
        try:
            with torch.inference_mode():
                images: Any = pipe(**options).images
        finally:
            # diffusers skips this when the callback raises, and then the next request finds half a model moved.
            pipe.maybe_free_model_hooks()
            pipe.scheduler = loaded.scheduler
        steps.finish()
        return [_picture(loaded.spec, image, n, seed) for image, n, seed in zip(images, batch, seeds, strict=True)]


class _StepWatch:
    """What a pipeline calls after each step of one batch: progress, preview, cancel."""

    def __init__(
        self, loaded: _Loaded, request: GenerationRequest, seed: int, progress: _Progress, listener: Listener
    ) -> None:
        self._previewer = loaded.previewer
        self._size = (request.width, request.height)
        self._seed = seed
        self._progress = progress
        self._listener = listener
        self._tap = PreviewTap(loaded.pipe.scheduler)
        self._said = 0
        self._started = self._last = time.perf_counter()
        # Pipelines set the timesteps after the prompt is encoded: from here on it is denoising.
        set_timesteps = loaded.pipe.scheduler.set_timesteps
        loaded.pipe.scheduler.set_timesteps = functools.wraps(set_timesteps)(
            functools.partial(self._set_timesteps, set_timesteps)
        )

    def _set_timesteps(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._started = time.perf_counter()
        return original(*args, **kwargs)

    def __call__(self, pipe: Any, step_index: int, timestep: Any, callback_kwargs: dict[str, Any]) -> dict[str, Any]:
        self._last = time.perf_counter()
        if self._listener.cancelled():
            raise GenerationCancelled("Cancelled.")
        # Some samplers call the model twice a step; people count the steps they asked for.
        turns = max(int(getattr(pipe, "num_timesteps", 0) or 0), 1)
        self._say(
            min(math.ceil((step_index + 1) * self._progress.steps / turns), self._progress.steps), callback_kwargs
        )
        return callback_kwargs

    def finish(self) -> None:
        """The batch is decoded: what is left of its steps is done."""
        self._progress.denoise_s += max(self._last - self._started, 0.0)
        if self._said < self._progress.steps:
            self._say(self._progress.steps, {})

    def _say(self, step: int, callback_kwargs: dict[str, Any]) -> None:
        self._said = step
        preview = None
        latents = callback_kwargs.get("latents")
        if latents is not None and self._listener.wants_preview():
            estimate = self._tap.estimate
            shown = latents if estimate is None else estimate
            preview = self._previewer.draw(shown, self._seed, *self._size)
        progress = self._progress
        done = progress.done * progress.steps + step
        self._listener.on_progress(Progress(done, progress.batches * progress.steps, preview))


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


def _picture(spec: ModelSpec, image: Any, n: int, seed: int) -> RawPicture:
    """`image`: (height, width, 3) floats in [0, 1]."""
    import numpy as np

    if not np.isfinite(image).all():
        raise InvalidOutput(
            f"{spec.name} gave a broken picture (not a number); try another seed, or a lower guidance. "
            "If it happens often, the operator can set EASEL_DTYPE=fp32."
        )
    pixels = (np.asarray(image) * 255).round().clip(0, 255).astype(np.uint8)
    if not pixels.any():
        raise InvalidOutput(
            f"{spec.name} gave a black picture; try another seed. "
            "If it happens often, the operator can set EASEL_DTYPE=fp32."
        )
    height, width = pixels.shape[:2]
    return RawPicture(n, seed, width, height, pixels.tobytes())
