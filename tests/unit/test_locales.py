"""Every command in locales that lack what it has to say: text, JSON and progress, and never a traceback."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import click
import pytest

from anklume_images.cli.main import cli as images_cli
from anklume_images.cli.program import run
from anklume_images.console import Console, write_anything
from anklume_images.store.store import Store
from launcher.cli.main import cli as launch_cli
from tests.support.stored_images import put

if TYPE_CHECKING:
    from pathlib import Path

NAME = "жы€\udcff"  # the last one stands for a byte that is no UTF-8, as names of files have it
SPEC = """name: odd
description: a text with €
version: "1"
from: debian
files: [{source: "no-€", path: /etc/x}]
"""
INFRA = """project_name: "жы€"
global: {addressing: {}}
domains: {lab: {description: "€", machines: {web: {description: "€", os_image: "images:жы€"}}}}
"""
IMAGES_COMMANDS = images_cli.list_commands(click.Context(images_cli))
LAUNCH_COMMANDS = launch_cli.list_commands(click.Context(launch_cli))
MACHINE = {"logs": ["web"], "shell": ["web", "--", NAME], "chat": [NAME]}
IMAGE = {
    "show",
    "sbom",
    "deltas",
    "render",
    "enter",
    "publish",
    "build",
    "lock",
    "update",
    "outdated",
    "fetch",
    "verify",
    "provenance",
    "sources",
}


class Terminal(io.BytesIO):
    """Bytes as a terminal gets them."""

    def isatty(self) -> bool:
        return True


class Streams:
    """Strict streams of one encoding in the place of standard output and error, and what comes out of them."""

    def __init__(self, encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.encoding = encoding
        self.out, self.err = io.BytesIO(), Terminal()
        self._monkeypatch = monkeypatch

    def take(self) -> None:
        for name, raw in (("stdout", self.out), ("stderr", self.err)):
            stream = io.TextIOWrapper(raw, encoding=self.encoding, errors="strict", write_through=True)
            self._monkeypatch.setattr(sys, name, stream)

    def run(self, command: click.Command, *arguments: str) -> int:
        """The exit code of a command."""
        self.take()
        try:
            run(command, [*arguments])
        except SystemExit as end:
            return int(end.code or 0)
        return 0


@pytest.fixture(params=["ascii", "latin-1", "utf-8"])
def streams(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Streams:
    """Incus is nowhere, by a name that few encodings have."""
    monkeypatch.setenv("INCUS_SOCKET", str(tmp_path / NAME / "unix.socket"))
    monkeypatch.setenv("HOME", str(tmp_path))
    return Streams(request.param, monkeypatch)


@pytest.mark.parametrize(("command", "title"), [(launch_cli, "infra.yml"), (images_cli, "spec.yml")])
def test_the_schemas(command: click.Command, title: str, streams: Streams) -> None:
    assert streams.run(command, "schema") == 0
    assert json.loads(streams.out.getvalue().decode(streams.encoding))["title"] == title


@pytest.mark.parametrize("command", [name for name in LAUNCH_COMMANDS if name != "schema"])
def test_launching(command: str, streams: Streams, tmp_path: Path) -> None:
    infra = tmp_path / f"{NAME}.yml"
    words = ["--store", str(tmp_path / NAME), command, str(infra), *MACHINE.get(command, [])]
    infra.write_text(INFRA, "utf-8")
    if command != "try":  # which would build and start an Incus
        assert streams.run(launch_cli, *words) == (0 if command in ("check", "lock") else 1)
    infra.write_text(INFRA.replace("machines", "maschinen€"), "utf-8")
    assert streams.run(launch_cli, *words) == 2
    assert b"maschinen" in streams.out.getvalue() + streams.err.getvalue()


@pytest.mark.parametrize("command", [name for name in IMAGES_COMMANDS if name != "schema"])
def test_images(command: str, streams: Streams, tmp_path: Path) -> None:
    folder = tmp_path / NAME
    (folder / "odd").mkdir(parents=True)
    (folder / "odd" / "spec.yml").write_text(SPEC, "utf-8")
    Store(tmp_path / "store€")
    words = [NAME] if command in IMAGE else []
    code = streams.run(images_cli, "--specs", str(folder), "--store", str(tmp_path / "store€"), command, *words)
    assert code in ((0,) if command in ("gc", "list") else (1, 2))
    assert streams.out.getvalue() or streams.err.getvalue()


def test_json_stays_json(streams: Streams, tmp_path: Path) -> None:
    infra = tmp_path / f"{NAME}.yml"
    infra.write_text(INFRA.replace("machines", "maschinen€"), "utf-8")
    assert streams.run(launch_cli, "check", str(infra), "--json") == 2
    found = json.loads(streams.out.getvalue().decode(streams.encoding))
    assert found["errors"][0]["message"] == "unknown key 'maschinen€'"
    assert "жы€" in found["errors"][0]["file"]


def test_progress(streams: Streams) -> None:
    streams.take()
    write_anything(sys.stderr)
    console = Console()
    console.start(10, 2, what=f"fetching {NAME}")
    console.warn(NAME)
    console.advance(10)
    console.finish()
    console.begin(1, NAME)
    console.done(NAME)
    console.finish()
    assert streams.err.getvalue().decode(streams.encoding).count("warning: ") == 1


@pytest.mark.parametrize("command", ["anklume_images", "launcher"])
def test_the_system_itself_knows_ascii_only(command: str, tmp_path: Path) -> None:
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    environment.pop("PYTHONIOENCODING", None)
    infra = tmp_path / "жы€.yml"
    infra.write_text(INFRA, "utf-8")
    image = put(Store(tmp_path / "store"), "debian", "1.0-00000000000a", channels=("latest",))
    words = ["check", str(infra)] if command == "launcher" else ["--specs", str(tmp_path / "€"), "show", image.name]
    argv = [sys.executable, "-m", command, "--store", str(tmp_path / "store"), *words]
    result = subprocess.run(argv, env=environment, capture_output=True, check=False)
    assert result.returncode == 0, result.stderr
    assert b"Traceback" not in result.stderr
