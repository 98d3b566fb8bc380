"""What a trial decides before it starts anything: which ports are published, and that it needs root."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anklume_images.console import Console
from anklume_images.errors import AnklumeError
from launcher import quickstart
from launcher.cli.main import main
from launcher.infra.model import ImageChoice, Machine
from launcher.trial.browser import find_chromium
from launcher.trial.models import model_file
from launcher.trial.neighbours import neighbours_of_host
from launcher.trial.ports import Publication, PublishError, environment_name, parse, publications
from launcher.trial.tiny_gguf import tiny_gguf

if TYPE_CHECKING:
    from pathlib import Path

WEB = {
    "ports": [3000],
    "variables": {
        "open_webui_port": {"type": "port", "default": 3000},
        "open_webui_title": {"type": "string", "default": ""},
    },
}
OLLAMA = {"ports": [11434], "variables": {"ollama_host": {"type": "listen", "default": "0.0.0.0:11434"}}}

BARE = {"ports": [11434], "variables": {"ollama_host": {"type": "listen", "default": "0.0.0.0"}}}
OTHER = {"ports": [5000], "variables": {"other_host": {"type": "listen", "default": "0.0.0.0:5000"}}}


def machine(name: str, **variables: str) -> Machine:
    return Machine(name, "web", "10.120.0.1", ImageChoice("any"), "infra.yml:1:1", variables=variables)


@pytest.mark.parametrize(
    ("spec", "variables", "ports"),
    [
        (WEB, {}, [3000]),
        (WEB, {"open_webui_port": "8080"}, [8080]),
        (WEB, {"open_webui_title": "8080"}, [3000]),
        (OLLAMA, {}, [11434]),
        (OLLAMA, {"ollama_host": "127.0.0.1:9999"}, [9999]),
        (OLLAMA, {"ollama_host": "[::1]:9999"}, [9999]),
        (OLLAMA, {"ollama_host": "127.0.0.1"}, [11434]),
        (OLLAMA, {"ollama_host": ":80"}, [80]),
        (OLLAMA, {"ollama_host": "::"}, [11434]),
        (OLLAMA, {"ollama_host": "http://0.0.0.0"}, [80]),
        # Of a server that is known here, the port that it takes is the server's own; of another one, the spec's.
        (BARE, {"ollama_host": "0.0.0.0"}, [11434]),
        (BARE, {"ollama_host": "0.0.0.0:9999"}, [9999]),
        (OTHER, {"other_host": "127.0.0.1"}, [5000]),
        (OTHER, {"other_host": "127.0.0.1:9999"}, [9999]),
        ({}, {}, []),
    ],
)
def test_declared_ports_follow_the_variables(
    spec: dict[str, object], variables: dict[str, str], ports: list[int]
) -> None:
    found = publications([machine("one", **variables)], {"one": spec}, [])
    assert [entry.port for entry in found] == ports


def test_a_port_that_is_asked_for_takes_the_place_of_the_declared_one() -> None:
    machines = [machine("web"), machine("other")]
    asked = [Publication("web", 3000, 8000), Publication("other", 22)]
    assert publications(machines, {"web": WEB}, asked) == (Publication("web", 3000, 8000), Publication("other", 22))


def test_a_machine_that_is_not_there() -> None:
    with pytest.raises(PublishError, match="no machine 'wbe' is launched") as caught:
        publications([machine("web")], {}, [Publication("wbe", 1)])
    assert caught.value.hint == "did you mean 'web'?"


@pytest.mark.parametrize(
    ("text", "publication"),
    [("web:80", Publication("web", 80)), ("a-b:65535=1", Publication("a-b", 65535, 1))],
)
def test_publish_is_read(text: str, publication: Publication) -> None:
    assert parse(text) == publication


@pytest.mark.parametrize(
    "text", ["", "web", "web:", "web:0", "web:65536", "web:80=0", ":80", "web:80=", "web:-1", "w b:1"]
)
def test_publish_that_is_not_one(text: str) -> None:
    with pytest.raises(PublishError, match="not a port of a machine"):
        parse(text)


@given(st.text())
def test_publish_is_read_or_refused(text: str) -> None:
    try:
        found = parse(text)
    except PublishError:
        return
    assert 1 <= found.port <= 65535


def test_names_in_the_environment() -> None:
    assert environment_name("open-webui") == "OPEN_WEBUI"


def test_it_needs_root(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)  # a stand-in for an ordinary user
    for run in (
        lambda: main(["--store", str(tmp_path / "store"), "try", str(quickstart.EXAMPLE), "--run", "true"]),
        lambda: quickstart.main(["--store", str(tmp_path / "store")]),
    ):
        with pytest.raises(SystemExit) as ended:
            run()
        assert ended.value.code == 1
        said = capsys.readouterr().err
        assert "a private Incus needs root" in said
        assert "hint: run it with sudo" in said
    assert list(tmp_path.iterdir()) == []


def test_without_a_chromium_there_is_no_picture_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    quickstart.take_picture(None, None, Console(), tmp_path / "page.png")  # type: ignore[arg-type]  # it needs neither
    assert capsys.readouterr().err == "no screenshot: there is no Chromium on this host\n"
    assert list(tmp_path.iterdir()) == []
    program = tmp_path / "chromium"
    program.touch()
    program.chmod(stat.S_IRWXU)
    assert find_chromium() == str(program)


# Who has the host's cards


@pytest.mark.parametrize("set_by", ["the file", "the environment"])
def test_the_hosts_own_socket_is_asked_whatever_the_default_remote(
    set_by: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Nobody answers at either: the note says which was asked."""
    remotes = "remotes: {far: {addr: 'https://127.0.0.1:9', protocol: incus}}\n"
    (tmp_path / "config.yml").write_text(remotes + ("default-remote: far\n" if set_by == "the file" else ""))
    for name in ("client.crt", "client.key"):
        (tmp_path / name).touch()
    monkeypatch.setenv("INCUS_CONF", str(tmp_path))
    monkeypatch.setenv("INCUS_SOCKET", str(tmp_path / "nobody.socket"))
    monkeypatch.delenv("INCUS_REMOTE", raising=False)
    if set_by == "the environment":
        monkeypatch.setenv("INCUS_REMOTE", "far")
    assert neighbours_of_host(Console()) == []
    said = capsys.readouterr().err
    assert "is not known" in said
    assert str(tmp_path / "nobody.socket") in said


# Models


def nothing_of_the_store() -> Any:
    raise AssertionError("a file needs no store")


def test_a_kind_of_model_that_no_engine_may_know_is_told_and_taken(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    known, strange = tmp_path / "known.gguf", tmp_path / "strange.gguf"
    known.write_bytes(tiny_gguf())
    strange.write_bytes(tiny_gguf().replace(b"llama", b"zebra"))
    with model_file(known, nothing_of_the_store, Console(), offline=True):
        assert capsys.readouterr().err == ""
    with model_file(strange, nothing_of_the_store, Console(), offline=True) as file:
        said = capsys.readouterr().err
        assert said.startswith("warning: strange.gguf: it is of the kind 'zebra'")
        assert said.count("\n") == 1
        assert file.source == strange


def test_a_file_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cut.gguf").write_bytes(tiny_gguf()[:-1])
    with (
        pytest.raises(AnklumeError, match="cut short"),
        model_file(tmp_path / "cut.gguf", nothing_of_the_store, Console(), offline=True),
    ):
        pass
