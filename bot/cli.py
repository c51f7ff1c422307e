"""The shell: `python -m bot run|demo|generate|doctor|models|verify`, and what `bot/cli_pictures.py` adds. Errors are one sentence and an exit code of `bot/exits.py`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

from bot import __version__
from bot.catalogue.controls import CONTROL_TYPES
from bot.catalogue.entries import Entry
from bot.catalogue.models import ASPECTS, Catalogue, ModelSpec
from bot.catalogue.parts import parts_of
from bot.cli_pictures import PICTURE_COMMANDS, add_picture_commands
from bot.config import Settings, open_to_others, read_environment
from bot.errors import EaselError, RequestError
from bot.exits import EXIT_FAILED, exit_code
from bot.generation import (
    QUALITIES,
    FetchProgress,
    GenerationOptions,
    GenerationRequest,
    InputRef,
)
from bot.logs import know_secrets, redact
from bot.prompts.grids import AXES, read_axis
from bot.shell import check_output, draw_to_files, log_as_set, make_folder, quiet

INTERRUPTED = 130
DEFAULT_PORT = 8765
VERIFY = (
    "Say what a picture file tells of who made it. The exit code is 0 where this Easel signed it and it is unchanged, 2 where "
    "it carries marks that prove nothing, 3 where its credentials are broken, 4 where it carries none, 1 where it cannot be read."
)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise RequestError(f"{message[:1].upper()}{message[1:].rstrip('.')}; see {self.prog} --help.")


def main(arguments: Sequence[str]) -> int:
    """Run the program with its arguments (without the program's name); the exit code."""
    try:
        options = build_parser().parse_args(list(arguments))
        settings = read_environment(os.environ)
        know_secrets((settings.discord_token, settings.hf_token))
        _warn_of_readers(options.command)
        return int(_COMMANDS[options.command or "default"](settings, options))
    except EaselError as error:
        return _fail(str(error), exit_code(error))
    except KeyboardInterrupt:
        print("\nInterrupted.", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output (as `head` does) has gone; nothing is left to say, nor to flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror or error}.")


def _warn_of_readers(command: str | None) -> None:
    """Say where `.env` lies open to others; `doctor` has a line of its own for it."""
    found = None if command == "doctor" else open_to_others(Path(".env"))
    if found is not None:
        print(f"easel: {found}", file=sys.stderr)


def build_parser() -> argparse.ArgumentParser:
    """Describe the commands and their options."""
    parser = _Parser(
        prog="python -m bot",
        description="Easel: a Discord bot that draws with Stable Diffusion. Without a command it runs the bot where "
        "DISCORD_TOKEN is set, else the demo.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"Easel {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=_Parser)
    commands.add_parser("run", help="the Discord bot; needs DISCORD_TOKEN", allow_abbrev=False)
    demo = commands.add_parser("demo", help="the same bot in a local page that looks like Discord", allow_abbrev=False)
    demo.add_argument("--port", type=int, default=DEFAULT_PORT, help=f"where the page is served ({DEFAULT_PORT})")
    _add_generate(commands)
    add_picture_commands(commands)
    commands.add_parser("doctor", help="check token, GPU, disk, models and database", allow_abbrev=False)
    verify = commands.add_parser("verify", help="say who made a picture file", description=VERIFY, allow_abbrev=False)
    verify.add_argument("file", metavar="FILE", help="a PNG, JPEG or WebP picture")
    models = commands.add_parser("models", help="list the catalogue, or download a model", allow_abbrev=False)
    actions = models.add_subparsers(dest="action", metavar="ACTION", parser_class=_Parser)
    fetch = actions.add_parser("fetch", help="download a model ahead of time", allow_abbrev=False)
    fetch.add_argument("model", metavar="ID", help="the id of a model, part or annotator, as the list has it")
    return parser


def _add_generate(commands: Any) -> None:
    parser = commands.add_parser(
        "generate",
        help="pictures from the shell",
        description="Draw one or more pictures. The options are those of /imagine; "
        "what is left out comes from the model's defaults.",
        allow_abbrev=False,
    )
    parser.add_argument("prompt", nargs="?", help="what the picture should show")
    parser.add_argument(
        "--prompts", metavar="FILE",
        help="draw a file of prompts instead, one a line; empty lines are skipped; line n is drawn with seed + n - 1",
    )  # fmt: skip
    parser.add_argument(
        "--like", metavar="FILE",
        help="draw a picture again, as its file tells what made it; the prompt and the options given here come before that",
    )  # fmt: skip
    parser.add_argument(
        "-o", "--output", metavar="PATH",
        help="the .png to write (easel-SEED.png); with --count above 1 its name gets -1, -2, …; with --prompts a folder "
        "(easel-pictures) for 0001.png, 0002.png, …, and 0001-1.png, 0001-2.png, … with --count above 1",
    )  # fmt: skip

    def option(name: str, **settings: Any) -> None:
        spellings = dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name}"))
        parser.add_argument(*spellings, dest=name, **settings)

    option("negative_prompt", metavar="TEXT", help="what it should not show")
    option("model", metavar="ID", help="a model of the catalogue; `python -m bot models` lists them")
    option("aspect", metavar="ASPECT", help=f"one of {', '.join(ASPECTS)}, as the model has it")
    option("width", type=int, metavar="PX", help="a multiple of 8; overrides the aspect's")
    option("height", type=int, metavar="PX", help="a multiple of 8; overrides the aspect's")
    option("count", type=int, metavar="N", help="how many variants, picture n with seed + n - 1")
    option("steps", type=int, metavar="N", help="denoising steps")
    option("guidance", type=float, metavar="X", help="how closely the prompt is followed")
    option("seed", type=int, metavar="N", help="the same seed gives the same picture; left out, one is made up")
    option("sampler", metavar="NAME", help="one of the model's samplers")
    option("style", metavar="NAME", help="words around the prompt; /styles and bot/prompts/styles.toml list them")
    option("lora", metavar="NAME", help="LoRAs, as chalk:0.8 or several with commas; `python -m bot models` lists them")
    option("image", metavar="FILE", help="a picture to draw from")
    option(
        "strength",
        type=float,
        metavar="X",
        help="how far to leave it: 0.3 keeps the layout, 0.9 follows the prompt (0.6)",
    )
    option("mask", metavar="FILE", help="what of it to redraw: white, or left transparent")
    option("control", metavar="FILE", help="a picture whose lines, depth or poses to follow")
    option("control_type", metavar="KIND", help=f"how to read it: {', '.join(CONTROL_TYPES)}")
    option("control_scale", type=float, metavar="X", help="how strictly to follow it (1)")
    option("reference", metavar="FILE", help="a picture whose subject and style to take up, where the model reads some")
    option(
        "base_seed",
        type=int,
        metavar="N",
        help="vary the picture of this seed, by noise between its and that of --seed",
    )
    option(
        "variation",
        type=float,
        metavar="X",
        help="how far from it: 0 is it, 0.2 as Vary, 0.6 as Vary strong, 1 is --seed's",
    )
    option("tiling", action="store_true", help="let opposite edges fit together, for patterns")
    option(
        "quality",
        metavar="NAME",
        help=f"{' or '.join(QUALITIES)}: draft is quick and rough, where the model has drafts",
    )
    option(
        "grid_x",
        metavar="AXIS",
        help=f'draw one sheet that compares {", ".join(AXES)}, along its top: "steps: 10, 20, 30"',
    )
    option("grid_y", metavar="AXIS", help='and down its side: "guidance: 3, 5"')
    option("private", action="store_true", help="write files that only you can read (mode 600)")
    option("spoiler", action="store_true", help="begin file names with SPOILER_, which Discord shows blurred")


def _run(settings: Settings, options: argparse.Namespace) -> int:
    from bot.app import run_bot

    log_as_set(settings)
    return run_bot(settings)


def _demo(settings: Settings, options: argparse.Namespace) -> int:
    from bot.demo import run_demo

    port: int = getattr(options, "port", DEFAULT_PORT)
    if not 0 <= port <= 65535:
        raise RequestError(f"A port is a number from 0 to 65535, not {port}.")
    log_as_set(settings)
    return run_demo(settings, port)


def _run_or_demo(settings: Settings, options: argparse.Namespace) -> int:
    if settings.discord_token is not None:
        print("DISCORD_TOKEN is set: starting the bot.", file=sys.stderr)
        return _run(settings, options)
    print("DISCORD_TOKEN is not set: starting the demo.", file=sys.stderr)
    return _demo(settings, options)


def _generate(settings: Settings, options: argparse.Namespace) -> int:
    from bot.library import INPUTS, Studio, random_seed

    quiet(settings)
    if options.prompt is not None and options.prompts is not None:
        raise RequestError("Give either a prompt or --prompts FILE, not both.")
    if options.prompt is options.prompts is options.like is None:
        raise RequestError('Give a prompt, as "a sunset over a beach", or --prompts FILE, or --like FILE.')
    if options.prompts is not None and (options.grid_x or options.grid_y):
        raise RequestError("A sheet compares one prompt; leave --prompts out.")
    prompts = [options.prompt or ""] if options.prompts is None else read_prompts(Path(options.prompts))
    studio = Studio(settings)
    like = None if options.like is None else studio.read_like(options.like)
    base_seed: int | None = options.seed
    if base_seed is None and like is None:
        base_seed = random_seed()
    # All are checked before the first is drawn: a fault in line 90 should not cost 89 pictures' time.
    inputs = {name: studio.take_input(path, mask=name == "mask") for name in INPUTS if (path := getattr(options, name))}
    requests: list[GenerationRequest] = []
    for index, prompt in enumerate(prompts):
        try:
            asked = _options(options, prompt, None if base_seed is None else base_seed + index, inputs)
            requests.append(studio.prepare(asked) if like is None else studio.prepare_like(like, asked))
            if base_seed is None:
                base_seed = requests[0].seed  # the file's own
        except RequestError as error:
            if options.prompts is None:
                raise
            raise RequestError(f"Prompt {index + 1} of {options.prompts}: {error}") from None
    counts = [1 if request.axes else request.count for request in requests]
    paths = output_paths(options, counts, requests[0].seed)
    draw_to_files(studio, requests, paths, private=options.private)
    return 0


def _options(
    options: argparse.Namespace, prompt: str, seed: int | None, inputs: Mapping[str, InputRef]
) -> GenerationOptions:
    given = {
        item.name: getattr(options, item.name) for item in fields(GenerationOptions) if hasattr(options, item.name)
    }
    axes = tuple(read_axis(f"--grid-{side}", text) for side in "xy" if (text := getattr(options, f"grid_{side}")))
    return GenerationOptions(**{**given, "prompt": prompt, "seed": seed, "axes": axes, **inputs})


def read_prompts(path: Path) -> list[str]:
    """Read a file of prompts, one a line, without the empty lines. Raises RequestError naming the file."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise RequestError(f"{path} is not a UTF-8 text file; save it as one, with one prompt a line.") from None
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}.") from None
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise RequestError(f"{path} has no prompts; write one a line.")
    return prompts


def output_paths(options: argparse.Namespace, counts: Sequence[int], base_seed: int) -> list[list[Path]]:
    """Name the files of every request's pictures and make their folder.

    Raises RequestError where the output cannot be what it has to be.
    """
    prefix = "SPOILER_" if options.spoiler else ""
    if options.prompts is not None:
        folder = Path(options.output or "easel-pictures")
        if folder.exists() and not folder.is_dir():
            raise RequestError(f"With --prompts the output is a folder, and {folder} is a file; name another one.")
        stems = [f"{index + 1:04d}" for index in range(len(counts))]
    else:
        path = Path(options.output or f"easel-{base_seed}.png")
        if path.is_dir():
            path = path / f"easel-{base_seed}.png"
        check_output(path)
        folder, stems = path.parent, [path.stem]
    make_folder(folder)
    return [
        [folder / f"{prefix}{stem}{f'-{n + 1}' if count > 1 else ''}.png" for n in range(count)]
        for stem, count in zip(stems, counts, strict=True)
    ]


def _doctor(settings: Settings, options: argparse.Namespace) -> int:
    from bot.doctor import run_doctor

    quiet(settings)
    return run_doctor(settings)


def _verify(settings: Settings, options: argparse.Namespace) -> int:
    from bot.verify import run_verify

    quiet(settings)
    return run_verify(settings, Path(options.file))


def _models(settings: Settings, options: argparse.Namespace) -> int:
    from bot.engine.files.models import load_catalogue, model_files

    quiet(settings)
    catalogue = load_catalogue(settings)
    files = model_files(catalogue, settings)
    if options.action == "fetch":
        return _fetch(files, options.model)
    parts = [part for spec in catalogue.models for part in parts_of(spec)]
    local = {spec.id for spec in (*catalogue.models, *parts, *catalogue.annotators) if files.is_local(spec.id)}
    *table, blank, default = list_models(catalogue, local)
    besides = (*list_parts(parts, local), *list_annotators(catalogue, local), *list_addons(catalogue))
    for line in (*table, *besides, blank, default):
        print(line)
    return 0


def list_parts(parts: Sequence[Entry], local: set[str]) -> list[str]:
    """Write what models have besides as a table, one line each; nothing where there is nothing."""
    rows = [("PART", "NAME", "WHERE"), *((part.id, part.name, _where(part, local)) for part in parts)]
    return ["", *_table(rows)] if parts else []


def list_annotators(catalogue: Catalogue, local: set[str]) -> list[str]:
    """Write the models that look at pictures as a table, one line each; nothing where there are none."""
    rows = [("ANNOTATOR", "NAME", "FOR", "LICENCE", "WHERE")]
    rows += [(spec.id, spec.name, spec.kind, spec.licence, _where(spec, local)) for spec in catalogue.annotators]
    return ["", *_table(rows)] if catalogue.annotators else []


def list_addons(catalogue: Catalogue) -> list[str]:
    """Write the LoRAs as a table, one line each with the words that call it; nothing where there are none."""
    rows = [("LORA", "MADE FOR", "KIND", "TRIGGER WORDS")]
    rows += [(one.name, one.made_for, one.kind, ", ".join(one.triggers)) for one in catalogue.loras]
    return ["", *_table(rows)] if catalogue.loras else []


def list_models(catalogue: Catalogue, local: set[str]) -> list[str]:
    """Write the catalogue as a table, one line a model."""
    rows = [("ID", "NAME", "SIZE", "LICENCE", "WHERE")]
    rows += [(spec.id, spec.name, _size(spec), spec.licence, _where(spec, local)) for spec in catalogue.models]
    return [*_table(rows), "", f"The default is {catalogue.default}. `python -m bot models fetch ID` downloads one."]


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _size(spec: ModelSpec) -> str:
    width, height = spec.default_size
    return f"{width}×{height}"


def _where(spec: Entry, local: set[str]) -> str:
    if spec.id in local:
        return "here"
    size = "" if spec.download_bytes is None else f", {spec.download_bytes / 1e9:.1f} GB to download"
    return f"not here{size}{', needs HF_TOKEN' if spec.gated else ''}"


def _fetch(files: Any, model_id: str) -> int:
    from tqdm import tqdm

    bars: list[Any] = []

    def show(progress: FetchProgress) -> None:
        if not bars:
            bars.append(tqdm(desc=f"fetching {model_id}", unit="B", unit_scale=True, file=sys.stderr))
        bars[0].total = progress.total_bytes
        bars[0].update(progress.done_bytes - bars[0].n)

    try:
        files.fetch(model_id, show, lambda: False)
    finally:
        for bar in bars:
            bar.close()
    print(f"{model_id} is here.")
    return 0


def _fail(sentence: str, code: int = EXIT_FAILED) -> int:
    print(f"easel: {redact(sentence)}", file=sys.stderr)
    return code


_COMMANDS = {
    "run": _run,
    "demo": _demo,
    "generate": _generate,
    **PICTURE_COMMANDS,
    "doctor": _doctor,
    "models": _models,
    "verify": _verify,
    "default": _run_or_demo,
}
