"""`/describe` over the wire: the real process looks at a picture between its steps, and its buttons outlive it."""

from __future__ import annotations

import pytest

from tests.loopback.conftest import Raise
from tests.loopback.messages import Upload
from tests.loopback.stage import is_drawn, job_of
from tests.loopback.test_bot_info import FOREIGN, bomb, png

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_describe_while_others_draw_is_answered_first_and_its_buttons_outlive_the_process(set_up: Raise) -> None:
    stage = await set_up()
    ada = stage.person("ada")
    running = await stage.busy("eve")
    asked = await ada.slash("imagine", "describe", image=Upload("castle.png", png((128, 128), FOREIGN)))
    said = await asked.answered(timeout_s=30)
    assert not is_drawn(running)
    assert "**What it shows**" in said.private_text
    assert "a castle in the mist" in said.private_text
    answer = next(message for message in said.replies if message.buttons)
    assert answer.ephemeral

    await stage.bot.kill()
    await stage.bot.start()
    await stage.bot.ready()
    form = await (await ada.click(answer, label="Draw its prompt")).answered()
    assert form.fields()["Prompt"]["value"].startswith("a castle in the mist")
    drawn = await stage.drawn(await ada.submit_modal(form, {"more": "steps: 2"}))
    assert job_of(drawn)


async def test_describe_on_a_bomb_says_so_in_one_sentence(set_up: Raise) -> None:
    stage = await set_up()
    asked = await stage.person("bob").slash("imagine", "describe", image=Upload("bomb.png", bomb()))
    said = (await asked.answered(timeout_s=20)).private_text
    assert "megapixels" in said
    assert len(said) < 250
