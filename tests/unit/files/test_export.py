from __future__ import annotations

import json
import zipfile
from io import BytesIO
from pathlib import Path

import pytest

from bot.errors import RequestError
from bot.files import export
from bot.files.export import pack

RECORDS = json.dumps({"about": "you", "requests": ["x" * 50] * 40}).encode()


def pictures(folder: Path, *sizes: int) -> list[Path]:
    paths = [folder / f"{n:064x}.png" for n in range(len(sizes))]
    for n, (path, size) in enumerate(zip(paths, sizes, strict=True)):
        path.write_bytes(bytes([n]) * size)
    return paths


def test_pack_records_alone_stay_json() -> None:
    made = pack(RECORDS, [], 10**6)
    assert (made.name, made.data, made.pictures, made.left_out) == ("easel-my-data.json", RECORDS, 0, 0)


def test_pack_pictures_lie_beside_the_records_as_they_are(tmp_path: Path) -> None:
    paths = pictures(tmp_path, 300, 200)
    made = pack(RECORDS, paths, 10**6)
    assert (made.name, made.pictures, made.left_out) == ("easel-my-data.zip", 2, 0)
    with zipfile.ZipFile(BytesIO(made.data)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["easel-my-data.json", *(f"inputs/{path.name}" for path in paths)]
        assert archive.read("easel-my-data.json") == RECORDS
        assert archive.read(f"inputs/{paths[1].name}") == paths[1].read_bytes()
    assert pack(RECORDS, paths, 10**6) == made


def test_pack_fills_the_limit_and_says_what_had_no_room(tmp_path: Path) -> None:
    paths = pictures(tmp_path, 300, 9000, 200)
    whole = len(pack(RECORDS, paths, 10**6).data)
    assert pack(RECORDS, paths, whole).left_out == 0
    made = pack(RECORDS, paths, whole - 1)
    assert len(made.data) <= whole - 1
    assert (made.pictures, made.left_out) == (2, 1)
    made = pack(RECORDS, paths, 2000)
    assert len(made.data) <= 2000
    with zipfile.ZipFile(BytesIO(made.data)) as archive:
        assert archive.namelist()[1:] == [f"inputs/{paths[0].name}", f"inputs/{paths[2].name}"]


def test_pack_never_holds_more_than_a_message_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "MAX_EXPORT_BYTES", 5000)
    made = pack(RECORDS, pictures(tmp_path, 4000, 4000), 10**9)
    assert (made.pictures, made.left_out) == (1, 1)


def test_pack_large_records_are_packed_and_larger_ones_refused() -> None:
    made = pack(RECORDS, [], 1000)
    assert made.name == "easel-my-data.zip"
    assert len(made.data) <= 1000
    with pytest.raises(RequestError, match="more about you than fits"):
        pack(RECORDS, [], 100)


def test_pack_picture_that_went_meanwhile_is_left_out_without_a_word(tmp_path: Path) -> None:
    paths = pictures(tmp_path, 300, 200)
    paths[0].unlink()
    made = pack(RECORDS, paths, 10**6)
    assert (made.pictures, made.left_out) == (1, 0)
