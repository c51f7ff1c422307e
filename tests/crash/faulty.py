"""The real engine on the built-in model, whose denoiser fails where a word of the prompt says so."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from bot import __version__
from bot.app import Machine, utc_now
from bot.config import Settings
from bot.engine import guard
from bot.engine.diffusers_engine import DiffusersEngine
from bot.engine.files.models import hub_cache, load_catalogue, model_files, models_root
from bot.engine.lanes.lane import Lane
from bot.files.marker import load_marker
from bot.scheduling.gpu_thread import GpuThread


class FaultyEngine(DiffusersEngine):
    """Notes under `freed` when memory was freed after it had been full. Words it obeys: `memory-alone` (no room for more than one picture a pass), `memory` (no room at all), `nan`, `black`.

    What a word asks for happens to every pass that the request is in, and to no other.
    """

    def __init__(self, *args: Any, notes: Path, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._notes = notes
        free = guard.free_memory

        def freed() -> None:
            (notes / "freed").touch()
            free()

        guard.free_memory = freed  # type: ignore[attr-defined]

    def _step(self, lanes: list[Lane]) -> None:
        unet = self.residents.use(str(lanes[0].key[0])).pipe.unet
        forward = unet.forward

        def faulty(sample: Any, *args: Any, **kwargs: Any) -> Any:
            if "memory" in words or ("memory-alone" in words and len(lanes) > 1):
                with (self._notes / "no-room-for").open("a") as notes:
                    notes.write(f"{len(lanes)}\n")
                raise torch.OutOfMemoryError("CUDA out of memory")
            output = forward(sample, *args, **kwargs)[0]
            return (output * float("nan"),) if "nan" in words else (output,)

        words = _words(lanes)
        with _replaced(unet, "forward", faulty):
            super()._step(lanes)

    def _decode(self, lanes: list[Lane]) -> None:
        room, words = self._lanes, _words(lanes)
        decode = room.decode
        with _replaced(room, "decode", lambda *args: decode(*args) * (0.0 if "black" in words else 1.0)):
            super()._decode(lanes)


def _words(lanes: list[Lane]) -> set[str]:
    return {word for lane in lanes for word in lane.owner.request.prompt.split()}


@contextlib.contextmanager
def _replaced(owner: Any, name: str, stand_in: Any) -> Iterator[None]:
    setattr(owner, name, stand_in)
    try:
        yield
    finally:
        delattr(owner, name)


def start_faulty(settings: Settings, notes: Path) -> Machine:
    """Start the GPU thread on that engine."""
    catalogue = load_catalogue(settings)
    engine = FaultyEngine(
        catalogue, models_root=models_root(settings), cache_dir=hub_cache(settings), device=settings.device,
        dtype=settings.dtype, max_batch=settings.max_batch, notes=notes,
    )  # fmt: skip
    gpu = GpuThread(engine)
    gpu.start()
    marker = load_marker(settings, version=__version__, now=utc_now())
    return Machine(settings, catalogue, model_files(catalogue, settings), marker, gpu)
