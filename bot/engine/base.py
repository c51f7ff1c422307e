"""The narrow door to whatever draws.

An engine is admitted to and turned: requests may join and leave between any two turns, and a turn is one unit of work, one
forward pass or the loading of a model. Everything here runs on the GPU thread unless it says otherwise.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any, Protocol

from bot.engine.metrics import Metrics
from bot.errors import EaselError, GenerationCancelled, GenerationError
from bot.generation import FetchProgress, GenerationRequest, GenerationResult, InputPictures, Progress, RawPicture

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


class Silence:
    """A listener who wants nothing."""

    def cancelled(self) -> bool:
        """Never."""
        return False

    def wants_preview(self) -> bool:
        """Never."""
        return False

    def on_progress(self, progress: Progress) -> None:
        """Ignore it."""

    def on_load(self, progress: FetchProgress) -> None:
        """Ignore it."""


class Errand:
    """What is on its way through the engine. It ends once: what comes later, as from a device call that a watchdog gave up on, is dropped."""

    __slots__ = ()
    listener: Listener
    member: object
    future: Future[Any]

    @property
    def over(self) -> bool:
        """Whether it has ended. Any thread."""
        return self.future.done()

    def finish(self, result: Any) -> None:
        """End with what it was for. Any thread."""
        try:
            self.future.set_result(result)
        except InvalidStateError:
            log.info("what came of a request that had ended was dropped")

    def fail(self, error: BaseException) -> None:
        """End with an EaselError; what is none is logged and becomes a GenerationError with a sentence. Any thread."""
        try:
            self.future.set_exception(as_easel_error(error, UNEXPECTED))
        except InvalidStateError:
            return


@dataclass(frozen=True, slots=True, eq=False)
class Order(Errand):
    """A request to be drawn; `member` is whose turn of the GPU it uses, `inputs` are its pictures, `done` those that were drawn before, by
    number, and are not to be drawn again: at least one is missing.
    """

    request: GenerationRequest
    listener: Listener
    member: object = None
    inputs: InputPictures = NO_INPUTS
    done: frozenset[int] = frozenset()
    future: Future[GenerationResult] = field(default_factory=lambda: Future[GenerationResult]())


@dataclass(frozen=True, slots=True, eq=False)
class Question(Errand):
    """A picture to be put into words by an annotator of the catalogue, named by its id; `member` is whose turn it uses."""

    annotator: str
    picture: RawPicture
    listener: Listener
    member: object = None
    future: Future[str] = field(default_factory=lambda: Future[str]())


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """What a turn is busy with: its name, whose requests it is for, since when, and how long it may take, in seconds."""

    what: str
    orders: tuple[Errand, ...]
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

    def ask(self, question: Question) -> None:
        """Take a question whose annotator is local; it takes turns with the orders, and ends as they do. Never raises."""
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

    def describe(self, annotator: str, picture: RawPicture, listener: Listener) -> str:
        """Put a picture into words by a local annotator. Raises as a question of Engine ends."""
        ...


class Weights(Protocol):
    """Finds and fetches the files of models. Any thread; no torch."""

    def is_local(self, model_id: str) -> bool:
        """Whether the model can be loaded without a network. Touches the disk: not for the event loop."""
        ...

    def fetch(self, model_id: str, on_progress: Callable[[FetchProgress], None], stopped: Callable[[], bool]) -> None:
        """Download the model; blocks for as long as that takes. Raises ModelError with what to do about it."""
        ...


def carry_out(engine: Engine, errand: Order | Question) -> Any:
    """Carry one errand out on this thread, beside those that the engine has; what it was for. Raises as it ends."""
    engine.start()
    if isinstance(errand, Order):
        engine.admit(errand)
    else:
        engine.ask(errand)
    try:
        while not errand.over:
            engine.turn()
    finally:
        if not errand.over:  # Ctrl-C, or a device that is lost
            errand.fail(GenerationCancelled("Interrupted."))
    return errand.future.result()


def as_easel_error(error: BaseException, sentence: str) -> EaselError:
    """Give an error fit for a member: itself where it is one of ours, else logged and put as `sentence`."""
    if isinstance(error, EaselError):
        return error
    log.error("the engine failed in an unexpected way", exc_info=error)
    wrapped = GenerationError(sentence)
    wrapped.__cause__ = error
    return wrapped
