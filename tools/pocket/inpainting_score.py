"""Judge the inpainting variant: what stays, and whether what was asked for appears where it was asked for."""

import random
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import StableDiffusionInpaintPipeline
from PIL import Image

from tools.pocket.captions import plain_caption
from tools.pocket.detector import Detector
from tools.pocket.draw import draw
from tools.pocket.family import GUIDANCE, STEPS
from tools.pocket.masks import box_mask, thing_boxes
from tools.pocket.regions import Mask
from tools.pocket.spec import COLOURS, SHAPES, Arrangement, Item, Picture, Scene

Box = tuple[float, float, float, float]

# Where a thing is asked into a landscape that is without it: place, time, and the box to draw anew.
ADDED: dict[str, tuple[str, str, Box]] = {
    "moon": ("sea", "night", (0.05, 0.0, 0.95, 0.45)),
    "boat": ("sea", "day", (0.05, 0.4, 0.95, 0.9)),
    "house": ("hills", "day", (0.1, 0.35, 0.9, 0.9)),
}


@dataclass(frozen=True, slots=True)
class Task:
    """A picture, what of it to draw anew, the words for it; `wanted` is a thing's colour and shape, or an extra."""

    image: Image.Image
    mask: Mask
    prompt: str
    wanted: Item | str


def tasks(count: int, seed: int = 0) -> list[Task]:
    """Set `count` tasks, always the same for the same arguments: two in three change a thing, the others add an extra."""
    rng = random.Random(f"pocket inpainting {seed}")
    return [_add(number // 3, rng) if number % 3 == 2 else _change(rng) for number in range(count)]


def _change(rng: random.Random) -> Task:
    """Ask for another shape of another colour in the place of the one there is."""
    while True:
        ground, old, new = rng.sample(list(COLOURS), 3)
        what = Arrangement(ground, (Item(rng.choice(SHAPES), old, "large"),))
        image = draw(Picture(what, "", rng.getrandbits(32)))
        boxes = thing_boxes(what, image)
        if not boxes:
            continue
        left, top, right, bottom = boxes[0][1]
        box = (max(0.0, left - 0.06), max(0.0, top - 0.06), min(1.0, right + 0.06), min(1.0, bottom + 0.06))
        wanted = Item(rng.choice(SHAPES), new, "large")
        prompt = plain_caption(Picture(Arrangement(ground, (wanted,))))
        return Task(image, box_mask(image.size, box), prompt, wanted)


def _add(number: int, rng: random.Random) -> Task:
    extra = list(ADDED)[number % len(ADDED)]
    place, time, box = ADDED[extra]
    image = draw(Picture(Scene(place, time), "", rng.getrandbits(32)))
    prompt = plain_caption(Picture(Scene(place, time, "", (extra,))))
    return Task(image, box_mask(image.size, box), prompt, extra)


@torch.no_grad()
def inpaint(pipe: StableDiffusionInpaintPipeline, asked: list[Task], rows: int = 8) -> list[Image.Image]:
    """Answer tasks by the pipeline's own call, `rows` at a time, each with its number as the seed."""
    made: list[Image.Image] = []
    for start in range(0, len(asked), rows):
        part = asked[start : start + rows]
        result = pipe(
            [task.prompt for task in part],
            image=[task.image for task in part],
            mask_image=[Image.fromarray(task.mask.astype(np.uint8) * 255) for task in part],
            width=part[0].image.width,
            height=part[0].image.height,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            strength=1.0,
            generator=[torch.Generator().manual_seed(start + index) for index in range(len(part))],
        )
        made += result.images  # pyright: ignore[reportAttributeAccessIssue]
    return made


@torch.no_grad()
def through_autoencoder(pipe: StableDiffusionInpaintPipeline, images: list[Image.Image]) -> list[Image.Image]:
    """Encode and decode pictures: what is lost of them before anything is drawn."""
    pixels = torch.stack([torch.from_numpy(np.array(image)) for image in images]).permute(0, 3, 1, 2) / 127.5 - 1
    decoded = [
        pipe.vae.decode(pipe.vae.encode(part.to(pipe.vae.device, pipe.vae.dtype)).latent_dist.mode()).sample
        for part in pixels.split(8)
    ]
    bytes_ = ((torch.cat(decoded).float().cpu().clamp(-1, 1) + 1) * 127.5).round().byte()
    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in bytes_]


def _difference(one: Image.Image, other: Image.Image, where: Mask) -> float:
    far = np.abs(np.asarray(one, np.float32) - np.asarray(other, np.float32))
    return float(far[where].mean())


def evaluate_inpainting(
    pipe: StableDiffusionInpaintPipeline, detector: Detector, *, count: int = 48, seed: int = 0
) -> dict[str, float]:
    """Measure the variant on `count` tasks.

    Returns mean absolute differences of 255 from the picture given, "outside" of the mask and "inside" of it, and what the
    autoencoder alone loses outside, "outside_autoencoder"; shares of the answers that are right: "colour" and "shape" of the
    thing in the mask, "background" still as it was, "extra" to be seen, "extra_before" seen without inpainting.
    """
    asked = tasks(count, seed)
    made = inpaint(pipe, asked)
    plain = through_autoencoder(pipe, [task.image for task in asked])
    sums: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        sums.setdefault(name, []).append(value)

    for task, image, kept in zip(asked, made, plain, strict=True):
        note("outside", _difference(image, task.image, ~task.mask))
        note("inside", _difference(image, task.image, task.mask))
        note("outside_autoencoder", _difference(kept, task.image, ~task.mask))
        if isinstance(task.wanted, str):
            note("extra", task.wanted in detector.read_scene(image).extras)
            note("extra_before", task.wanted in detector.read_scene(task.image).extras)
            continue
        read, before = detector.read_arrangement(image), detector.read_arrangement(task.image)
        in_mask = [thing for thing in read.things if _covers(task.mask, thing.centre)]
        note("colour", any(thing.colour == task.wanted.colour for thing in in_mask))
        note("shape", any((thing.colour, thing.kind) == (task.wanted.colour, task.wanted.kind) for thing in in_mask))
        note("background", read.background == before.background)
    return {name: round(float(np.mean(values)), 4) for name, values in sums.items()}


def _covers(mask: Mask, centre: tuple[float, float]) -> bool:
    height, width = mask.shape
    return bool(mask[min(height - 1, int(centre[1] * height)), min(width - 1, int(centre[0] * width))])
