"""The notebook as a Colab user runs it: cells from top to bottom, headless, with a Discord of our own and the built-in model."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from tests.loopback import LoopbackDiscord
from tests.loopback.process import REPOSITORY
from tests.loopback.stage import is_drawn

WHAT_IT_NEEDS = ("bot", "cogs", "models", "models.toml", "requirements.txt", "requirements-no-deps.txt")


def filled_in(**form: Any) -> Any:
    """The notebook with the form's fields set, as Colab writes them into the cell's text."""
    notebook = nbformat.read(REPOSITORY / "colab.ipynb", as_version=4)
    for name, value in form.items():
        hits = 0
        for cell in notebook.cells:
            lines = cell.source.split("\n")
            for number, line in enumerate(lines):
                if line.startswith(f"{name} = ") and "#@param" in line:
                    lines[number] = f"{name} = {value!r}  #@param{line.split('#@param')[1]}"
                    hits += 1
            cell.source = "\n".join(lines)
        assert hits == 1, f"the form has {hits} fields {name}"
    return notebook


def published(folder: Path) -> str:
    """A git address of this working tree, as somebody would publish it."""
    folder.mkdir()
    for name in WHAT_IT_NEEDS:
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder / name)
    git = ["git", "-c", "user.name=easel", "-c", "user.email=easel@localhost"]
    for words in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "Easel"]):
        subprocess.run([*git, *words], cwd=folder, check=True)
    return f"file://{folder}"


def environment(discord: LoopbackDiscord) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(("EASEL_", "DISCORD_"))}
    return {
        **inherited,
        "DISCORD_API_URL": discord.api_url,
        "DISCORD_GATEWAY_URL": discord.gateway_url,
        "EASEL_DEVICE": "cpu",
        "OMP_NUM_THREADS": "1",
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }


def printed(cell: Any) -> str:
    """What a cell wrote."""
    return "".join(output.get("text", "") for output in cell.outputs)


@pytest.mark.slow
async def test_notebook_run_from_top_to_bottom_draws_and_stops_in_order(tmp_path: Path) -> None:
    async with LoopbackDiscord() as discord:
        notebook = filled_in(
            DISCORD_TOKEN=discord.token, MODEL="pocket", REPOSITORY=published(tmp_path / "published"),
            DATA_DIR=str(tmp_path / "data"), HOURS=0.001,
        )  # fmt: skip
        (tmp_path / "content").mkdir()
        client = NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path / "content")}})
        cells = {cell.source.split("\n")[0]: cell for cell in notebook.cells if cell.cell_type == "code"}
        async with client.async_setup_kernel(env=environment(discord)):
            for number, cell in enumerate(notebook.cells):
                if "5. Watch" in cell.source:
                    watching = asyncio.create_task(client.async_execute_cell(cell, number))
                    asked = await discord.member("ada").slash("imagine", "imagine", prompt="a large red circle")
                    await asked.wait_for(is_drawn, timeout_s=60)
                    await watching
                else:
                    await client.async_execute_cell(cell, number)
        assert len(cells) == 6
        said = {title.removeprefix("#@title ")[:1]: printed(cell) for title, cell in cells.items()}
        assert "Token and model are set: pocket" in said["1"]
        assert "Installed in" in said["3"]
        assert "Invite link: https://discord.com/oauth2/authorize" in said["4"]
        assert "Stopped, exit code 0" in said["6"]
        assert all(discord.token not in text for text in said.values())
        assert discord.violations == []
        assert (tmp_path / "data" / "easel.db").is_file()


async def test_notebook_without_a_token_says_what_to_fill_in(tmp_path: Path) -> None:
    notebook = filled_in(MODEL="pocket")
    client = NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(tmp_path)}})
    async with client.async_setup_kernel():
        with pytest.raises(CellExecutionError, match="Fill in DISCORD_TOKEN"):
            await client.async_execute_cell(notebook.cells[1], 1)
