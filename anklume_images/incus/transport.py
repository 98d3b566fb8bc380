"""pylxd, and all that this project knows of it: sessions, the root of an API, how it says that something failed.

Imported when it is first used, as it brings much along.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    import requests

__all__ = ["Failures", "failures", "open_root", "root_for", "session_for"]


class Failures(NamedTuple):
    """Its exceptions: the server refused, there is no such thing, nobody answers."""

    refused: type[Exception]
    missing: type[Exception]
    unreachable: type[Exception]


def failures() -> Failures:
    """The exceptions by which it says that a request failed."""
    from pylxd import exceptions

    return Failures(exceptions.LXDAPIException, exceptions.NotFound, exceptions.ClientConnectionFailed)


def session_for(url: str, *, cert: tuple[str, str] | None = None, verify: str | bool = True) -> requests.Session:
    """An HTTP session for `https://…` or `http+unix://…`."""
    os.environ.setdefault("PYLXD_WARNINGS", "none")  # newer servers have attributes that pylxd does not know
    from pylxd.client import get_session_for_url

    session: requests.Session = get_session_for_url(url, cert=cert, verify=verify)
    return session


def open_root(endpoint: str, session: requests.Session, project: str | None) -> tuple[Any, Mapping[str, Any]]:
    """The root of the API below /1.0, and what the server says of itself."""
    import pylxd

    client = pylxd.Client(endpoint, project=project, session=session)
    return client.api, client.host_info


def root_for(root: Any, session: requests.Session, project: str | None) -> Any:
    """The root of the same server's API for another session or project; pylxd has no other way."""
    return type(root)(root._api_endpoint, session, project=project)  # noqa: SLF001
