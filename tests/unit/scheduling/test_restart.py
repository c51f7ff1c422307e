"""The promise across stops and crashes: each request ends once, whatever happened."""

# a test may block its own loop

from __future__ import annotations

import asyncio
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from bot.errors import DatabaseDamaged, RequestError
from bot.generation import JobStatus
from bot.scheduling.events import Cancelled, Failed, Fetching, Queued, Rendered
from tests.unit.scheduling.fakes import World
from tests.unit.store.support import NOW, REQUEST, brought_to, opened, origin, request


async def test_restart_queued_and_running_are_drawn_in_order_of_arrival(tmp_path: Path) -> None:
    store = await opened(tmp_path / "easel.db")
    for n in range(4):
        await store.add(f"job{n}", request(prompt=f"prompt {n}"), origin(n), NOW)
    await store.start("job0", NOW)
    await store.close()
    async with World(tmp_path) as world:
        await world.heard(Rendered, times=4)
        assert [event.job.id for event in world.told(Queued)] == ["job0", "job1", "job2", "job3"]
        assert world.engine.drawn == ["prompt 0", "prompt 1", "prompt 2", "prompt 3"]
        attempts = {event.job.id: event.job.attempt for event in world.told(Rendered)}
        assert attempts == {"job0": 2, "job1": 1, "job2": 1, "job3": 1}


@pytest.mark.parametrize("status", [JobStatus.RENDERED, JobStatus.POSTING], ids=str)
async def test_restart_rendered_is_shown_without_drawing_again(tmp_path: Path, status: JobStatus) -> None:
    store = await opened(tmp_path / "easel.db")
    await brought_to(store, status)
    await store.close()
    async with World(tmp_path) as world:
        rendered = await world.heard(Rendered, "job1")
        assert len(rendered.job.files) == 2
        assert await world.service.begin_posting("job1") is not None
        assert world.engine.drawn == []


@pytest.mark.parametrize("status", [s for s in JobStatus if s.final], ids=str)
async def test_restart_ended_is_not_drawn_again(tmp_path: Path, status: JobStatus) -> None:
    store = await opened(tmp_path / "easel.db")
    await brought_to(store, status)
    await store.close()
    async with World(tmp_path) as world:
        await world.heard(Rendered, (await world.submit("new")).id)
        assert world.engine.drawn == ["new"]
        assert len(world.told(Failed, "job1")) == (status is JobStatus.FAILED)
        assert len(world.told(Cancelled, "job1")) == (status is JobStatus.CANCELLED)


async def test_restart_end_that_was_told_is_not_told_again(tmp_path: Path) -> None:
    store = await opened(tmp_path / "easel.db")
    await brought_to(store, JobStatus.FAILED)
    await store.close()
    async with World(tmp_path) as world:
        await world.heard(Failed, "job1")
        await world.service.mark_told("job1")
    async with World(tmp_path) as again:
        await again.heard(Rendered, (await again.submit("new")).id)
        assert again.told(Failed) == []


async def test_restart_poison_request_is_given_up_and_the_queue_moves_on(tmp_path: Path) -> None:
    store = await opened(tmp_path / "easel.db")
    await store.add("poison", REQUEST, origin(1), NOW)
    await store.add("healthy", REQUEST, origin(2), NOW)
    for crash in range(3):
        started = await store.start("poison", NOW)
        assert started is not None
        assert started.attempt == crash + 1
        if crash < 2:
            await store.recover(NOW, 3, "{attempts}")
    await store.close()
    async with World(tmp_path) as world:
        failed = await world.heard(Failed, "poison")
        assert failed.job.error is not None
        assert "3 times" in failed.job.error
        await world.heard(Rendered, "healthy")
        assert world.told(Rendered, "poison") == []


async def test_restart_innocent_that_shared_every_crash_is_not_given_up_with_the_poison(tmp_path: Path) -> None:
    store = await opened(tmp_path / "easel.db")
    for n in range(3):
        await store.add(f"job{n}", request(prompt=f"prompt {n}"), origin(n, n), NOW)
    for _ in range(3):
        for n in range(3):
            await store.start(f"job{n}", NOW)
        await store.recover(NOW, 3, "{attempts}")
    await store.close()
    async with World(tmp_path, room=100) as world:
        await world.heard(Rendered, times=3)
        assert world.told(Failed) == []
        assert world.engine.most_at_once == 1


async def test_restart_counts_only_the_crashes_that_a_request_was_alone_in(tmp_path: Path) -> None:
    store = await opened(tmp_path / "easel.db")
    for n in range(2):
        await store.add(f"job{n}", REQUEST, origin(n, n), NOW)
        await store.start(f"job{n}", NOW)
    attempts: list[int] = []
    for crash in range(3):
        found = await store.recover(NOW, 3, "{attempts}")
        assert found.ended == ()
        assert all(job.suspect for job in found.waiting), crash
        (job,) = (job for job in found.waiting if job.id == "job0")
        attempts.append(job.attempt)
        await store.start("job0", NOW)
    assert attempts == [0, 1, 2]
    found = await store.recover(NOW, 3, "{attempts}")
    assert [(job.id, job.error) for job in found.ended] == [("job0", "3")]
    await store.close()


async def test_stop_several_that_run_are_all_put_back_and_drawn_next_time(tmp_path: Path) -> None:
    async with World(tmp_path, room=8) as world:
        jobs = []
        for n in range(3):
            world.hold(f"held {n}")
            jobs.append(await world.submit(f"held {n}"))
        await world.begun("held 2")
        await world.service.stop(0.3)
        for job in jobs:
            on_disk = await world.store.get(job.id)
            assert on_disk is not None
            assert (on_disk.status, on_disk.attempt) == (JobStatus.QUEUED, 0)
    async with World(tmp_path, room=8) as again:
        await again.heard(Rendered, times=3)
        assert {event.job.attempt for event in again.told(Rendered)} == {1}


async def test_restart_after_expiry_brings_jobs_without_tokens(tmp_path: Path) -> None:
    store = await opened(tmp_path / "easel.db")
    await store.add("job1", REQUEST, origin(1), NOW - timedelta(minutes=20))
    await store.add("job2", REQUEST, origin(2, expires_at=NOW), NOW)
    await store.close()
    async with World(tmp_path) as world:
        tokens = [(await world.heard(Queued, job_id)).job.origin.interaction_token for job_id in ("job1", "job2")]
        assert tokens == ["token-1", None]


async def test_restart_removes_files_that_are_nobodys(tmp_path: Path) -> None:
    folder = tmp_path / "pictures" / "lo" / "lost"
    folder.mkdir(parents=True)
    (folder / "easel-lost-1.png").write_bytes(b"x")
    async with World(tmp_path) as world:
        await world.heard(Rendered, (await world.submit()).id)
        assert not any("lost" in name for name in world.picture_files())


@pytest.mark.parametrize("status", [JobStatus.FAILED, JobStatus.CANCELLED], ids=str)
async def test_restart_removes_what_was_written_for_a_request_that_ended_without_it(
    tmp_path: Path, status: JobStatus
) -> None:
    store = await opened(tmp_path / "easel.db")
    await brought_to(store, status)
    await store.close()
    folder = tmp_path / "pictures" / "jo" / "job1"
    folder.mkdir(parents=True)
    (folder / "easel-job1-1.png").write_bytes(b"x")
    async with World(tmp_path) as world:
        await world.heard(Rendered, (await world.submit()).id)
        assert not any("job1" in name for name in world.picture_files())


async def test_stop_puts_the_running_back_uncounted_and_it_is_drawn_next_time(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        world.hold("held")
        job = await world.submit("held")
        behind = await world.submit("behind")
        await world.begun("held")
        await world.service.stop(0.2)
        on_disk = await world.store.get(job.id)
        assert on_disk is not None
        assert (on_disk.status, on_disk.attempt) == (JobStatus.QUEUED, 0)
        assert world.told(Queued, job.id)[-1].job.attempt == 0
        with pytest.raises(RequestError, match="restarting"):
            await world.submit("too late")
    async with World(tmp_path) as again:
        assert (await again.heard(Rendered, job.id)).job.attempt == 1
        await again.heard(Rendered, behind.id)
        assert again.engine.drawn == ["held", "behind"]


async def test_stop_deaf_engine_does_not_hold_the_stop(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        world.engine.deaf = True
        world.hold("held")
        job = await world.submit("held")
        await world.begun("held")
        await asyncio.wait_for(world.service.stop(0.2), 5.0)
        world.engine.gates["held"].set()
        on_disk = await world.store.get(job.id)
        assert on_disk is not None
        assert on_disk.status is JobStatus.QUEUED


async def test_stop_lets_what_is_nearly_done_finish(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        gate = world.hold("held")
        job = await world.submit("held")
        behind = await world.submit("behind")
        await world.begun("held")
        stopping = asyncio.create_task(world.service.stop(20.0))
        await asyncio.sleep(0)
        gate.set()
        await stopping
        assert (await world.service.get(job.id)).status is JobStatus.RENDERED
        assert world.told(Rendered, job.id)
        assert (await world.service.get(behind.id)).status is JobStatus.QUEUED
        assert await world.service.begin_posting(job.id) is not None  # messages are still finished after a stop
        assert world.engine.closed


async def test_stop_known_to_take_longer_is_put_back_at_once(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        world.service.measured.learn(REQUEST, 4_000.0, 4_000.0)
        world.hold("held")
        job = await world.submit("held")
        await world.begun("held")
        await asyncio.wait_for(world.service.stop(60.0), 5.0)
        on_disk = await world.store.get(job.id)
        assert on_disk is not None
        assert (on_disk.status, on_disk.attempt) == (JobStatus.QUEUED, 0)


async def test_stop_while_fetching_keeps_the_request(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        world.weights.gates["far"] = threading.Event()
        job = await world.submit(model="far")
        await world.heard(Fetching, job.id)
        await world.service.stop(1.0)
        assert world.told(Failed) == []
        on_disk = await world.store.get(job.id)
        assert on_disk is not None
        assert on_disk.status is JobStatus.QUEUED


async def test_stop_after_a_start_that_failed_is_harmless(tmp_path: Path) -> None:
    (tmp_path / "easel.db").write_bytes(b"not a database")
    world = World(tmp_path)
    world.gpu.start()
    with pytest.raises(DatabaseDamaged):
        await world.service.start()
    await world.service.stop(1.0)
    await world.service.close()
    assert (tmp_path / "easel.db").read_bytes() == b"not a database"


async def test_restart_suspect_waits_until_the_files_of_the_one_before_are_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await opened(tmp_path / "easel.db")
    for n in range(2):
        await store.add(f"job{n}", request(prompt=f"prompt {n}"), origin(n, n), NOW)
        await store.start(f"job{n}", NOW)
    await store.close()
    world = World(tmp_path, room=100)
    writing, go_on, write = asyncio.Event(), asyncio.Event(), world.archive.write

    async def slowly(job_id: str, *args: Any) -> Any:
        writing.set()
        await go_on.wait()
        return await write(job_id, *args)

    monkeypatch.setattr(world.archive, "write", slowly)
    async with world:
        await asyncio.wait_for(writing.wait(), 20.0)
        for _ in range(100):  # whoever could be taken would be, now that the first is drawn
            await asyncio.sleep(0)
        assert world.service.overview(1).waiting == 1
        go_on.set()
        await world.heard(Rendered, times=2)
