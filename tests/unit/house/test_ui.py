"""The cards and forms as payloads: within Discord's limits, inert, with the right words."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest

from bot.catalogue.models_file import parse_catalogue
from bot.client import same_commands
from bot.errors import NotPermitted, RequestError, StorageError
from bot.generation import (
    Axis,
    FetchProgress,
    GenerationRequest,
    InputRef,
    Job,
    JobStatus,
    Origin,
    PictureFile,
    Place,
    Variant,
)
from bot.prompts.again import options_of
from bot.prompts.regions import Squares
from bot.scheduling.events import Drawing
from bot.ui import buttons, cards, words
from bot.ui.forms import edit_form, more_lines, read_form, read_more
from bot.ui.info import job_info
from bot.ui.regions import may_redraw, part_view, redrawn
from tests.support import components, labels, registered_commands, texts

ROOT = Path(__file__).resolve().parents[3]
CATALOGUE = parse_catalogue((ROOT / "models.toml").read_text(encoding="utf-8"), origin="models.toml")
NOW = datetime(2026, 11, 21, tzinfo=UTC)
REQUEST = GenerationRequest("a sunset over a beach", "people", "pocket", 64, 64, 2, 20, 4.0, 42, "DDIM")
ORIGIN = Origin(1, 2, "token", NOW + timedelta(minutes=14), 3, "ada", 4, 5, False, 10_000_000)
JOB = Job("abc123", REQUEST, ORIGIN, JobStatus.QUEUED, NOW)


def picture(n: int, *, flagged: bool = False) -> PictureFile:
    return PictureFile(n, f"/x/{n}.png", f"easel-abc123-{n + 1}.png", 42 + n, 64, 64, 9000, 0.1, flagged)


async def test_waiting_card_says_place_estimate_and_who_goes_first() -> None:
    text = texts(cards.waiting(JOB, Place(2, 9.2, 77)).to_components())[0]
    assert text == "**a sunset over a beach**\n**2nd in line** · about 9 s · <@77> goes first"


async def test_waiting_card_without_measured_times_promises_none() -> None:
    assert "about" not in texts(cards.waiting(JOB, Place(1, None)).to_components())[0]


async def test_fetching_card_says_how_much_of_the_download_is_here() -> None:
    progress = FetchProgress("sdxl", 3_100_000_000, 6_900_000_000)
    assert "fetching 3.1 of 6.9 GB" in texts(cards.fetching(JOB, "SDXL", progress, loading=False).to_components())[0]


async def test_drawing_card_has_bar_steps_and_preview() -> None:
    payload = cards.drawing(JOB, Drawing("abc123", 12, 20, 3.0), preview=True).to_components()
    assert "▰▰▰▰▰▰▱▱▱▱  step 12 of 20 · about 3 s left" in texts(payload)[0]
    assert "attachment://preview.jpg" in str(payload)
    assert labels(payload) == ["Cancel"]


async def test_result_card_has_each_picture_with_alternative_text_and_the_buttons() -> None:
    job = replace(JOB, files=(picture(0), picture(1)), draw_s=2.1)
    payload = cards.result(job, "Pocket", job.files).to_components()
    gallery = next(part for part in payload[0]["components"] if part["type"] == 12)
    assert [item["media"]["url"] for item in gallery["items"]] == [
        "attachment://easel-abc123-1.png",
        "attachment://easel-abc123-2.png",
    ]
    assert all("a sunset over a beach" in item["description"] for item in gallery["items"])
    assert labels(payload) == ["Upscale 1", "Upscale 2", "Vary 1", "Vary 2", "Again", "Edit", "Info", "Delete"]
    assert "-# for <@3> · Pocket · 64×64 · 20 steps · guidance 4 · DDIM · seed 42 · 2.1 s" in texts(payload)[1]


async def test_result_card_and_info_say_what_was_not_read_and_format_nothing_of_it() -> None:
    note = "SD 3 did not read the end of the prompt, “a **bold** @everyone https://x.y”; shorten it."
    job = replace(JOB, files=(picture(0),), draw_s=2.1, note=note)
    shown = [
        texts(cards.result(job, "Pocket", job.files).to_components())[1],
        texts(job_info(job, CATALOGUE).to_components())[-1],
    ]
    for text in shown:
        line = next(line for line in text.split("\n") if "did not read" in line)
        assert line.startswith("-# SD 3 did not read the end of the prompt, “a \\*\\*bold\\*\\*")
        assert "@everyone" not in line
        assert "https://" not in line
    assert "did not read" not in str(cards.result(replace(job, note=""), "Pocket", job.files).to_components())


async def test_result_card_of_more_than_four_pictures_has_a_select_to_upscale_and_one_to_vary() -> None:
    job = replace(JOB, request=replace(REQUEST, count=6), files=tuple(picture(n) for n in range(6)))
    rows = [
        part for part in cards.result(job, "Pocket", job.files).to_components()[0]["components"] if part["type"] == 1
    ]
    for row, label, custom_id in zip(rows, ("Upscale", "Vary"), ("upscales", "varies"), strict=False):
        (select,) = row["components"]
        assert select["custom_id"] == f"easel:v1:{custom_id}:abc123"
        assert [option["label"] for option in select["options"]] == [f"{label} {n}" for n in range(1, 7)]


async def test_result_card_of_the_longest_list_reaches_every_picture_within_discords_limits() -> None:
    variants = tuple(Variant(f"number {n}") for n in range(50))
    job = replace(JOB, request=replace(REQUEST, count=50, variants=variants), files=tuple(map(picture, range(50))))
    payload = cards.result(job, "Pocket", job.files[:10], archive="all.zip", redrawn=True).to_components()
    assert components(payload) <= 40
    selects = [
        row["components"][0] for row in payload[0]["components"] if row["type"] == 1 and len(row["components"]) == 1
    ]
    assert [select["custom_id"].split(":", 2)[2] for select in selects[:4]] == [
        "upscales:abc123", "upscales:abc123:2", "varies:abc123", "varies:abc123:2",
    ]  # fmt: skip
    offered = [option["label"] for select in selects[:4] for option in select["options"]]
    assert offered == [f"{label} {n + 1}" for label in ("Upscale", "Vary") for n in range(50)]


@pytest.mark.parametrize(
    ("count", "changes", "rows"),
    [
        (1, {}, [["Upscale", "Vary", "Vary region"]]),
        (2, {}, [["Upscale 1", "Upscale 2", "Vary 1", "Vary 2", "Vary region"]]),
        (4, {}, [[f"Upscale {n}" for n in range(1, 5)], [*(f"Vary {n}" for n in range(1, 5)), "Vary region"]]),
        (2, {"base_seed": 5, "variation": 0.2}, [["Upscale 1", "Upscale 2", "Vary 1", "Vary 2"], ["Vary strong", "Vary region"]]),
        (1, {"base_seed": 5, "variation": 0.6}, [["Upscale", "Vary", "Vary region"]]),
        (1, {"image": "a" * 64, "strength": 0.5}, [["Upscale", "Vary", "Vary strong", "Vary region"]]),
        (1, {"image": "a" * 64, "strength": 0.7}, [["Upscale", "Vary", "Vary region"]]),
        (1, {"image": "a" * 64, "mask": "b" * 64, "strength": 0.5}, [["Upscale", "Vary", "Vary region"]]),
    ],
    ids=["one", "two", "four", "subtle", "strong", "near a picture", "far from it", "a part"],
)  # fmt: skip
async def test_result_card_keeps_buttons_of_a_kind_in_a_row_and_offers_stronger_ones_near_the_beginning(
    count: int, changes: dict, rows: list[list[str]]
) -> None:
    job = replace(JOB, request=replace(REQUEST, count=count, **changes), files=tuple(map(picture, range(count))))
    payload = cards.result(job, "Pocket", job.files, redrawn=True).to_components()
    found = [labels([row]) for row in payload[0]["components"] if row["type"] == 1]
    assert found == [*rows, ["Again", "Edit", "Info", "Delete"]]


@pytest.mark.parametrize("files", [1, 2, 50], ids=str)
async def test_part_view_stays_within_discords_limits_and_ids_carry_what_was_chosen(files: int) -> None:
    job = replace(JOB, id="z" * 32, files=tuple(map(picture, range(files))))
    payload = part_view(job, job.files, job.files[-1], Squares(range(16))).to_components()
    assert components(payload) <= 40
    items = [item for row in payload[0]["components"] if row["type"] == 1 for item in row["components"]]
    assert all(len(item["custom_id"]) <= 100 for item in items)
    assert len({item["custom_id"] for item in items}) == len(items)
    assert items[-1]["custom_id"] == f"easel:v1:redraw:{'z' * 32}:{files}:ffff"
    assert all(len(item.get("options", [])) <= 25 for item in items)


@pytest.mark.parametrize(
    ("changes", "answer"),
    [
        ({}, True), ({"model": "qwen-image"}, False), ({"model": "gone"}, False), ({"upscale": 2}, False),
        ({"axes": (Axis("steps", ("1", "2")),)}, False),
    ],
    ids=["pocket", "words alone", "gone", "upscaled", "sheet"],
)  # fmt: skip
def test_may_redraw_where_the_model_can_and_the_picture_is_one(changes: dict, answer: bool) -> None:
    assert may_redraw(replace(JOB, request=replace(REQUEST, **changes)), CATALOGUE) is answer


def test_redrawn_keeps_what_drew_the_picture_but_its_beginning() -> None:
    request = replace(
        REQUEST, image="a" * 64, strength=0.4, control="c" * 64, control_type="canny", base_seed=7, variation=0.2,
        tiling=True, loras=(("chalk", 0.5),), style="neon",
    )  # fmt: skip
    options = redrawn(request, picture(0))
    assert (options.steps, options.guidance, options.sampler) == (20, 4.0, "DDIM")
    assert (options.lora, options.style, options.negative_prompt) == ("chalk:0.5", "neon", "people")
    assert (options.seed, options.strength, options.control, options.base_seed) == (None, None, None, None)
    assert not options.tiling
    assert options.image == options.mask == InputRef("0" * 64, 64, 64)
    draft = redrawn(replace(request, quality="draft"), picture(0))
    assert (draft.quality, draft.steps, draft.guidance, draft.sampler) == (None, None, None, None)


async def test_result_card_offers_to_upscale_what_is_visible_and_not_too_large() -> None:
    files = (picture(0), picture(1, flagged=True), replace(picture(2), width=2056))
    payload = cards.result(
        replace(JOB, request=replace(REQUEST, count=3), files=files), "Pocket", files[:1], hidden=1
    ).to_components()
    assert labels(payload) == ["Upscale 1", "Vary 1", "Vary 3", "Again", "Edit", "Info", "Delete"]
    assert "easel:v1:upscale:abc123:1" in str(payload)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ["4×", "Detail", "Info", "Delete"]),
        ({"upscale": 4}, ["Detail", "Info", "Delete"]),
        ({"upscale_mode": "detail"}, ["4×", "Again", "Info", "Delete"]),
        ({"width": 4000, "height": 4000}, ["Detail", "Info", "Delete"]),
    ],
    ids=["plain", "4 times", "detail", "large"],
)
async def test_upscaled_card_offers_what_is_stronger(changes: dict, expected: list[str]) -> None:
    request = replace(REQUEST, image="a" * 64, count=1, **{"upscale": 2, "upscale_mode": "plain", **changes})
    job = replace(JOB, request=request, files=(picture(0),))
    assert labels(cards.result(job, "Pocket", job.files).to_components()) == expected
    assert labels(cards.failed(job).to_components()) == ["Again"]


async def test_result_card_spoiler_hides_every_picture() -> None:
    job = replace(JOB, request=replace(REQUEST, spoiler=True), files=(picture(0), picture(1)))
    gallery = cards.result(job, "Pocket", job.files).to_components()[0]["components"][1]
    assert all(item["spoiler"] for item in gallery["items"])


async def test_result_card_says_how_many_were_withheld() -> None:
    job = replace(JOB, files=(picture(0), picture(1, flagged=True)))
    assert "1 picture was withheld" in "".join(texts(cards.result(job, "Pocket", job.files[:1]).to_components()))


@pytest.mark.parametrize(
    "prompt",
    [
        "x" * 1500,
        "@everyone <@&1> **bold** `code` ||spoiler|| https://evil.example",
        "‮right to left",
        "🏖️" * 700,
        "*" * 1500,
    ],
    ids=["longest", "markup", "bidi", "emoji", "stars"],
)
async def test_every_card_stays_within_discords_limits(prompt: str) -> None:
    job = replace(JOB, request=replace(REQUEST, prompt=prompt), files=(picture(0), picture(1)), error="No.")
    views = [
        cards.waiting(job, Place(1, None)), cards.drawing(job, Drawing("a", 1, 2, None), preview=True),
        cards.result(job, "Pocket", job.files), cards.failed(job), cards.cancelled(job), cards.withheld(job),
    ]  # fmt: skip
    for view in views:
        payload = view.to_components()
        assert sum(map(len, texts(payload))) <= 4000
        assert "@everyone" not in "".join(texts(payload))
        assert "||" not in "".join(texts(payload)).replace("\\|", "")
        for item in payload[0]["components"]:
            for media in item.get("items", []):
                assert len(media["description"]) <= 256


async def test_every_custom_id_is_versioned_and_short() -> None:
    job = replace(JOB, id="z" * 32, files=(picture(0),))
    row = cards.result(job, "Pocket", job.files).to_components()[0]["components"][-1]
    for button in row["components"]:
        assert button["custom_id"].startswith("easel:v1:")
        assert len(button["custom_id"]) <= 100


async def test_edit_form_has_five_rows_filled_in() -> None:
    form = edit_form(JOB, CATALOGUE).to_dict()
    assert form["custom_id"] == "easel:v1:form:abc123"
    assert len(form["components"]) == 5
    assert form["components"][0]["component"]["value"] == "a sunset over a beach"
    assert "steps: 20" in form["components"][4]["component"]["value"]


def submitted(**values: str) -> dict:
    """A submitted form as Discord sends it, labels around fields."""
    rows = []
    for name, value in values.items():
        key = {"values": [value]} if name in ("model", "aspect") else {"value": value}
        rows.append({"type": 18, "component": {"custom_id": name, **key}})
    return {"components": rows}


def test_read_form_untouched_asks_for_the_same_again() -> None:
    data = submitted(
        prompt="a sunset over a beach", negative_prompt="people", model="pocket", aspect="keep", more=more_lines(JOB)
    )
    options = read_form(data, JOB)
    assert (options.width, options.height, options.seed, options.count) == (64, 64, 42, 2)
    assert options.sampler == "DDIM"


def test_read_form_other_model_leaves_untouched_boxes_to_its_defaults() -> None:
    options = read_form(submitted(prompt="x", model="sdxl", aspect="keep", more=more_lines(JOB)), JOB)
    assert (options.steps, options.guidance, options.sampler, options.width) == (None, None, None, None)
    assert options.seed == 42


def test_read_form_draft_instead_leaves_untouched_boxes_to_the_drafts_defaults() -> None:
    lines = more_lines(JOB).replace("quality: standard", "quality: draft").replace("guidance: 4", "guidance: 2")
    options = read_form(submitted(prompt="x", model="pocket", aspect="keep", more=lines), JOB)
    assert (options.quality, options.steps, options.sampler, options.guidance) == ("draft", None, None, 2.0)
    assert options.width == 64


def test_a_draft_is_one_again_and_says_so() -> None:
    request = replace(JOB.request, quality="draft")
    assert options_of(request).quality == "draft"
    assert words.request_facts(request, "Pocket")[0] == "Pocket, draft"
    assert words.request_facts(JOB.request, "Pocket")[0] == "Pocket"
    assert "quality: draft" in more_lines(replace(JOB, request=request))


@pytest.mark.parametrize(
    ("text", "words_in_error"),
    [
        ("steps 20", "key: value"),
        ("colour: red", "key: value"),
        ("steps: many", "a whole number"),
        ("private: maybe", "yes or no"),
    ],
)
def test_read_more_wrong_line_is_quoted(text: str, words_in_error: str) -> None:
    with pytest.raises(RequestError, match=words_in_error):
        read_more(text)


def test_read_more_leaves_out_keys_without_a_value() -> None:
    assert read_more("seed:\nsteps: 8\n\nspoiler: yes") == {"steps": 8, "spoiler": True}


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1 s"), (9.4, "9 s"), (89, "89 s"), (150, "2 min"), (5460, "1 h 31 min")]
)
def test_duration_reads_like_speech(seconds: float, text: str) -> None:
    assert words.duration(seconds) == text


@pytest.mark.parametrize(
    ("number", "text"), [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (23, "23rd")]
)
def test_ordinal_knows_the_exceptions(number: int, text: str) -> None:
    assert words.ordinal(number) == text


async def test_same_commands_ignores_what_discord_adds_and_sees_what_differs() -> None:
    ours = await registered_commands()
    theirs = [
        {**command, "id": "1", "application_id": "2", "version": "3", "nsfw": False} for command in reversed(ours)
    ]
    assert same_commands(ours, theirs)
    changed = [{**command} for command in theirs]
    changed[0]["description"] = "Something else"
    assert not same_commands(ours, changed)
    assert not same_commands(ours, theirs[1:])


async def test_imagine_registers_the_options_of_the_design_and_no_others() -> None:
    imagine = next(c for c in await registered_commands() if c["name"] == "imagine")
    assert [option["name"] for option in imagine["options"]] == [
        "prompt", "negative_prompt", "model", "aspect", "width", "height", "count", "steps", "guidance", "seed",
        "sampler", "style", "lora", "image", "strength", "mask", "control", "control_type", "control_scale", "reference", "tiling", "quality", "private", "spoiler",
    ]  # fmt: skip
    assert [option["name"] for option in imagine["options"] if option["required"]] == ["prompt"]


async def test_visible_job_while_the_database_hangs_gives_up_before_discord_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Hanging:
        async def get(self, job_id: str) -> Job:
            await asyncio.Event().wait()
            raise AssertionError("unreachable")

    monkeypatch.setattr(buttons, "READ_TIMEOUT_S", 0.01)
    house = SimpleNamespace(service=Hanging())
    with pytest.raises(StorageError, match="press again"):
        await buttons.visible_job(SimpleNamespace(user=SimpleNamespace(id=3)), house, "abc123")  # type: ignore[arg-type]


def test_press_is_answered_within_discords_three_seconds() -> None:
    assert buttons.READ_TIMEOUT_S < 2.5


async def test_visible_job_private_request_is_its_members_alone() -> None:
    class Service:
        async def get(self, job_id: str) -> Job:
            return replace(JOB, request=replace(REQUEST, private=True))

    house = SimpleNamespace(service=Service())
    own = SimpleNamespace(user=SimpleNamespace(id=ORIGIN.user_id))
    assert (await buttons.visible_job(own, house, "abc123")).id == "abc123"  # type: ignore[arg-type]
    with pytest.raises(NotPermitted):
        await buttons.visible_job(SimpleNamespace(user=SimpleNamespace(id=99)), house, "abc123")  # type: ignore[arg-type]
