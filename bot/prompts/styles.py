"""Styles: words around a prompt, and more to avoid. Pure; who reads their files hands the text over."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from bot.catalogue.models import Style
from bot.errors import ConfigError, RequestError

SHIPPED = Path(__file__).with_name("styles.toml")
PROMPT = "{prompt}"
MAX_CHARS = 600
MAX_STYLES = 500
_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_KEYS = ("name", "prompt", "negative")


def parse_styles(text: str, origin: str) -> tuple[Style, ...]:
    """Read a file of styles. Raises ConfigError naming the file, the style and the key."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{origin} is not valid TOML: {error}.") from None
    if len(data) > MAX_STYLES:
        raise ConfigError(f"{origin} has {len(data)} styles; at most {MAX_STYLES} are read.")
    return tuple(_style(name, entry, origin) for name, entry in data.items())


def merged(*sets: Iterable[Style]) -> tuple[Style, ...]:
    """Put sets of styles together; of equal ids the last one stays, in the first one's place."""
    return tuple({style.id: style for styles in sets for style in styles}.values())


def find_style(name: str, styles: Iterable[Style]) -> Style:
    """Find a style by id or name. Raises RequestError naming the nearest."""
    wanted = " ".join(name.lower().split())
    known = list(styles)
    for style in known:
        if wanted in (style.id, style.name.lower()):
            return style
    near = difflib.get_close_matches(wanted, [style.id for style in known], n=2, cutoff=0.5)
    meant = f"; did you mean {' or '.join(near)}?" if near else "."
    raise RequestError(f"There is no such style{meant} /styles lists them all.")


def _style(name: str, entry: Any, origin: str) -> Style:
    where = f"{origin}, style {name[:60]!r}"
    if not _ID.fullmatch(name):
        raise ConfigError(f"{where}: an id has lower-case letters, digits and - between them, at most 32.")
    if not isinstance(entry, dict):
        raise ConfigError(f"{where}: write it as a table, [{name}].")
    values = cast("dict[str, Any]", entry)
    for key, value in values.items():
        if key not in _KEYS:
            raise ConfigError(f"{where}: {key[:40]!r} is no key of a style; it takes {', '.join(_KEYS)}.")
        if not isinstance(value, str) or len(value) > MAX_CHARS:
            raise ConfigError(f"{where}: {key} is a text of at most {MAX_CHARS} characters.")
    prompt = values.get("prompt", PROMPT)
    if prompt.count(PROMPT) != 1:
        raise ConfigError(f"{where}: prompt has {PROMPT} once, where the member's words go.")
    return Style(name, values.get("name") or name, prompt, values.get("negative", ""))
