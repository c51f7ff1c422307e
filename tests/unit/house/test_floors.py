"""Imports go downwards only (shared design, section 3; `docs/architecture.md` draws the floors)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]

# Room → floor. A room is a module or a package; the longest name that fits counts.
FLOORS = {
    "bot.config": 0, "bot.errors": 0, "bot.generation": 0, "bot.catalogue.models": 0, "bot.catalogue.addons": 0, "bot.catalogue.references": 0,
    "bot.catalogue.annotators": 0, "bot.catalogue.controls": 0, "bot.catalogue.entries": 0, "bot.catalogue.parts": 0,
    "bot.prompts": 1, "bot.moderation": 1, "bot.limits": 1, "bot.provenance": 1,
    "bot.engine": 2, "bot.store": 2, "bot.files": 2, "bot.safety": 2,
    "bot.scheduling": 3,
    "bot.ui": 4, "bot.delivery": 4, "bot.client": 4, "bot.transport": 4, "bot.posting": 4, "bot.gateway": 4,
    "cogs": 5,
    "bot": 6, "bot.app": 6, "bot.cli": 6, "bot.cli_pictures": 6, "bot.shell": 6, "bot.picture": 6, "bot.demo": 6, "bot.doctor": 6, "bot.logs": 6, "bot.exits": 6, "bot.systemd": 6, "bot.library": 6,
    "bot.verify": 6, "bot.__main__": 6,
}  # fmt: skip

MAY_IMPORT = {
    0: {0},
    1: {0, 1},
    2: {0, 1, 2},
    3: {0, 1, 2, 3},
    4: {0, 1, 3, 4},
    5: {0, 1, 3, 4},
    6: {0, 1, 2, 3, 4, 5, 6},
}

ONLY_IN = {
    "torch": ("bot.engine",),
    "diffusers": ("bot.engine",),
    "transformers": ("bot.engine",),
    "spandrel": ("bot.engine",),
    "sqlalchemy": ("bot.store",),
    "alembic": ("bot.store",),
    "discord": ("bot.ui", "bot.delivery", "bot.client", "bot.transport", "cogs", "bot.app", "bot.demo", "bot.doctor"),
    "simcord": ("bot.demo",),
}


def room_of(module: str) -> str:
    fits = [room for room in FLOORS if module == room or (room != "bot" and module.startswith(room + "."))]
    assert fits or module == "bot", f"{module} belongs to no room: give it a floor here and in docs/architecture.md"
    return max(fits, key=len, default="bot")


def modules() -> Iterator[tuple[str, ast.Module]]:
    for folder in ("bot", "cogs"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            yield name, ast.parse(path.read_text(encoding="utf-8"))


def imports(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            module = node.module or ""
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                is_room = (ROOT / Path(*inner.split("."))).exists() or (
                    ROOT / (inner.replace(".", "/") + ".py")
                ).exists()
                yield inner if module.split(".")[0] in ("bot", "cogs") and is_room else module


EVERY_IMPORT = [(name, target) for name, tree in modules() for target in set(imports(tree))]


def test_floors_every_import_goes_downwards() -> None:
    wrong: list[str] = []
    for name, target in EVERY_IMPORT:
        if target.split(".")[0] not in ("bot", "cogs"):
            continue
        here, there = FLOORS[room_of(name)], FLOORS[room_of(target)]
        constant = target == "bot" and here >= 4  # bot.__version__
        if there not in MAY_IMPORT[here] and not constant:
            wrong.append(f"{name} (floor {here}) imports {target} (floor {there})")
    assert not wrong, "\n".join(wrong)


def test_cogs_import_only_the_ui_of_their_floor_below() -> None:
    allowed = ("bot.ui",)
    wrong = [
        f"{name} imports {target}"
        for name, target in EVERY_IMPORT
        if name.startswith("cogs.")
        and target.startswith(("bot.", "cogs."))
        and FLOORS[room_of(target)] in (2, 4, 5)
        and not target.startswith(allowed)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("library", sorted(ONLY_IN))
def test_libraries_stay_in_their_rooms(library: str) -> None:
    wrong = [
        f"{name} imports {target}"
        for name, target in EVERY_IMPORT
        if target.split(".")[0] == library and not name.startswith(ONLY_IN[library])
    ]
    assert not wrong, "\n".join(wrong)


def test_floors_checker_sees_an_upward_import() -> None:
    tree = ast.parse("from bot.client import EaselClient")
    target = next(imports(tree))
    assert FLOORS[room_of(target)] not in MAY_IMPORT[FLOORS[room_of("bot.store.jobs")]]
