"""Trains the detector from nothing on drawings, on one core in some minutes, and scores it on drawings it has not seen."""

import logging
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from tools.pocket.detector import Detector, SceneReading, crops_of, ground_and_regions
from tools.pocket.detector import relation as relation_of
from tools.pocket.draw import draw
from tools.pocket.score import Score
from tools.pocket.sight import EXTRAS, KINDS, SceneNet, ThingNet, scene_input, to_tensor
from tools.pocket.softening import soften, to_bytes
from tools.pocket.spec import (
    COLOURS,
    PLACES,
    RELATIONS,
    SHAPES,
    SIZES,
    STYLES,
    SUBJECTS,
    TIMES,
    WEATHERS,
    Arrangement,
    Item,
    Picture,
    Scene,
    has_held_out,
    possible_extras,
)  # fmt: skip

log = logging.getLogger("pocket")


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to train: drawings, passes over them, and rows a step, for each network."""

    arrangements: int = 3000
    thing_passes: int = 8
    scenes: int = 15000
    scene_passes: int = 8
    rows: int = 64
    seed: int = 0


def any_scene(rng: random.Random) -> Picture:
    """Choose a landscape evenly, held-out combinations with the others: every possible extra stands in a third of them."""
    place, time_of_day = rng.choice(PLACES), rng.choice(TIMES)
    weather = rng.choice(WEATHERS[1:]) if rng.random() < 0.15 else ""
    possible = possible_extras(place, time_of_day)
    if weather in ("rain", "snowfall", "fog"):
        possible = [extra for extra in possible if extra not in ("moon", "rainbow", "balloon")]
    extras = set(rng.sample(possible, min(len(possible), rng.choices((0, 1, 2, 3), (0.2, 0.35, 0.3, 0.15))[0])))
    if weather in ("", "cloudy"):
        by_chance = ("stars",) if time_of_day == "night" else ("sun", "birds")
        extras.update(extra for extra in by_chance if rng.random() < (0.15 if extra == "birds" else 0.5))
    if weather == "cloudy" or (not weather and rng.random() < 0.25):
        extras.add("clouds")
    style = rng.choice(STYLES[1:]) if rng.random() < 0.02 else ""
    return Picture(Scene(place, time_of_day, weather, tuple(sorted(extras))), style, rng.getrandbits(32))


def any_arrangement(rng: random.Random, forms: tuple[str, ...] = ("shape", "subject", "two", "several")) -> Picture:
    """Choose a plain arrangement evenly, held-out combinations with the others; two things always differ."""
    form = rng.choice(forms)
    background = rng.choice(list(COLOURS))
    others = [name for name in COLOURS if name != background]

    def item(kinds: tuple[str, ...]) -> Item:
        return Item(rng.choice(kinds), rng.choice(others), rng.choice(SIZES))

    if form == "several":
        one = item(SHAPES)
        what = Arrangement(background, (Item(one.kind, one.colour),), count=rng.randint(2, 4))
    elif form == "two":
        first = second = item(SHAPES)
        while (first.kind, first.colour) == (second.kind, second.colour):
            second = item(SHAPES)
        what = Arrangement(background, (first, second), rng.choice(RELATIONS))
    else:
        what = Arrangement(background, (item(SHAPES if form == "shape" else SUBJECTS),))
    return Picture(what, "", rng.getrandbits(32))


def _batches(count: int, rows: int, passes: int, rng: random.Random) -> Iterator[list[int]]:
    for _ in range(passes):
        order = rng.sample(range(count), count)
        yield from (order[start : start + rows] for start in range(0, count - rows + 1, rows))


def _training(
    network: nn.Module, steps: int, rate: float
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
    optimizer = torch.optim.AdamW(network.parameters(), rate, weight_decay=1e-2)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=max(steps, 2), pct_start=0.15)


def thing_examples(pictures: list[Picture], images: list[Image.Image]) -> tuple[Tensor, Tensor]:
    """Cut the things out of arrangements whose count was measured right: crops (rows, 2, 32, 32) and indices in KINDS."""
    crops: list[np.ndarray] = []
    kinds: list[int] = []
    for picture, image in zip(pictures, images, strict=True):
        what = picture.what
        assert isinstance(what, Arrangement)
        pixels, ground, found = ground_and_regions(image)
        if not found:
            continue
        cut = crops_of(pixels, ground, found)
        items = list(what.items) * what.count
        if items[0].kind in SUBJECTS:
            crops.append(cut[-1])
            kinds.append(KINDS.index(items[0].kind))
        elif len(found) == len(items):
            axis = 0 if what.relation in ("left of", "right of") else 1
            order = sorted(
                range(len(found)),
                key=lambda index: found[index].centre[axis],
                reverse=what.relation in ("right of", "below"),
            )
            crops.extend(cut[index] for index in order)
            kinds.extend(KINDS.index(item.kind) for item in items)
            if len(items) == 1:
                crops.append(cut[-1])
                kinds.append(KINDS.index(items[0].kind))
    return torch.from_numpy(np.stack(crops)), torch.tensor(kinds)


def _train_things(plan: Plan) -> tuple[ThingNet, dict[str, Any]]:
    started = time.monotonic()
    rng, generator = random.Random(f"things {plan.seed}"), torch.Generator().manual_seed(plan.seed)
    crops: list[Tensor] = []
    kinds: list[Tensor] = []
    for start in range(0, plan.arrangements, plan.rows):
        pictures = [any_arrangement(rng) for _ in range(min(plan.rows, plan.arrangements - start))]
        soft = to_bytes(soften(to_tensor([draw(picture) for picture in pictures]), generator))
        cut, named = thing_examples(pictures, [Image.fromarray(pixels) for pixels in soft])
        crops.append(cut)
        kinds.append(named)
    all_crops, all_kinds = torch.cat(crops), torch.cat(kinds)
    torch.manual_seed(plan.seed)
    network = ThingNet()
    optimizer, schedule = _training(network, plan.thing_passes * (len(all_crops) // plan.rows), 3e-3)
    losses: list[float] = []
    for chosen in _batches(len(all_crops), plan.rows, plan.thing_passes, rng):
        loss = functional.cross_entropy(network(all_crops[chosen]), all_kinds[chosen], label_smoothing=0.02)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
    seconds = round(time.monotonic() - started, 1)
    log.info("things: %d crops, loss %.3f to %.3f, %.0f s", len(all_crops), losses[0], np.mean(losses[-20:]), seconds)
    return network, {"crops": len(all_crops), "loss": round(float(np.mean(losses[-20:])), 4), "seconds": seconds}


def scene_targets(pictures: list[Picture]) -> tuple[Tensor, Tensor, Tensor]:
    """The truth of landscapes: indices of place and time, and extras as (rows, len(EXTRAS)) of 0 and 1."""
    scenes = [picture.what for picture in pictures if isinstance(picture.what, Scene)]
    extras = [[float(extra in scene.extras) for extra in EXTRAS] for scene in scenes]
    return (
        torch.tensor([PLACES.index(scene.place) for scene in scenes]),
        torch.tensor([TIMES.index(scene.time) for scene in scenes]),
        torch.tensor(extras),
    )


def _train_scenes(plan: Plan) -> tuple[SceneNet, dict[str, Any]]:
    started = time.monotonic()
    rng, generator = random.Random(f"scenes {plan.seed}"), torch.Generator().manual_seed(plan.seed + 1)
    pictures = [any_scene(rng) for _ in range(plan.scenes)]
    drawn = torch.cat(
        [
            scene_input([draw(picture) for picture in pictures[start : start + 256]])
            for start in range(0, plan.scenes, 256)
        ]
    )
    places, times, extras = scene_targets(pictures)
    log.info("scenes: %d drawn in %.0f s", len(pictures), time.monotonic() - started)
    torch.manual_seed(plan.seed)
    network = SceneNet().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer, schedule = _training(network, plan.scene_passes * (plan.scenes // plan.rows), 4e-3)
    losses: list[float] = []
    for chosen in _batches(plan.scenes, plan.rows, plan.scene_passes, rng):
        soft = soften(drawn[chosen], generator)
        mirrored = torch.rand(len(chosen), 1, 1, 1, generator=generator) < 0.5
        place, hour, seen = network(
            torch.where(mirrored, soft.flip(3), soft).contiguous(memory_format=torch.channels_last)
        )
        loss = functional.cross_entropy(place, places[chosen]) + functional.cross_entropy(hour, times[chosen])
        loss = loss + 10 * functional.binary_cross_entropy_with_logits(seen, extras[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
        if len(losses) % 100 == 0:
            log.info(
                "scenes: step %d, loss %.3f, %.0f s", len(losses), np.mean(losses[-100:]), time.monotonic() - started
            )
    seconds = round(time.monotonic() - started, 1)
    return network, {
        "drawings": plan.scenes,
        "steps": len(losses),
        "loss": round(float(np.mean(losses[-50:])), 4),
        "seconds": seconds,
    }


def train(plan: Plan | None = None) -> Detector:
    """Train both networks, seeded; the card holds the plan and the seconds. Some six minutes on one core."""
    plan = plan or Plan()
    things, thing_card = _train_things(plan)
    scenes, scene_card = _train_scenes(plan)
    return Detector(things, scenes, {"plan": asdict(plan), "things": thing_card, "scenes": scene_card})


def _score_arrangement(detector: Detector, picture: Picture, image: Image.Image, score: Score) -> None:
    what, held = picture.what, has_held_out(picture)
    assert isinstance(what, Arrangement)
    read = detector.read_arrangement(image)
    score.count("background", read.background == what.background, held)
    if what.items[0].kind in SUBJECTS:
        score.count("subject", read.subject == what.items[0].kind, held)
        return
    score.count("count", read.count == max(what.count, len(what.items)), held)
    if what.relation:
        pair = {(thing.kind, thing.colour): thing for thing in read.things}
        first, second = (pair.get((item.kind, item.colour)) for item in what.items)
        score.count("relation", bool(first and second and relation_of(first, second) == what.relation), held)
        return
    score.count(
        "colour", bool(read.things) and all(thing.colour == what.items[0].colour for thing in read.things), held
    )
    score.count("shape", bool(read.things) and all(thing.kind == what.items[0].kind for thing in read.things), held)


def _score_scene(what: Scene, read: SceneReading, held: bool, score: Score) -> None:
    """Count the weather that hides things, even from a person, under names of its own."""
    hidden = what.weather in ("rain", "snowfall", "fog")
    suffix = " in bad weather" if hidden else ""
    score.count(f"place{suffix}", read.place == what.place, held and not hidden)
    score.count(f"time{suffix}", read.time == what.time, held and not hidden)
    for extra in possible_extras(what.place, what.time):
        there = extra in what.extras
        right = (extra in read.extras) == there
        score.count(f"extras{suffix}", right, held and not hidden)
        if not hidden:
            score.count(f"{extra} {'seen' if there else 'absent'}", right)


def score_on_renders(detector: Detector, n: int = 2000, seed: int = 1, *, soft: bool = False) -> dict[str, float]:
    """Score the detector on drawings it has not seen, half of them arrangements: the share right by what was asked.

    `soft` scores it on softened drawings instead, which say how it fares with a generator's pictures.
    """
    rng, generator = random.Random(f"score {seed}"), torch.Generator().manual_seed(seed)
    score = Score()
    for start in range(0, n, 64):
        count = min(64, n - start)
        pictures = [any_arrangement(rng) if number % 2 else any_scene(rng) for number in range(count)]
        pictures = [Picture(picture.what, "", picture.seed) for picture in pictures]
        images = [draw(picture) for picture in pictures]
        if soft:
            images = [Image.fromarray(pixels) for pixels in to_bytes(soften(to_tensor(images), generator))]
        scenes = iter(detector.read_scenes(images[::2]))
        for picture, image in zip(pictures, images, strict=True):
            what = picture.what
            if isinstance(what, Arrangement):
                _score_arrangement(detector, picture, image, score)
                continue
            _score_scene(what, next(scenes), has_held_out(picture), score)
    return score.shares()


def build(folder: Path, plan: Plan | None = None, scored: int = 4000) -> Detector:
    """Train a detector, score what was saved of it on `scored` new drawings, plain and softened, and keep it in `folder`."""
    train(plan).save(folder)
    detector = Detector.load(folder)
    detector.card["drawings"] = score_on_renders(detector, scored, 1)
    detector.card["softened drawings"] = score_on_renders(detector, scored, 2, soft=True)
    detector.save(folder)
    return detector
