"""50: /privacy delete removes rows, files, pending requests and messages; shown by queries and by the bytes on disk."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from bot.generation import JobStatus
from bot.scheduling.events import Rendered
from bot.store import migrate
from bot.store.jobs import JobStore
from tests.faults.test_quota import somebody_new
from tests.faults.test_rights import press_what_says
from tests.loopback.stage import Stage, job_of, pictures
from tests.unit.scheduling.fakes import World
from tests.unit.store.support import NOW, brought_to, opened, origin, request

pytestmark = pytest.mark.fault(50)
SECRET = "a zebra nobody else thinks of"


def rows_about(path: Path, user_id: int) -> dict[str, int]:
    """Count a member's rows in every table there is, and the files' rows of their requests."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        tables = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        found: dict[str, int] = {}
        for table in tables:
            columns = [row[1] for row in database.execute(f"PRAGMA table_info('{table}')")]
            if "user_id" in columns:
                where = f"SELECT count(*) FROM '{table}' WHERE user_id = ?"
                found[table] = database.execute(where, (user_id,)).fetchone()[0]
        owned = "SELECT count(*) FROM files JOIN jobs ON jobs.id = job_id WHERE user_id = ?"
        found["files"] = database.execute(owned, (user_id,)).fetchone()[0]
        orphans = "SELECT count(*) FROM files WHERE job_id NOT IN (SELECT id FROM jobs)"
        found["files of nobody"] = database.execute(orphans).fetchone()[0]
    return found


def holding(folder: Path, text: str) -> list[str]:
    """The files below a folder, the journal included, that hold this text."""
    return [str(one) for one in folder.rglob("*") if one.is_file() and text.encode() in one.read_bytes()]


@pytest.mark.asyncio(loop_scope="session")
async def test_fault_50_delete_my_data_leaves_no_row_file_message_or_pending_request(loud_stage: Stage) -> None:
    stage = loud_stage
    name = somebody_new(stage, "zoe")
    zoe, data = stage.person(name), stage.bot.data_dir / "data"
    shown = await stage.draw(name, prompt=SECRET, steps=2)
    private = await stage.drawn(await stage.imagine(name, prompt=SECRET, steps=2, private=True))
    others = await stage.draw("bob", steps=2)
    running = await stage.waiting(await stage.imagine(name, prompt=f"{SECRET}, forever", steps=100, count=4))
    await stage.until_status(running, "running")
    waiting = await stage.waiting(await stage.imagine(name, prompt=SECRET, steps=2))

    told = await (await zoe.slash("imagine", "privacy export")).answered()
    file = next(message for message in told.replies if message.attachments).attachments[0]
    kept = json.loads(file.data)
    assert [one["status"] for one in kept["requests"]] == ["posted", "posted", "running", "queued"]
    assert {one["request"]["prompt"] for one in kept["requests"]} == {SECRET, f"{SECRET}, forever"}
    assert [one["file_name"] for one in kept["requests"][0]["pictures"]] == [f"easel-{job_of(shown)}-1.png"]
    assert [entry["state"] for entry in kept["quota"]] == ["settled", "settled", "reserved", "reserved"]
    assert not [one for one in stage.discord.interactions.values() if one.token.encode() in file.data]

    asked = await (await zoe.slash("imagine", "privacy delete")).answered()
    assert "4 requests, 2 of them unfinished" in asked.private_text
    question = next(message for message in asked.replies if message.buttons)
    stranger = await press_what_says(stage, "bob", others, f"easel:v1:erase:{zoe.user.id}")
    assert "somebody else's data" in stranger
    assert stage.status_of(running) == "running"
    await (done := await zoe.click(question, label="Delete everything")).answered(timeout_s=30)
    assert "4 requests with all files and records, and 3 messages" in done.private_text
    assert "1 private answer only you can see" in done.private_text  # its token went with its end
    assert "used is kept until midnight UTC" in done.private_text

    found = rows_about(data / "easel.db", zoe.user.id)
    assert found.pop("ledger") == 1  # a budget is set here: the number of today
    assert set(found.values()) == {0}, found
    assert not [path for one in kept["requests"] for path in data.rglob(f"*{one['id']}*")]
    assert holding(data, SECRET) == []
    everywhere = [running.original, waiting.original, shown]
    assert [message.deleted for message in everywhere if message is not None] == [True] * 3
    assert private.ephemeral
    # The engine has let go of it, the line goes on, and what is others' stands.
    assert pictures(await stage.draw("bob", steps=2))
    assert not others.deleted
    again = await (await zoe.slash("imagine", "history")).answered()
    assert "Nothing yet" in again.private_text


async def test_fault_50_erasing_without_a_budget_leaves_no_row_at_all(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        await world.heard(Rendered, (await world.submit("drawn")).id)
        world.hold("held")
        await world.submit("held")
        await world.begun("held")
        await world.submit("waiting")
        other = await world.submit("another member's", user_id=8)
        assert len((await world.service.erase_member(7)).jobs) == 3
        assert set(rows_about(world.path, 7).values()) == {0}
        left = world.service.overview(7)
        assert left.mine == ()
        assert {job.origin.user_id for job in left.running} <= {8}
        world.engine.gates["held"].set()
        await world.heard(Rendered, other.id)
        assert [name.split("-")[1] for name in world.picture_files()] == [other.id] * 2
        assert set(rows_about(world.path, 7).values()) == {0}


async def test_fault_50_copy_that_cannot_be_cleaned_is_told_and_the_rest_goes(tmp_path: Path) -> None:
    async with World(tmp_path) as world:
        world.hold("held")
        await world.submit("held")
        await world.begun("held")
        (tmp_path / "easel.db.backup-0001").write_bytes(b"no database" * 1000)
        erased = await world.service.erase_member(7)
        assert erased.copies_left
        assert world.service.overview(7).running == ()
        assert set(rows_about(world.path, 7).values()) == {0}


async def test_fault_50_erasing_is_no_way_to_a_new_budget_and_its_number_goes_with_the_day(store: JobStore) -> None:
    await brought_to(store, JobStatus.POSTED)
    used = await store.spent(7, NOW)
    for _ in range(2):
        await store.erase_member(7, NOW, keep_today=True)
        assert await store.spent(7, NOW) == used
    await store.forget_ledger(NOW.replace(day=NOW.day + 1))
    assert (await store.export_member(7))["quota"] == []


async def test_fault_50_erasing_reaches_the_copies_kept_before_migrations(tmp_path: Path) -> None:
    path = tmp_path / "easel.db"
    store = await opened(path)
    await store.add("hers", request(prompt=SECRET), origin(1), NOW)
    await store.add("his", request(), origin(2, user_id=8), NOW)
    await store.close()
    backup = path.with_name("easel.db.backup-0001")
    migrate._keep(path, backup)
    assert sorted(holding(tmp_path, SECRET)) == [str(path), str(backup)]
    again = await opened(path)
    await again.erase_member(7, NOW, keep_today=False)
    await again.scrub(7)
    assert holding(tmp_path, SECRET) == []
    assert rows_about(backup, 8)["jobs"] == 1
    await again.close()


@pytest.fixture
async def store(tmp_path: Path):  # type: ignore[no-untyped-def]
    store = await opened(tmp_path / "easel.db")
    yield store
    await store.close()
