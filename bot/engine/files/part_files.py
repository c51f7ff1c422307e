"""The files of the networks that models have besides: a folder of diffusers or a single file, here or in a repository. No torch."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from bot.catalogue.parts import PartSpec
from bot.engine.files.downloads import Wanted
from bot.engine.files.sources import PICKLES, Kind, Source, json_object, source_of, weight_set
from bot.errors import ModelError

SETTINGS = "config.json"
_WEIGHTS = ".safetensors"
_ON_THE_HUB = re.compile(r"[A-Za-z0-9][\w.-]*(?:/[A-Za-z0-9][\w.-]*)+")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a part lies on the Hub: its repository, and in it the single file of its weights, or the settings beside its weights."""

    repository: str
    name: str

    @property
    def is_file(self) -> bool:
        """Whether it is a single file."""
        return self.name.lower().endswith(_WEIGHTS)


def on_the_hub(source: str, models_root: Path) -> bool:
    """Tell whether "owner/name", "owner/name/folder" or "owner/name/file.safetensors" is on the Hub: it is unless there is a folder `owner`."""
    named = _ON_THE_HUB.fullmatch(source) and not source.lower().endswith(PICKLES)
    is_path = source.lower().endswith(_WEIGHTS) and source.count("/") < 2
    return bool(named) and not is_path and not (models_root / source.split("/")[0]).is_dir()


def part_source(part: PartSpec, models_root: Path) -> Source:
    """Tell what the source of a part is; relative paths count from `models_root`. Raises ModelError for pickles, unread."""
    if on_the_hub(part.source, models_root):
        return Source(Kind.HUB, part.source, None)
    source = source_of(part, part.source, models_root)
    return Source(Kind.FOLDER, part.source, (models_root / part.source).resolve()) if source.path is None else source


def place_of(part: PartSpec) -> Place:
    """Tell where a part lies on the Hub."""
    owner, name, *inner = part.source.split("/")
    is_file = bool(inner) and inner[-1].lower().endswith(_WEIGHTS)
    return Place(f"{owner}/{name}", "/".join(inner if is_file else (*inner, SETTINGS)))


def wanted_part(part: PartSpec) -> Wanted:
    """Say what is to be fetched of a part on the Hub."""
    place = place_of(part)

    def the_file(names: Iterable[str], _: str) -> list[str]:
        if place.name not in names:
            raise ModelError(
                f"{part.name}: {place.repository} on the Hub has no {place.name}; correct its source in the models file."
            )
        return [place.name]

    def its_folder(names: Iterable[str], settings: str) -> list[str]:
        return wanted_part_files(names, settings, place.name, part)

    if place.is_file:
        return Wanted(part, place.repository, part.revision, None, the_file, "")
    return Wanted(
        part, place.repository, part.revision, place.name, its_folder, "no network of diffusers or transformers"
    )


def wanted_part_files(names: Iterable[str], settings: str, index: str, part: PartSpec) -> list[str]:
    """Choose which files of a repository to fetch: one set of a network's weights, then `index`, its settings.

    The set is that of the part's variant where there is one, else the plain one. Raises ValueError where the settings are none.
    """
    json_object(settings)
    folder = PurePosixPath(index).parent
    beside = [PurePosixPath(name) for name in names if "\\" not in name and PurePosixPath(name).parent == folder]
    sets = {found: str(path) for path in beside if (found := weight_set(path.name, part.weights)) is not None}
    chosen = sets.get(part.variant or "") or sets.get("")
    return [index] if chosen is None else [chosen, index]


def whole_part(part: PartSpec, path: Path) -> Path | None:
    """Give what was downloaded of a part, its single file or the folder of its settings; None where the weights are missing."""
    if path.name != SETTINGS:
        return path
    there = any(weight_set(each.name, part.weights) is not None for each in path.parent.iterdir())
    return path.parent if there else None


def check_part(part: PartSpec, source: Source) -> Path:
    """Give a local part's folder or file. Raises ModelError naming what is missing and what to do."""
    assert source.path is not None
    if not source.path.exists():
        raise ModelError(f"{part.name}: there is no {source.path}; correct its source in the models file.")
    return source.path
