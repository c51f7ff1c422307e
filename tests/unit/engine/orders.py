"""Orders for an engine that a test turns itself."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import numpy as np

from bot.engine.base import Order
from bot.engine.diffusers_engine import DiffusersEngine
from bot.generation import RawPicture
from tests.unit.engine.fakes import Notes, request
from tests.unit.engine.test_diffusers_engine import pixels


class Cancellable(Notes):
    gone = False

    def cancelled(self) -> bool:
        return self.gone


def admitted(engine: DiffusersEngine, prompt: str = "a forest", member: object = 0, **changes: Any) -> Order:
    order = Order(request(prompt, **changes), Cancellable(), member)
    engine.admit(order)
    return order


def drawn(engine: DiffusersEngine, *orders: Order) -> list[RawPicture]:
    """Turn to the end; the first picture of each."""
    while engine.busy:
        engine.turn()
    return [order.future.result(0).pictures[0] for order in orders]


def alone(engine: DiffusersEngine, order: Order) -> RawPicture:
    return engine.generate(order.request, Notes()).pictures[0]


def same(one: RawPicture, other: RawPicture) -> None:
    assert np.abs(pixels(one) - pixels(other)).max() <= 2


def error_of(order: Order) -> BaseException | None:
    future: Future[Any] = order.future
    return future.exception(0)


def until(engine: DiffusersEngine, happened: Callable[[], bool]) -> None:
    while not happened():
        assert engine.busy
        engine.turn()
