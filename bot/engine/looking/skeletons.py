"""How people stand, drawn as the control networks for poses were shown it: OpenPose's skeletons, coloured limbs on black."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from bot.generation import RawPicture

Point = tuple[float, float]
Pose = Sequence[Point | None]
"""The 18 joints of a person in OpenPose's order, in pixels; None where one is not seen."""

SURE = 0.3
"""What a joint has to score to count as seen."""
_NECK = 1
_COCO = (0, None, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
"""Where COCO's 17 joints have OpenPose's (nose, neck, right arm, left arm, right leg, left leg, eyes, ears); it has no neck."""
_LEFT_SHOULDER, _RIGHT_SHOULDER = 5, 6
_LIMBS = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13), (1, 0), (0, 14), (14, 16),
    (0, 15), (15, 17),
)  # fmt: skip
"""Z. Cao et al., arXiv 1812.08008, without those that only tell people apart."""
_COLOURS = tuple(
    tuple(round(255 * part) for part in colorsys.hsv_to_rgb(n / len(_COCO), 1, 1)) for n in range(len(_COCO))
)
"""Around the circle of hues, a joint each; limbs have those of the same number."""
_DIMMED = 0.6
_SIDES_A_STICK = 128
"""How many times a limb's half width the picture's shorter side is: 4 px at 512."""


def from_coco(joints: Sequence[Point], scores: Sequence[float]) -> list[Point | None]:
    """Turn COCO's 17 joints of a person, each with its score, into OpenPose's 18; the neck is between the shoulders."""
    seen = [joint if score >= SURE else None for joint, score in zip(joints, scores, strict=True)]
    pose = [None if place is None else seen[place] for place in _COCO]
    left, right = seen[_LEFT_SHOULDER], seen[_RIGHT_SHOULDER]
    if left is not None and right is not None:
        pose[_NECK] = ((left[0] + right[0]) / 2, (left[1] + right[1]) / 2)
    return pose


def draw_poses(poses: Sequence[Pose], width: int, height: int) -> RawPicture:
    """Draw people on black: limbs in dimmed colours first, then the joints."""
    import cv2

    library: Any = cv2
    canvas = np.zeros((height, width, 3), np.uint8)
    stick = max(1, round(min(width, height) / _SIDES_A_STICK))
    for pose in poses:
        for colour, (start, end) in zip(_COLOURS, _LIMBS, strict=False):
            one, other = pose[start], pose[end]
            if one is None or other is None:
                continue
            middle = (round((one[0] + other[0]) / 2), round((one[1] + other[1]) / 2))
            half = round(math.dist(one, other) / 2)
            angle = round(math.degrees(math.atan2(other[1] - one[1], other[0] - one[0])))
            outline = library.ellipse2Poly(middle, (half, stick), angle, 0, 360, 1)
            library.fillConvexPoly(canvas, outline, [round(_DIMMED * part) for part in colour])
    for pose in poses:
        for colour, joint in zip(_COLOURS, pose, strict=True):
            if joint is not None:
                library.circle(canvas, (round(joint[0]), round(joint[1])), stick, colour, thickness=-1)
    return RawPicture(0, 0, width, height, canvas.tobytes())
