"""What the bench says of joining, leaving and taking turns is counted right, and is what the engine promises."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench.turns import Promptness, Turns, alone, joining, leaving, side_by_side
from bot.engine.diffusers_engine import DiffusersEngine
from tests.unit.engine.fakes import Notes, request
from tests.unit.engine.test_diffusers_engine import engine_of_two


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DiffusersEngine]:
    engine = engine_of_two(tmp_path_factory.mktemp("hub"))
    engine.generate(request(model="one", num_inference_steps=1), Notes())
    yield engine
    engine.close()


def test_joining_and_leaving_take_no_call_of_the_denoiser(engine: DiffusersEngine) -> None:
    asked = request(model="one", num_inference_steps=12)
    assert joining(engine, asked, rounds=2).calls == (0, 0)
    assert leaving(engine, asked, rounds=3).calls == (0, 0, 0)
    assert not engine.busy


def test_side_by_side_lanes_and_a_pipeline_wait_for_no_more_than_a_few_steps(engine: DiffusersEngine) -> None:
    turns = side_by_side(engine, request(model="one", num_inference_steps=10), "two")
    assert sorted(turns.calls) == ["one"] * 10 + ["two"] * 10
    assert engine.residents.use("two").family is not None  # as it was
    assert turns.longest_wait <= 10


def test_alone_times_each_way_as_often(engine: DiffusersEngine) -> None:
    theirs, ours = alone(engine, request(model="one", num_inference_steps=1), rounds=2)
    assert len(theirs) == len(ours) == 2
    assert min(theirs + ours) > 0


def test_longest_wait_counts_runs_only_while_both_have_some_left() -> None:
    assert Turns(1.0, 1.0, 2.0, tuple("ababbabbbb")).longest_wait == 2
    assert Turns(1.0, 1.0, 2.0, tuple("aaaabbbb")).longest_wait == 4


def test_promptness_says_the_worst_count() -> None:
    assert str(Promptness((0, 2, 1), (0.3, 0.1, 0.2))) == "2 denoiser calls at most, 0.200 s (median of 3)"
