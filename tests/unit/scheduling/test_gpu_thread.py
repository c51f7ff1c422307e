from __future__ import annotations

import asyncio
import itertools
import threading
import time
from concurrent.futures import Future

import pytest

from bot.engine.base import EngineInfo
from bot.errors import DeviceLost, GenerationError, OutOfMemory
from bot.generation import FetchProgress, Progress
from bot.scheduling.gpu_thread import GpuThread
from bot.scheduling.progress import GpuListener, Mailbox
from tests.unit.scheduling.fakes import FakeEngine, raw, result_of
from tests.unit.store.support import request


class Silent:
    def __init__(self) -> None:
        self.news: list[Progress | FetchProgress] = []

    def put(self, news: Progress | FetchProgress) -> None:
        self.news.append(news)


def listener(tick=lambda: 0.0) -> tuple[GpuListener, Silent]:
    mailbox = Silent()
    return GpuListener(mailbox, tick), mailbox  # type: ignore[arg-type]


def started(engine: FakeEngine) -> GpuThread:
    gpu = GpuThread(engine)
    gpu.start()
    return gpu


def test_gpu_thread_draws_on_its_own_thread_before_any_loop_exists() -> None:
    gpu = started(FakeEngine())
    assert result_of(gpu.ready).device == "cpu"
    assert len(result_of(gpu.submit(request(), listener()[0])).pictures) == 2
    assert gpu.stop(5.0)
    assert gpu.stop(5.0)
    assert gpu._engine.closed  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("raised", "kind", "words"),
    [
        (OutOfMemory("Too large."), OutOfMemory, "Too large"),
        (ZeroDivisionError("x"), GenerationError, "logged"),
        (SystemExit(3), GenerationError, "logged"),
        (MemoryError(), GenerationError, "logged"),
    ],
    ids=["ours", "a bug", "an exit", "memory"],
)
def test_gpu_thread_error_is_a_sentence_and_the_next_is_drawn(raised: BaseException, kind: type, words: str) -> None:
    engine = FakeEngine()
    engine.errors["bad"] = raised
    gpu = started(engine)
    bad = gpu.submit(request(prompt="bad"), listener()[0])
    with pytest.raises(kind, match=words):
        result_of(bad)
    assert result_of(gpu.submit(request(), listener()[0])).device == "cpu"
    gpu.stop(5.0)


@pytest.mark.parametrize("raised", [GenerationError("No GPU here."), ImportError("torch")], ids=["ours", "a bug"])
def test_gpu_thread_engine_that_cannot_start_refuses_all(raised: Exception) -> None:
    engine = FakeEngine()
    engine.start_error = raised
    gpu = started(engine)
    with pytest.raises(GenerationError, match=r"No GPU here|could not start"):
        result_of(gpu.ready)
    with pytest.raises(GenerationError):
        result_of(gpu.submit(request(), listener()[0]))
    assert gpu.stop(5.0)


def test_gpu_thread_stop_while_the_engine_starts_waits_for_nothing() -> None:
    engine, imported = FakeEngine(), threading.Event()
    engine.start = lambda: imported.wait(20.0) and EngineInfo("cpu", "fake", "fp32", None)  # type: ignore[method-assign]
    gpu = started(engine)
    assert not gpu.stop(threading.TIMEOUT_MAX)  # would wait for the import, which waits for what comes after
    imported.set()
    assert result_of(gpu.ready).device == "cpu"
    assert gpu.stop(5.0)
    assert engine.closed


def test_gpu_thread_stop_lets_the_running_end_and_refuses_the_rest() -> None:
    engine = FakeEngine()
    engine.gates["held"] = threading.Event()
    gpu = started(engine)
    held = gpu.submit(request(prompt="held"), listener()[0])
    assert engine.begun["held"].wait(5.0)
    assert not gpu.stop(0.01)
    late: Future = gpu.submit(request(), listener()[0])
    with pytest.raises(GenerationError, match="stopping"):
        result_of(late)
    engine.gates["held"].set()
    assert result_of(held).device == "cpu"
    assert gpu.stop(5.0)


def test_gpu_thread_draws_orders_beside_each_other() -> None:
    engine = FakeEngine()
    engine.gates["held"] = threading.Event()
    gpu = started(engine)
    held = gpu.submit(request(prompt="held"), listener()[0])
    assert engine.begun["held"].wait(5.0)
    assert result_of(gpu.submit(request(prompt="quick"), listener()[0])).device == "cpu"
    assert not held.done()
    engine.gates["held"].set()
    assert result_of(held).device == "cpu"
    assert engine.most_at_once == 2
    gpu.stop(5.0)


def test_gpu_thread_fault_of_the_engine_costs_what_it_had_and_starts_it_anew() -> None:
    engine = FakeEngine()
    engine.turn_error = ZeroDivisionError("x")
    gpu = started(engine)
    with pytest.raises(GenerationError, match="logged"):
        result_of(gpu.submit(request(), listener()[0]))
    assert result_of(gpu.submit(request(), listener()[0])).device == "cpu"
    assert engine.starts == 2
    gpu.stop(5.0)


def test_gpu_thread_lost_device_ends_all_as_lost_and_takes_no_more() -> None:
    engine = FakeEngine()
    engine.gates["held"] = threading.Event()
    gpu = started(engine)
    held = gpu.submit(request(prompt="held"), listener()[0])
    assert engine.begun["held"].wait(5.0)
    engine.turn_error = DeviceLost("CUDA error: an illegal memory access was encountered")
    with pytest.raises(DeviceLost, match="starts anew"):
        result_of(held)
    assert "starts anew" in result_of(gpu.lost)
    with pytest.raises(DeviceLost):
        result_of(gpu.submit(request(), listener()[0]))
    assert gpu.stop(5.0)
    assert engine.closed


def test_watchdog_turn_over_its_limit_costs_its_requests_and_the_next_is_drawn() -> None:
    now = [0.0]
    engine = FakeEngine()
    engine.hang = threading.Event()
    gpu = GpuThread(engine, tick=lambda: now[0])
    gpu.start()
    stuck = gpu.submit(request(prompt="stuck"), listener()[0])
    assert engine.begun["stuck"].wait(5.0)
    while engine.work is None:
        time.sleep(0.001)
    gpu.watch()
    assert not stuck.done()  # ten seconds are allowed, none have passed
    now[0] = 11.0
    gpu.watch()
    with pytest.raises(GenerationError, match="did not answer"):
        result_of(stuck)
    hang, engine.hang = engine.hang, None
    hang.set()
    assert result_of(gpu.submit(request(), listener()[0])).device == "cpu"
    assert not gpu.lost.done()
    gpu.stop(5.0)


def test_watchdog_turn_that_never_comes_back_loses_the_device() -> None:
    now = [0.0]
    engine = FakeEngine()
    engine.hang = threading.Event()
    gpu = GpuThread(engine, tick=lambda: now[0])
    gpu.start()
    stuck, behind = (gpu.submit(request(prompt=prompt), listener()[0]) for prompt in ("stuck", "behind"))
    assert engine.begun["stuck"].wait(5.0)
    while engine.work is None:
        time.sleep(0.001)
    now[0] = 21.0
    gpu.watch()
    with pytest.raises(GenerationError, match="did not answer"):
        result_of(stuck)
    with pytest.raises(DeviceLost):
        result_of(behind)
    assert gpu.lost.done()
    engine.hang.set()
    gpu.stop(5.0)


def test_gpu_thread_never_started_stops_at_once() -> None:
    assert GpuThread(FakeEngine()).stop(5.0)


def test_listener_wants_a_preview_every_one_and_a_half_seconds() -> None:
    now = [0.0]
    mine, _ = listener(lambda: now[0])
    wanted: list[float] = []
    for tenth in range(60):
        now[0] = tenth / 10
        if mine.wants_preview():
            wanted.append(now[0])
            mine.on_progress(Progress(1, 4, raw(0, 1)))
    assert all(later - earlier >= 1.5 - 1e-9 for earlier, later in itertools.pairwise(wanted))
    assert 3 <= len(wanted) <= 4


def test_listener_tells_of_loading_twice_a_second() -> None:
    now = [1.0]
    mine, mailbox = listener(lambda: now[0])
    for hundredth in range(100):
        now[0] = 1.0 + hundredth / 100
        mine.on_load(FetchProgress("pocket", hundredth, 100))
    assert len(mailbox.news) == 2


async def test_mailbox_keeps_every_finished_picture_until_it_is_delivered() -> None:
    told: list[object] = []
    mailbox = Mailbox(asyncio.get_running_loop(), told.append)
    mailbox.put(Progress(1, 4, finished=(raw(0, 1),)))
    mailbox.put(Progress(2, 4, preview=raw(9, 1)))
    mailbox.put(Progress(3, 4, finished=(raw(1, 1), raw(2, 1))))
    mailbox.put(FetchProgress("pocket", 1, 2))
    await asyncio.sleep(0.01)
    (news,) = told
    assert isinstance(news, Progress)
    assert (news.step, [picture.n for picture in news.finished], news.preview) == (3, [0, 1, 2], raw(9, 1))
