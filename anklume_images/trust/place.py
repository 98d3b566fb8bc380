"""Another store where it lies: a folder, or an address where it is served over HTTP; read only."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from anklume_images.errors import FetchError, StoreError
from anklume_images.files import open_regular
from anklume_images.inputs.access import Access, environment_access, environment_proxy, netrc_login
from anklume_images.inputs.answers import Refusal, TooLargeRefusal
from anklume_images.inputs.python_index import local_path
from anklume_images.inputs.redaction import redact
from anklume_images.inputs.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anklume_images.inputs.answers import Attempt
    from anklume_images.inputs.lockfile import LockedFile

__all__ = ["LargerError", "Place", "shown_certificate"]


class LargerError(FetchError):
    """A file is larger than it may be."""


class Place:
    """A store at a path or an `https://` address; it is a source of blobs for `inputs.fetch`, too.

    `certificate` is a file with the one certificate that its server may show, in place of those that this host trusts.
    `timeout` (seconds, for connecting and for silence) and `attempts` are those of `inputs.fetch`.
    """

    def __init__(
        self,
        where: str,
        certificate: Path | None = None,
        *,
        timeout: tuple[float, float] = (10, 30),
        attempts: int = 4,
    ) -> None:
        if "://" not in where:
            where = Path(where).expanduser().absolute().as_uri()
        if urlsplit(where).scheme not in ("file", "https", "http"):
            raise StoreError(
                f"stores are read from folders and over https, not from {redact(where)}",
                hint="write a path, or https://HOST:PORT",
            )
        self.url = where.rstrip("/")
        self._access = environment_access()
        if certificate is not None:
            self._access = Access(environment_proxy, netrc_login, lambda _: str(certificate))
        self.timeout, self.attempts = timeout, attempts
        self._transport = Transport(self._access, timeout=timeout, attempts=attempts)

    def __str__(self) -> str:
        folder = local_path(self.url)
        return str(folder) if folder else redact(self.url)

    def read(self, path: str, limit: int) -> bytes | None:
        """A file below it, of `limit` bytes at most; None where there is none. FetchError when it cannot be read."""
        folder = local_path(self.url)
        try:
            if folder is None:
                return self._transport.read(f"{self.url}/{quote(path)}", limit, {"Cache-Control": "no-cache"})[0]
            with open_regular(folder / path) as stream:
                data = stream.read(limit + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            hint = "a bundle is brought in by: anklume-images bundle import FILE"
            raise FetchError(
                f"{error.strerror or error}",
                where=f"{self}/{path}",
                hint=hint if isinstance(error, NotADirectoryError) else None,
            ) from None
        except TooLargeRefusal:
            data = bytes(limit + 1)
        except Refusal as refusal:
            if refusal.gone:
                return None
            raise FetchError(refusal.message, where=f"{self}/{path}", hint=refusal.why.value) from None
        if len(data) > limit:
            raise LargerError(f"larger than {limit} bytes", where=f"{self}/{path}")
        return data

    def urls(
        self, file: LockedFile, _timestamp: str | None, *, transport: Transport, failures: list[Attempt]
    ) -> Iterator[str]:
        """Where a blob is: the one address."""
        del transport, failures
        yield f"{self.url}/{file.path}"

    def access_of(self, _file: LockedFile) -> Access:
        """How its server is reached."""
        return self._access

    def hint(self, _archive: str) -> str:
        """What to do when a blob could not be had."""
        return f"the store at {self} lacks it, or has other bytes: verify it there (anklume-images verify)"

    def passed_over(self, _archive: str) -> list[str]:
        """Addresses that were not asked: none."""
        return []


def shown_certificate(where: str) -> bytes | None:
    """The certificate that the server of an `https://` address shows, as PEM; None where none answers."""
    import ssl

    parts = urlsplit(where)
    if parts.scheme != "https" or not parts.hostname:
        return None
    try:
        return ssl.get_server_certificate((parts.hostname, parts.port or 443), timeout=10).encode()
    except OSError:
        return None
