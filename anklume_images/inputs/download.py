"""One locked file from one of its addresses: resumed where it broke off, its size and hash checked while it streams."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from anklume_images.files import CHUNK, open_regular
from anklume_images.inputs.answers import AgainError, Refusal, Why
from anklume_images.inputs.python_index import local_path

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import requests

    from anklume_images.inputs.fetch_error import Addresses
    from anklume_images.inputs.lockfile import LockedFile
    from anklume_images.inputs.partial import Partial
    from anklume_images.inputs.transport import Transport

__all__ = ["Download", "Receiver"]


class Receiver(Protocol):
    """Where the bytes go, and by what they come."""

    transport: Transport
    sources: Addresses

    def receive(self, part: Partial, piece: bytes) -> None:
        """Write bytes that arrived."""

    def learned(self, file: LockedFile, size: int) -> None:
        """An address said how large a file is of which the lock does not say it."""


class _WrongError(Exception):
    """These are not the bytes that were asked for; `changed` when it is another file that is offered."""

    def __init__(self, message: str, *, changed: bool = False) -> None:
        super().__init__(message)
        self.why = Why.CHANGED if changed else Why.OTHER


class Download:
    """One file from one address."""

    def __init__(self, into: Receiver, url: str, file: LockedFile, part: Partial) -> None:
        self._into = into
        self._transport = into.transport
        self._access = into.sources.access_of(file)
        self._url = url
        self._file = file
        self._part = part
        self._size = file.size  # where the lock does not say it, what this address says
        self._mark = part.highest
        self._ranges = True
        self._afresh = False
        self._validator: str | None = None

    def carry_out(self) -> None:
        """Refusal when the address cannot give the file."""
        transfer = self._from_network if local_path(self._url) is None else self._from_disk
        self._transport.insist(self._url, lambda: self._attempt(transfer), self._advanced)

    def _advanced(self) -> bool:
        """Say whether clearly more of the file is there than ever before: only getting nowhere counts as failure."""
        if self._part.highest < self._mark + CHUNK:
            return False
        self._mark = self._part.highest
        return True

    def _attempt(self, transfer: Callable[[], None]) -> None:
        while True:
            started = self._part.length
            try:
                transfer()
                self._check_hash()
            except _WrongError as wrong:
                self._part.reset()
                # The bytes from before may be the wrong ones; the mirror is to blame for a whole file of its own only.
                if started == 0 or self._afresh:
                    raise Refusal(str(wrong), why=wrong.why) from None
                self._afresh = True
            else:
                return

    def _check_hash(self) -> None:
        sha256 = self._part.hexdigest()
        if sha256 != self._file.sha256:
            raise _WrongError(f"sends other bytes (sha256 {sha256})", changed=True)

    def _from_network(self) -> None:
        part = self._part
        if part.length and not self._ranges:
            part.reset()
        offset = part.length
        with self._transport.ask(self._url, self._headers(offset), access=self._access) as response:
            if response.status_code == 200:
                if offset:
                    part.reset()  # the server sends all of it, whatever was asked
                declared = response.headers.get("Content-Length", "")
                size = self._expect(int(declared) if declared.isdecimal() else None)
            else:
                total = _range_total(response, offset)
                if total is None or (self._size is not None and total != self._size):
                    self._ranges = False
                    raise _WrongError("answers another range than was asked for")
                size = self._expect(total)
            self._validator = response.headers.get("ETag")
            self._stream(_pieces(response), size)
        if part.length < size:
            raise AgainError(f"broke off after {part.length} of {size} bytes")

    def _expect(self, declared: int | None) -> int:
        """The size to come, of what is known of it; without any there would be no end to what is written."""
        if declared is not None and self._size is not None and declared != self._size:
            raise _WrongError(f"offers {declared} bytes where {self._size} are expected", changed=True)
        if self._size is None:
            if declared is None:
                raise Refusal("does not say how large the file is, and the lock does not either")
            self._size = declared
            self._into.learned(self._file, declared)
        return self._size

    def _from_disk(self) -> None:
        path = local_path(self._url) or Path(self._url)
        try:
            with open_regular(path) as stream:
                size = os.fstat(stream.fileno()).st_size if self._file.size is None else self._file.size
                stream.seek(self._part.length)
                self._stream(iter(lambda: stream.read(CHUNK), b""), size)
        except OSError as error:
            raise Refusal(error.strerror or "cannot be read", gone=isinstance(error, FileNotFoundError)) from None
        if self._part.length < size:
            raise _WrongError(f"has {self._part.length} bytes where {size} are expected")

    def _headers(self, offset: int) -> dict[str, str]:
        headers: dict[str, str] = {}
        if self._afresh:
            headers["Cache-Control"] = "no-cache"
        if offset:
            headers["Range"] = f"bytes={offset}-"
            # Weak validators cannot vouch for bytes (RFC 9110, 13.1.5).
            if self._validator and not self._validator.startswith("W/"):
                headers["If-Range"] = self._validator
        return headers

    def _stream(self, pieces: Iterator[bytes], size: int) -> None:
        for piece in self._transport.steady(pieces):
            if self._part.length + len(piece) > size:
                raise _WrongError(f"sends more than {size} bytes")
            self._into.receive(self._part, piece)


def _pieces(response: requests.Response) -> Iterator[bytes]:
    # read1 gives what has come, where read would wait for a whole chunk from a host that drips.
    while piece := response.raw.read1(CHUNK, decode_content=False):
        yield piece


def _range_total(response: requests.Response, offset: int) -> int | None:
    """The size of the file of which a 206 brings the rest from `offset` on; None when it does not, as a 416."""
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("Content-Range", ""))
    if response.status_code != 206 or match is None:
        return None
    first, end, total = int(match[1]), int(match[2]) + 1, match[3]
    return end if first == offset and total in {"*", str(end)} else None
