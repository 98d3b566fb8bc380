"""Where wheels come from: what pip and uv are configured with on this host, and the pages that link to wheels."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urldefrag, urljoin, urlsplit
from urllib.request import url2pathname

from anklume_images.canonical import parsed
from anklume_images.errors import HostError
from anklume_images.inputs.access import (
    Access,
    Login,
    certificate_bundle,
    environment_proxy,
    login_of,
    netrc_login,
)
from anklume_images.inputs.redaction import redact_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

__all__ = [
    "ACCEPT",
    "PAGE_LIMIT",
    "Link",
    "PythonPlaces",
    "host_python_places",
    "index_access",
    "links_of_folder",
    "links_of_page",
    "local_path",
]

# JSON where the index speaks it (PEP 691), else HTML (PEP 503).
ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
_PIP_KEYS = (
    *("index-url", "extra-index-url", "find-links", "no-index"),
    *("proxy", "cert", "client-cert", "trusted-host"),
)
PAGE_LIMIT = 64 << 20  # bytes; pages of busy projects are some MiB


@dataclass(frozen=True)
class PythonPlaces:
    """Base URLs of simple indexes, and folders or pages that link to wheels of any project; how they are reached.

    `proxy`, `certificates` (a path), `client_certificate` (a path) and `trusted_hosts` are pip's settings of these
    names; None leaves the matter to the environment.
    """

    indexes: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    proxy: str | None = None
    certificates: str | None = None
    client_certificate: str | None = None
    trusted_hosts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Link:
    """A file that an index offers, with the sha256 that it states, if any."""

    url: str
    sha256: str | None = None


def local_path(url: str) -> Path | None:
    """The path of a `file://` URL or of a plain absolute path; None for anything on a network."""
    if url.startswith("/"):
        return Path(url)
    if not url.startswith("file:"):
        return None
    parts = urlsplit(url)
    return Path(url2pathname(parts.path)) if parts.netloc in {"", "localhost"} else None


def host_python_places(
    environ: Mapping[str, str] = os.environ, root: Path = Path("/"), indexes: tuple[str, ...] = ()
) -> PythonPlaces:
    """The indexes and folders of pip's configuration, completed by uv's, which knows the default index too.

    pip's order is kept: its files (system, user, environment of the interpreter, PIP_CONFIG_FILE), then PIP_* in the
    environment; for each key the last one wins. Where `indexes` are given, they are all, reached as pip would.
    """
    pip = _pip_configuration(environ, root)
    reached: dict[str, Any] = {
        "proxy": pip.get("proxy") or None,
        "certificates": _path(pip.get("cert")),
        "client_certificate": _path(pip.get("client-cert")),
        "trusted_hosts": _words(pip.get("trusted-host", "")),
    }
    if indexes:
        return PythonPlaces(indexes, **reached)
    if pip.get("no-index", "").lower() in {"1", "true", "yes", "on"}:
        return PythonPlaces((), _words(pip.get("find-links", "")), **reached)
    uv = _uv_configuration(environ)
    main = _words(pip.get("index-url", "")) or uv.get("--index-url", ())
    urls = (*main, *_words(pip.get("extra-index-url", "")), *uv.get("--extra-index-url", ()))
    folders = (*_words(pip.get("find-links", "")), *uv.get("--find-links", ()))
    return PythonPlaces(_unique(entry.rstrip("/") for entry in urls), _unique(folders), **reached)


def index_access(places: PythonPlaces, environ: Mapping[str, str] = os.environ) -> Access:
    """How indexes, and the files that they link to, are reached.

    Credentials in an index's address count for its whole server, as with pip and uv: pages link to files elsewhere on
    it, with or without them.
    """
    login_places = [
        place for place in (*places.indexes, *places.find_links) if local_path(place) is None and login_of(place)
    ]

    def login(url: str) -> Login | None:
        near = [place for place in login_places if _origin(place) == _origin(url)]
        path = urlsplit(url).path or "/"
        # The longest beginning in common: a server may hold several indexes with a user each.
        near.sort(key=lambda place: len(os.path.commonpath([urlsplit(place).path or "/", path])), reverse=True)
        return login_of(near[0]) if near else netrc_login(url)

    def unverified(url: str) -> bool:
        parts = urlsplit(url)
        return bool({parts.hostname, parts.netloc.rpartition("@")[2]} & set(places.trusted_hosts))

    return Access(
        lambda url: places.proxy or environment_proxy(url),
        login,
        lambda _: places.certificates or certificate_bundle(environ),
        unverified,
        lambda _: places.client_certificate,
    )


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    return parts.scheme, parts.hostname, parts.port or {"http": 80, "https": 443}.get(parts.scheme)


def _path(text: str | None) -> str | None:
    return str(Path(text).expanduser()) if text else None


def links_of_page(body: bytes, content_type: str, url: str) -> dict[str, Link]:
    """The files that a simple index page links to, by name; `url` is the page's own, for relative links.

    ValueError when it is no such page.
    """
    if "json" in content_type:
        try:
            files = parsed(body)["files"]
            return {
                entry["filename"]: Link(urljoin(url, entry["url"]), (entry.get("hashes") or {}).get("sha256"))
                for entry in files
            }
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError("not the JSON of a simple index") from error
    parser = _Anchors(url)
    parser.feed(body.decode("utf-8", "replace"))
    parser.close()
    return dict(parser.links)


def links_of_folder(folder: Path) -> dict[str, Link]:
    """The files in a folder, by name; nothing when it cannot be read."""
    try:
        return {entry.name: Link(entry.as_uri()) for entry in folder.absolute().iterdir()}
    except OSError:
        return {}


class _Anchors(HTMLParser):
    def __init__(self, url: str) -> None:
        super().__init__()
        self._base = url
        self.links: dict[str, Link] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        target = dict(attrs).get("href")
        if not target:
            return
        if tag == "base":
            self._base = urljoin(self._base, target)
        elif tag == "a":
            address, fragment = urldefrag(urljoin(self._base, target))
            name = unquote(urlsplit(address).path).rpartition("/")[2]
            algorithm, _, digest = fragment.partition("=")
            self.links[name] = Link(address, digest if algorithm == "sha256" else None)


def _pip_configuration(environ: Mapping[str, str], root: Path) -> dict[str, str]:
    options: dict[str, str] = {}
    for path in _pip_files(environ, root):
        # Raw: a percent sign in a URL is no interpolation.
        parser = configparser.RawConfigParser(strict=False)
        try:
            parser.read(path, encoding="utf-8")
        except (configparser.Error, UnicodeDecodeError, OSError):
            continue  # pip itself will complain; a wheel that is not found says where it was looked for
        for section in ("global", "download", "install"):
            if parser.has_section(section):
                options.update(parser.items(section))
    for key in _PIP_KEYS:
        if value := environ.get(f"PIP_{key.upper().replace('-', '_')}"):
            options[key] = value
    return options


def _pip_files(environ: Mapping[str, str], root: Path) -> Iterator[Path]:
    named = environ.get("PIP_CONFIG_FILE")
    if named == os.devnull:  # pip's own way to say: read no file
        return
    for folder in reversed(environ.get("XDG_CONFIG_DIRS", "/etc/xdg").split(os.pathsep)):
        yield root / folder.lstrip("/") / "pip" / "pip.conf"
    yield root / "etc" / "pip.conf"
    if home := environ.get("HOME"):
        yield Path(home) / ".pip" / "pip.conf"
        yield Path(environ.get("XDG_CONFIG_HOME") or Path(home) / ".config") / "pip" / "pip.conf"
    yield Path(sys.prefix) / "pip.conf"
    if named:
        yield Path(named)


def _uv_configuration(environ: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """What uv would ask, from its own mouth: it prints its indexes above an empty resolution, without a network."""
    import uv

    command = [uv.find_uv_bin(), "pip", "compile", "--offline", "--no-cache", "--quiet", "--no-header"]
    command += ["--emit-index-url", "--emit-find-links", "--python", sys.executable, "-"]
    # cwd: no project's uv.toml or pyproject.toml is meant, only the user's and the system's.
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        cwd="/",
        env=dict(environ),
        check=False,
        encoding="utf-8",
        errors="replace",
    )
    if done.returncode != 0:
        raise HostError(
            f"uv cannot say which Python index it uses: {redact_text(done.stderr.strip())}",
            hint="name one in the settings: python_indexes: [URL]",
        )
    options: dict[str, tuple[str, ...]] = {}
    for line in done.stdout.splitlines():
        option, _, value = line.strip().partition(" ")
        if option.startswith("--") and value:
            options[option] = (*options.get(option, ()), _with_login(value, environ))
    return options


def _with_login(url: str, environ: Mapping[str, str]) -> str:
    """An index of uv's with what UV_INDEX_<NAME>_USERNAME and _PASSWORD say, which uv does not print."""
    for entry in f"{environ.get('UV_INDEX', '')} {environ.get('UV_DEFAULT_INDEX', '')}".split():
        name, named, address = entry.partition("=")
        variable = f"UV_INDEX_{re.sub('[^A-Za-z0-9]', '_', name).upper()}"
        user, password = (environ.get(f"{variable}_{what}", "") for what in ("USERNAME", "PASSWORD"))
        if named and address.rstrip("/") == url.rstrip("/") and (user or password) and "//" in url:
            return url.replace("//", f"//{quote(user, safe='')}:{quote(password, safe='')}@", 1)
    return url


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _unique(entries: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(entries))
