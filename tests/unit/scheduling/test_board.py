from __future__ import annotations

import time
from dataclasses import replace

import pytest

from bot.generation import Job, JobStatus, Place, Progress, Variant
from bot.scheduling.board import Board
from bot.scheduling.estimates import StepTimes
from tests.unit.store.support import NOW, origin, request


class StillListener:
    def cancel(self) -> None:
        pass


def job(job_id: str, user_id: int = 7, **changes) -> Job:
    return Job(job_id, request(**changes), origin(abs(hash(job_id)), user_id), JobStatus.QUEUED, NOW)


def board_with(*jobs: Job, measured: bool = True, room: int = 1) -> Board:
    board = Board(room)
    if measured:
        board.measured.learn(request(), denoise_s=4.0, total_s=5.0)  # 4 steps: 1 s each, and 1 s around them
    for item in jobs:
        board.add(item)
    return board


def take(board: Board):
    return board.take(lambda _: True, lambda _: StillListener())  # type: ignore[arg-type, return-value]


def test_estimates_until_measured_are_none() -> None:
    times = StepTimes()
    assert times.duration_s(request()) is None
    times.learn(request(), 4.0, 5.0)
    assert times.duration_s(request()) == 5.0
    assert times.duration_s(request(model="far")) is None


def test_estimates_of_another_size_follow_the_pixels() -> None:
    times = StepTimes()
    times.learn(request(), 4.0, 5.0)
    assert times.duration_s(request(width=128, num_inference_steps=8)) == pytest.approx(1.0 * 2 * 8 + 1.0)
    assert times.remaining_s(request(), 3, 4) == pytest.approx(2.0)


def test_estimates_of_drafts_are_their_own() -> None:
    times = StepTimes()
    times.learn(request(), 4.0, 5.0)
    assert times.duration_s(request(quality="draft")) is None
    times.learn(request(quality="draft"), 2.0, 2.5)
    assert (times.duration_s(request()), times.duration_s(request(quality="draft"))) == (5.0, 2.5)


def test_estimates_of_several_models_add_theirs_up_until_they_were_measured_together() -> None:
    times = StepTimes()
    sheet = request(count=2, variants=(Variant(), Variant(model="far")))
    times.learn(request(count=1), 4.0, 5.0)
    assert times.duration_s(sheet) is None
    times.learn(request(count=1, model="far"), 12.0, 14.0)
    assert times.duration_s(sheet) == pytest.approx(5.0 + 14.0)
    assert times.remaining_s(sheet, 2, 4) == pytest.approx(8.0 + 3.0)
    times.learn(sheet, 20.0, 22.0)
    assert times.duration_s(sheet) == pytest.approx(22.0)
    assert times.duration_s(request(count=1)) == 5.0


def test_board_counts_every_model_that_a_waiting_job_needs() -> None:
    sheet = job("a", count=2, variants=(Variant(), Variant(model="far")))
    board = board_with(sheet, job("b", 8, model="far"))
    assert set(board.waiting_models()) == {"pocket", "far"}
    assert [waiting.id for waiting in board.waiting_on("far")] == ["a", "b"]
    run = board.take(lambda model: model == "far", lambda _: StillListener())  # type: ignore[arg-type, return-value]
    assert run is not None
    assert run.job.id == "b"
    board.remove("a")
    assert board.waiting_models() == ()


def test_estimates_first_load_does_not_stay_in_the_overhead() -> None:
    times = StepTimes()
    times.learn(request(), 4.0, 60.0)
    times.learn(request(), 4.0, 5.0)
    assert times.duration_s(request()) == pytest.approx(5.0)


def test_estimates_keep_a_bounded_number_of_shapes() -> None:
    times = StepTimes()
    for n in range(2_000):
        times.learn(request(width=64 + 8 * n), 4.0, 5.0)
    assert len(times._steps) <= 256


def test_place_counts_the_running_those_ahead_and_the_own() -> None:
    board = board_with(job("a"), job("b", 8), job("c", 9))
    run = take(board)
    assert board.place("a") is None
    assert board.place("b") == Place(1, 5.0 + 5.0, None)
    assert board.place("c") == Place(2, 5.0 + 5.0 + 5.0, 8)
    board.progressed("a", Progress(3, 4))
    assert board.place("c") == Place(2, 2.0 + 5.0 + 5.0, 8)
    run.drawn = True
    assert board.place("c") == Place(2, 5.0 + 5.0, 8)


def test_place_unmeasured_model_has_no_eta_and_does_not_spoil_others() -> None:
    board = board_with(job("a", 1, model="far"), job("b", 2))
    assert board.place("a") == Place(1, None, None)
    assert board.place("b") == Place(2, 5.0 + 5.0, 1)
    assert board_with(job("a"), measured=False).place("a") == Place(1, None, None)


def test_place_far_behind_uses_the_average() -> None:
    board = board_with(*(job(f"job{n}") for n in range(1_000)))
    place = board.place("job999")
    assert place is not None
    assert place.eta_s == pytest.approx(5_000.0)


def test_remaining_of_several_that_run_counts_the_turns_of_the_others() -> None:
    board = board_with(job("a"), job("b", 8), job("c", 9), room=8)
    runs = [take(board) for _ in range(3)]
    assert board.place("c") is None
    board.progressed("a", Progress(3, 4))  # 1 s of steps left and 1 s around them; 5 s each of the others
    assert board.remaining_s(runs[0]) == pytest.approx(2.0 + 2.0 + 2.0)
    assert board.remaining_s(runs[1]) == pytest.approx(5.0 + 5.0 + 2.0)
    runs[2].drawn = True
    assert board.remaining_s(runs[1]) == pytest.approx(5.0 + 2.0)
    assert board_with(job("d"), measured=False).measured.step_s(request()) is None


def test_take_waits_for_room_and_lets_nobody_overtake() -> None:
    board = board_with(job("a"), job("large", 8, count=4), job("small", 9, count=1), room=5)
    first = take(board)
    assert first.job.id == "a"
    assert take(board) is None  # two and four are more than five, and the small one is not next
    first.drawn = True
    assert [take(board).job.id, take(board).job.id] == ["large", "small"]


def test_take_more_pictures_than_there_is_room_for_come_alone() -> None:
    board = board_with(job("a", count=4), job("b", 8, count=1), room=2)
    run = take(board)
    assert (run.job.id, take(board)) == ("a", None)
    board.remove("a")
    assert take(board).job.id == "b"


def test_take_one_that_was_drawn_when_the_process_went_down_is_alone() -> None:
    suspect = replace(job("suspect", 8), attempt=1)
    board = board_with(job("a"), suspect, job("b", 9), room=100)
    first = take(board)
    assert take(board) is None
    board.remove(first.job.id)
    run = take(board)
    assert (run.job.id, run.alone, take(board)) == ("suspect", True, None)
    run.drawn = True
    assert take(board).job.id == "b"


def test_overview_lists_own_places_in_order_and_what_runs() -> None:
    board = board_with(job("a"), job("b"), job("x", 8), job("c"))
    run = take(board)
    assert board.overview(7).running == ()  # its attempt is not committed yet
    run.started = True
    seen = board.overview(7)
    assert [item.id for item in seen.running] == ["a"]
    assert seen.waiting == 3
    assert [(item.id, place.position) for item, place in seen.mine] == [("b", 2), ("c", 3)]


def test_board_10000_places_at_once_take_no_second() -> None:
    board = board_with(*(job(f"job{n}", n % 500) for n in range(10_000)))
    begun = time.thread_time()
    places = [board.place(f"job{n}") for n in range(10_000)]
    assert time.thread_time() - begun < 1.0
    assert sorted(place.position for place in places if place) == list(range(1, 10_001))


def test_remove_forgets_the_model_it_waited_for() -> None:
    board = board_with(job("a", model="far"), job("b", model="far"))
    assert board.remove("a")
    assert board.waits_for("far")
    assert board.remove("b")
    assert not board.waits_for("far")
    assert board.waiting_models() == ()
    assert not board.remove("b")


def test_board_long_list_leaves_room_for_others() -> None:
    variants = tuple(Variant(f"a star {n}") for n in range(40))
    board = board_with(job("long", 1, count=40, variants=variants), job("b", 2, count=4), job("c", 3), room=8)
    assert [run.job.id for run in (take(board), take(board), take(board)) if run is not None] == ["long", "b", "c"]
