"""How servers are reached from this host: proxies, credentials and certificate authorities, decided in one place.

There are three kinds of servers: apt's mirrors (`apt_access`), Python indexes (`index_access`) and all others
(`environment_access`). What apt or pip are configured with counts for theirs, the environment for all.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from anklume_images.inputs.answers import Refusal, Why
from anklume_images.inputs.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = [
    "Access",
    "Login",
    "certificate_bundle",
    "environment_access",
    "environment_proxy",
    "login_of",
    "netrc_login",
]

Login = tuple[str, str]

_PROXIES = {"http", "https", "socks4", "socks4a", "socks5", "socks5h"}
# A file first: OpenSSL, curl, apt and uv all take one.
_NAMED = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")
# Where distributions keep the bundle that their tools update: Debian, Fedora, SUSE, RHEL, Alpine.
_SYSTEM = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
)


@dataclass(frozen=True, eq=False)
class Access:
    """How servers of one kind are reached, by URL.

    `find_proxy` and `find_login` may ask other programs and files; `certificates` is the path of a file or folder of
    authorities; `unverified` says whose certificate is not looked at, `client_certificate` is a certificate's path and
    its key's.
    """

    find_proxy: Callable[[str], str | None]
    find_login: Callable[[str], Login | None]
    find_certificates: Callable[[str], str]
    unverified: Callable[[str], bool] = lambda _: False
    client_certificate: Callable[[str], Login | str | None] = lambda _: None

    def proxy(self, url: str) -> str | None:
        """The proxy for a URL, with its scheme; Refusal when it is of a kind that nobody here speaks."""
        address = self.find_proxy(url)
        if not address:
            return None
        proxy = address if "://" in address else f"http://{address}"
        scheme = proxy.partition(":")[0].lower()
        if scheme not in _PROXIES:
            kinds = ", ".join(sorted(_PROXIES))
            raise Refusal(f"the proxy {redact(proxy)} is of an unknown kind (known: {kinds})", why=Why.PROXY)
        return proxy

    def login(self, url: str) -> Login | None:
        """User and password: those of the URL, else those that this host has for it."""
        return login_of(url) or self.find_login(url)

    def verify(self, url: str) -> str | bool:
        """The path of the authorities that are believed; False where the certificate is not looked at."""
        return False if self.unverified(url) else self.find_certificates(url)


def environment_access(environ: Mapping[str, str] = os.environ) -> Access:
    """The proxies, the .netrc and the certificate authorities of the environment and the system."""
    return Access(environment_proxy, netrc_login, lambda _: certificate_bundle(environ))


def environment_proxy(url: str) -> str | None:
    """The proxy that http_proxy, https_proxy, all_proxy and no_proxy name, in small letters or capitals."""
    from requests.utils import get_environ_proxies, select_proxy

    return select_proxy(url, get_environ_proxies(url))


def netrc_login(url: str) -> Login | None:
    """What ~/.netrc, or the file that NETRC names, has for the URL's host."""
    from requests.utils import get_netrc_auth

    return get_netrc_auth(url)


def login_of(url: str) -> Login | None:
    """The user and password that a URL holds."""
    user, at, _ = urlsplit(url).netloc.rpartition("@")
    name, _, password = user.partition(":")
    return (unquote(name), unquote(password)) if at else None


def certificate_bundle(environ: Mapping[str, str] = os.environ) -> str:
    """The path of the authorities to believe: what the environment names, else this system's.

    A path, not Python's own idea of it: requests, uv and apt in its sandbox must all believe the same.
    """
    return next((environ[name] for name in _NAMED if environ.get(name)), None) or _system_bundle()


@cache
def _system_bundle() -> str:
    defaults = ssl.get_default_verify_paths()
    for path in (*_SYSTEM, defaults.openssl_cafile, defaults.openssl_capath):
        if Path(path).is_file() or (Path(path).is_dir() and any(Path(path).iterdir())):
            return path
    from requests.utils import DEFAULT_CA_BUNDLE_PATH

    return DEFAULT_CA_BUNDLE_PATH
