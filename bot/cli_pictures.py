"""The shell's commands on a picture that is there: `upscale`, `expand`, `describe`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bot import provenance
from bot.config import Settings
from bot.generation import PLAIN, FetchProgress, GenerationOptions
from bot.prompts.pictures import MAX_EXPAND, MIN_EXPAND, SIDES, USUAL_EXPAND
from bot.prompts.readers import PictureInfo
from bot.prompts.text import plain
from bot.shell import check_output, draw_to_files, fetched, quiet

MAX_LINE = 2000


def add_picture_commands(commands: Any) -> None:
    """Describe these commands and their options to argparse."""
    _add_upscale(commands)
    _add_expand(commands)
    _add_describe(commands)


def _add_upscale(commands: Any) -> None:
    parser = commands.add_parser(
        "upscale",
        help="enlarge a picture",
        description="Enlarge a picture with a super-resolution network; docs/upscalers.md says how to install one.",
        allow_abbrev=False,
    )
    parser.add_argument("file", metavar="FILE", help="a PNG, JPEG or WebP picture of at most 2048 px a side")
    parser.add_argument(
        "-o", "--output", metavar="PATH", help="the file to write (FILE's name with -2x.png or -4x.png)"
    )
    parser.add_argument("--factor", type=int, default=2, metavar="N", help="2 or 4 (2)")
    parser.add_argument(
        "--mode", default=PLAIN, metavar="MODE", help="plain, or detail: redraw the details after that (plain)"
    )
    parser.add_argument("--prompt", default="", metavar="TEXT", help="what it shows, where its file does not say so")


def _add_expand(commands: Any) -> None:
    parser = commands.add_parser(
        "expand",
        help="draw what lies beyond the edges of a picture",
        description="Draw what lies beyond the edges of a picture. The options are those of /expand.",
        allow_abbrev=False,
    )
    parser.add_argument("file", metavar="FILE", help="a PNG, JPEG or WebP picture")
    parser.add_argument("prompt", help="what the whole picture shows, with what is new")
    parser.add_argument("-o", "--output", metavar="PATH", help="the .png to write (FILE's name with -wider.png)")
    parser.add_argument("--side", default="all", metavar="SIDE", help=f"where to go on: {', '.join(SIDES)} (all)")
    parser.add_argument(
        "--amount", type=int, default=USUAL_EXPAND, metavar="N",
        help=f"how much is added, in percent of its width or height, {MIN_EXPAND} to {MAX_EXPAND} ({USUAL_EXPAND})",
    )  # fmt: skip
    parser.add_argument(
        "--negative-prompt", "--negative_prompt", dest="negative_prompt", metavar="TEXT", help="what to avoid"
    )
    parser.add_argument("--model", metavar="ID", help="a model of the catalogue; `python -m bot models` lists them")
    parser.add_argument("--seed", type=int, metavar="N", help="the same seed and options give the same picture")
    parser.add_argument("--private", action="store_true", help="write a file that only you can read (mode 600)")


def _add_describe(commands: Any) -> None:
    parser = commands.add_parser(
        "describe",
        help="put a picture into words",
        description="Put a picture into words, as a prompt, and print the prompt that its file carries, where it does.",
        allow_abbrev=False,
    )
    parser.add_argument("file", metavar="FILE", help="a PNG, JPEG or WebP picture")
    parser.add_argument(
        "--annotator", metavar="ID", help="which captioner of the catalogue looks at it (the first that is here)"
    )


def _upscale(settings: Settings, options: argparse.Namespace) -> int:
    from bot.library import Studio

    quiet(settings)
    source, path = _source_and_output(options, f"{options.factor}x")
    studio = Studio(settings)
    request = studio.to_upscale(source, factor=options.factor, mode=options.mode, prompt=options.prompt)
    draw_to_files(studio, [request], [[path]], private=False)
    return 0


def _expand(settings: Settings, options: argparse.Namespace) -> int:
    from bot.library import Studio

    quiet(settings)
    source, path = _source_and_output(options, "wider")
    studio = Studio(settings)
    asked = GenerationOptions(
        options.prompt, options.negative_prompt, options.model, seed=options.seed, private=options.private
    )
    request = studio.to_expand(source, asked, side=options.side, amount=options.amount)
    draw_to_files(studio, [request], [[path]], private=options.private)
    return 0


def _source_and_output(options: argparse.Namespace, how: str) -> tuple[Path, Path]:
    """Name the file that is read and the one that is written, FILE's name with `how` where none is given. Raises RequestError."""
    source = Path(options.file)
    name = f"{source.stem}-{how}.png"
    path = Path(options.output or name)
    path = path / name if path.is_dir() else path
    check_output(path)
    return source, path


def _describe(settings: Settings, options: argparse.Namespace) -> int:
    from bot.library import Studio

    quiet(settings)

    def fetching(progress: FetchProgress) -> None:
        print(f"\r{fetched(progress)}", end="", file=sys.stderr)

    said = Studio(settings).describe(options.file, options.annotator, on_fetch=fetching)
    print(said.prompt)
    for line in _told(said.info):
        print(line)
    return 0


def _told(info: PictureInfo | None) -> list[str]:
    """Write what a picture's file says of its making, one line each, without what a terminal would obey."""
    if info is None:
        return []
    told = [("Prompt", info.prompt), ("Negative prompt", info.negative_prompt), *provenance.facts(info)]
    return ["", "Its file says", *(f"{plain(label, 60)}: {plain(text, MAX_LINE)}" for label, text in told if text)]


PICTURE_COMMANDS: Mapping[str, Callable[[Settings, argparse.Namespace], int]] = {
    "upscale": _upscale,
    "expand": _expand,
    "describe": _describe,
}
