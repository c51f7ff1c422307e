"""What the store keeps, and what it refuses to change."""

# a test may block its own loop

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from bot.errors import ConfigError, DiskFull, StorageError
from bot.generation import Axis, JobStatus, PostedTo, Variant
from bot.store.jobs import JobStore
from bot.store.rows import request_of, request_text
from bot.store.transitions import TRANSITIONS
from tests.unit.store.support import NOW, REQUEST, added, brought_to, opened, origin, picture, request

GIVEN_UP = "given up after {attempts}"


async def test_add_request_reads_back_equal_from_a_new_store(store: JobStore, path: Path) -> None:
    job = await added(store, user_name="Zoë \ud83d")
    await store.close()
    again = await opened(path)
    found = await again.get("job1")
    await again.close()
    assert found == job
    assert found.request == REQUEST
    assert found.created_at == NOW
    assert found.origin.user_name == "Zoë ?"


async def test_add_same_interaction_twice_gives_the_first_job(store: JobStore) -> None:
    first = await added(store, "job1", 1)
    second = await store.add("job2", request(prompt="other"), origin(1), NOW)
    assert second is not None
    assert not second.created
    assert second.job == first
    assert await store.get("job2") is None


async def test_add_same_interaction_in_parallel_makes_one_job(store: JobStore) -> None:
    made = await asyncio.gather(*(store.add(f"job{n}", REQUEST, origin(1), NOW) for n in range(8)))
    assert [item is not None and item.created for item in made].count(True) == 1
    assert len(await store.ids()) == 1


async def test_add_taken_id_makes_nothing(store: JobStore) -> None:
    first = await added(store, "job1", 1)
    assert await store.add("job1", REQUEST, origin(2), NOW) is None
    assert await store.get("job1") == first


async def test_store_whole_road_records_every_step(store: JobStore) -> None:
    job = await brought_to(store, JobStatus.POSTED)
    assert (job.attempt, job.message_id, job.posted_to) == (1, 99, PostedTo.CHANNEL)
    assert (job.started_at, job.finished_at, job.draw_s) == (NOW, NOW, 2.0)
    assert job.files == (picture(0), picture(1))


@pytest.mark.parametrize("status", list(JobStatus), ids=str)
async def test_keep_records_pictures_of_a_running_job_alone(store: JobStore, status: JobStatus) -> None:
    before = await brought_to(store, status)
    assert await store.keep("job1", [picture(1)]) is (status is JobStatus.RUNNING)
    job = await store.get("job1")
    assert job is not None
    assert job.files == ((picture(1),) if status is JobStatus.RUNNING else before.files)


async def test_keep_pictures_stay_through_a_crash_and_a_stop_and_go_with_the_end(store: JobStore) -> None:
    await brought_to(store, JobStatus.RUNNING)
    assert await store.keep("job1", [picture(1)])
    assert await store.keep("job1", [picture(1), picture(3)])
    found = await store.recover(NOW, 3, GIVEN_UP)
    assert [job.files for job in found.waiting] == [(picture(1), picture(3))]
    await store.start("job1", NOW)
    back = await store.put_back("job1")
    assert back is not None
    assert back.files == (picture(1), picture(3))
    cancelled = await store.cancel("job1", NOW)
    assert cancelled is not None
    assert cancelled.files == ()
    assert not await store.keep("nobody", [picture(0)])


async def test_render_note_stays_with_the_job_across_a_restart(path: Path) -> None:
    store = await opened(path)
    await added(store)
    await store.start("job1", NOW)
    rendered = await store.render("job1", [picture(0)], draw_s=1.0, denoise_s=1.0, note="It did not read “the *end*”.")
    await store.close()
    store = await opened(path)
    found = await store.get("job1")
    told = await store.export_member(7)
    await store.close()
    assert found is not None
    assert rendered is not None
    assert rendered.note == found.note == "It did not read “the *end*”."
    assert [request["note"] for request in told["requests"]] == [found.note]


ROADS = {
    "start": lambda s: s.start("job1", NOW),
    "put back": lambda s: s.put_back("job1"),
    "render": lambda s: s.render("job1", [picture(0)], draw_s=1.0, denoise_s=1.0),
    "begin posting": lambda s: s.begin_posting("job1"),
    "post": lambda s: s.mark_posted("job1", PostedTo.CHANNEL, 1, NOW),
    "fail": lambda s: s.fail("job1", "why", NOW),
    "cancel": lambda s: s.cancel("job1", NOW),
}


@pytest.mark.parametrize("status", list(JobStatus), ids=str)
@pytest.mark.parametrize("transition", TRANSITIONS, ids=lambda t: t.name)
async def test_transition_from_each_state_follows_the_table(store: JobStore, transition, status: JobStatus) -> None:
    before = await brought_to(store, status)
    after = await ROADS[transition.name](store)
    now = await store.get("job1")
    assert now is not None
    if status in transition.sources:
        assert after is not None
        assert now.status is after.status is transition.target
    else:
        assert after is None
        assert now.status is status
        assert now.files == before.files


async def test_transition_of_unknown_job_changes_nothing(store: JobStore) -> None:
    assert [await road(store) for road in ROADS.values()] == [None] * len(ROADS)


@pytest.mark.parametrize("round_", range(5))
async def test_cancel_against_begin_posting_has_one_winner(store: JobStore, round_: int) -> None:
    await brought_to(store, JobStatus.RENDERED)
    roads = [store.cancel("job1", NOW), store.begin_posting("job1")]
    done = await asyncio.gather(*(roads if round_ % 2 else reversed(roads)))
    assert [result is not None for result in done].count(True) == 1


async def test_put_back_uncounts_the_attempt(store: JobStore) -> None:
    await brought_to(store, JobStatus.RUNNING)
    job = await store.put_back("job1")
    assert job is not None
    assert (job.attempt, job.started_at) == (0, None)


@pytest.mark.parametrize("status", [s for s in JobStatus if not s.final], ids=str)
async def test_recover_each_unfinished_state_sorts_it(store: JobStore, path: Path, status: JobStatus) -> None:
    await brought_to(store, status)
    await store.close()
    again = await opened(path)
    found = await again.recover(NOW, 3, GIVEN_UP)
    await again.close()
    waits = status in (JobStatus.QUEUED, JobStatus.RUNNING)
    assert [job.status for job in found.waiting] == ([JobStatus.QUEUED] if waits else [])
    assert [job.status for job in found.rendered] == ([] if waits else [status])
    assert found.ended == ()
    if status is JobStatus.RUNNING:
        assert found.waiting[0].attempt == 1


async def test_recover_keeps_the_order_of_arrival(store: JobStore) -> None:
    for n in range(4):
        await added(store, f"job{n}", n)
    await store.start("job0", NOW)
    found = await store.recover(NOW, 3, GIVEN_UP)
    assert [job.id for job in found.waiting] == ["job0", "job1", "job2", "job3"]


async def test_recover_after_max_attempts_gives_up_with_a_sentence(store: JobStore) -> None:
    await added(store, "other", 2)
    await added(store, "job1", 1)
    for _ in range(2):
        await store.start("job1", NOW)
        found = await store.recover(NOW, 3, GIVEN_UP)
        assert [job.id for job in found.waiting] == ["other", "job1"]
    await store.start("job1", NOW)
    found = await store.recover(NOW, 3, GIVEN_UP)
    assert [job.id for job in found.waiting] == ["other"]
    assert [(job.id, job.status, job.error) for job in found.ended] == [("job1", JobStatus.FAILED, "given up after 3")]


async def test_recover_tells_an_end_again_until_it_is_told(store: JobStore) -> None:
    await brought_to(store, JobStatus.FAILED, "failed", 1)
    await brought_to(store, JobStatus.CANCELLED, "cancelled", 2)
    await added(store, "quiet", 3)
    await store.cancel("quiet", NOW, told=True)
    assert [job.id for job in (await store.recover(NOW, 3, GIVEN_UP)).ended] == ["failed", "cancelled"]
    await store.mark_told("failed")
    assert [job.id for job in (await store.recover(NOW, 3, GIVEN_UP)).ended] == ["cancelled"]
    assert (await store.recover(NOW + timedelta(hours=1), 3, GIVEN_UP)).ended == ()


@pytest.mark.parametrize("status", [s for s in JobStatus if s.final], ids=str)
async def test_final_state_erases_the_token_on_disk_but_not_in_the_answer(
    store: JobStore, path: Path, status: JobStatus
) -> None:
    job = await brought_to(store, status)
    assert job.origin.interaction_token == "token-1"
    assert tokens(path) == [None]


async def test_get_after_expiry_leaves_the_token_out(store: JobStore) -> None:
    await added(store)
    early = await store.get("job1", NOW + timedelta(minutes=14))
    late = await store.get("job1", NOW + timedelta(minutes=15))
    assert early is not None
    assert late is not None
    assert (early.origin.interaction_token, late.origin.interaction_token) == ("token-1", None)


async def test_forget_tokens_erases_only_expired_ones(store: JobStore, path: Path) -> None:
    await added(store, "old", 1)
    await added(store, "new", 2, expires_at=NOW + timedelta(minutes=20))
    assert await store.forget_tokens(NOW + timedelta(minutes=15)) == 1
    assert tokens(path) == [None, "token-2"]


async def test_token_forgotten_is_nowhere_in_the_files(store: JobStore, path: Path) -> None:
    await added(store, interaction_token="a-secret-token")
    await store.cancel("job1", NOW)
    await store.close()
    assert all(b"a-secret-token" not in file.read_bytes() for file in path.parent.iterdir())


def tokens(path: Path) -> list[str | None]:
    with sqlite3.connect(path) as connection:
        return [row[0] for row in connection.execute("SELECT interaction_token FROM jobs ORDER BY seq")]


async def test_history_pages_through_own_posted_jobs_newest_first(store: JobStore) -> None:
    for n in range(5):
        await brought_to(store, JobStatus.POSTED, f"job{n}", n)
    await added(store, "waiting", 50)
    await added(store, "stranger", 51, user_id=8)
    first = await store.history(7, limit=2)
    second = await store.history(7, limit=9, before=first[-1].id)
    assert [job.id for job in (*first, *second)] == ["job4", "job3", "job2", "job1", "job0"]
    assert len(second[0].files) == 2
    assert await store.history(8, limit=9) == ()
    assert await store.history(7, limit=9, before="gone") == ()


async def test_history_of_one_member_reads_an_index(store: JobStore, path: Path) -> None:
    with sqlite3.connect(path) as connection:
        plan = connection.execute(
            "EXPLAIN QUERY PLAN SELECT * FROM jobs WHERE user_id=7 AND status='posted' ORDER BY seq DESC LIMIT 5"
        ).fetchall()
    assert "jobs_by_user" in str(plan)
    assert "TEMP B-TREE" not in str(plan)


@pytest.mark.parametrize("status", list(JobStatus), ids=str)
async def test_delete_in_each_state_removes_rows(store: JobStore, path: Path, status: JobStatus) -> None:
    await brought_to(store, status)
    job = await store.delete("job1")
    assert job is not None
    assert job.status is status
    assert await store.delete("job1") is None
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT (SELECT count(*) FROM jobs), (SELECT count(*) FROM files)").fetchone() == (
            0,
            0,
        )


async def test_remove_finished_removes_only_what_ended_before(store: JobStore) -> None:
    await brought_to(store, JobStatus.POSTED, "old", 1)
    await brought_to(store, JobStatus.QUEUED, "waiting", 2)
    await added(store, "recent", 3)
    await store.cancel("recent", NOW + timedelta(days=2))
    assert await store.remove_finished(NOW + timedelta(days=1), 100) == ("old",)
    assert await store.ids() == {"waiting", "recent"}


async def test_measurements_are_those_of_drawn_jobs_oldest_first(store: JobStore) -> None:
    for n in range(3):
        await brought_to(store, JobStatus.POSTED, f"job{n}", n)
    await brought_to(store, JobStatus.FAILED, "failed", 9)
    found = await store.measurements(2)
    assert [(m.request, m.denoise_s, m.draw_s) for m in found] == [(REQUEST, 1.5, 2.0)] * 2


async def test_run_disk_full_raises_disk_full_and_keeps_what_was(store: JobStore) -> None:
    await added(store)
    await store._database.run(lambda c: c.exec_driver_sql("PRAGMA max_page_count=1"))
    with pytest.raises(DiskFull, match="disk is full"):
        await store.add("job2", request(prompt="x" * 500_000), origin(2), NOW)
    assert await store.get("job1") is not None


async def test_run_locked_by_another_program_says_so(store: JobStore, path: Path) -> None:
    await store._database.run(lambda c: c.exec_driver_sql("PRAGMA busy_timeout=20"))
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StorageError, match="locked by another program"):
        await added(store)
    other.execute("ROLLBACK")
    other.close()
    assert (await added(store)).id == "job1"


async def test_store_after_close_raises_storage_error(store: JobStore) -> None:
    await store.close()
    await store.close()
    with pytest.raises(StorageError, match="closed"):
        await store.get("job1")


@pytest.mark.parametrize(
    "wrong",
    [
        "",
        "nonsense",
        "sqlite://",
        "sqlite:///:memory:",
        "sqlite:///file:x?uri=true",
        "nosuch://x/y",
        "postgresql://x/y",
    ],
)
def test_store_address_that_is_none_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match="EASEL_DATABASE_URL"):
        JobStore(wrong)


async def test_store_commits_survive_power_loss_settings(store: JobStore) -> None:
    def look(connection) -> tuple[str, int, int]:
        ask = connection.exec_driver_sql
        return tuple(ask(f"PRAGMA {name}").scalar() for name in ("journal_mode", "synchronous", "foreign_keys"))

    assert await store._database.run(look) == ("wal", 2, 1)


WRITER = """
import asyncio, sys
from pathlib import Path
from tests.unit.store.support import NOW, REQUEST, opened, origin

async def main():
    store = await opened(Path(sys.argv[1]))
    for n in range(100_000):
        await store.add(f"job{n}", REQUEST, origin(n), NOW)
        print(n, flush=True)
        if n % 2:
            await store.start(f"job{n}", NOW)

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is POSIX")
async def test_store_kill_9_while_writing_keeps_every_acknowledged_job(path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    acknowledged = [int(process.stdout.readline()) for _ in range(25)]
    os.kill(process.pid, signal.SIGKILL)
    acknowledged += [int(line) for line in process.stdout.read().splitlines() if line.strip()]
    process.wait()
    again = await opened(path)
    found = await again.recover(NOW, 3, GIVEN_UP)
    await again.close()
    ids = [job.id for job in found.waiting]
    assert len(ids) == len(set(ids))
    assert {f"job{n}" for n in acknowledged} <= set(ids)
    assert len(ids) <= len(acknowledged) + 1


async def test_request_of_many_pictures_comes_back_as_it_was(store: JobStore) -> None:
    variants = (
        Variant("a 🌅 \ud800"),
        Variant(seed=2**53 - 1, num_inference_steps=3, guidance_scale=0.5, sampler="DDIM"),
    )
    asked = request(variants=variants, axes=(Axis("steps", ("1", "2")),))
    assert await store.add("many", asked, origin(77), NOW) is not None
    found = await store.get("many")
    assert found is not None
    assert found.request == asked


def test_request_text_of_a_later_version_leaves_out_what_is_not_known() -> None:
    text = request_text(request(variants=(Variant("a"), Variant("b")))).replace('"sampler": null', '"lora": "x"')
    assert request_of(text).variants == (Variant("a"), Variant("b"))
