"""`python -m bot verify FILE`: words and exit codes for ours, strangers', broken and bare files."""

from __future__ import annotations

import os
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from bot import provenance
from bot.cli import main
from bot.config import read_settings
from bot.files.credentials import JPEG, TYPES, Credentials
from bot.files.marker import Marker, load_marker
from tests.unit.files.pictures import NOW, REQUEST, marker, raw

MARKS = provenance.marks(REQUEST, 0, job_id="ab12", model_name="Pocket", device="cpu", dtype="fp32", version="0.1.0")


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [n for n in os.environ if n.startswith(("EASEL_", "DISCORD_", "HF_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def ours(tmp_path: Path) -> Marker:
    """This folder's own, which the first use makes."""
    settings = read_settings({"EASEL_DATA_DIR": str(tmp_path / "data"), "EASEL_WATERMARK": "on"})
    return load_marker(settings, version="0.1.0", now=NOW)


def bare(kind: str = "PNG", **options: object) -> bytes:
    out = BytesIO()
    Image.new("RGB", (160, 128), "teal").save(out, kind, **options)
    return out.getvalue()


def verified(data: bytes, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    Path("file").write_bytes(data)
    code = main(["verify", "file"])
    return code, capsys.readouterr().out


def test_verify_our_own_file_says_so_by_every_mark(ours: Marker, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = verified(ours.png(raw(0, 160, 128), MARKS, title="easel-ab12-1.png"), capsys)
    assert code == 0
    name = ours.credentials.identity.name
    assert f"intact, signed by {name}, says a trained model made it, made with Easel, as easel-ab12-1.png" in said
    assert "IPTC source type: made by a trained model" in said
    assert 'Parameters: "a sunset, over the sea", Model pocket' in said
    assert "Seed 40" in said
    assert "Watermark: of this Easel" in said
    assert said.endswith("This Easel made this file, and nothing in it has changed since.\n")


def test_verify_another_easels_file_names_its_signer_and_proves_nothing(
    ours: Marker, capsys: pytest.CaptureFixture[str]
) -> None:
    other = marker(watermark=True)
    code, said = verified(other.png(raw(0, 160, 128), MARKS, title="x.png"), capsys)
    assert code == 2
    assert f"signed by {other.credentials.identity.name}, which this Easel does not know" in said
    assert f"Watermark: of another Easel, number {other.credentials.identity.mark:08x}" in said
    assert "who that is, this Easel cannot say" in said


def test_verify_before_any_start_knows_nobody_and_makes_no_certificate(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = verified(marker().png(raw(0, 160, 128), MARKS, title="x.png"), capsys)
    assert code == 2
    assert "which this Easel does not know" in said
    assert [path.name for path in Path.cwd().iterdir()] == ["file"]


def test_verify_changed_file_is_broken_whatever_else_it_says(ours: Marker, capsys: pytest.CaptureFixture[str]) -> None:
    data = bytearray(ours.credentials.sign(bare("JPEG"), JPEG, title="x.jpg"))
    data[-20] ^= 1
    code, said = verified(bytes(data), capsys)
    assert code == 3
    assert "Content Credentials (C2PA): broken (" in said
    assert "Its credentials do not hold" in said


def unsigned_parameters() -> bytes:
    info = PngInfo()
    info.add_text("parameters", MARKS.chunks["parameters"])
    return bare(pnginfo=info)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: bare("JPEG", xmp=MARKS.xmp.encode()), "IPTC source type: made by a trained model"),
        (unsigned_parameters, 'Parameters: "a sunset, over the sea"'),
    ],
    ids=["iptc", "parameters"],
)
def test_verify_unsigned_marks_are_named_and_prove_nothing(
    make: object, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = verified(make(), capsys)  # type: ignore[operator]
    assert code == 2
    assert words in said
    assert "C2PA): none" in said
    assert "unsigned: anybody could have written that" in said


@pytest.mark.parametrize("kind", TYPES)
def test_verify_bare_file_says_that_nothing_is_said(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = verified(bare(kind), capsys)
    assert code == 4
    assert said.splitlines()[:4] == [
        "Content Credentials (C2PA): none",
        "IPTC source type: none",
        "Parameters: none",
        "Watermark: none that can be read",
    ]
    assert "That proves nothing" in said


@pytest.mark.parametrize(
    ("name", "words"),
    [("nowhere.png", "nowhere.png cannot be read: No such file"), ("words.txt", "not a PNG, JPEG or WebP"), (".", "cannot be read")],
    ids=["missing", "no picture", "folder"],
)  # fmt: skip
def test_verify_what_is_no_picture_ends_with_1_and_one_sentence(
    name: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("words.txt").write_text("words")
    assert main(["verify", name]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert err.count("\n") == 1


def test_verify_strangers_words_cannot_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    title = "\x1b[2J\x1b]0;owned\x07"
    credentials: Credentials = marker().credentials
    code, said = verified(credentials.sign(bare("JPEG"), JPEG, title=title), capsys)
    assert code == 2
    assert "owned" in said
    assert "\x1b" not in said
    assert "\x07" not in said
