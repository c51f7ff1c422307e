"""Lists of prompts, one a line. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

from bot.errors import RequestError
from bot.prompts.text import is_blank

MAX_PROMPTS = 50
MAX_LIST_PIXELS = 64 * 1024 * 1024
"""What the pictures of one list have together: they stay in memory until the last one is drawn."""
_LINE_END = re.compile(r"\r\n|\r|\n")


def read_list(data: bytes) -> tuple[str, ...]:
    """Read a text file of prompts as its lines, blank ones included. Raises RequestError where it is not UTF-8."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise RequestError("The file is no UTF-8 text; save it as one, with one prompt a line.") from None
    return split_lines(text)


def split_lines(text: str) -> tuple[str, ...]:
    """Split at the ends of lines of any system, and at nothing else."""
    return tuple(_LINE_END.split(text))


def numbered(lines: Iterable[str]) -> list[tuple[int, str]]:
    """Give the prompts of a list with the numbers of their lines, from 1.

    Raises RequestError where there is none, or too many.
    """
    found = [(number, line.strip()) for number, line in enumerate(lines, 1) if not is_blank(line)]
    if not found:
        raise RequestError("The list has no prompts; write one a line.")
    if len(found) > MAX_PROMPTS:
        raise RequestError(
            f"The list has {len(found):,} prompts; at most {MAX_PROMPTS} fit into one request. Split it."
        )
    return found
