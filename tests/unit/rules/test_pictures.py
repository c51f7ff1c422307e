"""The rules of drawing from pictures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bot.catalogue.annotators import DEPTH, AnnotatorSpec
from bot.catalogue.models_file import parse_catalogue
from bot.catalogue.references import IpAdapterSpec
from bot.errors import ConfigError, RequestError
from bot.generation import GenerationOptions, InputRef
from bot.limits import price, resolve
from bot.prompts.pictures import size_like

CATALOGUE = parse_catalogue(
    """
[models.full]
name = "Full"
source = "a/b"
family = "sd15"
licence = "-"
steps = 20
inpainting = "somewhere"
controls = { canny = "edges", depth = "depth" }
ip_adapter = "ip/adapter.safetensors"
ip_adapter_scale = 0.8
[models.words]
name = "Words"
source = "a/c"
family = "z-image"
licence = "-"
side_multiple = 16
""",
    origin="the test",
)
PHOTO = InputRef("a" * 64, 1500, 1000)
MASK = InputRef("b" * 64, 750, 500)
MAP = InputRef("c" * 64, 512, 512)
SEEN = InputRef("d" * 64, 300, 900)


def resolved(**options: Any) -> Any:
    return resolve(GenerationOptions("a cat", **options), CATALOGUE, new_seed=lambda: 1)


def test_resolve_picture_gets_a_size_of_its_shape_and_the_default_strength() -> None:
    request = resolved(image=PHOTO)
    assert (request.width, request.height) == (624, 416)
    assert (request.image, request.strength, request.steps_taken) == (PHOTO.digest, 0.6, 12)
    assert price(request) == 624 * 416 * 12


def test_resolve_asked_size_goes_before_the_pictures() -> None:
    assert (resolved(image=PHOTO, aspect="1:1").width, resolved(image=PHOTO, height=512).height) == (512, 512)


def test_resolve_mask_of_the_pictures_shape_is_drawn_anew() -> None:
    request = resolved(image=PHOTO, mask=MASK)
    assert (request.mask, request.strength) == (MASK.digest, 1.0)


def test_resolve_control_without_a_type_takes_the_models_first() -> None:
    request = resolved(control=MAP, control_scale=0.5)
    assert (request.control, request.control_type, request.control_scale) == (MAP.digest, "canny", 0.5)
    assert resolved(control=MAP, control_type="Raw  Depth").control_type == "raw depth"


def test_resolve_control_type_that_an_annotator_of_the_catalogue_makes_is_taken() -> None:
    depth = AnnotatorSpec("d", DEPTH, "Depth", "a/d", "MIT")
    options = GenerationOptions("a cat", control=MAP, control_type="depth")
    request = resolve(options, replace(CATALOGUE, annotators=(depth,)), new_seed=lambda: 1)
    assert (request.control_type, request.control) == ("depth", MAP.digest)


def test_resolve_without_pictures_is_what_it_was() -> None:
    request = resolved()
    assert request.inputs == ()
    assert (request.strength, request.steps_taken) == (1.0, 20)


def test_resolve_reference_counts_as_its_model_says_goes_with_the_others_and_changes_no_size() -> None:
    request = resolved(reference=SEEN)
    assert (request.reference, request.reference_scale, request.width, request.height) == (SEEN.digest, 0.8, 512, 512)
    every = resolved(reference=SEEN, image=PHOTO, mask=MASK, control=MAP)
    assert every.inputs == (PHOTO.digest, MASK.digest, MAP.digest, SEEN.digest)
    assert (resolved().reference, resolved().reference_scale) == ("", 1.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"image": PHOTO, "model": "words"}, "Words draws from words alone"),
        ({"image": PHOTO, "strength": 0}, "Strength goes from just above 0"),
        ({"image": PHOTO, "strength": 1.1}, "1.1 does not fit"),
        ({"image": PHOTO, "strength": float("nan")}, "Strength takes a number"),
        ({"image": PHOTO, "strength": 0.01}, "leaves no step of 20 to draw; use 0.05 or more"),
        ({"strength": 0.5}, "add the picture"),
        ({"mask": MASK}, "add the picture, too"),
        ({"image": PHOTO, "mask": replace(MASK, width=500)}, "The mask is 500×500 and the picture 1500×1000"),
        ({"control_type": "canny"}, "needs a control picture"),
        ({"control_scale": 1.0}, "needs a control picture"),
        ({"control": MAP, "control_type": "pose"}, "no control network for pose; it has canny, depth, raw canny, raw depth"),
        ({"control": MAP, "control_type": "depth"}, "no annotator of the kind “depth”. Send a ready-made one as “raw depth”"),
        ({"control": MAP, "control_type": "../x"}, "There is no such control type"),
        ({"control": MAP, "control_scale": 2.5}, "goes from 0 to 2"),
        ({"image": PHOTO, "mask": MASK, "tiling": True}, "leave out the mask or the tiling"),
        ({"tiling": True, "model": "words"}, "Words draws no tiles"),
        ({"base_seed": 3, "variation": 1.5}, "1.5 does not fit"),
        ({"base_seed": 3, "variation": float("nan")}, "A variation takes a number"),
        ({"variation": 0.2}, "give the base seed, too"),
        ({"base_seed": -1, "variation": 0.2}, "The base seed goes from 0 to 9007199254740991; -1 does not fit"),
        ({"base_seed": 2.5, "variation": 0.2}, "The base seed takes a whole number"),
        ({"control": MAP, "model": "words"}, "Words follows no control pictures"),
        ({"reference": SEEN, "model": "words"}, "Words has no IP-Adapter, which reads reference pictures"),
    ],
)  # fmt: skip
def test_resolve_what_does_not_go_together_is_refused_in_a_sentence(options: dict[str, Any], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        resolved(**options)


@pytest.mark.parametrize("strength", [0.05, 0.1, 0.29, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("steps", [1, 7, 20, 100])
def test_resolve_strength_that_it_names_as_enough_is(steps: int, strength: float) -> None:
    try:
        assert resolved(image=PHOTO, steps=steps, strength=strength).steps_taken >= 1
    except RequestError as error:
        least = float(str(error).split(" use ")[1].split(" ")[0])
        assert resolved(image=PHOTO, steps=steps, strength=least).steps_taken >= 1


@pytest.mark.parametrize("shape", [(1, 1), (10, 1), (1, 10), (3, 2), (1000, 1), (1999, 2001)])
def test_size_like_stays_within_the_model(shape: tuple[int, int]) -> None:
    spec = CATALOGUE["full"]
    width, height = size_like(InputRef("", *shape), spec)
    assert spec.min_side <= min(width, height) <= max(width, height) <= spec.max_side
    assert width * height <= spec.max_pixels
    assert width % spec.side_multiple == height % spec.side_multiple == 0


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('controls = { edges = "x" }', "knows the kinds canny"),
        ("controls = { canny = 3 }", "is a control network"),
        ('family = "flux"\ncontrols = { canny = "x" }', "is for the families"),
        ('family = "flux"\ninpainting = "x"', "is for the families"),
        ('family = "flux"\nip_adapter = "x.safetensors"', "ip_adapter is for the families sd15, sd21, sdxl, not flux"),
        ('ip_adapter = "x.bin"', "ip_adapter is a .safetensors file, not 'x.bin'; pickles are refused unread"),
        ("ip_adapter = 3", "ip_adapter has the wrong type"),
        (
            'ip_adapter = "o/n/x.safetensors"\nip_adapter_encoder = "o/n/clip.safetensors"',
            "ip_adapter_encoder is a folder with config.json and model.safetensors, not the file 'o/n/clip.safetensors'",
        ),
        ('ip_adapter_encoder = "x"', "ip_adapter_encoder goes with ip_adapter"),
        ('ip_adapter = "x.safetensors"\nip_adapter_scale = 0', "ip_adapter_scale is above 0 and at most 2, got 0"),
        ('ip_adapter = "x.safetensors"\nip_adapter_scale = nan', "ip_adapter_scale is above 0 and at most 2, got nan"),
        ('ip_adapter = "x.safetensors"\nip_adapter_scale = true', "ip_adapter_scale has the wrong type"),
    ],
)
def test_catalogue_wrong_parts_are_named(line: str, words: str) -> None:
    family = "" if "family" in line else 'family = "sd15"\n'
    with pytest.raises(ConfigError, match=words):
        parse_catalogue(f'[models.m]\nname = "M"\nsource = "a/b"\nlicence = "-"\n{family}{line}\n', origin="the test")


@pytest.mark.parametrize(
    ("lines", "adapter"),
    [
        ('ip_adapter = "ip/x.safetensors"', IpAdapterSpec("ip/x.safetensors", "ip/image_encoder", 0.6)),
        ('ip_adapter = "o/n/in/x.safetensors"', IpAdapterSpec("o/n/in/x.safetensors", "o/n/in/image_encoder", 0.6)),
        ('ip_adapter = "x.safetensors"\nip_adapter_encoder = "clip"', IpAdapterSpec("x.safetensors", "clip", 0.6)),
        ('ip_adapter = ""', None),
    ],
    ids=["encoder beside it", "encoder beside it on the Hub", "encoder elsewhere", "none"],
)
def test_catalogue_ip_adapter_has_its_encoder_beside_it_or_where_the_table_says(
    lines: str, adapter: IpAdapterSpec | None
) -> None:
    table = f'[models.m]\nname = "M"\nsource = "a/b"\nlicence = "-"\nfamily = "sdxl"\n{lines}\n'
    assert parse_catalogue(table, origin="the test")["m"].ip_adapter == adapter
