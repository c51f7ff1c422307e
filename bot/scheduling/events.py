"""What the service tells its listeners, on the event loop."""

from __future__ import annotations

from dataclasses import dataclass, field

from bot.generation import FetchProgress, Job


@dataclass(frozen=True, slots=True)
class Queued:
    """A request is committed and waits (also after a restart)."""

    job: Job


@dataclass(frozen=True, slots=True)
class QueueMoved:
    """Places in the queue changed; ask `GenerationService.place` for the new ones."""


@dataclass(frozen=True, slots=True)
class Fetching:
    """The request's model is being downloaded or loaded into memory."""

    job_id: str
    progress: FetchProgress
    loading: bool


@dataclass(frozen=True, slots=True)
class Drawing:
    """A step is done. `preview` is an encoded JPEG picture, None where there is no new one.

    `finished` counts the pictures that are done already, where they are shown as they come; the preview then shows them.
    """

    job_id: str
    step: int
    steps: int
    eta_s: float | None
    preview: bytes | None = field(default=None, repr=False)
    finished: int = 0


@dataclass(frozen=True, slots=True)
class Rendered:
    """The pictures are on disk and committed; they have still to be shown."""

    job: Job


@dataclass(frozen=True, slots=True)
class Failed:
    """Given up; `job.error` is a sentence for the member."""

    job: Job


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Cancelled; nothing of it may be shown any more."""

    job: Job


JobEvent = Queued | QueueMoved | Fetching | Drawing | Rendered | Failed | Cancelled
