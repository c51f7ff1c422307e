"""The two small networks of the detector, and how a picture is laid before them."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from tools.pocket.regions import Array, Mask, cover, dilated, distance
from tools.pocket.spec import NAMED_EXTRAS, PLACES, SHAPES, SUBJECTS, TIMES

PICTURE = 128
SCENE = 64
CROP = 32
KINDS = (*SHAPES, *SUBJECTS)
EXTRAS = tuple(NAMED_EXTRAS)


def _layer(inside: int, outside: int, stride: int, kernel: int = 3) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, outside, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(outside),
        nn.ReLU(inplace=True),
    )


class ThingNet(nn.Module):
    """Says what kind a thing is. In: (rows, 2, 32, 32), 0 to 1, of `thing_crop`; out: (rows, len(KINDS)) logits."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(_layer(2, 16, 1), _layer(16, 24, 2), _layer(24, 32, 2), _layer(32, 48, 2))
        self.head = nn.Linear(48 * 16, len(KINDS))

    def forward(self, crops: Tensor) -> Tensor:
        return self.head(self.body(crops).flatten(1))


class SceneNet(nn.Module):
    """Says place, time and named extras of a landscape. In: (rows, 3, 64, 64), -1 to 1; out: three tensors of logits.

    An extra is there when it is anywhere: its chance is that of the likeliest of 8×8 spots, helped by the whole picture.
    """

    WIDTHS = (24, 48, 64, 96)
    FEATURES = 2 * WIDTHS[-1]

    def __init__(self) -> None:
        super().__init__()
        one, two, three, four = self.WIDTHS
        self.body = nn.Sequential(
            _layer(3, one, 2, 5), _layer(one, two, 1), _layer(two, three, 2), _layer(three, three, 1), _layer(three, four, 2),
            _layer(four, four, 1),
        )  # fmt: skip
        self.place = nn.Linear(four, len(PLACES))
        self.time = nn.Linear(four, len(TIMES))
        self.spots = nn.Conv2d(four, len(EXTRAS), 1)
        self.whole = nn.Linear(four, len(EXTRAS))

    def features(self, pictures: Tensor) -> Tensor:
        """The last features, averaged over the picture and at their strongest: (rows, FEATURES)."""
        maps = self.body(pictures)
        return torch.cat((maps.mean((2, 3)), maps.amax((2, 3))), 1)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        maps = self.body(pictures)
        mean = maps.mean((2, 3))
        return self.place(mean), self.time(mean), self.spots(maps).amax((2, 3)) + self.whole(mean)


def pixels_of(image: Image.Image) -> np.ndarray:
    """The picture at 128×128 as bytes, (128, 128, 3)."""
    image = image.convert("RGB")
    if image.size != (PICTURE, PICTURE):
        image = image.resize(
            (PICTURE, PICTURE), Image.Resampling.BOX if image.width > PICTURE else Image.Resampling.BICUBIC
        )
    return np.asarray(image)


def to_tensor(images: list[Image.Image]) -> Tensor:
    """Pictures as (rows, 3, 128, 128), float32, -1 to 1."""
    stacked = torch.from_numpy(np.stack([pixels_of(image) for image in images]))
    return stacked.permute(0, 3, 1, 2).float() / 127.5 - 1


def scene_input(images: list[Image.Image]) -> Tensor:
    """Pictures as SceneNet takes them: (rows, 3, 64, 64), float32, -1 to 1."""
    return functional.avg_pool2d(to_tensor(images), PICTURE // SCENE)


def thing_crop(pixels: Array, mask: Mask, colour: Array, ground: Array) -> Array:
    """Lay one thing before ThingNet: centred with a margin, how much of each pixel has its colour and how much stands out.

    Arguments: the picture, the thing's colour and the ground's in Lab, and the thing's mask; returns (2, 32, 32), 0 to 1.
    """
    near = dilated(dilated(mask))
    own = np.where(near, cover(pixels, colour, ground), 0)
    standing = np.where(
        near, np.clip(distance(pixels, ground) / max(float(np.linalg.norm(colour - ground)), 1.0), 0, 1), 0
    )
    ys, xs = np.nonzero(mask)
    centre_x, centre_y = (xs.min() + xs.max() + 1) / 2, (ys.min() + ys.max() + 1) / 2
    half = 0.58 * max(xs.max() - xs.min() + 1, ys.max() - ys.min() + 1)
    box = (centre_x - half, centre_y - half, centre_x + half, centre_y + half)
    layers: list[Array] = []
    for layer in (own, standing):
        # `transform` reads outside the picture as 0, where `crop` with a box of floats would not.
        grain = max(1, int(2 * half / CROP + 0.5))
        cut = Image.fromarray(layer.astype(np.float32)).transform(
            (CROP * grain, CROP * grain), Image.Transform.EXTENT, box, Image.Resampling.BILINEAR
        )
        layers.append(np.asarray(cut.reduce(grain) if grain > 1 else cut, np.float32))
    return np.stack(layers)
