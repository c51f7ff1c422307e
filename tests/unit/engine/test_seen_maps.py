"""Depth maps and skeletons are made of a picture when it is drawn, by networks of transformers, and drawn with as ready-made ones are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from bot.catalogue.annotators import DEPTH, PEOPLE, POSE, AnnotatorSpec
from bot.catalogue.models import Catalogue
from bot.catalogue.models_file import parse_catalogue
from bot.catalogue.parts import needs
from bot.engine.base import Order
from bot.engine.devices import choose_device
from bot.engine.diffusers_engine import DiffusersEngine
from bot.engine.files.models import locate_parts
from bot.engine.looking.annotators import Annotator, load_annotator
from bot.engine.looking.seen_maps import NOBODY, depth_map, find_people, find_poses, pose_map
from bot.engine.looking.skeletons import draw_poses, from_coco
from bot.errors import ModelError, RequestError
from bot.generation import InputPictures, RawPicture
from tests.unit.engine.fakes import POCKET, ROOT, Notes, request
from tests.unit.engine.orders import error_of
from tests.unit.engine.tiny_annotators import save_depth, save_detector, save_poses

EDGES = ROOT / "models" / "pocket-extras" / "controlnet-edges"
GIVEN = "0" * 64
WIDTH, HEIGHT = 96, 64


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("annotators")
    save_depth(root / DEPTH)
    save_detector(root / PEOPLE)
    save_poses(root / POSE)
    return root


def annotator(folders: Path, kind: str) -> Annotator:
    spec = AnnotatorSpec(kind, kind, f"The {kind} one", str(folders / kind), "MIT")
    return load_annotator(spec, folders / kind, choose_device("cpu", "fp32"))


def photo(width: int = WIDTH, height: int = HEIGHT) -> RawPicture:
    small = np.random.default_rng(4).integers(0, 255, (4, 6, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
    return RawPicture(0, 0, width, height, image.tobytes())


def pixels(picture: RawPicture) -> np.ndarray:
    return np.frombuffer(picture.pixels, np.uint8).reshape(picture.height, picture.width, 3)


@torch.inference_mode()
def test_depth_map_is_what_the_pipeline_of_transformers_gives(folders: Path) -> None:
    depth, picture = annotator(folders, DEPTH), photo()
    library: Any = transformers
    pipe = library.pipeline("depth-estimation", model=depth.network, image_processor=depth.processor)
    theirs = np.asarray(pipe(depth.image_of(picture))["depth"])
    ours = pixels(depth_map(depth, picture))
    assert (ours == theirs[..., None]).all()
    assert (int(ours.min()), int(ours.max())) == (0, 255)


@torch.inference_mode()
def test_depth_map_of_what_is_equally_far_everywhere_is_black(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    depth = annotator(folders, DEPTH)
    flat = SimpleNamespace(predicted_depth=torch.full((1, 28, 28), 3.0))
    monkeypatch.setattr(depth.network, "forward", lambda **_: flat)
    assert not pixels(depth_map(depth, photo())).any()


def seeing(people: Annotator, monkeypatch: pytest.MonkeyPatch, *found: tuple[str, float, list[float]]) -> None:
    """Let a detector find these: a label, a score, and a box as shares of the picture (centre, then width and height)."""
    labels = people.network.config.label2id
    logits = torch.full((1, 6, 2), -20.0)
    boxes = torch.zeros(1, 6, 4)
    for place, (label, score, box) in enumerate(found):
        logits[0, place, labels[label]] = torch.logit(torch.tensor(score))
        boxes[0, place] = torch.tensor(box)
    outputs = SimpleNamespace(logits=logits, pred_boxes=boxes)
    monkeypatch.setattr(people.network, "forward", lambda **_: outputs)


@torch.inference_mode()
def test_find_people_gives_their_boxes_the_surest_first_inside_the_picture(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    people = annotator(folders, PEOPLE)
    seeing(
        people, monkeypatch, ("Person", 0.5, [0.25, 0.5, 0.25, 0.5]), ("Dog", 0.9, [0.5, 0.5, 0.5, 0.5]),
        ("Person", 0.9, [0.9, 0.5, 0.4, 1.0]), ("Person", 0.2, [0.5, 0.5, 0.5, 0.5]),
    )  # fmt: skip
    surest, other = find_people(people, photo())
    assert surest == pytest.approx([0.7 * WIDTH, 0, 0.3 * WIDTH, HEIGHT], abs=1e-3)
    assert other == pytest.approx([0.125 * WIDTH, 0.25 * HEIGHT, 0.25 * WIDTH, 0.5 * HEIGHT], abs=1e-3)


@torch.inference_mode()
def test_find_poses_puts_joints_where_the_network_sees_them(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poses = annotator(folders, POSE)
    heatmaps = torch.zeros(1, 17, 16, 12)
    for joint, (x, y) in {0: (5, 4), 5: (8, 7), 6: (2, 7)}.items():
        ys, xs = torch.meshgrid(torch.arange(16), torch.arange(12), indexing="ij")
        heatmaps[0, joint] = torch.exp(-((xs - x) ** 2 + (ys - y) ** 2) / 2.0)
    monkeypatch.setattr(poses.network, "forward", lambda **_: SimpleNamespace(heatmaps=heatmaps))
    # A box of the network's own shape, 3:4, which it sees with a quarter more around.
    left, top, width, height = 30.0, 10.0, 30.0, 40.0
    (pose,) = find_poses(poses, photo(), [[left, top, width, height]])

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            left + width / 2 + (x / 11 - 0.5) * 1.25 * width, top + height / 2 + (y / 15 - 0.5) * 1.25 * height
        )  # fmt: skip

    assert pose[0] == pytest.approx(place(5, 4), abs=0.5)
    assert pose[5] == pytest.approx(place(8, 7), abs=0.5)
    assert pose[2] == pytest.approx(place(2, 7), abs=0.5)
    assert pose[1] == pytest.approx(place(5, 7), abs=0.5)
    assert [n for n, joint in enumerate(pose) if joint is not None] == [0, 1, 2, 5]


@torch.inference_mode()
def test_find_poses_of_experts_tells_which_data_set(folders: Path, tmp_path: Path) -> None:
    save_poses(tmp_path / POSE, num_experts=2, part_features=4)
    assert len(find_poses(annotator(tmp_path, POSE), photo(), [[0.0, 0.0, 40.0, 60.0], [9.0, 9.0, 20.0, 20.0]])) == 2


@torch.inference_mode()
def test_pose_map_of_a_picture_without_people_says_so(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    people = annotator(folders, PEOPLE)
    seeing(people, monkeypatch, ("Dog", 0.9, [0.5, 0.5, 0.5, 0.5]))
    with pytest.raises(RequestError, match=NOBODY):
        pose_map(people, annotator(folders, POSE), photo())


def test_from_coco_joins_the_shoulders_to_a_neck_and_drops_what_is_unsure() -> None:
    joints = [(float(n), float(2 * n)) for n in range(17)]
    scores = [0.9] * 17
    pose = from_coco(joints, scores)
    assert pose[1] == (5.5, 11.0)
    right_arm, left_leg, eyes_and_ears = [2, 3, 4], [11, 12, 13], [14, 15, 16, 17]
    assert [pose[n] for n in right_arm] == [joints[n] for n in (6, 8, 10)]
    assert [pose[n] for n in left_leg] == [joints[n] for n in (11, 13, 15)]
    assert [pose[n] for n in eyes_and_ears] == [joints[n] for n in (2, 1, 4, 3)]
    scores[6] = 0.1
    assert from_coco(joints, scores)[1:3] == [None, None]


def test_draw_poses_paints_limbs_and_joints_in_the_colours_that_networks_know() -> None:
    pose: list[tuple[float, float] | None] = [None] * 18
    pose[0], pose[1], pose[2], pose[5] = (256, 100), (256, 200), (176, 200), (336, 200)
    drawn = pixels(draw_poses([pose], 512, 512))
    assert tuple(drawn[100, 256]) == (255, 0, 0)  # the nose
    assert tuple(drawn[200, 256]) == (255, 85, 0)  # the neck
    assert tuple(drawn[200, 216]) == (153, 0, 0)  # to the right shoulder, dimmed
    assert tuple(drawn[200, 296]) == (153, 51, 0)  # to the left shoulder
    assert tuple(drawn[150, 256]) == (0, 0, 153)  # the neck's own limb to the nose
    assert tuple(drawn[203, 216]) == (153, 0, 0)
    assert tuple(drawn[206, 216]) == (0, 0, 0)
    assert not drawn[300:].any()


def catalogue_with(folders: Path, *kinds: str) -> Catalogue:
    text = f'[models.mine]\nname = "Mine"\nsource = "{POCKET}"\nfamily = "sd15"\nlicence = "MIT"\n'
    text += f'controls = {{ depth = "{EDGES}", pose = "{EDGES}" }}\n'
    for kind in kinds:
        text += f'[annotators.{kind}-one]\nkind = "{kind}"\nname = "The {kind} one"\nsource = "{folders / kind}"\nlicence = "MIT"\n'
    return locate_parts(parse_catalogue(text, origin="models.toml"), ROOT)


def engine_with(folders: Path, *kinds: str) -> DiffusersEngine:
    return DiffusersEngine(
        catalogue_with(folders, *kinds),
        models_root=ROOT,
        cache_dir=folders / "hub",
        device="cpu",
        dtype="fp32",
        max_batch=4,
    )


def order(kind: str, control: RawPicture, **changes: Any) -> Order:
    values: dict[str, Any] = {"num_inference_steps": 2, "seed": 3, **changes}
    asked = request(model="mine", control=GIVEN, control_type=kind, **values)
    return Order(asked, Notes(), None, InputPictures(control=control))


def drawn(engine: DiffusersEngine, one: Order) -> list[RawPicture]:
    engine.admit(one)
    while engine.busy:
        engine.turn()
    return list(one.future.result(0).pictures)


def test_engine_draws_with_depth_as_with_the_ready_made_map_and_makes_it_once(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, picture = engine_with(folders, DEPTH), photo(64, 64)
    with torch.inference_mode():
        ready = depth_map(annotator(folders, DEPTH), picture)
    made: list[RawPicture] = []

    def counted(*told: Any) -> RawPicture:
        made.append(depth_map(*told))
        return made[-1]

    monkeypatch.setattr("bot.engine.looking.seen_maps.depth_map", counted)
    pictures = drawn(engine, order("depth", picture, count=2))
    assert made == [ready]
    assert [one.pixels for one in pictures] == [one.pixels for one in drawn(engine, order("raw depth", ready, count=2))]
    assert pictures[0].pixels != drawn(engine, order("raw depth", picture))[0].pixels


def test_engine_draws_with_poses_as_with_the_ready_made_map(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine, picture = engine_with(folders, PEOPLE, POSE), photo(64, 64)
    monkeypatch.setattr("bot.engine.looking.seen_maps.find_people", lambda *_: [[5.0, 5.0, 50.0, 55.0]])
    with torch.inference_mode():
        ready = pose_map(annotator(folders, PEOPLE), annotator(folders, POSE), picture)
    assert pixels(ready).any()
    assert drawn(engine, order("pose", picture))[0].pixels == drawn(engine, order("raw pose", ready))[0].pixels


def test_engine_where_nobody_is_seen_fails_that_request_alone(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_with(folders, PEOPLE, POSE)
    monkeypatch.setattr("bot.engine.looking.seen_maps.find_people", lambda *_: [])
    empty, fine = order("pose", photo(64, 64)), order("raw pose", photo(64, 64))
    engine.admit(empty)
    assert drawn(engine, fine)
    assert str(error_of(empty)) == NOBODY


def test_engine_loads_annotators_and_makes_a_map_a_turn_each(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_with(folders, PEOPLE, POSE)
    monkeypatch.setattr("bot.engine.looking.seen_maps.find_people", lambda *_: [[5.0, 5.0, 50.0, 55.0]])
    seen: list[str] = []
    attempt = engine._guard.attempt

    def noted(what: str, *told: Any, **named: Any) -> Any:
        seen.append(what)
        return attempt(what, *told, **named)

    monkeypatch.setattr(engine._guard, "attempt", noted)
    turns: list[int] = []
    engine.admit(order("pose", photo(64, 64)))
    while engine.busy:
        before = len(seen)
        engine.turn()
        turns.append(len(seen) - before)
    assert seen[1:6] == [
        "loading a control network", "loading an annotator", "loading an annotator", "making a control map", "encoding a prompt",
    ]  # fmt: skip
    assert max(turns) <= 2  # a control network and an annotator may come in one


def test_engine_without_an_annotator_says_what_to_send(folders: Path) -> None:
    lost = order("pose", photo(64, 64))
    engine = engine_with(folders, DEPTH)
    engine.admit(lost)
    while engine.busy:
        engine.turn()
    assert isinstance(error_of(lost), ModelError)
    assert "send a ready-made one as “raw pose”" in str(error_of(lost))


def test_load_annotator_of_another_architecture_is_refused_by_name(folders: Path) -> None:
    with pytest.raises(ModelError, match=r"'rt_detr'; for depth there are depth_anything, dpt"):
        load_annotator(
            replace(annotator(folders, PEOPLE).spec, kind=DEPTH), folders / PEOPLE, choose_device("cpu", "fp32")
        )


def test_needs_of_a_map_that_is_to_be_made_name_its_annotators(folders: Path) -> None:
    catalogue = catalogue_with(folders, POSE, DEPTH, PEOPLE)
    asked = request(model="mine", control=GIVEN, control_type="pose")
    assert needs(catalogue, asked) == ("mine", "mine+depth", "people-one", "pose-one")
    assert needs(catalogue, replace(asked, control_type="raw pose")) == ("mine", "mine+depth")
    assert needs(catalogue, replace(asked, control_type="depth")) == ("mine", "mine+depth", "depth-one")
