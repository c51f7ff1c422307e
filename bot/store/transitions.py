"""Every way a request's state may change, as one table, and the one statement that changes it.

    queued ──start──▶ running ──render──▶ rendered ──begin_posting──▶ posting ──post──▶ posted
      ▲                  │
      └────put_back──────┘        any of the first three ──cancel──▶ cancelled
                                  any of the first four  ──fail────▶ failed

Who wins a race (a cancel against the posting, say) is decided by `UPDATE … WHERE status IN (sources)`: it changes
one row or none, inside one write transaction, whatever anybody believed before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, update

from bot.generation import JobStatus
from bot.store import ledger
from bot.store.schema import files, jobs

_Q, _RUN, _DONE, _POSTING = JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.RENDERED, JobStatus.POSTING


@dataclass(frozen=True, slots=True)
class Transition:
    """From which states to which."""

    name: str
    sources: frozenset[JobStatus]
    target: JobStatus


START = Transition("start", frozenset({_Q}), _RUN)
PUT_BACK = Transition("put back", frozenset({_RUN}), _Q)
RENDER = Transition("render", frozenset({_RUN}), _DONE)
# From posting, too: after a crash in the middle of it the message is edited once more, harmlessly.
BEGIN_POSTING = Transition("begin posting", frozenset({_DONE, _POSTING}), _POSTING)
POST = Transition("post", frozenset({_POSTING}), JobStatus.POSTED)
FAIL = Transition("fail", frozenset({_Q, _RUN, _DONE, _POSTING}), JobStatus.FAILED)
CANCEL = Transition("cancel", frozenset({_Q, _RUN, _DONE}), JobStatus.CANCELLED)

TRANSITIONS = (START, PUT_BACK, RENDER, BEGIN_POSTING, POST, FAIL, CANCEL)


def apply(connection: Connection, transition: Transition, job_id: str, **values: Any) -> bool:
    """Change a request's state and the columns in `values`; whether its state allowed it. Database thread.

    A final state erases the interaction token; where nothing is shown, the member's quota comes back with it, and what was kept of
    its pictures is forgotten.
    """
    if transition.target.final:
        values["interaction_token"] = None
    done = connection.execute(
        update(jobs)
        .where(jobs.c.id == job_id, jobs.c.status.in_([source.value for source in transition.sources]))
        .values(status=transition.target.value, **values)
    )
    if done.rowcount == 1 and transition.target in (JobStatus.FAILED, JobStatus.CANCELLED):
        ledger.refund(connection, job_id)
        connection.execute(delete(files).where(files.c.job_id == job_id))
    return done.rowcount == 1
