"""Prompts with weights, mixed prompts and prompts longer than a text encoder's window, embedded by Compel. GPU thread.

Compel's own parser is not used: prompts are read by `bot.prompts.weights`, in one pass and within bounds, and handed over in parts.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bot.prompts.weights import Part, Weighted, read_weights

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Told:
    """A prompt and what it is guided away from, embedded to the same length: (1, tokens, width) each.

    `pooled` and `pooled_away` (1, width) are of the last text encoder, where there are two.
    """

    prompt: torch.Tensor
    away: torch.Tensor
    pooled: torch.Tensor | None = None
    pooled_away: torch.Tensor | None = None


def plainly(pipe: Any, *prompts: str) -> list[str] | None:
    """Give prompts as their pipeline takes them, brackets read; None where one of them has weights, is mixed, or is too long for it."""
    read = [read_weights(prompt) for prompt in prompts]
    tokenizers = [pipe.tokenizer, *filter(None, [getattr(pipe, "tokenizer_2", None)])]
    for one in read:
        text = one.words
        if not one.plain or any(len(told(text, pipe, t)) > t.model_max_length for t in tokenizers):
            return None
    return [one.words for one in read]


def told(text: str, pipe: Any, tokenizer: Any) -> list[int]:
    """Tokenize a text, words that stand for several vectors spelled out."""
    return tokenizer(pipe.maybe_convert_prompt(text, tokenizer), verbose=False).input_ids


def embed(pipe: Any, prompt: str, negative: str, device: Any) -> Told:
    """Embed a prompt and a negative prompt with the pipeline's text encoders, one or two."""
    compel: Any = importlib.import_module("compel")
    kinds = compel.ReturnedEmbeddingsType
    two = getattr(pipe, "text_encoder_2", None) is not None
    kind = kinds.PENULTIMATE_HIDDEN_STATES_NON_NORMALIZED if two else kinds.LAST_HIDDEN_STATES_NORMALIZED
    pairs = [(pipe.tokenizer, pipe.text_encoder), *([(pipe.tokenizer_2, pipe.text_encoder_2)] if two else [])]
    read = [read_weights(prompt), read_weights(negative)]
    made: list[list[Any]] = []
    pooled: list[Any] = [None, None]
    for tokenizer, encoder in pairs:
        if encoder is None:
            continue
        teller = compel.Compel(
            tokenizer=tokenizer, text_encoder=encoder, truncate_long_prompts=False, returned_embeddings_type=kind, device=str(device)
        )  # fmt: skip
        both = [_one(compel, teller, one, pipe, tokenizer) for one in read]
        made.append([each.to(encoder.dtype) for each in teller.pad_conditioning_tensors_to_same_length(both)])
        if two and encoder is pipe.text_encoder_2:
            provider = teller.conditioning_provider
            texts = [pipe.maybe_convert_prompt(one.words, tokenizer) for one in read]
            pooled = [provider.get_pooled_embeddings([text], device=str(device)).to(encoder.dtype) for text in texts]
    prompts = _side_by_side(made, 0), _side_by_side(made, 1)
    return Told(*prompts, *pooled)


def _one(compel: Any, teller: Any, read: Weighted, pipe: Any, tokenizer: Any) -> torch.Tensor:
    parser: Any = importlib.import_module("compel.prompt_parser")

    def fragment(part: Part) -> Any:
        return parser.Fragment(pipe.maybe_convert_prompt(part.text, tokenizer), part.weight)

    flat = [parser.FlattenedPrompt([fragment(part) for part in parts]) for parts in read.prompts]
    mixed = flat[0] if len(flat) == 1 else parser.Blend(flat, list(read.shares))
    embedded, _ = teller.build_conditioning_tensor_for_conjunction(parser.Conjunction([mixed]))
    return embedded if embedded.ndim == 3 else embedded[None]


def _side_by_side(made: list[list[Any]], which: int) -> torch.Tensor:
    """Put the encoders' embeddings of one prompt side by side; those whose tokens are fewer end with what they begin again with."""
    import torch

    each = [encoded[which] for encoded in made]
    longest = max(one.shape[1] for one in each)
    return torch.cat([torch.cat([one, one[:, -1:].expand(-1, longest - one.shape[1], -1)], 1) for one in each], -1)
