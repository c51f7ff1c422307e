"""Options of a slash command, checked as the real Discord client checks them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.loopback.messages import Upload
from tests.loopback.world import User

SUBCOMMAND, GROUP, STRING, INTEGER, BOOLEAN, USER, NUMBER, ATTACHMENT = 1, 2, 3, 4, 5, 6, 10, 11
SAFE_INTEGER = 2**53 - 1


class ClientRefused(ValueError):
    """The real client would not let a person do this."""


def build_options(
    registered: dict[str, Any],
    path: list[str],
    given: dict[str, Any],
    upload: Callable[[Upload], str],
    *,
    unchecked: bool,
) -> list[dict[str, Any]]:
    """Return the `options` of an invocation; `path` names subcommands. Raises ClientRefused, unless `unchecked`."""
    known = {option["name"]: option for option in registered.get("options", [])}
    if path:
        inner = known.get(path[0])
        if inner is None or inner["type"] not in (SUBCOMMAND, GROUP):
            raise ClientRefused(f"{registered['name']} has no subcommand {path[0]}")
        options = build_options(inner, path[1:], given, upload, unchecked=unchecked)
        return [{"name": path[0], "type": inner["type"], "options": options}]
    unknown = set(given) - set(known)
    if unknown:
        raise ClientRefused(f"{registered['name']} has no option {sorted(unknown)}")
    missing = [name for name, option in known.items() if option.get("required") and name not in given]
    if missing and not unchecked:
        raise ClientRefused(f"{registered['name']} needs {missing}")
    built: list[dict[str, Any]] = []
    for name, value in given.items():
        option = known[name]
        if not unchecked:
            check_value(option, value)
        if isinstance(value, Upload):
            value = upload(value)
        elif isinstance(value, User):
            value = str(value.id)
        built.append({"name": name, "type": option["type"], "value": value})
    return built


def check_value(option: dict[str, Any], value: Any) -> None:
    """Raise ClientRefused when the client's field for `option` would not take `value`."""
    name, kind = option["name"], option["type"]
    fits = {
        STRING: isinstance(value, str),
        INTEGER: isinstance(value, int) and not isinstance(value, bool),
        BOOLEAN: isinstance(value, bool),
        NUMBER: isinstance(value, int | float) and not isinstance(value, bool),
        ATTACHMENT: isinstance(value, Upload),
        USER: isinstance(value, User),
    }.get(kind, True)
    if not fits:
        raise ClientRefused(f"{name} does not take {value!r}")
    if option.get("choices") and value not in [choice["value"] for choice in option["choices"]]:
        raise ClientRefused(f"{name} takes one of {[choice['value'] for choice in option['choices']]}, got {value!r}")
    if kind in (INTEGER, NUMBER):
        low, high = option.get("min_value", -SAFE_INTEGER), option.get("max_value", SAFE_INTEGER)
        if not low <= value <= high:
            raise ClientRefused(f"{name} takes {low} to {high}, got {value!r}")
    if isinstance(value, str) and kind == STRING:
        low = option.get("min_length", 1 if option.get("required") else 0)
        high = option.get("max_length", 6000)
        if not low <= len(value) <= high:
            raise ClientRefused(f"{name} takes {low} to {high} characters, got {len(value)}")
