"""The pictures that are put into words: a word a turn, so that nobody's drawing waits for more than that. GPU thread.

The words are those of the network's own `generate`, which is called on a helper thread and pauses after each of them.
"""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Callable
from typing import Any

from bot.catalogue.annotators import CAPTION, AnnotatorSpec
from bot.catalogue.models import Catalogue
from bot.engine.base import Question
from bot.engine.baton import Baton
from bot.engine.devices import Device
from bot.engine.guard import CPU_TURN_LIMIT_S, LOAD_LIMIT_S, TURN_LIMIT_S, Guard
from bot.engine.looking.annotators import Annotator, Annotators
from bot.engine.turnstile import Turnstile
from bot.errors import GenerationCancelled, InvalidOutput, ModelError, OutOfMemory
from bot.prompts.describing import MAX_CAPTION_CHARS
from bot.prompts.text import is_blank, plain

MAX_TOKENS = 60
"""Captions have ten to twenty words; a network that does not find its end says no more than this."""

_BEFORE_SIGNS = re.compile(r"\s+(?=[,.;:!?])")
"""Tokenizers of words put a space before a comma, too."""


class CaptionRun:
    """One picture being put into words; a rider of the turnstile."""

    rows = 1

    def __init__(self, question: Question, spec: AnnotatorSpec, arrived: int) -> None:
        self.order = question
        self.owner = question
        self.member = question.member
        self.spec = spec
        self.arrived = arrived
        self.key: tuple[object, ...] = ("caption", spec.id, arrived)
        self.annotator: Annotator | None = None
        self.retried = False
        self._baton: Baton | None = None
        self._tokens = 0
        self._said: Any = None

    @property
    def left(self) -> int:
        """How many turns it has still to take, at most."""
        return max(1, MAX_TOKENS - self._tokens)

    def limit_s(self, device: Device) -> float:
        """How long its next turn may take before it counts as stuck, in seconds."""
        if self.annotator is None:
            return LOAD_LIMIT_S
        return TURN_LIMIT_S if device.is_gpu else CPU_TURN_LIMIT_S

    def say_next(self) -> str | None:
        """Let the network find the next word; the caption once it is whole. Raises InvalidOutput where it has no words."""
        assert self.annotator is not None
        if self._baton is None:
            self._baton = Baton(self._generate, "gpu-caption")
        self._baton.advance()
        if not self._baton.over:
            return None
        if self._baton.error is not None:
            raise self._baton.error
        spoken = self.annotator.tokenizer.decode(self._said, skip_special_tokens=True)
        words = plain(_BEFORE_SIGNS.sub("", spoken), MAX_CAPTION_CHARS)
        if is_blank(words):
            raise InvalidOutput(f"{self.spec.name} finds no words for this picture; try another one.")
        return words

    def begin_again(self) -> None:
        """Forget how far it was, and the network."""
        self.end()
        self.annotator, self._baton, self._tokens = None, None, 0

    def end(self) -> None:
        """End what the helper thread is in."""
        if self._baton is not None:
            self._baton.abort()

    def _generate(self, pause: Callable[[], None]) -> None:
        import torch
        from transformers import StoppingCriteriaList

        assert self.annotator is not None
        network = self.annotator.network

        def after_word(ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
            self._tokens += 1
            pause()
            return torch.zeros(ids.shape[0], dtype=torch.bool, device=ids.device)

        with torch.inference_mode():
            said = network.generate(
                pixel_values=self.annotator.look_at(self.order.picture), generation_config=_settings(network),
                stopping_criteria=StoppingCriteriaList([after_word]),
            )  # fmt: skip
            self._said = said[0].cpu()


def _settings(network: Any) -> Any:
    """Give how a network speaks: as it was published, but plainly, one word after the other, and with an end."""
    settings = copy.deepcopy(network.generation_config)
    settings.do_sample, settings.num_beams = False, 1
    room = _positions(network.config)
    asked = settings.max_new_tokens or settings.max_length or MAX_TOKENS
    settings.max_new_tokens, settings.max_length = min(asked, MAX_TOKENS, room), None
    return settings


def _positions(config: Any) -> int:
    """How many words a network has places for, beside the one that begins."""
    text = config.get_text_config(decoder=True)
    most = getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None) or MAX_TOKENS
    return max(1, int(most) - 1)


class CaptionRoom:
    """Who waits for words."""

    def __init__(self, catalogue: Catalogue, annotators: Annotators) -> None:
        self._catalogue = catalogue
        self._annotators = annotators
        self._runs: list[CaptionRun] = []

    @property
    def busy(self) -> bool:
        """Whether a question is unfinished."""
        return bool(self._runs)

    def admit(self, question: Question, arrived: int) -> None:
        """Let a question wait for its turns; it ends at once where its annotator is none that speaks."""
        spec = self._catalogue.annotator(question.annotator)
        if spec is None or spec.kind != CAPTION:
            question.fail(ModelError(f"There is no captioner {question.annotator!r} any more; choose another one."))
            return
        self._runs.append(CaptionRun(question, spec, arrived))

    def sweep(self) -> None:
        """End what nobody waits for any more."""
        for run in list(self._runs):
            if not run.order.over and run.order.listener.cancelled():
                run.order.fail(GenerationCancelled("Cancelled."))
            if run.order.over:
                self._forget(run)

    def riders(self) -> list[CaptionRun]:
        """List what may take a turn: each member's first."""
        return list({run.member: run for run in reversed(self._runs)}.values())

    def advance(
        self, run: CaptionRun, device: Device | None, guard: Guard, turnstile: Turnstile, make_room: Callable[[], bool]
    ) -> None:
        """Load a run's network, or let it find its next word; it ends with the last, or with what went wrong.

        Where the memory is full, `make_room` says whether something left it, and it begins once more. Raises DeviceLost.
        """
        assert device is not None
        said: list[str | None] = []

        def unit() -> None:
            if run.annotator is None:
                run.annotator = self._annotators.load(run.spec, device)
            else:
                said.append(run.say_next())

        started = time.perf_counter()
        trouble = guard.attempt("describing a picture", [run], unit, limit_s=run.limit_s(device), inference=False)
        turnstile.charge([run], [1], time.perf_counter() - started)
        if isinstance(trouble, OutOfMemory):
            run.begin_again()
            if make_room() and not run.retried:
                run.retried = True
                return
            trouble = OutOfMemory(f"{run.spec.name} has no room in this machine's memory just now; try again later.")
        if trouble is not None:
            run.order.fail(trouble)
        elif said and said[0] is not None:
            run.order.finish(said[0])
        if run.order.over:
            self._forget(run)

    def clear(self) -> None:
        """Drop everything; the questions stay as they are."""
        for run in list(self._runs):
            self._forget(run)
        self._annotators.relieve()

    def _forget(self, run: CaptionRun) -> None:
        run.end()
        self._runs = [other for other in self._runs if other is not run]
