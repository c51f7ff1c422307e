"""`python -m bot` without a token, as a process: the demo's page, its words, its end."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import aiohttp
import pytest

ROOT = Path(__file__).resolve().parents[2]
START_S = 60.0


def environment(folder: Path, **settings: str) -> dict[str, str]:
    """The environment of a stranger's shell: no settings but these."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("EASEL_", "DISCORD_", "HF_"))}
    return {
        **kept,
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
        "EASEL_DATA_DIR": str(folder / "data"),
        **settings,
    }


async def until_printed(process: asyncio.subprocess.Process, words: str) -> str:
    """Read what the process prints until `words` stand there."""
    assert process.stdout is not None
    text = ""
    while words not in text:
        line = await asyncio.wait_for(process.stdout.readline(), START_S)
        assert line, f"it ended:\n{text}"
        text += line.decode()
    return text


async def test_demo_without_a_token_serves_the_page_says_how_to_go_live_and_ends_cleanly(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bot", "demo", "--port", "0",
        cwd=tmp_path, env=environment(tmp_path), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    try:
        text = await until_printed(process, "invite link it prints")
        for line in ("discord.com/developers/applications", "DISCORD_TOKEN=", "make run"):
            assert line in text
        address = re.search(r"http://127\.0\.0\.1:\d+/", text)
        assert address is not None
        async with aiohttp.ClientSession() as session:
            async with session.get(address[0]) as page:
                assert page.status == 200
                assert "SimCord" in await page.text()
            async with session.get(f"{address[0]}preview.css") as style:
                assert "Easel: the built-in model paints small" in await style.text()
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 30) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert not list((tmp_path / "data").rglob("*.png"))


@pytest.mark.parametrize(
    ("arguments", "settings", "words"),
    [
        (["run"], {}, "DISCORD_TOKEN is not set"),
        (["run"], {"DISCORD_TOKEN": "x", "EASEL_DATA_DIR": "/dev/null"}, "EASEL_DATA_DIR is /dev/null"),
        (["demo"], {"EASEL_MAX_BATCH": "many"}, "EASEL_MAX_BATCH is 'many'; it takes a whole number from 1 to 64."),
        (["demo"], {"EASEL_MODELS_FILE": "nowhere.toml"}, "nowhere.toml"),
        (["demo"], {"EASEL_MODEL": "nonsuch"}, "nonsuch"),
    ],
    ids=["no token", "data directory", "wrong setting", "no catalogue", "unknown model"],
)
def test_start_with_a_wrong_setting_stops_with_one_sentence(
    tmp_path: Path, arguments: list[str], settings: dict[str, str], words: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bot", *arguments],
        cwd=tmp_path, env=environment(tmp_path, **settings), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr
