"""Make strangers' words safe to show: nothing in them formats, mentions, links or runs off the page. Pure."""

from __future__ import annotations

import re
import unicodedata

_WORD_JOINER = "\u2060"
_MARKDOWN = re.compile(r"([\\*_~`|<>\[\]])|^(\d*[.#+-])")
_SCHEME = re.compile(r"(?<=[A-Za-z])(?=://)|(?<=\bwww)(?=\.)|(?<=\bdiscord)(?=\.gg)", re.IGNORECASE)
_SPACES = re.compile(r"\s+")
_KEPT_FORMAT = frozenset("\u200d\ufe0f")  # joiners inside emoji
_LEGIBLE_MARKS = 3


def plain(text: str, limit: int) -> str:
    """Give `text` on one line without control, bidirectional or other invisible characters, at most `limit` long.

    For alternative text, labels and file metadata, where Discord formats nothing.
    """
    kept: list[str] = []
    marks = 0
    for char in unicodedata.normalize("NFC", text):
        category = unicodedata.category(char)
        # Cf holds the overrides that reverse a line and the zero-width characters; Cn and Co draw as boxes.
        if category in ("Cs", "Cn", "Co") or (category == "Cf" and char not in _KEPT_FORMAT and not _is_tag(char)):
            continue
        marks = marks + 1 if category in ("Mn", "Me") else 0
        if marks > _LEGIBLE_MARKS:  # a pile of accents reaches over its neighbours
            continue
        kept.append(" " if category in ("Cc", "Zl", "Zp") else char)
    return shorten(_SPACES.sub(" ", "".join(kept)).strip(), limit)


def _is_tag(char: str) -> bool:
    return "\U000e0020" <= char <= "\U000e007f"  # spell flags of regions behind a black flag


def shorten(text: str, limit: int) -> str:
    """Cut `text` to `limit` characters, the last of them "…" where something was cut."""
    if len(text) <= limit:
        return text
    return text[: max(0, limit - 1)].rstrip("\\ ") + "…"[:limit]


def inert(text: str, limit: int) -> str:
    """Give `plain(text)` so that Discord shows it as typed: no markup, mention, link or code; at most `limit` long."""
    clean = plain(text, limit)
    while True:
        escaped = _escape(clean)
        if len(escaped) <= limit:
            return escaped
        # Escapes take room too; cut the words, never an escape in half.
        clean = shorten(clean, max(0, min(len(clean) - 1, len(clean) - (len(escaped) - limit) // 2)))


def _escape(text: str) -> str:
    text = _SCHEME.sub(_WORD_JOINER, text)
    text = text.replace("@", "@" + _WORD_JOINER).replace("<", "<" + _WORD_JOINER)
    return _MARKDOWN.sub(lambda m: f"\\{m[1]}" if m[1] else f"{m[2][:-1]}\\{m[2][-1]}", text)


def fold(text: str) -> str:
    """Give lower-case letters without accents, invisible characters or fancy forms: what words are compared by."""
    out: list[str] = []
    for char in unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold()):
        code = ord(char)
        if 0x1F1E6 <= code <= 0x1F1FF:  # regional indicators spell words, too
            out.append(chr(code - 0x1F1E6 + 97))
        elif 0x1F150 <= code <= 0x1F189:  # white letters on black circles and squares
            out.append(chr((code - 0x1F150) % 32 + 97))
        elif unicodedata.category(char) not in ("Mn", "Me", "Cf"):
            out.append(char)
    return "".join(out)
