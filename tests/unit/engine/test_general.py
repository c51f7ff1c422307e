"""Pipelines that are called as a whole, beside lanes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bot.engine.diffusers_engine import DiffusersEngine
from bot.engine.lanes import lane_room
from bot.engine.lanes.timetables import NotLinear
from bot.engine.memory import residents
from bot.errors import (
    GenerationCancelled,
)
from tests.unit.engine.fakes import Notes, request
from tests.unit.engine.orders import admitted, alone, drawn, error_of, same, until
from tests.unit.engine.test_diffusers_engine import engine_of_two


def general(monkeypatch: pytest.MonkeyPatch, model: str = "two") -> None:
    """Let a model have no lanes; its pipeline is called as a whole."""
    family_of = residents.family_of
    loads: list[Any] = []

    def found(pipe: Any) -> Any:
        loads.append(pipe)
        return family_of(pipe) if model == "two" and len(loads) == 1 else None

    monkeypatch.setattr(residents, "family_of", found)


def traced(engine: DiffusersEngine, monkeypatch: pytest.MonkeyPatch, *models: str) -> list[tuple[str, int]]:
    calls: list[tuple[str, int]] = []
    for model in models:
        engine.generate(request(model=model, num_inference_steps=1), Notes())
        unet = engine.residents.use(model).pipe.unet

        def counted(sample: Any, *args: Any, model: str = model, forward: Any = unet.forward, **kwargs: Any) -> Any:
            calls.append((model, sample.shape[0]))
            return forward(sample, *args, **kwargs)

        monkeypatch.setattr(unet, "forward", counted)
    return calls


def test_general_pipeline_and_lanes_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    general(monkeypatch)
    engine = engine_of_two(tmp_path)
    calls = traced(engine, monkeypatch, "one", "two")
    assert engine.residents.use("one").family is not None
    assert engine.residents.use("two").family is None
    whole = admitted(engine, model="two", member="bob", num_inference_steps=24)
    while len(calls) < 3:
        engine.turn()
    lane = admitted(engine, model="one", member="ada", num_inference_steps=4)
    (picture, _) = drawn(engine, whole, lane)
    order = [model for model, _ in calls]
    assert sorted(order) == ["one"] * 4 + ["two"] * 24
    first, last = order.index("one"), len(order) - 1 - order[::-1].index("one")
    # A request that joins is in the next step, and does not wait for the pipeline's call to end.
    assert first <= 4, order
    assert order[last + 1 :].count("two") >= 8, order
    assert [(p.step, p.steps) for p in whole.listener.progress] == [(n, 24) for n in range(1, 25)]  # type: ignore[attr-defined]
    # The same request, drawn in a lane and by the pipeline's own call.
    same(picture, *drawn(engine, admitted(engine, model="one", num_inference_steps=24)))


def test_general_equal_requests_share_a_call_and_others_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    general(monkeypatch, "both")
    engine = engine_of_two(tmp_path)
    calls = traced(engine, monkeypatch, "one")
    alike = [admitted(engine, model="one", seed=seed, num_inference_steps=2) for seed in (1, 5)]
    other = admitted(engine, "a cat", model="one", num_inference_steps=2)
    pictures = drawn(engine, *alike, other)
    assert sorted(rows for _, rows in calls) == [2, 2, 4, 4]
    for order, picture in zip((*alike, other), pictures, strict=True):
        same(picture, alone(engine, order))


def test_general_cancelled_stops_within_its_step_and_leaves_the_pipeline_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    general(monkeypatch, "both")
    engine = engine_of_two(tmp_path)
    calls = traced(engine, monkeypatch, "one")
    pipe = engine.residents.use("one").pipe
    own, freed = pipe.scheduler, []
    monkeypatch.setattr(pipe, "maybe_free_model_hooks", lambda: freed.append(1))
    order = admitted(engine, model="one", num_inference_steps=20, sampler="Euler")
    until(engine, lambda: len(calls) == 3)
    order.listener.gone = True  # type: ignore[attr-defined]
    engine.turn()
    assert isinstance(error_of(order), GenerationCancelled)
    assert len(calls) == 3
    assert not engine.busy
    assert pipe.scheduler is own
    assert freed
    monkeypatch.undo()
    drawn(engine, admitted(engine, model="one"))


def test_general_out_of_memory_halves_the_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    general(monkeypatch, "both")
    engine = engine_of_two(tmp_path)
    engine.generate(request(model="one", num_inference_steps=1), Notes())
    unet = engine.residents.use("one").pipe.unet
    forward, rows = unet.forward, []

    def tight(sample: Any, *args: Any, **kwargs: Any) -> Any:
        rows.append(sample.shape[0])
        if sample.shape[0] > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(sample, *args, **kwargs)

    monkeypatch.setattr(unet, "forward", tight)
    order = admitted(engine, model="one", count=4, num_inference_steps=1)
    drawn(engine, order)
    assert rows[:3] == [8, 4, 2]
    assert [picture.seed for picture in order.future.result(0).pictures] == [7, 8, 9, 10]


def test_general_sde_sampler_gives_each_picture_the_noise_of_its_own_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    general(monkeypatch)
    engine = engine_of_two(tmp_path)
    traced(engine, monkeypatch, "one", "two")
    asked = {"sampler": "DPM++ SDE", "num_inference_steps": 3}
    whole = admitted(engine, model="two", count=2, **asked)
    drawn(engine, whole)
    for n, picture in enumerate(whole.future.result(0).pictures):
        same(picture, *drawn(engine, admitted(engine, model="one", seed=7 + n, **asked)))  # in a lane


def test_general_is_left_to_what_lanes_cannot_express(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of_two(tmp_path)
    plain = engine.generate(request(model="one"), Notes()).pictures[0]

    def refuse(*_: Any) -> Any:
        raise NotLinear("this one clips")

    monkeypatch.setattr(lane_room, "read_timetable", refuse)
    engine.close()
    other = engine_of_two(tmp_path)
    same(other.generate(request(model="one"), Notes()).pictures[0], plain)
