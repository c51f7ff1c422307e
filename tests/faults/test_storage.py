"""26 to 28: the disk is full, the database locked, read-only, damaged, or cannot be brought to the new schema."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from bot.exits import EXIT_DATABASE, EXIT_STORAGE
from bot.store import migrate, schema
from bot.store.rows import request_text
from tests.crash.traps import FULL_DATABASE, FULL_PICTURES, NO_ROOM, READ_ONLY_DATABASE
from tests.faults.stages import START_S, Victims, VictimStage
from tests.loopback import Invocation
from tests.unit.store.support import NOW, REQUEST, opened, origin

session = pytest.mark.asyncio(loop_scope="session")
pytestmark = pytest.mark.timeout(900)

LONG_PROMPT = "é" * 1_400
"""8.4 KB as it is stored: pages that are not there yet."""
FAILS = """
from alembic import op
revision, down_revision, branch_labels, depends_on = "9998", "{head}", None, None
def upgrade():
    op.execute("DELETE FROM files")
    raise RuntimeError("no such luck")
"""
REVISIONS = [
    script.revision for script in ScriptDirectory.from_config(migrate._config(migrate.SCRIPTS)).walk_revisions()
][::-1]


async def two_at_work(stage: VictimStage) -> tuple[Invocation, Invocation]:
    """One request that is being drawn for two seconds, and one behind it."""
    running = await stage.waiting(await stage.imagine("ada", prompt="slow a house", steps=20, count=4))
    await stage.until_status(running, "running")
    return running, await stage.waiting(await stage.imagine("bob", prompt="a boat", steps=2))


async def refused(stage: VictimStage, words: str, prompt: str = "a tree") -> None:
    """Ask for one more, which is answered with these words and has no row."""
    asked = await (await stage.imagine("eve", prompt=prompt)).answered(timeout_s=30)
    assert words in asked.private_text
    assert stage.status_of(asked) is None


@session
@pytest.mark.fault(26)
@pytest.mark.parametrize(
    ("fault", "words", "prompt"),
    [
        pytest.param(NO_ROOM, "disk is nearly full", "a tree", id="nearly full"),
        pytest.param(FULL_DATABASE, "disk is full", LONG_PROMPT, id="the database has no room"),
        pytest.param(FULL_PICTURES, None, "", id="the pictures have no room"),
    ],
)
async def test_fault_26_full_disk_refuses_new_requests_with_a_reason_and_keeps_the_old(
    victim: VictimStage, fault: str, words: str | None, prompt: str
) -> None:
    stage = victim
    old = await two_at_work(stage)
    with stage.fault(fault):
        if words is not None:
            await refused(stage, words, prompt)
        else:
            await _logged(stage, "waits for room on the disk")
            assert stage.status_of(old[0]) == "running"
    for one in old:
        await stage.drawn(one)
        assert stage.row(one.interaction.id)["attempt"] == 1
    await stage.draw("eve", steps=2)


async def _logged(stage: VictimStage, words: str) -> None:
    async with asyncio.timeout(30):
        while words not in stage.bot.logs:
            await asyncio.sleep(0.05)


@session
@pytest.mark.fault(27)
async def test_fault_27_database_that_became_read_only_refuses_with_a_sentence_and_goes_on_when_it_may(
    victim: VictimStage,
) -> None:
    stage = victim
    old = await two_at_work(stage)
    with stage.fault(READ_ONLY_DATABASE):
        await refused(stage, "cannot be opened for writing")
    for one in old:
        await stage.drawn(one)
        assert stage.row(one.interaction.id)["attempt"] == 1


@session
@pytest.mark.fault(27)
async def test_fault_27_database_that_another_program_holds_stops_the_start_with_its_own_code(
    victims: Victims,
) -> None:
    stage = await victims(start=False)
    migrate.prepare(stage.database_path)
    holder = sqlite3.connect(stage.database_path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    await stage.bot.start()
    assert await stage.bot.exited(timeout_s=START_S) == EXIT_STORAGE
    assert "locked by another program" in stage.bot.logs
    holder.execute("ROLLBACK")
    holder.close()


@session
@pytest.mark.fault(27)
async def test_fault_27_damage_that_shows_while_it_runs_stops_the_process_and_the_file_is_never_reset(
    victims: Victims,
) -> None:
    stage = await victims()
    await stage.draw("ada", steps=2)
    _damage(stage.database_path)
    await stage.imagine("bob", prompt="a boat")
    assert await stage.bot.exited(timeout_s=60) == EXIT_DATABASE
    assert "is damaged" in stage.bot.logs
    before = hashlib.sha256(stage.database_path.read_bytes()).hexdigest()
    await stage.bot.start()
    assert await stage.bot.exited(timeout_s=START_S) == EXIT_DATABASE
    assert "is damaged" in stage.bot.logs
    assert hashlib.sha256(stage.database_path.read_bytes()).hexdigest() == before


def _damage(path: Path) -> None:
    """Overwrite everything but the first page, under a process that has the file open and must then read it anew."""
    with closing(sqlite3.connect(path, timeout=10)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with path.open("r+b") as file:
            size = file.seek(0, 2)
            file.seek(4096)
            file.write(b"\xa5" * (size - 4096))
        database.execute("PRAGMA user_version = 7")  # touches the first page alone, and makes the others' caches stale


@session
@pytest.mark.fault(28)
async def test_fault_28_migration_that_fails_leaves_the_old_file_keeps_a_backup_and_names_the_version(
    victims: Victims, tmp_path: Path
) -> None:
    scripts = Path(shutil.copytree(migrate.SCRIPTS, tmp_path / "scripts", ignore=shutil.ignore_patterns("__pycache__")))
    (scripts / "versions" / "9998_fails.py").write_text(FAILS.format(head=migrate.HEAD))
    stage = await victims({"VICTIM_SCRIPTS": f"{scripts} 9998"}, start=False)
    store = await opened(stage.database_path)
    await store.add("job1", REQUEST, origin(1), NOW)
    await store.close()
    before = stage.database_path.read_bytes()
    await stage.bot.start()
    assert await stage.bot.exited(timeout_s=START_S) == EXIT_DATABASE
    assert f"could not be brought from schema {migrate.HEAD} to 9998" in stage.bot.logs
    assert "no such luck" in stage.bot.logs
    assert stage.database_path.read_bytes() == before
    backup = stage.database_path.with_name(f"easel.db.backup-{migrate.HEAD}")
    assert backup.name in stage.bot.logs
    with closing(sqlite3.connect(backup)) as kept:
        assert kept.execute("SELECT id FROM jobs").fetchall() == [("job1",)]


@pytest.mark.fault(28)
@pytest.mark.parametrize("revision", REVISIONS)
async def test_fault_28_database_of_every_schema_there_ever_was_is_brought_to_todays(
    tmp_path: Path, revision: str
) -> None:
    path = tmp_path / "easel.db"
    migrate._upgrade(path, migrate.SCRIPTS, revision)
    with closing(sqlite3.connect(path)) as database:
        for number, status in enumerate(("queued", "posted", "failed")):
            _insert(
                database, "jobs", id=f"job{number}", interaction_id=number, status=status, request=request_text(REQUEST)
            )
            _insert(database, "files", job_id=f"job{number}", n=0, path=f"/{number}.png", file_name="1.png")
        database.commit()
    store = await opened(path)
    jobs = [await store.get(f"job{number}") for number in range(3)]
    await store.close()
    assert [job and (job.status, len(job.files), job.request) for job in jobs] == [
        (status, 1, REQUEST) for status in ("queued", "posted", "failed")
    ]
    assert migrate.inspect(path) == migrate.HEAD
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []
    engine.dispose()
    backup = path.with_name(f"easel.db.backup-{revision}")
    assert backup.exists() == (revision != migrate.HEAD)
    assert not backup.exists() or migrate.inspect(backup) == revision


def _insert(database: sqlite3.Connection, table: str, **values: object) -> None:
    """Fill a row of whatever columns the table has at this revision: zeros and empty texts where nothing is given."""
    for _, name, kind, needed, default, _ in database.execute(f"PRAGMA table_info({table})").fetchall():
        if needed and default is None and name not in values and name != "seq":
            values[name] = "" if kind.startswith(("VARCHAR", "TEXT")) else 0
    names = ", ".join(values)
    database.execute(f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(values))})", tuple(values.values()))
