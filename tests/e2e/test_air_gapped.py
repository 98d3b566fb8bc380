"""The page on hosts without a network, as it is written: two that share nothing but a folder, and a chat there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.example_store import linked_store
from tests.support.incus_leftovers import nothing_left

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anklume_images.pipeline import Pipeline

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/air-gapped.md").read_text()
BLOCK = re.compile(r"^<!-- (here|there) -->\n```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SITE = re.compile(r"^<!-- site\.yml -->\n```yaml\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SECONDS = 400.0
MODEL = "smollm2-135m"


def lines_of(block: str) -> Iterator[str]:
    yield from (line[2:] for line in block.splitlines() if line.startswith("# "))


@dataclass
class Hosts:
    """Two: `here` has this checkout and a store, `there` has Python; the folder `usb` is at both."""

    here: Path
    there: Path
    usb: Path
    environment: dict[str, str]
    fingerprint: str = ""

    def run(self, host: str, line: str) -> subprocess.CompletedProcess[str]:
        line = line.replace("/mnt/usb", str(self.usb))
        line = line.replace("/opt/anklume", f"{self.there}/opt").replace("6b1f…", self.fingerprint)
        if host == "here":
            argv, folder, environment = ["sh", "-ec", line], self.here, self.environment
        else:
            hidden = [str(ROOT), str(self.here.parent)]
            argv, folder = [sys.executable, "-m", "tests.support.far_host", line, *hidden], ROOT
            environment = {
                "HOME": str(self.there),
                "TMPDIR": str(self.there / "tmp"),
                "ANKLUME_STORE": str(self.there / "store"),
                "PATH": f"{self.there}/opt/bin:{self.there}/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            }
        done = subprocess.run(
            argv,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
        )
        said = f"{line}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in said, said
        assert done.returncode == 0, said
        return done


@pytest.fixture
def hosts(built: Callable[[str], Any], pipeline: Pipeline, anklume: Any) -> Iterator[Hosts]:
    image = built("llama-server")
    anklume("models", "pull", MODEL)
    pipeline.fetch(["incus-7"])
    with (
        linked_store(pipeline, [image]) as store,
        tempfile.TemporaryDirectory(prefix="anklume-test-", dir="/var/tmp") as folder,
    ):
        there, usb = Path(folder) / "there", Path(folder) / "usb"
        for path in (there / "tmp", there / "bin", usb):
            path.mkdir(parents=True)
        (there / "bin/python3").symlink_to(Path(sys._base_executable))  # type: ignore[attr-defined]
        (store.parent / "site.yml").write_text(SITE.search(PAGE)[1])  # type: ignore[index]
        environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "ANKLUME_STORE": str(store),
            "ANKLUME_KEYS": str(store.parent / "keys"),
        }
        yield Hosts(store.parent, there, usb, environment)


def test_from_a_bundle_to_a_chat_and_an_update(hosts: Hosts) -> None:
    said: dict[str, str] = {}
    for block in BLOCK.finditer(PAGE):
        for line in lines_of(block[2]):
            done = hosts.run(block[1], line)
            said[line] = done.stdout
            if found := re.search(r"^signed   ([0-9a-f]{64})$", done.stdout, re.MULTILINE):
                hosts.fingerprint = found[1]
    (chat,) = (text for line, text in said.items() if " try " in line)
    assert len(re.findall(r"[a-z]+", chat)) > 4  # an answer, in words
    assert nothing_left(hosts.there / "tmp")
    imported = next(text for line, text in said.items() if "--fingerprint" in line)
    assert re.search(r"^image    llama-server@\S+: new, latest: new → ", imported, re.MULTILINE)
    assert f"model    {MODEL}: new" in imported
    (update,) = (text for line, text in said.items() if line.endswith("import /mnt/usb/update.anklume"))
    assert "size     0 B new here" in update
    assert (hosts.usb / "update.anklume").stat().st_size < (hosts.usb / "site.anklume").stat().st_size / 20
    images = json.loads(hosts.run("there", "anklume-images list --json").stdout)
    assert [image["name"] for image in images] == ["llama-server"]
    hosts.run("there", "anklume-images verify && anklume-images gc --dry-run && anklume-images sbom llama-server")
    for verb in ("build", "update", "outdated"):
        refused = hosts.run("there", f"anklume-images {verb} 2>&1 || test $? = 2").stdout
        assert "all of its images were received" in refused
        assert "bundle import" in refused
    hosts.run("there", f"! ls {ROOT}/pyproject.toml && test $(tail -n +3 /proc/self/net/dev | wc -l) = 1")
