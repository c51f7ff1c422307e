"""Results of the real process after its token or its gateway was lost; the other cases are in `tests/faults/`."""

from __future__ import annotations

from typing import Any

import pytest

from tests.loopback import Invocation
from tests.loopback.stage import Stage, job_of, pictures

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def behind_another(stage: Stage, **options: Any) -> Invocation:
    """A request that waits for as long as another one is drawn."""
    await stage.busy("eve")
    return await stage.waiting(await stage.imagine("ada", steps=4, **options))


async def test_expired_token_leaves_the_bots_own_edit_of_the_message(stage: Stage) -> None:
    asked = await behind_another(stage)
    asked.interaction.lifetime_s = 0.0
    message = await stage.drawn(asked)
    assert stage.showing(job_of(message)) == [message]
    assert [bool(pictures(version)) for version in message.versions].count(True) == 1
    upload = stage.uploads(job_of(message))[-1]
    assert (upload.method, upload.path) == ("PATCH", f"/channels/{message.channel.id}/messages/{message.id}")


async def test_gateway_that_drops_while_it_draws_resumes_and_loses_nothing(stage: Stage) -> None:
    resumed = len(stage.discord.gateway.resumed_at)
    asked = await behind_another(stage)
    stage.discord.gateway.drop()
    message = await stage.drawn(asked)
    await asked.wait_for(lambda _: len(stage.discord.gateway.resumed_at) == resumed + 1, timeout_s=30)
    assert stage.showing(job_of(message)) == [message]
    await stage.draw("bob", steps=4)
