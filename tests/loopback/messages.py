"""Messages: what a body makes of them, what Discord refuses, and how tests read them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.loopback.bell import ApiError, empty_message, invalid_form, too_large
from tests.loopback.world import COMPONENTS_V2, EPHEMERAL, LOADING, Attachment, Channel, User, iso

REQUEST_LIMIT_BYTES = 25 * 1024 * 1024
V2_TYPES = {9, 10, 11, 12, 13, 14, 17}
LIMIT_COMPONENTS, LIMIT_TEXT = 40, 4000


@dataclass(slots=True, frozen=True)
class Upload:
    """One file of a request or of a person's option."""

    filename: str
    data: bytes = field(repr=False)


def walk(components: Any) -> Iterator[dict[str, Any]]:
    """Give every component, children and accessories included."""
    for component in components or ():
        yield component
        yield from walk(component.get("components"))
        yield from walk([inner for inner in (component.get("accessory"), component.get("component")) if inner])


def media_of(component: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Give the media objects of one component (gallery, thumbnail, file)."""
    for item in component.get("items") or ():
        yield item["media"]
    for key in ("media", "file"):
        if isinstance(component.get(key), dict):
            yield component[key]


@dataclass(frozen=True, slots=True)
class Version:
    """What a message showed from `at` (monotonic seconds) on."""

    at: float
    content: str
    components: list[dict[str, Any]] = field(repr=False)
    file_names: tuple[str, ...]
    flags: int

    @property
    def text(self) -> str:
        """All words shown, a line each."""
        shown = [component["content"] for component in walk(self.components) if component["type"] == 10]
        return "\n".join([*([self.content] if self.content else []), *shown])


@dataclass(slots=True)
class Message:
    """One message. `components` are as sent, with ids; `versions` has one entry a change, oldest first."""

    id: int
    channel: Channel
    author: User
    application_id: int
    created_at: float
    """Wall seconds."""
    owner: User | None = None
    """Whose eyes an ephemeral message is for."""
    content: str = ""
    embeds: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    components: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    attachments: list[Attachment] = field(default_factory=list[Attachment])
    flags: int = 0
    nonce: str | None = None
    edited_at: float | None = None
    interaction: dict[str, Any] | None = None
    reference: dict[str, Any] | None = None
    deleted: bool = False
    deleted_at: float | None = None
    """Monotonic seconds."""
    allowed_mentions: dict[str, Any] | None = None
    versions: list[Version] = field(default_factory=list[Version])

    @property
    def ephemeral(self) -> bool:
        return bool(self.flags & EPHEMERAL)

    @property
    def loading(self) -> bool:
        """Whether the bot is "thinking"."""
        return bool(self.flags & LOADING)

    @property
    def text(self) -> str:
        """All words shown, a line each."""
        return self.versions[-1].text if self.versions else self.content

    @property
    def buttons(self) -> dict[str, dict[str, Any]]:
        """Buttons by label."""
        return {
            part.get("label") or part.get("custom_id", ""): part for part in walk(self.components) if part["type"] == 2
        }

    @property
    def file_names(self) -> list[str]:
        return [attachment.filename for attachment in self.attachments]

    @property
    def shown(self) -> list[Attachment]:
        """The files a person sees: with Components V2 only those that a component names."""
        if not self.flags & COMPONENTS_V2:
            return list(self.attachments)
        urls = [media["url"] for part in walk(self.components) for media in media_of(part)]
        return [file for file in self.attachments if f"attachment://{file.filename}" in urls or file.url in urls]

    def payload(self) -> dict[str, Any]:
        """The message as Discord sends it, media resolved."""
        out: dict[str, Any] = {
            "id": str(self.id), "type": 20 if self.interaction else 0, "channel_id": str(self.channel.id),
            "author": self.author.payload(), "content": self.content, "embeds": self.embeds,
            "timestamp": iso(self.created_at), "edited_timestamp": iso(self.edited_at) if self.edited_at else None,
            "tts": False, "mention_everyone": False, "mentions": [], "mention_roles": [], "pinned": False,
            # Discord lists no attachments that a component names (discord-api-docs #8279).
            "attachments": [] if self.flags & COMPONENTS_V2 else [file.payload() for file in self.attachments],
            "flags": self.flags,
            "components": [self._resolved(component) for component in self.components],
            "application_id": str(self.application_id), "webhook_id": str(self.application_id),
        }  # fmt: skip
        if self.interaction is None:
            out.pop("webhook_id")
        else:
            out["interaction_metadata"] = self.interaction
        if self.reference:
            out["message_reference"] = self.reference
        if self.nonce is not None:
            out["nonce"] = self.nonce
        return out

    def _resolved(self, component: dict[str, Any]) -> dict[str, Any]:
        out = dict(component)
        for key in ("components",):
            if key in out:
                out[key] = [self._resolved(child) for child in out[key]]
        if "accessory" in out:
            out["accessory"] = self._resolved(out["accessory"])
        if "items" in out:
            out["items"] = [{**item, "media": self._media(item["media"]["url"])} for item in out["items"]]
        for key in ("media", "file"):
            if isinstance(out.get(key), dict):
                media = self._media(out[key]["url"])
                out[key] = media
                if key == "file":
                    named = next((file for file in self.attachments if file.url == media["url"]), None)
                    out |= {"name": named.filename, "size": len(named.data)} if named else {}
        return out

    def _media(self, url: str) -> dict[str, Any]:
        for file in self.attachments:
            if url in (file.url, f"attachment://{file.filename}"):
                return file.media(url)
        return {"url": url, "proxy_url": url, "loading_state": 2, "flags": 0}

    def apply(
        self, body: dict[str, Any], files: dict[int, Upload], store: Callable[[Upload], Attachment], *,
        size_limit: int, at: float, edit: bool,
    ) -> None:  # fmt: skip
        """Take over `body`: checks first, so that a refusal leaves the message as it was. Raises ApiError."""
        if sum(len(file.data) for file in files.values()) > REQUEST_LIMIT_BYTES:
            raise too_large()
        if any(len(file.data) > size_limit for file in files.values()):
            raise too_large()
        flags = self.flags & ~LOADING | (body.get("flags") or 0) & (COMPONENTS_V2 | 4 | 4096)
        if not edit:
            flags |= (body.get("flags") or 0) & EPHEMERAL
        content = body.get("content", self.content) or ""
        embeds = body.get("embeds", self.embeds) or []
        components = body.get("components", self.components) or []
        attachments = self._attachments(body, files, store)
        if len(attachments) > 10:
            raise invalid_form("attachments", "BASE_TYPE_MAX_LENGTH", "Must be 10 or fewer in length.")
        check_components(components, flags, content, embeds, attachments)
        if not (content or embeds or components or attachments):
            raise empty_message()
        self.content, self.embeds, self.attachments, self.flags = content, embeds, attachments, flags
        self.components = with_ids(components)
        self.allowed_mentions = body.get("allowed_mentions", self.allowed_mentions)
        self.note(at)

    def note(self, at: float) -> None:
        """Remember what is shown now."""
        names = tuple(file.filename for file in self.attachments)
        self.versions.append(Version(at, self.content, self.components, names, self.flags))

    def _attachments(
        self, body: dict[str, Any], files: dict[int, Upload], store: Callable[[Upload], Attachment]
    ) -> list[Attachment]:
        """An absent list keeps what is there; a list keeps only what it names and places `files[n]` by id n."""
        waiting = dict(files)
        kept: list[Attachment] = []
        listed = body.get("attachments")
        if listed is None:
            kept = list(self.attachments) if "attachments" not in body else []
            listed = []
        known = {file.id: file for file in self.attachments}
        for entry in listed:
            number = int(entry["id"])
            if number in waiting:
                file = store(waiting.pop(number))
            elif number in known:
                file = known[number]
            else:
                raise invalid_form("attachments", "ATTACHMENT_NOT_FOUND", f"Unknown attachment id {number}")
            file.description = entry.get("description", file.description)
            kept.append(file)
        return [*kept, *(store(upload) for upload in waiting.values())]


def with_ids(components: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Copy the tree and number the components that have no id, as Discord does."""
    taken = {part["id"] for part in walk(components) if part.get("id")}
    counter = iter(number for number in range(1, 1000) if number not in taken)

    def copy(component: dict[str, Any]) -> dict[str, Any]:
        out = {**component, "id": component.get("id") or next(counter)}
        if "components" in out:
            out["components"] = [copy(child) for child in out["components"]]
        if "accessory" in out:
            out["accessory"] = copy(out["accessory"])
        return out

    return [copy(component) for component in components]


def check_components(
    components: list[dict[str, Any]], flags: int, content: str, embeds: list[Any], attachments: list[Attachment]
) -> None:
    """Refuse what Discord refuses beyond its schema. Raises ApiError."""
    parts = list(walk(components))
    v2 = bool(flags & COMPONENTS_V2)
    if v2 and (content or embeds):
        key = "content" if content else "embeds"
        raise invalid_form(key, "MESSAGE_CANNOT_USE_LEGACY_FIELDS_WITH_COMPONENTS_V2", f"{key} cannot be used with V2.")
    if not v2 and any(part["type"] in V2_TYPES for part in parts):
        raise invalid_form(
            "components.0", "UNION_TYPE_CHOICES", "Value of field must be one of (1,); the V2 flag is not set."
        )
    if not v2 and len(components) > 5:
        raise invalid_form("components", "BASE_TYPE_BAD_LENGTH", "Must be between 1 and 5 in length.")
    if len(parts) > LIMIT_COMPONENTS:
        raise invalid_form("components", "COMPONENT_MAX_TOTAL", f"{len(parts)} components; at most {LIMIT_COMPONENTS}.")
    if sum(len(part["content"]) for part in parts if part["type"] == 10) > LIMIT_TEXT:
        raise invalid_form(
            "components", "COMPONENT_DISPLAYABLE_TEXT_SIZE_EXCEEDED", f"More than {LIMIT_TEXT} characters."
        )
    ids = [part["custom_id"] for part in parts if part.get("custom_id")]
    if len(ids) != len(set(ids)):
        raise invalid_form("components", "COMPONENT_CUSTOM_ID_DUPLICATED", "Component custom id cannot be duplicated")
    names = {file.filename for file in attachments}
    for part in parts:
        for media in media_of(part):
            url = media["url"]
            if url.startswith("attachment://"):
                if url.removeprefix("attachment://") not in names:
                    raise invalid_form("components", "UNFURLED_MEDIA_ITEM_REFERENCED_ATTACHMENT_NOT_FOUND", f"{url} names no attachment.")  # fmt: skip
            elif not url.startswith(("http://", "https://")):
                raise invalid_form("components", "URL_TYPE_INVALID_SCHEME", f"{url} is not an address.")
            elif part["type"] == 13:
                raise invalid_form("components", "FILE_COMPONENT_URL", "A File takes only attachment:// references.")


__all__ = ["ApiError", "Message", "Upload", "Version", "check_components", "media_of", "walk", "with_ids"]
