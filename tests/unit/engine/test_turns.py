"""Many requests in one engine: who shares a pass, who joins and leaves when, whose model is in memory."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from bot.catalogue.models import Catalogue
from bot.engine.base import Order
from bot.engine.diffusers_engine import DiffusersEngine
from bot.errors import (
    GenerationCancelled,
)
from tests.unit.engine.fakes import ROOT, Notes, request
from tests.unit.engine.orders import admitted, alone, drawn, error_of, same, until
from tests.unit.engine.test_diffusers_engine import engine_of_two


@pytest.fixture(scope="module")
def engine(catalogue: Catalogue, tmp_path_factory: pytest.TempPathFactory) -> DiffusersEngine:
    """One for these tests alone: others teach theirs that little fits."""
    cache = tmp_path_factory.mktemp("hub")
    return DiffusersEngine(catalogue, models_root=ROOT, cache_dir=cache, device="cpu", dtype="auto", max_batch=4)


def test_turn_two_requests_at_different_steps_share_one_denoiser_call(engine: DiffusersEngine, rows: list[int]) -> None:
    first = admitted(engine, num_inference_steps=6, sampler="Euler")
    until(engine, lambda: len(rows) == 2)
    second = admitted(engine, "a cat", num_inference_steps=4, sampler="DDIM", seed=9)
    pictures = drawn(engine, first, second)
    assert rows == [2, 2, 4, 4, 4, 4]
    for order, picture in zip((first, second), pictures, strict=True):
        same(picture, alone(engine, order))


def test_turn_request_that_joins_is_in_the_next_step(engine: DiffusersEngine, rows: list[int]) -> None:
    first = admitted(engine, num_inference_steps=8)
    until(engine, lambda: len(rows) == 3)
    second = admitted(engine, "a prompt nobody has asked for", num_inference_steps=2)
    until(engine, lambda: len(rows) == 4)
    assert rows[-1] == 4
    drawn(engine, first, second)
    assert len(rows) == 8


def test_turn_request_that_is_alone_costs_its_prompt_its_steps_and_its_decoding(
    engine: DiffusersEngine, rows: list[int]
) -> None:
    """Where nobody else is there, nothing stands between its steps."""
    order = admitted(engine, "nobody else is there", num_inference_steps=6)
    turns = 0
    while engine.busy:
        engine.turn()
        turns += 1
    assert turns == 1 + 6 + 1
    assert rows == [2] * 6
    assert order.future.result(0).pictures


def test_turn_many_that_come_at_once_do_not_hold_up_a_full_pass(engine: DiffusersEngine, rows: list[int]) -> None:
    running = [admitted(engine, num_inference_steps=20, seed=seed) for seed in range(4)]
    until(engine, lambda: len(rows) == 2)
    late = [admitted(engine, f"number {n}", member=n + 1, num_inference_steps=8) for n in range(3)]
    for _ in range(6):
        engine.turn()
    assert len(rows) == 2 + 3  # a prompt, a step, a prompt, a step
    drawn(engine, *running, *late)


def test_turn_cancelled_request_is_in_no_further_step(engine: DiffusersEngine, rows: list[int]) -> None:
    first, second = (admitted(engine, num_inference_steps=8, seed=seed) for seed in (1, 2))
    until(engine, lambda: len(rows) == 3)
    second.listener.gone = True  # type: ignore[attr-defined]
    until(engine, lambda: len(rows) == 4)
    assert rows == [4, 4, 4, 2]
    assert isinstance(error_of(second), GenerationCancelled)
    same(drawn(engine, first)[0], alone(engine, first))


def test_turn_four_step_request_does_not_wait_for_a_long_one_of_another_size(
    engine: DiffusersEngine, rows: list[int]
) -> None:
    long = admitted(engine, num_inference_steps=30, member="ada")
    short = admitted(engine, num_inference_steps=4, member="bob", width=96)
    until(engine, lambda: short.over)
    assert len(rows) <= 4 + 5 + 1  # by turns, whatever the sizes cost
    assert not long.over
    drawn(engine, long, short)


def test_turn_finished_pictures_are_decoded_together(engine: DiffusersEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine.generate(request(num_inference_steps=1), Notes())
    vae = engine.residents.use("pocket").pipe.vae
    decode, decoded = vae.decode, []

    def counted(latents: Any, *args: Any, **kwargs: Any) -> Any:
        decoded.append(latents.shape[0])
        return decode(latents, *args, **kwargs)

    monkeypatch.setattr(vae, "decode", counted)
    drawn(engine, *(admitted(engine, seed=seed) for seed in range(3)))
    assert decoded == [3]


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_turn_requests_of_all_kinds_that_come_and_go_are_drawn_as_alone(engine: DiffusersEngine, seed: int) -> None:
    chance = random.Random(seed)
    kinds = {"sampler": ("DDIM", "Euler a", "DPM++ 2M Karras", "Heun"), "width": (64, 64, 96), "count": (1, 1, 3)}
    coming = [
        {
            **{name: chance.choice(values) for name, values in kinds.items()},
            "num_inference_steps": chance.randint(1, 8), "guidance_scale": chance.choice((1.0, 4.0)), "seed": number * 10,
            "prompt": chance.choice(("a cat", "a forest", "a sunset over a beach")), "member": chance.randrange(4),
        }
        for number in range(10)
    ]  # fmt: skip
    orders: list[Order] = []
    gone: list[Order] = []
    while coming or engine.busy:
        if coming and (not engine.busy or chance.random() < 0.3):
            orders.append(admitted(engine, **coming.pop()))
        engine.turn()
        waiting = [order for order in orders if not order.over]
        if waiting and len(gone) < 2 and chance.random() < 0.05:
            gone.append(chance.choice(waiting))
            gone[-1].listener.gone = True  # type: ignore[attr-defined]
    finished = [order for order in orders if not isinstance(error_of(order), GenerationCancelled)]
    assert len(finished) >= 8
    for order in finished:
        for together, own in zip(
            order.future.result(0).pictures, engine.generate(order.request, Notes()).pictures, strict=True
        ):
            same(together, own)


def test_turn_same_prompt_is_encoded_once(engine: DiffusersEngine) -> None:
    before = engine.metrics
    drawn(engine, *(admitted(engine, "a prompt of its own", seed=seed) for seed in range(3)))
    after = engine.metrics
    assert (after.prompt_misses - before.prompt_misses, after.prompt_hits - before.prompt_hits) == (1, 2)


def test_turn_switches_models_after_the_quantum_and_comes_back_to_where_it_was(tmp_path: Path) -> None:
    now = [0.0]
    engine = engine_of_two(tmp_path, budget_bytes=1, quantum_s=30.0, tick=lambda: now[0])
    first = admitted(engine, model="one", num_inference_steps=12, sampler="Euler a")
    for _ in range(5):
        engine.turn()
    second = admitted(engine, model="two", num_inference_steps=12)
    for _ in range(4):
        now[0] += 7.0
        engine.turn()
        assert engine.residents.models == {"one"}
    now[0] += 3.0
    engine.turn()
    assert engine.residents.models == {"two"}
    assert not first.over
    for _ in range(4):  # now the first waits for a quantum of its own
        now[0] += 7.0
        engine.turn()
        assert engine.residents.models == {"two"}
    now[0] += 3.0
    engine.turn()
    assert engine.residents.models == {"one"}
    pictures = drawn(engine, first, second)
    for order, picture in zip((first, second), pictures, strict=True):
        assert picture.pixels == alone(engine, order).pixels


def test_turn_without_a_quantum_every_model_still_takes_steps(tmp_path: Path) -> None:
    engine = engine_of_two(tmp_path, budget_bytes=1, quantum_s=0.0)
    orders = [admitted(engine, model=model, num_inference_steps=3) for model in ("one", "two")]
    drawn(engine, *orders)
    assert engine.metrics.loads <= 8


def test_turn_model_that_fits_beside_the_others_waits_for_no_quantum(tmp_path: Path) -> None:
    engine = engine_of_two(tmp_path)
    first = admitted(engine, model="one", num_inference_steps=12)
    for _ in range(3):
        engine.turn()
    second = admitted(engine, model="two")
    engine.turn()
    assert engine.residents.models == {"one", "two"}
    drawn(engine, first, second)
