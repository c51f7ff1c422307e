"""What a member does with LoRAs: find one, draw with it, be told why another one does not go."""

from __future__ import annotations

import pytest

from tests.simcord.conftest import World
from tests.simcord.test_commands import last_answer
from tests.simcord.test_pictures import job_of
from tests.support import texts

BOAT = "chalk drawing of a boat on the sea"


async def test_imagine_lora_is_drawn_with_and_stays_with_info_again_and_edit(world: World) -> None:
    message = await world.drawn(
        await world.ada.slash(world.channel, "imagine", prompt=f"{BOAT} <lora:easelbot:0.4>", lora="Chalk:0.8", steps=2)
    )
    request = (await job_of(world, message)).request
    assert (request.prompt, request.loras) == (BOAT, (("easelbot", 0.4), ("chalk", 0.8)))
    answer = await world.bob.click(message.message, label="Info")
    assert "**LoRA** easelbot:0.4, chalk:0.8" in "\n".join(texts(answer.response.components))
    again = await world.drawn(await world.bob.click(message.message, label="Again"))
    assert (await job_of(world, again)).request.loras == request.loras
    shown = await world.ada.click(message.message, label="Edit")
    values = {"prompt": BOAT, "more": "lora: chalk:0\nsteps: 2", "model": ["pocket"], "aspect": ["keep"]}
    edited = (await job_of(world, await world.drawn(await world.ada.submit_modal(shown, values)))).request
    assert edited.loras == (("chalk", 0.0),)


async def test_imagine_autocomplete_offers_loras_by_name_by_trigger_and_nearly(world: World) -> None:
    async def offered(typed: str) -> list[tuple[str, str]]:
        choices = await world.ada.autocomplete(world.channel, "imagine", "lora", typed)
        return [(choice["name"], choice["value"]) for choice in choices]

    assert await offered("") == [("chalk · chalk drawing", "chalk"), ("easelbot · easelbot", "easelbot")]
    assert [value for _, value in await offered("drawing")] == ["chalk"]
    assert [value for _, value in await offered("chlak")] == ["chalk"]
    assert [value for _, value in await offered("chalk:0.8, eas")] == ["chalk:0.8, easelbot"]
    assert [value for _, value in await offered("chalk:0.5")] == ["chalk:0.5"]
    assert await offered("nothing like it") == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"lora": "chalc"}, "There is no LoRA 'chalc'; did you mean chalk?"),
        ({"lora": "chalk:9"}, "goes from -2 to 2"),
        ({"lora": "chalk", "model": "sdxl"}, "The LoRA chalk was made for Pocket, not for Stable Diffusion XL"),
        ({"prompt": "a <sketchbok> cat"}, "There is no embedding <sketchbok>; did you mean <sketchbook>?"),
    ],
    ids=["unknown", "weight", "another family", "embedding"],
)
async def test_imagine_lora_that_does_not_go_gets_one_private_sentence(
    world: World, options: dict[str, str], words: str
) -> None:
    answer = last_answer(await world.ada.slash(world.channel, "imagine", **{"prompt": BOAT, **options}))
    assert answer.ephemeral
    assert words in answer.content
    assert len(answer.content) < 250
    assert await world.easel.service.history(world.ada.id, limit=5) == ()


async def test_models_shows_loras_with_the_words_that_call_them(world: World) -> None:
    answer = await world.ada.slash(world.channel, "models")
    assert "LoRAs: chalk (“chalk drawing”), easelbot" in "\n".join(texts(answer.response.components))
