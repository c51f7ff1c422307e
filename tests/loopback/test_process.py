"""The process wrapper, with a small client in the bot's place: starting, reading, killing, stopping."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.loopback import BotProcess, LoopbackDiscord

SCRIPT = """
import asyncio, os, signal, sys
import discord, yarl
from discord import app_commands
from discord.gateway import DiscordWebSocket
from discord.http import Route

Route.BASE = os.environ["DISCORD_API_URL"]
DiscordWebSocket.DEFAULT_GATEWAY = yarl.URL(os.environ["DISCORD_GATEWAY_URL"])
client = discord.Client(intents=discord.Intents.none())
tree = app_commands.CommandTree(client)

@tree.command(name="hello", description="Say hello")
async def hello(interaction: discord.Interaction) -> None:
    await interaction.response.send_message(os.environ.get("GREETING", "hello"))

async def main():
    if "--fail" in sys.argv:
        sys.exit("no token")
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await client.login(os.environ["DISCORD_TOKEN"])
    await tree.sync()
    print("serving", flush=True)
    connection = asyncio.create_task(client.connect())
    await stop.wait()
    await client.close()
    await connection

asyncio.run(main())
"""


async def test_process_started_killed_and_stopped_answers_each_time(tmp_path: Path) -> None:
    async with LoopbackDiscord() as discord:
        bot = BotProcess(discord, tmp_path, environment={"GREETING": "good day"}, arguments=("-c", SCRIPT))
        async with bot:
            assert await bot.ready(timeout_s=30) > 0
            asked = await (await discord.member("ada").slash("imagine", "hello")).answered()
            assert asked.text == "good day"
            assert bot.memory_bytes() > 10_000_000
            assert "serving" in bot.logs
            await bot.kill()
            assert bot.returncode == -9
            await bot.start()
            await bot.ready(timeout_s=30)
            asked = await (await discord.member("bob").slash(discord.member("bob").dm, "hello")).answered()
            assert asked.text == "good day"
            assert await bot.terminate() == 0
            assert bot.all_logs.count("serving") == 2


async def test_process_that_ends_at_once_is_reported_with_its_log(tmp_path: Path) -> None:
    async with LoopbackDiscord() as discord, BotProcess(discord, tmp_path, arguments=("-c", SCRIPT, "--fail")) as bot:
        with pytest.raises(RuntimeError, match="ended with 1:\nno token"):
            await bot.ready(timeout_s=30)
