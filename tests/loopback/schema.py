"""Check request bodies against Discord's own OpenAPI document (openapi.json here is its part for the routes used)."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

DOCUMENT = Path(__file__).with_name("openapi.json")


@cache
def _document() -> dict[str, Any]:
    document = json.loads(DOCUMENT.read_text(encoding="utf-8"))
    return _by_type(document, document["components"]["schemas"])


def _by_type(node: Any, schemas: dict[str, Any]) -> Any:
    """Rewrite each `oneOf` of components into "if its type is n, then that one".

    Plain `oneOf` tries every kind at every level: 12 ms for one card, and the error names whichever kind came closest.
    """
    if isinstance(node, list):
        return [_by_type(part, schemas) for part in node]
    if not isinstance(node, dict):
        return node
    kinds = [_kinds(member, schemas) for member in node.get("oneOf", ())]
    if len(kinds) < 2 or not all(kinds):
        return {key: _by_type(value, schemas) for key, value in node.items()}
    rest = {key: _by_type(value, schemas) for key, value in node.items() if key != "oneOf"}
    cases = [
        {"if": {"properties": {"type": {"enum": kind}}}, "then": member}
        for kind, member in zip(kinds, node["oneOf"], strict=True)
    ]
    known = {
        "type": "object",
        "required": ["type"],
        "properties": {"type": {"enum": [one for kind in kinds for one in kind]}},
    }
    return {**rest, "allOf": [known, *cases]}


def _kinds(member: dict[str, Any], schemas: dict[str, Any]) -> list[int]:
    """The values of `type` that a member of a union stands for; empty where it is no such member."""
    name = member.get("$ref", "").rsplit("/", 1)[-1]
    return schemas.get(name, {}).get("properties", {}).get("type", {}).get("enum", [])


@cache
def _validator(route: str) -> Draft202012Validator:
    document = _document()
    return Draft202012Validator({**document["requests"][route], "components": document["components"]})


@cache
def _callback_validator(kind: int) -> Draft202012Validator:
    """The member of the callback union for `kind`, so that a refusal names the true fault and not every other member."""
    names = {4: "CreateMessage", 5: "CreateMessage", 6: "UpdateMessage", 7: "UpdateMessage", 9: "Modal"}
    name = (
        f"{names[kind]}InteractionCallbackRequest" if kind in names else "ApplicationCommandAutocompleteCallbackRequest"
    )
    return Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": _document()["components"]})


def _with_text_ids(body: Any) -> Any:
    """Copy `body` with ids as strings: the document knows ids only so, Discord takes integers, too."""
    if isinstance(body, dict):
        return {
            key: str(value)
            if (key == "id" and "type" not in body and isinstance(value, int))
            or (key.endswith("_id") and isinstance(value, int))
            else [str(one) for one in value]
            if key in ("users", "roles") and isinstance(value, list)
            else _with_text_ids(value)
            for key, value in body.items()
        }
    if isinstance(body, list):
        return [_with_text_ids(value) for value in body]
    return body


def violation(route: str, body: Any) -> str | None:
    """Return what is wrong with `body` for `route` (as "POST /channels/{channel_id}/messages"), None when nothing is."""
    if route.endswith("/callback") and isinstance(body, dict) and body.get("type") in (4, 5, 6, 7, 8, 9):
        validator = _callback_validator(body["type"])
    else:
        validator = _validator(route)
    error = best_match(validator.iter_errors(_with_text_ids(body)))
    if error is None:
        return None
    return f"{'.'.join(str(part) for part in error.absolute_path) or 'body'}: {error.message[:300]}"
