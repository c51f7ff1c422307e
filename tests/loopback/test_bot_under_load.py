"""Twenty requests from three members while the bot draws: answers, heartbeats, fairness, exactly one result each."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

import pytest
import pytest_asyncio

from bench.numbers import percentile
from tests.loopback import Invocation, Message
from tests.loopback.stage import ENDLESS, Stage, job_of, pictures

pytestmark = pytest.mark.asyncio(loop_scope="session")

ASKING = ("ada",) * 8 + ("bob",) * 6 + ("eve",) * 6

PLACE = re.compile(r"(\d+)(?:st|nd|rd|th) in line")


@dataclass(frozen=True)
class Load:
    """The twenty requests after all were drawn; `before` was being drawn when they came, and cancelled afterwards."""

    stage: Stage
    before: Invocation
    asked: list[Invocation]
    started_at: float

    def message(self, one: Invocation) -> Message:
        assert one.message is not None
        return one.message

    def finished(self) -> list[Invocation]:
        """The requests in the order in which their pictures came."""
        return sorted(self.asked, key=lambda one: self.message(one).versions[-1].at)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def load(shared_stage: Stage) -> Load:
    eve = shared_stage.person("eve")
    before = await shared_stage.busy("eve", **ENDLESS)
    started_at = shared_stage.discord.now()
    asked = [await shared_stage.imagine(name, steps=10) for name in ASKING]
    await before.wait_for(lambda one: "step " in one.text and all("in line" in each.text for each in asked))
    assert before.message is not None
    await eve.click(before.message, label="Cancel")
    for one in asked:
        await shared_stage.drawn(one)
    return Load(shared_stage, before, asked, started_at)


async def test_first_answers_while_it_draws_come_within_250_ms(load: Load) -> None:
    first = [one.acknowledged_after_s for one in load.asked if one.acknowledged_after_s is not None]
    assert len(first) == len(ASKING)
    assert percentile(first, 0.99) <= 0.25, sorted(first)


async def test_place_in_line_while_it_draws_stands_within_a_second(load: Load) -> None:
    stood = [
        next(version for version in load.message(one).versions if version.text).at - one.sent_at for one in load.asked
    ]
    assert percentile(stood, 0.99) <= 1.0, sorted(stood)


async def test_heartbeats_while_it_draws_are_on_time(load: Load) -> None:
    until = load.finished()[-1]
    last_at = load.message(until).versions[-1].at
    late = [
        beat.lateness_s
        for beat in load.stage.discord.heartbeats
        if load.started_at <= beat.at <= last_at and beat.lateness_s is not None
    ]
    assert len(late) >= (last_at - load.started_at) / (2 * load.stage.discord.gateway.heartbeat_interval_s)
    assert max(late) <= 0.25, sorted(late)[-5:]


async def test_every_picture_under_load_arrives_exactly_once(load: Load) -> None:
    jobs = [job_of(load.message(one)) for one in load.asked]
    assert len(set(jobs)) == len(ASKING)
    for one, job in zip(load.asked, jobs, strict=True):
        message = load.message(one)
        assert pictures(message) == [f"easel-{job}-1.png"]
        assert [bool(pictures(version)) for version in message.versions].count(True) == 1
        assert load.stage.showing(job) == [message]
        assert len(load.stage.uploads(job)) == 1
        assert one.followups == []


async def test_members_under_load_are_drawn_in_turn(load: Load) -> None:
    finished = load.finished()
    for name in set(ASKING):
        own = [one for one in finished if one.user.name == name]
        assert own == sorted(own, key=lambda one: one.sent_at)
    # Six each wait, ada's seventh and eighth come when nobody else's is left. Four are with the engine at once, and whoever
    # is done is shown, so that a member may be a picture ahead of their turn.
    for done in range(1, 19):
        names = [one.user.name for one in finished[:done]]
        counts = [names.count(name) for name in set(ASKING)]
        assert max(counts) - min(counts) <= 2, names
    assert finished[-1].user.name == "ada"


async def test_progress_under_load_edits_a_message_at_most_every_two_seconds(load: Load) -> None:
    for one in [load.before, *load.asked]:
        # The last one is the end (the pictures, or "cancelled"), which waits for nothing.
        progress = [version.at for version in load.message(one).versions[:-1] if version.text]
        gaps = [after - before for before, after in itertools.pairwise(progress)]
        # The bot counts from when it sends; what the network takes differs from edit to edit.
        assert all(gap >= 1.8 for gap in gaps), gaps


async def test_place_in_line_under_load_is_true_and_moves(load: Load) -> None:
    """Seven of ada's wait before her eighth when it comes; then all the others' go before it; then all move up."""
    places = [
        [int(found[1]) for version in load.message(one).versions if (found := PLACE.search(version.text))]
        for one in load.asked
    ]
    assert places[0][0] == 1
    assert all(number <= own[0] for number, own in enumerate(places[:8], 1))
    assert 8 <= places[7][0] <= max(places[7]) <= len(ASKING)
    assert max(places[7]) > 8
    assert any(after < before for own in places for before, after in itertools.pairwise(own))
    assert "goes first" in "".join(version.text for one in load.asked for version in load.message(one).versions)
