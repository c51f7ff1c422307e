"""What may be adult goes only where that is allowed: previews, input pictures."""

from __future__ import annotations

import itertools
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from bot.errors import ModerationRefused
from bot.moderation import AdultPolicy
from bot.safety.judge import Judge
from bot.scheduling.events import Drawing, Rendered
from tests.unit.files.pictures import FixedScore
from tests.unit.scheduling.fakes import World
from tests.unit.store.support import request

POLICIES = [
    pytest.param(AdultPolicy(), False, False, id="open channel"),
    pytest.param(AdultPolicy(), True, True, id="age-restricted channel"),
    pytest.param(AdultPolicy(in_age_restricted=False), True, False, id="age-restricted channel, never"),
]


def sent() -> bytes:
    out = BytesIO()
    Image.new("RGB", (32, 32), "teal").save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize(("policy", "age_restricted", "allowed"), POLICIES)
@pytest.mark.parametrize("score", [0.9, RuntimeError("no session")], ids=["adult", "unjudged"])
async def test_service_adult_preview_and_input_follow_the_policy_of_the_channel(
    tmp_path: Path, policy: AdultPolicy, age_restricted: bool, allowed: bool, score: float | Exception
) -> None:
    ticks = itertools.count()
    async with World(tmp_path, adult=policy, tick=lambda: float(next(ticks))) as world:
        world.archive._judge = Judge(FixedScore(score))
        origin = world.origin(age_restricted=age_restricted)
        gate = world.hold("a cat")
        job = await world.service.submit(request(prompt="a cat"), origin)
        await world.heard(Drawing, job.id)
        gate.set()
        rendered = await world.heard(Rendered, job.id)
        assert [file.flagged for file in rendered.job.files] == [True] * len(rendered.job.files)
        assert any(event.preview for event in world.told(Drawing, job.id)) is allowed
        if allowed:
            assert await world.service.take_input(sent(), age_restricted=True)
            assert await world.service.take_result(rendered.job, 0, age_restricted=True)
        else:
            with pytest.raises(ModerationRefused, match="withheld"):
                await world.service.take_result(rendered.job, 0, age_restricted=age_restricted)
            with pytest.raises(ModerationRefused):
                await world.service.take_input(sent(), age_restricted=age_restricted)


@pytest.mark.parametrize("age_restricted", [False, True])
async def test_service_harmless_input_may_be_used_anywhere(tmp_path: Path, age_restricted: bool) -> None:
    async with World(tmp_path) as world:
        taken = await world.service.take_input(sent(), age_restricted=age_restricted)
        assert (taken.width, taken.height) == (32, 32)
