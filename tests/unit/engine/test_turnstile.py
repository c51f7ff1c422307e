from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import pytest

from bot.engine.fitting import AGAIN_AFTER, Fitting
from bot.engine.turnstile import FAIR_WITHIN_PASSES, FAIR_WITHIN_S, STRETCH, Turnstile


@dataclass(eq=False)
class Rider:
    member: str
    arrived: int
    key: tuple[object, ...] = ("sd15", 512)
    rows: int = 2
    left: int = 100_000

    @property
    def owner(self) -> object:
        return self


def ride(turnstile: Turnstile, riders: Sequence[Rider], seconds: float = 0.5) -> list[Rider]:
    picked = turnstile.pick(riders)
    turnstile.charge(picked, [rider.rows for rider in picked], seconds)
    for rider in picked:
        rider.left -= 1
    return picked


def large(member: str, arrived: int, left: int = 100_000) -> Rider:
    return Rider(member, arrived, key=("sd15", 1024), left=left)


def test_pick_takes_everybody_who_can_share_the_pass_up_to_the_limit() -> None:
    riders = [Rider("ada", n) for n in range(6)]
    assert Turnstile(4).pick(riders) == riders[:4]
    assert Turnstile(4).pick(riders, lambda _: 2) == riders[:2]


@pytest.mark.parametrize("newcomer", [Rider("bob", 99), large("bob", 99)], ids=["same size", "another size"])
def test_pick_newcomer_is_in_the_next_pass_whoever_is_there(newcomer: Rider) -> None:
    turnstile = Turnstile(2)
    riders = [Rider("ada", n) for n in range(8)]
    for _ in range(25):
        ride(turnstile, riders)
    assert newcomer in ride(turnstile, [*riders, newcomer])


def test_pick_equal_requests_of_other_sizes_are_finished_in_order_not_all_at_the_end() -> None:
    turnstile = Turnstile(4)
    waiting = [Rider("ada", 0, left=5), large("bob", 1, left=5)]
    ended: list[tuple[str, int]] = []
    for turn in range(10):
        for rider in ride(turnstile, waiting, 0.1):
            if not rider.left:
                ended.append((rider.member, turn))
                waiting.remove(rider)
    assert ended == [("ada", 5), ("bob", 9)]  # bob's first step comes at once, the others when ada's is done


def test_pick_short_request_overtakes_a_long_one_but_not_for_ever() -> None:
    turnstile = Turnstile(1)
    ride(turnstile, [Rider("x", 0)], 0.1), ride(turnstile, [large("x", 0)], 0.1)  # what a pass takes is known
    long = large("ada", 1, left=20)
    ride(turnstile, [long], 0.1)
    ahead, number = 0, 2
    short = Rider("m0", number, left=4)
    while long.left and ahead < 1000:
        picked = ride(turnstile, [long, short], 0.1)[0]
        ahead += picked is not long
        if not short.left:  # somebody new comes whenever one is done
            number += 1
            short = Rider(f"m{number}", number, left=4)
    # Everybody new begins at once and then goes before the long one, but only until that is due.
    assert 4 <= ahead <= STRETCH * 20 + 20


def test_pick_member_with_many_gets_no_more_than_the_one_with_one() -> None:
    turnstile = Turnstile(1)
    riders = [*(Rider("ada", n) for n in range(10)), Rider("bob", 10)]
    turns = Counter(ride(turnstile, riders)[0].member for _ in range(400))
    assert abs(turns["ada"] - turns["bob"]) * 0.5 <= FAIR_WITHIN_S + 1


def test_pick_member_who_was_away_has_saved_nothing_up() -> None:
    turnstile = Turnstile(1)
    ada, bob = Rider("ada", 0), Rider("bob", 1)
    ride(turnstile, [ada, bob])
    for _ in range(500):
        ride(turnstile, [bob])
    turns = Counter(ride(turnstile, [ada, bob])[0].member for _ in range(100))
    assert turns["bob"] * 0.5 >= 25 - 2 * FAIR_WITHIN_S


def test_pick_having_come_along_for_long_is_not_paid_back_for_long() -> None:
    turnstile = Turnstile(4)
    ada = [Rider("ada", n) for n in range(3)]
    bob = Rider("bob", 3)
    for _ in range(1000):
        assert ride(turnstile, [*ada, bob]) == [*ada, bob]  # ada's three rows come along with bob's one
    bob = large("bob", 4)
    turns = [ride(turnstile, [*ada, bob])[0].member for _ in range(60)]
    assert turns.index("ada") * 0.5 <= 2 * FAIR_WITHIN_S + 1


def test_charge_splits_a_pass_by_rows() -> None:
    assert Turnstile(4).charge([Rider("ada", 0), Rider("bob", 1)], [2, 1], 3.0) == [2.0, 1.0]


@pytest.mark.parametrize("seed", range(20))
def test_pick_starves_no_member_whatever_comes_and_goes(seed: int) -> None:
    """However members, sizes and costs are mixed, no member waits longer than all the others may be ahead of them."""
    chance = random.Random(seed)
    turnstile = Turnstile(chance.choice([1, 2, 4]))
    cost = {512: 1.0, 768: 2.5, 1024: 6.0}
    dearest = max(cost.values()) * 2
    slack = max(FAIR_WITHIN_S, FAIR_WITHIN_PASSES * dearest)
    riders: list[Rider] = []
    waited: dict[str, float] = {}
    for turn in range(600):
        if len(riders) < 12 and chance.random() < 0.5:
            size = chance.choice(list(cost))
            riders.append(
                Rider(chance.choice("abcdef"), turn, ("sd15", size), chance.choice([1, 2]), chance.randint(1, 30))
            )
        present = {rider.member for rider in riders}
        waited = {member: waited.get(member, 0.0) for member in present}
        if not riders:
            continue
        picked = turnstile.pick(riders)
        assert len({rider.key for rider in picked}) == 1
        seconds = cost[picked[0].key[1]] * len(picked) ** 0.5  # type: ignore[index]
        turnstile.charge(picked, [rider.rows for rider in picked], seconds)
        served = {rider.member for rider in picked}
        waited = {member: 0.0 if member in served else spent + seconds for member, spent in waited.items()}
        assert max(waited.values()) <= 6 * (2 * slack + dearest)
        for rider in picked:
            rider.left -= 1
        riders = [rider for rider in riders if rider.left > 0]


@pytest.mark.parametrize("seed", range(10))
def test_pick_every_request_ends_however_many_short_ones_keep_coming(seed: int) -> None:
    """Whoever leaves is replaced at once, mostly by somebody short: the long ones end all the same, and in bounded time."""
    chance = random.Random(seed)
    turnstile = Turnstile(chance.choice([1, 2, 4]))
    cost = {512: 1.0, 768: 2.5, 1024: 6.0}
    there, longest = 8, 30
    bound = there * longest * cost[1024]  # as if all of them were the longest there are, one after the other
    riders: list[Rider] = []
    since: dict[Rider, float] = {}
    now, ended = 0.0, 0
    for number in range(2000):
        while len(riders) < there:
            steps = longest if chance.random() < 0.15 else chance.randint(1, 4)
            size = chance.choice(list(cost))
            new = Rider(chance.choice("abcd"), number, ("sd15", size), chance.choice([1, 2]), steps)
            riders.append(new)
            since[new] = now
        picked = turnstile.pick(riders)
        seconds = cost[picked[0].key[1]] * len(picked) ** 0.5  # type: ignore[index]
        turnstile.charge(picked, [rider.rows for rider in picked], seconds)
        now += seconds
        for rider in picked:
            rider.left -= 1
        ended += sum(rider.left == 0 for rider in riders)
        riders = [rider for rider in riders if rider.left > 0]
        assert max((now - since[rider] for rider in riders), default=0.0) <= bound
    assert ended > 250


def test_fitting_halves_what_did_not_fit_and_tries_more_again_after_long() -> None:
    fitting = Fitting()
    assert fitting.most("a", 4) == 4
    fitting.was_full("a", 4)
    assert (fitting.most("a", 4), fitting.most("a", 1), fitting.most("b", 4)) == (2, 1, 4)
    fitting.was_full("a", 1)
    assert fitting.most("a", 4) == 1
    for _ in range(AGAIN_AFTER + 1):
        fitting.went_well("a")
    assert fitting.most("a", 4) == 2
