"""Every error Easel raises on purpose.

Each carries one sentence fit for a member or operator to read: what is wrong and what to do.

    EaselError
    ├── ConfigError               a setting is missing or wrong; the start stops
    ├── RequestError              bad input; nothing was done
    │   ├── ModerationRefused     the prompt or the input picture is not allowed
    │   ├── LimitReached          too many waiting requests
    │   ├── NotPermitted          rights are missing
    │   ├── JobNotFound           the request is unknown or was deleted
    │   └── AttachmentRefused     a file that is not a sound picture, is too large or comes from elsewhere
    ├── ModelError                a model is missing, gated, unknown in kind or does not fit
    ├── GenerationError           drawing failed
    │   ├── OutOfMemory
    │   ├── InvalidOutput         non-finite or uniformly black
    │   ├── DeviceLost            the device will not draw again in this process
    │   └── GenerationCancelled   not a failure: the request was cancelled
    ├── DiscordUnreachable        no connection could be made at the start
    └── StorageError              the database or the disk
        ├── DiskFull
        ├── DatabaseLocked        another program holds it
        ├── DatabaseDamaged
        └── AlreadyRunning        a second instance on one data directory
"""

from __future__ import annotations


class EaselError(Exception):
    """Root of the tree; `str(error)` is a sentence for people."""


class ConfigError(EaselError):
    """A setting is missing or wrong."""


class RequestError(EaselError):
    """The input is refused; nothing was done."""


class ModerationRefused(RequestError):
    """The prompt is not allowed on any server, or the input picture not in this channel."""


class LimitReached(RequestError):
    """The member has too many requests waiting."""


class NotPermitted(RequestError):
    """The person who pressed has no right to do this."""


class JobNotFound(RequestError):
    """The request is unknown or was deleted."""


class AttachmentRefused(RequestError):
    """The file is not a sound picture, is too large, or may not be fetched."""


class ModelError(EaselError):
    """A model is missing, gated, of an unknown kind, or does not fit."""


class GenerationError(EaselError):
    """Drawing failed."""


class OutOfMemory(GenerationError):
    """The device has no room for this request, even alone."""


class InvalidOutput(GenerationError):
    """The model gave non-finite or uniformly black output."""


class DeviceLost(GenerationError):
    """The device has failed in a way that only a new process gets over."""


class GenerationCancelled(GenerationError):
    """The request was cancelled while it was drawn."""


class DiscordUnreachable(EaselError):
    """No connection to Discord could be made."""


class StorageError(EaselError):
    """The database or the disk failed."""


class DiskFull(StorageError):
    """There is no room to keep another request's files."""


class DatabaseLocked(StorageError):
    """Another program holds the database."""


class DatabaseDamaged(StorageError):
    """The database is unreadable, damaged, somebody else's, or cannot be brought to this version's schema."""


class AlreadyRunning(StorageError):
    """Another instance uses this data directory."""
