"""The judging of the pocket family: 500 prompts with fixed seeds, drawn by a model and read by the detector.

Half of the questions hold a combination that never occurs in training. The words are held out as well: a third are in the one
plain wording (`captions.plain_caption`), the rest worded from seeds that training does not use, and never as `known` has them.
"""

import json
import random
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from tools.pocket.captions import named_caption, plain_caption
from tools.pocket.detector import Detector, relation
from tools.pocket.detector_training import any_arrangement, any_scene
from tools.pocket.distance import picture_distances
from tools.pocket.draw import draw
from tools.pocket.score import Score
from tools.pocket.spec import NAMED_EXTRAS, PLACES, TIMES, Arrangement, Picture, Scene, held_out, possible_extras

DrawBatch = Callable[[list[str], list[int]], list[Image.Image]]

# How many of a hundred questions are of each kind.
KINDS = {"shape": 26, "two": 22, "scene": 20, "extras": 24, "several": 4, "subject": 4}
MEASURED_EXTRAS = ("moon", "boat", "house")
# Table rows in order; the issue's own six first.
ROWS = (
    "colour of shape and background",
    "shape",
    "two-object relation",
    "scene and time of day",
    "extras (moon, boat, house)",
    "moon",
    "boat",
    "house",
    "other extras",
    "no extra unasked",
    "colours of both things and background",
    "order, where both were found",
    "count",
    "subject",
)


@dataclass(frozen=True, slots=True)
class Question:
    """What to draw, in words and in truth; `held_out` when a combination the words name never occurs in training."""

    prompt: str
    picture: Picture
    seed: int
    held_out: bool
    kind: str


@dataclass(frozen=True, slots=True)
class Report:
    """How many of each of ROWS were right, and how many were asked: over all questions, and over those held out."""

    right: dict[str, int]
    asked: dict[str, int]
    held_right: dict[str, int]
    held_asked: dict[str, int]
    distances: dict[str, float]

    def share(self, row: str, *, held_out: bool = False) -> float:
        """The share of right answers, 0 to 1; 1 when nothing was asked."""
        right, asked = (self.held_right, self.held_asked) if held_out else (self.right, self.asked)
        return right.get(row, 0) / asked[row] if asked.get(row) else 1.0

    def table(self) -> str:
        """The figures as a Markdown table."""
        lines = ["| measured | right | questions | right, held out | questions, held out |", "|---|---|---|---|---|"]
        for row in ROWS:
            if self.asked.get(row):
                held = f"{self.share(row, held_out=True):.1%}" if self.held_asked.get(row) else "–"
                lines.append(
                    f"| {row} | {self.share(row):.1%} | {self.asked[row]} | {held} | {self.held_asked.get(row, 0)} |"
                )
        lines += [f"| {name} | {value:.2f} | | | |" for name, value in self.distances.items()]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The figures for a file: the share and the number of questions of each row, all and held out, and the distances."""
        rows = {
            row: {
                "right": round(self.share(row), 4), "questions": self.asked[row],
                "right_held_out": round(self.share(row, held_out=True), 4) if self.held_asked.get(row) else None,
                "questions_held_out": self.held_asked.get(row, 0),
            }
            for row in ROWS if self.asked.get(row)
        }  # fmt: skip
        return {"measured": rows, "distances": {name: round(value, 3) for name, value in self.distances.items()}}


def _held_extras(scene: Scene) -> frozenset[str]:
    return frozenset(extra for extra in scene.extras if held_out(scene.place, scene.time, extra))


def _is_held_out(picture: Picture) -> bool:
    what = picture.what
    if isinstance(what, Scene):
        return bool(_held_extras(what))
    return any(held_out(item.colour, item.kind, what.background) for item in what.items)


def _scene_with(rng: random.Random, target: str, wanted: bool) -> Picture:
    """Choose a landscape with the extra `target`, of a held-out combination where one is wanted and there is one."""
    spots = [
        (place, time) for place in NAMED_EXTRAS[target] for time in TIMES if target in possible_extras(place, time)
    ]
    chosen = [spot for spot in spots if held_out(*spot, target) == wanted] or spots
    place, time = rng.choice(chosen)
    others = [extra for extra in possible_extras(place, time) if extra != target and not held_out(place, time, extra)]
    extras = (target, rng.choice(others)) if others and rng.random() < 0.3 else (target,)
    return Picture(Scene(place, time, "", tuple(sorted(extras))), "", rng.getrandbits(32))


def _picture(kind: str, number: int, rng: random.Random) -> Picture:
    """Choose the picture of a question: every second is held out, as far as its kind allows."""
    wanted = number % 2 == 1
    if kind == "extras":
        others = [extra for extra in NAMED_EXTRAS if extra not in MEASURED_EXTRAS]
        target = rng.choice(others) if number // 2 % 4 == 3 else MEASURED_EXTRAS[number // 2 % 4]
        return _scene_with(rng, target, wanted)
    if kind == "scene" and wanted:
        spots = [
            (extra, place, time)
            for extra in NAMED_EXTRAS
            for place in PLACES
            for time in TIMES
            if extra in possible_extras(place, time)
        ]
        spots = [spot for spot in spots if held_out(*spot[1:], spot[0])] or spots
        extra, place, time = rng.choice(spots)
        return Picture(Scene(place, time, "", (extra,)), "", rng.getrandbits(32))
    while True:
        picture = any_scene(rng) if kind == "scene" else any_arrangement(rng, (kind,))
        if isinstance(picture.what, Scene) and not _fair(picture.what):
            continue
        if _is_held_out(picture) == wanted:
            return replace(picture, style="")


def _fair(scene: Scene) -> bool:
    """Whether a person could answer as well: at most one extra, and none in weather that hides things at night."""
    named = len(set(scene.extras) & set(NAMED_EXTRAS))
    return named <= (0 if scene.weather in ("rain", "snowfall", "fog") else 1)


def _words(picture: Picture, plain: bool, rng: random.Random, known: Container[str]) -> str:
    """Word a picture so that everything the judge looks for is said."""
    what = picture.what
    needed = {"colour", "background"}
    if isinstance(what, Scene):
        needed = set(_held_extras(what))
    elif what.relation:
        needed.add("relation")
    if plain and needed.isdisjoint({"sun", "stars", "clouds", "birds"}):
        return plain_caption(picture)
    for _ in range(200):
        text, named = named_caption(picture, rng)
        if needed <= named and text not in known:
            return text
    return plain_caption(picture)


def questions(n: int = 500, seed: int = 0, known: Container[str] = frozenset()) -> list[Question]:
    """Set the questions, always the same for the same arguments; `known` are captions that training has."""
    asked: list[Question] = []
    for kind, share in KINDS.items():
        for number in range(round(n * share / 100)):
            rng = random.Random(f"pocket judge {seed} {kind} {number}")
            picture = _picture(kind, number, rng)
            noise = rng.getrandbits(31)
            prompt = _words(picture, number // 2 % 3 == 0, rng, known)
            asked.append(Question(prompt, picture, noise, _is_held_out(picture), kind))
    return asked


def truth(asked: list[Question]) -> DrawBatch:
    """Answer the questions by drawing what they mean: the best a model could do, which scores the detector."""
    pictures = {(question.prompt, question.seed): question.picture for question in asked}
    return lambda prompts, seeds: [draw(pictures[key]) for key in zip(prompts, seeds, strict=True)]


def _judge_scene(question: Question, what: Scene, place: str, time: str, seen: frozenset[str], score: Score) -> None:
    held = question.held_out
    score.count("scene and time of day", (place, time) == (what.place, what.time), held)
    asked = set(what.extras) & set(NAMED_EXTRAS)
    for extra in asked:
        # The held-out half of an extra's row is that extra's own combination, not that of another in the picture.
        own = held_out(what.place, what.time, extra)
        if extra in MEASURED_EXTRAS:
            score.count("extras (moon, boat, house)", extra in seen, own)
        score.count(extra if extra in MEASURED_EXTRAS else "other extras", extra in seen, own)
    score.count("no extra unasked", not seen - asked, held)


def _judge_arrangement(
    question: Question, what: Arrangement, detector: Detector, image: Image.Image, score: Score
) -> None:
    held, read = question.held_out, detector.read_arrangement(image)
    ground = read.background == what.background
    if question.kind == "subject":
        score.count("subject", read.subject == what.items[0].kind, held)
    elif question.kind == "several":
        alike = all((thing.kind, thing.colour) == (what.items[0].kind, what.items[0].colour) for thing in read.things)
        score.count("count", alike and read.count == what.count, held)
    elif question.kind == "shape":
        largest = read.things[0] if read.things else None
        score.count(
            "colour of shape and background",
            ground and largest is not None and largest.colour == what.items[0].colour,
            held,
        )
        score.count("shape", largest is not None and largest.kind == what.items[0].kind, held)
    else:
        colours = sorted(thing.colour for thing in read.things) == sorted(item.colour for item in what.items)
        score.count("colours of both things and background", ground and colours, held)
        found = {(thing.kind, thing.colour): thing for thing in read.things} if read.count == 2 else {}
        pair = [found[key] for item in what.items if (key := (item.kind, item.colour)) in found]
        in_order = len(pair) == 2 and relation(*pair) == what.relation
        score.count("two-object relation", in_order, held)
        if len(pair) == 2:
            score.count("order, where both were found", in_order, held)


def _drawn(draw_batch: DrawBatch, asked: list[Question], rows: int) -> Iterator[Image.Image]:
    for start in range(0, len(asked), rows):
        part = asked[start : start + rows]
        yield from draw_batch([question.prompt for question in part], [question.seed for question in part])


def judge(
    draw_batch: DrawBatch, detector: Detector, asked: list[Question], rows: int = 16, *, distances: bool = True
) -> Report:
    """Have the questions drawn, `rows` at a time, and count what is right.

    Arguments: `draw_batch` takes prompts and seeds and returns as many pictures, of any size; `distances` also measures how
    far the pictures lie from drawings of the same questions (`distance.picture_distances`).
    """
    images = list(_drawn(draw_batch, asked, rows))
    score = Score()
    scenes = [
        (question, image)
        for question, image in zip(asked, images, strict=True)
        if isinstance(question.picture.what, Scene)
    ]
    readings = detector.read_scenes([image for _, image in scenes])
    for (question, _), read in zip(scenes, readings, strict=True):
        assert isinstance(question.picture.what, Scene)
        _judge_scene(question, question.picture.what, read.place, read.time, read.extras, score)
    for question, image in zip(asked, images, strict=True):
        if isinstance(question.picture.what, Arrangement):
            _judge_arrangement(question, question.picture.what, detector, image, score)
    far = (
        picture_distances(detector, images, [draw(replace(question.picture, seed=question.seed)) for question in asked])
        if distances
        else {}
    )
    return Report(dict(score.right), dict(score.asked), dict(score.held_right), dict(score.held_asked), far)


def dumps(report: Report) -> str:
    """The report as indented JSON."""
    return json.dumps(report.to_json(), indent=2) + "\n"
