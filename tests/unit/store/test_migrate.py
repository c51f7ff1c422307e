"""The file itself: made, checked, migrated on a copy, never reset."""

# a test may block its own loop

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.migration import MigrationContext

from bot.errors import DatabaseDamaged
from bot.generation import JobStatus
from bot.store import migrate, schema
from tests.unit.store.support import brought_to, opened

NEXT = f"{int(migrate.HEAD) + 1:04}"
ADDS_COLUMN = f"""
import sqlalchemy as sa
from alembic import op
revision, down_revision, branch_labels, depends_on = "{NEXT}", "{migrate.HEAD}", None, None
def upgrade():
    op.add_column("jobs", sa.Column("mood", sa.Text()))
    {{then}}
"""


@pytest.fixture
async def old(path: Path) -> Path:
    """A database of today's schema with a job in it."""
    store = await opened(path)
    await brought_to(store, JobStatus.POSTED)
    await store.close()
    return path


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    return Path(shutil.copytree(migrate.SCRIPTS, tmp_path / "scripts", ignore=shutil.ignore_patterns("__pycache__")))


def newer(scripts: Path, then: str = "pass") -> Path:
    (scripts / "versions" / f"{NEXT}_mood.py").write_text(ADDS_COLUMN.format(then=then))
    return scripts


def test_head_is_the_newest_script() -> None:
    assert max(path.name[:4] for path in (migrate.SCRIPTS / "versions").glob("0*.py")) == migrate.HEAD


def test_scripts_make_the_schema_the_code_uses(path: Path) -> None:
    migrate.prepare(path)
    engine = sa.create_engine(f"sqlite:///{path}")
    with engine.connect() as connection:
        from alembic.autogenerate import compare_metadata

        assert compare_metadata(MigrationContext.configure(connection), schema.metadata) == []
        made = sa.inspect(connection)
        assert {i["name"] for i in made.get_indexes("jobs")} >= {"jobs_by_user", "jobs_by_status", "jobs_by_end"}
    engine.dispose()


def test_prepare_new_file_leaves_only_the_database(path: Path) -> None:
    migrate.prepare(path)
    assert [file.name for file in path.parent.iterdir()] == ["easel.db"]
    assert migrate.inspect(path) == migrate.HEAD


def test_prepare_leftovers_of_a_killed_creation_start_over(path: Path) -> None:
    path.parent.mkdir(parents=True)
    Path(f"{path}.new").write_bytes(b"half a database")
    Path(f"{path}.new-journal").write_bytes(b"half a journal")
    migrate.prepare(path)
    assert [file.name for file in path.parent.iterdir()] == ["easel.db"]


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty"),
        (b"hello, I am a text file\n" * 100, "no SQLite database"),
        (b"SQLite format 3\x00" + b"\xff" * 4096, "damaged"),
    ],
    ids=["empty", "text", "header only"],
)
async def test_open_file_that_is_no_database_is_refused_untouched(path: Path, content: bytes, word: str) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(DatabaseDamaged, match=word) as caught:
        await opened(path)
    assert str(path) in str(caught.value)
    assert "backup" in str(caught.value)
    assert path.read_bytes() == content


@pytest.mark.parametrize("page", [1, 3, 5])
async def test_open_damaged_page_is_refused_untouched(old: Path, page: int) -> None:
    data = bytearray(old.read_bytes())
    data[page * 4096 : page * 4096 + 2000] = b"\xa5" * 2000
    old.write_bytes(data)
    with pytest.raises(DatabaseDamaged, match="damaged"):
        await opened(old)
    assert old.read_bytes() == data


async def test_open_truncated_file_is_refused_untouched(old: Path) -> None:
    data = old.read_bytes()[: 4096 * 3]
    old.write_bytes(data)
    with pytest.raises(DatabaseDamaged, match="damaged"):
        await opened(old)
    assert old.read_bytes() == data


async def test_open_another_programs_database_is_refused(path: Path) -> None:
    path.parent.mkdir(parents=True)
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")
    with pytest.raises(DatabaseDamaged, match="not one of Easel's"):
        await opened(path)


async def test_open_missing_database_beside_its_journal_is_refused(path: Path) -> None:
    path.parent.mkdir(parents=True)
    Path(f"{path}-wal").write_bytes(b"frames")
    with pytest.raises(DatabaseDamaged, match="journal"):
        await opened(path)
    assert not path.exists()


async def test_open_newer_schema_is_refused_untouched(old: Path) -> None:
    with sqlite3.connect(old) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    data = old.read_bytes()
    with pytest.raises(DatabaseDamaged, match="9999, which is newer"):
        await opened(old)
    assert old.read_bytes() == data


def test_prepare_older_schema_migrates_and_keeps_a_backup(old: Path, scripts: Path) -> None:
    migrate.prepare(old, scripts=newer(scripts), head=NEXT)
    assert migrate.inspect(old) == NEXT
    backup = old.with_name(f"easel.db.backup-{migrate.HEAD}")
    assert migrate.inspect(backup) == migrate.HEAD
    today = len(schema.jobs.columns)
    for file, columns in ((old, today + 1), (backup, today)):
        with sqlite3.connect(file) as connection:
            assert connection.execute("SELECT count(*) FROM jobs").fetchone() == (1,)
            assert len(connection.execute("SELECT * FROM jobs").fetchone()) == columns
    assert {file.name for file in old.parent.iterdir()} == {old.name, backup.name}


@pytest.mark.parametrize(
    "then",
    ["raise RuntimeError('boom')", "op.execute('DELETE FROM jobs')", "op.execute('UPDATE files SET job_id = 1')"],
    ids=["raises", "loses jobs", "breaks keys"],
)
def test_prepare_failing_migration_leaves_the_old_file(old: Path, scripts: Path, then: str) -> None:
    data = old.read_bytes()
    with pytest.raises(DatabaseDamaged, match=f"from schema {migrate.HEAD} to {NEXT}"):
        migrate.prepare(old, scripts=newer(scripts, then), head=NEXT)
    assert old.read_bytes() == data
    assert migrate.inspect(old.with_name(f"easel.db.backup-{migrate.HEAD}")) == migrate.HEAD
    assert not old.with_name("easel.db.migrating").exists()


def test_prepare_migration_takes_along_what_is_only_in_the_journal(old: Path, scripts: Path, tmp_path: Path) -> None:
    writer = sqlite3.connect(old)
    writer.execute("PRAGMA journal_mode=WAL")
    writer.execute("UPDATE jobs SET user_name = 'from the journal'")
    writer.commit()
    killed = tmp_path / "killed" / "easel.db"  # what kill -9 leaves: the file and its journal
    killed.parent.mkdir()
    for suffix in ("", "-wal"):
        shutil.copy(f"{old}{suffix}", f"{killed}{suffix}")
    writer.close()
    migrate.prepare(killed, scripts=newer(scripts), head=NEXT)
    with sqlite3.connect(killed) as connection:
        assert connection.execute("SELECT user_name FROM jobs").fetchone() == ("from the journal",)
