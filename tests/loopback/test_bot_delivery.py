"""Results reach the member once, whatever stands in the way: expired tokens, deleted messages, broken connections."""

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


@pytest.mark.parametrize(("status", "code"), [(401, 50027), (404, 10015)], ids=["invalid token", "unknown webhook"])
async def test_expired_token_leaves_the_bots_own_edit_of_the_message(stage: Stage, status: int, code: int) -> None:
    asked = await behind_another(stage)
    own = f"/webhooks/*/{asked.interaction.token}/*"
    stage.discord.inject("PATCH", own, status=status, code=code, times=None)
    message = await stage.drawn(asked)
    assert stage.showing(job_of(message)) == [message]
    assert [bool(pictures(version)) for version in message.versions].count(True) == 1
    upload = stage.uploads(job_of(message))[-1]
    assert (upload.method, upload.path) == ("PATCH", f"/channels/{message.channel.id}/messages/{message.id}")


async def test_token_that_ran_out_at_discord_leaves_the_bots_own_edit(stage: Stage) -> None:
    asked = await behind_another(stage)
    asked.interaction.lifetime_s = 0.0
    message = await stage.drawn(asked)
    assert stage.showing(job_of(message)) == [message]


@pytest.mark.parametrize("lifetime_s", [900.0, 0.0], ids=["token lives", "token expired"])
async def test_deleted_message_is_replaced_by_one_new_message(stage: Stage, lifetime_s: float) -> None:
    asked = await behind_another(stage)
    asked.interaction.lifetime_s = lifetime_s
    old = asked.message
    assert old is not None
    await stage.discord.delete_message(old)
    await stage.until_status(asked, "posted")
    job = next(id for id, _, interaction in stage.jobs() if interaction == asked.interaction.id)
    new = stage.showing(job)
    assert len(new) == 1
    assert new[0] is not old
    assert new[0].channel is old.channel
    assert list(new[0].buttons) == ["Again", "Edit", "Info", "Delete"]


async def test_new_message_whose_answer_was_lost_is_found_again_and_not_sent_twice(stage: Stage) -> None:
    asked = await behind_another(stage)
    old = asked.message
    assert old is not None
    path = f"/channels/{old.channel.id}/messages"
    await stage.discord.delete_message(old)
    lost = stage.discord.inject("POST", path, truncate=True)
    before = len([call for call in stage.discord.calls("POST", path) if call.path == path])
    await stage.until_status(asked, "posted")
    job = next(id for id, _, interaction in stage.jobs() if interaction == asked.interaction.id)
    assert lost.hits == 1
    assert len(stage.showing(job)) == 1
    # The look back recognises the message by what its components show; there is no second try to send it.
    assert len([call for call in stage.discord.calls("POST", path) if call.path == path]) == before + 1


async def test_private_result_after_its_token_expired_comes_as_a_direct_message(stage: Stage) -> None:
    asked = await behind_another(stage, private=True)
    asked.interaction.lifetime_s = 0.0
    await stage.until_status(asked, "posted")
    job = next(id for id, _, interaction in stage.jobs() if interaction == asked.interaction.id)
    assert [message.channel for message in stage.showing(job)] == [stage.person("ada").dm]


async def test_result_that_can_be_shown_nowhere_is_kept_in_the_history(stage: Stage) -> None:
    asked = await behind_another(stage, private=True, prompt="a red triangle on white")
    asked.interaction.lifetime_s = 0.0
    stage.person("ada").user.dms_closed = True
    await stage.until_status(asked, "posted")
    job = next(id for id, _, interaction in stage.jobs() if interaction == asked.interaction.id)
    assert stage.showing(job) == []
    history = await (await stage.person("ada").slash("imagine", "history")).answered()
    assert "a red triangle on white" in history.private_text
    assert "could not be posted, kept for you" in history.private_text


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param({"status": 502}, id="502"),
        pytest.param({"status": 500, "after_accept": True}, id="500 after the work"),
        pytest.param({"reset": True}, id="connection reset"),
        pytest.param({"truncate": True}, id="answer cut off"),
        pytest.param({"status": 429, "retry_after": 0.3}, id="rate limit"),
        pytest.param({"status": 429, "retry_after": 0.3, "via": False}, id="rate limit of the edge"),
    ],
)
async def test_result_whose_first_edit_fails_stands_once_in_the_end(stage: Stage, fault: dict[str, Any]) -> None:
    asked = await stage.waiting(await stage.imagine("ada", steps=4))
    injected = stage.discord.inject("PATCH", f"/webhooks/*/{asked.interaction.token}/*", **fault)
    await stage.until_status(asked, "posted")
    message = await stage.drawn(asked)
    assert injected.hits == 1
    assert stage.showing(job_of(message)) == [message]
    assert pictures(message) == [f"easel-{job_of(message)}-1.png"]
    assert asked.followups == []


async def test_gateway_that_drops_while_it_draws_resumes_and_loses_nothing(stage: Stage) -> None:
    resumed = len(stage.discord.gateway.resumed_at)
    asked = await behind_another(stage)
    stage.discord.gateway.drop()
    message = await stage.drawn(asked)
    await asked.wait_for(lambda _: len(stage.discord.gateway.resumed_at) == resumed + 1, timeout_s=30)
    assert stage.showing(job_of(message)) == [message]
    await stage.draw("bob", steps=4)
