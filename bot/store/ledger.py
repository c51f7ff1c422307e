"""The quota ledger: one entry a request, changed only inside the transaction that changes the request's state.

    add ──▶ reserved ──render──▶ settled (by what was drawn)
                │                  │
                └──fail, cancel────┴──▶ refunded

So a kill at any moment leaves both or neither, and parallel requests, which the one writer takes one after the
other, see each other's reservations. Amounts are pixel-steps (`bot/limits.py`); all functions run on the database
thread, inside a transaction of their caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from sqlalchemy import Connection, case, delete, func, insert, select, update

from bot import limits
from bot.generation import GenerationRequest, JobStatus, Origin, PictureFile
from bot.store.schema import jobs, ledger

WINDOW = timedelta(days=1)


class Entry(StrEnum):
    """Where an entry stands."""

    RESERVED = "reserved"
    SETTLED = "settled"
    REFUNDED = "refunded"


_EXPECTED = {
    JobStatus.QUEUED: Entry.RESERVED,
    JobStatus.RUNNING: Entry.RESERVED,
    JobStatus.RENDERED: Entry.SETTLED,
    JobStatus.POSTING: Entry.SETTLED,
    JobStatus.POSTED: Entry.SETTLED,
    JobStatus.FAILED: Entry.REFUNDED,
    JobStatus.CANCELLED: Entry.REFUNDED,
}


def day_of(now: datetime) -> datetime:
    """Give the beginning of the day (UTC) that a budget counts."""
    return now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def spent(connection: Connection, user_id: int, now: datetime) -> int:
    """Add up what a member has reserved and used today, in pixel-steps."""
    query = select(func.coalesce(func.sum(ledger.c.amount), 0))
    total = connection.execute(query.where(ledger.c.user_id == user_id, ledger.c.at >= day_of(now))).scalar_one()
    return int(total)


def reserve(
    connection: Connection, job_id: str, request: GenerationRequest, origin: Origin, now: datetime, budget: int | None
) -> None:
    """Enter a new request at its full price. Raises LimitReached where `budget` (pixel-steps a day) has no room."""
    price = limits.price(request)
    if budget is not None:
        limits.check_budget(price, spent(connection, origin.user_id, now), budget)
    values = {"user_id": origin.user_id, "at": now, "state": Entry.RESERVED.value, "reserved": price, "amount": price}
    connection.execute(insert(ledger).values(job_id=job_id, **values))


def settle(connection: Connection, job_id: str, request: GenerationRequest, pictures: Sequence[PictureFile]) -> None:
    """Charge what was really drawn; never more than was reserved."""
    sheet = bool(request.axes and pictures)  # one file, of all its pictures
    sizes = [(file.n, file.width, file.height) for file in pictures]
    amount = limits.price(request) if sheet else limits.drawn_price(request, sizes)
    charged = case((ledger.c.reserved < amount, ledger.c.reserved), else_=amount)
    _change(connection, job_id, state=Entry.SETTLED.value, amount=charged)


def refund(connection: Connection, job_id: str) -> None:
    """Give back what a request was charged: it failed or was cancelled, so nothing of it is shown."""
    _change(connection, job_id, state=Entry.REFUNDED.value, amount=0)


def close(connection: Connection, job_id: str) -> None:
    """Take note that a request is deleted: what was drawn still counts until `forget_old`, all else goes."""
    where = (ledger.c.job_id == job_id) & (ledger.c.state != Entry.SETTLED.value)
    connection.execute(delete(ledger).where(where))


def forget_old(connection: Connection, now: datetime) -> int:
    """Remove entries of deleted requests that count no more; how many."""
    where = (ledger.c.at < day_of(now)) & ledger.c.job_id.not_in(select(jobs.c.id))
    return connection.execute(delete(ledger).where(where)).rowcount


def faults(connection: Connection) -> tuple[str, ...]:
    """Say in words where the entries and the requests disagree; nothing where the ledger is balanced."""
    pairs = select(jobs.c.id, jobs.c.status, ledger.c.state, ledger.c.reserved, ledger.c.amount)
    found: list[str] = []
    for row in connection.execute(pairs.join_from(jobs, ledger, jobs.c.id == ledger.c.job_id, isouter=True)):
        expected = _EXPECTED[JobStatus(row.status)]
        if row.state is None:
            found.append(f"{row.id} ({row.status}) has no entry")
        elif row.state != expected.value:
            found.append(f"{row.id} ({row.status}) is {row.state}, not {expected}")
        elif not _sound(expected, row.reserved, row.amount):
            found.append(f"{row.id} ({row.status}) is {row.state} with {row.amount} of {row.reserved}")
    unowned = (ledger.c.state != Entry.SETTLED.value) & ledger.c.job_id.not_in(select(jobs.c.id))
    lost = connection.execute(select(ledger.c.job_id, ledger.c.state).where(unowned)).all()
    return (*found, *(f"{row.job_id} is {row.state} and nobody's" for row in lost))


def _sound(state: Entry, reserved: int, amount: int) -> bool:
    match state:
        case Entry.RESERVED:
            return amount == reserved
        case Entry.SETTLED:
            return 0 <= amount <= reserved
        case Entry.REFUNDED:
            return amount == 0


def _change(connection: Connection, job_id: str, **values: object) -> None:
    connection.execute(update(ledger).where(ledger.c.job_id == job_id).values(**values))
