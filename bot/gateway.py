"""When the bot may say IDENTIFY: Discord counts them, a thousand a day, and takes the token of a bot that spends them all.

Nothing is kept on disk, since Discord itself knows what is left (`GET /gateway/bot`), also after a storm of restarts.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

IDENTIFY_GAP_S = 5.0
"""One IDENTIFY every five seconds is what a bot without shards may (`max_concurrency` 1)."""
LONGEST_GAP_S = 40.0
"""discord.py allows a minute for a connection, this wait included."""
SCARCE = 0.1
"""The share of the day's IDENTIFYs that is spread over the time until there are new ones."""


class IdentifyLater(Exception):
    """There are so few IDENTIFYs left that the connection is to be made later."""


@dataclass(frozen=True, slots=True)
class StartLimit:
    """What is left of the day's IDENTIFYs."""

    total: int
    remaining: int
    reset_after_s: float

    @property
    def wait_s(self) -> float:
        """How long to wait before the next one: nothing while there are plenty, else an equal part of what is left."""
        if self.remaining > SCARCE * self.total:
            return 0.0
        return self.reset_after_s / max(1, self.remaining)


def read_start_limit(answer: Mapping[str, Any]) -> StartLimit:
    """Read the answer to `GET /gateway/bot`. Raises KeyError, TypeError or ValueError where it is none."""
    limit = answer["session_start_limit"]
    return StartLimit(int(limit["total"]), int(limit["remaining"]), int(limit["reset_after"]) / 1000)


class IdentifyGap:
    """How long to wait before saying IDENTIFY once more; twice as long each time Discord does not take it."""

    def __init__(self, gap_s: float = IDENTIFY_GAP_S, jitter: Callable[[], float] = random.random) -> None:
        """`jitter` gives 0 to 1: up to a quarter more, so that many bots do not come back at the same moment."""
        self.gap_s = gap_s
        self._jitter = jitter
        self._in_vain = 0

    def next_s(self) -> float:
        """Give the wait before the next IDENTIFY, in seconds, and count it."""
        doubled = self.gap_s * 2 ** max(0, self._in_vain - 1)
        self._in_vain += 1
        return min(doubled * (1 + self._jitter() / 4), LONGEST_GAP_S)

    def taken(self) -> None:
        """Begin anew: Discord has answered READY."""
        self._in_vain = 0
