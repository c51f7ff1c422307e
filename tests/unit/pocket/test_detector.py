"""The judge's eyes, on drawings whose content is known."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from tools.pocket.detector import WEIGHTS, Detector, Thing, relation
from tools.pocket.detector_training import Plan, any_arrangement, any_scene, score_on_renders, train
from tools.pocket.draw import draw
from tools.pocket.regions import colour_name, components, eroded, lab
from tools.pocket.spec import COLOURS, RELATIONS, Arrangement, Item, Picture, Scene, has_held_out


@cache
def detector() -> Detector:
    return Detector.load()


def test_lab_of_known_colours_is_as_published() -> None:
    known = lab([[255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 0, 255]])
    expected = [[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.20], [32.30, 79.19, -107.86]]
    assert known == pytest.approx(np.array(expected), abs=0.05)


@pytest.mark.parametrize("name", COLOURS)
def test_colour_name_of_a_slightly_wrong_colour_is_kept(name: str) -> None:
    rng = random.Random(name)
    for _ in range(50):
        shaken = [min(255, max(0, value + rng.randint(-14, 14))) for value in COLOURS[name]]
        assert colour_name(lab(shaken)) == name


def test_components_of_a_u_and_a_dot_are_two_the_larger_first() -> None:
    rows = ["#...#", "#.#.#", "#...#", "#####"]
    parts = components(np.array([[cell == "#" for cell in row] for row in rows]))
    assert [int(part.sum()) for part in parts] == [11, 1]


def test_eroded_mask_keeps_what_lies_at_the_edge_of_the_picture() -> None:
    mask = np.zeros((6, 6), bool)
    mask[:, :3] = True
    assert eroded(mask).sum() == 12


@pytest.mark.parametrize("expected", RELATIONS)
def test_relation_of_a_drawn_pair_is_the_drawn_one(expected: str) -> None:
    picture = Picture(Arrangement("white", (Item("star", "red", "small"), Item("heart", "blue")), expected), "", 3)
    things = {thing.colour: thing for thing in detector().read_arrangement(draw(picture)).things}
    assert relation(things["red"], things["blue"]) == expected
    assert {colour: thing.kind for colour, thing in things.items()} == {"red": "star", "blue": "heart"}


def test_relation_follows_the_axis_on_which_things_are_further_apart() -> None:
    low, high = Thing("circle", "red", (0.4, 0.8), 0.1, 1), Thing("circle", "red", (0.5, 0.3), 0.1, 1)
    assert (relation(low, high), relation(high, low)) == ("below", "above")


def test_touching_things_of_two_colours_are_two() -> None:
    pixels = np.full((128, 128, 3), COLOURS["yellow"], np.uint8)
    pixels[40:80, 24:64] = COLOURS["red"]
    pixels[40:80, 64:104] = COLOURS["orange"]
    read = detector().read_arrangement(Image.fromarray(pixels))
    assert (read.background, read.count) == ("yellow", 2)
    assert {(thing.kind, thing.colour) for thing in read.things} == {("square", "red"), ("square", "orange")}


def test_an_empty_picture_holds_nothing() -> None:
    read = detector().read_arrangement(Image.new("RGB", (128, 128), COLOURS["pink"]))
    assert (read.background, read.things, read.subject, read.relation) == ("pink", (), "", "")


@pytest.mark.parametrize("size", [(64, 64), (192, 192), (256, 256)], ids=str)
def test_other_sizes_are_read_as_well(size: tuple[int, int]) -> None:
    scene = Picture(Scene("sea", "night", "", ("boat", "moon")), "", 5)
    read = detector().read_scene(draw(scene, *size))
    assert (read.place, read.time, read.extras) == ("sea", "night", {"boat", "moon"})
    pair = Picture(Arrangement("black", (Item("triangle", "white", "large"), Item("circle", "pink")), "above"), "", 6)
    assert detector().read_arrangement(draw(pair, *size)).count == 2


def test_drawings_never_seen_are_read_rightly_at_least_99_times_in_100() -> None:
    shares = score_on_renders(detector(), 600, seed=11)
    weak = {
        name: share
        for name, share in shares.items()
        if not name.endswith(("seen", "absent", "weather")) and share < 0.99
    }
    assert not {name: share for name, share in weak.items() if "held out" not in name}
    assert all(share >= 0.96 for share in weak.values())


def test_softened_drawings_are_still_read() -> None:
    shares = score_on_renders(detector(), 300, seed=12, soft=True)
    assert min(shares[name] for name in ("background", "colour", "shape", "place", "time", "extras")) >= 0.95


def test_what_the_detector_learns_from_holds_held_out_combinations_and_no_two_alike() -> None:
    rng = random.Random(0)
    pictures = [any_scene(rng) for _ in range(300)] + [any_arrangement(rng) for _ in range(300)]
    assert sum(map(has_held_out, pictures)) > 20
    pairs = [
        picture.what.items for picture in pictures if isinstance(picture.what, Arrangement) and picture.what.relation
    ]
    assert all((first.kind, first.colour) != (second.kind, second.colour) for first, second in pairs)


def test_training_twice_gives_the_same_weights_and_they_survive_the_disk(tmp_path: Path) -> None:
    plan = Plan(arrangements=48, thing_passes=1, scenes=32, scene_passes=1, rows=16)
    first, second = train(plan), train(plan)
    first.save(tmp_path / "first")
    second.save(tmp_path / "second")
    assert (tmp_path / "first" / WEIGHTS).read_bytes() == (tmp_path / "second" / WEIGHTS).read_bytes()
    loaded = Detector.load(tmp_path / "first")
    image = draw(Picture(Scene("city", "night"), "", 1))
    assert loaded.read_scene(image).chances == pytest.approx(first.read_scene(image).chances, abs=0.01)
    assert loaded.card["plan"]["scenes"] == 32


@pytest.mark.parametrize("sigma", [1.0, 2.0])
def test_a_blurred_rim_is_no_thing_of_its_own(sigma: float) -> None:
    picture = Picture(Arrangement("yellow", (Item("heart", "purple", "large"),)), "", 4)
    read = detector().read_arrangement(draw(picture).filter(ImageFilter.GaussianBlur(sigma)))
    assert [(thing.kind, thing.colour) for thing in read.things] == [("heart", "purple")]


def test_a_blotch_of_the_grounds_own_colour_is_no_thing() -> None:
    pixels = np.array(draw(Picture(Arrangement("white", (Item("circle", "blue", "small"),)), "", 2)))
    pixels[:24, :40] = (196, 196, 196)
    assert detector().read_arrangement(Image.fromarray(pixels)).count == 1
