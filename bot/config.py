"""The settings: read once from the environment and `.env`, checked, and handed on as one frozen object."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

from dotenv import dotenv_values

from bot.errors import ConfigError

REPOSITORY = Path(__file__).resolve().parent.parent


def _text(value: str) -> str:
    return value


def _path(value: str) -> Path:
    return Path(value).expanduser()


def _url(*schemes: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in schemes or not parts.netloc:
            raise ValueError
        return value.rstrip("/")

    return parse


def _one_of(*choices: str) -> Callable[[str], str]:
    def parse(value: str) -> str:
        if value.lower() not in choices:
            raise ValueError
        return value.lower()

    return parse


def _switch(value: str) -> bool:
    return {"on": True, "off": False}[_one_of("on", "off")(value)]


def _integer(low: int, high: int) -> Callable[[str], int]:
    def parse(value: str) -> int:
        number = int(value)
        if not low <= number <= high:
            raise ValueError
        return number

    return parse


def _hosts(value: str) -> tuple[str, ...]:
    hosts = tuple(host.strip().lower() for host in value.split(",") if host.strip())
    if any("/" in host or " " in host for host in hosts):
        raise ValueError
    return hosts


LEVERS = ("channels_last", "fused", "cudnn", "compile", "graphs")
"""What makes a denoiser faster: `bot/engine/lanes/levers.py` says what each does."""


def _levers(value: str) -> str:
    names = [name.strip().lower().replace("-", "_") for name in value.split(",")]
    if names not in (["auto"], ["none"]) and not set(names) <= set(LEVERS):
        raise ValueError
    return ",".join(names)


def _setting(
    name: str, parse: Callable[[str], Any], takes: str, about: str, default: Any = None, *, secret: bool = False
) -> Any:
    meta = {"name": name, "parse": parse, "takes": takes, "about": about, "secret": secret}
    return field(default=default, repr=not secret, metadata=meta)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Every setting, with the name it has in the environment, what it takes and what it is for in its metadata."""

    # fmt: off
    discord_token: str | None = _setting(
        "DISCORD_TOKEN", _text, "the bot's token", "The bot's token from the Discord developer portal. Without one, `make run` starts the demo.", secret=True)
    discord_api_url: str = _setting(
        "DISCORD_API_URL", _url("http", "https"), "an http(s) address", "Where Discord's REST API is: a proxy or a test server.", "https://discord.com/api/v10")
    discord_gateway_url: str | None = _setting(
        "DISCORD_GATEWAY_URL", _url("ws", "wss"), "a ws(s) address", "Where Discord's gateway is; empty is Discord's own.")
    hf_token: str | None = _setting(
        "HF_TOKEN", _text, "a Hugging Face token", "For models whose licence must be accepted on huggingface.co first.", secret=True)
    data_dir: Path = _setting(
        "EASEL_DATA_DIR", _path, "a folder", "Where the database, the pictures and downloads are kept.", Path("data"))
    model: str | None = _setting(
        "EASEL_MODEL", _text, "a model id of the catalogue", "The model used where none is named; empty chooses for this machine.")
    models_file: Path = _setting(
        "EASEL_MODELS_FILE", _path, "a TOML file", "The catalogue of models.", REPOSITORY / "models.toml")
    database_url: str | None = _setting(
        "EASEL_DATABASE_URL", _text, "an SQLAlchemy address, as sqlite:////srv/easel.db", "The database, a SQLite file; empty is easel.db in the data directory.", secret=True)
    attachment_hosts: tuple[str, ...] = _setting(
        "EASEL_ATTACHMENT_HOSTS", _hosts, "host names, with commas between", "Extra hosts attachments may be fetched from, http, private addresses and any port included. Discord's own always may.", ())
    device: str = _setting(
        "EASEL_DEVICE", _one_of("auto", "cuda", "mps", "cpu"), "auto, cuda, mps or cpu", "What draws.", "auto")
    dtype: str = _setting(
        "EASEL_DTYPE", _one_of("auto", "fp32", "fp16", "bf16"), "auto, fp32, fp16 or bf16", "The number format of the weights.", "auto")
    levers: str = _setting(
        "EASEL_LEVERS", _levers, f"auto, none, or some of {', '.join(LEVERS)}, with commas between", "What makes the denoiser faster; auto is channels_last for UNets.", "auto")
    max_batch: int = _setting(
        "EASEL_MAX_BATCH", _integer(1, 64), "a whole number from 1 to 64", "Pictures drawn in one denoiser call.", 4)
    model_quantum_s: int = _setting(
        "EASEL_MODEL_QUANTUM_S", _integer(0, 3600), "a whole number from 0 to 3600", "How long others may keep the GPU before a request for another model gets its turn, in seconds.", 30)
    log_level: str = _setting(
        "EASEL_LOG_LEVEL", _one_of("debug", "info", "warning", "error"), "debug, info, warning or error", "How much is logged.", "info")
    log_format: str = _setting(
        "EASEL_LOG_FORMAT", _one_of("text", "json"), "text or json", "How it is logged.", "text")
    c2pa_cert: Path | None = _setting(
        "EASEL_C2PA_CERT", _path, "a PEM file, the signing certificate first", "The certificate pictures are signed with, instead of the one made in the data directory.")
    c2pa_key: Path | None = _setting(
        "EASEL_C2PA_KEY", _path, "a PEM file without a password", "The private key of EASEL_C2PA_CERT.")
    watermark: bool = _setting(
        "EASEL_WATERMARK", _switch, "on or off", "Whether pictures get an invisible watermark too, which survives losing what the file says.", False)
    adult_pictures: str = _setting(
        "EASEL_ADULT_PICTURES", _one_of("age-restricted", "never"), "age-restricted or never", "Where pictures that the classifier takes for adult are shown and taken as input.", "age-restricted")
    sync_guild: int | None = _setting(
        "EASEL_SYNC_GUILD", _integer(1, 2**63 - 1), "a server id", "Register the commands in this one server, at once; for development.")
    max_attempts: int = _setting(
        "EASEL_MAX_ATTEMPTS", _integer(1, 10), "a whole number from 1 to 10", "How often a request that takes the process down with it is tried.", 3)
    keep_days: int = _setting(
        "EASEL_KEEP_DAYS", _integer(1, 3650), "a whole number from 1 to 3650", "How long finished requests and their pictures are kept, in days.", 30)
    budget_megapixel_steps: int = _setting(
        "EASEL_BUDGET_MEGAPIXEL_STEPS", _integer(0, 10**9), "a whole number from 0 to 1000000000", "What a member may draw a day (UTC), in megapixel-steps: megapixels times steps times pictures. 0 is no limit.", 0)
    negative_prompt: str | None = _setting(
        "EASEL_NEGATIVE_PROMPT", _text, "words", "What every picture should avoid, added to members' negative prompts where a model takes one.")
    # fmt: on

    @property
    def database_address(self) -> str:
        """The SQLAlchemy address in force."""
        return self.database_url or f"sqlite:///{(self.data_dir / 'easel.db').resolve()}"


def read_settings(environ: Mapping[str, str]) -> Settings:
    """Check `environ` and give the settings.

    An empty value is one that is not set. Raises ConfigError with the name, what it got and what it takes
    (a secret's value is never repeated).
    """
    values: dict[str, Any] = {}
    for item in fields(Settings):
        meta = cast("Mapping[str, Any]", item.metadata)
        raw = environ.get(meta["name"], "").strip()
        if not raw:
            continue
        try:
            values[item.name] = meta["parse"](raw)
        except ValueError:
            got = "a value that is not one" if meta["secret"] else repr(raw)
            raise ConfigError(f"{meta['name']} is {got}; it takes {meta['takes']}.") from None
    return Settings(**values)


def read_environment(environ: Mapping[str, str], dotenv: Path | None = Path(".env")) -> Settings:
    """Read `.env`, where there is one, under the real environment, and check both.

    Raises ConfigError as `read_settings` does, and where `.env` cannot be read.
    """
    stored: dict[str, str] = {}
    if dotenv is not None and dotenv.is_file():
        try:
            stored = {key: value or "" for key, value in dotenv_values(dotenv).items()}
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{dotenv} cannot be read: {error}. Write it as plain text, one NAME=value a line."
            ) from None
    return read_settings({**stored, **environ})


def open_to_others(dotenv: Path) -> str | None:
    """Say in a sentence that others on this machine can read or change `.env`, and how to mend it; None where not.

    Only where it holds a secret, and not on Windows, whose folders of users are closed to each other.
    """
    if os.name != "posix" or not dotenv.is_file():
        return None
    mode = dotenv.stat().st_mode
    if not mode & (stat.S_IRWXG | stat.S_IRWXO):
        return None
    secrets = {cast("Mapping[str, Any]", item.metadata)["name"] for item in fields(Settings) if item.metadata["secret"]}
    if not any(value for key, value in dotenv_values(dotenv).items() if key in secrets):
        return None
    does = "change" if mode & (stat.S_IWGRP | stat.S_IWOTH) else "read"
    return f"other users of this machine can {does} {dotenv}, which holds secrets. Close it: chmod 600 {dotenv}"
