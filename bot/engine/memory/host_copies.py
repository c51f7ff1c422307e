"""A model's weights in main memory, and their way onto the device and back. GPU thread, outside inference mode."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Slot:
    """One tensor of the model, its twin in main memory, and what it was like when it was put on the device."""

    tensor: torch.Tensor
    host: torch.Tensor
    placed: tuple[int, int] | None = None


class HostCopy:
    """The weights of a pipeline's parts, kept in main memory while they are on the device, too.

    Drawing does not change weights, so leaving the device copies nothing: every tensor just points at its twin again.
    What was replaced or written to meanwhile, as by a VAE that was cast to another dtype and back, is copied anew. Weights must
    not be changed through `tensor.data` while they are on the device: nobody would notice.
    """

    def __init__(self, pipe: Any, *, pin: bool) -> None:
        """Copy nothing yet. `pin`: page-lock the twins, so that a CUDA device fetches them by itself, at the bus's full speed."""
        self._pipe = pipe
        self._pin = pin
        self._slots: dict[int, _Slot] = {}

    @property
    def size_bytes(self) -> int:
        """What it takes of the main memory."""
        return sum(tensor_bytes(slot.host) for slot in self._slots.values())

    def to_host(self) -> None:
        """Point every tensor at its twin in main memory, which is made where there is none. Raises as torch without room."""
        slots: dict[int, _Slot] = {}
        for tensor in tensors_of(self._pipe):
            known = self._slots.get(id(tensor))
            if known is None or (known.placed is not None and known.placed != _state(tensor)):
                known = self._copied(tensor)
            elif known.placed is not None:
                _point(tensor, known)
                known.placed = None
            slots[id(tensor)] = known
        self._slots = slots

    def to_device(self, device: str) -> None:
        """Point every tensor at a copy on the device; what enters the device's queue later finds it there."""
        for slot in self._slots.values():
            if _is_wrapped(slot.tensor):
                _swap(slot.tensor, moved := _parameter(slot.tensor.detach().to(device, copy=True)))
                slot.host = moved  # which is the twin now
            else:
                slot.tensor.data = _copy(slot.host, device, pin=False)
            slot.placed = _state(slot.tensor)

    def drop(self) -> None:
        """Forget the twins. To be called while the model is on the device, or when it goes for good."""
        self._slots = {}

    def _copied(self, tensor: torch.Tensor) -> _Slot:
        if _is_wrapped(tensor):
            _swap(tensor, _parameter(tensor.detach().to("cpu", copy=True)))
            return _Slot(tensor, tensor)
        try:
            host = _copy(tensor.data, "cpu", pin=self._pin)
        except RuntimeError as error:
            if not self._pin:
                raise
            log.warning("main memory cannot be page-locked, so models come back more slowly: %s", error)
            self._pin = False
            host = _copy(tensor.data, "cpu", pin=False)
        tensor.data = host
        return _Slot(tensor, host)


def tensors_of(pipe: Any) -> Iterator[torch.Tensor]:
    """Give the parameters and buffers of a pipeline's parts, each once."""
    modules = [part for part in pipe.components.values() if hasattr(part, "parameters")]
    every = itertools.chain.from_iterable((*module.parameters(), *module.buffers()) for module in modules)
    return iter({id(tensor): tensor for tensor in every}.values())


def tensor_bytes(tensor: torch.Tensor) -> int:
    """Tell what a tensor takes, in bytes; one of torchao says its old dtype and holds others."""
    if _is_wrapped(tensor):
        wrapped: Any = tensor
        names: list[str] = wrapped.__tensor_flatten__()[0]
        return sum(tensor_bytes(getattr(tensor, name)) for name in names)
    return tensor.numel() * tensor.element_size()


def _copy(tensor: torch.Tensor, device: str, *, pin: bool) -> torch.Tensor:
    import torch

    # Of the same strides: channels_last weights stay so.
    target = torch.empty_like(tensor, device=device, pin_memory=pin)
    # From page-locked memory to the device it runs in the device's own order; towards main memory it has to be waited for.
    return target.copy_(tensor, non_blocking=device != "cpu")


def _point(tensor: torch.Tensor, slot: _Slot) -> None:
    if _is_wrapped(tensor):
        _swap(tensor, slot.host)
        slot.host = tensor
    else:
        tensor.data = slot.host


def _state(tensor: torch.Tensor) -> tuple[int, int]:
    """What changes when a tensor is replaced or written to."""
    where = id(tensor) if _is_wrapped(tensor) else tensor.data_ptr()
    try:
        return where, tensor._version
    except RuntimeError:  # it was replaced in inference mode, which counts no writes
        return where, -1


def _is_wrapped(tensor: torch.Tensor) -> bool:
    """Whether this is one of torchao's: a wrapper that holds other tensors, and that only `swap_tensors` moves."""
    from torch.utils._python_dispatch import is_traceable_wrapper_subclass

    return is_traceable_wrapper_subclass(tensor)


def _parameter(tensor: torch.Tensor) -> torch.Tensor:
    import torch

    return torch.nn.Parameter(tensor, requires_grad=False)


def _swap(one: torch.Tensor, other: torch.Tensor) -> None:
    import torch

    tools: Any = torch.utils
    tools.swap_tensors(one, other)
