"""How each model of the catalogue would lie on a card, told without loading it: from the sizes of its files, or its family's.

Any thread; touches the disk, no torch.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bot.catalogue.models import Catalogue, ModelSpec
from bot.engine.files.weights import ModelFiles
from bot.engine.loading.pipelines import model_files
from bot.engine.memory.plans import CARDS_GB, DENOISERS, FAMILY_PARTS, GIB, QUANTIZED_SHARE, Mode, plan_for
from bot.errors import ModelError

WORDS = {
    Mode.WHOLE: "whole",
    Mode.PARTS: "in parts",
    Mode.GROUPS: "in layers (slow)",
    Mode.LAYERS: "in layers (very slow)",
    Mode.NONE: "not enough main memory",
}


@dataclass(frozen=True, slots=True)
class Outlook:
    """A model's parts in 16 bits, in bytes by name, and whether those are counted in its own files and not its family's usual."""

    spec: ModelSpec
    parts: dict[str, int]
    measured: bool

    @property
    def size_bytes(self) -> int:
        """What all of it takes."""
        return sum(self.parts.values())

    def on(self, card_bytes: int | None, ram_bytes: int | None) -> Mode:
        """Tell how it would lie on a card of this size, the main memory being of that."""
        return plan_for(self.parts, card_bytes, ram_bytes).mode

    def on_cards(self, ram_bytes: int | None) -> str:
        """Put into words how it would lie on the cards people have."""
        modes = [(gigabytes, WORDS[self.on(gigabytes * GIB, ram_bytes)]) for gigabytes in CARDS_GB]
        runs: list[tuple[list[int], str]] = []
        for gigabytes, words in modes:
            if runs and runs[-1][1] == words:
                runs[-1][0].append(gigabytes)
            else:
                runs.append(([gigabytes], words))
        return "; ".join(f"{', '.join(map(str, cards))} GB {words}" for cards, words in runs)


def outlooks(catalogue: Catalogue, files: ModelFiles) -> list[Outlook]:
    """Reckon the parts of every model of the catalogue; those of an unknown family that are not here are left out."""
    found: list[Outlook] = []
    for spec in catalogue.models:
        measured = _from_files(spec, files) if files.is_local(spec.id) else None
        parts = measured or dict(FAMILY_PARTS.get(spec.family, {}))
        if not parts:
            continue
        share = QUANTIZED_SHARE.get(spec.quantization or "", 1.0)
        parts = {name: int(size * share) if name in DENOISERS else size for name, size in parts.items()}
        found.append(Outlook(spec, parts, measured is not None))
    return found


def _from_files(spec: ModelSpec, files: ModelFiles) -> dict[str, int] | None:
    """Count the weights of each part; None where the files do not tell, as a single file does not, or are damaged."""
    try:
        weights, settings = files.locate(spec.id)
    except ModelError:
        return None
    if weights.is_file() and spec.base is None:
        return None
    parts: dict[str, int] = {}
    try:
        for file in model_files(weights, settings, spec):
            name = DENOISERS[0] if file == weights else file.parent.name
            size = file.stat().st_size if file == weights else 2 * _weights_in(file)
            parts[name] = parts.get(name, 0) + size
    except (OSError, ValueError, KeyError):
        return None
    return parts


def _weights_in(path: Path) -> int:
    """Count the numbers in a `.safetensors` file by its header: eight bytes of length, then JSON."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > path.stat().st_size:
            raise ValueError(f"{path} is damaged")
        header: dict[str, Any] = json.loads(file.read(length))
    return sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
