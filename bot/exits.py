"""The process's exit codes; `docs/reliability.md` tells operators what each asks of them, a test compares the two."""

from __future__ import annotations

import logging
import os
import sys
import threading
from typing import NoReturn

from bot.errors import AlreadyRunning, DatabaseDamaged, DiscordUnreachable, EaselError, StorageError
from bot.scheduling.gpu_thread import THREAD_NAME

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


def leave(code: int) -> NoReturn:
    """End the process now where the GPU thread still runs, else in the ordinary way. Main thread; the last call.

    A step of minutes and an import of torch cannot be interrupted, and an ordinary end would tear torch down under them:
    abort, code 134.
    """
    if any(one.name == THREAD_NAME and one.is_alive() for one in threading.enumerate()):
        logging.shutdown()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)
    sys.exit(code)


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
