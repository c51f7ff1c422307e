"""Fault 41: a bomb, a truncated, animated, polyglot or mislabelled picture ends in a sentence, with bounded time and memory."""

from __future__ import annotations

import contextlib
import json
import resource
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from bot.errors import AttachmentRefused
from bot.files import decode
from bot.files.decode import read_picture_info
from tests.unit.files.test_decode import TEXT, animated, chunk, png, png_header, saved, still

MIB = 1 << 20
SLACK_MIB = 64


def refused(data: bytes) -> str:
    with pytest.raises(AttachmentRefused) as caught:
        read_picture_info(data)
    sentence = str(caught.value)
    assert len(sentence) < 200
    return sentence


def peak_mib() -> int:
    """The most memory that this process, or any it has waited for, ever had."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return max(own.ru_maxrss, children.ru_maxrss) // 1024


def apng(frames: int) -> bytes:
    """One still picture whose head announces more frames than are there."""
    data = png()
    control = chunk(b"acTL", frames.to_bytes(4, "big") + bytes(4))
    return data[:33] + control + data[33:]


def zip_head(name: str) -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, b"echo hello")
    return buffer.getvalue()


def deep_text() -> bytes:
    return png(text="{" * 900_000)


BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "many pixels": (lambda: png_header(30_000, 30_000, chunk(b"IDAT", zlib.compress(bytes(1000)))), "megapixels"),
    "one long row": (lambda: png_header(2**31 - 1, 1, chunk(b"IDAT", zlib.compress(bytes(1000)))), "megapixels"),
    "no pixels": (lambda: png_header(0, 0, chunk(b"IDAT", zlib.compress(b""))), "damaged"),
    "pixels that do not end": (
        lambda: png_header(64, 64, chunk(b"IDAT", zlib.compress(bytes(60 * MIB), 1)) + chunk(b"IEND", b"")), "",
    ),
    "profile bomb": (
        lambda: png()[:33] + chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(60 * MIB), 1)) + png()[33:], "",
    ),
}  # fmt: skip


@pytest.mark.fault(41)
@pytest.mark.parametrize(("make", "sentence"), BOMBS.values(), ids=BOMBS.keys())
def test_fault_41_bomb_ends_in_a_sentence_with_bounded_memory(make: Callable[[], bytes], sentence: str) -> None:
    data = make()
    before = peak_mib()
    if sentence:
        assert sentence in refused(data)
    else:  # it may be read where the decoder goes no further than the picture's own pixels
        with contextlib.suppress(AttachmentRefused):
            read_picture_info(data)
    # The worker has room for 1 GiB; none of these needs more than the decoders' own few buffers.
    assert peak_mib() - before < 400


@pytest.mark.fault(41)
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("part", [0.1, 0.9])
def test_fault_41_truncated_picture_refused(kind: str, part: float) -> None:
    data = saved(still(), kind)
    assert "damaged" in refused(data[: int(len(data) * part)])


@pytest.mark.fault(41)
@pytest.mark.parametrize(
    "make",
    [lambda: animated("PNG"), lambda: animated("WEBP"), lambda: apng(2**31 - 1), lambda: apng(2)],
    ids=["png", "webp", "png of two billion frames", "png that only says so"],
)  # fmt: skip
def test_fault_41_picture_of_several_frames_refused(make: Callable[[], bytes]) -> None:
    assert "animated" in refused(make())


@pytest.mark.fault(41)
@pytest.mark.parametrize("kind", ["GIF", "ICO", "JPEG2000", "TGA"])
def test_fault_41_other_format_refused_whatever_it_is_called(kind: str) -> None:
    # Without the list of formats Pillow would try each of its forty decoders.
    assert "not a PNG, JPEG or WebP" in refused(saved(still(), kind))


@pytest.mark.fault(41)
def test_fault_41_mislabelled_picture_is_read_as_what_it_is() -> None:
    made = Image.Exif()
    made[0x8769] = {0x9286: b"ASCII\0\0\0" + TEXT.encode()}
    info = read_picture_info(saved(still(), "JPEG", exif=made.tobytes()))  # the name never comes this far
    assert info is not None
    assert info.seed == 3


@pytest.mark.fault(41)
@pytest.mark.parametrize(
    ("data", "sound"),
    [(png() + zip_head("run.sh"), True), (zip_head("run.sh") + png(), False), (b"GIF89a" + png(), False),
     (b"%PDF-1.7\n" + png(), False), (b"<script>" + png(), False), (png()[:8] + saved(still(), "JPEG"), False)],
    ids=["png then zip", "zip then png", "gif head", "pdf head", "script head", "png head on a jpeg"],
)  # fmt: skip
def test_fault_41_polyglot_is_the_picture_it_begins_as_or_refused(data: bytes, sound: bool) -> None:
    if sound:
        info = read_picture_info(data)
        assert info is not None
        assert (info.seed, info.width) == (3, 64)
    else:
        assert refused(data)


@pytest.mark.fault(41)
def test_fault_41_too_many_bytes_refused_unopened(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "_ask", lambda *_: pytest.fail("it was opened"))
    assert "larger than 25 MiB" in refused(bytes(25 * MIB + 1))
    assert "empty" in refused(b"")


@pytest.mark.fault(41)
def test_fault_41_texts_of_more_than_a_million_characters_are_left_out_together() -> None:
    info = PngInfo()
    for key in ("Description", "Comment", "prompt", "invokeai_metadata"):
        info.add_text(key, "x" * 600_000, zip=True)
    info.add_text("parameters", TEXT)
    answer, _ = decode._ask(saved(still(), "PNG", pnginfo=info))
    assert sum(map(len, answer["texts"].values())) <= 1_000_000
    assert "parameters" in answer["texts"]


@pytest.mark.fault(41)
def test_fault_41_deep_text_is_no_parameters() -> None:
    info = read_picture_info(deep_text())
    assert info is None or info.source == "parameters"


def worker(folder: Path, body: str) -> Path:
    """A stand-in for a decoder that was taken over: it does `body` within the real worker's limits."""
    path = folder / "worker.py"
    path.write_text(
        f"import sys\nsys.path.insert(0, {str(decode.WORKER.parent)!r})\nimport decode_worker\n"
        f"decode_worker.CPU_S = 1\ndecode_worker.bound()\n{body}\n"
    )
    return path


TAKEN_OVER = {
    "works for ever": ("while True: pass", "too long"),
    "takes 2 GiB": ("x = bytearray(2 << 30)", "damaged"),
    "writes a file": ("open('escaped', 'w').write('x')", "damaged"),
    "answers for ever": ("while True: sys.stdout.write('x' * 65536)", "damaged"),
    "complains for ever": ("sys.stderr.write('x' * 200_000_000)", "too long"),
    "answers nothing": ("", "damaged"),
    "answers words": ("print('words')", "damaged"),
    "answers deep": ("print('[' * 100_000)", "damaged"),
    "answers a list": ("print('[1]')", "damaged"),
    "answers no size": ('print(\'{"size": ["a", {}], "texts": {}}\')', "damaged"),
    "answers a vast size": ('print(\'{"size": [1000000, 1000000], "texts": {}}\')', "damaged"),
    "answers no texts": ('print(\'{"size": [1, 1], "texts": [1]}\')', "damaged"),
    "refuses oddly": ('print(\'{"refused": ["memory"]}\')', "damaged"),
    "dies": ("import os; os.abort()", "damaged"),
}


@pytest.mark.fault(41)
@pytest.mark.parametrize(("body", "sentence"), TAKEN_OVER.values(), ids=TAKEN_OVER.keys())
def test_fault_41_decoder_that_was_taken_over_is_bounded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, body: str, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(decode, "WORKER", worker(tmp_path, body))
    if body.startswith("sys.stderr"):
        monkeypatch.setattr(decode, "TIMEOUT_S", 3.0)
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert sentence in refused(png())
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - own) // 1024 < SLACK_MIB
    escaped = tmp_path / "escaped"
    assert not escaped.exists() or escaped.read_bytes() == b""


@pytest.mark.fault(41)
def test_fault_41_worker_without_memory_says_so() -> None:
    """The real worker, with so little room that a sound large picture does not fit."""
    script = (
        f"import sys; sys.path.insert(0, {str(decode.WORKER.parent)!r}); import decode_worker as w; "
        "from PIL import Image, PngImagePlugin, JpegImagePlugin, WebPImagePlugin; import resource; "
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize(); "
        "w.MEMORY_BYTES = used + (24 << 20); sys.exit(w.main())"
    )
    if not Path("/proc/self/statm").exists():
        pytest.skip("only Linux says how much a process has")
    large = png(image=Image.new("RGB", (5000, 5000)))
    done = subprocess.run([sys.executable, "-c", script], input=large, capture_output=True, timeout=60, check=False)
    assert json.loads(done.stdout) == {"refused": "memory"}
