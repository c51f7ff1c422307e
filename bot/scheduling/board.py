"""What is going on, in memory: who waits, what runs, and when whose turn comes. Event loop only, no waiting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import islice

from bot.generation import GenerationRequest, Job, PictureFile, Place, Progress, RawPicture
from bot.scheduling.estimates import StepTimes
from bot.scheduling.progress import GpuListener
from bot.scheduling.queue import JobQueue

BATCHES_ADMITTED = 4
"""Denoiser calls' worth of pictures that are with the engine at once: it chooses among them whom to draw together."""

_COUNTED_ONE_BY_ONE = 200


Needs = Callable[[GenerationRequest], tuple[str, ...]]


def _its_models(request: GenerationRequest) -> tuple[str, ...]:
    return request.models


@dataclass(frozen=True, slots=True)
class QueueOverview:
    """What `/queue` shows: the jobs being drawn, how many wait in all, and a member's own with their places."""

    running: tuple[Job, ...]
    waiting: int
    mine: tuple[tuple[Job, Place], ...]


@dataclass(slots=True, eq=False)
class Run:
    """A job taken from the queue. `drawn` once the GPU is done with it and its files are being written.

    `alone`: it was being drawn when the process went down, so nothing else is drawn beside it. Of a request that shows its pictures as
    they come, `fresh` are finished and not shown yet, and `thumbnails` those that are, by number; None is one not to be shown.
    Of a list, `unkept` is what was finished and is not written yet, and `kept` what is on disk and committed, by number.
    """

    job: Job
    listener: GpuListener
    alone: bool = False
    step: int = 0
    steps: int = 0
    started: bool = False
    drawn: bool = False
    fresh: list[RawPicture] = field(default_factory=list[RawPicture])
    thumbnails: dict[int, RawPicture | None] = field(default_factory=dict[int, RawPicture | None])
    unkept: list[Progress] = field(default_factory=list[Progress])
    kept: dict[int, PictureFile] = field(default_factory=dict[int, PictureFile])


class Board:
    """Live jobs: each is waiting or running, and leaves when it is rendered or ends."""

    def __init__(self, room: int = 1, needs: Needs = _its_models) -> None:
        """`room` is how many pictures may be with the engine; a job with more is taken where nothing else is.

        `needs` names what has to be on disk for a request, as models are named.
        """
        self._room = room
        self.needs = needs
        self.measured = StepTimes()
        self.runs: dict[str, Run] = {}
        self._queue = JobQueue()
        self._jobs: dict[str, Job] = {}
        self._needed: dict[str, tuple[str, ...]] = {}
        self._models: Counter[str] = Counter()
        self._sums: tuple[tuple[int, int], list[float], float] | None = None

    def get(self, job_id: str) -> Job | None:
        """Find a live job."""
        return self._jobs.get(job_id)

    def add(self, job: Job) -> None:
        """Let a committed job wait."""
        self._jobs[job.id] = job
        self._queue.push(job.id, job.origin.user_id)
        self._needed[job.id] = self.needs(job.request)
        self._models.update(self._needed[job.id])

    def take(self, is_here: Callable[[str], bool], listener: Callable[[str], GpuListener]) -> Run | None:
        """Move the next job all of whose models `is_here` from the line to the running ones; None where there is none, or no room.

        Whoever is next waits for room, and is not overtaken by one that would fit.
        """
        job_id = self._queue.first(lambda waiting: not all(map(is_here, self._needed[waiting])))
        if job_id is None or not self._has_room(job := self._jobs[job_id]):
            return None
        self._queue.pop(lambda waiting: waiting != job_id)
        self._left_the_line(job)
        run = Run(job, listener(job_id), alone=job.suspect, steps=job.request.num_inference_steps)
        self.runs[job_id] = run
        return run

    def put_back(self, job: Job) -> None:
        """Let a job that ran wait again."""
        self.remove(job.id)
        self.add(job)

    def remove(self, job_id: str) -> bool:
        """Forget a job, wherever it stands, and ask the engine to stop drawing it; whether it was live."""
        job = self._jobs.pop(job_id, None)
        if job is None:
            return False
        if self._queue.remove(job_id):
            self._left_the_line(job)
        run = self.runs.pop(job_id, None)
        if run is not None:
            run.listener.cancel()
        return True

    def update(self, job: Job) -> None:
        """Replace a live job by what it is now; nothing where it is not live."""
        if job.id in self._jobs:
            self._jobs[job.id] = job
        if (run := self.runs.get(job.id)) is not None:
            run.job = job

    def set_message(self, job_id: str, message_id: int) -> None:
        """Note which message shows a job."""
        if (job := self._jobs.get(job_id)) is not None:
            self.update(replace(job, message_id=message_id))

    def progressed(self, job_id: str, progress: Progress) -> Run | None:
        """Note a finished step; the run, or None where the job no longer runs."""
        run = self.runs.get(job_id)
        if run is None or run.drawn:
            return None
        run.step, run.steps = progress.step, progress.steps
        run.fresh += progress.finished
        return run

    def waiting_of(self, user_id: int) -> int:
        """Count a member's waiting jobs."""
        return self._queue.waiting_of(user_id)

    def waits_for(self, model: str) -> bool:
        """Whether a waiting job needs this model, or whatever else is called by this id. Any thread."""
        return self._models.get(model, 0) > 0

    def waiting_models(self) -> tuple[str, ...]:
        """List the models that waiting jobs need, and what they need besides."""
        return tuple(model for model, count in self._models.items() if count > 0)

    def waiting_on(self, model: str) -> tuple[Job, ...]:
        """List the waiting jobs that need a model, in the order they will be served."""
        return tuple(self._jobs[job_id] for job_id in self._queue.served() if model in self._needed[job_id])

    def remaining_s(self, run: Run) -> float | None:
        """Estimate when a running job will be drawn, in seconds from now; None while nothing is known.

        Those that run share the GPU by turns: beside its own work there is as much of each other's as fits in that time.
        """
        own = self._left_s(run)
        if own is None:
            return None
        others = (self._left_s(other) or 0.0 for other in self.runs.values() if other is not run)
        return own + sum(min(own, left) for left in others)

    def _left_s(self, run: Run) -> float | None:
        """The GPU's own seconds that a running job still needs."""
        return 0.0 if run.drawn else self.measured.remaining_s(run.job.request, run.step, run.steps)

    def place(self, job_id: str) -> Place | None:
        """Tell where a job waits; None where it does not."""
        if job_id not in self._queue:
            return None
        position = self._queue.position(job_id)
        return Place(position, self._eta_s(self._jobs[job_id].request, position), self._queue.next_user(job_id))

    def overview(self, user_id: int) -> QueueOverview:
        """Tell what `/queue` shows to a member."""
        mine: list[tuple[Job, Place]] = []
        for job_id in self._queue.jobs_of(user_id):
            place = self.place(job_id)
            if place is not None:
                mine.append((self._jobs[job_id], place))
        running = tuple(run.job for run in self.runs.values() if run.started)
        return QueueOverview(running, len(self._queue), tuple(mine))

    def _has_room(self, job: Job) -> bool:
        drawing = [run for run in self.runs.values() if not run.drawn]
        if job.suspect:
            # Not beside one whose files are being written either: a crash would count for none of them, for ever.
            return not self.runs
        if not drawing:
            return True
        if any(run.alone for run in drawing):
            return False
        return sum(self._places(run.job) for run in drawing) + self._places(job) <= self._room

    def _places(self, job: Job) -> int:
        """Count the pictures of a job that are with the engine at once: of a long one only so many begin at a time."""
        count = job.request.count
        return min(count, max(1, self._room // BATCHES_ADMITTED)) if job.request.variants else count

    def _left_the_line(self, job: Job) -> None:
        for model in self._needed.pop(job.id):
            self._models[model] -= 1
            if self._models[model] <= 0:
                del self._models[model]

    def _eta_s(self, request: GenerationRequest, position: int) -> float | None:
        own = self.measured.duration_s(request)
        if own is None:
            return None
        sums, average = self._line_sums()
        counted = min(position - 1, len(sums) - 1)
        ahead = sums[counted] + (position - 1 - counted) * average
        return sum(self._left_s(run) or 0.0 for run in self.runs.values()) + ahead + own

    def _line_sums(self) -> tuple[list[float], float]:
        """Add up the line's estimates from its front, as far as is worth it; the average stands for those behind.

        Kept until the line or the measurements change, so that asking for 10,000 places stays cheap.
        """
        key = (self._queue.version, self.measured.version)
        if self._sums is not None and self._sums[0] == key:
            return self._sums[1], self._sums[2]
        front = islice(self._queue.served(), _COUNTED_ONE_BY_ONE)
        known = [self.measured.duration_s(self._jobs[job_id].request) for job_id in front]
        measured = [duration for duration in known if duration is not None]
        average = sum(measured) / len(measured) if measured else 0.0
        sums = [0.0]
        for duration in known:
            sums.append(sums[-1] + (average if duration is None else duration))
        self._sums = (key, sums, average)
        return sums, average
