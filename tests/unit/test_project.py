"""What people who carry on rely on: hooks and recipes call what the Makefile has, and a release knows its date."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from anklume_images.errors import AnklumeError
from tests.release import date_of

ROOT = Path(__file__).resolve().parents[2]
RULES = dict(re.findall(r"^([a-z-]+): ?(.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE))


def document(file: str) -> Any:
    return yaml.safe_load((ROOT / file).read_text())


def test_hooks_before_a_push_run_what_check_runs() -> None:
    (local,) = document(".pre-commit-config.yaml")["repos"]
    entries = [hook["entry"] for hook in local["hooks"] if "pre-push" in hook["stages"]]
    assert entries == [f"make {target}" for target in RULES["check"].split()]


def test_the_recipe_for_a_forge_calls_what_there_is() -> None:
    jobs = document(".github/workflows/check.yml")["jobs"]
    called = {job: [step["run"] for step in parts["steps"]][-1] for job, parts in jobs.items()}
    assert called == {"check": "make check docs", "test": ".ci/run"}
    assert {"check", "docs"} <= RULES.keys()
    assert (ROOT / ".ci/run").stat().st_mode & 0o111


@pytest.mark.parametrize(
    ("changes", "fine"),
    [
        ("## 1.2.0 (2026-12-01)\n\n- new\n\n## 1.1.0 (2026-11-01)\n", True),
        ("## Unreleased\n\n## 1.2.0 (2026-12-01)\n", True),
        ("## Unreleased\n\n- new\n\n## 1.2.0 (2026-12-01)\n", False),
        ("## Unreleased\n\n- new\n", False),
        ("## 1.2.0\n", False),
        ("## 11.2.0 (2026-12-01)\n", False),
        ("## 1.2.0 (soon)\n", False),
    ],
)
def test_a_release_has_a_dated_section_of_its_version(changes: str, *, fine: bool) -> None:
    if fine:
        assert date_of("1.2.0", changes) == "2026-12-01"
    else:
        with pytest.raises(AnklumeError):
            date_of("1.2.0", changes)
