"""Whose lanes go through the denoiser next. Pure: no torch, no clock."""

from __future__ import annotations

from collections.abc import Sequence

from bot.engine.lanes import Lane


class Turnstile:
    """Fair by member, then by age: who has had the least of the GPU goes first, and whoever can share the pass comes along.

    A member's account counts the GPU seconds of their lanes, a shared pass being split by rows. A member who was away comes back
    at the least account of those present: what was not used is not saved up. So nobody starves: every pass raises the
    accounts of those it serves, and who waits keeps theirs.
    """

    def __init__(self, max_lanes: int) -> None:
        """`max_lanes` is how many pictures share a denoiser call at most."""
        self._max_lanes = max_lanes
        self._accounts: dict[object, float] = {}

    def pick(self, lanes: Sequence[Lane]) -> list[Lane]:
        """Choose the lanes of the next pass, at least one, in the order they arrived; `lanes` is not empty."""
        self._keep_present(lanes)
        order = sorted(lanes, key=lambda lane: (self._accounts[lane.member], lane.arrived))
        key = order[0].key
        chosen = [lane for lane in order if lane.key == key][: self._max_lanes]
        return sorted(chosen, key=lambda lane: lane.arrived)

    def charge(self, lanes: Sequence[Lane], seconds: float) -> None:
        """Put a pass of these lanes, which took `seconds`, on their members' accounts."""
        rows = sum(lane.rows for lane in lanes)
        for lane in lanes:
            share = seconds * lane.rows / rows
            lane.seconds += share
            self._accounts[lane.member] = self._accounts.get(lane.member, 0.0) + share

    def _keep_present(self, lanes: Sequence[Lane]) -> None:
        present = {lane.member for lane in lanes}
        known = [self._accounts[member] for member in present if member in self._accounts]
        least = min(known, default=0.0)
        self._accounts = {member: max(self._accounts.get(member, least), 0.0) for member in present}
