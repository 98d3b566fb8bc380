"""A session of requests that asks `Access` anew for every hop, redirects included, and reads nothing by itself."""

from __future__ import annotations

from base64 import b64encode
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.auth import HTTPBasicAuth

from anklume_images import __version__
from anklume_images.inputs.access import login_of

if TYPE_CHECKING:
    from anklume_images.inputs.access import Access

__all__ = ["AccessSession", "DowngradeError"]


class DowngradeError(requests.RequestException):
    """A server that was asked over https sends its client to http, where anybody may answer."""


class AccessSession(requests.Session):
    """Proxies, credentials and certificates are those of `access`."""

    def __init__(self, access: Access) -> None:
        super().__init__()
        self.trust_env = False
        self._access = access
        for prefix in ("http://", "https://"):
            self.mount(prefix, _Adapter(access))
        # identity: the hash is that of the file, not of a compressed transfer of it.
        self.headers.update({"User-Agent": f"anklume-images/{__version__}", "Accept-Encoding": "identity"})

    def login(self, url: str) -> HTTPBasicAuth | None:
        """Credentials for a URL, in UTF-8 (RFC 7617)."""
        login = self._access.login(url)
        return HTTPBasicAuth(login[0].encode(), login[1].encode()) if login else None

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Where a redirect leads; never from https to http."""
        target: str | None = super().get_redirect_target(resp)
        if target and resp.url.lower().startswith("https:") and urljoin(resp.url, target).lower().startswith("http:"):
            raise DowngradeError
        return target

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        """After a redirect: another server does not get the first one's credentials, but may have its own."""
        url, headers = str(prepared_request.url), prepared_request.headers
        strips: bool = self.should_strip_auth(str(response.request.url), url)  # type: ignore[no-untyped-call]
        if "Authorization" in headers and strips:
            del headers["Authorization"]
        if "Authorization" not in headers and (login := self.login(url)):
            prepared_request.prepare_auth(login)


class _Adapter(HTTPAdapter):
    def __init__(self, access: Access) -> None:
        self._access = access
        super().__init__()

    def proxy_headers(self, proxy: str) -> dict[str, str]:
        """The proxy's credentials, in UTF-8 as a server's."""
        login = login_of(proxy)
        token = b64encode(":".join(login).encode()).decode() if login else ""
        return {"Proxy-Authorization": f"Basic {token}"} if token else {}

    def send(self, request: requests.PreparedRequest, *arguments: Any, **options: Any) -> requests.Response:
        url = str(request.url)
        proxy, verify = self._access.proxy(url), self._access.verify(url)
        if verify is False:  # somebody chose that, in pip's trusted-host or apt's Verify-Peer
            urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
        options |= {
            "proxies": {"http": proxy, "https": proxy} if proxy else {},
            "verify": verify,
            "cert": self._access.client_certificate(url),
        }
        return super().send(request, *arguments, **options)
