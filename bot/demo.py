"""The demo: the same bot with a simulated Discord underneath, shown in a local page that looks like Discord.

SimCord keeps Discord in memory and runs the real discord.py against it; its preview serves the page. Nothing leaves
the machine, no token is needed, and what was drawn is gone when the demo ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import tempfile
from collections.abc import Awaitable
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import simcord
from aiohttp import web
from simcord.preview._server import PreviewServer

from bot.app import Easel, build, start_machine, stop_signal, utc_now
from bot.config import Settings
from bot.errors import AttachmentRefused, EaselError
from bot.scheduling.patience import Patience

log = logging.getLogger(__name__)

DEFAULT_PORT = 8765
REFRESH_S = 0.3
HOW_TO_GO_LIVE = """\
To go live in a real server:
  1. make an application at https://discord.com/developers/applications and copy its bot token
  2. put the line DISCORD_TOKEN=<the token> into a file named .env in this folder
  3. start again with `make run` and open the invite link it prints"""

ENLARGED = """
/* Easel: the built-in model paints small; files keep their size, the page shows them large. */
.component-gallery .media-lightbox-trigger { width: 100%; }
.component-gallery:not(:has(> figure:nth-child(2))) { max-width: 384px; }
"""

T = TypeVar("T")


class EnlargingServer(PreviewServer):
    """The simulator's page with one rule more; its style sheet is the only way in."""

    async def _static(self, request: web.Request) -> web.Response:
        response: web.Response = await super()._static(request)
        if request.path == "/preview.css":
            response.text = (response.text or "") + ENLARGED
        return response


class SimulatedPatience(Patience):
    """Tells the simulated Discord what a wait is for; it would take an unexplained one for unfinished work."""

    def __init__(self) -> None:
        self.env: simcord.Env | None = None

    async def wait(self, awaitable: Awaitable[T], reason: str) -> T:
        """Wait as declared to the simulator, once there is one."""
        if self.env is None:
            return await awaitable
        return await self.env.external_wait(awaitable, reason=reason)


def build_simulated(machine: Any, **parts: Any) -> tuple[Easel, SimulatedPatience]:
    """Build the bot for a simulated Discord, whose attachments only its own client can read."""
    patience = SimulatedPatience()
    easel: Easel

    async def fetch(url: str, max_bytes: int) -> bytes:
        data: bytes = await easel.client.http.get_from_cdn(url)
        if len(data) > max_bytes:
            raise AttachmentRefused(f"The file is larger than {max_bytes // 1024 // 1024} MiB.")
        return data

    easel = build(machine, patience=patience, fetch=fetch, **parts)
    return easel, patience


def as_discord(env: simcord.Env) -> simcord.Env:
    """Let a deleted placeholder count as answered, as it does at Discord: the next follow-up is a message of its own, and may be private.

    SimCord 3.2.1 takes that follow-up for an edit of what is no longer there.
    """
    backend: Any = env.backend
    delete = backend.delete_message

    def deleted(channel_id: int, message_id: int) -> None:
        delete(channel_id, message_id)
        for record in backend.interactions.values():
            if record.message_id == message_id and record.loading:
                record.complete_deferred()

    backend.delete_message = deleted
    return env


def run_demo(settings: Settings, port: int = DEFAULT_PORT) -> int:
    """Serve the demo until SIGTERM or Ctrl-C; the process's exit code."""
    with tempfile.TemporaryDirectory(prefix="easel-demo-") as folder:
        # Models stay where the bot keeps them; requests and pictures go with the demo.
        machine = start_machine(settings)
        temporary = replace(settings, data_dir=Path(folder), database_url=None, sync_guild=None)
        try:
            return asyncio.run(_serve(replace(machine, settings=temporary), port))
        finally:
            machine.gpu.stop(timeout_s=5.0)


async def _serve(machine: Any, port: int) -> int:
    easel, patience = build_simulated(machine)
    env = as_discord(simcord.Env(easel.client, check_errors=False))
    env.backend.bot_user.name = "Easel"
    env.backend.clock.now = utc_now  # messages carry the time on the wall, not the simulator's
    patience.env = env
    await env.start()
    try:
        guild = env.create_guild("Easel demo")
        channel = guild.create_text_channel("imagine")
        viewers = [guild.add_member(env.create_user(name)) for name in ("ada", "bob", "eve")]
        try:
            page = env.preview(channel, viewers=viewers, layout="channel", port=port)
            page._server = EnlargingServer(page, port)
            async with page as preview:
                _welcome(preview.url)
                await _keep_fresh(env, preview)
        except simcord.SetupError as error:
            if "bind" not in str(error):
                raise
            raise EaselError(f"Port {port} is taken; choose another: python -m bot demo --port {port + 1}") from None
    finally:
        patience.env = None
        await easel.drain(5.0)
        await env.shutdown()
    return 0


def _welcome(url: str) -> None:
    print(
        "This is the demo: the same bot in a page that looks like Discord. It needs no token, and nothing leaves here."
    )
    print(f"\n  {url}\n")
    print("Open it, type /imagine, and draw: a sunset over a beach. Ctrl-C ends it.\n")
    print(HOW_TO_GO_LIVE, flush=True)


async def _keep_fresh(env: simcord.Env, preview: Any) -> None:
    """Publish what the bot did by itself: progress, results. Runs outside the bot's own work."""
    stopping = stop_signal()
    closed = asyncio.ensure_future(preview.wait_closed())
    seen = 0
    while not stopping.is_set() and not closed.done():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stopping.wait(), REFRESH_S)
        requests = len(env.http_requests)
        if requests == seen:
            continue
        try:
            await preview.refresh()
            seen = requests
        except (simcord.SetupError, TimeoutError) as error:
            log.debug("the page was busy, it is refreshed in a moment: %s", error)
    closed.cancel()
