"""The narrow door to whatever draws.

An engine is admitted to and turned: requests may join and leave between any two turns, and a turn is one unit of work, one
forward pass or the loading of a model. Everything here runs on the GPU thread unless it says otherwise.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Protocol

from bot.engine.metrics import Metrics
from bot.errors import EaselError, GenerationCancelled, GenerationError
from bot.generation import FetchProgress, GenerationRequest, GenerationResult, InputPictures, Progress

NO_INPUTS = InputPictures()

log = logging.getLogger(__name__)

UNEXPECTED = (
    "Something went wrong while drawing this. It was logged; try again, and tell whoever runs the bot if it stays."
)


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
        """Whether to stop; asked before each turn."""
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


@dataclass(frozen=True, slots=True, eq=False)
class Order:
    """A request on its way through the engine, and its end; `member` is whose turn of the GPU it uses, `inputs` are its pictures, `done` those
    that were drawn before, by number, and are not to be drawn again: at least one is missing.

    It ends once: what comes later, as from a device call that a watchdog gave up on, is dropped.
    """

    request: GenerationRequest
    listener: Listener
    member: object = None
    inputs: InputPictures = NO_INPUTS
    done: frozenset[int] = frozenset()
    future: Future[GenerationResult] = field(default_factory=lambda: Future[GenerationResult]())

    @property
    def over(self) -> bool:
        """Whether it has ended. Any thread."""
        return self.future.done()

    def finish(self, result: GenerationResult) -> None:
        """End with pictures. Any thread."""
        try:
            self.future.set_result(result)
        except InvalidStateError:
            log.info("the pictures of a request that had ended were dropped")

    def fail(self, error: BaseException) -> None:
        """End with an EaselError; what is none is logged and becomes a GenerationError with a sentence. Any thread."""
        try:
            self.future.set_exception(as_easel_error(error, UNEXPECTED))
        except InvalidStateError:
            return


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """What a turn is busy with: its name, whose requests it is for, since when, and how long it may take, in seconds."""

    what: str
    orders: tuple[Order, ...]
    began: float
    limit_s: float


class Engine(Protocol):
    """Draws many requests at once, a turn at a time."""

    def start(self) -> EngineInfo:
        """Import torch, choose device and dtype. Raises GenerationError where the device asked for is missing."""
        ...

    def admit(self, order: Order) -> None:
        """Take an order whose model is local; it joins the others in the next turns. Never raises.

        The order ends with ModelError, OutOfMemory, InvalidOutput, GenerationCancelled, RequestError or
        GenerationError, and takes no other with it.
        """
        ...

    @property
    def busy(self) -> bool:
        """Whether an order is unfinished."""
        ...

    @property
    def work(self) -> Work | None:
        """What the turn in progress is busy with; None between turns. Any thread."""
        ...

    @property
    def metrics(self) -> Metrics:
        """The numbers so far. Any thread."""
        ...

    def turn(self) -> bool:
        """Do one unit of work: load a model, encode a prompt, take a step, decode. Returns `busy`.

        Raises DeviceLost where the device will not draw again in this process.
        """
        ...

    def close(self) -> None:
        """Forget the orders, which stay as they are, and free the device. May be started again."""
        ...


class DirectEngine(Protocol):
    """Draws one request to its end on the calling thread."""

    def start(self) -> EngineInfo:
        """As Engine's."""
        ...

    def generate(
        self, request: GenerationRequest, listener: Listener, inputs: InputPictures = NO_INPUTS
    ) -> GenerationResult:
        """Draw a request whose model is local, from its pictures. Raises as an order of Engine ends."""
        ...


class Weights(Protocol):
    """Finds and fetches the files of models. Any thread; no torch."""

    def is_local(self, model_id: str) -> bool:
        """Whether the model can be loaded without a network. Touches the disk: not for the event loop."""
        ...

    def fetch(self, model_id: str, on_progress: Callable[[FetchProgress], None], stopped: Callable[[], bool]) -> None:
        """Download the model; blocks for as long as that takes. Raises ModelError with what to do about it."""
        ...


def draw_to_the_end(
    engine: Engine, request: GenerationRequest, listener: Listener, inputs: InputPictures = NO_INPUTS
) -> GenerationResult:
    """Draw one request on this thread, beside those that the engine has. Raises as an order ends."""
    order = Order(request, listener, None, inputs)
    engine.start()
    engine.admit(order)
    try:
        while not order.over:
            engine.turn()
    finally:
        if not order.over:  # Ctrl-C, or a device that is lost
            order.fail(GenerationCancelled("Interrupted."))
    return order.future.result()


def as_easel_error(error: BaseException, sentence: str) -> EaselError:
    """Give an error fit for a member: itself where it is one of ours, else logged and put as `sentence`."""
    if isinstance(error, EaselError):
        return error
    log.error("the engine failed in an unexpected way", exc_info=error)
    wrapped = GenerationError(sentence)
    wrapped.__cause__ = error
    return wrapped
