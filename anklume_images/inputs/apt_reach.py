"""What the resolver's apt is told about reaching its mirrors: proxies, credentials and authorities of this host.

That apt sees nothing of the host's configuration, and gets what `Access` decided, so that locking and fetching ask
mirrors alike. Credentials are in a file of apt's own (apt_auth.conf(5)): apt prints the addresses that it is given.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from anklume_images.errors import LockError
from anklume_images.inputs.access import certificate_bundle
from anklume_images.inputs.answers import Refusal, Why
from anklume_images.inputs.python_index import local_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from anklume_images.inputs.access import Access

__all__ = ["AptReach", "apt_reach"]


@dataclass(frozen=True)
class AptReach:
    """The mirrors' addresses without credentials, by archive, and lines for apt.conf."""

    mirrors: dict[str, str]
    options: tuple[str, ...]


def apt_reach(
    place: Path,
    mounted: str,
    mirrors: Mapping[str, str],
    access: Callable[[str], Access],
    sees: Callable[[Path], str] = str,
) -> AptReach:
    """Write what apt needs into `place`, which apt sees at `mounted`; LockError when it cannot be found out.

    `sees` gives the path at which apt sees a folder of this host, for a mirror on disk.
    """
    plain: dict[str, str] = {}
    options = [f'Acquire::https::CaInfo "{_certificates(certificate_bundle(), place, mounted)}";']
    machines: list[tuple[str, str]] = []
    for archive, url in mirrors.items():
        parts = urlsplit(url)
        folder = local_path(url)
        plain[archive] = f"file:{sees(folder)}" if folder else url  # as apt itself spells it
        if parts.scheme not in {"http", "https"}:
            continue
        way = access(archive)
        try:
            options += _options(way, url, place, mounted)
            login = way.login(url)
        except Refusal as refusal:
            raise LockError(refusal.message, hint=refusal.why.value) from None
        if login and all(login) and not any(set(" \t\r\n") & set(word) for word in login):  # auth.conf knows no quotes
            plain[archive] = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
            machines.append((plain[archive], f"login {login[0]} password {login[1]}"))
    # The first that fits counts: an archive may lie below another's address.
    machines.sort(key=lambda machine: -len(machine[0]))
    (place / "etc" / "auth.conf").write_text(
        "".join(f"machine {url} {login}\n" for url, login in machines), encoding="utf-8"
    )
    return AptReach(plain, tuple(options))


def _options(way: Access, url: str, place: Path, mounted: str) -> Iterable[str]:
    parts = urlsplit(url)
    scheme, host = f"Acquire::{parts.scheme}", parts.hostname or ""
    suffix = "" if ":" in host else f"::{host}"  # apt's names of options have no room for IPv6
    for_host = f"{scheme}{suffix}"
    proxy = (way.proxy(url) or "DIRECT").replace('"', "%22")
    if proxy.startswith("socks5:"):
        proxy = proxy.replace("socks5:", "socks5h:", 1)  # apt lets the proxy look names up, or speaks no SOCKS
    yield f'{scheme}::Proxy{suffix} "{proxy}";'
    if parts.scheme == "http":
        return
    verify = way.verify(url)
    if isinstance(verify, str):
        yield f'{for_host}::CaInfo "{_certificates(verify, place, mounted)}";'
    else:
        yield f'{for_host}::Verify-Peer "false";'
        yield f'{for_host}::Verify-Host "false";'
    cert = way.client_certificate(url)
    for name, path in zip(("SslCert", "SslKey"), (cert, cert) if isinstance(cert, str) else cert or (), strict=False):
        yield f'{for_host}::{name} "{_copy(path, place, mounted)}";'


def _certificates(path: str, place: Path, mounted: str) -> str:
    """The authorities at a path as one file that apt sees."""
    folder = Path(path)
    if not folder.is_dir():
        return _copy(path, place, mounted)
    texts = {entry.resolve(): b"" for entry in sorted(folder.iterdir()) if entry.is_file()}
    bundle = place / "authorities.crt"
    bundle.write_bytes(b"\n".join(entry.read_bytes() for entry in texts))
    return f"{mounted}/{bundle.name}"


def _copy(path: str, place: Path, mounted: str) -> str:
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise LockError(
            f"the certificates cannot be read: {error.strerror}", where=path, hint=Why.CERTIFICATE.value
        ) from None
    name = path.strip("/").replace("/", "_")
    (place / name).write_bytes(data)
    return f"{mounted}/{name}"
