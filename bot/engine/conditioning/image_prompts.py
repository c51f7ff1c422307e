"""What a UNet attends to of a reference picture besides words, for the rows of a pass that have one. GPU thread.

IP-Adapters give each layer of cross-attention keys and values of their own for the picture, and add what its queries find there to
what they find in the words (arXiv 2308.06721, decoupled cross-attention). Those do not change from step to step: they are computed once a
request, and a lane needs neither the adapter nor its image encoder after that. The layers stay as they are. What is added to them joins at their
output's projection, so that rows without a picture, and passes without such rows, are computed as before.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What a row is told of a picture: keys and values, (1, tokens, width) each, by the layer's name; and how much it counts."""

    layers: Mapping[str, tuple[torch.Tensor, torch.Tensor]]
    scale: float


@dataclass(frozen=True, slots=True, eq=False)
class ImagePrompt:
    """A reference picture, as told to the row that follows the prompt, and to the one that is guided away from."""

    towards: Seen
    away_from: Seen


class ImageAttention:
    """What reference pictures add to a UNet's cross-attention, for the rows of a pass."""

    def __init__(self, unet: Any, rows: Sequence[Seen | None]) -> None:
        """`rows`: what each row of the pass is told, by one adapter. One at least is told something."""
        import torch

        told = [row for row in rows if row is not None]
        self._rows = len(rows)
        self._layers: list[tuple[Any, torch.Tensor, torch.Tensor]] = []
        for name in told[0].layers:
            keys, values = (torch.cat([row.layers[name][part] for row in told]) for part in (0, 1))
            self._layers.append((unet.get_submodule(name), keys, values))
        like = self._layers[0][1]
        places = [place for place, row in enumerate(rows) if row is not None]
        self._where = None if len(told) == len(rows) else torch.tensor(places, device=like.device)
        self._scales = torch.tensor([row.scale for row in told], device=like.device, dtype=like.dtype).view(-1, 1, 1)

    @contextmanager
    def in_place(self) -> Generator[None]:
        """Let the UNet's layers attend to the pictures; entered after what changes their queries, as LoRAs do."""
        with ExitStack() as stack:
            for layer, keys, values in self._layers:
                remember, add = self._hooks(layer, keys, values)
                stack.callback(layer.to_q.register_forward_hook(remember).remove)
                stack.callback(layer.to_out[0].register_forward_pre_hook(add).remove)
            yield

    def _hooks(
        self, layer: Any, keys: torch.Tensor, values: torch.Tensor
    ) -> tuple[Callable[..., None], Callable[..., tuple[torch.Tensor]]]:
        queries: list[torch.Tensor] = []

        def remember(_: Any, arguments: Any, output: torch.Tensor) -> None:
            queries.append(output)

        def add(_: Any, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
            (found,), query = arguments, queries.pop()
            if len(query) != self._rows:
                raise RuntimeError(f"a layer was given {len(query)} rows of {self._rows}")
            if self._where is None:
                return (found + self._attended(layer, query, keys, values),)
            return (found.index_add(0, self._where, self._attended(layer, query[self._where], keys, values)),)

        return remember, add

    def _attended(self, layer: Any, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """Give what queries (rows, places, width) find, as much as it counts, like them."""
        from torch.nn import functional

        def heads(part: torch.Tensor) -> torch.Tensor:
            return part.view(len(part), -1, layer.heads, part.shape[-1] // layer.heads).transpose(1, 2)

        found = functional.scaled_dot_product_attention(heads(query), heads(keys), heads(values))
        return found.transpose(1, 2).flatten(2) * self._scales
