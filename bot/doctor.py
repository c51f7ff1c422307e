"""`python -m bot doctor`: look at everything the bot needs and say what to do about each finding."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import aiohttp

from bot.config import Settings, open_to_others
from bot.errors import EaselError

TIMEOUT_S = 15.0
LOW_DISK_BYTES = 5_000_000_000
NO_DISK_BYTES = 200_000_000
SHOWN_NAMES = 20


class Verdict(StrEnum):
    """How a finding stands. Only BAD keeps the bot from running."""

    GOOD = "ok"
    NOTE = "note"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at; `advice` says what to do, empty where all is well."""

    verdict: Verdict
    subject: str
    what: str
    advice: str = ""


def run_doctor(settings: Settings) -> int:
    """Print every finding; 1 where the bot cannot run as set up, else 0."""
    findings: list[Finding] = []
    checks: tuple[Callable[[Settings], Iterator[Finding]], ...] = (
        check_python, check_environment_file, check_token, check_device, check_disk, check_certificate, check_models,
        check_addons, check_memory, check_database,
    )  # fmt: skip
    for check in checks:
        try:
            found = list(check(settings))
        except EaselError as error:
            found = [Finding(Verdict.BAD, check.__name__.removeprefix("check_"), str(error))]
        for finding in found:
            advice = f"\n{'':>14}→ {finding.advice}" if finding.advice else ""
            print(f"{finding.verdict:>5}  {finding.subject}: {finding.what}{advice}", flush=True)
        findings += found
    bad = sum(finding.verdict is Verdict.BAD for finding in findings)
    print("\nEasel can run." if not bad else f"\nEasel cannot run yet: {bad} to mend, marked “bad”.")
    return 1 if bad else 0


def check_python(settings: Settings) -> Iterator[Finding]:
    """Name the interpreter."""
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding(Verdict.GOOD, "Python", version)


def check_environment_file(settings: Settings) -> Iterator[Finding]:
    """Look at who may read `.env`, which holds the token."""
    path = Path(".env")
    if not path.is_file():
        yield Finding(Verdict.NOTE, ".env", "there is none; settings come from the environment alone")
    elif open_to_others(path) is not None:
        yield Finding(Verdict.NOTE, ".env", "other users of this machine can read or change it", "chmod 600 .env")
    else:
        yield Finding(Verdict.GOOD, ".env", "found")


def check_token(settings: Settings) -> Iterator[Finding]:
    """Ask Discord about the token, the application and the servers the bot is in."""
    if settings.discord_token is None:
        yield Finding(
            Verdict.NOTE, "token", "DISCORD_TOKEN is not set: only the demo can run",
            "make an application at https://discord.com/developers/applications, put its bot token into .env",
        )  # fmt: skip
        return
    yield from asyncio.run(_ask_discord(settings))


async def _ask_discord(settings: Settings) -> list[Finding]:
    headers = {"Authorization": f"Bot {settings.discord_token}"}
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    try:
        async with aiohttp.ClientSession(headers=headers, timeout=timeout) as session:
            status, me = await _get(session, f"{settings.discord_api_url}/users/@me")
            if status == 401:
                advice = "copy it anew: https://discord.com/developers/applications, Bot, Reset Token"
                return [Finding(Verdict.BAD, "token", "Discord refuses it", advice)]
            if status != 200:
                return [Finding(Verdict.BAD, "Discord", f"answered {status}", "try again in a moment")]
            _, application = await _get(session, f"{settings.discord_api_url}/applications/@me")
            _, guilds = await _get(session, f"{settings.discord_api_url}/users/@me/guilds")
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        advice = f"check the network and DISCORD_API_URL ({settings.discord_api_url})"
        return [Finding(Verdict.BAD, "Discord", f"cannot be reached ({type(error).__name__})", advice)]
    findings = [
        Finding(Verdict.GOOD, "token", f"it belongs to {me.get('username')}"),
        Finding(Verdict.GOOD, "intents", f"no privileged ones are asked for ({_intents()})"),
    ]
    return findings + _permissions(int(application["id"]), guilds if isinstance(guilds, list) else [])


async def _get(session: aiohttp.ClientSession, url: str) -> tuple[int, Any]:
    async with session.get(url) as response:
        return response.status, await response.json(content_type=None)


def _intents() -> str:
    from bot.client import EaselClient

    asked = EaselClient().intents
    privileged = [name for name in ("members", "presences", "message_content") if getattr(asked, name)]
    assert not privileged, "the README promises that none are needed"
    return ", ".join(name for name, value in asked if value)


def _permissions(application_id: int, guilds: list[Any]) -> list[Finding]:
    from bot.client import PERMISSIONS, invite_link

    link = invite_link(application_id)
    if not guilds:
        return [Finding(Verdict.NOTE, "servers", "the bot is in none yet", f"open {link}")]
    findings: list[Finding] = []
    for guild in guilds:
        held = int(guild.get("permissions", 0))
        administrator = held & 0x8
        missing = [name for name, needed in PERMISSIONS if needed and not administrator and not _holds(held, name)]
        if missing:
            names = ", ".join(name.replace("_", " ") for name in missing)
            findings.append(Finding(Verdict.NOTE, f"server {guild.get('name')}", f"missing: {names}", f"open {link}"))
        else:
            findings.append(Finding(Verdict.GOOD, f"server {guild.get('name')}", "all permissions are there"))
    return findings


def _holds(held: int, name: str) -> bool:
    import discord

    return bool(getattr(discord.Permissions(held), name))


def check_device(settings: Settings) -> Iterator[Finding]:
    """Start the engine as the bot would, without loading a model."""
    from bot.engine.diffusers_engine import DiffusersEngine
    from bot.engine.files.models import hub_cache, load_catalogue, models_root

    engine = DiffusersEngine(
        load_catalogue(settings), models_root=models_root(settings), cache_dir=hub_cache(settings),
        device=settings.device, dtype=settings.dtype, max_batch=settings.max_batch,
    )  # fmt: skip
    info = engine.start()
    memory = "" if info.memory_bytes is None else f", {info.memory_bytes / 1e9:.1f} GB"
    what = f"{info.device_name} ({info.device}, {info.dtype}{memory})"
    if info.device == "cpu":
        advice = "for real models use a machine with a GPU; a CUDA build of torch finds it by itself"
        yield Finding(Verdict.NOTE, "GPU", f"none found, the CPU draws: {what}", advice)
    else:
        yield Finding(Verdict.GOOD, "GPU", what)


def check_disk(settings: Settings) -> Iterator[Finding]:
    """Look at the room in the data directory."""
    folder = settings.data_dir
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".doctor"
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        advice = "make it writable, or name another one in EASEL_DATA_DIR"
        yield Finding(Verdict.BAD, "data directory", f"{folder} cannot be written ({error.strerror})", advice)
        return
    free = shutil.disk_usage(folder).free
    what = f"{folder.resolve()}, {free / 1e9:.1f} GB free"
    if free < NO_DISK_BYTES:
        yield Finding(Verdict.BAD, "data directory", what, "make room, or name another one in EASEL_DATA_DIR")
    elif free < LOW_DISK_BYTES:
        yield Finding(Verdict.NOTE, "data directory", what, "models need 2 to 60 GB each")
    else:
        yield Finding(Verdict.GOOD, "data directory", what)


def check_certificate(settings: Settings) -> Iterator[Finding]:
    """Look at what pictures are signed with, as the start would, and at who may read its key."""
    from bot import __version__
    from bot.files.certificate import FOLDER, KEY_NAME
    from bot.files.credentials import load_credentials

    identity = load_credentials(settings, version=__version__, now=datetime.now(UTC)).identity
    whose = "this data directory's own" if identity.own else "the operator's"
    yield Finding(Verdict.GOOD, "certificate", f"{identity.name}, {whose}, until {identity.expires_at:%Y-%m-%d}")
    key = settings.c2pa_key or settings.data_dir / FOLDER / KEY_NAME
    if open_to_others(key):
        yield Finding(Verdict.NOTE, "certificate", "other users of this machine can read its key", f"chmod 600 {key}")


def check_models(settings: Settings) -> Iterator[Finding]:
    """Say of each model whether it is here, what it lacks besides, and which upscalers and annotators there are."""
    from bot.engine.files.annotator_files import annotators_here
    from bot.engine.files.models import load_catalogue, missing_parts, model_files, upscalers_dir
    from bot.engine.upscaling.upscalers import refused

    catalogue = load_catalogue(settings)
    weights = model_files(catalogue, settings)
    names = [spec.name for spec in catalogue.upscalers]
    yield Finding(Verdict.GOOD, "upscalers", f"{names[0]} is used, of {', '.join(names)}" if names else "none")
    for sentence in refused(upscalers_dir(settings)):
        yield Finding(Verdict.NOTE, "upscalers", sentence)
    local = [spec for spec in catalogue.models if weights.is_local(spec.id)]
    yield Finding(Verdict.GOOD, "models", f"here: {', '.join(spec.id for spec in local) or 'none'}")
    for sentence in missing_parts(settings):
        yield Finding(Verdict.NOTE, "parts", sentence, "put it there, or correct its path in the models file")
    for kind in dict.fromkeys(spec.kind for spec in catalogue.annotators):
        there, problems = annotators_here(catalogue, weights, kind)
        yield Finding(Verdict.GOOD, f"annotators ({kind})", f"here: {', '.join(there) or 'none'}")
        for problem in problems:
            yield Finding(Verdict.NOTE, f"annotators ({kind})", problem)
    default = catalogue[catalogue.default]
    if default not in local:
        advice = f"the first request downloads it; python -m bot models fetch {default.id} does so now"
        yield Finding(Verdict.NOTE, "models", f"the default, {default.id}, is not here yet", advice)
    gated = [spec.id for spec in catalogue.models if spec.gated and spec not in local]
    if gated and settings.hf_token is None:
        advice = "accept the licence on huggingface.co, then set HF_TOKEN"
        yield Finding(Verdict.NOTE, "models", f"behind a licence: {', '.join(gated)}", advice)


def check_addons(settings: Settings) -> Iterator[Finding]:
    """Say which LoRAs and embeddings were found, and of each file that is left out, checkpoints too, why."""
    from bot.engine.files.addons import EMBEDDINGS, LORAS, find_addons
    from bot.engine.files.checkpoints import find_checkpoints
    from bot.engine.files.models import load_catalogue

    catalogue = load_catalogue(settings)
    for sentence in find_checkpoints(catalogue, settings.data_dir).left_out:
        yield Finding(Verdict.NOTE, "checkpoints", sentence.rstrip("."))
    for what in (LORAS, EMBEDDINGS):
        found = find_addons(catalogue, settings.data_dir, what)
        names = ", ".join(addon.name for addon in found.addons[:SHOWN_NAMES])
        more = f" and {len(found.addons) - SHOWN_NAMES} more" if len(found.addons) > SHOWN_NAMES else ""
        yield Finding(Verdict.GOOD, what, f"here: {names or 'none'}{more}")
        for sentence in found.left_out:
            yield Finding(Verdict.NOTE, what, sentence.rstrip("."))


def check_memory(settings: Settings) -> Iterator[Finding]:
    """Say of each model how it lies on this card, and how it would on others."""
    from bot.engine.devices import choose_device, free_bytes
    from bot.engine.files.models import load_catalogue, model_files
    from bot.engine.memory.main_memory import main_memory_bytes
    from bot.engine.memory.outlook import WORDS, outlooks
    from bot.engine.memory.plans import Mode

    catalogue = load_catalogue(settings)
    device, ram = choose_device(settings.device, settings.dtype), main_memory_bytes()
    memory = "unknown" if ram is None else f"{ram / 1e9:.1f} GB"
    yield Finding(Verdict.GOOD, "main memory", memory)
    free = free_bytes(device)
    card = free if free is not None else device.memory_bytes
    for outlook in outlooks(catalogue, model_files(catalogue, settings)):
        about = "" if outlook.measured else "about "
        here_bytes = outlook.size_bytes * (2 if device.dtype == "fp32" else 1)
        size = f"{about}{here_bytes / 1e9:.2g} GB of weights"
        cards = f"on cards of {outlook.on_cards(ram)}"
        if not device.is_gpu:
            fits = ram is None or here_bytes <= ram
            here = "on this processor" if fits else "too large for this machine's main memory"
            yield Finding(Verdict.GOOD if fits else Verdict.NOTE, outlook.spec.id, f"{here}, {size}; {cards}")
            continue
        mode = outlook.on(card, ram)
        advice = ""
        if mode is not Mode.WHOLE and outlook.spec.quantization is None:
            advice = 'quantization = "int8" in the models file halves its denoiser (see the head of models.toml)'
        verdict = Verdict.GOOD if mode in (Mode.WHOLE, Mode.PARTS) else Verdict.NOTE
        yield Finding(
            verdict, outlook.spec.id, f"{WORDS[mode]} on this card, {size}; {cards}",
            advice if verdict is Verdict.NOTE else "",
        )  # fmt: skip


def check_database(settings: Settings) -> Iterator[Finding]:
    """Open the database as the bot would."""
    from bot.store.jobs import JobStore

    async def look() -> int:
        store = JobStore(settings.database_address)
        await store.open()
        try:
            return len(await store.unfinished())
        finally:
            await store.close()

    unfinished = asyncio.run(look())
    waits = f", {unfinished} requests wait in it" if unfinished else ""
    yield Finding(Verdict.GOOD, "database", f"opens{waits}")
