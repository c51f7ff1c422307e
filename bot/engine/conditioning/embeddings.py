"""Textual inversions: words that a text encoder was taught, read once a model and told to it for the time of an encoding. GPU thread.

The tokenizers learn the words for good; the text encoders stay as they are, wherever their weights lie.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bot.catalogue.addons import AddOn
from bot.engine.files.addon_kinds import MAX_VECTORS
from bot.engine.files.headers import read_header
from bot.engine.memory.shelf import Loaded
from bot.errors import ModelError

if TYPE_CHECKING:
    from pathlib import Path

    import torch

log = logging.getLogger(__name__)

_ENCODERS = {"clip_l": ("text_encoder", "tokenizer"), "clip_g": ("text_encoder_2", "tokenizer_2")}


@dataclass(frozen=True, slots=True, eq=False)
class Inversion:
    """One word: what each text encoder reads in its place, (vectors, width), by the tokens' numbers."""

    name: str
    vectors: Mapping[str, tuple[Sequence[int], torch.Tensor]]


@contextmanager
def knowing(pipe: Any, inversions: Sequence[Inversion]) -> Generator[None]:
    """Let a pipeline's text encoders know these words."""
    with ExitStack() as stack:
        for encoder, _ in _ENCODERS.values():
            told = [inversion.vectors[encoder] for inversion in inversions if encoder in inversion.vectors]
            if told:
                layer = getattr(pipe, encoder).get_input_embeddings()
                for handle in _hooked(layer, told):
                    stack.callback(handle.remove)
        yield


def load_embedding(loaded: Loaded, addon: AddOn, path: Path) -> None:
    """Teach a loaded model's tokenizers a word. Raises ModelError where the file does not suit it."""
    spec, pipe = loaded.spec, loaded.pipe
    try:
        read_header(path)
        state: dict[str, torch.Tensor] = importlib.import_module("safetensors.torch").load_file(str(path))
    except (ValueError, OSError) as error:
        raise ModelError(f"The embedding {addon.name} cannot be used: {path} {error}.") from None
    by_encoder = state if set(state) == set(_ENCODERS) else {"clip_l": next(iter(state.values()))}
    second = getattr(pipe, "text_encoder_2", None) is not None
    if second != (len(by_encoder) == 2):
        raise ModelError(
            f"The embedding {addon.name} does not suit {spec.name}, which has another number of text encoders."
        )
    vectors: dict[str, tuple[Sequence[int], torch.Tensor]] = {}
    for name, tensor in by_encoder.items():
        encoder, tokenizer = _ENCODERS[name]
        rows = tensor.view(1, -1) if tensor.ndim == 1 else tensor
        width = getattr(pipe, encoder).get_input_embeddings().embedding_dim
        if rows.ndim != 2 or rows.shape[1] != width or not 1 <= len(rows) <= MAX_VECTORS:
            raise ModelError(
                f"The embedding {addon.name} does not suit {spec.name}: it is {rows.shape[-1]} wide, and the model's words are {width}."
            )
        vectors[encoder] = (_taught(getattr(pipe, tokenizer), addon.name, len(rows)), rows)
    loaded.embeddings[addon.path] = Inversion(addon.name, vectors)
    log.info("loaded the embedding %s of %s", addon.name, spec.id)


def _taught(tokenizer: Any, name: str, count: int) -> list[int]:
    """Add the tokens that diffusers writes for a word: `<name>`, `<name>_1`, …; their numbers."""
    tokens = [f"<{name}>", *(f"<{name}>_{number}" for number in range(1, count))]
    tokenizer.add_tokens(tokens)
    return [int(tokenizer.convert_tokens_to_ids(token)) for token in tokens]


def _hooked(layer: Any, told: Sequence[tuple[Sequence[int], torch.Tensor]]) -> list[Any]:
    """Let a layer of embeddings give the vectors of the words it was taught; what it reads else stays as it is."""
    read: list[torch.Tensor] = []
    size = int(layer.num_embeddings)

    def before(_: Any, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        read[:] = arguments[:1]
        return arguments[0].clamp(max=size - 1), *arguments[1:]

    def after(_: Any, __: Any, output: torch.Tensor) -> torch.Tensor:
        given = output.clone()
        for numbers, vectors in told:
            for number, vector in zip(numbers, vectors, strict=True):
                given[(read[0] == number).to(given.device)] = vector.to(output.device, output.dtype)
        return given

    return [layer.register_forward_pre_hook(before), layer.register_forward_hook(after)]
