"""Makes the SQLite file ready: checks it, creates it, or brings its schema up to date on a copy that is swapped in.

SQLite's DDL does not roll back under Alembic, so nothing ever migrates the live file: a kill at any moment leaves
either the old file or the new one in its place, and the old one is kept next to it. Blocking; database thread.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sqlite3
from collections.abc import Generator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bot.errors import DatabaseDamaged, DiskFull

if TYPE_CHECKING:
    from alembic.config import Config

log = logging.getLogger(__name__)

SCRIPTS = Path(__file__).parent / "migrations"
HEAD = "0005"
"""The newest script's revision, here so that a start that has nothing to migrate need not load Alembic."""

_MAGIC = b"SQLite format 3\x00"


def damaged(name: str | Path, what: str) -> str:
    """Say that the file is damaged and what to do."""
    return (
        f"The database {name} is damaged ({what}). It was left as it is: restore a backup of it, "
        "or move the file away and start with an empty one."
    )


def prepare(path: Path, *, scripts: Path = SCRIPTS, head: str = HEAD) -> None:
    """Leave a sound database with schema `head` at `path`.

    Raises DatabaseDamaged where the file is damaged, somebody else's, newer than this program or cannot be
    migrated (then it is unchanged), and DiskFull.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            _create(path, scripts, head)
            return
        revision = inspect(path)
        if revision != head:
            _migrate(path, revision, scripts, head)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(
                f"There is no room on the disk for the database {path}; free some and start again."
            ) from error
        raise


def inspect(path: Path) -> str:
    """Check the file without changing it; the revision of its schema. Raises DatabaseDamaged."""
    with path.open("rb") as file:
        start = file.read(len(_MAGIC))
    if start != _MAGIC:
        raise DatabaseDamaged(damaged(path, "the file is empty" if not start else "it is no SQLite database"))
    try:
        with contextlib.closing(_open_read_only(path)) as connection:
            found = connection.execute("PRAGMA quick_check(1)").fetchone()
            if found is None or found[0] != "ok":
                raise DatabaseDamaged(damaged(path, str(found and found[0])))
            tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            revision = (
                connection.execute("SELECT version_num FROM alembic_version").fetchone()
                if "alembic_version" in tables
                else None
            )
    except sqlite3.DatabaseError as error:
        if str(getattr(error, "sqlite_errorname", "")).startswith(("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_CANTOPEN")):
            raise
        raise DatabaseDamaged(damaged(path, str(error))) from error
    if revision is None:
        raise DatabaseDamaged(
            f"{path} is a database, but not one of Easel's. Move it away, or name another with EASEL_DATABASE_URL."
        )
    return str(revision[0])


def _open_read_only(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=5.0)


def _create(path: Path, scripts: Path, head: str) -> None:
    """Build the first file apart and rename it, so that no start ever finds half of one."""
    journal = Path(f"{path}-wal")
    if journal.exists() and journal.stat().st_size:
        # SQLite would play that journal into the new file.
        raise DatabaseDamaged(
            f"The database {path} is missing, but its journal {journal.name} is there. Put the database back beside "
            "it, or move the journal away to start with an empty one."
        )
    with _scratch(path, "new") as fresh:
        _upgrade(fresh, scripts, head)
        _swap_in(fresh, path)
    log.info("database %s created", path)


def _migrate(path: Path, revision: str, scripts: Path, head: str) -> None:
    if revision not in _known_revisions(scripts):
        raise DatabaseDamaged(
            f"The database {path} has the schema {revision}, which is newer than this Easel knows ({head}). "
            "Update Easel, or restore the database that belongs to this version. It was left as it is."
        )
    backup = path.with_name(f"{path.name}.backup-{revision}")
    try:
        with _scratch(path, "migrating") as copy:
            _copy(path, copy)
            _keep(copy, backup)
            _upgrade(copy, scripts, head)
            _verify(backup, copy, head)
            _swap_in(copy, path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise _not_migrated(path, revision, head, backup, error) from error
    except Exception as error:
        raise _not_migrated(path, revision, head, backup, error) from error
    log.info("database %s brought from schema %s to %s; the old one is kept as %s", path, revision, head, backup.name)


def _not_migrated(path: Path, revision: str, head: str, backup: Path, error: Exception) -> DatabaseDamaged:
    kept = f" A copy is {backup.name}." if backup.exists() else ""
    return DatabaseDamaged(
        f"The database {path} could not be brought from schema {revision} to {head} ({error}). It was left as it "
        f"is.{kept} Run the Easel version that made it, or report this."
    )


@contextlib.contextmanager
def _scratch(path: Path, purpose: str) -> Generator[Path, None, None]:
    """Give a file name beside `path` for work in progress; what is left there goes, also from a killed start."""
    scratch = path.with_name(f"{path.name}.{purpose}")
    leftovers = (scratch, Path(f"{scratch}-journal"), Path(f"{scratch}-wal"), Path(f"{scratch}-shm"))
    for file in leftovers:
        file.unlink(missing_ok=True)
    try:
        yield scratch
    finally:
        for file in leftovers:
            file.unlink(missing_ok=True)


def _copy(path: Path, copy: Path) -> None:
    """Copy with SQLite's own backup, then fold the original's journal away: it must not meet the swapped-in file."""
    with contextlib.closing(sqlite3.connect(path, timeout=5.0)) as source:
        source.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with contextlib.closing(sqlite3.connect(copy)) as target:
            source.backup(target)
            target.execute("PRAGMA journal_mode=DELETE")
    journal = Path(f"{path}-wal")
    if journal.exists() and journal.stat().st_size:
        raise DatabaseDamaged(f"The database {path} is in use by another program. Stop it, then start again.")


def _keep(copy: Path, backup: Path) -> None:
    part = backup.with_name(f"{backup.name}.part")
    part.write_bytes(copy.read_bytes())
    # A backup is kept for good, and an interaction's token for its 15 minutes only.
    with contextlib.closing(sqlite3.connect(part)) as connection:
        connection.execute("PRAGMA secure_delete=ON")
        connection.execute("UPDATE jobs SET interaction_token = NULL")
        connection.commit()
    _sync(part)
    part.replace(backup)
    _sync(backup.parent)


def _config(scripts: Path) -> Config:
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(scripts).replace("%", "%%"))
    return config


def _known_revisions(scripts: Path) -> set[str]:
    from alembic.script import ScriptDirectory

    return {script.revision for script in ScriptDirectory.from_config(_config(scripts)).walk_revisions()}


def _upgrade(file: Path, scripts: Path, head: str) -> None:
    """Run Alembic's scripts on a file nobody else has open."""
    import sqlalchemy as sa
    from alembic import command

    engine = sa.create_engine(sa.URL.create("sqlite", database=str(file)), poolclass=sa.NullPool)
    try:
        config = _config(scripts)
        with engine.connect() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, head)
            connection.commit()
    finally:
        engine.dispose()


def _verify(before: Path, copy: Path, head: str) -> None:
    """Check the migrated copy: sound, of the right schema, no request missing."""
    if inspect(copy) != head:
        raise ValueError("the copy did not reach that schema")
    with contextlib.closing(_open_read_only(copy)) as new, contextlib.closing(_open_read_only(before)) as old:
        broken: list[Any] = new.execute("PRAGMA foreign_key_check").fetchall()
        count = "SELECT count(*) FROM jobs"
        if broken or new.execute(count).fetchone() != old.execute(count).fetchone():
            raise ValueError("the copy does not hold the same requests")


def _swap_in(fresh: Path, path: Path) -> None:
    _sync(fresh)
    os.replace(fresh, path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    if os.name == "nt" and path.is_dir():
        return  # Windows has no such call and needs none
    handle = os.open(path, os.O_RDONLY if os.name != "nt" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
