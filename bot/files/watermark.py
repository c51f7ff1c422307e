"""An invisible watermark: 64 bits in the brightness of a picture that say "Easel" and which one. Pool threads.

The picture's brightness is taken apart by one cosine transform over the whole of it; the lowest frequencies but the very
lowest are moved to the nearest value that spells a bit (dither modulation: Chen and Wornell, 2001, "Quantization index
modulation"), about thirty of them a bit. Low frequencies of the whole picture are what re-encoding and resizing leave
alone. Cropping, rotating and mirroring move them, so that nothing is read back; whoever knows this file can also take the
mark away or put it into any picture. It helps to find out where a picture came from and proves nothing.
`docs/safety.md` has what was measured.
"""

from __future__ import annotations

import zlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from bot.generation import RawPicture

Floats = NDArray[np.float64]

FREQUENCIES = 48
LOWEST = 3
STEP = 0.1
"""In units of brightness (0 to 255) by orthonormal transform over the square root of the pixels; sets how visible it is."""
MIN_SIDE_PX = 128
"""Below, there are too few pixels for the mark to survive JPEG 90."""
BITS = 64
_SALT = b"easel watermark 1"


def embed(picture: RawPicture, identity: int) -> RawPicture:
    """Mark a picture with 32 bits of identity; the same input gives the same pixels. Below 128 px a picture stays as it is."""
    if min(picture.width, picture.height) < MIN_SIDE_PX:
        return picture
    base = _pixels(picture)
    sites, dither, which = _sites()
    wanted = (dither + _bits(identity)[which] * 0.5) * STEP
    value = _transform(_brightness(base))[sites[:, 0], sites[:, 1]]
    moved = np.rint((value - wanted) / STEP) * STEP + wanted - value
    added = np.rint(_inverse(sites, moved, base.shape[0], base.shape[1])).astype(np.int16)
    # What black and white cut off of it the other frequencies of each bit make up for.
    marked = np.clip(base + added[..., None], 0, 255).astype(np.uint8)
    return RawPicture(picture.n, picture.seed, picture.width, picture.height, marked.tobytes())


def detect(picture: RawPicture) -> int | None:
    """Read the identity out of a picture; None where there is no whole mark (by chance once in 4 billion pictures)."""
    if min(picture.width, picture.height) < FREQUENCIES:
        return None
    found = _transform(_brightness(_pixels(picture)))
    sites, dither, which = _sites()
    votes = np.cos(2 * np.pi * (found[sites[:, 0], sites[:, 1]] / STEP - dither))
    bits = np.bincount(which, votes, BITS) < 0
    word = int.from_bytes(np.packbits(bits).tobytes(), "big")
    identity, check = word >> 32, word & 0xFFFFFFFF
    return identity if check == _check(identity) else None


def _pixels(picture: RawPicture) -> NDArray[np.uint8]:
    return np.frombuffer(picture.pixels, np.uint8).reshape(picture.height, picture.width, 3)


def _brightness(pixels: NDArray[np.uint8]) -> Floats:
    red, green, blue = (pixels[..., channel].astype(np.float64) for channel in range(3))
    return 0.299 * red + 0.587 * green + 0.114 * blue


def _check(identity: int) -> int:
    return zlib.crc32(_SALT + identity.to_bytes(4, "big"))


def _bits(identity: int) -> NDArray[np.uint8]:
    word = identity << 32 | _check(identity)
    return np.unpackbits(np.frombuffer(word.to_bytes(8, "big"), np.uint8))


@lru_cache(maxsize=1)
def _sites() -> tuple[NDArray[np.int64], Floats, NDArray[np.int64]]:
    """Give the frequencies (sites, 2), each one's dither in [0, 1), and the bit it carries."""
    rows, columns = np.meshgrid(np.arange(FREQUENCIES), np.arange(FREQUENCIES), indexing="ij")
    radius = np.hypot(rows, columns)
    sites = np.argwhere((rows > 0) & (columns > 0) & (radius >= LOWEST) & (radius < FREQUENCIES))
    # A plain generator, not one of numpy's, whose streams may change between versions.
    state, order, dither = 20_261_125, np.empty(len(sites), np.int64), np.empty(len(sites))
    for index in range(len(sites)):
        state = (state * 6_364_136_223_846_793_005 + 1_442_695_040_888_963_407) % 2**64
        order[index] = state >> 33
        dither[index] = (state >> 16 & 0xFFFF) / 0x10000
    count = len(sites) // BITS * BITS
    kept = np.argsort(order, kind="stable")[:count]
    return sites[kept], dither[kept], np.arange(count) % BITS


@lru_cache(maxsize=16)
def _basis(length: int) -> Floats:
    """Give the lowest rows of the orthonormal DCT-II (frequencies, length), over the square root of the length."""
    angles = np.pi * (2 * np.arange(length) + 1) * np.arange(FREQUENCIES)[:, None] / (2 * length)
    basis = np.cos(angles) * np.sqrt(2 / length)
    basis[0] /= np.sqrt(2)
    return basis / np.sqrt(length)


def _transform(brightness: Floats) -> Floats:
    """Take the lowest frequencies (frequencies, frequencies); resizing the picture leaves them nearly as they are."""
    return _basis(brightness.shape[0]) @ brightness @ _basis(brightness.shape[1]).T


def _inverse(sites: NDArray[np.int64], values: Floats, height: int, width: int) -> Floats:
    spectrum = np.zeros((FREQUENCIES, FREQUENCIES))
    spectrum[sites[:, 0], sites[:, 1]] = values
    return _basis(height).T @ spectrum @ _basis(width) * (height * width)
