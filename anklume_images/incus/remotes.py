"""Where a server is: the rules of the `incus` client, so that both find the same one.

Read in its source (shared/cliconfig and client/connection.go of https://github.com/lxc/incus): INCUS_CONF or
~/.config/incus holds config.yml, client.crt, client.key, clientcerts/ and servercerts/; INCUS_GLOBAL_CONF or
/etc/incus adds remotes; INCUS_REMOTE overrides the default remote, INCUS_PROJECT its project. A local socket is that
of INCUS_SOCKET, of INCUS_DIR, or one of the two usual places.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anklume_images.errors import IncusError

__all__ = ["Address", "addresses", "image_source"]

_SOCKET = "unix.socket"
_LOCAL = {"addr": "unix://"}
_BUILT_IN = {"images": {"addr": "https://images.linuxcontainers.org", "protocol": "simplestreams", "public": True}}


@dataclass(frozen=True)
class Address:
    """One way to reach a server: a socket, or a URL with the certificates to use."""

    socket: Path | None = None
    https: str | None = None
    cert: Path | None = None
    key: Path | None = None
    server_cert: Path | None = None
    project: str | None = None


def addresses(remote: str | None, project: str | None) -> list[Address]:
    """The addresses of a remote (None: the default one), the last that worked first."""
    folder, shared_folder = _folder(), _shared_folder()
    config, shared = _read(folder / "config.yml"), _read(shared_folder / "config.yml")
    name = (remote or os.environ.get("INCUS_REMOTE") or config.get("default-remote") or "local").removesuffix(":")
    own_remotes, shared_remotes = config.get("remotes") or {}, shared.get("remotes") or {}
    remotes = {**shared_remotes, **own_remotes, "local": {**(own_remotes.get("local") or {}), **_LOCAL}}
    if name not in remotes:
        raise IncusError(
            f"no remote is called {name}", where=str(folder / "config.yml"), hint=f"there are: {', '.join(remotes)}"
        )
    entry = remotes[name]
    _check(name, entry)
    project = project or os.environ.get("INCUS_PROJECT") or entry.get("project")
    pins = folder if name in own_remotes else shared_folder
    return [
        _address(text, name, folder, pins / "servercerts" / f"{name}.crt", project)
        for text in sorted(_split(entry), key=lambda text: text != entry.get("last_working_address"))
    ]


def image_source(name: str) -> dict[str, str]:
    """The `source` of an instance whose image is `remote:alias`, or the alias of an image of the server itself."""
    remote, colon, alias = name.partition(":")
    if not colon or remote == "local":
        return {"type": "image", "alias": alias if colon else name}
    folder, shared_folder = _folder(), _shared_folder()
    own_remotes = _read(folder / "config.yml").get("remotes") or {}
    shared = _read(shared_folder / "config.yml").get("remotes") or {}
    remotes = {**_BUILT_IN, **shared, **own_remotes}
    if remote not in remotes:
        hint = f"there are: {', '.join(remotes)}; incus remote add makes one"
        raise IncusError(f"no remote is called {remote}", where=str(folder / "config.yml"), hint=hint)
    entry = remotes[remote]
    source = {
        "type": "image",
        "mode": "pull",
        "server": _split(entry)[0],
        "protocol": entry.get("protocol") or "incus",
        "alias": alias,
    }
    pin = (folder if remote in own_remotes else shared_folder) / "servercerts" / f"{remote}.crt"
    return source | ({"certificate": pin.read_text(encoding="utf-8")} if pin.exists() else {})


def _shared_folder() -> Path:
    return Path(os.environ.get("INCUS_GLOBAL_CONF") or "/etc/incus")


def _folder() -> Path:
    if conf := os.environ.get("INCUS_CONF"):
        return Path(conf)
    base = os.environ.get("XDG_CONFIG_HOME")
    standard = Path(base) / "incus" if base else Path.home() / ".config/incus"
    legacy = Path.home() / ".config/incus"
    return standard if standard.exists() else legacy


def _read(path: Path) -> dict[str, Any]:
    import yaml

    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise IncusError(f"cannot be read: {error.strerror}", where=str(path)) from None
    except UnicodeDecodeError:
        raise IncusError("not UTF-8 text", where=str(path)) from None
    except yaml.YAMLError as error:
        raise IncusError(f"not valid YAML: {error}", where=str(path)) from None
    if not isinstance(document, dict):
        raise IncusError("not the incus client's configuration", where=str(path))
    return document


def _check(name: str, entry: dict[str, Any]) -> None:
    if entry.get("public") or entry.get("protocol", "incus") != "incus":
        raise IncusError(
            f"remote {name} is an image server, not an Incus that one can change",
            hint="incus remote list shows the others",
        )
    if entry.get("auth_type") == "oidc":
        raise IncusError(
            f"remote {name} wants a login through OpenID Connect, which is not supported",
            hint="add it with a client certificate: incus remote add",
        )


def _split(entry: dict[str, Any]) -> list[str]:
    return [text.strip() for text in str(entry.get("addr", "")).split(",") if text.strip()]


def _address(text: str, name: str, folder: Path, pin: Path, project: str | None) -> Address:
    if text.startswith("unix:"):
        path = text.removeprefix("unix:").removeprefix("//")
        if path:
            return Address(socket=Path(path), project=project)
        socket, own_project = _local_socket()
        return Address(socket=socket, project=project or own_project)
    pair = [folder / "clientcerts" / f"{name}.{kind}" for kind in ("crt", "key")]
    cert, key = pair if all(path.exists() for path in pair) else (folder / "client.crt", folder / "client.key")
    for file in (cert, key):
        if not file.exists():
            raise IncusError("no client certificate", where=str(file), hint="make one: incus remote add")
    if b"ENCRYPTED" in key.read_bytes():
        raise IncusError("the client's key has a password", where=str(key), hint="give this program a key without one")
    return Address(https=text, cert=cert, key=key, server_cert=pin if pin.exists() else None, project=project)


def _local_socket() -> tuple[Path, str | None]:
    """The socket, and the project that incus-user gives an ordinary user."""
    if path := os.environ.get("INCUS_SOCKET"):
        return Path(path), None
    if place := os.environ.get("INCUS_DIR"):
        folder = Path(place)
    else:
        folder = Path("/run/incus" if os.path.lexists("/run/incus/unix.socket") else "/var/lib/incus")
    socket, user_socket = folder / _SOCKET, folder / f"{_SOCKET}.user"
    if not os.access(socket, os.W_OK) and os.access(user_socket, os.W_OK):
        return user_socket, f"user-{os.geteuid()}"
    return socket, None
