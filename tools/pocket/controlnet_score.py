"""Judge the ControlNets: do the lines come out where they were drawn, and are the words still heard."""

import random
from dataclasses import dataclass

import numpy as np
import torch
from diffusers import StableDiffusionControlNetPipeline
from PIL import Image

from tools.pocket.captions import plain_caption
from tools.pocket.controlnet import CONTROLS
from tools.pocket.detector import Detector
from tools.pocket.draw import draw
from tools.pocket.family import GUIDANCE, STEPS
from tools.pocket.outlines import agreement, edge_mask, outline_mask
from tools.pocket.regions import Mask
from tools.pocket.spec import COLOURS, SHAPES, Arrangement, Item, Picture, Scene, sample

FIRST = 80_000_000
# Fewer pixels of lines than this say too little to be followed.
LEAST_LINES = 60


@dataclass(frozen=True, slots=True)
class Task:
    """A control picture, the drawing it was made from, and words; `asked` where shape and colours are asked for."""

    control: Image.Image
    drawing: Image.Image
    prompt: str
    asked: Arrangement | None


def lines_of(control: Image.Image) -> Mask:
    """The white of a control picture."""
    return np.asarray(control.convert("L")) > 127


def found_lines(kind: str, image: Image.Image) -> Mask:
    """The lines of a picture that a control of a kind would have asked for."""
    return edge_mask(image) if kind == "edges" else outline_mask(image)


def tasks(kind: str, count: int, seed: int = 0) -> list[Task]:
    """Set `count` tasks, always the same for the same arguments: shapes in other colours than drawn, and landscapes, by turns."""
    rng = random.Random(f"pocket control {seed}")
    chosen: list[Task] = []
    number = FIRST + seed * 10_000
    while len(chosen) < count:
        number += 1
        if len(chosen) % 2:
            drawn = sample(number)
            if not isinstance(drawn.what, Scene) or drawn.style:
                continue
            wanted = drawn
        else:
            ground, colour, other, another = rng.sample(list(COLOURS), 4)
            shape = rng.choice(SHAPES)
            drawn = Picture(Arrangement(ground, (Item(shape, colour, "large"),)), "", rng.getrandbits(32))
            wanted = Picture(Arrangement(other, (Item(shape, another, "large"),)), "", drawn.seed)
        image = draw(drawn)
        control = CONTROLS[kind](image, drawn.seed)
        if lines_of(control).sum() >= LEAST_LINES:
            asked = wanted.what if isinstance(wanted.what, Arrangement) else None
            chosen.append(Task(control, image, plain_caption(wanted), asked))
    return chosen


@torch.no_grad()
def follow(
    pipe: StableDiffusionControlNetPipeline, asked: list[Task], scale: float, rows: int = 8
) -> list[Image.Image]:
    """Draw what the tasks ask by the pipeline's own call, each with its number as the seed; `scale` 0 is without the lines."""
    made: list[Image.Image] = []
    for start in range(0, len(asked), rows):
        part = asked[start : start + rows]
        result = pipe(
            [task.prompt for task in part],
            image=[task.control for task in part],
            width=part[0].control.width,
            height=part[0].control.height,
            num_inference_steps=STEPS,
            guidance_scale=GUIDANCE,
            controlnet_conditioning_scale=scale,
            generator=[torch.Generator().manual_seed(start + index) for index in range(len(part))],
        )
        made += result.images  # pyright: ignore[reportAttributeAccessIssue]
    return made


def evaluate_controlnet(
    pipe: StableDiffusionControlNetPipeline,
    kind: str,
    detector: Detector,
    *,
    count: int = 32,
    seed: int = 0,
) -> dict[str, float]:
    """Measure a ControlNet on `count` tasks, with its lines and, from the same seeds, without.

    Returns precision, recall and F1 of the picture's lines within 3 px of those drawn; "f1_without" the lines, "f1_drawing" of
    the drawing that they were made from, the best there could be; shares of "colour" of thing and ground as asked and of
    "shape", and both "_without".
    """
    asked = tasks(kind, count, seed)
    sums: dict[str, list[float]] = {}
    for name, scale in (("", 1.0), ("_without", 0.0)):
        for task, image in zip(asked, follow(pipe, asked, scale), strict=True):
            figures = agreement(found_lines(kind, image), lines_of(task.control))
            for label, value in zip(("precision", "recall", "f1"), figures, strict=True):
                sums.setdefault(label + name, []).append(value)
            if task.asked is not None:
                read = detector.read_arrangement(image)
                first = read.things[0] if read.things else None
                right = (read.background, first.colour if first else "") == (
                    task.asked.background,
                    task.asked.items[0].colour,
                )
                sums.setdefault("colour" + name, []).append(right)
                sums.setdefault("shape" + name, []).append(first is not None and first.kind == task.asked.items[0].kind)
    drawing = [agreement(found_lines(kind, task.drawing), lines_of(task.control))[2] for task in asked]
    sums["f1_drawing"] = drawing
    return {name: round(float(np.mean(values)), 4) for name, values in sums.items()}
