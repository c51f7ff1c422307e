"""Files spread over messages, and the counting of refused calls."""

from __future__ import annotations

import pytest

from bot.generation import PictureFile
from bot.transport import RefusedCalls
from bot.ui.parcels import REQUEST_BYTES, Limits, Parcel, parcels

MIB = 1024 * 1024


def files(*sizes: int) -> list[PictureFile]:
    return [PictureFile(n, f"/x/{n}", f"{n}.png", n, 8, 8, size, 0.0, False) for n, size in enumerate(sizes)]


def spread(found: list[Parcel]) -> list[list[int]]:
    return [list(parcel.pictures) for parcel in found]


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        pytest.param([1], [[0]], id="one"),
        pytest.param([1] * 10, [list(range(10))], id="ten"),
        pytest.param([1] * 11, [list(range(10)), [10]], id="eleven"),
        pytest.param([9 * MIB] * 3, [[0, 1], [2]], id="27 MiB"),
        pytest.param([30 * MIB, 9 * MIB, 9 * MIB], [[0, 1], [2]], id="one is made smaller first"),
    ],
)
def test_parcels_hold_ten_files_and_25_mib(sizes: list[int], expected: list[list[int]]) -> None:
    found = parcels(files(*sizes), Limits(10 * MIB))
    assert spread(found) == expected
    assert {parcel.file_bytes for parcel in found} == {10 * MIB}


def test_parcels_with_few_messages_make_files_smaller_until_all_have_a_place() -> None:
    found = parcels(files(*[20 * MIB] * 12), Limits(20 * MIB, messages=2))
    assert sorted(n for parcel in found for n in parcel.pictures) == list(range(12))
    assert len(found) == 2
    assert all(len(parcel.pictures) * parcel.file_bytes <= REQUEST_BYTES for parcel in found)


def test_parcels_with_few_messages_leave_out_what_has_no_place_at_all() -> None:
    assert spread(parcels(files(*[1] * 25), Limits(MIB, messages=2))) == [list(range(10)), list(range(10, 20))]


def test_refused_calls_stop_at_the_limit_until_the_oldest_leaves_the_window() -> None:
    calls = RefusedCalls(at_most=3, window_s=600.0)
    for moment in (0.0, 100.0):
        calls.note(moment)
    assert calls.free_in(100.0) == 0.0
    calls.note(200.0)
    assert calls.free_in(200.0) == 400.0
    assert calls.free_in(599.0) == 1.0
    assert calls.free_in(600.0) == 0.0


def test_parcels_keep_room_for_one_more_file_in_the_first_message() -> None:
    assert spread(parcels(files(*[1] * 12), Limits(10 * MIB), 5)) == [list(range(9)), [9, 10, 11]]
    assert spread(parcels(files(*[9 * MIB] * 4), Limits(10 * MIB), 9 * MIB)) == [[0], [1, 2], [3]]
    few = parcels(files(*[1] * 50), Limits(10 * MIB, messages=5), 5)
    assert [len(parcel.pictures) for parcel in few] == [9, 10, 10, 10, 10]
