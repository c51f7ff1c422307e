"""What libraries raise as they read files becomes a sentence."""

from __future__ import annotations

import pytest

from bot.engine.loading.reading import reading
from bot.errors import ModelError, OutOfMemory


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ValueError("\n bad header\nand more"), "x.safetensors does not do: bad header"),
        (KeyError(), "x.safetensors does not do: KeyError"),
        (RuntimeError("w" * 500), "x.safetensors does not do: " + "w" * 200),
    ],
    ids=["its first line", "its class", "a long one"],
)
def test_reading_that_fails_says_what_of_and_why_in_a_line(error: Exception, sentence: str) -> None:
    with pytest.raises(ModelError) as raised, reading("x.safetensors does not do"):
        raise error
    assert str(raised.value) == sentence
    assert raised.value.__cause__ is error


def test_reading_errors_of_ours_stay_what_they_are() -> None:
    ours = ModelError("said already")
    with pytest.raises(ModelError) as raised, reading("x.safetensors does not do"):
        raise ours
    assert raised.value is ours


def test_reading_without_room_is_out_of_memory() -> None:
    with pytest.raises(OutOfMemory), reading("x.safetensors does not do"):
        raise MemoryError
