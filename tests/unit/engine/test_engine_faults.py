"""What goes wrong in the engine costs whose it is, and the next request is drawn."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from bot.catalogue.models import Catalogue
from bot.engine.devices import Device, Pace, is_device_lost
from bot.engine.diffusers_engine import DiffusersEngine
from bot.engine.guard import CPU_TURN_LIMIT_S
from bot.engine.lanes.lane import lane as lanes
from bot.engine.memory import residents
from bot.errors import (
    DeviceLost,
    GenerationError,
    InvalidOutput,
    ModelError,
    OutOfMemory,
    RequestError,
)
from bot.scheduling.gpu_thread import GpuThread
from tests.unit.engine.fakes import ROOT, Notes, request
from tests.unit.engine.orders import admitted, alone, drawn, error_of, same, until
from tests.unit.engine.test_diffusers_engine import engine_of_two


@pytest.fixture(scope="module")
def engine(catalogue: Catalogue, tmp_path_factory: pytest.TempPathFactory) -> DiffusersEngine:
    """One for these tests alone: others teach theirs that little fits."""
    cache = tmp_path_factory.mktemp("hub")
    return DiffusersEngine(catalogue, models_root=ROOT, cache_dir=cache, device="cpu", dtype="auto", max_batch=4)


def test_metrics_count_steps_rows_and_pictures(tmp_path: Path) -> None:
    engine = engine_of_two(tmp_path)
    drawn(engine, *(admitted(engine, model="one", seed=seed, num_inference_steps=5) for seed in range(2)))
    numbers = engine.metrics
    (one,) = numbers.models
    assert (one.model, one.passes, one.rows, one.steps, one.pictures) == ("one", 5, 20, 10, 2)
    assert one.rows_per_pass == 4.0
    assert one.steps_per_s > 0
    assert (numbers.loads, numbers.failures, numbers.memory_used_bytes) == (1, 0, None)
    assert "one: " in str(numbers)
    assert "4.0 rows a pass" in str(numbers)


def test_turn_broken_row_fails_its_own_request_alone(
    engine: DiffusersEngine, unet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = unet.forward

    def broken(sample: Any, *args: Any, **kwargs: Any) -> Any:
        output = forward(sample, *args, **kwargs)[0].clone()
        output[0] = float("nan")
        return (output,)

    monkeypatch.setattr(unet, "forward", broken)
    first, second = (admitted(engine, seed=seed) for seed in (1, 2))
    (picture,) = drawn(engine, second)
    monkeypatch.undo()
    assert isinstance(error_of(first), InvalidOutput)
    same(picture, alone(engine, second))


def test_turn_fault_in_a_shared_step_costs_only_whose_it_is(
    engine: DiffusersEngine, unet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = unet.forward

    def fussy(sample: Any, *args: Any, **kwargs: Any) -> Any:
        if sample.shape[0] % 2:
            raise ValueError("secret")
        return forward(sample, *args, **kwargs)

    monkeypatch.setattr(unet, "forward", fussy)
    good, other = (admitted(engine, seed=seed) for seed in (1, 2))
    poison = admitted(engine, guidance_scale=1.0)  # a single row
    pictures = drawn(engine, good, other) if engine.turn() else []
    assert type(error_of(poison)) is GenerationError
    assert "secret" not in str(error_of(poison))
    monkeypatch.undo()
    same(pictures[0], alone(engine, good))
    same(pictures[1], alone(engine, other))


@pytest.mark.parametrize("sampler", ["DDIM", "Euler a"])
@pytest.mark.parametrize("where", ["denoiser", "sampler"])
def test_turn_out_of_memory_in_the_middle_goes_on_from_where_it_stood(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampler: str, where: str
) -> None:
    engine = engine_of_two(tmp_path)
    engine.generate(request(model="one", num_inference_steps=1), Notes())
    unet = engine.residents.use("one").pipe.unet
    owner, name = (unet, "forward") if where == "denoiser" else (lanes, "advance")
    original, rows = getattr(owner, name), []

    def tight(first: Any, *args: Any, **kwargs: Any) -> Any:
        rows.append(first.shape[0])
        if len(rows) >= 3 and first.shape[0] > (4 if where == "denoiser" else 2):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(first, *args, **kwargs)

    monkeypatch.setattr(owner, name, tight)
    orders = [
        admitted(engine, model="one", seed=seed, sampler=sampler, num_inference_steps=5, member=seed)
        for seed in range(4)
    ]
    pictures = drawn(engine, *orders)
    monkeypatch.undo()
    full = 8 if where == "denoiser" else 4
    assert rows == [full] * 3 + [full // 2] * 6
    assert engine.metrics.out_of_memory == 1
    for order, picture in zip(orders, pictures, strict=True):
        same(picture, alone(engine, order))


def test_turn_out_of_memory_alone_unloads_other_models_before_it_gives_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of_two(tmp_path)
    for model in ("one", "two"):
        engine.generate(request(model=model, num_inference_steps=1), Notes())
    unet = engine.residents.use("two").pipe.unet
    forward = unet.forward

    def tight(*args: Any, **kwargs: Any) -> Any:
        if "one" in engine.residents:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(*args, **kwargs)

    monkeypatch.setattr(unet, "forward", tight)
    order = admitted(engine, model="two")
    drawn(engine, order)
    assert engine.residents.models == {"two"}

    def full(*args: Any, **kwargs: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(unet, "forward", full)
    with pytest.raises(OutOfMemory, match=r"two has no room for 64×64.*smaller size"):
        drawn(engine, admitted(engine, model="two"))
    monkeypatch.undo()
    drawn(engine, admitted(engine, model="two"))


def test_turn_device_error_that_cannot_be_survived_is_raised(
    engine: DiffusersEngine, unet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dead(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(unet, "forward", dead)
    order = admitted(engine)
    with pytest.raises(DeviceLost, match="a step failed: CUDA error"):
        drawn(engine, order)
    engine.close()
    assert not engine.busy


def test_work_names_the_requests_of_the_turn_in_progress(
    engine: DiffusersEngine, unet: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, seen = unet.forward, []

    def looked_at(*args: Any, **kwargs: Any) -> Any:
        seen.append(engine.work)
        return forward(*args, **kwargs)

    monkeypatch.setattr(unet, "forward", looked_at)
    orders = [admitted(engine, seed=seed, num_inference_steps=1) for seed in range(2)]
    drawn(engine, *orders)
    (work,) = seen
    assert work is not None
    assert (work.what, set(work.orders)) == ("a step", set(orders))
    assert work.limit_s >= 300
    assert engine.work is None


def test_turn_request_that_a_watchdog_gave_up_leaves_and_the_others_go_on(
    engine: DiffusersEngine, rows: list[int]
) -> None:
    first, second = (admitted(engine, num_inference_steps=6, seed=seed) for seed in (1, 2))
    until(engine, lambda: len(rows) == 2)
    first.fail(GenerationError("It took too long."))
    drawn(engine, second)
    assert rows == [4, 4, 2, 2, 2, 2]
    assert str(error_of(first)) == "It took too long."


@pytest.mark.parametrize(
    ("changes", "kind"),
    [({"model": "gone"}, ModelError), ({"sampler": "Turbo"}, RequestError)],
    ids=["model", "sampler"],
)
def test_admit_request_that_cannot_be_drawn_ends_alone(
    engine: DiffusersEngine, changes: dict[str, Any], kind: type[Exception]
) -> None:
    good, bad = admitted(engine), admitted(engine, **changes)
    drawn(engine, good)
    assert isinstance(error_of(bad), kind)


def test_turn_hang_is_given_up_by_the_watchdog_and_the_next_request_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    engine = engine_of_two(tmp_path, tick=lambda: now[0])
    gpu = GpuThread(engine, tick=lambda: now[0])
    gpu.start()
    gpu.submit(request(model="one", num_inference_steps=1), Notes()).result(60)
    unet = engine.residents.use("one").pipe.unet
    forward, hangs, released = unet.forward, threading.Event(), threading.Event()

    def stuck(*args: Any, **kwargs: Any) -> Any:
        hangs.set()
        released.wait(60)
        return forward(*args, **kwargs)

    monkeypatch.setattr(unet, "forward", stuck)
    hung = gpu.submit(request(model="one"), Notes())
    assert hangs.wait(60)
    gpu.watch()
    assert not hung.done()
    now[0] += CPU_TURN_LIMIT_S + 1
    gpu.watch()
    with pytest.raises(GenerationError, match="did not answer"):
        hung.result(0)
    monkeypatch.undo()
    released.set()
    assert gpu.submit(request(model="one"), Notes()).result(60).pictures
    assert not gpu.lost.done()
    assert gpu.stop(10)


@pytest.mark.parametrize(
    ("memory", "free", "is_gpu", "expected"),
    [(None, None, False, None), (100, None, False, 50), (100, 90, True, 76), (100, 20, True, 17)],
    ids=["unknown", "a share of the RAM", "a card", "a card that others use"],
)
def test_budget_follows_from_what_is_free(
    memory: int | None, free: int | None, is_gpu: bool, expected: int | None
) -> None:
    assert residents.budget_of(memory, free, is_gpu=is_gpu) == expected


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("CUDA error: an illegal memory access was encountered", True),
        ("CUDA error: device-side assert triggered", True),
        ("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", True),
        ("CUDA error: out of memory", False),
        ("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED", False),
        ("CUDA error: no kernel image is available for execution on the device", False),
        ("shape '[1, 2]' is invalid for input of size 3", False),
    ],
)
def test_is_device_lost_only_for_what_no_later_call_survives(text: str, lost: bool) -> None:
    assert is_device_lost(RuntimeError(text)) is lost
    assert not is_device_lost(ValueError(text))


def test_pace_on_cuda_keeps_one_step_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    happened: list[str] = []

    class Event:
        made = 0

        def __init__(self) -> None:
            Event.made += 1
            self.number = Event.made

        def record(self) -> None:
            happened.append(f"record {self.number}")

        def synchronize(self) -> None:
            happened.append(f"wait {self.number}")

    monkeypatch.setattr(torch.cuda, "Event", Event)
    pace = Pace(Device("cuda:0", "a card", "bf16", None))
    for _ in range(3):
        pace.keep()
    assert happened == ["record 1", "record 2", "wait 1", "record 3", "wait 2"]
