"""All that is kept of one member: read for them, and removed. Database thread, inside a transaction of the caller."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections import defaultdict
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Select, delete, func, insert, select

from bot.errors import StorageError
from bot.generation import Job
from bot.store import ledger, posts
from bot.store.rows import load_jobs, request_of
from bot.store.schema import files, jobs
from bot.store.schema import ledger as entries

_NOT_TOLD = {"seq", "interaction_token"}
"""A row number means nothing outside, and a token is no data about a member but a key of the bot's."""


def export(connection: Connection, user_id: int) -> dict[str, Any]:
    """Give every row about a member, as JSON can hold it; moments are ISO 8601, amounts pixel-steps.

    `drawn_from` are the digests of the pictures that a request is drawn from.
    """
    requests = _rows(connection, select(jobs).where(jobs.c.user_id == user_id).order_by(jobs.c.seq))
    mine = select(jobs.c.id).where(jobs.c.user_id == user_id)
    pictures = _rows(connection, select(files).where(files.c.job_id.in_(mine)).order_by(files.c.job_id, files.c.n))
    of_job: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for picture in pictures:
        of_job[picture.pop("job_id")].append({key: value for key, value in picture.items() if key != "path"})
    messages = posts.of_member(connection, user_id)
    for request in requests:
        request["messages"] = [asdict(post) for post in messages.get(request["id"], ())]
        request["drawn_from"] = list(request_of(request["request"]).inputs)
        request["request"] = json.loads(request["request"])
        request["pictures"] = of_job[request["id"]]
    quota = _rows(connection, select(entries).where(entries.c.user_id == user_id).order_by(entries.c.at))
    return {"user_id": user_id, "requests": requests, "quota": quota}


def erase(connection: Connection, user_id: int, now: datetime, *, keep_today: bool) -> tuple[Job, ...]:
    """Remove every row about a member; what they were. Their interaction tokens come along where they still work.

    `keep_today` leaves one number, what they have used of today's budget, or erasing would be a way to get a new one;
    it goes with the day (`ledger.forget_old`).
    """
    gone = load_jobs(connection, select(jobs).where(jobs.c.user_id == user_id).order_by(jobs.c.seq), now)
    connection.execute(delete(jobs).where(jobs.c.user_id == user_id))
    used = _settled_today(connection, user_id, now) if keep_today else 0
    connection.execute(delete(entries).where(entries.c.user_id == user_id))
    if used:
        day = ledger.day_of(now)
        name = f"used-{user_id}-{day:%Y%m%d}"
        values = {"user_id": user_id, "at": day, "state": ledger.Entry.SETTLED.value, "reserved": used, "amount": used}
        connection.execute(insert(entries).values(job_id=name, **values))
    return gone


def erase_from_backups(database: Path, user_id: int) -> None:
    """Remove a member's rows from the copies that were kept before migrations. Blocking; any thread.

    Raises StorageError naming those that could not be changed.
    """
    failed: list[str] = []
    for backup in sorted(database.parent.glob(f"{database.name}.backup-*")):
        try:
            _erase_from(backup, user_id)
        except (sqlite3.Error, OSError) as error:
            failed.append(f"{backup.name} ({error})")
    if failed:
        raise StorageError(f"Copies of the database could not be changed: {', '.join(failed)}.")


def _erase_from(backup: Path, user_id: int) -> None:
    with contextlib.closing(sqlite3.connect(backup, timeout=5.0)) as connection:
        connection.execute("PRAGMA secure_delete=ON")
        connection.execute("PRAGMA foreign_keys=ON")
        tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            columns = [row[1] for row in connection.execute(f"PRAGMA table_info('{table}')")]
            if "user_id" in columns:
                connection.execute(f"DELETE FROM '{table}' WHERE user_id = ?", (user_id,))
        connection.commit()


def _settled_today(connection: Connection, user_id: int, now: datetime) -> int:
    query = select(func.coalesce(func.sum(entries.c.amount), 0)).where(
        entries.c.user_id == user_id,
        entries.c.at >= ledger.day_of(now),
        entries.c.state == ledger.Entry.SETTLED.value,
    )
    return int(connection.execute(query).scalar_one())


def _rows(connection: Connection, query: Select[Any]) -> list[dict[str, Any]]:
    found = connection.execute(query).mappings()
    return [{key: _plain(value) for key, value in row.items() if key not in _NOT_TOLD} for row in found]


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value
