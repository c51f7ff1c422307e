"""How many pictures fit into a call, learnt from running out of memory. Pure."""

from __future__ import annotations

from collections.abc import Hashable

AGAIN_AFTER = 500
"""Calls that went well until twice as many are tried again: what took the memory may have gone."""


class Fitting:
    """Limits by key, a model and a size: half of what did not fit."""

    def __init__(self) -> None:
        self._most: dict[Hashable, tuple[int, int]] = {}

    def most(self, key: Hashable, otherwise: int) -> int:
        """Tell how many fit; `otherwise` where none was too many, and at most."""
        return min(otherwise, self._most[key][0]) if key in self._most else otherwise

    def was_full(self, key: Hashable, count: int) -> None:
        """Note that so many did not fit."""
        self._most[key] = (max(1, count // 2), 0)

    def went_well(self, key: Hashable) -> None:
        """Note a call that fitted."""
        if key in self._most:
            limit, calls = self._most[key]
            self._most[key] = (limit, calls + 1) if calls < AGAIN_AFTER else (2 * limit, 0)
