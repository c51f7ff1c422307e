"""What exists in the simulated Discord: people, one guild, its channels, messages, files, interactions."""

from __future__ import annotations

import base64
import io
import mimetypes
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from discord import Permissions
from PIL import Image

EPHEMERAL, LOADING, COMPONENTS_V2 = 64, 128, 32768
MEMBER_PERMISSIONS = Permissions(
    view_channel=True, send_messages=True, attach_files=True, embed_links=True, read_message_history=True,
    use_application_commands=True, send_messages_in_threads=True,
)  # fmt: skip
MODERATOR_PERMISSIONS = MEMBER_PERMISSIONS | Permissions(manage_messages=True)
BOT_PERMISSIONS = MEMBER_PERMISSIONS
TEXT, DM, THREAD, FORUM = 0, 1, 11, 15


def iso(at: float) -> str:
    """Write a wall time (seconds since 1970) as Discord does."""
    return datetime.fromtimestamp(at, UTC).isoformat()


@dataclass(slots=True)
class User:
    """A person or the bot."""

    id: int
    name: str
    bot: bool = False
    permissions: Permissions = MEMBER_PERMISSIONS
    dms_closed: bool = False
    roles: list[int] = field(default_factory=list[int])
    """Role ids beside @everyone; what an interaction says of rights is `permissions` all the same."""
    left: bool = False
    """Whether they have left the guild."""

    def payload(self) -> dict[str, Any]:
        return {
            "id": str(self.id), "username": self.name, "discriminator": "0", "global_name": self.name.title(),
            "avatar": None, "bot": self.bot, "public_flags": 0, "flags": 0,
        }  # fmt: skip

    def member_payload(self) -> dict[str, Any]:
        return {
            "user": self.payload(), "roles": [str(role) for role in self.roles], "joined_at": "2026-01-01T00:00:00+00:00", "deaf": False,
            "mute": False, "flags": 0, "nick": None, "avatar": None, "pending": False, "premium_since": None,
            "communication_disabled_until": None,
        }  # fmt: skip


@dataclass(slots=True)
class Channel:
    """A channel, thread, forum or direct conversation.

    A test sets `forbidden` (the bot may not send: 50013), `hidden` (the bot does not see it: 50001) or `deleted`
    (10003) at any time.
    """

    id: int
    type: int
    name: str
    guild_id: int | None
    parent: Channel | None = None
    nsfw: bool = False
    recipient: User | None = None
    forbidden: bool = False
    hidden: bool = False
    deleted: bool = False
    overwrites: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """As Discord has them: id, type (0 a role, 1 a member), allow and deny."""

    @property
    def age_restricted(self) -> bool:
        return self.parent.nsfw if self.parent else self.nsfw

    def bot_permissions(self) -> Permissions:
        """What the bot may do here."""
        if self.hidden:
            return Permissions.none()
        allowed = Permissions(BOT_PERMISSIONS.value)
        if self.forbidden:
            allowed.update(send_messages=False, send_messages_in_threads=False, attach_files=False)
        return allowed

    def payload(self) -> dict[str, Any]:
        if self.type == DM:
            return {
                "id": str(self.id), "type": DM, "last_message_id": None, "flags": 0,
                "recipients": [self.recipient.payload()] if self.recipient else [],
            }  # fmt: skip
        base: dict[str, Any] = {
            "id": str(self.id), "type": self.type, "name": self.name, "guild_id": str(self.guild_id),
            "parent_id": str(self.parent.id) if self.parent else None, "last_message_id": None, "flags": 0,
            "rate_limit_per_user": 0,
        }  # fmt: skip
        if self.type == THREAD:
            stamp = "2026-01-01T00:00:00+00:00"
            metadata = {
                "archived": False, "auto_archive_duration": 1440, "archive_timestamp": stamp, "locked": False,
                "create_timestamp": stamp,
            }  # fmt: skip
            return {
                **base, "owner_id": "100", "message_count": 0, "member_count": 2, "total_message_sent": 0,
                "thread_metadata": metadata,
                "member": {"id": str(self.id), "user_id": "100", "join_timestamp": stamp, "flags": 0},
            }  # fmt: skip
        extra = {"available_tags": [], "default_reaction_emoji": None} if self.type == FORUM else {}
        return {
            **base,
            **extra,
            "position": 0,
            "nsfw": self.nsfw,
            "topic": None,
            "permission_overwrites": self.overwrites,
        }


@dataclass(slots=True)
class Attachment:
    """A stored file; the bytes stay readable after the message let go of it, as on a CDN."""

    id: int
    filename: str
    data: bytes = field(repr=False)
    url: str
    content_type: str
    width: int | None = None
    height: int | None = None
    description: str | None = None
    ephemeral: bool = False
    spoiler: bool = False

    @classmethod
    def make(cls, id: int, filename: str, data: bytes, base_url: str) -> Attachment:
        """Store `data`; a picture's size is read from its head, as Discord does."""
        content_type = mimetypes.guess_type(filename)[0] or "application/octet-stream"
        width = height = None
        if content_type.startswith("image/"):
            try:
                width, height = Image.open(io.BytesIO(data)).size
            except Exception:  # broken pictures are what some tests send
                width = height = None
        return cls(id, filename, data, f"{base_url}/cdn/attachments/{id}/{filename}", content_type, width, height)

    def payload(self) -> dict[str, Any]:
        out: dict[str, Any] = {
            "id": str(self.id), "filename": self.filename, "size": len(self.data), "url": self.url,
            "proxy_url": self.url, "content_type": self.content_type,
        }  # fmt: skip
        if self.width is not None:
            out |= {"width": self.width, "height": self.height}
        if self.description is not None:
            out["description"] = self.description
        if self.ephemeral:
            out["ephemeral"] = True
        return out

    def media(self, url: str) -> dict[str, Any]:
        """The media object a component shows for this file."""
        out = {"id": str(self.id), "attachment_id": str(self.id), "url": self.url, "proxy_url": self.url, "flags": 0}
        return {
            **out,
            "width": self.width,
            "height": self.height,
            "content_type": self.content_type,
            "loading_state": 2,
        }


Kind = Literal["command", "component", "modal", "autocomplete"]


@dataclass(slots=True)
class Interaction:
    """One thing a person did, and how the bot answered."""

    id: int
    token: str
    kind: Kind
    user: User
    channel: Channel
    payload: dict[str, Any] = field(repr=False)
    sent_at: float
    """Monotonic seconds."""
    lifetime_s: float
    size_limit: int
    user_install: bool
    source_message_id: int | None = None
    acknowledged_at: float | None = None
    callback_type: int | None = None
    original_id: int | None = None
    followup_ids: list[int] = field(default_factory=list[int])
    modal: dict[str, Any] | None = None
    choices: list[dict[str, Any]] | None = None
    refusals: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """Error bodies the bot got for its callbacks."""


def new_token(interaction_id: int) -> str:
    """A token that looks like Discord's."""
    return base64.urlsafe_b64encode(f"interaction:{interaction_id}:loopback".encode()).decode().rstrip("=")
