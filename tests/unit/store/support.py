"""Requests, origins and stores for the tests of the floors that keep and schedule them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from bot.generation import GenerationRequest, Job, JobStatus, Origin, PictureFile, PostedTo
from bot.store.jobs import JobStore

GUILD = 6
NOW = datetime(2026, 11, 21, 12, 0, 0, 123456, tzinfo=UTC)
REQUEST = GenerationRequest(
    prompt="a sunset over a beach 🌅", negative_prompt="", model="pocket", width=64, height=64, count=2,
    num_inference_steps=4, guidance_scale=7.0, seed=2**53 - 3, sampler="Default",
)  # fmt: skip


def request(**changes: Any) -> GenerationRequest:
    return replace(REQUEST, **changes)


def origin(interaction_id: int = 1, user_id: int = 7, **changes: Any) -> Origin:
    values = Origin(
        interaction_id=interaction_id, application_id=2**62, interaction_token=f"token-{interaction_id}",
        expires_at=NOW + timedelta(minutes=15), user_id=user_id, user_name="ada", channel_id=5, guild_id=GUILD,
        age_restricted=False, attachment_size_limit=10 * 2**20,
    )  # fmt: skip
    return replace(values, **changes)


def picture(n: int = 0, folder: Path = Path("/nowhere")) -> PictureFile:
    return PictureFile(
        n=n, path=str(folder / f"{n}.png"), file_name=f"{n}.png", seed=n, width=64, height=64, size_bytes=9,
        nsfw_score=0.25, flagged=False,
    )  # fmt: skip


def address(path: Path) -> str:
    return f"sqlite:///{path}"


async def opened(path: Path) -> JobStore:
    store = JobStore(address(path))
    await store.open()
    return store


async def added(store: JobStore, job_id: str = "job1", interaction_id: int = 1, **changes: Any) -> Job:
    made = await store.add(job_id, REQUEST, origin(interaction_id, **changes), NOW)
    assert made is not None
    assert made.created
    return made.job


async def brought_to(store: JobStore, status: JobStatus, job_id: str = "job1", interaction_id: int = 1) -> Job:
    """Add a job and take it along the road to `status`."""
    job: Job | None = await added(store, job_id, interaction_id)
    if status is JobStatus.QUEUED:
        pass
    elif status is JobStatus.CANCELLED:
        job = await store.cancel(job_id, NOW)
    elif status is JobStatus.FAILED:
        job = await store.fail(job_id, "It failed.", NOW)
    else:
        job = await store.start(job_id, NOW)
        if status is not JobStatus.RUNNING:
            job = await store.render(job_id, [picture(0), picture(1)], draw_s=2.0, denoise_s=1.5)
        if status in (JobStatus.POSTING, JobStatus.POSTED):
            job = await store.begin_posting(job_id)
        if status is JobStatus.POSTED:
            job = await store.mark_posted(job_id, PostedTo.CHANNEL, 99, NOW)
    assert job is not None
    assert job.status is status
    return job
