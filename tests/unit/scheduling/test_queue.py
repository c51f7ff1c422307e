from __future__ import annotations

import random
import time

import pytest

from bot.scheduling.queue import JobQueue


def filled(*lines: tuple[int, int]) -> JobQueue:
    """Give a queue in which each (member, count) has joined in turn, with jobs "member-0", "member-1" …"""
    queue = JobQueue()
    for user_id, count in lines:
        for n in range(count):
            queue.push(f"{user_id}-{n}", user_id)
    return queue


def drained(queue: JobQueue) -> list[str]:
    served: list[str] = []
    while (job_id := queue.pop()) is not None:
        served.append(job_id)
    return served


def test_pop_three_members_are_served_in_turn() -> None:
    assert drained(filled((1, 3), (2, 1), (3, 2))) == ["1-0", "2-0", "3-0", "1-1", "3-1", "1-2"]


def test_pop_member_just_served_goes_behind_a_newcomer() -> None:
    queue = filled((1, 5))
    assert queue.pop() == "1-0"
    queue.push("2-0", 2)
    assert drained(queue)[:3] == ["1-1", "2-0", "1-2"]


def test_pop_skipped_jobs_keep_their_places() -> None:
    queue = filled((1, 2), (2, 1))
    assert queue.pop(lambda job_id: job_id == "1-0") == "1-1"
    assert queue.pop(lambda job_id: job_id == "1-0") == "2-0"
    assert queue.pop(lambda _: True) is None
    assert drained(queue) == ["1-0"]


def test_push_twice_is_refused() -> None:
    queue = filled((1, 1))
    with pytest.raises(ValueError, match="waits already"):
        queue.push("1-0", 2)


def test_remove_tells_whether_it_waited() -> None:
    queue = filled((1, 2))
    assert queue.remove("1-0")
    assert not queue.remove("1-0")
    assert (len(queue), queue.waiting_of(1), queue.jobs_of(1), "1-0" in queue) == (1, 1, ("1-1",), False)


def test_position_of_one_that_does_not_wait_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        filled((1, 1)).position("9-9")


@pytest.mark.parametrize("seed", range(20))
def test_position_after_random_changes_is_the_order_of_service(seed: int) -> None:
    rng = random.Random(seed)
    queue = JobQueue()
    owners: dict[str, int] = {}
    for n in range(120):
        owners[f"job{n}"] = rng.randrange(6)
        queue.push(f"job{n}", owners[f"job{n}"])
        if rng.random() < 0.5:
            roads = (
                queue.pop,
                lambda n=n: queue.remove(f"job{rng.randrange(n + 1)}"),
                lambda: queue.pop(lambda j: j[-1] in "13"),
            )
            rng.choice(roads)()
        waiting = list(queue.served())
        for index, job_id in enumerate(waiting):  # the first few are counted one by one, the others from the numbering
            assert queue.position(job_id) == index + 1
            assert queue.next_user(job_id) == (owners[waiting[index - 1]] if index else None)
        if waiting and rng.random() < 0.5:
            assert queue.pop() == waiting.pop(0)  # taking the first shifts the numbering
            assert [queue.position(job_id) for job_id in waiting] == list(range(1, len(waiting) + 1))
    assert list(queue.served()) == drained(queue)


@pytest.mark.parametrize("members", [1, 500, 10_000], ids="{} members".format)
def test_queue_with_10000_waiting_answers_under_10_ms(members: int) -> None:
    queue = JobQueue()
    for n in range(10_000):
        queue.push(f"job{n}", n % members)
    spent: dict[str, list[float]] = {"push": [], "position": [], "next_user": [], "remove": [], "pop": []}

    def timed(name: str, call) -> None:
        begun = time.thread_time()  # the thread's own time: other programs on this machine do not count
        call()
        spent[name].append(time.thread_time() - begun)

    for n in range(300):
        timed("push", lambda n=n: queue.push(f"new{n}", n % members))
        timed("position", lambda n=n: queue.position(f"job{9_000 + n}"))
        timed("next_user", lambda n=n: queue.next_user(f"job{9_000 + n}"))
        timed("position", lambda n=n: queue.position(f"new{n}"))
        timed("remove", lambda n=n: queue.remove(f"job{5_000 + n}"))
        timed("pop", queue.pop)
    for name, times in spent.items():
        assert sorted(times)[int(len(times) * 0.99)] < 0.010, name
