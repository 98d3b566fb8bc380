"""Opening a connection to an Incus server, and looking at who answers."""

from __future__ import annotations

import contextlib
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from anklume_images.errors import IncusError
from anklume_images.incus.transport import open_root, session_for

if TYPE_CHECKING:
    from collections.abc import Mapping

    import requests

__all__ = ["Server", "check_server", "is_ready", "open_api", "open_session"]

OLDEST = (6, 0)


@dataclass(frozen=True)
class Server:
    """What a server says of itself."""

    name: str
    version: str
    certificate: str

    @property
    def release(self) -> tuple[int, ...]:
        """Its version as numbers."""
        return tuple(int(part) for part in self.version.split(".") if part.isdigit())


def open_session(endpoint: str, *, cert: Path | None, key: Path | None, server_cert: Path | None) -> requests.Session:
    """A session for a socket's path or an https URL; `server_cert` is the only certificate then accepted."""
    import requests.utils

    if endpoint.startswith("https://"):
        pair = (str(cert), str(key)) if cert and key else None
        session = session_for(endpoint, cert=pair, verify=str(server_cert) if server_cert else True)
        session.proxies = requests.utils.get_environ_proxies(endpoint)
    else:
        _check_socket(endpoint)
        session = session_for(_socket_url(endpoint))
    # REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE in the environment would take the place of the pinned certificate.
    session.trust_env = False
    return session


def open_api(endpoint: str, session: requests.Session, project: str | None) -> tuple[Any, Server]:
    """The root of the API below /1.0, and who answers there; closes the session when it is nobody to work with."""
    try:
        root, info = open_root(endpoint, session, project)
        return root, check_server(info, endpoint)
    except BaseException:
        session.close()
        raise


def _check_socket(path: str) -> None:
    if not Path(path).exists():
        raise IncusError(
            "no Incus daemon listens here",
            where=path,
            hint="start it (systemctl start incus), or name another by --remote or INCUS_SOCKET",
        )
    # Once by hand: pylxd leaves a socket open whose connection fails.
    with socket.socket(socket.AF_UNIX) as attempt:
        attempt.connect(path)


def _socket_url(path: str) -> str:
    return f"http+unix://{quote(path, safe='')}"


def check_server(info: Mapping[str, Any], endpoint: str) -> Server:
    """What a server said of itself; IncusError when it is not one to work with."""
    environment = info.get("environment") or {}
    if info.get("auth") != "trusted":
        raise IncusError(
            "the server does not know this client's certificate",
            where=endpoint,
            hint="add it there: incus config trust add-certificate client.crt",
        )
    version = str(environment.get("server_version", "unknown"))
    server = Server(
        str(environment.get("server_name", "")),
        version,
        str(environment.get("certificate", "")),
    )
    if environment.get("server") != "incus" or server.release < OLDEST:
        software = f"{environment.get('server', 'an unknown server')} {version}"
        raise IncusError(
            f"this is {software}, not Incus {OLDEST[0]}.{OLDEST[1]} or newer", where=endpoint, hint="update the server"
        )
    return server


def is_ready(path: Path) -> bool:
    """Say whether a daemon listens on the socket and has finished starting (what `incusd waitready` asks)."""
    url = _socket_url(str(path))
    with contextlib.suppress(OSError, IncusError), session_for(url) as session:
        _check_socket(str(path))
        return bool(session.get(f"{url}/internal/ready").status_code == 200)
    return False
