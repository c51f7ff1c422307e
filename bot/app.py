"""The wiring: builds everything, hands it over by constructor, shuts it down in order.

`run` and `demo` use the same `build`; only what lies beyond Discord's door differs. Heavy imports stand inside the
functions: the GPU thread begins to import torch as the process starts, before discord.py is read.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import os
import secrets
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from bot import __version__
from bot.catalogue.models import Catalogue
from bot.config import Settings
from bot.errors import ConfigError, DiscordUnreachable, EaselError
from bot.exits import EXIT_BAD_TOKEN, EXIT_DATABASE, EXIT_DEVICE_LOST, EXIT_GATEWAY_REFUSED, EXIT_OK
from bot.prompts.choices import NO_WILDCARDS, Wildcards
from bot.systemd import ALIVE, READY, STOPPING, Systemd

if TYPE_CHECKING:
    from bot.client import EaselClient
    from bot.delivery import Delivery
    from bot.engine.base import Weights
    from bot.files.fetch import Fetch
    from bot.files.marker import Marker
    from bot.moderation import AdultPolicy
    from bot.safety.classifier import Classifier
    from bot.scheduling.dispatcher import WhyNot
    from bot.scheduling.gpu_thread import GpuThread
    from bot.scheduling.patience import Patience
    from bot.scheduling.service import GenerationService
    from bot.store.jobs import JobStore
    from bot.transport import Transport

log = logging.getLogger(__name__)

DRAIN_S = 20.0
DAMAGED_DRAIN_S = 1.0
"""With a damaged database nothing that still ends could be recorded."""
GPU_END_S = 5.0
LOGIN_RETRIES_S = (2.0, 5.0, 15.0, 30.0, 60.0)
ID_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"

BAD_TOKEN = (
    "Discord refuses DISCORD_TOKEN. Copy it anew: https://discord.com/developers/applications, Bot, Reset Token."
)


def utc_now() -> datetime:
    """Tell the time: aware, UTC."""
    return datetime.now(UTC)


def new_job_id() -> str:
    """Make a request's id: ten characters that are easy to read aloud, 50 random bits."""
    return "".join(secrets.choice(ID_ALPHABET) for _ in range(10))


def new_seed() -> int:
    """Choose a seed as other programs do, below 2**32."""
    return secrets.randbelow(2**32)


@dataclass(frozen=True, slots=True)
class Machine:
    """The floors below Discord that exist before the event loop does: the GPU thread is already importing torch."""

    settings: Settings
    catalogue: Catalogue
    weights: Weights
    marker: Marker
    gpu: GpuThread
    wildcards: Wildcards = NO_WILDCARDS


def start_machine(settings: Settings) -> Machine:
    """Choose the models, load what pictures are signed with and the operator's words, and start the GPU thread, which imports torch at once.

    Raises ConfigError.
    """
    from bot.engine.diffusers_engine import DiffusersEngine
    from bot.engine.files.models import (
        compiled_dir,
        hub_cache,
        load_catalogue,
        load_wildcards,
        model_files,
        models_root,
    )
    from bot.files.marker import load_marker
    from bot.scheduling.gpu_thread import GpuThread

    catalogue = load_catalogue(settings)
    marker = load_marker(settings, version=__version__, now=utc_now())
    wildcards = load_wildcards(settings.data_dir)
    engine = DiffusersEngine(
        catalogue,
        models_root=models_root(settings),
        cache_dir=hub_cache(settings),
        device=settings.device,
        dtype=settings.dtype,
        max_batch=settings.max_batch,
        quantum_s=settings.model_quantum_s,
        levers=settings.levers,
        compiled_dir=compiled_dir(settings),
    )
    gpu = GpuThread(engine)
    gpu.start()
    return Machine(settings, catalogue, model_files(catalogue, settings), marker, gpu, wildcards)


@dataclass(frozen=True, slots=True)
class Easel:
    """The whole bot, built and not yet started."""

    client: EaselClient
    service: GenerationService
    delivery: Delivery

    async def drain(self, deadline_s: float = DRAIN_S) -> None:
        """Shut down in order: intake and drawing, the messages about them, the database."""
        await self.service.stop(deadline_s)
        await self.delivery.stop(deadline_s / 4)
        await self.service.close()

    async def stop(self, deadline_s: float = DRAIN_S) -> None:
        """Shut everything down, Discord last."""
        await self.drain(deadline_s)
        await self.client.close()


def build(
    machine: Machine,
    *,
    patience: Patience,
    fetch: Fetch,
    classifier: Classifier | None = None,
    store: JobStore | None = None,
    clock: Callable[[], datetime] = utc_now,
    transport: Transport | None = None,
) -> Easel:
    """Put the house together, bottom up. Needs a running event loop; starts nothing.

    `transport` comes under every REST call of the client and of what the present task starts; the demo needs none.
    """
    from bot.client import EaselClient
    from bot.delivery import Delivery
    from bot.moderation import AdultPolicy
    from bot.ui.house import House
    from bot.ui.messenger import Messenger
    from bot.ui.rights import Rights

    settings = machine.settings
    adult = AdultPolicy(in_age_restricted=settings.adult_pictures == "age-restricted")
    client = EaselClient(sync_guild=settings.sync_guild, http_trace=transport.trace if transport else None)
    service = _service(
        machine, store=store, classifier=classifier, patience=patience, clock=clock, adult=adult,
        why_not=Rights(client).why_not,
    )  # fmt: skip
    if transport is not None:
        transport.install(client)
    messenger = Messenger(client, patience=patience, clock=clock)
    delivery = Delivery(messenger, service, patience=patience, clock=clock, adult=adult, transport=transport)
    client.house = House(service, delivery, fetch, clock, adult)

    async def before_commands() -> None:
        delivery.start()
        await service.start()

    client.before_commands = before_commands
    return Easel(client, service, delivery)


def _service(
    machine: Machine, *, store: JobStore | None, classifier: Classifier | None, patience: Patience,
    clock: Callable[[], datetime], adult: AdultPolicy, why_not: WhyNot,
) -> GenerationService:  # fmt: skip
    from bot.engine.files.addons import lora_hashes
    from bot.files.archive import Archive
    from bot.limits import PIXEL_STEPS
    from bot.moderation import Moderator
    from bot.safety.classifier import OpenNsfw
    from bot.scheduling.board import BATCHES_ADMITTED
    from bot.scheduling.service import GenerationService
    from bot.store.jobs import JobStore

    settings = machine.settings
    archive = Archive(
        settings.data_dir / "pictures",
        classifier=classifier or OpenNsfw(),
        marker=machine.marker,
        version=__version__,
        model_names={spec.id: spec.name for spec in (*machine.catalogue.models, *machine.catalogue.upscalers)},
        lora_hashes=functools.partial(lora_hashes, machine.catalogue),
    )
    return GenerationService(
        store=store or JobStore(settings.database_address),
        archive=archive,
        gpu=machine.gpu,
        weights=machine.weights,
        catalogue=machine.catalogue,
        moderator=Moderator(),
        patience=patience,
        clock=clock,
        new_id=new_job_id,
        new_seed=new_seed,
        max_attempts=settings.max_attempts,
        keep_days=settings.keep_days,
        budget=settings.budget_megapixel_steps * PIXEL_STEPS or None,
        why_not=why_not,
        room=BATCHES_ADMITTED * settings.max_batch,
        adult=adult,
        wildcards=machine.wildcards,
    )


Assemble = Callable[..., Easel]


def run_bot(
    settings: Settings, *, start: Callable[[Settings], Machine] | None = None, assemble: Assemble | None = None
) -> int:
    """Run the Discord bot until SIGTERM or Ctrl-C; the process's exit code. Raises EaselError.

    `start` and `assemble` stand in for `start_machine` and `build`: who tests the process brings parts that fail.
    """
    from bot.store.lock import InstanceLock

    if settings.discord_token is None:
        raise ConfigError("DISCORD_TOKEN is not set. `python -m bot demo` needs none; the README says how to get one.")
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"{settings.data_dir}, which cannot be made a folder ({error.strerror})"
        raise ConfigError(f"EASEL_DATA_DIR is {reason}; it takes a folder that can be written.") from None
    with InstanceLock(settings.data_dir):
        machine = (start or start_machine)(settings)
        try:
            code = asyncio.run(_serve(machine, assemble or build))
        finally:
            machine.gpu.stop(timeout_s=GPU_END_S)  # what does not end then, `exits.leave` ends
        if code == EXIT_DEVICE_LOST:
            _start_anew()
        return code


def _start_anew() -> None:
    """Become a fresh process of the same command: a device context that is beyond repair lives as long as its process.

    Requests that were drawn when the device failed count it as an attempt, so that one that kills it is given up. The lock
    is let go of, since its file is not inherited.
    """
    Systemd(os.environ).tell(ALIVE)
    logging.shutdown()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def stop_signal() -> asyncio.Event:
    """Give an event that SIGTERM and Ctrl-C set. Event loop only."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):  # Windows has no such handlers; Ctrl-C raises there
            loop.add_signal_handler(number, stopping.set)
    return stopping


async def _serve(machine: Machine, assemble: Assemble) -> int:
    from bot.files.fetch import HttpFetcher
    from bot.scheduling.patience import Patience
    from bot.transport import Transport

    _point_at_discord(machine.settings)
    transport = Transport()
    fetch = HttpFetcher(machine.settings.attachment_hosts)
    easel = assemble(machine, patience=Patience(), fetch=fetch, transport=transport)
    systemd = Systemd(os.environ)
    stopping = stop_signal()
    engine = asyncio.ensure_future(asyncio.wrap_future(machine.gpu.ready))
    talk = asyncio.create_task(_talk(easel, machine.settings, systemd), name="discord")
    stop = asyncio.create_task(stopping.wait(), name="stop signal")
    alive = asyncio.create_task(systemd.keep_alive(), name="watchdog")
    lost = asyncio.ensure_future(asyncio.wrap_future(machine.gpu.lost))
    refused = transport.token_refused
    damaged = asyncio.ensure_future(asyncio.wrap_future(easel.service.damaged))
    deadline_s = DRAIN_S
    try:
        await asyncio.wait({talk, stop, engine, refused, damaged}, return_when=asyncio.FIRST_COMPLETED)
        if engine.done() and engine.exception() is None:
            await asyncio.wait({talk, stop, lost, refused, damaged}, return_when=asyncio.FIRST_COMPLETED)
        if damaged.done():
            log.error("%s", damaged.result())
            deadline_s = DAMAGED_DRAIN_S
            return EXIT_DATABASE
        if stop.done():
            log.info("stopping: what is drawn now may finish, the rest waits for the next start")
            return EXIT_OK
        if talk.done():
            return await talk
        if refused.done():
            log.error(BAD_TOKEN)
            return EXIT_BAD_TOKEN
        if lost.done():
            log.error("the device has failed for good: this process ends, and a new one takes up its requests")
            return EXIT_DEVICE_LOST
        raise engine.exception() or EaselError("The engine stopped.")
    finally:
        # A process that replaces itself does not stop in systemd's eyes, which would otherwise end it.
        systemd.tell("STATUS=starting anew" if lost.done() and not stop.done() else STOPPING)
        for waiting in (stop, lost, damaged):
            waiting.cancel()
        await easel.stop(deadline_s)
        await transport.close()
        talk.cancel()
        alive.cancel()
        await asyncio.gather(talk, alive, return_exceptions=True)


async def _talk(easel: Easel, settings: Settings, systemd: Systemd) -> int:
    """Log in, then hold the gateway; the exit code where Discord ends it for good."""
    import discord

    from bot.client import invite_link

    client = easel.client
    try:
        await _log_in(client, settings.discord_token or "")
        print(f"Invite link: {invite_link(client.application_id or 0)}", flush=True)
        # Before the gateway: waiting for it to take us may be long, and is no fault of the start.
        systemd.tell(READY, "STATUS=takes requests")
        await client.connect(reconnect=True)
    except discord.LoginFailure:
        log.error(BAD_TOKEN)
        return EXIT_BAD_TOKEN
    except discord.ConnectionClosed as error:
        if error.code == 4004:
            log.error("Discord refuses DISCORD_TOKEN (close code 4004). Copy it anew from the developer portal.")
            return EXIT_BAD_TOKEN
        log.error("Discord closed the gateway for good, close code %s. %s", error.code, error.reason or "")
        return EXIT_GATEWAY_REFUSED
    except discord.PrivilegedIntentsRequired:
        log.error("Discord refuses the intents (close code 4014), though Easel asks for no privileged ones.")
        return EXIT_GATEWAY_REFUSED
    return EXIT_OK


async def _log_in(client: EaselClient, token: str) -> None:
    import aiohttp
    import discord

    for delay_s in (*LOGIN_RETRIES_S, None):
        try:
            await client.login(token)
            return
        except discord.LoginFailure:
            raise
        except (aiohttp.ClientError, discord.HTTPException, OSError) as error:
            if client.is_closed() or delay_s is None:
                raise DiscordUnreachable(
                    f"Discord cannot be reached: {str(error).rstrip('.')}. Check the network and DISCORD_API_URL."
                ) from None
            log.warning("Discord cannot be reached (%s), again in %g s", error, delay_s)
            await asyncio.sleep(delay_s)
            # `login` makes a session each time, and would leave the last one open.
            await client.http.close()
            client.http.connector = discord.utils.MISSING


def _point_at_discord(settings: Settings) -> None:
    """Direct discord.py's REST and gateway, which are class attributes there."""
    import yarl
    from discord.gateway import DiscordWebSocket
    from discord.http import Route

    Route.BASE = settings.discord_api_url
    if settings.discord_gateway_url is not None:
        DiscordWebSocket.DEFAULT_GATEWAY = yarl.URL(settings.discord_gateway_url)
