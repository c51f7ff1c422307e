"""49: tokens are in no log, error or crash report; in the database only interactions', for their 15 minutes."""

from __future__ import annotations

import asyncio
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from bot.config import open_to_others
from bot.scheduling.events import Rendered
from bot.scheduling.patience import Patience
from bot.store import migrate
from tests.loopback.stage import HF_TOKEN, Stage
from tests.loopback.world import new_token
from tests.unit.scheduling.fakes import World
from tests.unit.store.support import added, opened

TOKEN = "MTEwMDAwMDAwMDAwMDAwMDEwMA.loopbk.not-a-real-token-but-shaped-like-one"
pytestmark = pytest.mark.fault(49)


@pytest.mark.asyncio(loop_scope="session")
async def test_fault_49_everything_that_fails_with_all_debug_logs_on_leaves_no_token(loud_stage: Stage) -> None:
    discord = loud_stage.discord
    await loud_stage.waiting(await loud_stage.imagine("eve", steps=8))
    asked = await loud_stage.waiting(await loud_stage.imagine("ada", steps=2))
    own = f"/webhooks/*/{asked.interaction.token}/*"
    for fault in (
        {"reset": True},
        {"status": 500},
        {"truncate": True},
        {"status": 429},
        {"status": 404, "code": 10015},
    ):
        discord.inject("PATCH", own, **fault)
    late = await loud_stage.imagine("bob", steps=2)
    discord.inject("POST", f"/interactions/*/{late.interaction.token}/callback", status=404, code=10062)
    discord.gateway.drop()
    await loud_stage.until_status(asked, "posted")
    written = loud_stage.bot.all_logs
    assert loud_stage.leaks() == []
    assert "Traceback" not in written
    # What would have leaked was written: requests with their addresses, and events as they came over the gateway.
    assert "/webhooks/" in written
    assert "WebSocket Event" in written
    assert written.count("[redacted]") > 10
    for fault in discord.injections:
        fault.lift()


CRASH = """
import asyncio, gc, logging, sys, threading, warnings
from bot import cli, logs
secrets = sys.argv[1]
logs.guard_crashes()
logs.set_up_logging("debug", sys.argv[2], [None])

def fail():
    raise RuntimeError(f"POST https://discord.com/api/v10/webhooks/1/{secrets}")

def say(where):
    sys.stderr.write(f"== {where} ==\\n")

say("a thread")
thread = threading.Thread(target=fail)
thread.start()
thread.join()

say("a destructor")
class Bad:
    def __del__(self):
        fail()
Bad()
gc.collect()

say("a task nobody waits for")
async def work():
    fail()
async def main():
    asyncio.get_running_loop().create_task(work())
    await asyncio.sleep(0.01)
asyncio.run(main())
gc.collect()

say("a log line that cannot be written")
logging.getLogger("bot").error("%d requests", secrets)

say("a warning")
warnings.warn(secrets)

say("a sentence of ours")
cli._fail(f"Discord cannot be reached: {secrets}")

say("the main thread")
fail()
"""


@pytest.mark.parametrize("style", ["text", "json"])
def test_fault_49_crash_reports_of_every_kind_leave_no_token(style: str) -> None:
    tokens = [TOKEN, HF_TOKEN, new_token(1_234_567_890_123_456_789)]
    done = subprocess.run([sys.executable, "-c", CRASH, " ".join(tokens), style], capture_output=True, text=True)
    assert done.stdout == ""
    kinds = re.split(r"== ([^=]+) ==\n", done.stderr)[1:]
    assert len(kinds) == 14
    for kind, said in zip(kinds[::2], kinds[1::2], strict=True):
        assert said.strip(), kind  # it is reported,
        assert not [token for token in tokens if token in said], (kind, said)  # and without them


class HeldTidying(Patience):
    """Lets the tidying loop on only when the test says so."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self._go = asyncio.Event()
        self._resting = asyncio.Event()

    async def sleep(self, delay_s: float, reason: str) -> None:
        if reason != "the next tidying":
            return await super().sleep(delay_s, reason)
        self.slept.append(delay_s)
        self._resting.set()
        await self._go.wait()
        self._go.clear()

    async def once(self) -> None:
        """Let it tidy once, from its beginning to its end."""
        async with asyncio.timeout(60):
            await self._resting.wait()
            self._resting.clear()
            self._go.set()
            await self._resting.wait()


def found_in(folder: Path, token: str) -> list[str]:
    """The files, the journal included, that hold these bytes."""
    return sorted(file.name for file in folder.rglob("*") if file.is_file() and token.encode() in file.read_bytes())


async def test_fault_49_interaction_token_is_in_no_file_once_its_minutes_are_over(tmp_path: Path) -> None:
    patience = HeldTidying()
    async with World(tmp_path, patience=patience) as world:
        world.hold("held")
        running = await world.submit("held")
        await world.begun("held")
        token = f"a-token-of-its-own-{running.id}"
        waiting = await world.service.submit(running.request, world.origin(interaction_token=token))
        assert found_in(tmp_path, token)
        # 14 minutes is what `origin_of` gives a token; the rest of the 15 belongs to the eraser.
        world.now += timedelta(minutes=14)
        await patience.once()
        assert found_in(tmp_path, token)  # its own clock says 15 here
        world.now += timedelta(minutes=1)
        await patience.once()
        assert found_in(tmp_path, token) == []
        kept = await world.store.get(waiting.id)
        assert kept is not None
        assert kept.origin.interaction_token is None
        assert max(patience.slept) <= 60.0 - 30.0  # so an expired token is gone well within the minute in hand


async def test_fault_49_token_of_a_request_that_ended_leaves_the_journal_too(tmp_path: Path) -> None:
    patience = HeldTidying()
    async with World(tmp_path, patience=patience) as world:
        job = await world.service.submit(
            (await world.submit("a")).request, world.origin(interaction_token="a-token-that-ends")
        )
        await world.heard(Rendered, job.id)
        await world.service.abandon(job.id)
        assert found_in(tmp_path, "a-token-that-ends")
        await patience.once()
        assert found_in(tmp_path, "a-token-that-ends") == []


async def test_fault_49_backup_before_a_migration_holds_no_token(tmp_path: Path) -> None:
    path = tmp_path / "easel.db"
    store = await opened(path)
    await added(store, interaction_token="a-token-in-a-backup")
    await store.close()
    backup = path.with_name("easel.db.backup-x")
    migrate._keep(path, backup)
    with closing(sqlite3.connect(backup)) as connection:
        assert connection.execute("SELECT id, interaction_token FROM jobs").fetchall() == [("job1", None)]
    assert found_in(tmp_path, "a-token-in-a-backup") == ["easel.db"]


@pytest.mark.parametrize(
    ("mode", "text", "says"),
    [
        (0o644, "DISCORD_TOKEN=abc", "can read"),
        (0o640, "HF_TOKEN=abc", "can read"),
        (0o660, "DISCORD_TOKEN=abc", "can change"),
        (0o600, "DISCORD_TOKEN=abc", None),
        (0o644, "DISCORD_TOKEN=\nEASEL_DEVICE=cpu", None),
    ],
    ids=["world", "group", "group writes", "closed", "no secret"],
)
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX modes")
def test_fault_49_environment_file_open_to_others_is_named_with_the_remedy(
    tmp_path: Path, mode: int, text: str, says: str | None
) -> None:
    dotenv = tmp_path / ".env"
    dotenv.write_text(text)
    dotenv.chmod(mode)
    found = open_to_others(dotenv)
    if says is None:
        assert found is None
    else:
        assert found is not None
        assert says in found
        assert f"chmod 600 {dotenv}" in found
        assert "abc" not in found


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX modes")
def test_fault_49_start_with_an_open_environment_file_warns_on_standard_error(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("DISCORD_TOKEN=abcdef\n")
    (tmp_path / ".env").chmod(0o644)
    code = "import sys; sys.path.insert(0, sys.argv[1]); from bot.cli import main; main(['models'])"
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run([sys.executable, "-c", code, root], cwd=tmp_path, capture_output=True, text=True)
    assert "chmod 600 .env" in done.stderr
    assert "abcdef" not in done.stderr
