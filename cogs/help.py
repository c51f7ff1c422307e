"""`/help`: one page, for the one who asks."""

from __future__ import annotations

from typing import Any

import discord
from discord import app_commands, ui
from discord.ext import commands

from bot.ui.house import House
from bot.ui.view import sealed

TEXT = """\
**Draw**
`/imagine prompt: a sunset over a beach` is all it takes. The rest is optional: `negative_prompt` says what to \
avoid, `model` who draws, `aspect` (or `width` and `height`) the shape, `count` how many, `steps` and `guidance` \
how, `seed` which of all possible pictures, `sampler` by which method, `style` words around the prompt, `quality` whether a quick \
draft will do. `private` shows the pictures only to you, \
`spoiler` hides them behind a click.

**From a picture**
`image` draws from a picture, and `strength` says how far to leave it; `mask` redraws only what is white in it. `control` follows a \
picture: its lines, its depth, how people stand in it, as `control_type` says; `reference` takes up what another one shows. \
`/expand` goes on beyond a picture's edges. *Use as input* (right-click a message, Apps) takes the picture of any message. `/describe` puts a picture into words.

**Many at once**
`/batch` draws a list of prompts, one a line, from a form or a .txt `file`; the message fills as they finish, and at the end \
all of them are one archive. `/grid` compares: one prompt over the values of one or two options, as `x: steps: 10, 20, 30`, on one sheet.

**While you wait**
The message shows your place in line, then the steps and the picture forming. Everybody gets a turn: one request of \
yours, then one of the next member. *Cancel* takes a request back at any moment; requests survive a restart of the bot.

**With a result**
*Upscale* makes a picture twice as large; *4×* and *Detail* are under what comes of it, and `/upscale` takes any picture. \
*Vary* draws more near a picture, *Vary region* redraws the squares of it that you choose, *Again* draws it with a new seed, *Edit* opens a form with all the parameters, *Info* shows them, *Delete* erases the \
message, the files and our record of them (yours, or anybody's for moderators).

**Look around**
`/queue` what is drawn and where you stand · `/cancel` take requests back · `/history` your pictures · `/models` what \
can draw here · `/styles` the styles · `/info` read the parameters out of any picture file

**Your data**
`/privacy export` gives you all that is kept of you · `/privacy delete` removes it"""


class Help(commands.Cog):
    """Explain the bot."""

    def __init__(self, house: House) -> None:
        self.house = house

    @app_commands.command(description="How to draw, and what everything does")
    async def help(self, interaction: discord.Interaction[Any]) -> None:
        """Answer with the page."""
        default = self.house.service.catalogue.default
        name = self.house.service.catalogue[default].name
        page = ui.Container(ui.TextDisplay(TEXT), ui.TextDisplay(f"-# here {name} draws unless you say otherwise"))
        await interaction.response.send_message(view=sealed(page), ephemeral=True)


async def setup(bot: commands.Bot) -> None:
    """Load the cog."""
    await bot.add_cog(Help(bot.house))  # type: ignore[attr-defined]  # EaselClient carries it
