"""A pytest plugin that notes how the tests of each fault case ended, and the page that is made of it (`make reliability`).

A test belongs to the cases it is marked with, `@pytest.mark.fault(18)`, by itself or for its whole file (`pytestmark`).
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.faults.cases import CASES

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reliability.md"
BEGIN, END = "<!-- made by `make reliability`: begin -->", "<!-- end -->"
NO_TEST = "no test yet"

Outcomes = dict[int, dict[str, list[str]]]
"""Case → test (file::name) → how each of its runs ended."""


class Recorder:
    """Collects outcomes where the reports arrive: with xdist that is the controlling process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._outcomes: Outcomes = defaultdict(lambda: defaultdict(list))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a test's end: its call, or what kept it from being called."""
        if report.when != "call" and report.passed:
            return
        name = report.nodeid.split("[")[0]
        for key, number in report.user_properties:
            if key == "fault":
                self._outcomes[int(str(number))][name].append(report.outcome)

    def pytest_sessionfinish(self) -> None:
        """Write what was noted."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(self._outcomes, indent=1, sort_keys=True), encoding="utf-8")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer `--reliability=FILE`."""
    parser.addoption("--reliability", metavar="FILE", default=None, help="write how the tests of each fault case ended")


def pytest_configure(config: pytest.Config) -> None:
    """Record where that is wanted, in the controlling process alone."""
    path = config.getoption("--reliability")
    if path and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Recorder(Path(path)), "reliability-recorder")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let a test's cases travel with its reports."""
    for item in items:
        for mark in item.iter_markers("fault"):
            for number in mark.args:
                if number not in CASES:
                    raise pytest.UsageError(f"{item.nodeid}: there is no fault case {number!r}")
                item.user_properties.append(("fault", number))


def marked_tests() -> dict[int, set[str]]:
    """Read the test files: case → names (file::function) of the tests that are marked with it."""
    found: dict[int, set[str]] = defaultdict(set)
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        everywhere = [number for node in tree.body if _is_pytestmark(node) for number in _faults(node)]
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
                own = [number for decorator in node.decorator_list for number in _faults(decorator)]
                for number in {*everywhere, *own}:
                    found[number].add(f"{path.relative_to(ROOT).as_posix()}::{node.name}")
    return dict(found)


def _is_pytestmark(node: ast.stmt) -> bool:
    return isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "pytestmark" for t in node.targets)


def _faults(node: ast.AST) -> Iterator[int]:
    for inner in ast.walk(node):
        if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Attribute) and inner.func.attr == "fault":
            yield from (argument.value for argument in inner.args if isinstance(argument, ast.Constant) and isinstance(argument.value, int))  # fmt: skip


def table(outcomes: dict[str, dict[str, list[str]]], today: str) -> str:
    """Make the table, honest about cases without a test."""
    tests = sum(len(by_name) for by_name in outcomes.values())
    lines = [
        f"{len(outcomes)} of {len(CASES)} cases have tests, {tests} in all; made from a run on {today}.",
        "",
        "| case | what happens | what must come of it | tests | outcome |",
        "|---|---|---|---|---|",
    ]
    for number, (condition, result) in CASES.items():
        by_name = outcomes.get(str(number), {})
        named = "<br>".join(f"[{name.split('::')[1]}](../{name.split('::')[0]})" for name in sorted(by_name))
        ends = [end for runs in by_name.values() for end in runs]
        lines.append(f"| {number} | {condition} | {result} | {named or NO_TEST} | {_outcome(ends)} |")
    return "\n".join(lines)


def _outcome(ends: list[str]) -> str:
    if not ends:
        return "–"
    counts = {end: ends.count(end) for end in ("failed", "skipped", "passed") if end in ends}
    return ", ".join(f"{count} {end}" for end, count in counts.items())


def named_in(page: str) -> dict[int, set[str]]:
    """Read the page's table: case → the tests it names; cases without one are left out."""
    found: dict[int, set[str]] = {}
    for row in page[page.index(BEGIN) : page.index(END)].splitlines():
        cells = [cell.strip() for cell in row.strip("|").split(" | ")]
        if len(cells) == 5 and cells[0].isdigit():
            named = {f"{path}::{name}" for name, path in re.findall(r"\[(\w+)\]\(\.\./([^)]+)\)", cells[3])}
            if named:
                found[int(cells[0])] = named
    return found


def render(results: Sequence[Path], page: Path = PAGE) -> None:
    """Put the table of these results, of one run or of several that had different tests, into the page."""
    outcomes: dict[str, Any] = defaultdict(dict)
    for path in results:
        for number, by_name in json.loads(path.read_text(encoding="utf-8")).items():
            outcomes[number].update(by_name)
    text = page.read_text(encoding="utf-8")
    head, tail = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    made = table(outcomes, datetime.now(UTC).date().isoformat())
    page.write_text(f"{head}\n{made}\n{tail}", encoding="utf-8")


if __name__ == "__main__":
    render([Path(argument) for argument in sys.argv[1:]])
