"""The requests on disk: every coroutine is one committed transaction on the database thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, insert, select, update

from bot.generation import GenerationRequest, Job, JobStatus, Origin, PictureFile, PostedTo
from bot.store import transitions
from bot.store.database import Database
from bot.store.rows import file_values, load_job, load_jobs, origin_values, request_of, request_text
from bot.store.schema import files, jobs

UNFINISHED = tuple(status.value for status in JobStatus if not status.final)
TOLD_AGAIN_S = 900.0


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

    async def open(self) -> None:
        """Check, create or migrate the database. Raises DatabaseDamaged and leaves the file as it is then."""
        await self._database.open()

    async def close(self) -> None:
        """Finish and close. Repeatable."""
        await self._database.close()

    async def add(self, job_id: str, request: GenerationRequest, origin: Origin, now: datetime) -> Added | None:
        """Commit a new request as queued; None where `job_id` is taken, the old job where the interaction is known."""

        def work(connection: Connection) -> Added | None:
            known = load_jobs(connection, select(jobs).where(jobs.c.interaction_id == origin.interaction_id), now)
            if known:
                return Added(known[0], created=False)
            if load_job(connection, job_id) is not None:
                return None
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

        Running goes back to queued, its attempt counted; what has had `max_attempts` fails with the sentence
        `given_up`, in which `{attempts}` is filled in.
        """

        def work(connection: Connection) -> Recovered:
            tokens: dict[str, str | None] = {}
            for job in load_jobs(connection, _unfinished(JobStatus.QUEUED, JobStatus.RUNNING), now):
                if job.attempt >= max_attempts:
                    tokens[job.id] = job.origin.interaction_token  # erased with the end, and needed once to tell it
                    error = given_up.format(attempts=job.attempt)
                    transitions.apply(connection, transitions.FAIL, job.id, error=error, finished_at=now)
                elif job.status is JobStatus.RUNNING:
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
        self, job_id: str, pictures: Sequence[PictureFile], *, draw_s: float, denoise_s: float
    ) -> Job | None:
        """Record the pictures that are on disk now."""

        def work(connection: Connection) -> Job | None:
            times = {"draw_s": draw_s, "denoise_s": denoise_s}
            if not transitions.apply(connection, transitions.RENDER, job_id, **times):
                return None
            connection.execute(delete(files).where(files.c.job_id == job_id))
            if pictures:
                connection.execute(insert(files), [file_values(job_id, file) for file in pictures])
            return load_job(connection, job_id)

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
            return job

        return await self._database.run(work)

    async def set_message(self, job_id: str, message_id: int) -> None:
        """Record which message shows the job."""
        await self._set(job_id, message_id=message_id)

    async def mark_told(self, job_id: str) -> None:
        """Record that the member has seen how the request failed or was cancelled."""
        await self._set(job_id, told=True)

    async def forget_tokens(self, now: datetime) -> int:
        """Erase the interaction tokens that have expired; how many."""
        stale = jobs.c.interaction_token.is_not(None) & (jobs.c.expires_at <= now)
        # Live tokens belong to unfinished jobs only, so the index on the state keeps this cheap.
        where = jobs.c.status.in_(UNFINISHED) & stale
        return await self._database.run(
            lambda connection: connection.execute(update(jobs).where(where).values(interaction_token=None)).rowcount
        )

    async def remove_finished(self, before: datetime, limit: int) -> tuple[str, ...]:
        """Delete at most `limit` jobs that ended before that moment; their ids, for their files."""

        def work(connection: Connection) -> tuple[str, ...]:
            query = select(jobs.c.id).where(jobs.c.finished_at < before).order_by(jobs.c.finished_at).limit(limit)
            ids = tuple(connection.execute(query).scalars())
            if ids:
                connection.execute(delete(jobs).where(jobs.c.id.in_(ids)))
            return ids

        return await self._database.run(work)

    async def ids(self) -> frozenset[str]:
        """List every job's id."""
        return await self._database.run(lambda connection: frozenset(connection.execute(select(jobs.c.id)).scalars()))

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
