"""How the suite runs: in an environment of its own, each test marked by its folder, with its seconds told by folder."""

from __future__ import annotations

import os
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

TESTS = Path(__file__).resolve().parents[1]

# What of the caller's environment tests see: who they are, how registries are reached, and pytest's own.
KEPT = re.compile(
    r"PATH|HOME|USER|LOGNAME|LANG|TERM|TMPDIR|ANKLUME_TEST_STORE|COVERAGE.*|HYPOTHESIS_.*|PYTEST_.*|PYTHON.*"
    r"|PIP_.*|UV_.*|(HTTPS?|ALL|NO)_PROXY|(https?|all|no)_proxy|SSL_CERT_(FILE|DIR)|(REQUESTS|CURL)_CA_BUNDLE"
)

# What a test needs, by the folder that it is in.
MARKS = {
    "builds": ("root", "build"),
    "e2e": ("root", "build", "incus"),
    "incus": ("root", "incus"),
}


def own_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that tests see of those that the caller has: what would turn our commands is left out."""
    return {name: value for name, value in environ.items() if KEPT.fullmatch(name)}


def folder_of(path: Path) -> str:
    """The folder below tests/ that a test file is in: `unit`, `builds`, …"""
    return path.relative_to(TESTS).parts[0]


def pytest_configure() -> None:
    kept = own_environment(os.environ)
    os.environ.clear()
    os.environ.update(kept)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        for mark in MARKS.get(folder_of(item.path), ()):
            item.add_marker(mark)
    if config.option.collectonly or (os.geteuid() == 0 and sys.platform == "linux"):
        return
    if any(item.get_closest_marker("root") for item in items):
        pytest.exit(
            "these tests build images and start a private Incus in namespaces of their own: they need Linux and "
            "root. As an ordinary user: make unit",
            returncode=2,
        )


def pytest_terminal_summary(terminalreporter: Any) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    if skipped:
        terminalreporter.write_line(f"{len(skipped)} tests were skipped, which counts as a failure", red=True)
    seconds: dict[str, float] = defaultdict(float)
    tests: dict[str, set[str]] = defaultdict(set)
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                folder = report.nodeid.split("/")[1]
                seconds[folder] += report.duration
                tests[folder].add(report.nodeid)
    for folder in sorted(seconds, key=lambda folder: -seconds[folder]):
        terminalreporter.write_line(f"tests/{folder}: {len(tests[folder])} tests, {seconds[folder]:.0f} s")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if exitstatus == 0 and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = 1
