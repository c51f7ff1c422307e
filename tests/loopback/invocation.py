"""What a person did, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tests.loopback.messages import Message, walk
from tests.loopback.world import Interaction, User

if TYPE_CHECKING:
    from tests.loopback.server import LoopbackDiscord


class Invocation:
    """One interaction seen from outside; its properties always show the present state."""

    def __init__(self, server: LoopbackDiscord, interaction: Interaction) -> None:
        self._server = server
        self.interaction = interaction

    @property
    def user(self) -> User:
        return self.interaction.user

    @property
    def sent_at(self) -> float:
        """Monotonic seconds."""
        return self.interaction.sent_at

    @property
    def acknowledged_after_s(self) -> float | None:
        """Seconds from the press to the first answer, None while there is none."""
        at = self.interaction.acknowledged_at
        return None if at is None else at - self.interaction.sent_at

    @property
    def failed(self) -> bool:
        """Whether the person sees "This interaction failed"."""
        late = self._server.now() - self.interaction.sent_at > self._server.ack_window_s
        return self.interaction.acknowledged_at is None and late

    @property
    def message(self) -> Message | None:
        """The original response as it stands; None before the first answer, and once it is deleted."""
        message = self._server.messages.get(self.interaction.original_id or 0)
        return None if message is None or message.deleted else message

    @property
    def original(self) -> Message | None:
        """The original response even when it was deleted since."""
        return self._server.messages.get(self.interaction.original_id or 0)

    @property
    def followups(self) -> list[Message]:
        """The follow-ups that stand."""
        messages = [self._server.messages[number] for number in self.interaction.followup_ids]
        return [message for message in messages if not message.deleted]

    @property
    def replies(self) -> list[Message]:
        """The original response, where it is the bot's new message, and the follow-ups."""
        fresh = self.message if self.interaction.callback_type in (4, 5) else None
        return [*([fresh] if fresh else []), *self.followups]

    @property
    def private_text(self) -> str:
        """What only the person who acted can read, a line each."""
        return "\n".join(message.text for message in self.replies if message.ephemeral)

    @property
    def modal(self) -> dict[str, Any] | None:
        """The form that opened."""
        return self.interaction.modal

    @property
    def choices(self) -> list[dict[str, Any]] | None:
        """What autocomplete offered."""
        return self.interaction.choices

    @property
    def text(self) -> str:
        """All words of the original response."""
        return self.message.text if self.message else ""

    def fields(self) -> dict[str, dict[str, Any]]:
        """The form's inputs by label; raises LookupError where no form opened."""
        if self.modal is None:
            raise LookupError("no form opened")
        named: dict[str, dict[str, Any]] = {}
        for row in walk(self.modal["components"]):
            if row["type"] == 18:
                named[row["label"]] = row["component"]
            elif row["type"] == 4 and row.get("label"):
                named[row["label"]] = row
        return named

    async def wait_for(self, condition: Callable[[Invocation], Any], *, timeout_s: float = 10.0) -> Invocation:
        """Wait until `condition(self)` is true; raises TimeoutError that says what stood there instead."""
        try:
            await self._server.bell.until(lambda: condition(self), timeout_s=timeout_s)
        except TimeoutError:
            raise TimeoutError(f"not within {timeout_s:g} s; {self!r}") from None
        return self

    async def acknowledged(self, *, timeout_s: float = 5.0) -> Invocation:
        """Wait for the first answer."""
        return await self.wait_for(lambda one: one.interaction.acknowledged_at is not None, timeout_s=timeout_s)

    async def answered(self, *, timeout_s: float = 10.0) -> Invocation:
        """Wait until there is something to read or a form: more than "thinking"."""

        def there(one: Invocation) -> bool:
            return one.modal is not None or any(not message.loading for message in one.replies)

        return await self.wait_for(there, timeout_s=timeout_s)

    def __repr__(self) -> str:
        stood = [
            f"{'private ' if message.ephemeral else ''}{message.text!r} {message.file_names}"
            for message in self.replies
        ]
        return f"<Invocation {self.interaction.kind} by {self.user.name}: {self.interaction.callback_type}, {stood}, refused {self.interaction.refusals}>"
