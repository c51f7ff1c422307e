"""Pictures on disk: written whole, judged, marked, removed."""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import json
import math
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image

from bot.errors import AttachmentRefused, DiskFull, JobNotFound, ModerationRefused, RequestError, StorageError
from bot.files import archive as archive_module
from bot.files.archive import Archive
from bot.files.sheet import lay_out
from bot.generation import Axis, PictureFile, RawPicture, Variant
from bot.safety.classifier import Classifier, OpenNsfw
from tests.unit.files.pictures import NOT_FINITE, REQUEST, FixedScore, marker, raw, result


class Shelf:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.open: list[Archive] = []

    def __call__(
        self, classifier: Classifier | None = None, threshold: float | None = None, free: int = 10**12
    ) -> Archive:
        made = Archive(
            self.root, classifier=classifier or FixedScore(), marker=marker(), threshold=threshold, version="0.1.0",
            model_names={"pocket": "Pocket"}, free_bytes=lambda _: free,
        )  # fmt: skip
        self.open.append(made)
        return made


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    made = Shelf(tmp_path / "pictures")
    yield made
    for archive in made.open:
        archive.close()


async def test_write_puts_every_picture_in_its_own_marked_file(shelf: Shelf) -> None:
    archive = shelf()
    files = await archive.write("ab12", REQUEST, result(3))
    assert [file.n for file in files] == [0, 1, 2]
    for n, file in enumerate(files):
        assert file.file_name == f"easel-ab12-{n + 1}.png"
        assert Path(file.path) == shelf.root / "ab" / "ab12" / file.file_name
        assert (file.seed, file.width, file.height, file.flagged, file.nsfw_score) == (40 + n, 64, 48, False, 0.01)
        data = await archive.read(file)
        assert len(data) == file.size_bytes
        with Image.open(BytesIO(data)) as image:
            assert image.tobytes() == raw(n).pixels
            assert image.text["parameters"].endswith(
                f"Seed: {40 + n}, Size: 64x48, Model: Pocket, Version: Easel 0.1.0"
            )
            assert json.loads(image.text["easel"])["seed"] == 40 + n
            assert "trainedAlgorithmicMedia" in image.text["XML:com.adobe.xmp"]
    assert not list(shelf.root.rglob("*.part"))


async def test_write_again_after_a_crash_gives_the_same_pictures_and_texts(shelf: Shelf) -> None:
    """A signature has random bits, so the bytes of the file differ."""

    async def contents(files: tuple[PictureFile, ...]) -> list[tuple[bytes, dict[str, str]]]:
        images = [Image.open(BytesIO(await archive.read(file))) for file in files]
        return [(image.tobytes(), dict(image.text)) for image in images]

    archive = shelf()
    first = await shelf().write("ab12", REQUEST, result())
    before = await contents(first)
    again = await archive.write("ab12", REQUEST, result())
    size = [dataclasses.replace(file, size_bytes=0) for file in again]
    assert size == [dataclasses.replace(file, size_bytes=0) for file in first]
    assert await contents(again) == before


@pytest.mark.parametrize("score", [RuntimeError("no session"), *NOT_FINITE], ids=["raises", "nan", "inf"])
async def test_write_with_a_failing_classifier_flags_every_picture(shelf: Shelf, score: float | Exception) -> None:
    files = await shelf(FixedScore(score)).write("ab12", REQUEST, result())
    assert [(file.flagged, file.nsfw_score) for file in files] == [(True, None)] * 2


@pytest.mark.parametrize(
    ("score", "flagged"), [(0.5, True), (0.4999, False), (1.0, True)], ids=["at", "below", "above"]
)
async def test_write_flags_from_the_published_threshold_on(shelf: Shelf, score: float, flagged: bool) -> None:
    files = await shelf(FixedScore(score)).write("ab12", REQUEST, result(1))
    assert files[0].flagged is flagged


async def test_write_with_the_threshold_below_a_real_score_flags_that_picture(shelf: Shelf) -> None:
    classifier = OpenNsfw()
    real = classifier.score(raw())
    assert 0.0 < real < classifier.threshold
    (passed,) = await shelf(classifier).write("aa", REQUEST, result(1))
    (flagged,) = await shelf(classifier, threshold=real * 0.99).write("bb", REQUEST, result(1))
    assert (passed.flagged, flagged.flagged) == (False, True)
    assert math.isclose(flagged.nsfw_score or 0.0, real)


async def test_write_on_a_full_disk_leaves_nothing_behind(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")

    archive = shelf()
    monkeypatch.setattr(archive_module.os, "fsync", full)
    with pytest.raises(DiskFull, match="disk is full"):
        await archive.write("ab12", REQUEST, result())
    assert not list(shelf.root.rglob("*.*"))


async def test_write_that_the_system_forbids_is_a_storage_error(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(handle: int) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    archive = shelf()
    monkeypatch.setattr(archive_module.os, "fsync", forbidden)
    with pytest.raises(StorageError, match="could not be written: Permission denied"):
        await archive.write("ab12", REQUEST, result())


async def test_write_of_pixels_that_do_not_fit_is_a_storage_error(shelf: Shelf) -> None:
    short = dataclasses.replace(raw(), pixels=b"\0" * 30)
    with pytest.raises(StorageError, match="could not be turned into files"):
        await shelf().write("ab12", REQUEST, dataclasses.replace(result(), pictures=(raw(1), short)))
    assert not list(shelf.root.rglob("*.png"))


@pytest.mark.parametrize("job_id", ["", "../x", "a/b", "a\0", "x" * 65], ids=["empty", "up", "slash", "nul", "long"])
async def test_write_with_a_name_that_is_no_id_is_refused(shelf: Shelf, job_id: str) -> None:
    with pytest.raises(StorageError):
        await shelf().write(job_id, REQUEST, result())


async def test_delete_removes_files_and_folder_and_may_be_repeated(shelf: Shelf) -> None:
    archive = shelf()
    (file, _) = await archive.write("ab12", REQUEST, result())
    await archive.delete("ab12")
    await archive.delete("ab12")
    assert not Path(file.path).parent.exists()
    with pytest.raises(JobNotFound, match="gone"):
        await archive.read(file)


async def test_sweep_removes_folders_nobody_knows(shelf: Shelf) -> None:
    before = shelf()
    for job_id in ("ab12", "ab34", "cd56"):
        await before.write(job_id, REQUEST, result(1))
    archive = shelf()
    assert archive.orphans({"ab34"}) == ("ab12", "cd56")
    assert await archive.sweep({"ab34"}) == 2
    assert [folder.name for folder in shelf.root.glob("*/*")] == ["ab34"]


async def test_sweep_spares_what_was_written_since_the_start(shelf: Shelf) -> None:
    """The list of known jobs may be a moment older than the newest folder."""
    archive = shelf()
    await archive.write("ab12", REQUEST, result(1))
    assert await archive.sweep(set()) == 0
    await archive.delete("ab12")
    assert not list(shelf.root.glob("*/ab12"))


def test_check_space_below_200_mb_refuses(shelf: Shelf) -> None:
    with pytest.raises(DiskFull, match="199 MB left"):
        shelf(free=199_999_999).check_space()
    assert shelf(free=200_000_000).check_space() is None


async def test_preview_is_a_jpeg(shelf: Shelf) -> None:
    data = await shelf().preview(raw(), adult_allowed=False)
    assert data is not None
    assert data.startswith(b"\xff\xd8\xff")


@pytest.mark.parametrize("score", [0.9, RuntimeError("no session")], ids=["adult", "unjudged"])
async def test_preview_that_may_be_adult_is_made_only_where_that_is_allowed(
    shelf: Shelf, score: float | Exception
) -> None:
    archive = shelf(FixedScore(score))
    assert await archive.preview(raw(), adult_allowed=False) is None
    assert await archive.preview(raw(), adult_allowed=True) is not None


def sent(size: tuple[int, int] = (64, 48)) -> bytes:
    out = BytesIO()
    Image.new("RGB", size, "teal").save(out, "PNG")
    return out.getvalue()


async def test_take_input_gives_the_picture_that_was_judged(shelf: Shelf) -> None:
    checked = await shelf().take_input(sent((4000, 100)), adult_allowed=False)
    assert (checked.picture.width, checked.picture.height) == (2048, 51)
    assert (checked.verdict.adult, checked.verdict.score) == (False, 0.01)


async def test_take_input_whole_keeps_its_size_and_is_refused_where_it_is_too_large(shelf: Shelf) -> None:
    kept = (await shelf().take_input(sent((2048, 60)), adult_allowed=False, whole=True)).ref
    assert (kept.width, kept.height) == (2048, 60)
    with pytest.raises(RequestError, match="The picture is 2049×60"):
        await shelf().take_input(sent((2049, 60)), adult_allowed=False, whole=True)


async def test_adopt_keeps_a_finished_picture_as_it_is_and_says_where_it_is_gone(shelf: Shelf) -> None:
    archive = shelf()
    (file,) = await archive.write("ab12", REQUEST, result(1))
    ref = await archive.adopt(file)
    assert (ref.width, ref.height) == (file.width, file.height)
    upscale = dataclasses.replace(
        REQUEST, image=ref.digest, upscale=2, upscale_mode="plain", width=2 * ref.width, height=2 * ref.height
    )
    given = (await archive.input_pictures(upscale)).image
    assert given is not None
    with Image.open(file.path) as image:
        assert given.pixels == image.convert("RGB").tobytes()
    await archive.delete("ab12")
    with pytest.raises(JobNotFound):
        await archive.adopt(file)


@pytest.mark.parametrize(
    "score", [0.5, RuntimeError("no session"), math.nan], ids=["adult", "classifier raises", "no number"]
)
async def test_take_input_that_may_be_adult_is_refused_unless_that_is_allowed(
    shelf: Shelf, score: float | Exception
) -> None:
    archive = shelf(FixedScore(score))
    with pytest.raises(ModerationRefused, match="fit for this channel"):
        await archive.take_input(sent(), adult_allowed=False)
    assert (await archive.take_input(sent(), adult_allowed=True)).verdict.adult


async def test_take_input_that_is_no_picture_is_refused_unjudged(shelf: Shelf) -> None:
    with pytest.raises(AttachmentRefused, match="not a PNG"):
        await shelf(FixedScore(AssertionError("it was judged"))).take_input(b"words", adult_allowed=True)


async def test_read_smaller_gives_a_jpeg_and_leaves_the_folder_as_it_was(shelf: Shelf) -> None:
    archive = shelf()
    (file,) = await archive.write("ab12", REQUEST, result(1))
    name, data = await archive.read_smaller(file, 10**6)
    assert name == "easel-ab12-1.jpg"
    assert data[:3] == b"\xff\xd8\xff"
    assert [one.name for one in Path(file.path).parent.iterdir()] == [file.file_name]
    await archive.delete("ab12")
    with pytest.raises(JobNotFound):
        await archive.read_smaller(file, 10**6)


async def test_read_info_of_a_written_file_tells_everything(shelf: Shelf) -> None:
    archive = shelf()
    (file,) = await archive.write("ab12", REQUEST, result(1))
    info = await archive.read_info(await archive.read(file))
    assert info is not None
    assert (info.source, info.prompt, info.negative_prompt) == ("easel", REQUEST.prompt, REQUEST.negative_prompt)
    assert (info.seed, info.steps, info.guidance, info.sampler) == (40, 20, 4.0, "Default")


async def test_write_leaves_the_event_loop_free(shelf: Shelf) -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.005)
            ticks += 1

    class Slow(FixedScore):
        def score(self, picture: object) -> float:
            import time

            time.sleep(0.1)
            return 0.0

    ticker = asyncio.create_task(tick())
    files: tuple[PictureFile, ...] = await shelf(Slow()).write("ab12", REQUEST, result(1))
    ticker.cancel()
    assert len(files) == 1
    assert ticks >= 5


@pytest.mark.parametrize(("score", "allowed", "shown"), [(0.99, False, False), (0.99, True, True), (0.01, False, True)])
async def test_thumbnail_of_an_adult_picture_is_made_only_where_it_may_be_shown(
    shelf: Shelf, score: float, allowed: bool, shown: bool
) -> None:
    made = await shelf(FixedScore(score)).thumbnail(raw(0), adult_allowed=allowed)
    assert (made is not None) is shown


async def test_contact_is_a_marked_jpeg_of_what_may_be_shown(shelf: Shelf) -> None:
    archive = shelf()
    assert await archive.contact({0: None}, REQUEST) is None
    data = await archive.contact({0: None, 1: raw(1)}, REQUEST)
    assert data is not None
    with Image.open(BytesIO(data)) as image:
        assert image.format == "JPEG"
        assert image.width / image.height == pytest.approx(128 / 48, rel=0.02)
        assert b"trainedAlgorithmicMedia" in image.info["xmp"]
        assert "exif" not in image.info


async def test_bundle_of_files_that_are_gone_is_refused(shelf: Shelf) -> None:
    archive = shelf()
    files = await archive.write("ab12", REQUEST, result(2))
    assert len(await archive.bundle(files)) > sum(file.size_bytes for file in files)
    await archive.delete("ab12")
    with pytest.raises(JobNotFound):
        await archive.bundle(files)


@pytest.mark.parametrize("failing", [False, True], ids=["one is adult", "the classifier fails"])
async def test_write_sheet_is_one_marked_file_judged_by_each_of_its_pictures(shelf: Shelf, failing: bool) -> None:
    class Second:
        def score(self, picture: RawPicture) -> float:
            if failing and picture.n == 1:
                raise RuntimeError("no")
            return 0.9 if picture.n == 1 else 0.1

    variants, axes = (Variant(seed=1), Variant(seed=2), Variant(seed=3)), (Axis("seed", ("1", "2", "3")),)
    asked = dataclasses.replace(REQUEST, count=3, variants=variants, axes=axes)
    (file,) = await shelf(Second(), threshold=0.5).write("ab12", asked, result(3))
    assert (file.n, file.file_name, file.flagged) == (0, "easel-ab12-1.png", True)
    assert file.nsfw_score == (None if failing else 0.9)
    with Image.open(file.path) as image:
        assert (file.width, file.height) == image.size == lay_out(asked).size
        assert json.loads(image.text["easel"])["request"]["axes"] == [{"name": "seed", "values": ["1", "2", "3"]}]
        assert "trainedAlgorithmicMedia" in image.text["XML:com.adobe.xmp"]
