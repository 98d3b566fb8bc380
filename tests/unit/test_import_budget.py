"""What a command need not read, it does not: the modules that each verb must do without."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from anklume_images.answers import Answers
from anklume_images.architectures import host_architecture
from anklume_images.specs.folders import builtin_specs
from anklume_images.store.images import Images
from anklume_images.store.store import Store
from tests.support.stored_images import put

if TYPE_CHECKING:
    from pathlib import Path

NETWORK = {"requests", "urllib3", "ssl", "http.client", "pylxd", "cryptography", "tuf", "securesystemslib"}
SPECS = {"pydantic", "jinja2", "yaml"}
BUILDING = {"tarfile", "concurrent.futures", "subprocess", "debian", "asyncio", "multiprocessing"}
STORE_ONLY = NETWORK | SPECS | BUILDING
LOOKING = {"jinja2", "tarfile", "debian", "asyncio", "websockets", "tuf", "multiprocessing"}
NO_INCUS = 1  # the exit code where none answers: what is needed until then is imported

BUDGETS = {
    ("anklume_images", "build", "app"): STORE_ONLY,
    ("anklume_images", "channel", "list"): STORE_ONLY,
    ("anklume_images", "list"): STORE_ONLY,
    ("anklume_images", "show", "app"): STORE_ONLY,
    ("launcher", "check", "infra.yml"): NETWORK | {"jinja2", "tarfile", "concurrent.futures", "debian", "asyncio"},
    ("launcher", "plan", "infra.yml"): LOOKING,
    ("launcher", "status", "infra.yml"): LOOKING,
    ("launcher", "--help"): STORE_ONLY,
}
PROGRAM = """
import importlib, json, sys
package, *sys.argv = sys.argv[1:]
sys.argv.insert(0, package)
code = 0
try:
    importlib.import_module(f"{package}.cli.main").main()
except SystemExit as end:
    code = end.code
print(json.dumps(sorted(sys.modules)), file=sys.stderr)
sys.exit(code)
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one image, about which `build` was asked before."""
    home = tmp_path_factory.mktemp("budget") / "store"
    store = Store(home)
    image = put(store, "app", "1.0-00000000000a", channels=("latest",))
    with pytest.MonkeyPatch.context() as patch:
        later = time.time_ns() + 5_000_000_000
        patch.setattr("anklume_images.answers.time.time_ns", lambda: later)
        asked = [host_architecture(), ("app",), False, False]
        Answers(store, Images(store), [builtin_specs()], asked).keep([image])
    return home


@pytest.mark.parametrize("command", BUDGETS, ids=" ".join)
def test_a_verb_does_without(command: tuple[str, ...], store: Path, tmp_path: Path) -> None:
    (tmp_path / "infra.yml").write_text(
        "project_name: p\nglobal: {addressing: {}}\ndomains: {lab: {machines: {a: {}}}}\n"
    )
    package, *arguments = command
    argv = [sys.executable, "-c", PROGRAM, package, "--store", str(store), *arguments]
    environment = os.environ | {"INCUS_SOCKET": str(tmp_path / "none")}
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == (NO_INCUS if BUDGETS[command] is LOOKING else 0), done.stderr
    loaded = set(json.loads(done.stderr.splitlines()[-1]))
    assert loaded & BUDGETS[command] == set()
    assert "click" in loaded
