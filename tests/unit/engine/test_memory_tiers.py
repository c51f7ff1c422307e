"""Models on the device, then in main memory, then on disk: who leaves for whom, and what comes back is what left."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from bot.engine.devices import Device
from bot.engine.diffusers_engine import DiffusersEngine
from bot.engine.memory.host_copies import HostCopy, tensors_of
from bot.engine.memory.main_memory import free_memory_bytes, main_memory_bytes
from bot.engine.memory.prefetch import Prefetcher
from bot.engine.memory.residents import Residents
from bot.errors import OutOfMemory
from tests.unit.engine.fakes import Notes, request
from tests.unit.engine.orders import admitted, alone, drawn, same, until
from tests.unit.engine.test_diffusers_engine import engine_of_two

PLENTY = 1 << 30


def two_tiers(folder: Path, ram: int = PLENTY, **options: Any) -> DiffusersEngine:
    """Room for one model on the device, which is the processor, and for `ram` bytes beside it."""
    return engine_of_two(folder, budget_bytes=1, ram_budget_bytes=ram, **options)


def test_load_model_that_left_the_device_comes_back_from_main_memory(tmp_path: Path) -> None:
    engine, notes = two_tiers(tmp_path), Notes()
    first = engine.generate(request(model="one"), notes).pictures[0]
    pipe = engine.residents.use("one").pipe
    engine.generate(request(model="two", num_inference_steps=1), notes)
    assert (engine.residents.models, engine.residents.models_in_main_memory) == ({"two"}, {"one"})
    again = engine.generate(request(model="one"), notes).pictures[0]
    assert (engine.residents.models, engine.residents.models_in_main_memory) == ({"one"}, {"two"})
    assert engine.residents.use("one").pipe is pipe
    assert again.pixels == first.pixels
    assert (engine.metrics.loads, engine.metrics.returns, engine.metrics.evictions) == (2, 1, 2)
    assert [note.model for note in notes.loads] == ["one", "one", "two", "two"]
    engine.close()
    assert not engine.residents.models_in_main_memory


def test_load_without_a_second_tier_reads_the_disk_again(tmp_path: Path) -> None:
    engine = engine_of_two(tmp_path, budget_bytes=1)
    for model in ("one", "two", "one"):
        engine.generate(request(model=model, num_inference_steps=1), Notes())
    assert (engine.metrics.loads, engine.metrics.returns) == (3, 0)


def test_load_main_memory_too_small_for_both_keeps_the_one_used_last(tmp_path: Path) -> None:
    sizes = two_tiers(tmp_path)
    sizes.generate(request(model="one", num_inference_steps=1), Notes())
    weights = sizes.residents.use("one").weights_bytes
    engine = two_tiers(tmp_path, ram=weights)
    engine.generate(request(model="one", num_inference_steps=1), Notes())
    assert engine.residents.use("one").host is not None
    engine.generate(request(model="two", num_inference_steps=1), Notes())
    # What "one" left behind fills it, so "two" has no copy there and takes the place of "one" as it leaves.
    assert engine.residents.use("two").host is None
    assert engine.residents.models_in_main_memory == {"one"}
    engine.generate(request(model="one", num_inference_steps=1), Notes())
    engine.residents.unload({"one"})
    assert engine.residents.models_in_main_memory == {"one"}
    smaller = two_tiers(tmp_path, ram=weights - 1)
    for model in ("one", "two"):
        smaller.generate(request(model=model, num_inference_steps=1), Notes())
    assert not smaller.residents.models_in_main_memory


def test_turn_lanes_outlive_their_models_way_to_main_memory_and_back(tmp_path: Path) -> None:
    engine = two_tiers(tmp_path, quantum_s=0.0)
    orders = [admitted(engine, model=model, num_inference_steps=3, sampler="Euler a") for model in ("one", "two")]
    pictures = drawn(engine, *orders)
    assert engine.metrics.loads == 2
    assert engine.metrics.returns >= 1
    for order, picture in zip(orders, pictures, strict=True):
        assert picture.pixels == alone(engine, order).pixels


def test_turn_out_of_memory_takes_idle_models_off_before_it_halves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of_two(tmp_path, ram_budget_bytes=PLENTY)
    for model in ("one", "two"):
        engine.generate(request(model=model, num_inference_steps=1), Notes())
    unet = engine.residents.use("two").pipe.unet
    forward, rows = unet.forward, []

    def tight(sample: Any, *args: Any, **kwargs: Any) -> Any:
        rows.append(sample.shape[0])
        if "one" in engine.residents:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(sample, *args, **kwargs)

    monkeypatch.setattr(unet, "forward", tight)
    drawn(engine, *(admitted(engine, model="two", seed=seed, num_inference_steps=2) for seed in range(2)))
    assert rows == [4, 4, 4]
    assert (engine.residents.models, engine.residents.models_in_main_memory) == ({"two"}, {"one"})
    monkeypatch.undo()
    rows.clear()
    forward = unet.forward

    def tighter(sample: Any, *args: Any, **kwargs: Any) -> Any:
        rows.append(sample.shape[0])
        raise torch.OutOfMemoryError("CUDA out of memory") if sample.shape[0] > 2 else StopIteration

    # With nobody idle it is halved, as before.
    monkeypatch.setattr(unet, "forward", tighter)
    orders = [admitted(engine, model="two", seed=seed, num_inference_steps=1) for seed in range(2)]
    until(engine, lambda: len(rows) == 2)
    assert rows == [4, 2]
    for order in orders:
        order.fail(OutOfMemory("enough"))
    monkeypatch.undo()
    drawn(engine, admitted(engine, model="two", num_inference_steps=1))


def test_load_main_memory_that_is_full_after_all_costs_a_reload_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = two_tiers(tmp_path)
    engine.generate(request(model="one", num_inference_steps=1), Notes())
    engine.residents.use("one").host = None

    def full(self: HostCopy) -> None:
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(HostCopy, "to_host", full)
    engine.residents.unload({"one"})
    monkeypatch.undo()
    assert not engine.residents.models_in_main_memory
    assert engine.generate(request(model="one", num_inference_steps=1), Notes()).pictures
    assert engine.metrics.loads == 2


def test_load_card_that_is_full_as_a_model_comes_back_makes_room_and_tries_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of_two(tmp_path, ram_budget_bytes=PLENTY)
    first = engine.generate(request(model="one"), Notes()).pictures[0]
    engine.residents.unload({"one"})
    engine.generate(request(model="two", num_inference_steps=1), Notes())
    copy, left = HostCopy.to_device, [True]

    def full_once(self: HostCopy, device: str) -> None:
        if left:
            left.clear()
            raise torch.OutOfMemoryError("CUDA out of memory")
        copy(self, device)

    monkeypatch.setattr(HostCopy, "to_device", full_once)
    assert engine.generate(request(model="one"), Notes()).pictures[0].pixels == first.pixels
    assert (engine.residents.models, engine.residents.models_in_main_memory) == ({"one"}, {"two"})


def test_load_card_without_room_for_what_comes_back_reads_it_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of_two(tmp_path, ram_budget_bytes=PLENTY)
    engine.generate(request(model="one", num_inference_steps=1), Notes())
    engine.residents.unload({"one"})
    copy = HostCopy.to_device

    def full(self: HostCopy, device: str) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    def read(*args: Any) -> Any:
        monkeypatch.setattr(HostCopy, "to_device", copy)
        return original(*args)

    original = engine.residents._read
    monkeypatch.setattr(engine.residents, "_read", read)
    monkeypatch.setattr(HostCopy, "to_device", full)
    assert engine.generate(request(model="one", num_inference_steps=1), Notes()).pictures
    assert (engine.metrics.loads, engine.metrics.returns) == (2, 0)
    assert not engine.residents.models_in_main_memory


class Parts:
    """A pipeline of one part."""

    def __init__(self) -> None:
        self.part = torch.nn.Linear(4, 4)
        self.components = {"unet": self.part, "scheduler": object()}


def test_host_copy_copies_back_only_what_has_changed() -> None:
    pipe = Parts()
    weight, bias = pipe.part.weight, pipe.part.bias
    copy = HostCopy(pipe, pin=False)
    copy.to_host()
    twins = weight.data_ptr(), bias.data_ptr()
    copy.to_device("cpu")
    assert weight.data_ptr() != twins[0]
    assert bias.data_ptr() != twins[1]
    assert copy.size_bytes == 20 * 4
    with torch.no_grad():
        bias.fill_(7.0)
    copy.to_host()
    assert weight.data_ptr() == twins[0]
    assert bias.data_ptr() != twins[1]
    assert pipe.part.bias.tolist() == [7.0] * 4
    assert pipe.part.weight is weight


def test_host_copy_follows_a_part_that_was_cast_and_back_while_drawing() -> None:
    pipe = Parts()
    pipe.part.half()
    before = pipe.part.weight.detach().clone()
    copy = HostCopy(pipe, pin=False)
    copy.to_host()
    copy.to_device("cpu")
    with torch.inference_mode():
        pipe.part.float()
        pipe.part.half()
    copy.to_host()
    copy.to_device("cpu")
    assert torch.equal(pipe.part.weight, before)
    assert pipe.part.weight.dtype == torch.float16


def test_host_copy_memory_that_cannot_be_locked_is_used_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, empty = Parts(), torch.empty_like

    def unlockable(*args: Any, pin_memory: bool = False, **kwargs: Any) -> Any:
        if pin_memory:
            raise RuntimeError("CUDA error: out of memory")
        return empty(*args, **kwargs)

    monkeypatch.setattr(torch, "empty_like", unlockable)
    before = [tensor.detach().clone() for tensor in tensors_of(pipe)]
    HostCopy(pipe, pin=True).to_host()
    assert all(torch.equal(one, other) for one, other in zip(tensors_of(pipe), before, strict=True))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, (None, 3000 * 1024)),
        ({"memory.max": "max", "memory.stat": "anon 5\n"}, (None, 3000 * 1024)),
        ({"memory.max": "1000000", "memory.stat": "anon 400000\nfile 9\n"}, (1000000, 600000)),
        (
            {"memory/memory.limit_in_bytes": "1000000", "memory/memory.stat": "cache 1\ntotal_rss 900000\n"},
            (1000000, 100000),
        ),
        ({"memory/memory.limit_in_bytes": str(2**63 - 4096)}, (None, 3000 * 1024)),
    ],
    ids=["no container", "no limit", "version 2", "version 1", "version 1 without a limit"],
)
def test_main_memory_is_what_the_container_may_use(
    tmp_path: Path, files: dict[str, str], expected: tuple[int | None, int]
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="ascii")
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable:    3000 kB\n", encoding="ascii")
    whole = main_memory_bytes(Path("/nowhere")) if expected[0] is None else expected[0]
    assert main_memory_bytes(tmp_path) == whole
    assert free_memory_bytes(tmp_path, tmp_path / "meminfo") == expected[1]


def test_free_memory_of_a_system_that_does_not_tell_is_unknown(tmp_path: Path) -> None:
    assert free_memory_bytes(tmp_path, tmp_path / "meminfo") is None


@pytest.mark.parametrize(("device", "kept"), [("cpu", False), ("mps", False), ("cuda:0", True)])
def test_residents_only_a_card_with_its_own_memory_has_a_second_tier(
    device: str, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bot.engine.memory.residents.free_bytes", lambda _: None)
    found: Any = Residents(None, None, Device(device, "x", "fp32", 1000), None)  # type: ignore[arg-type]
    assert (found._shelf._budget > 0) is kept


def gated_open(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Let nothing be opened before the second event; the first says that something wants to be."""
    reached, go = threading.Event(), threading.Event()
    original = Path.open

    def gated(self: Path, *args: Any, **kwargs: Any) -> Any:
        if threading.current_thread().name == "prefetch":
            reached.set()
            assert go.wait(60)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", gated)
    return reached, go


def wait_for(prefetcher: Prefetcher) -> None:
    thread = prefetcher._thread
    assert thread is not None
    thread.join(60)


def test_prefetcher_reads_every_byte_of_the_model_that_was_asked_for(tmp_path: Path) -> None:
    files = [tmp_path / "one", tmp_path / "two"]
    for file in files:
        file.write_bytes(b"x" * 2500)
    prefetcher = Prefetcher(chunk_bytes=1000)
    prefetcher.want("model", files)
    wait_for(prefetcher)
    assert (prefetcher.read_bytes, prefetcher.model, prefetcher.busy) == (5000, "model", False)


def test_prefetcher_stops_within_a_chunk_and_drops_what_nobody_wants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dropped: list[Path] = []
    monkeypatch.setattr("bot.engine.memory.prefetch._forget", dropped.append)
    file = tmp_path / "one"
    file.write_bytes(b"x" * 5000)
    prefetcher = Prefetcher(chunk_bytes=1000)
    _, go = gated_open(monkeypatch)
    prefetcher.want("model", [file])
    prefetcher._stop.set()
    go.set()
    wait_for(prefetcher)
    assert prefetcher.read_bytes == 0
    monkeypatch.undo()
    monkeypatch.setattr("bot.engine.memory.prefetch._forget", dropped.append)
    prefetcher.stop()
    assert prefetcher.model is None
    prefetcher.want("model", [file])
    wait_for(prefetcher)
    assert not dropped
    prefetcher.drop()
    assert dropped == [file]


def test_prefetcher_leaves_alone_what_would_fill_the_memory(tmp_path: Path) -> None:
    file = tmp_path / "one"
    file.write_bytes(b"x" * 5000)
    prefetcher = Prefetcher(free_bytes=lambda: 9999)
    prefetcher.want("model", [file])
    assert not prefetcher.busy
    assert prefetcher.read_bytes == 0


def test_turn_next_model_is_read_ahead_while_others_draw_and_never_beside_a_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    engine = engine_of_two(tmp_path, budget_bytes=1, quantum_s=30.0, tick=lambda: now[0])
    first = admitted(engine, model="one", num_inference_steps=6)
    until(engine, lambda: engine.residents.models == {"one"})
    prefetcher = engine.residents._prefetcher
    assert prefetcher.model is None
    second = admitted(engine, model="two", num_inference_steps=1)
    engine.turn()
    assert prefetcher.model == "two"
    wait_for(prefetcher)
    assert prefetcher.read_bytes == sum(file.stat().st_size for file in _weights_of(engine, "two"))
    busy: list[bool] = []
    read = engine.residents._read
    monkeypatch.setattr(engine.residents, "_read", lambda *args: (busy.append(prefetcher.busy), read(*args))[1])
    now[0] = 31.0
    pictures = drawn(engine, first, second)
    assert busy[0] is False
    monkeypatch.undo()
    same(pictures[0], alone(engine, first))


def test_turn_model_that_nobody_waits_for_any_more_is_not_read_ahead(tmp_path: Path) -> None:
    engine = engine_of_two(tmp_path, budget_bytes=1, quantum_s=30.0, tick=lambda: 0.0)
    first = admitted(engine, model="one", num_inference_steps=8)
    until(engine, lambda: engine.residents.models == {"one"})
    second = admitted(engine, model="two")
    engine.turn()
    assert engine.residents._prefetcher.model == "two"
    second.listener.gone = True  # type: ignore[attr-defined]
    engine.turn()
    assert engine.residents._prefetcher.model is None
    drawn(engine, first)


def _weights_of(engine: DiffusersEngine, model: str) -> list[Path]:
    folder, _ = engine._files.locate(model)
    return list(folder.rglob("*.safetensors"))
