"""Read the header of a `.safetensors` file with bounds, before any library makes room for what it says. No torch.

The format: eight bytes with the header's length N, little-endian; N bytes of JSON, one entry a tensor with its dtype,
shape and place; then the tensors' bytes, without gaps (https://huggingface.co/docs/safetensors, "Format").
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

MAX_HEADER_BYTES = 8 << 20
"""Single files of whole models have about 0.4 MB, LoRAs whose trainers write down their captions a few."""
MAX_ENTRIES = 100_000
MAX_DIMENSIONS = 16
METADATA = "__metadata__"

DTYPE_BITS = {
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "I64": 64, "U64": 64, "F64": 64, "C64": 64,
}  # fmt: skip

_OTHER_KINDS = (
    (b"PK\x03\x04", "is a pickle in a zip archive under another name, as torch.save writes it; it is refused unread"),
    (b"\x80\x02", "is a pickle under another name, which can run code as it is read; it is refused unread"),
    (b"\x80\x03", "is a pickle under another name, which can run code as it is read; it is refused unread"),
    (b"\x80\x04", "is a pickle under another name, which can run code as it is read; it is refused unread"),
    (b"\x80\x05", "is a pickle under another name, which can run code as it is read; it is refused unread"),
    (b"GGUF", "is a GGUF file under another name"),
    (b"version https://git-lfs", "is a Git LFS pointer, not the file itself; fetch it with `git lfs pull`"),
    (b"<", "is a web page under another name; download the file itself"),
)


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a file: its dtype as the format names it, its shape, its size in bytes."""

    dtype: str
    shape: tuple[int, ...]
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Header:
    """What a file's header says: the tensors by name, and the texts its writer added."""

    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]


def read_header(path: Path) -> Header:
    """Read and check the header of a `.safetensors` file; nothing else of it is read.

    Its length, dtypes, shapes and places have to fit each other and the file, without gap or overlap. Raises
    ValueError with what is wrong, as the rest of a sentence that begins with the file's name; OSError.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        text = _header_text(file, size)
        data_bytes = size - file.tell()
    return _checked(_parse(text), data_bytes)


def _header_text(file: BinaryIO, size: int) -> bytes:
    start = file.read(24)
    if len(start) < 8:
        raise ValueError("is cut off: it is shorter than any header")
    length = int.from_bytes(start[:8], "little")
    if not 2 <= length <= size - 8 or start[8:9] != b"{":
        for beginning, kind in _OTHER_KINDS:
            if start.startswith(beginning):
                raise ValueError(kind)
        if length <= MAX_HEADER_BYTES and start[8:9] == b"{":
            raise ValueError("is cut off inside its header")
        raise ValueError("is no safetensors file")
    if length > MAX_HEADER_BYTES:
        raise ValueError(f"has a header of {length >> 20} MiB; at most {MAX_HEADER_BYTES >> 20} are read")
    file.seek(8)
    text = file.read(length)
    if len(text) != length:  # it shrank meanwhile
        raise ValueError("is cut off inside its header")
    return text


def _parse(text: bytes) -> dict[str, Any]:
    left = MAX_ENTRIES

    def entry(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal left
        left -= 1
        made = dict(pairs)
        if left < 0:
            raise ValueError(f"names more than {MAX_ENTRIES:,} tensors")
        if len(made) != len(pairs):  # two readers could see two different files
            raise ValueError("says something twice in its header")
        return made

    try:
        # A number of thousands of digits is refused with the tensor it stands in.
        data = json.loads(
            text.decode("utf-8"), object_pairs_hook=entry, parse_int=lambda d: int(d) if len(d) < 20 else -1
        )
    except (UnicodeDecodeError, RecursionError, json.JSONDecodeError):
        raise ValueError("has a header that is no JSON") from None
    if not isinstance(data, dict):
        raise ValueError("has a header that is no JSON object")
    return cast("dict[str, Any]", data)


def _checked(data: dict[str, Any], data_bytes: int) -> Header:
    metadata = data.pop(METADATA, {})
    if not isinstance(metadata, dict):
        raise ValueError("has metadata that are no texts")
    texts = cast("dict[str, Any]", metadata)
    if not all(isinstance(value, str) for value in texts.values()):
        raise ValueError("has metadata that are no texts")
    tensors: dict[str, Tensor] = {}
    places: list[tuple[int, int]] = []
    for name, entry in data.items():
        tensors[name], place = _tensor(name, entry, data_bytes)
        places.append(place)
    end = 0
    for first, last in sorted(places):
        if first != end:
            raise ValueError("has tensors that overlap" if first < end else "has bytes that belong to no tensor")
        end = last
    if end != data_bytes:
        raise ValueError("has bytes that belong to no tensor")
    return Header(tensors, texts)


def _tensor(name: str, entry: Any, data_bytes: int) -> tuple[Tensor, tuple[int, int]]:
    shown = repr(name[:80])
    if not isinstance(entry, dict):
        raise ValueError(f"does not describe its tensor {shown}")
    described = cast("dict[str, Any]", entry)
    if described.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"does not describe its tensor {shown}")
    bits = DTYPE_BITS.get(described["dtype"]) if isinstance(described["dtype"], str) else None
    if bits is None:
        raise ValueError(f"has the tensor {shown} in a number format that is not known")
    shape, offsets = described["shape"], described["data_offsets"]
    if not _whole_numbers(shape) or len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"has the tensor {shown} in a shape that is none")
    if not _whole_numbers(offsets) or len(offsets) != 2 or not offsets[0] <= offsets[1] <= data_bytes:
        raise ValueError(f"is cut off or damaged: the tensor {shown} lies outside it")
    count = 1
    for side in shape:
        count *= side
    if count * bits != (offsets[1] - offsets[0]) * 8:
        raise ValueError(f"has the tensor {shown} with a shape that does not fit its size")
    return Tensor(described["dtype"], tuple(shape), offsets[1] - offsets[0]), (offsets[0], offsets[1])


def _whole_numbers(value: Any) -> bool:
    if not isinstance(value, list):
        return False
    return all(type(item) is int and 0 <= item < 1 << 63 for item in cast("list[Any]", value))
