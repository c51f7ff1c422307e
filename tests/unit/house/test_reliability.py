"""The page on reliability names the tests there are and the exit codes there are; its table is made, not typed."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bot import exits
from bot.errors import (
    AlreadyRunning,
    ConfigError,
    DatabaseDamaged,
    DatabaseLocked,
    DiscordUnreachable,
    DiskFull,
    EaselError,
)
from tests.faults.cases import CASES
from tests.reliability import BEGIN, END, PAGE, marked_tests, named_in, render

TEXT = PAGE.read_text(encoding="utf-8")


def test_page_names_every_test_of_a_case_and_no_other() -> None:
    assert named_in(TEXT) == marked_tests(), "run `make reliability`"


def test_page_has_a_row_for_each_of_the_51_cases() -> None:
    rows = re.findall(r"^\| (\d+) \| ", TEXT[TEXT.index(BEGIN) : TEXT.index(END)], re.MULTILINE)
    assert [int(row) for row in rows] == list(CASES) == list(range(1, 52))


@pytest.mark.parametrize(("number", "names"), sorted(marked_tests().items()))
def test_tests_of_a_case_carry_its_number_in_their_names(number: int, names: set[str]) -> None:
    assert number in CASES
    assert all(re.search(rf"::test_fault_(\d\d_\w*and_)?{number:02}_", name) for name in names), names


def test_page_made_of_results_tells_failures_and_missing_tests(tmp_path: Path) -> None:
    page, results = tmp_path / "page.md", tmp_path / "results.json"
    page.write_text(f"before\n{BEGIN}\nthe former table\n{END}\nafter\n")
    results.write_text(json.dumps({"18": {"tests/a.py::test_fault_18_x": ["passed", "failed"]}}))
    render([results], page)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "the former table" not in text
    assert "[test_fault_18_x](../tests/a.py) | 1 failed, 1 passed |" in text
    assert text.count("no test yet") == 50
    assert named_in(text) == {18: {"tests/a.py::test_fault_18_x"}}


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("x"), exits.EXIT_FAILED),
        (AlreadyRunning("x"), exits.EXIT_IN_USE),
        (DatabaseDamaged("x"), exits.EXIT_DATABASE),
        (DatabaseLocked("x"), exits.EXIT_STORAGE),
        (DiskFull("x"), exits.EXIT_STORAGE),
        (DiscordUnreachable("x"), exits.EXIT_UNREACHABLE),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, EaselError) else str(value),
)
def test_exit_code_of_an_error_is_its_own(error: EaselError, code: int) -> None:
    assert exits.exit_code(error) == code


LEAVE = """
import atexit, sys, threading
from bot.exits import leave
from bot.scheduling.gpu_thread import GpuThread

class Starting:
    def start(self):
        threading.Event().wait()

atexit.register(print, "an ordinary end")
print("said before", end="")
if sys.argv[1] == "starting":
    GpuThread(Starting()).start()
leave(7)
"""


@pytest.mark.parametrize(
    ("thread", "said"),
    [("starting", "said before"), ("none", "said beforean ordinary end\n")],
    ids=["starting", "none"],
)
def test_leave_does_not_tear_down_what_the_gpu_thread_still_uses(thread: str, said: str) -> None:
    ended = subprocess.run([sys.executable, "-c", LEAVE, thread], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout, ended.stderr) == (7, said, "")


def test_exit_codes_are_distinct_and_documented() -> None:
    codes = {name: value for name, value in vars(exits).items() if name.startswith("EXIT_")}
    assert len(set(codes.values())) == len(codes)
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", TEXT[: TEXT.index(BEGIN)], re.MULTILINE)}
    assert set(codes.values()) - {exits.EXIT_DEVICE_LOST} <= documented
