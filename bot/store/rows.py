"""Between rows and the words of `bot/generation.py`."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Select, select

from bot.generation import Axis, GenerationRequest, Job, JobStatus, Origin, PictureFile, PostedTo, Variant
from bot.store.schema import files, jobs

_ORIGIN_COLUMNS = tuple(item.name for item in fields(Origin))
_FILE_COLUMNS = tuple(item.name for item in fields(PictureFile))
_REQUEST_FIELDS = frozenset(item.name for item in fields(GenerationRequest))
_VARIANT_FIELDS = frozenset(item.name for item in fields(Variant))
_CHUNK = 500  # parameters of one statement; SQLite's oldest limit is 999


def request_text(request: GenerationRequest) -> str:
    """Write a request as JSON, ASCII only, so that any character a prompt may hold survives every database."""
    return json.dumps(asdict(request))


def request_of(text: str) -> GenerationRequest:
    """Read what `request_text` wrote. Keys of a later version are left out."""
    values: dict[str, Any] = _known(json.loads(text), _REQUEST_FIELDS)
    variants = tuple(_variant(entry) for entry in values.pop("variants", ()))
    axes = tuple(Axis(entry["name"], tuple(entry["values"])) for entry in values.pop("axes", ()))
    prompts = tuple(values.pop("prompts", ()))
    return GenerationRequest(**_with_loras(values), prompts=prompts, variants=variants, axes=axes)


def _variant(entry: dict[str, Any]) -> Variant:
    return Variant(**_with_loras(_known(entry, _VARIANT_FIELDS)))


def _with_loras(values: dict[str, Any]) -> dict[str, Any]:
    """Make pairs of what JSON has as lists."""
    loras = values.get("loras")
    return values if loras is None else {**values, "loras": tuple((name, weight) for name, weight in loras)}


def _known(values: dict[str, Any], names: frozenset[str]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key in names}


def origin_values(origin: Origin) -> dict[str, Any]:
    """Give an origin's columns."""
    values: dict[str, Any] = {name: getattr(origin, name) for name in _ORIGIN_COLUMNS}
    # A name may hold half a surrogate pair, which no database takes.
    values["user_name"] = origin.user_name.encode("utf-8", "replace").decode("utf-8")
    return values


def file_values(job_id: str, file: PictureFile) -> dict[str, Any]:
    """Give a picture's columns."""
    return {"job_id": job_id, **{name: getattr(file, name) for name in _FILE_COLUMNS}}


def load_jobs(connection: Connection, query: Select[Any], now: datetime | None) -> tuple[Job, ...]:
    """Run a query of whole `jobs` rows and build the jobs, in its order, with their files.

    Interaction tokens that have expired by `now` are left out; with None they stay. Database thread.
    """
    rows = connection.execute(query).mappings().all()
    pictures = _load_files(connection, [row["id"] for row in rows])
    return tuple(_job(row, pictures.get(row["id"], ()), now) for row in rows)


def load_job(connection: Connection, job_id: str, now: datetime | None = None) -> Job | None:
    """Read one job; None where there is none. Database thread."""
    found = load_jobs(connection, select(jobs).where(jobs.c.id == job_id), now)
    return found[0] if found else None


def _load_files(connection: Connection, job_ids: Sequence[str]) -> Mapping[str, Sequence[PictureFile]]:
    pictures: defaultdict[str, list[PictureFile]] = defaultdict(list)
    for start in range(0, len(job_ids), _CHUNK):
        chunk = job_ids[start : start + _CHUNK]
        rows = connection.execute(select(files).where(files.c.job_id.in_(chunk)).order_by(files.c.n)).mappings()
        for row in rows:
            pictures[row["job_id"]].append(PictureFile(**{name: row[name] for name in _FILE_COLUMNS}))
    return pictures


def _job(row: Any, pictures: Sequence[PictureFile], now: datetime | None) -> Job:
    origin: dict[str, Any] = {name: row[name] for name in _ORIGIN_COLUMNS}
    if now is not None and origin["expires_at"] <= now:
        origin["interaction_token"] = None
    return Job(
        id=row["id"],
        request=request_of(row["request"]),
        origin=Origin(**origin),
        status=JobStatus(row["status"]),
        created_at=row["created_at"],
        attempt=row["attempt"],
        message_id=row["message_id"],
        posted_to=None if row["posted_to"] is None else PostedTo(row["posted_to"]),
        error=row["error"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        draw_s=row["draw_s"],
        note=row["note"] or "",
        files=tuple(pictures),
    )
