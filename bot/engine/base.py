"""The narrow door to whatever draws. Synchronous; everything here runs on the GPU thread unless it says otherwise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from bot.generation import FetchProgress, GenerationRequest, GenerationResult, Progress


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What the engine found: `device` as torch writes it ("cuda:0"), its name, the dtype, memory in bytes."""

    device: str
    device_name: str
    dtype: str
    memory_bytes: int | None


class Listener(Protocol):
    """Who hears of a request's progress. Called on the GPU thread, between denoising steps; must return at once."""

    def cancelled(self) -> bool:
        """Whether to stop; asked after each step."""
        ...

    def wants_preview(self) -> bool:
        """Whether the next progress should carry a preview."""
        ...

    def on_progress(self, progress: Progress) -> None:
        """Take note of a finished step."""
        ...

    def on_load(self, progress: FetchProgress) -> None:
        """Take note of the model being loaded into memory."""
        ...


class Engine(Protocol):
    """Draws one request at a time."""

    def start(self) -> EngineInfo:
        """Import torch, choose device and dtype. Raises GenerationError where the device asked for is missing."""
        ...

    def generate(self, request: GenerationRequest, listener: Listener) -> GenerationResult:
        """Draw a request whose model is local.

        Raises ModelError, OutOfMemory, InvalidOutput, GenerationCancelled or GenerationError.
        """
        ...

    def close(self) -> None:
        """Free the device."""
        ...


class Weights(Protocol):
    """Finds and fetches the files of models. Any thread; no torch."""

    def is_local(self, model_id: str) -> bool:
        """Whether the model can be loaded without a network. Touches the disk: not for the event loop."""
        ...

    def fetch(self, model_id: str, on_progress: Callable[[FetchProgress], None], stopped: Callable[[], bool]) -> None:
        """Download the model; blocks for as long as that takes. Raises ModelError with what to do about it."""
        ...
