"""One writer connection on its own thread; every piece of work is one short transaction there."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import Connection, Engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from bot.errors import ConfigError, DatabaseDamaged, DatabaseLocked, DiskFull, StorageError
from bot.store import migrate

log = logging.getLogger(__name__)
T = TypeVar("T")

BUSY_TIMEOUT_MS = 5_000
FOLD_TIMEOUT_MS = 50
"""How long a reader may hold up the folding of the journal, and with it everybody who waits for this thread."""


class Database:
    """Opens the database and runs work on its thread. The coroutines are for the event loop, which never waits itself."""

    def __init__(self, address: str) -> None:
        self._url = parse_address(address)
        self._name = self._url.database or self._url.render_as_string(hide_password=True)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._engine: Engine | None = None
        self._connection: Connection | None = None
        self.damaged: Future[DatabaseDamaged] = Future()
        """Done once the open database turns out to be damaged: nothing that it says can be trusted from then on."""
        self.damaged.set_running_or_notify_cancel()

    async def open(self) -> None:
        """Check, create or migrate the database, then connect. Raises DatabaseDamaged or DiskFull; changes nothing then."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._open)

    async def run(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in one write transaction; what it returns is committed.

        Once begun it runs to its end, also where the waiting task is cancelled. Raises StorageError or a kind of it.
        """
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._run, work)
        except RuntimeError as error:
            raise StorageError("The database is closed; Easel is stopping.") from error

    async def fold(self) -> None:
        """Write the journal into the database and empty it, so that what was erased is not left in the journal.

        Where somebody reads just now it is left for the next time. Raises StorageError or a kind of it.
        """
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._fold)
        except RuntimeError as error:
            raise StorageError("The database is closed; Easel is stopping.") from error

    async def beside(self, work: Callable[[Path], T]) -> T:
        """Run `work` with the database's path on its thread, outside a transaction. Raises StorageError or a kind of it."""

        def run() -> T:
            try:
                return work(Path(self._url.database or "").resolve())
            except (sqlite3.Error, OSError) as error:
                raise translated(error, self._name) from error

        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, run)
        except RuntimeError as error:
            raise StorageError("The database is closed; Easel is stopping.") from error

    async def close(self) -> None:
        """Finish what was asked for, then close. Repeatable."""
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        except RuntimeError:
            return  # closed before
        self._thread.shutdown(wait=True)

    def _open(self) -> None:
        if self._connection is not None:
            return
        try:
            # Resolved, since the swap of a migrated copy must replace the file and not a link to it.
            migrate.prepare(Path(self._url.database or "").resolve())
            self._engine = connect(self._url)
            self._connection = self._engine.connect()
        except (SQLAlchemyError, sqlite3.Error, OSError) as error:
            self._close()
            raise translated(error, self._name) from error

    def _run(self, work: Callable[[Connection], T]) -> T:
        if self._connection is None:
            raise StorageError("The database is not open.")
        try:
            with self._connection.begin():
                return work(self._connection)
        except SQLAlchemyError as error:
            ours = translated(error, self._name)
            if isinstance(ours, DatabaseDamaged) and not self.damaged.done():
                self.damaged.set_result(ours)
            raise ours from error

    def _fold(self) -> None:
        if self._connection is None:
            raise StorageError("The database is not open.")
        # Around SQLAlchemy, which would begin a transaction first.
        driver: Any = self._connection.connection.dbapi_connection
        try:
            driver.execute(f"PRAGMA busy_timeout={FOLD_TIMEOUT_MS}")
            driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            driver.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        except sqlite3.Error as error:
            raise translated(error, self._name) from error

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None


def parse_address(address: str) -> sa.URL:
    """Read an SQLAlchemy address. Raises ConfigError where it is none, names no file or another kind of database."""
    takes = "EASEL_DATABASE_URL takes an SQLAlchemy address, as sqlite:////srv/easel.db"
    try:
        url = make_url(address)
        backend = url.get_backend_name()
    except (ArgumentError, NoSuchModuleError):
        raise ConfigError(f"{takes}; what it got is not one.") from None
    if backend != "sqlite":
        raise ConfigError(f"{takes}; {backend} is not served yet.")
    if not url.database or url.database.startswith((":memory:", "file:")):
        raise ConfigError(f"{takes}; it must name a file, since one in memory loses every request at a restart.")
    return url


def connect(url: sa.URL) -> Engine:
    """Make the engine: explicit `BEGIN IMMEDIATE`, and every commit on the disk before it returns."""
    # isolation_level None: the driver must not begin or commit by itself, or BEGIN IMMEDIATE would come too late.
    engine = sa.create_engine(url, connect_args={"isolation_level": None, "timeout": BUSY_TIMEOUT_MS / 1000})

    @event.listens_for(engine, "connect")
    def set_up(connection: Any, record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}")
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.execute("PRAGMA foreign_keys=ON")
        cursor.execute("PRAGMA secure_delete=ON")  # deleted prompts and tokens do not linger in free pages
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        # Immediate, since a transaction that reads before it writes could otherwise fail half-way.
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def translated(error: Exception, name: str) -> StorageError:
    """Turn a driver's error into ours, with a sentence that says what to do."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    code = str(getattr(cause, "sqlite_errorname", ""))
    if code.startswith("SQLITE_FULL"):
        return DiskFull("The bot's disk is full, so nothing more can be recorded; please tell whoever runs it.")
    if code.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return DatabaseLocked(f"The database {name} is locked by another program. Stop that program, then start again.")
    if code.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return DatabaseDamaged(migrate.damaged(name, str(cause)))
    log.error("the database failed (%s): %s", code or type(cause).__name__, cause)
    if code.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")) or isinstance(cause, OSError):
        return StorageError(f"The database {name} cannot be opened for writing; check its folder and permissions.")
    return StorageError("The database failed; nothing was changed. The bot's log says why.")
