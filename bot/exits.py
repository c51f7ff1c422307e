"""The process's exit codes; `docs/reliability.md` tells operators what each asks of them, a test compares the two."""

from __future__ import annotations

from bot.errors import AlreadyRunning, DatabaseDamaged, DiscordUnreachable, EaselError, StorageError

EXIT_OK = 0
EXIT_FAILED = 1
"""A setting, the machine, or something unforeseen."""
EXIT_BAD_TOKEN = 3
EXIT_GATEWAY_REFUSED = 4
EXIT_DEVICE_LOST = 5
"""Never leaves the process: it replaces itself instead."""
EXIT_IN_USE = 6
EXIT_DATABASE = 7
EXIT_STORAGE = 8
EXIT_UNREACHABLE = 9


def exit_code(error: EaselError) -> int:
    """Give the code of the error that ended the program."""
    match error:
        case AlreadyRunning():
            return EXIT_IN_USE
        case DatabaseDamaged():
            return EXIT_DATABASE
        case StorageError():
            return EXIT_STORAGE
        case DiscordUnreachable():
            return EXIT_UNREACHABLE
        case _:
            return EXIT_FAILED
