"""Faults 38 and 40: no name leads out of its folder, and no number is taken that a model cannot use, whoever sends it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bot.catalogue.models_file import parse_catalogue
from bot.engine.files.sources import index_components, wanted_files
from bot.engine.files.weights import ModelFiles
from bot.errors import ConfigError, EaselError, ModelError, RequestError, StorageError
from bot.files.archive import Archive
from bot.generation import GenerationOptions
from bot.limits import MAX_SEED, resolve
from bot.ui.forms import read_more
from tests.unit.files.pictures import REQUEST, FixedScore, marker, result

ENTRY = '[models.tiny]\nname = "Tiny"\nsource = "someone/tiny"\nfamily = "sd15"\nlicence = "MIT"\n'
CATALOGUE = parse_catalogue(ENTRY + "max_side = 1024\nmax_pixels = 786432\n", origin="models.toml")
UPWARDS = [
    "../../etc/passwd",
    "..",
    "a/../../b",
    "/etc/passwd",
    "..\\..\\x",
    "a/b",
    "a\0b",
    ".",
    "%2e%2e/x",
    "…/x",
    "‥/x",
]


def taken(**changes: Any) -> Any:
    return resolve(GenerationOptions("a cat", **changes), CATALOGUE, new_seed=lambda: 7)


# --- 38 ---


@pytest.mark.fault(38)
@pytest.mark.parametrize("name", UPWARDS)
def test_fault_38_model_or_sampler_that_leads_out_of_a_folder_refused(name: str) -> None:
    with pytest.raises(RequestError, match="There is no model"):
        taken(model=name)
    with pytest.raises(RequestError, match="There is no sampler"):
        taken(sampler=name)


@pytest.mark.fault(38)
@pytest.mark.parametrize("name", UPWARDS)
def test_fault_38_model_to_fetch_that_leads_out_of_a_folder_refused(tmp_path: Path, name: str) -> None:
    files = ModelFiles(CATALOGUE, models_root=tmp_path, cache_dir=tmp_path / "hub", hf_token=None)
    with pytest.raises(ModelError, match="There is no model"):
        files.fetch(name, lambda _: None, lambda: False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.fault(38)
@pytest.mark.parametrize("name", [name for name in UPWARDS if "\0" not in name])
@pytest.mark.parametrize("key", ["id", "revision", "variant", "sha256"])
def test_fault_38_name_in_the_catalogue_that_leads_out_of_a_folder_refused(key: str, name: str) -> None:
    written = name.replace("\\", "\\\\")
    lines = {
        "id": ENTRY.replace("[models.tiny]", f'[models."{written}"]'),
        "revision": f'{ENTRY}revision = "{written}"\n',
        "variant": f'{ENTRY}variant = "{written}"\n',
        "sha256": f'{ENTRY}[models.tiny.sha256]\n"{written}" = "{"0" * 64}"\n',
    }
    if (key, name) in {("revision", "a/b"), ("sha256", "a/b"), ("sha256", "."), ("sha256", "%2e%2e/x")} or (
        key == "sha256" and name[0] in "…‥"
    ):
        parse_catalogue(
            lines[key], origin="models.toml"
        )  # a branch and a file may have a slash; the others are plain names
        return
    with pytest.raises(ConfigError, match=r"models\.toml, model"):
        parse_catalogue(lines[key], origin="models.toml")


@pytest.mark.fault(38)
@pytest.mark.parametrize("name", UPWARDS)
def test_fault_38_part_or_file_of_a_repository_that_leads_out_of_it_not_fetched(name: str) -> None:
    index = json.dumps({"_class_name": "X", name: ["diffusers", "UNet"]})
    with pytest.raises(ValueError, match="it names a part"):
        index_components(index)
    offered = [f"unet/{name}.json", f"unet/{name}/x.safetensors", f"{name}/x.safetensors", "unet/config.json"]
    for file in wanted_files(offered, ["unet"], None):
        assert ".." not in Path(file).parts
        assert "\\" not in file
        assert Path("/root", file).resolve().is_relative_to("/root/unet") or file == "model_index.json"


@pytest.mark.fault(38)
@pytest.mark.parametrize("job_id", [*UPWARDS, "", "x" * 65])
async def test_fault_38_request_id_that_leads_out_of_the_pictures_refused(tmp_path: Path, job_id: str) -> None:
    archive = Archive(tmp_path / "pictures", classifier=FixedScore(), marker=marker(), version="test", model_names={})
    try:
        with pytest.raises(StorageError, match="id may hold"):
            await archive.write(job_id, REQUEST, result())
        with pytest.raises(StorageError, match="id may hold"):
            await archive.delete(job_id)
    finally:
        archive.close()
    assert [path.name for path in tmp_path.rglob("*")] == ["pictures"]


# --- 40 ---

NOT_A_NUMBER: list[Any] = ["12", "", [], {}, b"1", True, False, 1j, object()]
HUGE: list[Any] = [10**30, -(10**30), 10**5000, -(10**5000), 2**63, -(2**63)]
WRONG_WHOLE = [*NOT_A_NUMBER, *HUGE, 1.0, math.nan, math.inf, -1]


@pytest.mark.fault(40)
@pytest.mark.parametrize(
    "value",
    WRONG_WHOLE,
    ids=lambda value: f"{type(value).__name__} {str(value)[:8] if not isinstance(value, int) else value.bit_length()}",
)
@pytest.mark.parametrize("name", ["seed", "steps", "width", "height", "count"])
def test_fault_40_whole_number_out_of_range_or_none_refused(name: str, value: Any) -> None:
    with pytest.raises(RequestError) as caught:
        taken(**{name: value})
    assert len(str(caught.value)) < 250


@pytest.mark.fault(40)
@pytest.mark.parametrize(
    "value", [*NOT_A_NUMBER, *HUGE, math.nan, math.inf, -math.inf, -0.01, -1, 20.01, 1e308],
    ids=lambda value: f"{type(value).__name__} {str(value)[:8] if not isinstance(value, int) else value.bit_length()}",
)  # fmt: skip
def test_fault_40_guidance_out_of_range_or_not_finite_refused(value: Any) -> None:
    with pytest.raises(RequestError, match="Guidance") as caught:
        taken(guidance=value)
    assert len(str(caught.value)) < 250


EDGES = {
    "seed": (0, MAX_SEED, (-1, MAX_SEED + 1)), "steps": (1, 100, (0, 101)), "count": (1, 4, (0, 5)),
    "width": (64, 1024, (56, 1032, 65)), "height": (64, 1024, (56, 1032, 1023)), "guidance": (0.0, 20.0, (-0.001, 20.001)),
}  # fmt: skip


@pytest.mark.fault(40)
@pytest.mark.parametrize("name", EDGES)
def test_fault_40_edge_of_a_range_taken_and_one_beyond_refused(name: str) -> None:
    low, high, beyond = EDGES[name]
    for value in (low, high):
        taken(**{name: value})
    for value in beyond:
        with pytest.raises(RequestError):
            taken(**{name: value})


@pytest.mark.fault(40)
def test_fault_40_last_seed_of_several_pictures_has_to_fit() -> None:
    taken(seed=MAX_SEED - 3, count=4)
    with pytest.raises(RequestError, match="Seed goes from 0"):
        taken(seed=MAX_SEED - 2, count=4)


@pytest.mark.fault(40)
def test_fault_40_two_allowed_sides_of_too_many_pixels_refused() -> None:
    with pytest.raises(RequestError, match="1024×1024 is more than Tiny draws"):
        taken(width=1024, height=1024)


@pytest.mark.fault(40)
@pytest.mark.parametrize(
    "line",
    [
        "steps: 1e3",
        "steps: ٣٤x",
        "seed: " + "9" * 5000,
        "guidance: nan",
        "guidance: 1e999",
        "width: 0x40",
        "count: -1",
        "private: maybe",
        "steps: 0",
        "guidance: -inf",
    ],
)
def test_fault_40_number_in_the_form_out_of_range_refused(line: str) -> None:
    with pytest.raises(RequestError) as caught:
        taken(**read_more(line))
    assert len(str(caught.value)) < 250


@pytest.mark.fault(40)
@pytest.mark.parametrize(
    "line",
    ["steps = 0", "steps = -3", "steps = 99999999999999999999", "max_steps = 0", "steps = 40\nmax_steps = 20", "guidance = nan",
     "guidance = inf", "guidance = -1", "max_guidance = nan", "guidance = 9\nmax_guidance = 8", "base_px = 0", "base_px = 10000000000",
     "max_side = 0", "max_side = 1000000", "min_side = 2000\nmax_side = 1000", "min_side = 65\nmax_side = 71", "max_pixels = 0",
     "download_gb = inf", "download_gb = nan", 'sizes = {"1:1" = [8388608, 64]}', 'sizes = {"1:1" = [true, 64]}'],
)  # fmt: skip
def test_fault_40_number_in_the_catalogue_out_of_range_or_not_finite_refused(line: str) -> None:
    with pytest.raises(ConfigError, match=r"models\.toml, model 'tiny'"):
        parse_catalogue(f"{ENTRY}{line}\n", origin="models.toml")


@pytest.mark.fault(40)
def test_fault_40_negative_zero_becomes_zero() -> None:
    assert math.copysign(1, taken(guidance=-0.0).guidance_scale) == 1


async def test_fault_40_discord_range_is_no_wider_than_ours() -> None:
    """What the client enforces is checked again: no registered range lets through what `resolve` would not look at."""
    from tests.support import registered_commands

    options = {o["name"]: o for c in await registered_commands() if c["name"] == "imagine" for o in c["options"]}
    for name in ("seed", "steps", "width", "height", "count", "guidance"):
        for value in (options[name]["min_value"] - 1, options[name]["max_value"] + 1):
            with pytest.raises(EaselError):
                resolve(replace(GenerationOptions("a cat"), **{name: value}), CATALOGUE, new_seed=lambda: 7)
