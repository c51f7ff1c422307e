"""Makes drawings soft the way a generator's pictures are, so that a judge trained on drawings judges those fairly."""

import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

SHARP_SHARE = 0.2
JPEG_SHARE = 0.2
# The amounts below that are in pixels are for pictures of this height.
USUAL_HEIGHT = 128


def _somewhat(rows: int, most: float, generator: torch.Generator) -> Tensor:
    """An amount for each picture, small ones more often: (rows, 1, 1, 1)."""
    return most * torch.rand(rows, 1, 1, 1, generator=generator) ** 1.5


def _wobbled(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Move outlines by up to some two pixels, smoothly, and the whole by up to four."""
    rows, _, height, width = pictures.shape
    pixel = height / USUAL_HEIGHT
    field = torch.randn(rows, 2, 10, 10, generator=generator) * _somewhat(rows, 1.6 * pixel, generator)
    field = functional.interpolate(field, (height, width), mode="bicubic", align_corners=True)
    field = field + (torch.rand(rows, 2, 1, 1, generator=generator) - 0.5) * 8 * pixel
    shift = field.permute(0, 2, 3, 1) * torch.tensor([2 / width, 2 / height])
    straight = functional.affine_grid(torch.eye(2, 3).expand(rows, 2, 3), [rows, 3, height, width], align_corners=False)
    return functional.grid_sample(
        pictures, straight + shift, mode="bilinear", padding_mode="border", align_corners=False
    )


def _blurred(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Blur each by its own Gaussian, of a deviation up to 1.4 pixels."""
    rows, _, height, width = pictures.shape
    deviations = 0.05 + _somewhat(rows, 1.4 * height / USUAL_HEIGHT, generator).view(rows, 1)
    taps = torch.exp(-0.5 * (torch.arange(-3, 4) / deviations) ** 2)
    taps = (taps / taps.sum(1, keepdim=True)).repeat_interleave(3, 0)
    flat = functional.pad(pictures.reshape(1, rows * 3, height, width), (3, 3, 3, 3), mode="replicate")
    flat = functional.conv2d(flat, taps.view(rows * 3, 1, 1, 7), groups=rows * 3)
    return functional.conv2d(flat, taps.view(rows * 3, 1, 7, 1), groups=rows * 3).view(rows, 3, height, width)


def _tinted(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Change the colours a little: everywhere, in patches of the size of a latent pixel, and as noise."""
    rows, _, height, width = pictures.shape
    gain = 1 + 0.05 * torch.randn(rows, 3, 1, 1, generator=generator).clamp(-2, 2)
    offset = 0.03 * torch.randn(rows, 3, 1, 1, generator=generator).clamp(-2, 2)
    patches = torch.randn(rows, 3, 16, 16, generator=generator) * _somewhat(rows, 0.06, generator)
    patches = functional.interpolate(patches, (height, width), mode="bilinear", align_corners=False)
    grain = torch.randn(rows, 3, height, width, generator=generator) * _somewhat(rows, 0.08, generator)
    return pictures * gain + offset + patches + grain


def _jpeg(picture: Tensor, quality: int) -> Tensor:
    buffer = io.BytesIO()
    Image.fromarray(to_bytes(picture[None])[0]).save(buffer, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1).float() / 127.5 - 1


def to_bytes(pictures: Tensor) -> np.ndarray:
    """(rows, 3, height, width), -1 to 1, as bytes (rows, height, width, 3)."""
    return ((pictures.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def soften(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Soften pictures, each differently, and leave a fifth of them sharp. (rows, 3, height, width), -1 to 1, on the CPU."""
    rows = len(pictures)
    soft = _tinted(_blurred(_wobbled(pictures, generator), generator), generator).clamp(-1, 1)
    sharp = torch.rand(rows, 1, 1, 1, generator=generator) < SHARP_SHARE
    soft = torch.where(sharp, pictures, soft)
    for row in torch.nonzero(torch.rand(rows, generator=generator) < JPEG_SHARE).flatten().tolist():
        soft[row] = _jpeg(soft[row], int(torch.randint(50, 95, (), generator=generator)))
    return soft
