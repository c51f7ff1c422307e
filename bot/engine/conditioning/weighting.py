"""What a text encoder makes of a prompt with weights, of a mixed one, and of one longer than its window. GPU thread.

The arithmetic is that of Compel 2.5 (https://github.com/damian0815/compel), whose embeddings the tests compare with these. Compel itself is not
called: it looks for weakened words by their tokens, which may be none or those of a window's end, and leaves what it made where an
offloaded encoder's weights lie. Prompts are read by `bot.prompts.weights`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bot.engine.conditioning.reach import behind
from bot.prompts.weights import Part, Weighted

if TYPE_CHECKING:
    import torch

_ENDS_OF = ((".</w>",), (".</w>", ",</w>", ";</w>", ":</w>"))
"""Tokens of CLIP after which a long prompt is parted, the better ones first: those of a sentence, of a phrase."""
_WORD_END = "</w>"
_LEAST = 1e-5


@dataclass(frozen=True, slots=True)
class TextEncoder:
    """A text encoder of a pipeline, as the pipeline calls it.

    `window`: how many tokens it reads at once, the marks of beginning and end among them. `endless`: what is longer goes on in further
    windows, and is cut else. `penultimate`: its states before the last ones are what counts. `device` is where the pipeline computes;
    the weights may lie elsewhere meanwhile.
    """

    pipe: Any
    tokenizer: Any
    network: Any
    device: Any
    window: int
    endless: bool = False
    penultimate: bool = False

    def takes(self, prompt: Weighted) -> bool:
        """Whether the pipeline itself reads a prompt as far as this would: nothing in it is weighted or mixed, and it is not too long."""
        return prompt.plain and (not self.endless or len(self._tokens(prompt.prompts[0])) <= self._room)

    def embed(self, prompt: Weighted) -> torch.Tensor:
        """Embed a prompt: (1, tokens, width), in whole windows. A mixed one is the mean of its prompts by their shares."""
        made = [self._embed_one(parts) for parts in prompt.prompts]
        return mean(self.level(made, max(one.shape[1] for one in made)), prompt.shares)

    def pooled(self, prompt: Weighted) -> torch.Tensor:
        """Give what stands for a prompt as a whole, (1, width): of its first window, without weights."""
        made: list[torch.Tensor] = []
        for parts in prompt.prompts:
            ids = self._tokens((Part("".join(part.text for part in parts)),))[: self._room]
            given = self.network(self._filled([ids]))
            made.append(given.text_embeds if "text_embeds" in given else given.pooler_output)
        return mean(made, prompt.shares)

    def behind(self, prompt: Weighted) -> str:
        """Give the end of a prompt, or of the first one of a mixed one that has such an end, that is not read; empty where all of it is."""
        if self.endless:
            return ""
        return next(filter(None, (self._behind(parts) for parts in prompt.prompts)), "")

    def _behind(self, parts: Sequence[Part]) -> str:
        room = self._room
        for n, part in enumerate(parts):
            text = spelled_out(self.pipe, self.tokenizer, part.text.strip())
            if rest := behind(self.tokenizer, text, room):
                return rest + "".join(part.text for part in parts[n + 1 :])
            room -= len(self._ids(part.text))
        return ""

    def level(self, embedded: Sequence[torch.Tensor], tokens: int) -> list[torch.Tensor]:
        """Bring embeddings to so many tokens, with windows that nothing stands in."""
        import torch

        if all(one.shape[1] == tokens for one in embedded):
            return list(embedded)
        empty = self._states([[]]).to(embedded[0].dtype)
        return [torch.cat([one, *[empty] * ((tokens - one.shape[1]) // self.window)], 1) for one in embedded]

    def _embed_one(self, parts: Sequence[Part]) -> torch.Tensor:
        each = [self._ids(part.text) for part in parts]
        windows = self._parted([token for ids in each for token in ids])
        # Where the tokens of all parts stand, after those of the windows' beginnings and ends.
        first = len(self._begin)
        places = [n * self.window + first + at for n, ids in enumerate(windows) for at in range(len(ids))]
        weights = [1.0] * (self.window * len(windows))
        weak: list[tuple[float, list[int]]] = []
        start = 0
        for part, ids in zip(parts, each, strict=True):
            own = places[start : start + len(ids)]
            start += len(ids)
            for place in own:
                weights[place] = part.weight
            if part.weight < 1 and own:
                weak.append((part.weight, own))
        return self._weigh(windows, weights, weak)

    def _weigh(
        self, windows: Sequence[Sequence[int]], weights: Sequence[float], weak: Sequence[tuple[float, list[int]]]
    ) -> torch.Tensor:
        """Draw each token's states away from those of no words by its weight; then all of them towards what they are with a weak part masked.

        Of weight 0.5 a part lies half-way between being there and not; of weight 0 it is not there at all.
        """
        import torch

        count = torch.tensor(weights, device=self.device)[None, :, None]
        whole = self._states(windows)
        alike = bool((count == 1).all())
        empty = None if alike else self._states([[]]).float().repeat(1, len(windows), 1)

        def weighed(states: torch.Tensor) -> torch.Tensor:
            return (
                states.float() if empty is None else torch.where(count == 1, states, empty + (states - empty) * count)
            )

        total, sum_of = 1.0, weighed(whole)
        for weight, places in weak:
            share = math.tan((1 - max(weight, _LEAST)) * math.pi / 2)
            total, sum_of = total + share, sum_of + share * weighed(self._states(windows, without=places))
        return (sum_of / total).to(whole.dtype)

    def _states(self, windows: Sequence[Sequence[int]], *, without: Sequence[int] = ()) -> torch.Tensor:
        """Call the network on all windows: (1, windows · tokens, width); tokens at the places `without` are masked."""
        import torch

        ids = self._filled(windows)
        mask = None
        if without:
            mask = torch.ones(ids.numel(), dtype=torch.long, device=self.device)
            mask[list(without)] = 0
            mask = mask.view(ids.shape)
        given = self.network(ids, attention_mask=mask, output_hidden_states=self.penultimate)
        states = given.hidden_states[-2] if self.penultimate else given.last_hidden_state
        return states.to(self.device).flatten(0, 1)[None]

    def _filled(self, windows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Put beginning, end and filling around tokens: (windows, tokens)."""
        import torch

        rows = [[*self._begin, *ids, *self._end] for ids in windows]
        fill = self.tokenizer.pad_token_id
        return torch.tensor([row + [fill] * (self.window - len(row)) for row in rows], device=self.device)

    def _parted(self, ids: list[int]) -> list[list[int]]:
        """Part tokens into windows, where a sentence ends if one does, else a phrase, else a word."""
        if not self.endless:
            return [ids[: self._room]]
        windows: list[list[int]] = []
        while len(ids) > self._room:
            size = self._best_end(ids)
            windows.append(ids[:size])
            ids = ids[size:]
        return [*windows, ids]

    def _best_end(self, ids: list[int]) -> int:
        texts: list[str] = self.tokenizer.convert_ids_to_tokens(ids[: self._room])
        for ends in _ENDS_OF:
            for size in range(len(texts), 0, -1):
                if texts[size - 1] in ends:
                    return size
        return next((n for n in range(len(texts), 0, -1) if texts[n - 1].endswith(_WORD_END)), len(texts))

    def _tokens(self, parts: Sequence[Part]) -> list[int]:
        return [token for part in parts for token in self._ids(part.text)]

    def _ids(self, text: str) -> list[int]:
        # Without the spaces around: T5 would take them for words of their own.
        text = spelled_out(self.pipe, self.tokenizer, text.strip())
        return self.tokenizer(text, add_special_tokens=False, verbose=False).input_ids

    @property
    def _begin(self) -> list[int]:
        return [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]

    @property
    def _end(self) -> list[int]:
        return [self.tokenizer.eos_token_id]

    @property
    def _room(self) -> int:
        return self.window - len(self._begin) - len(self._end)


def spelled_out(pipe: Any, tokenizer: Any, text: str) -> str:
    """Spell out words that stand for several vectors, as the pipelines do that may be taught some."""
    convert = getattr(pipe, "maybe_convert_prompt", None)
    return text if convert is None else convert(text, tokenizer)


def mean(values: Sequence[torch.Tensor], shares: Sequence[float]) -> torch.Tensor:
    """Mix values by their shares, whose sum is not 0."""
    if len(values) == 1:
        return values[0]
    import torch

    given = torch.tensor(shares, device=values[0].device)
    return (torch.stack([value.float() for value in values], -1) @ (given / given.sum())).to(values[0].dtype)


def side_by_side(encoders: Sequence[TextEncoder], prompts: Sequence[Weighted]) -> list[torch.Tensor]:
    """Embed prompts with several encoders, side by side in width: (1, tokens, width) each, all of one length."""
    import torch

    made = [[encoder.embed(prompt) for prompt in prompts] for encoder in encoders]
    tokens = max(one.shape[1] for each in made for one in each)
    level = [encoder.level(each, tokens) for encoder, each in zip(encoders, made, strict=True)]
    return [torch.cat(each, -1) for each in zip(*level, strict=True)]
