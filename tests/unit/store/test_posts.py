"""The records of results that take several messages."""

from __future__ import annotations

from pathlib import Path

from bot.generation import JobStatus, Post
from tests.unit.store.support import brought_to, opened

PLAN = [(0, 1, 2), (3,)]


async def test_posts_planned_twice_are_those_of_the_first_time(path: Path) -> None:
    store = await opened(path)
    await brought_to(store, JobStatus.POSTING)
    assert await store.posts("job1") == ()
    planned = await store.plan_posts("job1", PLAN)
    assert planned == (Post(1, (0, 1, 2)), Post(2, (3,)))
    assert await store.plan_posts("job1", [(0,), (1, 2, 3)]) == planned
    await store.close()


async def test_posts_noted_survive_a_restart(path: Path) -> None:
    store = await opened(path)
    await brought_to(store, JobStatus.POSTING)
    await store.plan_posts("job1", PLAN)
    await store.note_post("job1", 2, 77, 5, done=False)
    await store.close()
    store = await opened(path)
    await store.note_post("job1", 2, None, None, done=True)
    assert await store.posts("job1") == (Post(1, (0, 1, 2)), Post(2, (3,), 77, 5, True))
    await store.close()


async def test_posts_go_with_their_job_and_are_not_planned_without_one(path: Path) -> None:
    store = await opened(path)
    await brought_to(store, JobStatus.POSTING)
    await store.plan_posts("job1", PLAN)
    await store.delete("job1")
    assert await store.posts("job1") == ()
    assert await store.plan_posts("job1", PLAN) == ()
    await store.close()
