"""`python -m bot verify FILE`: who made a picture file, as far as the file can tell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from bot.config import Settings
from bot.errors import RequestError
from bot.files.certificate import Identity, known_identities
from bot.files.credentials import TYPES, Credential, CredentialReader, State
from bot.files.decode import decode
from bot.files.watermark import detect
from bot.prompts.readers import PictureInfo
from bot.provenance import DIGITAL_SOURCE_TYPE, digital_source_type, facts, read_info

SIDE_PX = 2048
"""A watermark survives being made smaller; larger pictures are looked at in this size."""


class Outcome(IntEnum):
    """What comes of it; the numbers are exit codes. 1 is left to files that cannot be read."""

    OURS = 0
    MARKED = 2
    BROKEN = 3
    NONE = 4


@dataclass(frozen=True, slots=True)
class Report:
    """What a picture file says. `watermark` is the number of the Easel that put it there, `ours` those of this one."""

    credential: Credential | None
    source_type: str | None
    info: PictureInfo | None
    watermark: int | None
    ours: tuple[int, ...]

    @property
    def outcome(self) -> Outcome:
        """Only a signature proves anything: the other marks can be copied by anybody."""
        if self.credential is not None:
            if self.credential.state is State.OURS:
                return Outcome.OURS
            return Outcome.BROKEN if self.credential.state is State.BROKEN else Outcome.MARKED
        marked = self.source_type is not None or self.info is not None or self.watermark is not None
        return Outcome.MARKED if marked else Outcome.NONE


def run_verify(settings: Settings, path: Path) -> int:
    """Print what the file says, the conclusion last; the exit code. Raises EaselError where it cannot be read."""
    ours = known_identities(settings.data_dir, settings.c2pa_cert, settings.c2pa_key)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror}.") from None
    report = verify(data, ours)
    for line in describe(report):
        # The file's words are a stranger's, and a terminal obeys some of them.
        print("".join(letter if letter.isprintable() else "\ufffd" for letter in line))
    return int(report.outcome)


def verify(data: bytes, ours: Sequence[Identity]) -> Report:
    """Read everything a picture file says of who made it. Raises AttachmentRefused for what is no sound picture."""
    opened = decode(data, SIDE_PX)
    assert opened.picture is not None
    kind = TYPES.get("JPEG" if opened.format == "MPO" else opened.format, "")
    return Report(
        credential=CredentialReader(ours).read(data, kind),
        source_type=digital_source_type(opened.xmp),
        info=read_info(opened.texts, (opened.width, opened.height)),
        watermark=detect(opened.picture),
        ours=tuple(identity.mark for identity in ours),
    )


def describe(report: Report) -> list[str]:
    """Put a report into lines, a kind of mark each, and what follows from all of them."""
    return [
        f"Content Credentials (C2PA): {_credential(report.credential)}",
        f"IPTC source type: {_source_type(report.source_type)}",
        f"Parameters: {_info(report.info)}",
        f"Watermark: {_watermark(report)}",
        "",
        _CONCLUSIONS[report.outcome] if report.outcome is not Outcome.MARKED else _marked(report),
    ]


_CONCLUSIONS = {
    Outcome.OURS: "This Easel made this file, and nothing in it has changed since.",
    Outcome.BROKEN: "Its credentials do not hold: the file was changed after it was signed, or they belong to another one.",
    Outcome.NONE: "Nothing in this file says who made it. That proves nothing: marks can be taken away.",
}


def _marked(report: Report) -> str:
    if report.credential is not None:
        return f"{report.credential.signer} signed this file and it is unchanged since; who that is, this Easel cannot say."
    return "It says the above of itself, unsigned: anybody could have written that."


def _credential(found: Credential | None) -> str:
    if found is None:
        return "none"
    if found.state is State.BROKEN:
        return f"broken ({'; '.join(found.failures) or 'no reason given'})"
    signer = f"signed by {found.signer}" + ("" if found.state is State.OURS else ", which this Easel does not know")
    says = [signer, "says a trained model made it" if found.trained else "says nothing of a trained model"]
    if found.made_with:
        says.append(f"made with {found.made_with}")
    if found.title:
        says.append(f"as {found.title}")
    return "intact, " + ", ".join(says)


def _source_type(value: str | None) -> str:
    if value is None:
        return "none"
    return "made by a trained model" if value == DIGITAL_SOURCE_TYPE else value.rsplit("/", 1)[-1]


def _info(info: PictureInfo | None) -> str:
    if info is None:
        return "none"
    return ", ".join(
        [f'"{" ".join(info.prompt.split())[:200]}"', *(f"{label} {value}" for label, value in facts(info))]
    )


def _watermark(report: Report) -> str:
    if report.watermark is None:
        return "none that can be read"
    return "of this Easel" if report.watermark in report.ours else f"of another Easel, number {report.watermark:08x}"
