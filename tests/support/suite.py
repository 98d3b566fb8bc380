"""How the suite runs: in an environment of its own, each test marked by its folder, with its seconds told by folder."""

from __future__ import annotations

import os
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

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


VERSIONS = ("incus-6", "incus-7")
SAMPLE = 3  # one in so many of a matrix
SHARED = {"hosts", "look_images"}  # fixtures that several modules share, and that take long


def own_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that tests see of those that the caller has: what would turn our commands is left out."""
    return {name: value for name, value in environ.items() if KEPT.fullmatch(name)}


def folder_of(path: Path) -> str:
    """The folder below tests/ that a test file is in: `unit`, `builds`, …"""
    return path.relative_to(TESTS).parts[0]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--full",
        action="store_true",
        help="both versions of Incus for every test, and every moment at which something is killed: `make test-full`",
    )


def version_of(item: pytest.Item) -> str | None:
    """The version of Incus that a test is for, where it is for one of them."""
    callspec = getattr(item, "callspec", None)
    return next((value for value in callspec.params.values() if value in VERSIONS), None) if callspec else None


def chosen_version(item: pytest.Item) -> str:
    """The version that a test takes which needs only one: always the same, and each version for half of the tests.

    Those of a module that boots its machines once share it.
    """
    whole = folder_of(item.path) != "incus"
    name = item.path.name if whole else re.sub("|".join(VERSIONS), "", item.nodeid)
    return VERSIONS[crc32(name.encode()) % 2]


def group_of(item: pytest.Item) -> str | None:
    """What must run in one worker, as it shares what is slow to start: a private Incus, a world of machines."""
    fixtures = set(getattr(item, "fixturenames", ()))
    if shared := fixtures & SHARED:
        return min(shared)
    version = version_of(item)
    if version is None:
        return None
    return version if folder_of(item.path) == "incus" else f"{item.path.stem}-{version}"


def pytest_configure() -> None:
    kept = own_environment(os.environ)
    os.environ.clear()
    os.environ.update(kept)


@pytest.hookimpl(tryfirst=True)  # xdist reads the groups then
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        for mark in MARKS.get(folder_of(item.path), ()):
            item.add_marker(mark)
        if group := group_of(item):
            item.add_marker(pytest.mark.xdist_group(group))
    if not config.option.full:
        _leave_out(config, items)
    items.sort(key=lambda item: folder_of(item.path) == "unit")  # what takes long begins first
    if config.option.collectonly or (os.geteuid() == 0 and sys.platform == "linux"):
        return
    if any(item.get_closest_marker("root") for item in items):
        pytest.exit(
            "these tests build images and start a private Incus in namespaces of their own: they need Linux and "
            "root. As an ordinary user: make unit",
            returncode=2,
        )


def _leave_out(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Take one version of Incus, and some of a matrix: other ones of it with each seed of the run's order."""
    seed = getattr(config.option, "randomly_seed", 0)

    def is_left_out(item: pytest.Item) -> bool:
        if item.get_closest_marker("matrix") and crc32(f"{seed} {item.nodeid}".encode()) % SAMPLE:
            return True
        return not item.get_closest_marker("both_versions") and version_of(item) not in (None, chosen_version(item))

    if any("[" in argument for argument in config.args):  # somebody knows which
        return
    left_out = {item for item in items if is_left_out(item)}
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]


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
