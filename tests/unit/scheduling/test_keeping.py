"""Lists keep what was finished of them: across a crash, a stop and a full disk."""

# a test may block its own loop

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from bot.errors import DiskFull
from bot.generation import Actor, GenerationResult, Job, JobStatus, Variant
from bot.scheduling.events import Drawing, Rendered
from tests.unit.scheduling.fakes import World, raw

LINES = ("one", "two", "three", "four")


async def listed(world: World, **changes: Any) -> Job:
    variants = tuple(Variant(line, seed=100 + n) for n, line in enumerate(LINES))
    return await world.submit(LINES[0], count=len(LINES), variants=variants, **changes)


async def kept(world: World, job_id: str, count: int) -> Job:
    """Wait until so many pictures of a running list are committed."""
    for _ in range(500):
        job = await world.store.get(job_id)
        assert job is not None
        if len(job.files) >= count:
            return job
        await asyncio.sleep(0.01)
    raise AssertionError(f"{len(job.files)} of {count} pictures kept")


async def killed(world: World, copy: Path) -> None:
    """What a process that is killed now leaves on its disk."""
    with closing(sqlite3.connect(world.path)) as database, closing(sqlite3.connect(copy / "easel.db")) as other:
        database.backup(other)
    for file in (world.folder / "pictures").rglob("*.png"):
        place = copy / file.relative_to(world.folder)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(file.read_bytes())


async def crashed(tmp_path: Path, *, after: int) -> tuple[Path, Job]:
    """A list of four of which `after` were finished when the process was killed."""
    before, copy = tmp_path / "before", tmp_path / "after"
    before.mkdir()
    copy.mkdir()
    async with World(before) as world:
        world.hold(LINES[after])
        job = await listed(world)
        job = await kept(world, job.id, after)
        await killed(world, copy)
    with closing(sqlite3.connect(copy / "easel.db")) as database:  # its files lie where the copy is
        database.execute("UPDATE files SET path = replace(path, ?, ?)", (str(before.resolve()), str(copy.resolve())))
        database.commit()
    return copy, job


@pytest.mark.parametrize("after", [1, 3])
async def test_restart_list_draws_only_what_was_not_finished(tmp_path: Path, after: int) -> None:
    folder, job = await crashed(tmp_path, after=after)
    assert job.status is JobStatus.RUNNING
    async with World(folder) as world:
        missing = world.hold(LINES[after])
        assert (await world.heard(Drawing, job.id)).finished == after
        missing.set()
        rendered = await world.heard(Rendered, job.id)
        assert world.engine.drawn == [LINES[0], *LINES[after:]]  # the fake notes that it began, then each line
        assert [file.n for file in rendered.job.files] == [0, 1, 2, 3]
        assert len({await world.service.read_picture(file) for file in rendered.job.files}) == 4
        assert world.service.measured.duration_s(job.request) is None  # a part of it teaches nothing about the whole
    async with World(folder) as again:
        assert again.service.measured.duration_s(job.request) is None


async def test_restart_list_whose_file_is_gone_draws_that_one_again(tmp_path: Path) -> None:
    folder, job = await crashed(tmp_path, after=3)
    next((folder / "pictures").rglob("*-2.png")).unlink()
    async with World(folder) as world:
        rendered = await world.heard(Rendered, job.id)
        assert world.engine.drawn == [LINES[0], "two", "four"]
        assert len(rendered.job.files) == 4


async def test_restart_list_that_was_all_but_told_is_not_drawn_again(tmp_path: Path) -> None:
    folder, job = await crashed(tmp_path, after=3)
    async with World(folder) as world:
        world.hold("four")
        await world.begun("four")
        second = tmp_path / "second"
        second.mkdir()
        world.engine.gates["four"].set()
        await world.heard(Rendered, job.id)
        await killed(world, second)
    with closing(sqlite3.connect(second / "easel.db")) as database:
        database.execute("UPDATE files SET path = replace(path, ?, ?)", (str(folder.resolve()), str(second.resolve())))
        database.execute("UPDATE jobs SET status = 'running'")
        database.commit()
    async with World(second) as world:
        rendered = await world.heard(Rendered, job.id)
        assert world.engine.drawn == []
        assert len(rendered.job.files) == 4


async def test_stop_list_that_is_put_back_goes_on_from_where_it_was(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        world.hold("three")
        job = await listed(world)
        await kept(world, job.id, 2)
        await world.service.stop(0.2)
        world.engine.gates["three"].set()
    async with World(tmp_path) as world:
        rendered = await world.heard(Rendered, job.id)
        assert world.engine.drawn == [LINES[0], "three", "four"]
        assert rendered.job.attempt == 1


@pytest.mark.parametrize("how", ["cancel", "delete"])
async def test_end_list_that_is_taken_back_leaves_no_file_and_no_row(world: World, how: str) -> None:
    world.hold("three")
    job = await listed(world)
    await kept(world, job.id, 2)
    await getattr(world.service, how)(job.id, Actor(7))
    world.engine.gates["three"].set()
    await world.heard(Rendered, (other := await world.submit("another")).id)
    assert world.picture_files() == [f"easel-{other.id}-{n}.png" for n in (1, 2)][: other.request.count]
    left = await world.store.get(job.id)
    assert left is None or left.files == ()


@pytest.mark.parametrize("how", ["cancel", "delete"])
async def test_end_list_that_is_taken_back_while_a_picture_is_written_leaves_no_file(
    world: World, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, writing, go_on = world.archive.write, asyncio.Event(), asyncio.Event()

    async def slow(job_id: str, request: Any, result: Any) -> Any:
        files = await write(job_id, request, result)
        writing.set()
        await go_on.wait()
        return files

    monkeypatch.setattr(world.archive, "write", slow)
    world.hold("two")
    job = await listed(world)
    await writing.wait()
    await getattr(world.service, how)(job.id, Actor(7))
    # Written anew by a pool that was just about to: the folder is there again.
    await write(job.id, job.request, GenerationResult((raw(0, 1),), 0.0, 0.0, "cpu", "fp32"))
    go_on.set()
    for _ in range(200):
        if not world.picture_files():
            break
        await asyncio.sleep(0.01)
    assert world.picture_files() == []
    world.engine.gates["two"].set()


async def test_list_writes_each_of_its_pictures_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    write, written = world.archive.write, list[int]()

    async def noting(job_id: str, request: Any, result: Any) -> Any:
        written.extend(picture.n for picture in result.pictures)
        return await write(job_id, request, result)

    monkeypatch.setattr(world.archive, "write", noting)
    gate = world.hold("four")
    job = await listed(world)
    await kept(world, job.id, 3)
    gate.set()
    await world.heard(Rendered, job.id)
    assert sorted(written) == [0, 1, 2, 3]


async def test_full_disk_in_the_middle_of_a_list_loses_none_of_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, refusals = world.archive.write, ["two"]

    async def full(job_id: str, request: Any, result: Any) -> Any:
        if refusals and any(request.alone(picture.n).prompt in refusals for picture in result.pictures):
            refusals.clear()
            raise DiskFull("full")
        return await write(job_id, request, result)

    monkeypatch.setattr(world.archive, "write", full)
    job = await listed(world)
    rendered = await world.heard(Rendered, job.id)
    assert len(rendered.job.files) == 4
    assert len(world.picture_files()) == 4
