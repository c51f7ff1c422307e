"""Every option of `/imagine`, of the form and of the shell, with whatever Hypothesis gives: drawn or refused in a sentence."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from discord import app_commands
from discord.app_commands.namespace import Namespace
from hypothesis import example, given
from hypothesis import strategies as st

from bot import limits
from bot.catalogue.models import ASPECTS
from bot.catalogue.models_file import parse_catalogue
from bot.cli import build_parser
from bot.errors import EaselError, RequestError
from bot.generation import GenerationOptions, GenerationRequest, JobStatus
from bot.moderation import Moderator
from bot.prompts.again import options_of
from bot.ui import inputs
from bot.ui.forms import edit_form, read_form, read_more
from bot.ui.info import job_info
from cogs import imagine
from tests.faults.test_words import job
from tests.fuzz.makers import json_values, within_3_s

CATALOGUE = parse_catalogue(
    (Path(__file__).resolve().parents[2] / "models.toml").read_text(encoding="utf-8"), origin="models.toml"
)
SENTENCE_CHARS = 1900

numbers = st.one_of(
    st.integers(-10, 3000), st.integers(), st.floats(), st.sampled_from([0, -1, 64, 128, 512, 1024, 2**53, 10**400, float("nan")])
)  # fmt: skip
words = st.one_of(
    st.text(max_size=80),
    st.sampled_from(["a cat", "", " ", "x" * 6000, "\0", "@everyone", "../../x", "{a|b}", "\u202e"]),
)
anything = st.one_of(numbers, words, st.booleans(), json_values)
named = {
    "prompt": st.one_of(st.just("a cat"), words), "negative_prompt": words, "sampler": st.one_of(st.sampled_from(["Euler", "DDIM", "default "]), words),
    "model": st.one_of(st.sampled_from([m.id for m in CATALOGUE.models]), words), "aspect": st.one_of(st.sampled_from(ASPECTS), words),
    "width": numbers, "height": numbers, "count": numbers, "steps": numbers, "seed": numbers,
    "guidance": st.one_of(st.floats(), st.integers(-10, 3000)),  # Discord's numbers are doubles
    "private": st.booleans(), "spoiler": st.booleans(),
}  # fmt: skip
KINDS = {"width": 4, "height": 4, "count": 4, "steps": 4, "seed": 4, "guidance": 10, "private": 5, "spoiler": 5}


def prepare(options: GenerationOptions) -> GenerationRequest:
    """What the service does before a request is acknowledged."""
    request = limits.resolve(options, CATALOGUE, new_seed=lambda: 7)
    Moderator().check(request.prompt, request.negative_prompt)
    return request


def check(request: GenerationRequest) -> None:
    """What every request that is taken satisfies."""
    spec = CATALOGUE[request.model]
    assert 0 < len(request.prompt) <= limits.MAX_PROMPT_CHARS
    assert len(request.negative_prompt) <= limits.MAX_NEGATIVE_CHARS
    assert 1 <= request.count <= limits.MAX_COUNT
    assert 1 <= request.num_inference_steps <= spec.max_steps
    assert 0 <= request.guidance_scale <= spec.max_guidance
    assert 0 <= request.seed <= request.seed + request.count - 1 <= limits.MAX_SEED
    for side in (request.width, request.height):
        assert spec.min_side <= side <= spec.max_side
        assert side % spec.side_multiple == 0
    assert request.width * request.height <= spec.max_pixels
    assert request.sampler in spec.samplers
    assert prepare(options_of(request)) == request  # *Again* takes whatever was taken


async def run_command(given_options: dict[str, Any]) -> GenerationRequest | None:
    """Run `/imagine` as discord.py does when an interaction with these options comes; the request, if one was made."""
    made: list[GenerationRequest] = []
    service = SimpleNamespace(prepare=prepare, check_room=lambda user_id: None)
    interaction: Any = SimpleNamespace(user=SimpleNamespace(id=1), guild_id=None, guild=None, client=None, _state=None)

    async def draw(interaction: Any, house: Any, request: GenerationRequest, complete: Any = None) -> None:
        assert complete is None
        made.append(request)

    patch = pytest.MonkeyPatch()
    patch.setattr(inputs, "draw", draw)
    patch.setattr(imagine, "house_of", lambda interaction: SimpleNamespace(service=service))
    try:
        options: Any = [{"name": name, "type": KINDS.get(name, 3), "value": v} for name, v in given_options.items()]
        command: Any = imagine.Imagine.imagine
        values = await command._transform_arguments(interaction, Namespace(interaction, {}, options))
        await command.callback(imagine.Imagine(SimpleNamespace(service=service)), interaction, **values)  # type: ignore[arg-type]
    finally:
        patch.undo()
    return made[0] if made else None


@given(st.fixed_dictionaries({"prompt": named["prompt"]}, optional={k: v for k, v in named.items() if k != "prompt"}))
@example({"prompt": "a cat", "guidance": 1e308})
@example({"prompt": "a cat", "steps": 10**5000})
@example({"prompt": "\u3316" * 1500})
@example({"prompt": "a cat", "width": 1024, "height": 64, "model": "sd15"})
def test_imagine_with_any_options_draws_or_refuses_in_a_sentence(options: dict[str, Any]) -> None:
    try:
        request = within_3_s(lambda: asyncio.run(run_command(options)))
    except (EaselError, app_commands.AppCommandError) as error:
        assert 0 < len(str(error)) < SENTENCE_CHARS
        return
    assert request is not None
    check(request)


@given(
    st.dictionaries(st.sampled_from([name for name in named if name not in ("private", "spoiler", "prompt", "model", "aspect", "sampler")]), anything)
)  # fmt: skip
def test_resolve_of_values_of_any_kind_raises_nothing_but_a_refusal(options: dict[str, Any]) -> None:
    with contextlib.suppress(RequestError):
        check(prepare(GenerationOptions("a cat", **options)))


lines = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["count", "steps", "guidance", "seed", "sampler", "private", "spoiler", "width", "height", "prompt", "x"]), st.one_of(words, numbers.map(repr)))
        .map(lambda pair: f"{pair[0]}: {pair[1]}"),
        words,
    ),
    max_size=5,
).map("\n".join)  # fmt: skip


@given(lines)
@example("seed: " + "9" * 5000)
@example("steps: 1e3\x85count: 2")
def test_read_more_of_any_lines_gives_options_or_refuses(text: str) -> None:
    with contextlib.suppress(RequestError):
        check(prepare(GenerationOptions("a cat", **within_3_s(lambda: read_more(text)))))


@given(
    prompt=words, negative=words, model=named["model"], aspect=st.one_of(st.just("keep"), named["aspect"]), more=lines, odd=st.lists(json_values, max_size=2)
)  # fmt: skip
def test_read_form_of_any_answers_gives_options_or_refuses(
    prompt: str, negative: str, model: str, aspect: str, more: str, odd: list[Any]
) -> None:
    fields = {"prompt": prompt, "negative_prompt": negative, "more": more}
    components: list[Any] = [
        {"type": 18, "component": {"type": 4, "custom_id": k, "value": v}} for k, v in fields.items()
    ]
    components += [{"type": 18, "component": {"type": 3, "custom_id": k, "values": [v]}} for k, v in {"model": model, "aspect": aspect}.items()]  # fmt: skip
    components += [{"type": 18, "component": {"type": 4, "custom_id": "other", "value": value}} for value in odd]
    with contextlib.suppress(RequestError):
        check(prepare(within_3_s(lambda: read_form({"components": components}, job("a cat")))))


@given(prompt=named["prompt"], negative=words)
def test_form_and_info_of_any_request_fit_discords_limits(prompt: str, negative: str) -> None:
    try:
        request = prepare(GenerationOptions(prompt, negative, "pocket"))
    except RequestError:
        return
    asked = job(request.prompt, request.negative_prompt)
    assert asked.status is JobStatus.QUEUED
    payload = edit_form(asked, CATALOGUE).to_dict()
    assert len(payload["components"]) == 5
    info = job_info(asked, CATALOGUE).to_components()
    assert sum(len(part.get("content", "")) for one in info for part in one["components"]) <= 4000


@given(
    st.lists(
        st.tuples(st.sampled_from([f"--{name}" for name in named]), st.one_of(words, numbers.map(repr))), max_size=4
    )
)
def test_shell_with_any_flags_draws_or_refuses(flags: list[tuple[str, str]]) -> None:
    arguments = ["generate", "a cat", *(part for flag in flags for part in flag)]
    try:
        options = build_parser().parse_args(arguments)
    except EaselError:
        return
    except SystemExit as end:
        assert end.code == 0  # --help
        return
    with contextlib.suppress(RequestError):
        values = {name: getattr(options, name) for name in named if name not in ("prompt", "private", "spoiler")}
        check(prepare(GenerationOptions("a cat", **values)))
