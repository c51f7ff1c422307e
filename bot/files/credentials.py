"""Content Credentials (C2PA): signing what Easel made, and reading whoever's. Offline; pool threads, several at a time."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any, cast

from bot.config import Settings
from bot.errors import ConfigError, StorageError
from bot.files.certificate import Identity, load_identity
from bot.provenance import DIGITAL_SOURCE_TYPE

PNG, JPEG, WEBP = "image/png", "image/jpeg", "image/webp"
TYPES: Mapping[str, str] = {"PNG": PNG, "JPEG": JPEG, "WEBP": WEBP}
"""Pillow's names of the formats and C2PA's."""


class State(StrEnum):
    """What a file's credentials are worth."""

    OURS = "ours"
    """Intact, and signed by this Easel or the operator's certificate."""
    UNKNOWN = "unknown"
    """Intact, but signed by somebody this Easel does not know."""
    BROKEN = "broken"
    """The file or its credentials were changed after signing, or the signature does not hold."""


@dataclass(frozen=True, slots=True)
class Credential:
    """What a file's credentials say. Everything but `state` is the signer's word."""

    state: State
    signer: str
    title: str
    made_with: str
    actions: tuple[str, ...]
    trained: bool
    """Whether it says, here or of the file it was made from, that a trained model made the picture."""
    failures: tuple[str, ...]


def _c2pa() -> Any:
    # Its errors are attributes set at run time and it has no type stubs; the library is loaded by whoever signs first.
    return import_module("c2pa")


class CredentialReader:
    """Reads credentials, and knows which signers are ours. Safe from any thread; nothing is fetched."""

    def __init__(self, ours: Sequence[Identity]) -> None:
        trust = {"trust": {"trust_anchors": "".join(one.issuers_pem for one in ours)}} if ours else {}
        self._settings = json.dumps(_SETTINGS | trust)
        # The issuers of a bought certificate have signed for many others, too: those are not us.
        self._serials = frozenset(one.serial for one in ours)

    def read(self, data: bytes, kind: str) -> Credential | None:
        """Read and check the credentials of a file; None where it has none. Never raises for what is in the file."""
        c2pa = _c2pa()

        try:
            with c2pa.Context.from_json(self._settings) as context:
                reader = c2pa.Reader(kind, BytesIO(data), context=context)
                found = cast("dict[str, Any]", json.loads(reader.json()))
        except c2pa.C2paError.ManifestNotFound:
            return None
        except (c2pa.C2paError, ValueError) as error:
            return Credential(State.BROKEN, "", "", "", (), False, (str(error),))
        return _credential(found, self._serials)


class Credentials(CredentialReader):
    """Signs as one identity, too."""

    def __init__(self, identity: Identity, *, version: str) -> None:
        super().__init__([identity])
        self.identity = identity
        self._version = version

    def sign(self, data: bytes, kind: str, *, title: str, parent: tuple[str, str, bytes] | None = None) -> bytes:
        """Give `data` (a file of MIME type `kind`) with a manifest that says a trained model made it.

        `title` is the file's name. `parent` (name, MIME type, file) is the file it was re-encoded from: then the manifest
        says so and carries the parent's own. To be done last: whatever changes the file afterwards breaks it.
        Raises StorageError.
        """
        c2pa = _c2pa()

        agent = {"name": "Easel", "version": self._version}
        if parent is None:
            made = {"action": "c2pa.created", "digitalSourceType": DIGITAL_SOURCE_TYPE, "softwareAgent": agent}
            actions: list[dict[str, Any]] = [made]
        else:
            actions = [
                {"action": "c2pa.opened", "parameters": {"ingredientIds": ["parent"]}},
                {"action": "c2pa.transcoded", "softwareAgent": agent},
            ]
        manifest = {
            "claim_generator_info": [agent],
            "title": title,
            "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": actions}}],
        }
        out = BytesIO()
        try:
            with c2pa.Context.from_json(self._settings, self._signer()) as context:
                builder = c2pa.Builder(manifest, context)
                if parent is not None:
                    name, parent_kind, parent_data = parent
                    about = {"title": name, "format": parent_kind, "relationship": "parentOf", "label": "parent"}
                    builder.add_ingredient(about, parent_kind, BytesIO(parent_data))
                builder.sign(kind, BytesIO(data), out)
        except c2pa.C2paError as error:
            raise StorageError(f"The picture could not be signed: {error}") from error
        return out.getvalue()

    def _signer(self) -> Any:
        c2pa = _c2pa()

        chain, key = self.identity.chain_pem.encode(), self.identity.key_pem.encode()
        return c2pa.Signer.from_info(c2pa.C2paSignerInfo(self.identity.algorithm, chain, key, None))


_SETTINGS: dict[str, Any] = {
    "verify": {
        "verify_trust": True,
        "verify_after_sign": False,  # the start signs once and reads it back; each file costs a third of the time
        "remote_manifest_fetch": False,
        "ocsp_fetch": False,
    },
    "builder": {
        "thumbnail": {"enabled": False},
        "actions": {
            "auto_created_action": {"enabled": False},
            "auto_opened_action": {"enabled": False},
            "auto_placed_action": {"enabled": False},
        },
    },
}


def _credential(found: dict[str, Any], ours: frozenset[str]) -> Credential:
    manifests = found.get("manifests", {})
    active: dict[str, Any] = manifests.get(found.get("active_manifest"), {})
    signature = active.get("signature_info", {})
    state = {"Trusted": State.OURS, "Valid": State.UNKNOWN}.get(found.get("validation_state", ""), State.BROKEN)
    if state is State.OURS and signature.get("cert_serial_number") not in ours:
        state = State.UNKNOWN
    agents = [entry.get("name", "") for entry in active.get("claim_generator_info", ())]
    results = found.get("validation_results", {}).get("activeManifest", {}).get("failure", ())
    failures = [str(one.get("explanation") or one.get("code")) for one in results]
    everything = [action for manifest in manifests.values() for action in _actions(manifest)]
    return Credential(
        state=state,
        signer=str(signature.get("common_name") or signature.get("issuer") or "somebody unnamed"),
        title=str(active.get("title") or ""),
        made_with=str(next((name for name in agents if name), "")),
        actions=tuple(str(action.get("action", "")) for action in _actions(active)),
        trained=any(action.get("digitalSourceType") == DIGITAL_SOURCE_TYPE for action in everything),
        failures=tuple(dict.fromkeys(failures)),
    )


def _actions(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    actions: list[dict[str, Any]] = []
    for assertion in manifest.get("assertions", ()):
        if str(assertion.get("label", "")).startswith("c2pa.actions"):
            actions += assertion.get("data", {}).get("actions", ())
    return actions


def load_credentials(settings: Settings, *, version: str, now: datetime) -> Credentials:
    """Read or make what pictures are signed with, sign a trial picture and read it back.

    Blocks for some tens of milliseconds. Raises ConfigError with a sentence where a certificate is broken, expired, not
    C2PA's kind, or cannot be written.
    """
    identity = load_identity(settings.data_dir, settings.c2pa_cert, settings.c2pa_key, now=now)
    credentials = Credentials(identity, version=version)
    _try(credentials, settings.data_dir)
    return credentials


def _try(credentials: Credentials, data_dir: Path) -> None:
    from PIL import Image

    what = f"The certificate in {data_dir}" if credentials.identity.own else "EASEL_C2PA_CERT"
    plain = BytesIO()
    Image.new("RGB", (8, 8)).save(plain, "PNG")
    try:
        found = credentials.read(credentials.sign(plain.getvalue(), PNG, title="trial.png"), PNG)
    except StorageError as error:
        raise ConfigError(f"{what} cannot sign: {error}") from None
    if found is None or found.state is not State.OURS:
        why = "; ".join(found.failures) if found is not None else "nothing was signed"
        raise ConfigError(
            f"{what} is not one that C2PA takes: {why}. It takes an end-entity certificate with its issuers, "
            "for digital signatures and with the extended usage of e-mail protection."
        )
