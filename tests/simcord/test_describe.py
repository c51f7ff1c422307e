"""A picture put into words, on a simulated Discord with the built-in captioner, and drawn from the answer's buttons."""

from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tests.simcord.conftest import World
from tests.simcord.test_commands import Scores, last_answer
from tests.support import texts


def png(size: tuple[int, int] = (64, 64), **chunks: str) -> bytes:
    out, info = io.BytesIO(), PngInfo()
    for key, value in chunks.items():
        info.add_text(key, value)
    Image.new("RGB", size, "navy").save(out, "PNG", pnginfo=info)
    return out.getvalue()


def animated() -> bytes:
    out = io.BytesIO()
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("navy", "white")]
    frames[0].save(out, "WEBP", save_all=True, append_images=frames[1:], duration=100)
    return out.getvalue()


def bomb() -> bytes:
    out = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(out, "PNG")
    return out.getvalue()


async def job_of(world: World, message: Any) -> Any:
    return await world.easel.service.get(message.attachments[0].filename.split("-")[1])


async def described(world: World, data: bytes, **options: Any) -> Any:
    result = await world.ada.slash(world.channel, "describe", image=("picture.png", data), **options)
    return await world.until(lambda: answered(result), "the answer")


def answered(result: Any) -> Any:
    """The answer, once it is more than that the bot thinks."""
    answer = last_answer(result)
    return answer if answer is not None and (answer.content or answer.components) else None


async def test_describe_our_own_picture_says_what_it_shows_and_what_made_it_and_draws_both(world: World) -> None:
    asked: dict[str, Any] = {"prompt": "the sea at night", "negative_prompt": "fog", "steps": 20, "seed": 3}
    message = await world.drawn(await world.ada.slash(world.channel, "imagine", **asked))
    data = await world.easel.client.http.get_from_cdn(message.attachments[0].url)
    answer = await described(world, data)
    assert answer.ephemeral
    shown = "\n".join(texts(answer.components))
    caption = shown.split("```\n")[1].strip()
    assert "sea" in caption
    assert "night" in caption
    assert "**Prompt of its file**\n```\nthe sea at night\n```" in shown
    assert "**Negative prompt of its file**\n```\nfog\n```" in shown
    assert "in the words of Pocket captions" in shown

    form = await world.ada.click(answer.message, label="Draw this")
    values = {"prompt": caption, "negative_prompt": "", "model": ["pocket"], "aspect": ["16:9"], "more": "steps: 2"}
    assert caption in str(form.modal)
    drawn = (await job_of(world, await world.drawn(await world.ada.submit_modal(form, values)))).request
    assert (drawn.prompt, drawn.num_inference_steps, drawn.width, drawn.height) == (caption, 2, 176, 96)

    form = await world.ada.click(answer.message, label="Draw its prompt")
    values = {
        "prompt": "the sea at night",
        "negative_prompt": "fog",
        "model": ["pocket"],
        "aspect": ["keep"],
        "more": "steps: 2",
    }
    drawn = (await job_of(world, await world.drawn(await world.ada.submit_modal(form, values)))).request
    assert (drawn.prompt, drawn.negative_prompt, drawn.width) == ("the sea at night", "fog", 128)


async def test_describe_picture_without_parameters_has_one_button(world: World) -> None:
    answer = await described(world, png())
    shown = "\n".join(texts(answer.components))
    assert "What it shows" in shown
    assert "its file" not in shown
    with pytest.raises(Exception, match="Draw its prompt"):
        await world.ada.click(answer.message, label="Draw its prompt")


async def test_describe_form_that_is_wrong_hands_the_words_back(world: World) -> None:
    answer = await described(world, png(), model="pocket-captions")
    form = await world.ada.click(answer.message, label="Draw this")
    values = {"prompt": "a boat", "negative_prompt": "", "model": ["pocket"], "aspect": ["keep"], "more": "steps: many"}
    refused = last_answer(await world.ada.submit_modal(form, values))
    assert refused.ephemeral
    assert "steps is “many”" in refused.content
    assert "a boat" in refused.content


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.txt", b"words", "Attach a PNG, JPEG or WebP picture"),
        ("a.png", b"words", "not a PNG, JPEG or WebP"),
        ("a.png", png()[:90], "damaged or cut off"),
        ("a.webp", animated(), "animated"),
        ("a.png", bomb(), "megapixels"),
    ],
    ids=["another kind", "no picture", "truncated", "animated", "bomb"],
)  # fmt: skip
async def test_describe_picture_that_will_not_do_gets_one_private_sentence(
    world: World, name: str, data: bytes, words: str
) -> None:
    result = await world.ada.slash(world.channel, "describe", image=(name, data))
    answer = await world.until(lambda: answered(result), "the answer")
    assert answer.ephemeral
    assert words in answer.content
    assert len(answer.content) < 250


async def test_describe_captioner_that_is_not_here_is_named(world: World) -> None:
    result = await world.ada.slash(world.channel, "describe", image=("a.png", png()), model="blip-large")
    answer = await world.until(lambda: answered(result), "the answer")
    assert answer.ephemeral
    assert "BLIP large is not here yet" in answer.content


@pytest.mark.parametrize("classifier", [Scores(0.9), Scores(None)], ids=["flagged", "failing"])
async def test_describe_picture_that_may_not_be_shown_here_is_refused(world: World, classifier: Any) -> None:
    answer = await described(world, png())
    assert answer.ephemeral
    assert "fit for this channel" in answer.content


async def test_describe_model_is_completed_with_the_captioners(world: World) -> None:
    offered = await world.ada.autocomplete(world.channel, "describe", "model", "blip")
    assert [choice["value"] for choice in offered] == ["blip-large"]
