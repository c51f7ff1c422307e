"""The pictures that people draw from, on disk: kept by what they show, read back in the size that is drawn.

They were opened apart from this process and judged before they come here. All of it blocks: pool threads.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from bot.catalogue.references import REFERENCE_PX
from bot.errors import RequestError, StorageError
from bot.files.control_maps import control_map
from bot.files.marker import write_atomically
from bot.generation import GenerationRequest, InputPictures, InputRef, RawPicture
from bot.prompts.pictures import expanded_size, expansion

log = logging.getLogger(__name__)

FRESH_S = 3600.0
"""A picture is taken in before its request is committed; until then it belongs to nobody yet."""
WIDEST_PX = 2048
"""A widened picture is no longer than this."""
OVERLAP = 0.03
"""The share of a picture's shorter side that is redrawn along an edge that goes on, so that no seam shows."""
_DIGEST = re.compile(r"[0-9a-f]{64}")
GONE = "The picture that this is to be drawn from is not kept any more; send it again."


class InputShelf:
    """Keeps input pictures as `root/<first two of the digest>/<digest>.png`; equal pictures are one file."""

    def __init__(self, root: Path) -> None:
        """Take the folder, which is made when it is needed."""
        self._root = root

    def put(self, picture: RawPicture) -> str:
        """Keep a picture; its digest, 64 hexadecimal digits. Raises OSError."""
        head = f"{picture.width}x{picture.height}:".encode()
        digest = hashlib.sha256(head + picture.pixels).hexdigest()
        path = self._path(digest)
        if path.exists():
            path.touch()  # fresh again, or a sweep could take it before its request is committed
            return digest
        image = Image.frombytes("RGB", (picture.width, picture.height), picture.pixels)
        buffer = BytesIO()
        image.save(buffer, "PNG", compress_level=3)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, buffer.getvalue())
        return digest

    def adopt(self, path: Path) -> InputRef:
        """Keep one of our own files, a PNG, as it is; nothing of it is a stranger's. Raises OSError."""
        with Image.open(path, formats=("PNG",)) as image:
            picture = _raw(image)
        assert picture is not None
        return InputRef(self.put(picture), picture.width, picture.height)

    def widen(self, digest: str, side: str, amount: int) -> tuple[InputRef, InputRef]:
        """Keep a picture with room around it, and the mask of that room; a little of the picture's edge is redrawn with it.

        Raises RequestError, StorageError, OSError.
        """
        picture = self.read(digest)
        around = expansion(*picture.size, side, amount)
        scale = min(1.0, WIDEST_PX / max(expanded_size(*picture.size, side, amount)))
        if scale < 1:
            picture = picture.resize((max(1, int(picture.width * scale)), max(1, int(picture.height * scale))))
            around = expansion(*picture.size, side, amount)
        left, top, right, bottom = around
        wide_px, high_px = left + picture.width + right, top + picture.height + bottom
        pixels = np.pad(np.asarray(picture), ((top, bottom), (left, right), (0, 0)), mode="edge")
        mask = np.full((high_px, wide_px, 3), 255, np.uint8)
        first, upper, last, lower = (int(OVERLAP * min(picture.size)) * (beyond > 0) for beyond in around)
        mask[top + upper : top + picture.height - lower, left + first : left + picture.width - last] = 0
        made = [RawPicture(0, 0, wide_px, high_px, one.tobytes()) for one in (pixels, mask)]
        wide, where = (InputRef(self.put(one), one.width, one.height) for one in made)
        return wide, where

    def read(self, digest: str) -> Image.Image:
        """Open a picture. Raises RequestError where it is gone, StorageError where it cannot be read."""
        try:
            with Image.open(self._path(digest), formats=("PNG",)) as image:
                return image.convert("RGB")
        except FileNotFoundError:
            raise RequestError(GONE) from None
        except (OSError, SyntaxError, ValueError) as error:
            raise StorageError(f"An input picture cannot be read: {error}.") from error

    def for_request(self, request: GenerationRequest) -> InputPictures:
        """Give a request's pictures in its own size, cut where their shape differs; a control map made of its picture; a reference square.

        What is to be enlarged comes whole, as it is.

        Raises RequestError where one is gone or no map can be made of it, StorageError.
        """
        if request.upscale:
            return InputPictures(_raw(self.read(request.image)))
        size = (request.width, request.height)

        def fitted(digest: str, *, soft: bool = True) -> Image.Image | None:
            if not digest:
                return None
            resampling = Image.Resampling.LANCZOS if soft else Image.Resampling.NEAREST
            return ImageOps.fit(self.read(digest), size, resampling)

        control = fitted(request.control)
        if control is not None:
            control = control_map(control, request.control_type)
        return InputPictures(
            _raw(fitted(request.image)), _raw(fitted(request.mask, soft=False)), _raw(control),
            _raw(self._square(request.reference)),
        )  # fmt: skip

    def _square(self, digest: str) -> Image.Image | None:
        """Cut a picture's middle out, at most REFERENCE_PX a side, as image encoders look at pictures."""
        if not digest:
            return None
        picture = self.read(digest)
        side_px = min(*picture.size, REFERENCE_PX)
        return ImageOps.fit(picture, (side_px, side_px), Image.Resampling.LANCZOS)

    def paths(self, digests: Iterable[str]) -> list[Path]:
        """Give the files of pictures, each once, in this order; those that are gone are left out."""
        return [path for path in map(self._path, dict.fromkeys(digests)) if path.is_file()]

    def remove(self, digests: Iterable[str]) -> None:
        """Remove pictures; nothing where they are gone. Raises OSError."""
        for digest in digests:
            self._path(digest).unlink(missing_ok=True)

    def sweep(self, known: Iterable[str], now: float | None = None) -> int:
        """Remove pictures that no request names and that were not just taken in; how many. `now` is seconds since 1970."""
        kept = set(known)
        before = (time.time() if now is None else now) - FRESH_S
        gone = [path for path in self._files() if path.stem not in kept and _changed(path) < before]
        for path in gone:
            path.unlink(missing_ok=True)
        return len(gone)

    def _files(self) -> list[Path]:
        return [path for path in self._root.glob("??/*.png") if _DIGEST.fullmatch(path.stem)]

    def _path(self, digest: str) -> Path:
        if not _DIGEST.fullmatch(digest):
            raise RequestError("That is no input picture.")
        return self._root / digest[:2] / f"{digest}.png"


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _raw(image: Image.Image | None) -> RawPicture | None:
    if image is None:
        return None
    return RawPicture(0, 0, image.width, image.height, image.convert("RGB").tobytes())
