"""A fault put into each part of drawing ends as designed, is told in a member's words, and the next request is drawn."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from bot.engine.base import Order
from bot.engine.devices import is_device_lost
from bot.engine.diffusers_engine import DiffusersEngine
from bot.engine.guard import CPU_TURN_LIMIT_S
from bot.engine.lanes import lane_room
from bot.engine.loading.pipelines import pipelines as loading
from bot.engine.memory import residents
from bot.errors import DeviceLost, EaselError, GenerationError, InvalidOutput, ModelError, OutOfMemory
from bot.scheduling.gpu_thread import GpuThread
from tests.unit.engine.fakes import Notes, request
from tests.unit.engine.test_diffusers_engine import engine_of_two

FOREIGN = ("CUDA", "torch", "tensor", "Error", "alloc", "GiB", "secret", "Traceback", "\n", "None")
"""Words of programs, not of members."""
NO_ROOM = "one does not fit into this machine's memory; choose a smaller model"
NO_MEMORY = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. secret")
BUG = ValueError("secret: tensor a (4) must match tensor b (3)")
DEAD = RuntimeError("CUDA error: an illegal memory access was encountered\nsecret")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DiffusersEngine]:
    engine = engine_of_two(tmp_path_factory.mktemp("hub"))
    for model in ("one", "two"):
        engine.generate(request(model=model, num_inference_steps=1), Notes())
    yield engine
    engine.close()


@pytest.fixture(params=["lanes", "whole pipeline"])
def engine(shared: DiffusersEngine, request: pytest.FixtureRequest) -> Iterator[DiffusersEngine]:
    """The one model in lanes, or drawn by its pipeline's own call."""
    wanted = _asked()
    if "one" not in shared.residents:
        shared.generate(wanted, Notes())
    loaded = shared.residents.use("one")
    family = loaded.family
    if request.param == "whole pipeline":
        loaded.family = None
    yield shared
    loaded.family = family


def _asked(**changes: Any) -> Any:
    # A prompt of its own each time: what is encoded once is not encoded again.
    _asked.number = getattr(_asked, "number", 0) + 1  # type: ignore[attr-defined]
    return request(f"number {_asked.number}", model="one", num_inference_steps=2, **changes)  # type: ignore[attr-defined]


def raising(error: Exception) -> Callable[[Any], Any]:
    def fault(_: Any) -> Any:
        raise error

    return fault


def filled(value: float) -> Callable[[Any], Any]:
    def fault(output: Any) -> Any:
        if isinstance(output, tuple):
            return tuple(torch.full_like(part, value) for part in output)  # type: ignore[arg-type]
        output.sample = torch.full_like(output.sample, value)
        return output

    return fault


def broken(pipe: Any, place: str, fault: Callable[[Any], Any], patch: pytest.MonkeyPatch) -> None:
    owner, name = {
        "encoding": (pipe.text_encoder, "forward"),
        "denoising": (pipe.unet, "forward"),
        "decoding": (pipe.vae, "decode"),
    }[place]
    original = getattr(owner, name)
    patch.setattr(owner, name, lambda *args, **kwargs: fault(original(*args, **kwargs)))


@pytest.mark.parametrize("place", ["encoding", "denoising", "decoding"])
@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        pytest.param(
            raising(NO_MEMORY), OutOfMemory, "one has no room for 64×64.*ask for a smaller size", id="no memory"
        ),
        pytest.param(raising(BUG), GenerationError, "went wrong.*logged; try again", id="a bug"),
    ],
)
def test_fault_anywhere_is_a_sentence_and_the_next_request_is_drawn(
    engine: DiffusersEngine, monkeypatch: pytest.MonkeyPatch, place: str, fault: Any, kind: type, words: str
) -> None:
    with monkeypatch.context() as patch:
        broken(engine.residents.use("one").pipe, place, fault, patch)
        with pytest.raises(kind, match=words) as caught:
            engine.generate(_asked(), Notes())
    assert type(caught.value) is kind
    fit_for_a_member(caught.value)
    assert engine.generate(_asked(), Notes()).pictures


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("denoising", float("nan"), "broken picture"),
        ("denoising", float("inf"), "broken picture"),
        ("decoding", float("nan"), "broken picture"),
        ("decoding", -1e9, "black picture"),
    ],
)
def test_output_that_is_no_picture_is_refused_and_the_next_request_is_drawn(
    engine: DiffusersEngine, monkeypatch: pytest.MonkeyPatch, place: str, value: float, words: str
) -> None:
    with monkeypatch.context() as patch:
        broken(engine.residents.use("one").pipe, place, filled(value), patch)
        with pytest.raises(InvalidOutput, match=f"one gave a {words}.*try another seed") as caught:
            engine.generate(_asked(), Notes())
    fit_for_a_member(caught.value)
    assert engine.generate(_asked(), Notes()).pictures


def test_dead_device_is_told_apart_and_ends_what_is_drawn_as_lost(
    engine: DiffusersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_device_lost(DEAD)
    gpu = GpuThread(engine)
    with monkeypatch.context() as patch:
        broken(engine.residents.use("one").pipe, "denoising", raising(DEAD), patch)
        gpu.start()
        with pytest.raises(DeviceLost, match="try again in a minute") as caught:
            gpu.submit(_asked(), Notes()).result(120)
        fit_for_a_member(caught.value)
        assert "starts anew" in gpu.lost.result(60)
        with pytest.raises(DeviceLost):
            gpu.submit(_asked(), Notes()).result(60)
        assert gpu.stop(60)
    # A new process begins with a new engine; this one, closed by its thread, can begin again, too.
    again = GpuThread(engine)
    again.start()
    assert again.submit(_asked(), Notes()).result(120).pictures
    assert again.stop(60)


def test_hang_is_given_up_and_the_next_request_is_drawn(
    engine: DiffusersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, hangs, released = [0.0], threading.Event(), threading.Event()
    gpu = GpuThread(engine, tick=lambda: now[0])

    def stuck(output: Any) -> Any:
        hangs.set()
        released.wait(120)
        return output

    with monkeypatch.context() as patch:
        patch.setattr(engine._guard, "_tick", lambda: now[0])  # the watchdog's clock is the engine's
        broken(engine.residents.use("one").pipe, "denoising", stuck, patch)
        gpu.start()
        hung = gpu.submit(_asked(), Notes())
        assert hangs.wait(120)
        now[0] += CPU_TURN_LIMIT_S + 1
        gpu.watch()
        with pytest.raises(GenerationError, match=r"given up; try again, or try a smaller size") as caught:
            hung.result(0)
        fit_for_a_member(caught.value)
        released.set()
        assert gpu.submit(_asked(), Notes()).result(120).pictures
        assert not gpu.lost.done()
        assert gpu.stop(60)


@pytest.mark.parametrize(
    ("owner", "part", "error", "kind", "words"),
    [
        pytest.param(loading, "_read", NO_MEMORY, OutOfMemory, NO_ROOM, id="does not fit into the memory"),
        pytest.param(residents, "Previewer", NO_MEMORY, OutOfMemory, NO_ROOM, id="does not fit while it is placed"),
        pytest.param(
            loading, "_read", OSError("no file in unet"), ModelError, "one cannot be loaded", id="is not whole"
        ),
    ],
)
def test_model_that_does_not_fit_or_is_not_whole_is_named_and_the_other_one_draws(
    shared: DiffusersEngine,
    monkeypatch: pytest.MonkeyPatch,
    owner: Any,
    part: str,
    error: Exception,
    kind: type,
    words: str,
) -> None:
    shared.residents.unload_all_but("two")
    with monkeypatch.context() as patch:
        patch.setattr(owner, part, lambda *_: raising(error)(None))
        with pytest.raises(kind, match=words) as caught:
            shared.generate(_asked(), Notes())
    if kind is OutOfMemory:
        fit_for_a_member(caught.value)
    assert shared.generate(request(model="two", num_inference_steps=1), Notes()).pictures


def test_device_that_fails_while_it_is_waited_for_is_lost_and_no_bug(
    shared: DiffusersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA runs behind Python: an illegal access of one call is told by a later one, mostly by a wait."""
    shared.generate(_asked(), Notes())

    class Waiting:
        def keep(self) -> None:
            raise DEAD

    order = Order(_asked(), Notes())
    with monkeypatch.context() as patch:
        patch.setattr(shared, "_pace", Waiting())
        shared.admit(order)
        with pytest.raises(DeviceLost):
            while shared.busy:
                shared.turn()
    order.fail(DeviceLost("As the GPU thread ends it."))
    assert shared.generate(_asked(), Notes()).pictures


def test_preview_that_fails_costs_no_picture(shared: DiffusersEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    notes = Notes(every=1)
    with monkeypatch.context() as patch:
        patch.setattr(lane_room, "finished_estimate", lambda *_: raising(NO_MEMORY)(None))
        assert shared.generate(_asked(), notes).pictures
    assert notes.progress[0].preview is None


def fit_for_a_member(error: BaseException) -> None:
    """One sentence or two that say what to do, in no program's words."""
    assert isinstance(error, EaselError)
    text = str(error)
    assert text[0].isupper() or text.startswith("one")
    assert text.endswith(".")
    assert len(text) < 250
    assert [word for word in FOREIGN if word in text] == []
    assert "try" in text or "ask" in text or "choose" in text
