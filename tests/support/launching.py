"""`anklume-launch` as a process of its own, upon one private Incus and one store, with the files that a test writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from launcher.infra.names import OWNER
from tests.support import preloaded
from tests.support.instances import delete_image

if TYPE_CHECKING:
    from pathlib import Path

    from anklume_images.incus.client import Incus, Result
    from launcher.private_incus.daemon import PrivateIncus

EVERYWHERE = {"all-projects": "true"}
HEAD = "project_name: {name}\nglobal:\n  addressing: {{base_octet: 10, zone_base: {zone}}}\n"


@dataclass
class Launcher:
    """Runs the command; `file` is what the last `write` wrote."""

    incus: PrivateIncus
    store: Path
    folder: Path
    file: Path
    specs: Path | None = None

    def write(self, text: str, *, name: str = "demo", zone: int = 100, head: str = HEAD) -> Path:
        """Write an infra.yml: its head, then `text`."""
        self.file = self.folder / f"{name}.yml"
        self.file.write_text(head.format(name=name, zone=zone) + text)
        return self.file

    def argv(self, command: str, *arguments: str, file: Path | None = None) -> list[str]:
        infra = [] if command == "gpu" else [str(file or self.file)]
        options = ["--store", str(self.store), *(["--specs", str(self.specs)] if self.specs else [])]
        return [sys.executable, "-m", "launcher", *options, command, *infra, *arguments]

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("INCUS_")}
        return kept | {"INCUS_SOCKET": str(self.incus.socket), "INCUS_CONF": str(self.folder / "client")}

    def __call__(
        self, command: str, *arguments: str, code: int | None = 0, file: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run it to its end, which must be that code; None takes any."""
        words = self.argv(command, *arguments, file=file)[3:]
        result = preloaded.run("launcher", words, env=self.environment())
        said = result.stdout + result.stderr
        assert "Traceback" not in said, said
        assert code in (result.returncode, None), said
        return result

    def start(self, command: str, *arguments: str, file: Path | None = None) -> subprocess.Popen[str]:
        """Begin a command and go on."""
        return subprocess.Popen(
            self.argv(command, *arguments, file=file),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.environment(),
        )

    def json(self, command: str, *arguments: str, code: int = 0, file: Path | None = None) -> Any:
        return json.loads(self(command, *arguments, "--json", code=code, file=file).stdout)

    def settled(self) -> None:
        """Nothing is left to do, and apply says and does so."""
        assert self.json("plan")["steps"] == []
        applied = self("apply")
        assert "nothing to do" in applied.stdout
        assert "nothing to do" not in applied.stderr

    def execute(self, project: str, name: str, *command: str) -> Result:
        with self.incus.client(project) as client:
            return client.execute(name, command, timeout=60)

    def client(self) -> Incus:
        """A connection that names no project; close it."""
        return self.incus.client().within(None)


def images(incus: PrivateIncus) -> set[str]:
    """The fingerprints that its image store has."""
    with incus.client() as client:
        return {url.rpartition("/")[2] for url in client.get("images")}


def clear(incus: PrivateIncus, kept: set[str] | None = None) -> None:
    """Remove everything that any file's launcher made, volumes too, and images but those kept; without, no image."""
    with incus.client() as first:
        client = first.within(None)
        projects = [found["name"] for found in client.get("projects", recursion=1) if OWNER in found["config"]]
        _clear_instances(client)
        for found in client.get("storage-pools/default/volumes/custom", recursion=1, **EVERYWHERE):
            path = f"storage-pools/default/volumes/custom/{found['name']}"
            client.send("delete", path, params={"project": found["project"]})
        for project in projects:
            for profile in client.get("profiles", recursion=1, project=project):
                if profile["name"] != "default":
                    client.send("delete", f"profiles/{profile['name']}", params={"project": project})
            client.send("delete", f"projects/{project}")
        for kind in ("networks", "network-acls"):
            for found in client.get(kind, recursion=1):
                if OWNER in found.get("config", {}):
                    client.send("delete", f"{kind}/{found['name']}")
    for fingerprint in images(incus) - kept if kept is not None else ():
        with incus.client() as client:
            delete_image(client, fingerprint)


def _clear_instances(client: Incus) -> None:
    for found in client.get("instances", recursion=1, **EVERYWHERE):
        path, params = f"instances/{found['name']}", {"project": found["project"]}
        if found["status"] != "Stopped":
            client.send("put", f"{path}/state", {"action": "stop", "timeout": -1, "force": True}, params=params)
        client.send("patch", path, {"config": {"security.protection.delete": "false"}}, params=params)
        client.send("delete", path, params=params)
