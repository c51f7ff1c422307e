"""The judging, with models that are perfect, blind, or wrong in one known way."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from PIL import Image

from tools.pocket.captions import plain_caption
from tools.pocket.detector import Detector
from tools.pocket.distance import frechet_distance, picture_distances, reconstruction_error
from tools.pocket.draw import draw
from tools.pocket.judge import ROWS, DrawBatch, Question, Report, dumps, judge, questions, truth
from tools.pocket.spec import Arrangement, Scene, has_held_out, held_out

OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


@cache
def detector() -> Detector:
    return Detector.load()


@cache
def asked() -> list[Question]:
    return questions()


@cache
def true_report() -> Report:
    return judge(truth(asked()), detector(), asked())


def answering(change: dict[str, str], only: list[Question]) -> DrawBatch:
    """Draw every pair with its relation changed."""
    pictures = {(question.prompt, question.seed): question.picture for question in only}

    def draw_batch(prompts: list[str], seeds: list[int]) -> list[Image.Image]:
        images: list[Image.Image] = []
        for key in zip(prompts, seeds, strict=True):
            picture = pictures[key]
            assert isinstance(picture.what, Arrangement)
            what = Arrangement(picture.what.background, picture.what.items, change[picture.what.relation])
            images.append(draw(type(picture)(what, "", picture.seed)))
        return images

    return draw_batch


def test_questions_are_five_hundred_always_the_same_and_no_two_alike() -> None:
    assert len(asked()) == 500
    assert questions() == asked()
    assert questions(seed=1) != asked()
    assert len({(question.prompt, question.seed) for question in asked()}) == 500


def test_half_of_the_questions_hold_combinations_that_training_never_has() -> None:
    held = [question for question in asked() if question.held_out]
    assert 200 <= len(held) <= 260
    assert all(has_held_out(question.picture) for question in held)


def test_a_caption_known_from_training_is_not_asked_again() -> None:
    worded = {question.prompt for question in asked()}
    again = questions(known=worded)
    assert [question.picture for question in again] == [question.picture for question in asked()]
    plain = {plain_caption(question.picture) for question in asked()}
    assert not {question.prompt for question in again} & worded - plain


def test_a_held_out_combination_is_named_in_the_words() -> None:
    words = {"sun": ("sun",), "stars": ("star",), "birds": ("bird", "gull"), "clouds": ("cloud",), "moon": ("moon",)}
    for question in asked():
        what = question.picture.what
        if isinstance(what, Scene):
            for extra in what.extras:
                if held_out(what.place, what.time, extra) and extra in words:
                    assert any(word in question.prompt.lower() for word in words[extra]), question.prompt


def test_the_truth_scores_at_least_99_percent_in_every_row_and_held_out() -> None:
    report = true_report()
    assert {row: report.share(row) for row in ROWS if report.share(row) < 0.99} == {}
    assert {row: report.share(row, held_out=True) for row in ROWS if report.share(row, held_out=True) < 0.98} == {}
    assert set(report.asked) == set(ROWS)


def test_the_table_and_the_file_hold_every_row() -> None:
    table, written = true_report().table(), dumps(true_report())
    assert all(f"| {row} |" in table and f'"{row}"' in written for row in ROWS)
    assert "Fréchet" in table


def test_a_blind_model_gets_nothing_right() -> None:
    few = asked()[::10]
    report = judge(
        lambda prompts, _: [Image.new("RGB", (128, 128), (127, 127, 127)) for _ in prompts],
        detector(),
        few,
        distances=False,
    )
    assert report.share("colour of shape and background") == 0
    assert report.share("two-object relation") == 0
    assert report.share("scene and time of day") < 0.2


def test_pairs_the_wrong_way_round_keep_their_colours_and_lose_the_relation() -> None:
    pairs = [question for question in asked() if question.kind == "two"][:20]
    report = judge(answering(OPPOSITE, pairs), detector(), pairs, distances=False)
    assert report.share("colours of both things and background") == 1
    assert report.share("two-object relation") == 0
    assert report.share("order, where both were found") == 0


def test_frechet_distance_of_known_gaussians_is_the_formula() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(0, 1, (200_000, 2)), rng.normal([3, 0], [2, 1], (200_000, 2))
    assert frechet_distance(one, other) == pytest.approx(9 + 1, abs=0.1)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-6)


def test_blurred_drawings_lie_further_from_drawings_than_drawings_do() -> None:
    drawn = [draw(question.picture) for question in asked()[::4]]
    again = [draw(replace(question.picture, seed=question.seed)) for question in asked()[::4]]
    soft = [image.resize((48, 48)).resize((128, 128)) for image in again]
    floor, far = (picture_distances(detector(), images, drawn) for images in (again, soft))
    assert far["Fréchet distance, texture"] > 5 * floor["Fréchet distance, texture"]


def test_landscapes_of_another_time_lie_further_in_meaning_than_the_same_drawn_anew() -> None:
    scenes = [question.picture for question in asked() if isinstance(question.picture.what, Scene)]
    drawn = [draw(picture) for picture in scenes]
    again = [draw(replace(picture, seed=picture.seed + 1)) for picture in scenes]
    other = [
        draw(replace(picture, what=replace(picture.what, time="night" if picture.what.time != "night" else "day")))
        for picture in scenes
        if isinstance(picture.what, Scene)
    ]
    floor, far = (picture_distances(detector(), images, drawn) for images in (again, other))
    assert far["Fréchet distance, meaning"] > 3 * floor["Fréchet distance, meaning"]


def test_reconstruction_error_of_a_vae_is_between_nothing_and_all() -> None:
    torch.manual_seed(0)
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=2).eval()
    pictures = torch.rand(3, 3, 16, 16) * 2 - 1
    error = reconstruction_error(vae, pictures, rows=2)
    assert 0.1 < error["mean_absolute_error"] < 2
    assert 0 < error["psnr_db"] < 20
