"""The real process with parts that break when told to: `python -m tests.crash.victim`, in the place of `python -m bot run`.

It reads these, which nothing in `bot/` knows: `VICTIM_TRAPS` (the folder of `traps.py`), `VICTIM_ENGINE` (`pencil`, or
`pocket` for the real engine), `VICTIM_HEARTBEAT_TIMEOUT_S` (for 60 s), `VICTIM_DRAIN_S` (for 20 s), `VICTIM_IDENTIFY_GAP_S` (for 5 s),
`VICTIM_SCRIPTS` ("<folder> <revision>": other
migrations than ours).
"""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path
from typing import Any

from bot import __version__, app
from bot.config import Settings, read_environment
from bot.engine.files.models import load_catalogue, model_files
from bot.errors import EaselError
from bot.exits import exit_code, leave
from bot.files.marker import load_marker
from bot.generation import RawPicture
from bot.logs import set_up_logging
from bot.scheduling.gpu_thread import GpuThread
from bot.store import migrate
from tests.crash.pencil import Pencil
from tests.crash.traps import TrappedStore, Traps, trap_files

TRAPS = Path(os.environ["VICTIM_TRAPS"])


class Unseeing:
    """A classifier that finds nothing and needs no model."""

    threshold = 0.5

    def score(self, picture: RawPicture) -> float:
        return 0.0


def start(settings: Settings) -> app.Machine:
    """Start the GPU thread on the engine that is wanted."""
    if os.environ.get("VICTIM_ENGINE") == "pocket":
        from tests.crash.faulty import start_faulty

        return start_faulty(settings, TRAPS)
    catalogue = load_catalogue(settings)
    gpu = GpuThread(Pencil(TRAPS))
    gpu.start()
    marker = load_marker(settings, version=__version__, now=app.utc_now())
    return app.Machine(settings, catalogue, model_files(catalogue, settings), marker, gpu)


def assemble(machine: app.Machine, **parts: Any) -> app.Easel:
    """Build the bot on the trapped store."""
    store = TrappedStore(machine.settings.database_address, Traps(TRAPS))
    easel = app.build(machine, classifier=Unseeing(), store=store, **parts)
    easel.client.identify_gap.gap_s = float(os.environ.get("VICTIM_IDENTIFY_GAP_S", easel.client.identify_gap.gap_s))
    timeout_s = os.environ.get("VICTIM_HEARTBEAT_TIMEOUT_S")
    if timeout_s is not None:
        easel.client._connection.heartbeat_timeout = float(timeout_s)
    return easel


def main() -> int:
    """Run until stopped; the exit code."""
    TRAPS.mkdir(parents=True, exist_ok=True)
    trap_files(Traps(TRAPS))
    app.DRAIN_S = float(os.environ.get("VICTIM_DRAIN_S", app.DRAIN_S))
    if "VICTIM_SCRIPTS" in os.environ:
        scripts, head = os.environ["VICTIM_SCRIPTS"].rsplit(" ", 1)
        migrate.prepare = functools.partial(migrate.prepare, scripts=Path(scripts), head=head)
    try:
        settings = read_environment(os.environ)
        set_up_logging(settings.log_level, settings.log_format, (settings.discord_token, settings.hf_token))
        return app.run_bot(settings, start=start, assemble=assemble)
    except EaselError as error:
        print(f"easel: {error}", file=sys.stderr)
        return exit_code(error)


if __name__ == "__main__":
    leave(main())
