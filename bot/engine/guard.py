"""One unit of work at a time: what it is busy with, and what went wrong in it. GPU thread, but for `work`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from bot.catalogue.annotators import AnnotatorSpec
from bot.catalogue.models import ModelSpec
from bot.engine.base import Errand, Work
from bot.engine.devices import Device, free_memory, is_device_lost, is_out_of_memory
from bot.engine.memory.residents import Loaded
from bot.engine.metrics import Meter
from bot.errors import DeviceLost, OutOfMemory

LOAD_LIMIT_S = 1800.0
TURN_LIMIT_S = 300.0
CPU_TURN_LIMIT_S = 1800.0
"""A step of a large model is minutes on a processor: 16 s a row at 512² for Stable Diffusion 1.5, measured on two cores."""


def turn_limit_s(device: Device | None, loaded: Loaded) -> float:
    """How long a turn with a model may take before it counts as stuck, in seconds.

    Longer where its parts take turns, and where it may be compiled in the turn.
    """
    compiles = loaded.network is not None and loaded.network.compiles
    quick = device is not None and device.is_gpu and loaded.whole and not compiles
    return TURN_LIMIT_S if quick else CPU_TURN_LIMIT_S


class Client(Protocol):
    """Who a unit of work is for: a request in the engine, and what it is done with."""

    @property
    def order(self) -> Errand:
        """What ends where the work goes wrong."""
        ...

    @property
    def spec(self) -> ModelSpec | AnnotatorSpec:
        """The network at work."""
        ...


class Guard:
    """Does units of work; a fault in one of them is told, and leaves the thread and the memory fit for the next."""

    def __init__(self, meter: Meter, *, tick: Callable[[], float], relieve: Callable[[], None]) -> None:
        """`tick` gives monotonic seconds; `relieve` drops what is kept only to save time, where the memory is full."""
        self.work: Work | None = None
        self._meter = meter
        self._tick = tick
        self._relieve = relieve

    def attempt(
        self,
        what: str,
        drawings: Sequence[Client],
        unit: Callable[[], None],
        *,
        limit_s: float,
        inference: bool = True,
    ) -> Exception | None:
        """Do a unit of work for some requests, watched for longer than `limit_s` seconds.

        Returns what went wrong, where something did: OutOfMemory with the memory freed, else what was raised. Loading is no
        `inference`: weights made in torch's inference mode could not be moved about later. Raises DeviceLost.
        """
        import torch

        self.work = Work(what, tuple(drawing.order for drawing in drawings), self._tick(), limit_s)
        try:
            with torch.inference_mode(inference):
                unit()
            return None
        except Exception as error:
            if is_device_lost(error):
                raise DeviceLost(f"{what} failed: {error}") from error
            if not (is_out_of_memory(error) or isinstance(error, OutOfMemory)):
                return error
            text = str(error)
        finally:
            self.work = None
        # Outside the handler, because the exception's frames hold the tensors that are in the way.
        for model in {drawing.spec.id for drawing in drawings}:
            self._meter.ran_out(model)
        self._relieve()
        free_memory()
        return OutOfMemory(text)
