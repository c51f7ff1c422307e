"""Small shared things: a bell that rings on every change, snowflakes, and Discord's errors."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")
DISCORD_EPOCH_MS = 1420070400000


class Bell:
    """Wake everybody who waits for a change; used on one event loop."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        """Say that something changed."""
        event, self._event = self._event, asyncio.Event()
        event.set()

    async def until(self, condition: Callable[[], T], *, timeout_s: float, what: str = "the condition") -> T:
        """Wait until `condition()` is true and return its value; raises TimeoutError naming `what`."""
        try:
            async with asyncio.timeout(timeout_s):
                while not (value := condition()):
                    await self._event.wait()
                return value
        except TimeoutError:
            raise TimeoutError(f"{what} did not come within {timeout_s:g} s") from None


class Snowflakes:
    """Make ids that grow and carry their time, as Discord's do."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._last = 0

    def new(self) -> int:
        """Return an id above all earlier ones."""
        self._last = max((int(self._clock() * 1000) - DISCORD_EPOCH_MS) << 22, self._last + 1)
        return self._last


class ApiError(Exception):
    """An answer in Discord's error shape: HTTP `status`, JSON `code` and `message`."""

    def __init__(self, status: int, code: int, message: str, errors: Any = None) -> None:
        super().__init__(f"{status} {code} {message}")
        self.status = status
        self.body: dict[str, Any] = {"message": message, "code": code}
        if errors is not None:
            self.body["errors"] = errors


def unknown_interaction() -> ApiError:
    return ApiError(404, 10062, "Unknown interaction")


def already_acknowledged() -> ApiError:
    return ApiError(400, 40060, "Interaction has already been acknowledged.")


def unknown_message() -> ApiError:
    return ApiError(404, 10008, "Unknown Message")


def unknown_channel() -> ApiError:
    return ApiError(404, 10003, "Unknown Channel")


def unknown_webhook() -> ApiError:
    return ApiError(404, 10015, "Unknown Webhook")


def invalid_webhook_token() -> ApiError:
    return ApiError(401, 50027, "Invalid Webhook Token")


def missing_access() -> ApiError:
    return ApiError(403, 50001, "Missing Access")


def missing_permissions() -> ApiError:
    return ApiError(403, 50013, "Missing Permissions")


def cannot_message_user() -> ApiError:
    return ApiError(403, 50007, "Cannot send messages to this user")


def too_large() -> ApiError:
    return ApiError(413, 40005, "Request entity too large")


def too_many_followups() -> ApiError:
    return ApiError(400, 40094, "This interaction has reached the maximum number of follow up messages")


def empty_message() -> ApiError:
    return ApiError(400, 50006, "Cannot send an empty message")


def invalid_form(where: str, code: str, message: str) -> ApiError:
    """50035, with the error at the dotted path `where`, as Discord nests it."""
    errors: dict[str, Any] = {"_errors": [{"code": code, "message": message}]}
    for part in reversed([part for part in where.split(".") if part]):
        errors = {part: errors}
    return ApiError(400, 50035, "Invalid Form Body", errors)
