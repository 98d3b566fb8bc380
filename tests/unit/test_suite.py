"""Nothing below tests/ is passed over, marks come from folders, and the caller's environment turns no test."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.suite import MARKS, TESTS, group_of, own_environment, starts_containers


def holds_tests(path: Path) -> bool:
    return re.search(r"^def test_", path.read_text(encoding="utf-8"), re.MULTILINE) is not None


def test_every_test_file_is_collected() -> None:
    argv = [
        sys.executable,
        "-m",
        "pytest",
        "--collect-only",
        "-q",
        "-p",
        "no:randomly",
        "-p",
        "no:cacheprovider",
        "--full",
    ]
    listed = subprocess.run([*argv, "-n", "0"], cwd=TESTS.parent, capture_output=True, text=True, check=True).stdout
    collected = {line.partition("::")[0] for line in listed.splitlines() if "::" in line}
    there = {
        str(path.relative_to(TESTS.parent))
        for path in TESTS.rglob("*.py")
        if path.name != "conftest.py" and holds_tests(path)
    }
    assert collected == there


def test_a_folder_called_build_is_collected(pytestconfig: pytest.Config) -> None:
    for name in ("build", "dist", "venv"):
        assert not any(Path(name).match(pattern) for pattern in pytestconfig.getini("norecursedirs"))


def test_marks_are_those_of_the_folder(request: pytest.FixtureRequest) -> None:
    for path in TESTS.rglob("test_*.py"):
        written = set(re.findall(r"pytest\.mark\.(root|incus|build)\b", path.read_text()))
        assert not written or path == Path(__file__), f"{path}: its folder says what it needs (tests/support/suite.py)"
    folders = {path.parent.relative_to(TESTS).parts[0] for path in TESTS.rglob("test_*.py")}
    assert folders == {"unit", *MARKS}
    marks = {
        mark.name for item in request.session.items if "/builds/" in str(item.path) for mark in item.iter_markers()
    }
    assert not marks or marks >= {"root", "build"}


def test_what_turns_our_commands_is_left_out() -> None:
    kept = {"PATH": "/bin", "HOME": "/root", "https_proxy": "http://p:1", "PIP_INDEX_URL": "https://i", "LANG": "C"}
    left_out = {
        **dict.fromkeys(("ANKLUME_STORE", "ANKLUME_MIRRORS", "ANKLUME_JOBS", "INCUS_REMOTE", "INCUS_SOCKET"), "x"),
        **dict.fromkeys(("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "LC_ALL", "NOTIFY_SOCKET"), "x"),
    }
    assert own_environment(kept | left_out) == kept
    assert not set(os.environ) & set(left_out), "this very test runs in it"


def test_the_callers_variables_reach_no_test(tmp_path: Path) -> None:
    argv = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "tests/unit/test_suite.py"]
    caller = os.environ | {"ANKLUME_STORE": str(tmp_path), "XDG_DATA_HOME": str(tmp_path), "INCUS_REMOTE": "nowhere"}
    argv += ["-k", test_what_turns_our_commands_is_left_out.__name__]
    result = subprocess.run(argv, cwd=TESTS.parent, env=caller, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("test", "does"),
    [
        ("tests/unit/test_plan.py::test_one[incus]", False),
        ("tests/builds/test_faults.py::test_one[wheel]", False),
        ("tests/builds/test_enter.py::test_one", False),
        ("tests/builds/test_images.py::test_one[debian]", False),
        ("tests/builds/test_ollama.py::test_one", True),
        ("tests/builds/test_nginx_example.py::test_one[incus-7]", True),
        ("tests/incus/test_apply.py::test_one[incus-6-some]", True),
        ("tests/incus/test_look.py::test_one", True),
        ("tests/e2e/test_try.py::test_one", True),
    ],
)
def test_the_third_worker_gets_no_test_that_starts_containers(test: str, does: bool) -> None:
    assert starts_containers(group_of(test)) is does
