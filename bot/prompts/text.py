"""Make strangers' words safe to show: nothing in them formats, mentions, links or runs off the page. Pure."""

from __future__ import annotations

import re
import unicodedata

_WORD_JOINER = "\u2060"
_MARKDOWN = re.compile(r"([\\*_~`|<>\[\]])|^(\d*[.#+-])")
_SCHEME = re.compile(r"(?<=[A-Za-z])(?=://)|(?<=\bwww)(?=\.)|(?<=\bdiscord)(?=\.gg)", re.IGNORECASE)
_SPACES = re.compile(r"\s+")
_KEPT_FORMAT = frozenset("\u200d\ufe0f")  # joiners inside emoji
_BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0")  # letters and a sign that leave the paper white
_LEGIBLE_MARKS = 3


def plain(text: str, limit: int) -> str:
    """Give `text` on one line without control, bidirectional or other invisible characters, at most `limit` long.

    For alternative text, labels and file metadata, where Discord formats nothing.
    """
    return shorten(_SPACES.sub(" ", _kept(unicodedata.normalize("NFC", text), "")).strip(), limit)


def legible(text: str) -> str:
    """Give `text` in its lines, without what cannot be seen or garbles its neighbours. For code blocks."""
    return _kept(text, "\n\t")


def is_blank(text: str) -> bool:
    """Whether nothing in `text` can be seen."""
    return all((_category(char)[0] in "CZM") or char in _BLANK for char in text)


def _category(char: str) -> str:
    """Give Unicode's category; a sign of the emoji or ideographs that is newer than this Python counts as a symbol."""
    category = unicodedata.category(char)
    newer = category == "Cn" and ("\U0001f000" <= char <= "\U0001fbff" or "\U00020000" <= char <= "\U0003fffd")
    return "So" if newer and ord(char) & 0xFFFE != 0xFFFE else category


def _kept(text: str, controls: str) -> str:
    kept: list[str] = []
    marks = 0
    for char in text:
        category = _category(char)
        # Cf holds the overrides that reverse a line and the zero-width characters; Cn and Co draw as boxes.
        if category in ("Cs", "Cn", "Co") or (category == "Cf" and char not in _KEPT_FORMAT and not _is_tag(char)):
            continue
        marks = marks + 1 if category in ("Mn", "Me") else 0
        if marks > _LEGIBLE_MARKS:  # a pile of accents reaches over its neighbours
            continue
        kept.append(" " if category in ("Cc", "Zl", "Zp") and char not in controls else char)
    return "".join(kept)


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


def quoted(text: str, limit: int) -> str:
    """Give `plain(text)` for a sentence that repeats what was typed, on Discord or in a shell: no mention, link or code.

    Nothing is escaped, so a shell shows it as it was; backquotes become quotes. At most `limit` long.
    """
    return shorten(_unlinked(plain(text, limit)).replace("`", "’"), limit)


def _escape(text: str) -> str:
    text = _unlinked(text)
    return _MARKDOWN.sub(lambda m: f"\\{m[1]}" if m[1] else f"{m[2][:-1]}\\{m[2][-1]}", text)


def _unlinked(text: str) -> str:
    text = _SCHEME.sub(_WORD_JOINER, text)
    return text.replace("@", "@" + _WORD_JOINER).replace("<", "<" + _WORD_JOINER)


def fold(text: str) -> str:
    """Give lower-case letters without accents, invisible characters or fancy forms: what words are compared by."""
    text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    # Each character is looked up once: one typed sign can stand for eighteen letters.
    changed: dict[int, str | None] = {}
    for char in set(text):
        code = ord(char)
        if 0x1F1E6 <= code <= 0x1F1FF:  # regional indicators spell words, too
            changed[code] = chr(code - 0x1F1E6 + 97)
        elif 0x1F150 <= code <= 0x1F189:  # white letters on black circles and squares
            changed[code] = chr((code - 0x1F150) % 32 + 97)
        elif unicodedata.category(char) in ("Mn", "Me", "Cf"):
            changed[code] = None
    return text.translate(changed)
