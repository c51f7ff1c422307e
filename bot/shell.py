"""What the shell's commands share: a bar while something is drawn, files that are written whole or not at all."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bot.config import Settings
from bot.engine.base import Silence
from bot.errors import InvalidOutput, RequestError
from bot.generation import FetchProgress, GenerationRequest, Progress, together

if TYPE_CHECKING:
    from bot.library import Studio

DRAWN_TOGETHER = 16
"""Pictures of --prompts that are drawn in shared passes; an interruption loses no more than these."""


def check_output(path: Path) -> None:
    """Refuse a file to write that is no PNG, or whose folder cannot be made. Raises RequestError."""
    if path.suffix.lower() != ".png":
        raise RequestError(f"Pictures are written as PNG; name a file that ends in .png, not {path.name}.")
    make_folder(path.parent)


def make_folder(folder: Path) -> None:
    """Make a folder that pictures are written into. Raises RequestError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(f"The folder {folder} cannot be made: {error.strerror}; name another output.") from None
    if not os.access(folder, os.W_OK):
        raise RequestError(f"The folder {folder} cannot be written to; name another output.")


def fetched(progress: FetchProgress) -> str:
    """Say how far a download is."""
    total = "?" if progress.total_bytes is None else f"{progress.total_bytes / 1e9:.1f}"
    return f"fetching {progress.done_bytes / 1e9:.1f} of {total} GB"


class _Bar(Silence):
    """Shows steps on a tqdm bar; the listener of every request in turn."""

    def __init__(self, bar: Any) -> None:
        self._bar = bar
        self._before = 0

    def begin(self, request: GenerationRequest) -> None:
        """Another request starts where the last one ended."""
        self._before = self._bar.n
        self._bar.set_postfix_str(f"seed {request.seed}", refresh=False)

    def on_progress(self, progress: Progress) -> None:
        # A request may take more or fewer steps than planned: its batches depend on the memory there is.
        self._bar.total = max(self._bar.total, self._before + progress.steps)
        self._bar.update(self._before + progress.step - self._bar.n)

    def on_load(self, progress: FetchProgress) -> None:
        self._bar.set_description_str("drawing" if progress.done_bytes else f"loading {progress.model}")


def draw_to_files(
    studio: Studio, requests: Sequence[GenerationRequest], paths: Sequence[Sequence[Path]], *, private: bool
) -> None:
    """Draw requests, with a bar, and write each one's pictures to its files, whose names are printed as they come. Raises EaselError."""
    from tqdm import tqdm

    from bot.files.sheet import draw_sheet

    marker = studio.marker  # a broken certificate stops it before anything is drawn
    rounds = list(_rounds(requests, paths))
    missing: list[Path] = []
    with tqdm(total=sum(r.steps_taken for r, _ in rounds), desc="starting", unit="step", file=sys.stderr) as bar:
        listener = _Bar(bar)

        def fetching(progress: FetchProgress) -> None:
            bar.set_description_str(fetched(progress))

        for request, files in rounds:
            listener.begin(request)
            result = studio.draw(request, listener, fetching)
            if result.note:
                bar.write(result.note, file=sys.stderr)
            pictures = [draw_sheet(request, result.pictures)] if request.axes else result.pictures
            for picture in pictures:
                path = files[picture.n]
                marks = studio.marks(request, picture, result)
                _write(path, marker.png(picture, marks, title=path.name), private=private)
                bar.write(str(path))
            drawn = {picture.n for picture in pictures}
            missing += [path for n, path in enumerate(files) if n not in drawn]
    if missing:
        names = ", ".join(path.name for path in missing)
        raise InvalidOutput(f"These came out broken and are missing: {names}; try another seed for them.")


def _rounds(
    requests: Sequence[GenerationRequest], paths: Sequence[Sequence[Path]]
) -> Iterator[tuple[GenerationRequest, list[Path]]]:
    """Put prompts together as far as their pictures are drawn and kept in memory at once; each with all its files."""
    start = 0
    while start < len(requests):
        end = start + 1
        while end < len(requests) and sum(request.count for request in requests[start : end + 1]) <= DRAWN_TOGETHER:
            end += 1
        yield together(requests[start:end]), [path for files in paths[start:end] for path in files]
        start = end


def _write(path: Path, data: bytes, *, private: bool) -> None:
    """Write a whole file or none: a picture under its name is never half of one."""
    part = path.with_name(f".{path.name}.part")
    try:
        with open(part, "wb", opener=lambda name, flags: os.open(name, flags, 0o600 if private else 0o666)) as file:
            file.write(data)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def log_as_set(settings: Settings) -> None:
    """Write the log as the settings say."""
    from bot.logs import set_up_logging

    set_up_logging(settings.log_level, settings.log_format, (settings.discord_token, settings.hf_token))


def quiet(settings: Settings) -> None:
    """Short commands say what went wrong in a sentence of their own; the log is for who asks for it."""
    if settings.log_level == "debug":
        log_as_set(settings)
    else:
        logging.getLogger("bot").setLevel(logging.CRITICAL)
