"""The quota ledger: what a request costs at each of its states, and that no road leaves the two apart."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path

import pytest

from bot import limits
from bot.errors import LimitReached
from bot.generation import Axis, JobStatus, Variant
from bot.store import migrate
from bot.store.jobs import JobStore
from tests.unit.store.support import NOW, REQUEST, added, brought_to, opened, origin, picture, request

PRICE = 64 * 64 * 2 * 4
GIVEN_UP = "given up after {attempts}"


def entries(path: Path) -> dict[str, tuple[str, int, int]]:
    with closing(sqlite3.connect(path)) as connection:
        return {row[0]: row[1:] for row in connection.execute("SELECT job_id, state, reserved, amount FROM ledger")}


@pytest.mark.parametrize(
    ("status", "entry"),
    [
        (JobStatus.QUEUED, ("reserved", PRICE, PRICE)),
        (JobStatus.RUNNING, ("reserved", PRICE, PRICE)),
        (JobStatus.RENDERED, ("settled", PRICE, PRICE)),
        (JobStatus.POSTING, ("settled", PRICE, PRICE)),
        (JobStatus.POSTED, ("settled", PRICE, PRICE)),
        (JobStatus.FAILED, ("refunded", PRICE, 0)),
        (JobStatus.CANCELLED, ("refunded", PRICE, 0)),
    ],
    ids=[status.value for status in JobStatus],
)
async def test_ledger_at_each_state_holds_what_it_costs(
    store: JobStore, path: Path, status: JobStatus, entry: tuple[str, int, int]
) -> None:
    await brought_to(store, status)
    assert entries(path) == {"job1": entry}
    assert await store.spent(7, NOW) == entry[2]
    assert await store.ledger_faults() == ()


async def test_ledger_settles_by_what_was_really_drawn(store: JobStore, path: Path) -> None:
    await brought_to(store, JobStatus.RUNNING)
    await store.render("job1", [picture(0)], draw_s=1.0, denoise_s=1.0)
    assert entries(path) == {"job1": ("settled", PRICE, PRICE // 2)}


async def test_ledger_never_charges_more_than_was_reserved(store: JobStore, path: Path) -> None:
    await brought_to(store, JobStatus.RUNNING)
    await store.render("job1", [picture(n) for n in range(5)], draw_s=1.0, denoise_s=1.0)
    assert entries(path) == {"job1": ("settled", PRICE, PRICE)}


async def test_ledger_cancel_of_what_is_drawn_but_not_shown_gives_back(store: JobStore, path: Path) -> None:
    await brought_to(store, JobStatus.RENDERED)
    await store.cancel("job1", NOW)
    assert entries(path) == {"job1": ("refunded", PRICE, 0)}


async def test_ledger_put_back_and_recovered_stays_reserved_once(store: JobStore, path: Path) -> None:
    await brought_to(store, JobStatus.RUNNING)
    await store.put_back("job1")
    await store.start("job1", NOW)
    await store.recover(NOW, 3, GIVEN_UP)
    assert entries(path) == {"job1": ("reserved", PRICE, PRICE)}


async def test_ledger_given_up_at_a_start_is_refunded(store: JobStore, path: Path) -> None:
    await brought_to(store, JobStatus.RUNNING)
    await store.recover(NOW, 1, GIVEN_UP)
    assert entries(path) == {"job1": ("refunded", PRICE, 0)}
    assert await store.ledger_faults() == ()


async def test_add_that_fits_exactly_is_taken_and_the_next_refused(store: JobStore) -> None:
    for n in range(3):
        assert await store.add(f"job{n}", REQUEST, origin(n), NOW, budget=3 * PRICE) is not None
    with pytest.raises(LimitReached, match=r"you have 0 of 0\.1 left today"):
        await store.add("job3", REQUEST, origin(3), NOW, budget=3 * PRICE)
    assert await store.ids() == {"job0", "job1", "job2"}
    assert await store.add("other", REQUEST, origin(9, user_id=8), NOW, budget=3 * PRICE) is not None
    await store.cancel("job1", NOW)
    assert await store.add("job3", REQUEST, origin(3), NOW, budget=3 * PRICE) is not None


async def test_add_in_parallel_reserves_exactly_the_budget(store: JobStore) -> None:
    made = await asyncio.gather(
        *(store.add(f"job{n}", REQUEST, origin(n), NOW, budget=7 * PRICE) for n in range(20)), return_exceptions=True
    )
    assert sum(isinstance(one, LimitReached) for one in made) == 13
    assert len(await store.ids()) == 7
    assert await store.spent(7, NOW) == 7 * PRICE


async def test_add_same_interaction_over_the_budget_gives_the_known_job(store: JobStore) -> None:
    first = await store.add("job1", REQUEST, origin(1), NOW, budget=PRICE)
    again = await store.add("job2", REQUEST, origin(1), NOW, budget=PRICE)
    assert first is not None
    assert again is not None
    assert (again.job, again.created) == (first.job, False)


async def test_add_on_the_next_day_begins_anew(store: JobStore) -> None:
    await store.add("job1", REQUEST, origin(1), NOW, budget=PRICE)
    tomorrow = NOW.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
    with pytest.raises(LimitReached):
        await store.add("job2", REQUEST, origin(2), tomorrow - timedelta(microseconds=1), budget=PRICE)
    assert await store.add("job2", REQUEST, origin(2), tomorrow, budget=PRICE) is not None


async def test_check_budget_of_one_that_never_fits_says_so() -> None:
    with pytest.raises(LimitReached, match=r"takes 31\.5 megapixel-steps, and a member may use 20 a day"):
        limits.check_budget(31_457_280, 0, 20 * limits.PIXEL_STEPS)


@pytest.mark.parametrize("status", list(JobStatus), ids=str)
async def test_delete_keeps_the_entry_only_of_what_was_drawn(store: JobStore, path: Path, status: JobStatus) -> None:
    await brought_to(store, status)
    await store.delete("job1")
    drawn = status in (JobStatus.RENDERED, JobStatus.POSTING, JobStatus.POSTED)
    assert list(entries(path)) == (["job1"] if drawn else [])
    assert await store.spent(7, NOW) == (PRICE if drawn else 0)
    assert await store.ledger_faults() == ()
    await store.forget_ledger(NOW)
    assert list(entries(path)) == (["job1"] if drawn else [])
    await store.forget_ledger(NOW + timedelta(days=1))
    assert entries(path) == {}


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        ("DELETE FROM ledger", "job1 (queued) has no entry"),
        ("UPDATE ledger SET state = 'settled'", "job1 (queued) is settled, not reserved"),
        ("UPDATE ledger SET amount = 0", "job1 (queued) is reserved with 0 of 32768"),
        ("DELETE FROM jobs", "job1 is reserved and nobody's"),
    ],
    ids=["missing", "state", "amount", "nobody's"],
)
async def test_ledger_faults_names_what_disagrees(store: JobStore, path: Path, damage: str, says: str) -> None:
    await added(store)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(damage)
        connection.commit()
    assert await store.ledger_faults() == (says,)


OLD_ROW = """INSERT INTO jobs (id, interaction_id, status, attempt, request, application_id, expires_at, user_id, user_name,
channel_id, age_restricted, attachment_size_limit, bot_in_channel, created_at, told)
VALUES (?, ?, ?, 0, ?, 1, 1, 7, 'ada', 5, 0, 1, 1, 1, 0)"""


async def test_ledger_of_an_older_database_has_an_entry_for_every_request(path: Path) -> None:
    migrate.prepare(path, head="0001")
    with closing(sqlite3.connect(path)) as connection:
        for n, status in enumerate(JobStatus):
            connection.execute(OLD_ROW, (status.value, n, status.value, json.dumps(asdict(REQUEST))))
        connection.commit()
    store = await opened(path)
    assert await store.ledger_faults() == ()
    assert entries(path)["queued"] == ("reserved", PRICE, PRICE)
    assert entries(path)["failed"] == ("refunded", PRICE, 0)
    await store.close()


WRITER = """
import asyncio, sys
from pathlib import Path
from tests.unit.store.support import NOW, opened, origin, picture, request

async def life(store, n):
    await store.add(f"job{n}", request(count=1 + n % 3), origin(n), NOW)
    print(n, flush=True)
    await store.start(f"job{n}", NOW)
    if n % 3 == 0:
        await store.cancel(f"job{n}", NOW)
    elif n % 3 == 1:
        await store.render(f"job{n}", [picture(0)], draw_s=1.0, denoise_s=1.0)
    else:
        await store.fail(f"job{n}", "why", NOW)

async def main():
    store = await opened(Path(sys.argv[1]))
    for n in range(0, 100_000, 4):
        await asyncio.gather(*(life(store, n + k) for k in range(4)))

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kill -9 is POSIX")
async def test_ledger_after_kill_9_in_the_middle_of_everything_is_balanced(path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(30):
        process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    process.stdout.read()
    process.wait()
    again = await opened(path)
    assert await again.ledger_faults() == ()
    found = await again.recover(NOW, 3, GIVEN_UP)
    assert await again.ledger_faults() == ()
    reserved = sum(limits.price(job.request) for job in found.waiting)
    settled = sum(limits.drawn_price(job.request, [(0, 64, 64)]) for job in found.rendered)
    assert await again.spent(7, NOW) == reserved + settled
    await again.close()


def test_price_is_pixels_times_steps_times_pictures() -> None:
    assert limits.price(request(width=1024, height=1024, num_inference_steps=30, count=1)) == 31_457_280


async def test_ledger_sheet_is_charged_for_all_its_pictures(store: JobStore) -> None:
    variants = (Variant(num_inference_steps=3), Variant(num_inference_steps=9), Variant(), Variant())
    asked = request(count=4, variants=variants, axes=(Axis("steps", ("3", "9")), Axis("seed", ("1", "2"))))
    await store.add("sheet", asked, origin(88), NOW)
    await store.start("sheet", NOW)
    await store.render("sheet", [replace(picture(0), width=500, height=400)], draw_s=1.0, denoise_s=1.0)
    assert await store.spent(7, NOW) == limits.price(asked) == 64 * 64 * (3 + 9 + 4 + 4)
    assert await store.ledger_faults() == ()
