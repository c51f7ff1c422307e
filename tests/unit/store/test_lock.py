from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bot.errors import AlreadyRunning, StorageError
from bot.store.lock import LOCK_NAME, InstanceLock

HOLDER = """
import sys, time
from pathlib import Path
from bot.store.lock import InstanceLock
lock = InstanceLock(Path(sys.argv[1]))
lock.acquire()
print("held", flush=True)
time.sleep(60)
"""


def test_lock_held_by_another_process_names_it_and_the_folder(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    try:
        with pytest.raises(AlreadyRunning, match=rf"process {holder.pid}.*{tmp_path}"):
            InstanceLock(tmp_path).acquire()
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    with InstanceLock(tmp_path):  # a killed process holds nothing
        assert (tmp_path / LOCK_NAME).read_text() == f"{os.getpid()}\n"


def test_lock_released_can_be_taken_again(tmp_path: Path) -> None:
    with InstanceLock(tmp_path / "new"), pytest.raises(AlreadyRunning):
        InstanceLock(tmp_path / "new").acquire()
    with InstanceLock(tmp_path / "new") as lock:
        lock.release()
        lock.release()


def test_lock_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="EASEL_DATA_DIR"):
        InstanceLock(tmp_path / "file").acquire()
