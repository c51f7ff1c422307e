"""The control maps that it takes an annotator to make, of how far away things are and how people stand. GPU thread.

They are made when a request is drawn, before its lanes begin, a step a turn: so it waits its turn, and keeps the picture that was sent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from bot.catalogue.annotators import AnnotatorSpec, map_makers
from bot.catalogue.models import Catalogue
from bot.engine.devices import Device
from bot.engine.drawings import Drawing
from bot.engine.guard import CPU_TURN_LIMIT_S, LOAD_LIMIT_S, TURN_LIMIT_S
from bot.engine.looking.annotators import Annotator, Annotators
from bot.engine.looking.skeletons import Pose, draw_poses, from_coco
from bot.errors import InvalidOutput, ModelError, RequestError
from bot.generation import RawPicture

if TYPE_CHECKING:
    import torch

MOST_PEOPLE = 20
"""Whose poses are looked at, those that are found most surely."""
PERSON_SCORE = 0.3
"""What a person has to score to count as found; as in the documentation of transformers' ViTPose."""
FLAT = 1e-5
NOBODY = "No person was found in the control picture; send another one, or a ready-made map as “raw pose”."


@dataclass(frozen=True, slots=True)
class Step:
    """One turn's work for a map: its name, the work, how long it may take in seconds, and whether it is inference."""

    what: str
    run: Callable[[], None]
    limit_s: float
    inference: bool


class MapRoom:
    """Makes the maps of requests that are drawn from other pictures than maps."""

    def __init__(self, catalogue: Catalogue, annotators: Annotators) -> None:
        self._catalogue = catalogue
        self._annotators = annotators

    def next(self, drawing: Drawing, device: Device) -> Step | None:
        """Name the next step towards a request's map; None where it has its map, or needs none.

        Its work raises ModelError, OutOfMemory, InvalidOutput, or RequestError where the picture has nothing to map.
        """
        picture, control_type = drawing.order.inputs.control, drawing.request.control_type
        if picture is None or drawing.control_map is not None:
            return None
        # They are small, and their own arithmetic after the network knows no half precision.
        exact = replace(device, dtype="fp32")
        try:
            specs = map_makers(self._catalogue.annotators, control_type)
        except LookupError:
            return Step("a control map", lambda: _refuse(control_type), LOAD_LIMIT_S, inference=False)
        if not specs:
            return None
        loaded = [self._annotators.find(spec.id) for spec in specs]
        for spec, annotator in zip(specs, loaded, strict=True):
            if annotator is None:
                return Step(
                    "loading an annotator", lambda spec=spec: self._load(spec, exact), LOAD_LIMIT_S, inference=False
                )
        ready = [annotator for annotator in loaded if annotator is not None]

        def make() -> None:
            # Nearness takes one of them; poses take two, for where people are and how they stand.
            made = depth_map(ready[0], picture) if len(ready) == 1 else pose_map(ready[0], ready[1], picture)
            drawing.control_map = made

        limit_s = TURN_LIMIT_S if device.is_gpu else CPU_TURN_LIMIT_S
        return Step("making a control map", make, limit_s, inference=True)

    def _load(self, spec: AnnotatorSpec, device: Device) -> None:
        self._annotators.load(spec, device)


def depth_map(annotator: Annotator, picture: RawPicture) -> RawPicture:
    """Show how far away things are: white is near, black far, of the picture's size. Raises InvalidOutput."""
    outputs = annotator.network(pixel_values=annotator.look_at(picture))
    (found,) = annotator.processor.post_process_depth_estimation(outputs, [(picture.height, picture.width)])
    nearness: torch.Tensor = found["predicted_depth"].float().cpu()
    if not bool(nearness.isfinite().all()):
        raise InvalidOutput(f"{annotator.spec.name} gave no depth (not a number); try another control picture.")
    spread = nearness.max() - nearness.min()
    # What is equally far everywhere differs by the resizing's rounding alone.
    flat = float(spread) <= FLAT * float(nearness.abs().max())
    grey = nearness * 0 if flat else (nearness - nearness.min()) / spread * 255
    pixels = grey.numpy().astype("uint8")[..., None].repeat(3, -1)
    return replace(picture, pixels=pixels.tobytes())


def pose_map(people: Annotator, poses: Annotator, picture: RawPicture) -> RawPicture:
    """Show how people stand, as skeletons, of the picture's size. Raises RequestError where nobody is seen, ModelError."""
    boxes = find_people(people, picture)
    if not boxes:
        raise RequestError(NOBODY)
    found = [pose for pose in find_poses(poses, picture, boxes) if any(pose)]
    if not found:
        raise RequestError(NOBODY)
    return draw_poses(found, picture.width, picture.height)


def find_people(people: Annotator, picture: RawPicture) -> list[list[float]]:
    """Give the boxes of people in a picture, the surest first: left, top, width, height in pixels. Raises ModelError."""
    names: dict[int, str] = people.network.config.id2label
    persons = [number for number, name in names.items() if name.lower() == "person"]
    if not persons:
        raise ModelError(f"{people.spec.name} does not know people; whoever runs the bot can choose another annotator.")
    outputs = people.network(pixel_values=people.look_at(picture))
    (found,) = people.processor.post_process_object_detection(
        outputs, threshold=PERSON_SCORE, target_sizes=[(picture.height, picture.width)]
    )
    mine = [
        (float(score), box.tolist())
        for score, label, box in zip(found["scores"], found["labels"], found["boxes"], strict=True)
        if int(label) in persons
    ]
    boxes = [_clipped(box, picture) for _, box in sorted(mine, key=lambda each: -each[0])]
    return [box for box in boxes if box[2] > 1 and box[3] > 1][:MOST_PEOPLE]


def find_poses(poses: Annotator, picture: RawPicture, boxes: list[list[float]]) -> list[Pose]:
    """Tell how the person in each box stands."""
    import torch

    inputs: Any = poses.processor(poses.image_of(picture), boxes=[boxes], return_tensors="pt")
    pixels = inputs["pixel_values"].to(poses.device.torch_device, poses.device.torch_dtype)
    # What was trained on several data sets is told which: the first is COCO.
    experts = getattr(poses.network.config.backbone_config, "num_experts", 1) > 1
    told = {"dataset_index": torch.zeros(len(boxes), dtype=torch.long, device=pixels.device)} if experts else {}
    outputs = poses.network(pixel_values=pixels, **told)
    (people,) = poses.processor.post_process_pose_estimation(outputs, boxes=[boxes])
    return [from_coco([tuple(joint) for joint in one["keypoints"].tolist()], one["scores"].tolist()) for one in people]


def _clipped(box: list[float], picture: RawPicture) -> list[float]:
    """Turn left, top, right, bottom into left, top, width, height inside the picture."""
    left, right = (min(max(side, 0.0), picture.width) for side in (box[0], box[2]))
    top, bottom = (min(max(side, 0.0), picture.height) for side in (box[1], box[3]))
    return [left, top, right - left, bottom - top]


def _refuse(control_type: str) -> None:
    raise ModelError(
        f"Nothing here makes a {control_type} map any more; send a ready-made one as “raw {control_type}”."
    )
