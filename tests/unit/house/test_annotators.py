from __future__ import annotations

import pytest

from bot.catalogue.annotators import AnnotatorSpec, parse_annotators
from bot.catalogue.models_file import parse_catalogue
from bot.errors import ConfigError

MODEL = '[models.tiny]\nname = "Tiny"\nsource = "here"\nfamily = "sd"\nlicence = "MIT"\n'
ENTRY = {"kind": "caption", "name": "Eyes", "source": "someone/eyes", "licence": "MIT"}


def test_parse_catalogue_annotators_are_read_in_the_files_order() -> None:
    text = MODEL + (
        '[annotators.eyes]\nkind = "caption"\nname = "Eyes"\nsource = "someone/eyes"\nlicence = "MIT"\ndownload_gb = 1.5\n'
        'revision = "v2"\nsha256 = { "model.safetensors" = "' + "AB" * 32 + '" }\n'
        '[annotators.far]\nkind = "depth"\nname = "Far"\nsource = "models/far"\nlicence = "MIT"\ngated = true\n'
    )
    catalogue = parse_catalogue(text, origin="m.toml")
    eyes = AnnotatorSpec(
        "eyes", "caption", "Eyes", "someone/eyes", "MIT", revision="v2", download_bytes=1_500_000_000,
        sha256={"model.safetensors": "ab" * 32},
    )  # fmt: skip
    assert [spec.id for spec in catalogue.annotators] == ["eyes", "far"]
    assert catalogue.annotator("eyes") == eyes
    assert catalogue.annotators[1].gated
    assert catalogue.annotator("tiny") is None


def test_parse_catalogue_without_annotators_has_none() -> None:
    assert parse_catalogue(MODEL, origin="m.toml").annotators == ()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "smell"}, "kind is one of caption, depth, people, pose, not 'smell'"),
        ({"kind": ""}, "'kind' is missing"),
        ({"licence": ""}, "'licence' is missing"),
        ({"steps": 3}, "'steps' is no key of an annotator"),
        ({"source": 3}, "source has the wrong type"),
        ({"source": "models/eyes.safetensors"}, "not a single file"),
        ({"revision": "../../x"}, "revision is a branch"),
        ({"download_gb": float("inf")}, "download_gb is a number from 0"),
        ({"sha256": "00" * 32}, "sha256 has the wrong type"),
        ({"sha256": {"../x": "00" * 32}}, "no file inside"),
        ({"sha256": {"model.safetensors": "00"}}, "64 hexadecimal digits"),
    ],
)
def test_parse_annotators_wrong_entry_names_file_id_and_key(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        parse_annotators({"eyes": {**ENTRY, **changes}}, origin="m.toml")
    assert "m.toml, annotator 'eyes'" in str(caught.value)


@pytest.mark.parametrize("annotator_id", ["../eyes", "a..b", "", "my eyes"])
def test_parse_annotators_id_that_leads_out_of_a_folder_is_refused(annotator_id: str) -> None:
    with pytest.raises(ConfigError, match="an id has letters"):
        parse_annotators({annotator_id: ENTRY}, origin="m.toml")


@pytest.mark.parametrize("tables", [3, ["eyes"], {"eyes": "someone/eyes"}])
def test_parse_annotators_that_are_no_tables_are_refused(tables: object) -> None:
    with pytest.raises(ConfigError, match=r"as (a table|tables), \[annotators"):
        parse_annotators(tables, origin="m.toml")


def test_parse_catalogue_annotator_with_a_models_id_is_refused() -> None:
    text = MODEL + '[annotators.tiny]\nkind = "caption"\nname = "Eyes"\nsource = "x/y"\nlicence = "MIT"\n'
    with pytest.raises(ConfigError, match="annotator 'tiny': a model has this id"):
        parse_catalogue(text, origin="m.toml")
