"""The requests on disk: every coroutine is one committed transaction on the database thread."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, insert, or_, select, update

from bot.errors import DatabaseDamaged
from bot.generation import GenerationRequest, Job, JobStatus, Origin, PictureFile, Post, PostedTo
from bot.store import ledger, posts, privacy, transitions
from bot.store.database import Database
from bot.store.rows import file_values, load_job, load_jobs, origin_values, request_of, request_text
from bot.store.schema import files, jobs

UNFINISHED = tuple(status.value for status in JobStatus if not status.final)
TOLD_AGAIN_S = 900.0
_INPUTS = ("image", "mask", "control", "reference")


@dataclass(frozen=True, slots=True)
class Added:
    """A committed request; `created` is False where its interaction was known already."""

    job: Job
    created: bool


@dataclass(frozen=True, slots=True)
class Measurement:
    """How long a finished request took, in seconds."""

    request: GenerationRequest
    denoise_s: float
    draw_s: float


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a start finds: `waiting` in order of arrival, `rendered` still to be shown, `ended` still to be told."""

    waiting: tuple[Job, ...]
    rendered: tuple[Job, ...]
    ended: tuple[Job, ...]


class JobStore:
    """Keeps jobs. For the event loop; the work is on the database's own thread, in the order it was asked for.

    Methods that change a state return the job as it now is, or None where its state did not allow the change (or
    there is no such job). A final state erases the interaction token on disk; the returned job still carries it,
    so that the end can be told. Every method may raise StorageError, DiskFull or DatabaseDamaged.
    """

    def __init__(self, address: str) -> None:
        """Take an SQLAlchemy address; raises ConfigError where it is none."""
        self._database = Database(address)

    @property
    def damaged(self) -> Future[DatabaseDamaged]:
        """Done once the open database turns out to be damaged."""
        return self._database.damaged

    async def open(self) -> None:
        """Check, create or migrate the database. Raises DatabaseDamaged and leaves the file as it is then."""
        await self._database.open()

    async def close(self) -> None:
        """Finish and close. Repeatable."""
        await self._database.close()

    async def add(
        self, job_id: str, request: GenerationRequest, origin: Origin, now: datetime, *, budget: int | None = None
    ) -> Added | None:
        """Commit a new request as queued; None where `job_id` is taken, the old job where the interaction is known.

        Its price is reserved with it. Raises LimitReached where the member's `budget` (pixel-steps a day) has no room.
        """

        def work(connection: Connection) -> Added | None:
            known = load_jobs(connection, select(jobs).where(jobs.c.interaction_id == origin.interaction_id), now)
            if known:
                return Added(known[0], created=False)
            if load_job(connection, job_id) is not None:
                return None
            ledger.reserve(connection, job_id, request, origin, now, budget)
            values = {**origin_values(origin), "id": job_id, "request": request_text(request), "created_at": now}
            status = JobStatus.QUEUED.value
            connection.execute(insert(jobs).values(**values, status=status, attempt=0, told=False))
            job = load_job(connection, job_id)
            assert job is not None
            return Added(job, created=True)

        return await self._database.run(work)

    async def by_interaction(self, interaction_id: int, now: datetime | None = None) -> Job | None:
        """Find the request that an interaction made."""
        found = await self._load(select(jobs).where(jobs.c.interaction_id == interaction_id), now)
        return found[0] if found else None

    async def get(self, job_id: str, now: datetime | None = None) -> Job | None:
        """Find a job. Tokens that have expired by `now` are left out; with None they are as stored."""
        return await self._database.run(lambda connection: load_job(connection, job_id, now))

    async def unfinished(self, now: datetime | None = None) -> tuple[Job, ...]:
        """List what has not ended, in order of arrival."""
        return await self._load(select(jobs).where(jobs.c.status.in_(UNFINISHED)).order_by(jobs.c.seq), now)

    async def history(
        self, user_id: int, *, limit: int, before: str | None = None, now: datetime | None = None
    ) -> tuple[Job, ...]:
        """List a member's posted requests, newest first; those that came before the job `before`."""
        query = select(jobs).where(jobs.c.user_id == user_id, jobs.c.status == JobStatus.POSTED.value)
        if before is not None:
            query = query.where(jobs.c.seq < select(jobs.c.seq).where(jobs.c.id == before).scalar_subquery())
        return await self._load(query.order_by(jobs.c.seq.desc()).limit(limit), now)

    async def recover(self, now: datetime, max_attempts: int, given_up: str) -> Recovered:
        """Sort what an earlier process left behind; to be called once, before anything is drawn.

        Running goes back to queued and is drawn alone from then on. Only what was running alone counts the crash as an
        attempt, since it alone can have been the cause: where it has had `max_attempts` of them, it fails with the
        sentence `given_up`, in which `{attempts}` is filled in.
        """

        def work(connection: Connection) -> Recovered:
            tokens: dict[str, str | None] = {}
            running = load_jobs(connection, _unfinished(JobStatus.RUNNING), now)
            for job in running:
                if len(running) > 1:
                    # `started_at` stays, which marks it as one to be drawn alone though no attempt counts.
                    transitions.apply(connection, transitions.PUT_BACK, job.id, attempt=job.attempt - 1)
                elif job.attempt >= max_attempts:
                    tokens[job.id] = job.origin.interaction_token  # erased with the end, and needed once to tell it
                    error = given_up.format(attempts=job.attempt)
                    transitions.apply(connection, transitions.FAIL, job.id, error=error, finished_at=now)
                else:
                    transitions.apply(connection, transitions.PUT_BACK, job.id, started_at=None)
            recent = now - timedelta(seconds=TOLD_AGAIN_S)
            ended = (JobStatus.FAILED.value, JobStatus.CANCELLED.value)
            untold = jobs.c.status.in_(ended) & jobs.c.told.is_(False) & (jobs.c.finished_at >= recent)
            return Recovered(
                waiting=load_jobs(connection, _unfinished(JobStatus.QUEUED), now),
                rendered=load_jobs(connection, _unfinished(JobStatus.RENDERED, JobStatus.POSTING), now),
                ended=tuple(
                    replace(job, origin=replace(job.origin, interaction_token=tokens.get(job.id)))
                    for job in load_jobs(connection, select(jobs).where(untold).order_by(jobs.c.seq), now)
                ),
            )

        return await self._database.run(work)

    async def start(self, job_id: str, now: datetime) -> Job | None:
        """Count one more attempt and mark as running, before any work is done."""
        attempt = jobs.c.attempt + 1
        return await self._change(transitions.START, job_id, attempt=attempt, started_at=now)

    async def put_back(self, job_id: str) -> Job | None:
        """Undo `start`, at a graceful stop: queued again, the attempt not counted."""
        attempt = jobs.c.attempt - 1
        return await self._change(transitions.PUT_BACK, job_id, attempt=attempt, started_at=None)

    async def render(
        self, job_id: str, pictures: Sequence[PictureFile], *, draw_s: float, denoise_s: float | None, note: str = ""
    ) -> Job | None:
        """Record the pictures that are on disk now, and charge for them; `denoise_s` None measures nothing."""

        def work(connection: Connection) -> Job | None:
            values = {"draw_s": draw_s, "denoise_s": denoise_s, "note": note or None}
            if not transitions.apply(connection, transitions.RENDER, job_id, **values):
                return None
            connection.execute(delete(files).where(files.c.job_id == job_id))
            if pictures:
                connection.execute(insert(files), [file_values(job_id, file) for file in pictures])
            job = load_job(connection, job_id)
            assert job is not None
            ledger.settle(connection, job_id, job.request, pictures)
            return job

        return await self._database.run(work)

    async def keep(self, job_id: str, pictures: Sequence[PictureFile]) -> bool:
        """Record pictures of a running job that are on disk already; whether it still runs."""

        def work(connection: Connection) -> bool:
            status = connection.execute(select(jobs.c.status).where(jobs.c.id == job_id)).scalar()
            if status != JobStatus.RUNNING.value:
                return False
            for file in pictures:
                connection.execute(delete(files).where(files.c.job_id == job_id, files.c.n == file.n))
                connection.execute(insert(files).values(**file_values(job_id, file)))
            return True

        return await self._database.run(work)

    async def begin_posting(self, job_id: str, now: datetime | None = None) -> Job | None:
        """Claim a rendered job for showing; from here on it cannot be cancelled. Repeatable after a crash."""
        return await self._change(transitions.BEGIN_POSTING, job_id, now)

    async def mark_posted(self, job_id: str, posted_to: PostedTo, message_id: int | None, now: datetime) -> Job | None:
        """Record where the pictures were shown; `message_id` None keeps the one that is known."""
        known: dict[str, Any] = {} if message_id is None else {"message_id": message_id}
        return await self._change(
            transitions.POST, job_id, posted_to=posted_to.value, finished_at=now, told=True, **known
        )

    async def plan_posts(self, job_id: str, pictures: Sequence[Sequence[int]]) -> tuple[Post, ...]:
        """Record which message will show which pictures, or find what was recorded before."""
        return await self._database.run(lambda connection: posts.plan(connection, job_id, pictures))

    async def posts(self, job_id: str) -> tuple[Post, ...]:
        """List the messages of a result that takes more than one."""
        return await self._database.run(lambda connection: posts.load(connection, job_id))

    async def note_post(
        self, job_id: str, part: int, message_id: int | None, channel_id: int | None, *, done: bool
    ) -> None:
        """Record a message of such a result; `done` once it shows its pictures."""
        known = {name: value for name, value in (("message_id", message_id), ("channel_id", channel_id)) if value}
        await self._database.run(lambda connection: posts.note(connection, job_id, part, done=done, **known))

    async def fail(self, job_id: str, error: str, now: datetime) -> Job | None:
        """Give up with a sentence for the member."""
        return await self._change(transitions.FAIL, job_id, error=error, finished_at=now)

    async def cancel(self, job_id: str, now: datetime, *, told: bool = False) -> Job | None:
        """Cancel unless it is being posted or has ended; `told` where nobody is left to be told."""
        return await self._change(transitions.CANCEL, job_id, finished_at=now, told=told)

    async def delete(self, job_id: str) -> Job | None:
        """Remove a job in any state with its rows; what it was."""

        def work(connection: Connection) -> Job | None:
            job = load_job(connection, job_id)
            if job is not None:
                connection.execute(delete(jobs).where(jobs.c.id == job_id))
                ledger.close(connection, job_id)
            return job

        return await self._database.run(work)

    async def set_message(self, job_id: str, message_id: int) -> None:
        """Record which message shows the job."""
        await self._set(job_id, message_id=message_id)

    async def mark_told(self, job_id: str) -> None:
        """Record that the member has seen how the request failed or was cancelled."""
        await self._set(job_id, told=True)

    async def forget_tokens(self, now: datetime) -> int:
        """Erase the interaction tokens that have expired, from the journal too; how many.

        Also takes those out of the journal that were erased from the rows before, because their request had ended.
        """
        stale = jobs.c.interaction_token.is_not(None) & (jobs.c.expires_at <= now)
        # Live tokens belong to unfinished jobs only, so the index on the state keeps this cheap.
        where = jobs.c.status.in_(UNFINISHED) & stale
        erased = await self._database.run(
            lambda connection: connection.execute(update(jobs).where(where).values(interaction_token=None)).rowcount
        )
        await self._database.fold()
        return erased

    async def remove_finished(self, before: datetime, limit: int) -> tuple[str, ...]:
        """Delete at most `limit` jobs that ended before that moment; their ids, for their files."""

        def work(connection: Connection) -> tuple[str, ...]:
            query = select(jobs.c.id).where(jobs.c.finished_at < before).order_by(jobs.c.finished_at).limit(limit)
            ids = tuple(connection.execute(query).scalars())
            if ids:
                connection.execute(delete(jobs).where(jobs.c.id.in_(ids)))
                for job_id in ids:
                    ledger.close(connection, job_id)
            return ids

        return await self._database.run(work)

    async def spent(self, user_id: int, now: datetime) -> int:
        """Tell what a member has reserved and used today, in pixel-steps."""
        return await self._database.run(lambda connection: ledger.spent(connection, user_id, now))

    async def forget_ledger(self, now: datetime) -> int:
        """Remove the ledger's entries of deleted requests that count no more; how many."""
        return await self._database.run(lambda connection: ledger.forget_old(connection, now))

    async def ledger_faults(self) -> tuple[str, ...]:
        """Say where ledger and requests disagree; empty where it is balanced."""
        return await self._database.run(ledger.faults)

    async def export_member(self, user_id: int) -> dict[str, Any]:
        """Give every row about a member, as JSON can hold it, without interaction tokens."""
        return await self._database.run(lambda connection: privacy.export(connection, user_id))

    async def erase_member(self, user_id: int, now: datetime, *, keep_today: bool) -> tuple[Job, ...]:
        """Remove every row about a member; what they were. `scrub` is to follow.

        `keep_today` leaves one number: what they have used of today's budget.
        """
        return await self._database.run(
            lambda connection: privacy.erase(connection, user_id, now, keep_today=keep_today)
        )

    async def posts_of_member(self, user_id: int) -> dict[str, tuple[Post, ...]]:
        """List the messages of a member's results that take more than one, by job."""
        return await self._database.run(lambda connection: posts.of_member(connection, user_id))

    async def scrub(self, user_id: int) -> None:
        """Take what was erased of a member out of the journal, and their rows out of the backups that were kept."""
        await self._database.fold()
        await self._database.beside(lambda path: privacy.erase_from_backups(path, user_id))

    async def ids(self) -> frozenset[str]:
        """List every job's id."""
        return await self._database.run(lambda connection: frozenset(connection.execute(select(jobs.c.id)).scalars()))

    async def inputs(self) -> frozenset[str]:
        """List the digests of all pictures that requests are drawn from."""
        named = (
            jobs.c.request.contains(f'"{name}": "') & ~jobs.c.request.contains(f'"{name}": ""') for name in _INPUTS
        )
        query = select(jobs.c.request).where(or_(*named))

        def work(connection: Connection) -> frozenset[str]:
            return frozenset(
                digest for text in connection.execute(query).scalars() for digest in request_of(text).inputs
            )

        return await self._database.run(work)

    async def with_files(self) -> frozenset[str]:
        """List the jobs whose files are kept: all but those that ended without a picture shown."""
        ended = (JobStatus.FAILED.value, JobStatus.CANCELLED.value)
        query = select(jobs.c.id).where(jobs.c.status.not_in(ended))
        return await self._database.run(lambda connection: frozenset(connection.execute(query).scalars()))

    async def measurements(self, limit: int) -> tuple[Measurement, ...]:
        """List how long the newest `limit` drawn requests took, oldest first."""
        query = select(jobs.c.request, jobs.c.denoise_s, jobs.c.draw_s)
        query = query.where(jobs.c.denoise_s.is_not(None)).order_by(jobs.c.seq.desc()).limit(limit)

        def work(connection: Connection) -> tuple[Measurement, ...]:
            rows = connection.execute(query).all()
            return tuple(Measurement(request_of(row[0]), row[1], row[2]) for row in reversed(rows))

        return await self._database.run(work)

    async def _load(self, query: Any, now: datetime | None) -> tuple[Job, ...]:
        return await self._database.run(lambda connection: load_jobs(connection, query, now))

    async def _set(self, job_id: str, **values: Any) -> None:
        await self._database.run(
            lambda connection: connection.execute(update(jobs).where(jobs.c.id == job_id).values(**values)).rowcount
        )

    async def _change(
        self, transition: transitions.Transition, job_id: str, now: datetime | None = None, **values: Any
    ) -> Job | None:
        def work(connection: Connection) -> Job | None:
            old = load_job(connection, job_id)
            if old is None or not transitions.apply(connection, transition, job_id, **values):
                return None
            new = load_job(connection, job_id, now)
            assert new is not None
            token = old.origin.interaction_token
            return replace(new, origin=replace(new.origin, interaction_token=token)) if new.status.final else new

        return await self._database.run(work)


def _unfinished(*statuses: JobStatus) -> Any:
    chosen: ColumnElement[bool] = jobs.c.status.in_([status.value for status in statuses])
    return select(jobs).where(chosen).order_by(jobs.c.seq)
