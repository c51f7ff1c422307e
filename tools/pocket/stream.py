"""Drawings without end, made beside the training where the machine has cores to spare."""

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from torch.utils.data import DataLoader, Dataset

from tools.pocket.data import helpers

Made = TypeVar("Made")


class _Endless(Dataset[Any]):
    def __init__(self, make: Callable[[int], Any], first: int) -> None:
        self._make, self._first = make, first

    def __len__(self) -> int:
        return 1 << 40

    def __getitem__(self, index: int) -> Any:
        return self._make(self._first + index)


def stream(make: Callable[[int], Made], first: int) -> Iterator[Made]:
    """Give make(first), make(first + 1) and so on; `make` may run in other processes, ahead of time."""
    for made in DataLoader(
        _Endless(make, first), batch_size=8 if helpers() else 1, num_workers=helpers(), collate_fn=list
    ):
        yield from made
