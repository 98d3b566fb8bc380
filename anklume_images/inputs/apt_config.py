"""How apt on this host reaches its mirrors: apt.conf(5) as `apt-config dump` prints it, and apt_auth.conf(5).

The rules are those of apt's methods/http.cc, apt-pkg/contrib/proxy.cc and netrc.cc.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from anklume_images.inputs.access import (
    Access,
    Login,
    certificate_bundle,
    environment_proxy,
    login_of,
    netrc_login,
)
from anklume_images.inputs.answers import Refusal, Why

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["AptConfig", "apt_access", "parse_auth_conf"]

_NONE = {"direct", "false"}
_DETECTION = 30.0  # seconds that a Proxy-Auto-Detect command may take


@dataclass(frozen=True)
class AuthEntry:
    """A `machine` of auth.conf: `scheme` is empty where none is written, which means https."""

    scheme: str
    place: str
    login: Login


@dataclass(frozen=True)
class AptConfig:
    """apt's options by their names in small letters, and its credentials in the order in which they count."""

    options: Mapping[str, str] = field(default_factory=dict)
    logins: tuple[AuthEntry, ...] = ()
    environ: Mapping[str, str] = field(default_factory=lambda: os.environ)

    @classmethod
    def of_host(cls, environ: Mapping[str, str] = os.environ, root: Path = Path("/")) -> AptConfig:
        """What apt is configured with here; nothing where there is no apt."""
        return cls(dict(_dumped(environ)), tuple(_logins(root / "etc" / "apt")), environ)

    def option(self, url: str, name: str) -> str | None:
        """Acquire::<scheme>::<name>, for the URL's host or for all; https takes after http.

        For a host, apt's programs read `<host>::<name>`, apt's pages say `<name>::<host>` (for Proxy both do): either.
        """
        parts = urlsplit(url)
        schemes = dict.fromkeys((parts.scheme.lower(), "http"))
        for key in (f"{parts.hostname}::{name}", f"{name}::{parts.hostname}", name):
            for scheme in schemes:
                if value := self.options.get(f"acquire::{scheme}::{key}".lower()):
                    return value
        return None

    def proxy(self, url: str) -> str | None:
        """The proxy by which apt would ask a URL; Refusal when the Proxy-Auto-Detect command fails."""
        from requests.utils import should_bypass_proxies

        parts = urlsplit(url)
        configured = any(
            self.options.get(f"acquire::{scheme}::proxy::{parts.hostname}") for scheme in (parts.scheme.lower(), "http")
        )
        detected = None if configured else self._detected(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/")
        proxy = detected or self.option(url, "proxy")
        if proxy is None:
            return environment_proxy(url)
        if proxy.lower() in _NONE or should_bypass_proxies(url, None):
            return None
        login = None if login_of(proxy) else self.login(proxy)
        if login:
            scheme, _, rest = proxy.partition("://")
            return f"{scheme}://{quote(login[0], safe='')}:{quote(login[1], safe='')}@{rest}"
        return proxy

    def login(self, url: str) -> Login | None:
        """The credentials that apt's auth.conf has for a URL; the first entry that fits counts."""
        parts = urlsplit(url)
        netloc = parts.netloc.rpartition("@")[2]
        for entry in self.logins:
            if entry.scheme != parts.scheme if entry.scheme else parts.scheme != "https":
                continue
            if "/" in entry.place:
                fits = (netloc + parts.path).startswith(entry.place)
            else:
                fits = entry.place in {netloc, parts.hostname}
            if fits:
                return entry.login
        return None

    @cached_property
    def _proxies(self) -> dict[str, str | None]:
        return {}

    def _detected(self, site: str) -> str | None:
        command = self.option(site, "proxy-auto-detect") or self.option(site, "proxyautodetect")
        if not command:
            return None
        if site not in self._proxies:
            self._proxies[site] = _detect(command, site)
        return self._proxies[site]


def apt_access(config: AptConfig) -> Access:
    """How apt's mirrors are reached; what apt is not told, the environment and .netrc say."""
    return Access(
        config.proxy,
        lambda url: config.login(url) or netrc_login(url),
        lambda url: config.option(url, "cainfo") or certificate_bundle(config.environ),
        lambda url: (config.option(url, "verify-peer") or "").lower() in {"false", "no", "0"},
        partial(_client_certificate, config),
    )


def parse_auth_conf(text: str) -> Iterator[AuthEntry]:
    """The entries of an auth.conf file; unknown words are passed over, as apt does."""
    words = iter([word for line in text.splitlines() if not line.lstrip().startswith("#") for word in line.split()])
    entry: AuthEntry | None = None
    for word in words:
        if word == "machine":
            if entry:
                yield entry
            scheme, separator, place = next(words, "").rpartition("://")
            entry = AuthEntry(scheme.lower() if separator else "", place, ("", ""))
        elif word == "login" and entry:
            entry = replace(entry, login=(next(words, ""), entry.login[1]))
        elif word == "password" and entry:
            entry = replace(entry, login=(entry.login[0], next(words, "")))
    if entry:
        yield entry


def _logins(etc: Path) -> Iterator[AuthEntry]:
    for path in (etc / "auth.conf", *sorted((etc / "auth.conf.d").glob("*.conf"))):
        try:
            yield from parse_auth_conf(path.read_text(encoding="utf-8", errors="replace"))
        except OSError:
            continue  # not there, or not for this user to read: an answer of 401 says where credentials belong


def _dumped(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    command = shutil.which("apt-config", path=environ.get("PATH", ""))
    if command is None:
        return
    done = subprocess.run(
        [command, "dump"],
        env=dict(environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    for name, value in re.findall(r'^(\S+) "(.*)";$', done.stdout, re.MULTILINE):
        if value:
            yield name.lower(), value


def _detect(command: str, site: str) -> str | None:
    try:
        done = subprocess.run(
            [command, site],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=True,
            timeout=_DETECTION,
        )
    except (OSError, subprocess.SubprocessError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it failed"
        raise Refusal(f"apt's Proxy-Auto-Detect {command} cannot be used: {reason}", why=Why.PROXY) from None
    return next(iter(done.stdout.splitlines()), "").strip() or None


def _client_certificate(config: AptConfig, url: str) -> Login | str | None:
    certificate, key = config.option(url, "sslcert"), config.option(url, "sslkey")
    return (certificate, key) if certificate and key else certificate
