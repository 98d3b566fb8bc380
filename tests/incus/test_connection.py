"""Finding a server as the incus client does, and saying what is wrong when there is none."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from anklume_images.errors import IncusError
from anklume_images.incus.client import Incus
from anklume_images.incus.connection import check_server
from anklume_images.incus.errors import translated
from anklume_images.incus.remotes import addresses

if TYPE_CHECKING:
    from collections.abc import Callable

    from launcher.private_incus.daemon import PrivateIncus

CONFIG = """
default-remote: lab
remotes:
  lab: {addr: "https://10.0.0.1:8443", protocol: incus, public: false, project: models}
  many: {addr: "https://a:8443,https://b:8443", last_working_address: "https://b:8443"}
  other: {addr: "unix:///run/other/unix.socket"}
  pictures: {addr: "https://images", protocol: simplestreams, public: true}
  login: {addr: "https://c:8443", auth_type: oidc}
"""


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("INCUS_SOCKET", "INCUS_DIR", "INCUS_REMOTE", "INCUS_PROJECT"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "incus"
    folder.mkdir()
    monkeypatch.setenv("INCUS_CONF", str(folder))
    monkeypatch.setenv("INCUS_GLOBAL_CONF", str(tmp_path / "global"))
    (folder / "config.yml").write_text(CONFIG)
    for name in ("client.crt", "client.key"):
        (folder / name).write_text("pem")
    return folder


def test_default_remote_of_the_configuration(config: Path) -> None:
    (found,) = addresses(None, None)
    assert (found.https, found.project) == ("https://10.0.0.1:8443", "models")
    assert (found.cert, found.key, found.server_cert) == (config / "client.crt", config / "client.key", None)


def test_pinned_certificate_and_own_client_certificate(config: Path) -> None:
    for folder, kinds in (("servercerts", ["crt"]), ("clientcerts", ["crt", "key"])):
        (config / folder).mkdir()
        for kind in kinds:
            (config / folder / f"lab.{kind}").write_text("pem")
    (found,) = addresses("lab", None)
    assert found.server_cert == config / "servercerts/lab.crt"
    assert found.cert == config / "clientcerts/lab.crt"


def test_environment_overrides(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INCUS_REMOTE", "other")
    monkeypatch.setenv("INCUS_PROJECT", "mine")
    (found,) = addresses(None, None)
    assert (found.socket, found.project) == (Path("/run/other/unix.socket"), "mine")
    assert addresses("other", "named")[0].project == "named"


def test_local_socket(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INCUS_DIR", "/srv/incus")
    assert addresses("local", None)[0].socket == Path("/srv/incus/unix.socket")
    monkeypatch.setenv("INCUS_SOCKET", "/run/my.socket")
    assert addresses("local", None)[0].socket == Path("/run/my.socket")


def test_without_configuration_it_is_local(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (config / "config.yml").unlink()
    monkeypatch.setenv("INCUS_SOCKET", "/run/my.socket")
    assert addresses(None, None)[0].socket == Path("/run/my.socket")


def test_last_working_address_comes_first(config: Path) -> None:
    assert [found.https for found in addresses("many", None)] == ["https://b:8443", "https://a:8443"]


def test_global_remotes_have_their_own_pins(config: Path, tmp_path: Path) -> None:
    shared = tmp_path / "global"
    (shared / "servercerts").mkdir(parents=True)
    (shared / "servercerts/site.crt").write_text("pem")
    (shared / "config.yml").write_text("remotes:\n  site: {addr: 'https://site:8443'}\n")
    assert addresses("site", None)[0].server_cert == shared / "servercerts/site.crt"


@pytest.mark.parametrize(
    ("remote", "words"), [("nope", "no remote is called nope"), ("pictures", "image server"), ("login", "OpenID")]
)
def test_unusable_remote(remote: str, words: str, config: Path) -> None:
    with pytest.raises(IncusError, match=words) as caught:
        addresses(remote, None)
    assert caught.value.hint


def test_key_with_a_password_is_refused(config: Path) -> None:
    (config / "client.key").write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----")
    with pytest.raises(IncusError, match="password"):
        addresses("lab", None)


def test_missing_client_certificate(config: Path) -> None:
    (config / "client.crt").unlink()
    with pytest.raises(IncusError, match="no client certificate"):
        addresses("lab", None)


def test_configuration_that_is_not_yaml(config: Path) -> None:
    (config / "config.yml").write_text("remotes: [")
    with pytest.raises(IncusError, match="not valid YAML"):
        addresses(None, None)


def test_no_socket(tmp_path: Path) -> None:
    with pytest.raises(IncusError, match="no Incus daemon listens here") as caught:
        Incus.connect(socket=tmp_path / "unix.socket")
    assert "INCUS_SOCKET" in str(caught.value.hint)


def test_socket_that_nobody_listens_on(tmp_path: Path) -> None:
    path = tmp_path / "unix.socket"
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))
        with pytest.raises(IncusError, match="no Incus daemon answers"):
            Incus.connect(socket=path)


def test_permission_denied_is_told() -> None:
    with pytest.raises(IncusError, match="permission denied") as caught, translated("/run/unix.socket"):
        raise PermissionError(13, "Permission denied")
    assert "incus-admin" in str(caught.value.hint)


@pytest.mark.parametrize(("server", "version"), [("incus", "0.7"), ("lxd", "6.1"), ("incus", "5.21.1")])
def test_old_or_other_server_is_named(server: str, version: str) -> None:
    info = {"auth": "trusted", "environment": {"server": server, "server_version": version}}
    with pytest.raises(IncusError, match=f"{server} {version}"):
        check_server(info, "https://host:8443")


def test_find_reaches_a_real_server(
    config: Path, started: Callable[[str], PrivateIncus], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INCUS_SOCKET", str(started("incus-6").socket))
    with Incus.find("local") as incus:
        assert incus.server.name == "trial"


def test_project_is_kept(started: Callable[[str], PrivateIncus]) -> None:
    private = started("incus-6")
    with private.client() as incus:
        incus.send("post", "projects", {"name": "p1", "config": {"features.images": "true"}})
        with private.client(project="p1") as inside:
            inside.send("post", "profiles", {"name": "only-here"})
            assert "/1.0/profiles/only-here?project=p1" in inside.get("profiles")
        assert all("only-here" not in url for url in incus.get("profiles"))
        with private.client(project="p1") as inside:
            inside.send("delete", "profiles/only-here")
        incus.send("delete", "projects/p1")
