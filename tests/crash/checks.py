"""What must hold once everything that was committed has ended: nothing lost, nothing twice, nobody innocent given up.

`CHECKS` is the list the run goes through; whoever adds a promise appends a function.
"""

from __future__ import annotations

import importlib.util
import sqlite3
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa

from tests.loopback.invocation import Invocation
from tests.loopback.messages import Message, walk
from tests.loopback.stage import PICTURE, Stage

FINAL = ("posted", "failed", "cancelled")
BUTTON = 2


@dataclass(slots=True)
class Asked:
    """One request of the load: what kind of request, and what was done to it."""

    invocation: Invocation
    kind: str
    count: int
    presses: list[Invocation] = field(default_factory=list[Invocation])

    @property
    def id(self) -> int:
        """The interaction's id, which the row carries."""
        return self.invocation.interaction.id

    @property
    def shown_as_taken(self) -> bool:
        """Whether its member ever saw its card, which has buttons; a refusal has words alone."""
        message = self.invocation.original
        versions = () if message is None else message.versions
        return any(part["type"] == BUTTON for version in versions for part in walk(version.components))

    @property
    def deleted(self) -> bool:
        """Whether its member took it back with everything."""
        message = self.invocation.original
        return self.kind == "delete" and message is not None and message.deleted


@dataclass(frozen=True, slots=True)
class Aftermath:
    """Everything a check may look at: the requests since the last check, the stage, and the database at rest."""

    asked: Sequence[Asked]
    stage: Stage
    database: sqlite3.Connection

    def rows(self) -> dict[int, sqlite3.Row]:
        """The rows of these requests, by interaction id."""
        ids = [one.id for one in self.asked]
        marks = ",".join("?" * len(ids))
        return {row["interaction_id"]: row for row in self.database.execute(f"SELECT * FROM jobs WHERE interaction_id IN ({marks})", ids)}  # fmt: skip

    def showing(self) -> dict[str, list[Message]]:
        """The messages that stand and show pictures, by job."""
        found: dict[str, list[Message]] = defaultdict(list)
        for message in self.stage.discord.messages.values():
            if not message.deleted:
                for job in {match["job"] for name in message.file_names if (match := PICTURE.fullmatch(name))}:
                    found[job].append(message)
        return found

    @property
    def pictures(self) -> Path:
        return self.stage.bot.data_dir / "data" / "pictures"


Check = Callable[[Aftermath], Iterator[str]]


def nothing_lost(after: Aftermath) -> Iterator[str]:
    """What was shown as taken has a row, and every row has ended."""
    rows = after.rows()
    for one in after.asked:
        if one.shown_as_taken and one.id not in rows and not one.deleted:
            yield f"lost: {one.invocation!r} has no row"
    for job, status in after.database.execute("SELECT id, status FROM jobs"):
        if status not in FINAL:
            yield f"lost: {job} never ended, it is {status}"


def nothing_twice(after: Aftermath) -> Iterator[str]:
    """What was posted stands in one message with all its pictures; what was not posted stands in none."""
    rows, showing = after.rows(), after.showing()
    for one in after.asked:
        row = rows.get(one.id)
        if row is None:
            continue
        messages = showing.get(row["id"], [])
        if row["status"] == "posted":
            if one.deleted and not messages:
                continue  # its member's Delete was cut short by a kill: the message is gone, the record is not
            if len(messages) != 1:
                yield f"{'duplicate' if messages else 'lost'}: {row['id']} is posted and stands in {len(messages)} messages"
            elif len(messages[0].file_names) != one.count:
                yield f"lost: {row['id']} shows {messages[0].file_names}, not {one.count} pictures"
        elif messages:
            yield f"shown after its end: {row['id']} is {row['status']}"
    known = {row[0] for row in after.database.execute("SELECT id FROM jobs")}
    for job in showing.keys() - known:
        yield f"duplicate: {job} is shown and has no row"


def nobody_innocent(after: Aftermath) -> Iterator[str]:
    """Only what fails by itself has failed, only what its member cancelled is cancelled, and both were told."""
    rows = after.rows()
    for one in after.asked:
        row = rows.get(one.id)
        if row is None or row["status"] == "posted":
            continue
        if row["status"] == "failed" and one.kind != "broken":
            yield f"innocent given up: {row['id']} ({one.kind}): {row['error']}"
        if row["status"] == "cancelled" and one.kind != "cancel" and one.shown_as_taken:
            yield f"innocent given up: {row['id']} ({one.kind}) was cancelled"
        if one.shown_as_taken and not row["told"]:
            yield f"untold: {row['id']} is {row['status']}"


def files_have_rows(after: Aftermath) -> Iterator[str]:
    """Every file on the disk has the row of a picture that was posted, and every such picture has its file."""
    posted = "SELECT path FROM files JOIN jobs ON jobs.id = files.job_id WHERE jobs.status = 'posted'"
    rows = {Path(row[0]) for row in after.database.execute(posted)}
    there = {path for path in after.pictures.rglob("*") if path.is_file()}
    yield from (f"file without a row: {path.name}" for path in there - rows)
    yield from (f"lost: the file {path.name}" for path in rows - there)


def discord_content(after: Aftermath) -> Iterator[str]:
    """Nothing was sent that Discord forbids, no token was written, nothing went wrong unforeseen."""
    yield from after.stage.discord.violations
    if after.stage.leaks():
        yield "a token stands in the log"
    if "Traceback" in after.stage.bot.logs:
        yield "a traceback stands in the log"


def ledger_balanced(after: Aftermath) -> Iterator[str]:
    """The quota ledger agrees with the requests, where this Easel keeps one."""
    if importlib.util.find_spec("bot.store.ledger") is None:
        return
    ledger = importlib.import_module("bot.store.ledger")
    engine = sa.create_engine("sqlite://", creator=lambda: after.database, poolclass=sa.StaticPool)
    with engine.connect() as connection:
        yield from (f"ledger: {fault}" for fault in ledger.faults(connection))


CHECKS: list[Check] = [
    nothing_lost, nothing_twice, nobody_innocent, files_have_rows, ledger_balanced, discord_content,
]  # fmt: skip
