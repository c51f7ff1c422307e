"""Archives of finished pictures, and the sheet of those that are finished so far."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from bot.files.bundle import bundle, bundle_bytes
from bot.files.contact import SHEET_PX, SIDE_PX, contact_sheet, thumbnail
from bot.generation import PictureFile, RawPicture


def written(folder: Path, *sizes: int) -> list[PictureFile]:
    files = []
    for n, size in enumerate(sizes):
        path = folder / f"easel-j-{n + 1}.png"
        path.write_bytes(bytes([n]) * size)
        files.append(PictureFile(n, str(path), path.name, n, 8, 8, size, 0.0, False))
    return files


def red(n: int, side: int = 8) -> RawPicture:
    return RawPicture(n, n, side, side, bytes((255, n, 0)) * side * side)


def test_bundle_holds_the_files_as_they_are_under_numbers(tmp_path: Path) -> None:
    files = written(tmp_path, 10, 2000, 0)
    data = bundle(files[::2])
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.namelist() == ["0001.png", "0003.png"]
        assert archive.read("0001.png") == bytes(10)
        assert archive.testzip() is None
    assert bundle(files[::2]) == data


def test_bundle_bytes_is_exact(tmp_path: Path) -> None:
    files = written(tmp_path, *range(1, 13))
    assert bundle_bytes(files) == len(bundle(files))


def test_thumbnail_is_small_and_what_is_small_stays() -> None:
    assert (thumbnail(red(0, 512)).width, thumbnail(red(0, 64)).width) == (SIDE_PX, 64)


def test_contact_sheet_puts_each_in_its_place() -> None:
    sheet = contact_sheet({0: red(0), 4: red(4), 1: None}, 5)
    assert (sheet.width, sheet.height) == (24, 16)

    def at(x: int, y: int) -> bytes:
        return sheet.pixels[(y * 24 + x) * 3 : (y * 24 + x) * 3 + 3]

    assert at(0, 0) == bytes((255, 0, 0))
    assert at(8, 8) == bytes((255, 4, 0))
    assert at(8, 0) == at(16, 0) != bytes((255, 0, 0))


def test_contact_sheet_is_bounded() -> None:
    sheet = contact_sheet({n: red(n, SIDE_PX) for n in range(100)}, 100)
    assert max(sheet.width, sheet.height) == SHEET_PX
