"""The soak's and the line's machinery: what they would see, and a short run of each."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bench import soak, waiting


def samples(count: int = 101, **growth: float) -> list[soak.Sample]:
    """Samples over 5,000 requests; `growth` is by what share a number is larger in the end."""

    def grown(what: str, value: float, share: float) -> int:
        return round(value * (1 + growth.get(what, 0.0) * share))

    return [
        soak.Sample(n * 50, grown("memory", 2e8, n / count), grown("files", 100, n / count), 100_000 + n * 50 * 900)
        for n in range(count)
    ]


def verdicts(record: soak.Record) -> list[bool | None]:
    return [line.met for line in soak.judge(record)]


def test_judge_flat_record_meets_every_bound() -> None:
    assert verdicts(soak.Record(samples(), [0.1] * 100)) == [True] * 5


@pytest.mark.parametrize(
    ("record", "missed"),
    [
        (soak.Record(samples(memory=0.1), [0.1] * 100), 0),
        (soak.Record(samples(files=0.1), [0.1] * 100), 1),
        (soak.Record(samples(), [0.1] * 97 + [0.3] * 3), 2),
        (soak.Record(samples(), [0.1] * 100, faults=["queued"]), 4),
    ],
    ids=["memory", "open files", "answers", "an unfinished request"],
)
def test_judge_names_the_bound_that_is_broken(record: soak.Record, missed: int) -> None:
    assert [index for index, met in enumerate(verdicts(record)) if met is False] == [missed]


def test_judge_sees_a_database_that_grows_ever_faster() -> None:
    curved = [replace(one, database_bytes=100_000 + one.done**2) for one in samples()]
    assert verdicts(soak.Record(curved, [0.1] * 100))[3] is False


async def test_soak_of_sixty_requests_ends_each_once_and_looks_at_the_process() -> None:
    record = await soak.soak(60, 6, ["engine", "classifier"])
    assert record.faults == []
    assert record.committed > 50
    assert len(record.answers_s) >= 60
    lines = soak.judge(record)
    assert len(lines) == 5
    assert {sample.open_files > 3 and sample.memory_bytes > 2**24 for sample in record.samples} == {True}
    assert record.samples[-1].done == 60


async def test_waiting_line_of_a_hundred_is_timed_call_by_call(tmp_path: Path) -> None:
    times = await waiting.measure(100, 5, tmp_path)
    assert [len(times.submit), len(times.position), len(times.cancel)] == [5, 10, 5]
    assert [name for name, _, _ in times.report()] == ["submit", "position", "cancel", "disk"]
