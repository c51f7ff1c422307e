"""What the fuzz tests share: mutated bytes, JSON of any shape, and a clock that answers in processor time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import strategies as st

T = TypeVar("T")
LATEST_S = 3.0

_numbers = st.one_of(
    st.integers(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.sampled_from([0, 1, -1, 2**53, 2**63, 2**64, 10**400, 1e308]),
)
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), _numbers, st.text(max_size=20)),
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(st.text(max_size=12), inner, max_size=5)),
    max_leaves=12,
)

_edits = st.tuples(
    st.sampled_from(["flip", "cut", "insert", "delete", "double", "zero", "number"]),
    st.floats(0, 1, exclude_max=True),
    st.binary(min_size=1, max_size=24),
)


@st.composite
def mutated(draw: Callable[[Any], Any], sources: list[bytes]) -> bytes:
    """One of `sources`, changed in a few places, most of them near its head."""
    data = bytearray(draw(st.sampled_from(sources)))
    for kind, where, body in draw(st.lists(_edits, max_size=6)):
        at = int(where * where * len(data))
        if kind == "flip" and data:
            data[at] ^= 1 << (body[0] % 8)
        elif kind == "cut":
            del data[max(at, 8) :]
        elif kind == "insert":
            data[at:at] = body
        elif kind == "delete":
            del data[at : at + body[0]]
        elif kind == "double":
            data[at:at] = data[at : at + 64]
        elif kind == "zero":
            data[at : at + 4] = bytes(len(data[at : at + 4]))
        else:  # the largest number there is, where a length may stand
            data[at : at + 4] = b"\xff" * len(data[at : at + 4])
    return bytes(data)


def within_3_s(work: Callable[[], T]) -> T:
    """Do `work`; it may take three seconds of this thread's processor time, whatever else the machine does."""
    start = time.thread_time()
    try:
        return work()
    finally:
        assert time.thread_time() - start < LATEST_S
