from __future__ import annotations

import pytest

from bot.catalogue.models_file import parse_catalogue, sizes_for
from bot.errors import ConfigError

ENTRY = '[models.tiny]\nname = "Tiny"\nsource = "here"\nfamily = "sd"\nlicence = "MIT"\n'


def test_parse_catalogue_fills_in_defaults() -> None:
    spec = parse_catalogue(ENTRY, origin="m.toml")["tiny"]
    assert spec.default_size == (512, 512)
    assert spec.sampler in spec.samplers


def test_parse_catalogue_side_multiple_is_8_unless_named() -> None:
    assert parse_catalogue(ENTRY, origin="m.toml")["tiny"].side_multiple == 8
    spec = parse_catalogue(ENTRY + "side_multiple = 96\n", origin="m.toml")["tiny"]
    assert spec.side_multiple == 96
    assert all(side % 96 == 0 for size in spec.sizes.values() for side in size)


def test_sizes_for_keeps_the_area_and_the_multiple() -> None:
    for width, height in sizes_for(1024, 64).values():
        assert width % 64 == height % 64 == 0
        assert 0.85 < width * height / 1024**2 < 1.15


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names no models"),
        ("models = 3", "names no models"),
        ("[models.x", "not valid TOML"),
        ('[models.x]\nname = "X"\n', "'source' is missing"),
        (ENTRY + "stepps = 3\n", "'stepps' is no key"),
        (ENTRY + 'steps = "many"\n', "steps has the wrong type"),
        (ENTRY + "steps = true\n", "steps has the wrong type"),
        (ENTRY + 'sizes = {"1:1" = [100, 100]}\n', "multiples of 8"),
        (ENTRY + 'side_multiple = 16\nsizes = {"1:1" = [104, 96]}\n', "multiples of 16"),
        (ENTRY + "side_multiple = 12\n", "side_multiple is a positive multiple of 8, got 12"),
        (ENTRY + "side_multiple = 0\n", "side_multiple is a positive multiple of 8, got 0"),
        (ENTRY + "side_multiple = -16\n", "side_multiple is a positive multiple of 8, got -16"),
        (ENTRY + "side_multiple = 16\nsize_multiple = 24\n", "size_multiple is a positive multiple of 16, got 24"),
        (ENTRY + "size_multiple = 0\n", "size_multiple is a positive multiple of 8, got 0"),
        (ENTRY + "max_sequence_length = 0\n", "max_sequence_length is at least 1"),
        (ENTRY + 'sizes = {"5:1" = [64, 64]}\n', "knows the aspects"),
    ],
)
def test_parse_catalogue_wrong_entry_names_file_and_key(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        parse_catalogue(text, origin="m.toml")
    assert "m.toml" in str(caught.value)


def test_parse_catalogue_unknown_default_lists_what_there_is() -> None:
    with pytest.raises(ConfigError, match="tiny"):
        parse_catalogue(ENTRY, origin="m.toml", default="huge")


def controls_of(given: str, family: str = "sdxl") -> dict[str, str]:
    text = ENTRY.replace('"sd"', f'"{family}"') + f"controls = {given}\n"
    return dict(parse_catalogue(text, origin="m.toml")["tiny"].controls)


def test_parse_catalogue_union_stands_for_the_kinds_that_unions_read_unless_one_has_its_own() -> None:
    assert controls_of('{ union = "u", depth = "d", tile = "t" }') == {
        "canny": "u", "scribble": "u", "depth": "d", "pose": "u", "tile": "t",
    }  # fmt: skip
    assert list(controls_of('{ tile = "t", union = "u" }')) == ["tile", "canny", "scribble", "depth", "pose"]


@pytest.mark.parametrize(
    ("given", "family", "words"),
    [
        ('{ union = "u" }', "sd15", "controls.union is for the family sdxl, not sd15"),
        ('{ lines = "u" }', "sdxl", "knows the kinds canny, .*tile and union, not 'lines'"),
        ('{ union = "" }', "sdxl", "controls.union is a control network"),
        ('{ canny = "c" }', "flux", "controls is for the families sd15, sd21, sdxl, not flux"),
    ],
)
def test_parse_catalogue_wrong_controls_name_the_kind(given: str, family: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        controls_of(given, family)
