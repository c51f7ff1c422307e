"""The kinds of control maps, and what a model's entry says of the networks that follow them. Pure.

Who finds and loads the networks is `bot/engine/conditioning/controls.py`; what somebody asks for is checked in `bot/prompts/pictures.py`.
"""

from __future__ import annotations

from typing import Any, cast

from bot.catalogue.addons import UNETS
from bot.errors import ConfigError

CONTROL_KINDS = ("canny", "scribble", "depth", "pose", "tile")
READY_MADE = "raw "
"""Before a kind: the picture is such a map already."""
CONTROL_TYPES = (*CONTROL_KINDS, *(READY_MADE + kind for kind in CONTROL_KINDS))
UNION = "union"
"""In a model's entry: a network that reads several kinds, named once for all that every such network reads."""
UNION_FAMILY = "sdxl"
UNION_MODES = {"pose": 0, "depth": 1, "scribble": 2, "canny": 3, "tile": 6}
"""The numbers of the kinds to such networks (https://huggingface.co/xinsir/controlnet-union-sdxl-1.0)."""
READ_BY_UNIONS = ("canny", "scribble", "depth", "pose")
"""The kinds that every such network reads; some read tiles, too."""


def kind_of(control_type: str) -> str:
    """Give the kind of a control type, ready-made or not."""
    return control_type.removeprefix(READY_MADE)


def read_controls(entry: dict[str, Any], where: str) -> dict[str, str]:
    """Read a model's `controls`: the source of the network by kind, several kinds having the same one where it is a union.

    Raises ConfigError that begins with `where`.
    """
    given = cast("dict[str, Any]", entry.get("controls", {}))
    if given and entry["family"] not in UNETS:
        raise ConfigError(f"{where}: controls is for the families {', '.join(UNETS)}, not {entry['family']}.")
    for kind, source in given.items():
        if kind not in (*CONTROL_KINDS, UNION):
            raise ConfigError(
                f"{where}: controls knows the kinds {', '.join(CONTROL_KINDS)} and {UNION}, not {kind[:40]!r}."
            )
        if not isinstance(source, str) or not source:
            raise ConfigError(
                f"{where}: controls.{kind} is a control network: a Hub id, a folder or a .safetensors file."
            )
    if UNION in given and entry["family"] != UNION_FAMILY:
        raise ConfigError(f"{where}: controls.{UNION} is for the family {UNION_FAMILY}, not {entry['family']}.")
    found: dict[str, str] = {}
    for kind, source in given.items():
        named = READ_BY_UNIONS if kind == UNION else (kind,)
        found |= {each: str(source) for each in named if each == kind or each not in given}
    return found
