"""Rows of training data that are dear to make: made once, kept in pieces in a folder, and read from there by the next start."""

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tools.pocket.data import AT_ONCE, encode, helpers

logger = logging.getLogger("pocket")

Columns = dict[str, np.ndarray]


class _Drawn(Dataset[Columns]):
    """Rows as they are drawn, by helping processes where the machine has cores to spare."""

    def __init__(self, rows: range, make: Callable[[int], Columns]) -> None:
        self._rows, self._make = rows, make

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Columns:
        return self._make(self._rows[index])


def kept_rows(
    folder: Path,
    count: int,
    make: Callable[[int], Columns],
    finish: Callable[[dict[str, Tensor]], Columns],
    *,
    at_once: int = 512,
) -> Columns:
    """Make `count` rows, `at_once` in a file; the files that an earlier start finished are read instead.

    Arguments: `make` draws one row, arrays by name, and may run in another process; `finish` takes some rows, stacked, and
    gives what to keep of them. Returns all rows, in memory.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pieces: list[Columns] = []
    for start in range(0, count, at_once):
        wanted = range(start, min(start + at_once, count))
        path = folder / f"{wanted.start}-{wanted.stop}.npz"
        if not path.exists():
            logger.info("%s: rows %d to %d of %d", folder.name, wanted.start, wanted.stop, count)
            loader = DataLoader(_Drawn(wanted, make), batch_size=AT_ONCE, num_workers=helpers())
            fresh = path.with_suffix(".new")
            with fresh.open("wb") as file:
                np.savez(file, **_joined([finish(drawn) for drawn in loader]))  # pyright: ignore[reportArgumentType]
            fresh.replace(path)
        with np.load(path) as piece:
            pieces.append(dict(piece))
    return _joined(pieces)


def _joined(pieces: list[Columns]) -> Columns:
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def encoded(vae: AutoencoderKL, pixels: Tensor, device: torch.device) -> np.ndarray:
    """Encode pictures (count, 3, height, width) on [-1, 1], some at a time; returns scaled latents in fp16."""
    step = max(1, AT_ONCE * 128 * 128 // (pixels.shape[2] * pixels.shape[3]))
    parts = [encode(vae, part.to(device)).cpu() for part in pixels.split(step)]
    return torch.cat(parts).numpy().astype(np.float16)


def on_unit_range(images: Tensor) -> Tensor:
    """Pictures of bytes (..., height, width, 3) to (..., 3, height, width) on [-1, 1]."""
    return images.movedim(-1, -3).float() / 127.5 - 1
