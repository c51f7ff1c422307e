"""The picture classifier, with its real weights."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

from bot.generation import RawPicture
from bot.safety.classifier import PUBLISHED_THRESHOLD, OpenNsfw


def flat(red: int, green: int, blue: int, side: int = 64) -> RawPicture:
    return RawPicture(n=0, seed=1, width=side, height=side, pixels=bytes((red, green, blue)) * side * side)


def noise(seed: int, width: int = 64, height: int = 48) -> RawPicture:
    pixels = random.Random(seed).randbytes(width * height * 3)
    return RawPicture(n=0, seed=seed, width=width, height=height, pixels=pixels)


def test_open_nsfw_harmless_pictures_stay_under_the_published_threshold() -> None:
    classifier = OpenNsfw()
    assert classifier.threshold == PUBLISHED_THRESHOLD == 0.5
    scores = [classifier.score(picture) for picture in (flat(200, 80, 40), flat(240, 150, 160), noise(3))]
    assert all(0.0 <= score < PUBLISHED_THRESHOLD for score in scores)
    assert len(set(scores)) == 3


def test_open_nsfw_from_several_threads_gives_the_same_scores() -> None:
    pictures = [noise(seed) for seed in range(4)]
    alone = [OpenNsfw().score(picture) for picture in pictures]
    classifier = OpenNsfw()
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(classifier.score, pictures)) == alone


def test_open_nsfw_own_threshold_is_kept() -> None:
    assert OpenNsfw(0.2).threshold == 0.2
