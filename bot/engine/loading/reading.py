"""What libraries raise as they read files, in a sentence for people. No torch."""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager

from bot.engine.devices import is_out_of_memory
from bot.errors import EaselError, ModelError, OutOfMemory

log = logging.getLogger(__name__)


@contextmanager
def reading(sentence: str) -> Generator[None]:
    """Make a ModelError of what a library raises meanwhile: `sentence`, which says what of which file failed, and why in a line. Any thread.

    The whole of it is logged. A lack of memory is OutOfMemory, and errors of ours stay what they are.
    """
    try:
        yield
    except EaselError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise OutOfMemory(str(error)) from error
        log.exception("%s", sentence)
        raise ModelError(f"{sentence}: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """Give the first line of what an error says, at most 200 characters; its class where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
