"""Pictures put into words for members: who may, what is refused, what nobody waits for."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from bot.catalogue.annotators import AnnotatorSpec
from bot.errors import (
    AttachmentRefused,
    EaselError,
    GenerationError,
    LimitReached,
    ModelError,
    ModerationRefused,
    RequestError,
)
from bot.moderation import AdultPolicy
from bot.safety.judge import Judge
from bot.scheduling.gpu_thread import STOPPING
from tests.unit.files.pictures import FixedScore
from tests.unit.scheduling.fakes import CATALOGUE, World

NEAR = AnnotatorSpec("near", "caption", "Near", "a/near", "MIT")
FAR = AnnotatorSpec("far", "caption", "Far", "a/far", "MIT")
DEPTH = AnnotatorSpec("deep", "depth", "Deep", "a/deep", "MIT")
SEEING = replace(CATALOGUE, annotators=(DEPTH, FAR, NEAR))


def png(**texts: str) -> bytes:
    out, info = BytesIO(), PngInfo()
    for key, text in texts.items():
        info.add_text(key, text)
    Image.new("RGB", (1000, 500), "teal").save(out, "PNG", pnginfo=info)
    return out.getvalue()


def world_of(folder: Path, **changes: Any) -> World:
    world = World(folder, catalogue=SEEING, **changes)
    world.weights.local |= {"near", "deep"}
    return world


async def test_describe_gives_the_words_and_what_the_file_says(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.engine.words = "the sea at night"
        said = await world.service.describer.describe(
            png(parameters="a cat\nNegative prompt: dogs\nSteps: 4"), 1, age_restricted=False
        )
        (question,) = world.engine.asked
        assert (said.prompt, said.annotator) == ("the sea at night", "near")
        assert said.info is not None
        assert (said.info.prompt, said.info.negative_prompt, said.info.width) == ("a cat", "dogs", 1000)
        assert (question.annotator, question.member) == ("near", 1)
        assert (question.picture.width, question.picture.height) == (768, 384)
        assert question.listener.cancelled()  # nobody waits any more
        assert not (tmp_path / "inputs").exists()  # nothing is kept


async def test_describe_picture_without_words_of_its_own_has_none(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        assert (await world.service.describer.describe(png(), 1, age_restricted=False)).info is None


@pytest.mark.parametrize(
    ("asked", "error", "words"),
    [
        ("far", ModelError, r"Far is not here yet; .* `python -m bot models fetch far`"),
        ("deep", RequestError, "no captioner “deep”; the catalogue has far, near"),
        ("pocket", RequestError, "no captioner “pocket”"),
        ("<@1>`", RequestError, "no captioner"),
    ],
)
async def test_describe_captioner_that_is_not_to_be_had_is_named(
    tmp_path: Path, asked: str, error: type[EaselError], words: str
) -> None:
    async with world_of(tmp_path) as world:
        with pytest.raises(error, match=words) as caught:
            await world.service.describer.describe(png(), 1, age_restricted=False, annotator=asked)
        assert "<@1>" not in str(caught.value)
        assert world.engine.asked == []


@pytest.mark.parametrize(
    ("annotators", "words"), [((FAR,), "can run `python -m bot models fetch far`"), ((), "can name one in models.toml")]
)
async def test_describe_without_a_captioner_says_what_the_operator_can_do(
    tmp_path: Path, annotators: tuple[AnnotatorSpec, ...], words: str
) -> None:
    async with World(tmp_path, catalogue=replace(CATALOGUE, annotators=annotators)) as world:
        with pytest.raises(ModelError, match=words):
            await world.service.describer.describe(png(), 1, age_restricted=False)


@pytest.mark.parametrize(
    ("data", "words"), [(b"", "empty"), (b"words", "not a PNG"), (png()[:200], "damaged or cut off")], ids=["empty", "text", "cut"]
)  # fmt: skip
async def test_describe_what_is_no_sound_picture_is_refused(tmp_path: Path, data: bytes, words: str) -> None:
    async with world_of(tmp_path) as world:
        with pytest.raises(AttachmentRefused, match=words):
            await world.service.describer.describe(data, 1, age_restricted=False)
        assert world.engine.asked == []


@pytest.mark.parametrize("score", [0.9, RuntimeError("no session")], ids=["adult", "unjudged"])
@pytest.mark.parametrize(
    ("policy", "restricted", "allowed"),
    [(AdultPolicy(), False, False), (AdultPolicy(), True, True), (AdultPolicy(in_age_restricted=False), True, False)],
)
async def test_describe_adult_picture_follows_the_policy_of_the_channel(
    tmp_path: Path, policy: AdultPolicy, restricted: bool, allowed: bool, score: float | Exception
) -> None:
    async with world_of(tmp_path, adult=policy) as world:
        world.archive._judge = Judge(FixedScore(score))
        if allowed:
            assert await world.service.describer.describe(png(), 1, age_restricted=restricted)
            return
        with pytest.raises(ModerationRefused, match="fit for this channel"):
            await world.service.describer.describe(png(), 1, age_restricted=restricted)
        assert world.engine.asked == []


async def test_describe_words_that_the_moderator_refuses_are_not_given(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.engine.words = "a nude child"
        with pytest.raises(ModerationRefused, match="not shown here") as caught:
            await world.service.describer.describe(png(), 1, age_restricted=True)
        assert "child" not in str(caught.value)


async def test_describe_one_at_a_time_a_member_and_another_after_it(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.engine.words = None
        first = asyncio.create_task(world.service.describer.describe(png(), 1, age_restricted=False))
        while not world.engine.asked:
            await asyncio.sleep(0.005)
        with pytest.raises(LimitReached, match="described already"):
            await world.service.describer.describe(png(), 1, age_restricted=False)
        world.engine.words = "a boat"
        assert (await world.service.describer.describe(png(), 2, age_restricted=False)).prompt == "a boat"
        world.engine.asked[0].finish("the sea")
        assert (await first).prompt == "the sea"
        assert (await world.service.describer.describe(png(), 1, age_restricted=False)).prompt == "a boat"


async def test_describe_more_than_are_taken_at_once_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.scheduling.describing.AT_ONCE", 1)
    async with world_of(tmp_path) as world:
        world.engine.words = None
        first = asyncio.create_task(world.service.describer.describe(png(), 1, age_restricted=False))
        while not world.engine.asked:
            await asyncio.sleep(0.005)
        with pytest.raises(LimitReached, match="Many pictures"):
            await world.service.describer.describe(png(), 2, age_restricted=False)
        world.engine.asked[0].finish("the sea")
        await first


async def test_describe_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.engine.words = None
        describer = world.service.describer
        describer._timeout_s = 0.05
        with pytest.raises(GenerationError, match="too busy"):
            await describer.describe(png(), 1, age_restricted=False)
        assert world.engine.asked[0].listener.cancelled()
        world.engine.words = "a boat"
        assert (await describer.describe(png(), 1, age_restricted=False)).prompt == "a boat"


async def test_describe_whose_asker_goes_away_is_cancelled(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.engine.words = None
        asked = asyncio.create_task(world.service.describer.describe(png(), 1, age_restricted=False))
        while not world.engine.asked:
            await asyncio.sleep(0.005)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        assert world.engine.asked[0].listener.cancelled()


async def test_describe_while_stopping_says_to_ask_again(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        world.engine.words = GenerationError(STOPPING)
        with pytest.raises(GenerationError, match="Easel is stopping; ask again"):
            await world.service.describer.describe(png(), 1, age_restricted=False)


async def test_describe_never_blocks_the_loop(tmp_path: Path) -> None:
    async with world_of(tmp_path) as world:
        slow = threading.Event()
        is_local = world.weights.is_local

        def looking(model: str) -> bool:
            slow.wait(0.3)
            return is_local(model)

        world.weights.is_local = looking  # type: ignore[method-assign]
        asked = asyncio.create_task(world.service.describer.describe(png(), 1, age_restricted=False))
        loop, longest = asyncio.get_running_loop(), 0.0
        while not asked.done():
            began = loop.time()
            await asyncio.sleep(0.005)
            longest = max(longest, loop.time() - began)
        assert longest < 0.25
        slow.set()
