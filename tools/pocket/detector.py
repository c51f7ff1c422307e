"""The judge's eyes: reads a picture and says what is in it.

An arrangement is measured (colours by nearness in CIE Lab, connected regions, centres) and only the kind of each thing is
classified; a landscape is classified as a whole. The networks see 128×128; other sizes are resized to that. They learn from
drawings only (`detector_training`), made soft the way a generator's pictures are, and also from the combinations that no
generator may see: whoever judges has to know them.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from tools.pocket.regions import Array, Region, background, colour_name, lab, regions
from tools.pocket.sight import EXTRAS, KINDS, SceneNet, ThingNet, pixels_of, scene_input, thing_crop
from tools.pocket.spec import PLACES, SHAPES, TIMES

FOLDER = Path(__file__).parent / "detector"
WEIGHTS, CARD = "detector.safetensors", "detector.json"


@dataclass(frozen=True, slots=True)
class Thing:
    """One shape: `centre` is (x, y), each 0 to 1; `area` its part of the picture; `certainty` of the kind, 0 to 1."""

    kind: str
    colour: str
    centre: tuple[float, float]
    area: float
    certainty: float


def relation(first: Thing, second: Thing) -> str:
    """How the first lies to the second, of spec.RELATIONS, along the axis on which they are further apart."""
    across, down = first.centre[0] - second.centre[0], first.centre[1] - second.centre[1]
    if abs(across) > abs(down):
        return "left of" if across < 0 else "right of"
    return "above" if down < 0 else "below"


@dataclass(frozen=True, slots=True)
class ArrangementReading:
    """What stands before a plain ground, the largest first; `subject` is what it would be, taken as one thing."""

    background: str
    things: tuple[Thing, ...]
    subject: str

    @property
    def count(self) -> int:
        """How many things there are."""
        return len(self.things)

    @property
    def relation(self) -> str:
        """How the larger of exactly two lies to the other; empty for any other number."""
        return relation(*self.things) if len(self.things) == 2 else ""


@dataclass(frozen=True, slots=True)
class SceneReading:
    """A landscape: `extras` are those of spec.NAMED_EXTRAS more likely there than not; `chances` are for all, 0 to 1."""

    place: str
    time: str
    extras: frozenset[str]
    chances: tuple[float, ...]


def ground_and_regions(image: Image.Image) -> tuple[Array, Array, list[Region]]:
    """Measure a picture: all of it in Lab, the ground's colour, and the things before it."""
    pixels = lab(pixels_of(image))
    ground = background(pixels)
    return pixels, ground, regions(pixels, ground)


def crops_of(pixels: Array, ground: Array, found: list[Region]) -> Array:
    """Lay every region, and last all of them as one thing of the largest one's colour, before ThingNet: (regions + 1, 2, 32, 32)."""
    whole = np.logical_or.reduce([region.mask for region in found])
    crops = [thing_crop(pixels, region.mask, region.lab, ground) for region in found]
    return np.stack([*crops, thing_crop(pixels, whole, found[0].lab, ground)])


class Detector:
    """Reads pictures with two trained networks; fp32 on any device, not to be shared between threads."""

    def __init__(self, things: ThingNet, scenes: SceneNet, card: dict[str, Any], device: str = "cpu") -> None:
        self.things = things.to(device).float().eval().requires_grad_(False)
        self.scenes = scenes.to(device).float().eval().requires_grad_(False)
        self.card = card
        self.device = device

    @classmethod
    def load(cls, folder: Path = FOLDER, device: str = "cpu") -> "Detector":
        """Load what `save` wrote; without a folder, the detector all published figures were measured with."""
        state = load_file(folder / WEIGHTS)
        things, scenes = ThingNet(), SceneNet()
        for name, network in (("things", things), ("scenes", scenes)):
            network.load_state_dict(
                {key.removeprefix(f"{name}."): part for key, part in state.items() if key.startswith(f"{name}.")}
            )
        return cls(things, scenes, json.loads((folder / CARD).read_text()), device)

    def save(self, folder: Path) -> None:
        """Write the weights in fp16 and the card."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {
            f"{name}.{key}": (part.half() if part.is_floating_point() else part).cpu().contiguous()
            for name, network in (("things", self.things), ("scenes", self.scenes))
            for key, part in network.state_dict().items()
        }
        save_file(state, folder / WEIGHTS)
        (folder / CARD).write_text(json.dumps(self.card, indent=2) + "\n")

    @torch.inference_mode()
    def read_arrangement(self, image: Image.Image) -> ArrangementReading:
        """Read coloured things on a plain ground."""
        pixels, ground, found = ground_and_regions(image)
        if not found:
            return ArrangementReading(colour_name(ground), (), "")
        logits = self.things(torch.from_numpy(crops_of(pixels, ground, found)).to(self.device)).cpu()
        chances, kinds = logits[:-1, : len(SHAPES)].softmax(-1).max(-1)
        things = tuple(
            Thing(SHAPES[int(kind)], region.colour, region.centre, region.area, float(chance))
            for region, kind, chance in zip(found, kinds, chances, strict=True)
        )

        return ArrangementReading(colour_name(ground), things, KINDS[int(logits[-1].argmax())])

    def read_scene(self, image: Image.Image) -> SceneReading:
        """Read one landscape."""
        return self.read_scenes([image])[0]

    @torch.inference_mode()
    def read_scenes(self, images: list[Image.Image], rows: int = 32) -> list[SceneReading]:
        """Read landscapes, `rows` at a time: each as it is and mirrored, which changes nothing of what is in it."""
        read: list[SceneReading] = []
        for start in range(0, len(images), rows):
            seen_as_is = scene_input(images[start : start + rows]).to(self.device)
            both = zip(self.scenes(seen_as_is), self.scenes(seen_as_is.flip(-1)), strict=True)
            for place, time, extras in zip(*(((one + other) / 2).cpu() for one, other in both), strict=True):
                chances = tuple(float(chance) for chance in extras.sigmoid())
                seen = frozenset(name for name, chance in zip(EXTRAS, chances, strict=True) if chance > 0.5)
                read.append(SceneReading(PLACES[int(place.argmax())], TIMES[int(time.argmax())], seen, chances))
        return read

    @torch.inference_mode()
    def features(self, images: list[Image.Image], rows: int = 32) -> Tensor:
        """What SceneNet sees in each picture before it decides: (pictures, SceneNet.FEATURES), float32."""
        parts = [
            self.scenes.features(scene_input(images[start : start + rows]).to(self.device)).cpu()
            for start in range(0, len(images), rows)
        ]
        return torch.cat(parts)
