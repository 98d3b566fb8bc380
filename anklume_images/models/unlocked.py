"""Fetches a file whose sha256 nobody knows yet: the server's word counts, and what came is known by its hash then.

It is resumed, in this run or a later one, only where the server says with a strong validator that it is still the same
file.
"""

from __future__ import annotations

import hashlib
import re
import time
from typing import TYPE_CHECKING, Any

from anklume_images.errors import FetchError
from anklume_images.files import CHUNK
from anklume_images.inputs.answers import AgainError, Refusal
from anklume_images.inputs.partial import Partial, disk_error, open_partial

if TYPE_CHECKING:
    import requests

    from anklume_images.inputs.fetch import Progress
    from anklume_images.inputs.transport import Transport
    from anklume_images.store.blobs import Blobs

__all__ = ["fetch_unlocked"]


def fetch_unlocked(blobs: Blobs, url: str, transport: Transport, progress: Progress, keep: Any) -> str:
    """Have the file in the blobs, and return its sha256, which `keep` is told before it is there. Refusal."""
    size, validator = transport.insist(url, lambda: _described(transport, url))
    if size is None:
        raise Refusal("does not say how large the file is")
    # Whatever the file becomes, what has arrived of it is found again by where it is from and which it is.
    key = hashlib.sha256(f"{url}\n{validator}\n{size}".encode()).hexdigest()
    progress.start(size, 1)
    try:
        with open_partial(blobs, key, size, advance=progress.advance, wait=time.sleep) as part:
            if validator:
                part.read_back(transport.check)
            else:
                part.reset()
            mark = [part.highest]

            def advanced() -> bool:
                before, mark[0] = mark[0], max(mark[0], part.highest)
                return part.highest >= before + CHUNK

            transport.insist(url, lambda: _receive(transport, url, part, size, validator), advanced)
            sha256 = part.hexdigest()
            keep([sha256])
            if blobs.has(sha256, size):
                part.reset()
            else:
                blobs.adopt(part.path, sha256)
            return sha256
    except OSError as error:
        raise disk_error(error, blobs.partial, size) from error
    finally:
        progress.finish()


def _described(transport: Transport, url: str) -> tuple[int | None, str]:
    """Size and strong validator, by the headers of a GET whose body is not read: some servers refuse HEAD."""
    with transport.ask(url) as response:
        length = response.headers.get("Content-Length", "")
        return int(length) if length.isdecimal() else None, _validator(response)


def _validator(response: requests.Response) -> str:
    """Weak ones cannot vouch for bytes (RFC 9110, 13.1.5)."""
    tag: str = response.headers.get("ETag", "")
    return "" if tag.startswith("W/") else tag


def _receive(transport: Transport, url: str, part: Partial, size: int, validator: str) -> None:
    if part.length == size:
        return
    if part.length and not validator:
        part.reset()
    offset = part.length
    headers = {"Range": f"bytes={offset}-", "If-Range": validator} if offset else {}
    with transport.ask(url, headers) as response:
        if _validator(response) != validator:
            part.reset()
            raise FetchError("the file changed while it was fetched", hint="run it again")
        if offset and response.status_code != 206:
            part.reset()
        elif offset and not re.fullmatch(
            rf"bytes {offset}-{size - 1}/{size}", response.headers.get("Content-Range", "")
        ):
            part.reset()
            raise AgainError("answers another range than was asked for")
        while piece := response.raw.read1(CHUNK, decode_content=False):
            transport.check()
            if part.length + len(piece) > size:
                part.reset()
                raise Refusal(f"sends more than the {size} bytes that it said")
            part.append(piece)
    if part.length < size:
        raise AgainError(f"broke off after {part.length} of {size} bytes")
