"""What the tables of a models file have in common: their ids, keys, revisions and checksums, checked. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Protocol, cast

from bot.errors import ConfigError

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
_BRANCH = re.compile(r"[A-Za-z0-9][\w./+-]{0,99}")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


class Entry(Protocol):
    """What fetching and checking files ask of an entry, whatever it is for."""

    @property
    def id(self) -> str:
        """What people call it by."""
        ...

    @property
    def name(self) -> str:
        """What people see."""
        ...

    @property
    def revision(self) -> str | None:
        """A branch, tag or commit on the Hub; None is the main one."""
        ...

    @property
    def gated(self) -> bool:
        """Whether its licence has to be accepted on the Hub first."""
        ...

    @property
    def download_bytes(self) -> int | None:
        """What the download takes, where it is known."""
        ...

    @property
    def sha256(self) -> Mapping[str, str]:
        """Checksums in hexadecimal, by file."""
        ...


def read_table(
    entry_id: str, table: Any, kinds: Mapping[str, Any], needed: tuple[str, ...], what: str, origin: str
) -> dict[str, Any]:
    """Give the table of an entry with its id, keys and types checked. Raises ConfigError naming origin, id and key.

    `kinds` are the types by key, `needed` those that may not be left out; `what` is the table's word: `[models.ID]` is of a "model".
    """
    where = located(what, entry_id, origin)
    if not _ID.fullmatch(entry_id) or ".." in entry_id:
        raise ConfigError(f"{where}: an id has letters, digits, and . _ + - between them, at most 64.")
    if not isinstance(table, dict):
        raise ConfigError(f"{where}: write it as a table, [{what}s.{entry_id}].")
    entry = cast("dict[str, Any]", table)
    for key, value in entry.items():
        kind = kinds.get(key)
        if kind is None:
            article = "an" if what[0] in "aeiou" else "a"
            raise ConfigError(f"{where}: {key!r} is no key of {article} {what}; it takes {', '.join(kinds)}.")
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ConfigError(f"{where}: {key} has the wrong type, got {str(value)[:80]!r}.")
    for key in needed:
        if not entry.get(key):
            raise ConfigError(f"{where}: {key!r} is missing.")
    return entry


def located(what: str, entry_id: str, origin: str) -> str:
    """Say where a table is, as a fault in it begins."""
    return f"{origin}, {what} {entry_id[:80]!r}"


def check_number(entry: Mapping[str, Any], key: str, low: float, high: float, where: str) -> None:
    """Refuse a number out of range: TOML knows inf, nan and numbers of any length. Raises ConfigError."""
    if not low <= entry.get(key, low) <= high:
        raise ConfigError(f"{where}: {key} is a number from {low:g} to {high:g}.")


def check_revision(entry: Mapping[str, Any], where: str) -> None:
    """Refuse a revision that would lead out of a folder: paths are made of it. Raises ConfigError."""
    revision = entry.get("revision")
    if revision is not None and (not _BRANCH.fullmatch(revision) or ".." in revision):
        raise ConfigError(f"{where}: revision is a branch, tag or commit, not {revision[:80]!r}.")


def read_checksums(entry: Mapping[str, Any], where: str) -> dict[str, str]:
    """Give the checksums of an entry's files in lower case, a single file's under "". Raises ConfigError."""
    given = entry.get("sha256", {})
    single = entry["source"].lower().endswith((".safetensors", ".gguf"))
    if isinstance(given, str) != single and given != {}:
        kind = "one text, for a single file" if single else "a table of file = checksum, for a folder or repository"
        raise ConfigError(f"{where}: sha256 is {kind}.")
    sums = {"": given} if isinstance(given, str) else cast("dict[str, Any]", given)
    for name, digest in sums.items():
        if name.startswith("/") or "\\" in name or ".." in name.split("/"):
            raise ConfigError(f"{where}: sha256 names {name[:80]!r}, which is no file inside the model.")
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            raise ConfigError(
                f"{where}: sha256 of {name[:80]!r} is 64 hexadecimal digits, as `sha256sum FILE` prints them."
            )
    return {name: str(digest).lower() for name, digest in sums.items()}
