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
STARTERS = 2  # workers that start containers
SAMPLE = 3  # one in so many of a matrix
SHARED = {  # modules that share what takes long to start, or a place in the common store
    "hosts": {"test_llama_server.py", "test_ollama.py"},
    "look": {"test_look.py", "test_look_command.py"},
    "enter": {"test_enter.py"},
    "images": {"test_images.py"},
}


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
    parser.addoption(
        "--large",
        action="store_true",
        help="build and boot the images with CUDA and ROCm too: 750 MiB to fetch, and 15 GiB of room",
    )


def version_of(nodeid: str) -> str | None:
    """The version of Incus that a test is for, where it is for one of them."""
    found = re.search(rf"\[(?:.*-)?({'|'.join(VERSIONS)})(?:-.*)?\]", nodeid)
    return found[1] if found else None


def chosen_version(nodeid: str) -> str:
    """The version that a test takes which needs only one: always the same, and each version for half of the tests.

    Those of a module that boots its machines once share it.
    """
    module = nodeid.partition("::")[0]
    name = re.sub("|".join(VERSIONS), "", nodeid) if module.startswith("tests/incus/") else module
    return VERSIONS[crc32(name.encode()) % 2]


def group_of(nodeid: str) -> str:
    """What must run in one worker, as it shares what is slow to start: a private Incus, a world of machines."""
    module, version = nodeid.partition("::")[0], version_of(nodeid)
    for group, modules in SHARED.items():
        if Path(module).name in modules:
            return group
    if version is None:
        return nodeid
    return version if module.startswith("tests/incus/") else f"{module} {version}"


def starts_containers(group: str) -> bool:
    """Whether the tests of a group do, rather than only compute."""
    if "/test_docs_commands.py::" in group or "/test_catalogue.py::" in group:
        return "/try.md" in group
    computes = group in ("enter", "images") or group.startswith(("tests/unit/", "tests/builds/"))
    return not computes or group.endswith(VERSIONS)


def rank_of(nodeid: str) -> int:
    """When a test begins: first what takes long and images, and last of that what keeps many machines until the end."""
    group = group_of(nodeid)
    if nodeid.startswith("tests/unit/"):
        return 5
    if nodeid.startswith("tests/e2e/"):
        return 2
    ranks = {"images": 1, "look": 3, nodeid: 4} | dict.fromkeys(VERSIONS, 0)
    return ranks.get(group, 2)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each worker one group after the other, in the order of the tests; only the first two start containers.

    Starting containers is waiting in good part, and a third that computes makes use of that; three that start some
    would use up what a host lets all containers together watch. The first two do nothing else while there are any to
    start: together that takes as long as the rest.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Groups(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group_of(nodeid)

        def _assign_work_unit(self, node: Any) -> None:
            starter = node in self.nodes[:STARTERS]
            group = next((group for group in self.workqueue if starts_containers(group) == starter), None)
            if group is not None:
                self.workqueue.move_to_end(group, last=False)
            elif not starter:
                node.shutdown()
                return
            super()._assign_work_unit(node)

    return Groups(config, log)


def pytest_configure() -> None:
    kept = own_environment(os.environ)
    os.environ.clear()
    os.environ.update(kept)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        marks = MARKS.get(folder_of(item.path), ())
        for mark in marks:
            item.add_marker(mark)
        if marks and not config.option.full:
            item.add_marker(pytest.mark.flaky(reruns=1))
    if not config.option.large:
        _deselect(config, items, {item for item in items if item.get_closest_marker("large")})
    if not config.option.full:
        _leave_out(config, items)
    items.sort(key=lambda item: rank_of(item.nodeid))
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
        return not item.get_closest_marker("both_versions") and version_of(item.nodeid) not in (
            None,
            chosen_version(item.nodeid),
        )

    if any("[" in argument for argument in config.args):  # somebody knows which
        return
    _deselect(config, items, {item for item in items if is_left_out(item)})


def _deselect(config: pytest.Config, items: list[pytest.Item], left_out: set[pytest.Item]) -> None:
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]


def pytest_terminal_summary(terminalreporter: Any) -> None:
    skipped = terminalreporter.stats.get("skipped", [])
    if skipped:
        terminalreporter.write_line(f"{len(skipped)} tests were skipped, which counts as a failure", red=True)
    for report in terminalreporter.stats.get("rerun", []):
        terminalreporter.write_sep("!", f"{report.nodeid} failed, and was run once more: find out why", yellow=True)
        terminalreporter.write_line("\n".join([str(report.longrepr), *(text for _, text in report.sections)]))
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
