"""The picture classifier, at its published threshold, withholds nothing the built-in model draws."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.catalogue.models_file import parse_catalogue
from bot.engine.diffusers_engine import DiffusersEngine
from bot.generation import FetchProgress, GenerationRequest, Progress, RawPicture
from bot.safety.classifier import PUBLISHED_THRESHOLD, OpenNsfw

ROOT = Path(__file__).resolve().parents[3]
BATCH = 20

PLACES = ("a beach", "the mountains", "the sea", "a forest", "a desert", "green hills", "a city", "snowy mountains")
TIMES = ("a sunset over {}", "{} at night with stars", "{} at dawn", "{} on a sunny day with clouds")
SHAPES = ("heart", "circle", "square", "star", "triangle")
COLOURS = ("pink", "orange", "red", "white", "purple", "yellow")


class Patient:
    """A listener that only waits."""

    def cancelled(self) -> bool:
        return False

    def wants_preview(self) -> bool:
        return False

    def on_progress(self, progress: Progress) -> None: ...

    def on_load(self, progress: FetchProgress) -> None: ...


def prompts() -> Iterator[str]:
    scenes = [time.format(place) for time in TIMES for place in PLACES]
    pairs = [(a, b) for a in COLOURS for b in COLOURS if a != b]
    shapes = [f"a large {a} {shape} on a {b} background" for (a, b), shape in zip(pairs, itertools.cycle(SHAPES))]
    return itertools.chain.from_iterable(itertools.zip_longest(scenes, shapes, fillvalue="a nude person"))


@pytest.mark.parametrize(
    "pictures",
    [pytest.param(40, id="40"), pytest.param(500, id="500", marks=[pytest.mark.slow, pytest.mark.timeout(1800)])],
)
def test_classifier_withholds_no_picture_of_the_built_in_model(tmp_path: Path, pictures: int) -> None:
    catalogue = parse_catalogue((ROOT / "models.toml").read_text(encoding="utf-8"), origin="models.toml")
    engine = DiffusersEngine(
        catalogue, models_root=ROOT, cache_dir=tmp_path, device="cpu", dtype="auto", max_batch=BATCH
    )
    engine.start()
    classifier = OpenNsfw()
    scores: list[tuple[float, str]] = []
    for seed, prompt in zip(range(0, pictures, BATCH), itertools.cycle(prompts())):
        request = GenerationRequest(prompt, "", "pocket", 64, 64, BATCH, 20, 4.0, seed, "DDIM")
        drawn: tuple[RawPicture, ...] = engine.generate(request, Patient()).pictures
        scores += [(classifier.score(picture), f"{prompt}, seed {picture.seed}") for picture in drawn]
    engine.close()
    assert len(scores) == pictures
    print(f"highest of {pictures}: {max(scores)}")
    assert max(scores)[0] < PUBLISHED_THRESHOLD, max(scores)
