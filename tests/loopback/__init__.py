"""A Discord on 127.0.0.1 for tests: the real discord.py and the real process connect to it.

async with LoopbackDiscord() as discord, BotProcess(discord, data_dir) as bot:
    await bot.ready()
    asked = await discord.member("ada").slash("imagine", "imagine", prompt="a large red circle")
    await asked.wait_for(lambda one: one.message and one.message.file_names)
"""

from tests.loopback.invocation import Invocation
from tests.loopback.messages import Message, Upload
from tests.loopback.options import ClientRefused
from tests.loopback.people import Person
from tests.loopback.process import BotProcess
from tests.loopback.server import LoopbackDiscord
from tests.loopback.world import Channel, User

__all__ = [
    "BotProcess",
    "Channel",
    "ClientRefused",
    "Invocation",
    "LoopbackDiscord",
    "Message",
    "Person",
    "Upload",
    "User",
]
