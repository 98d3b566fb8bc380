"""What Incus and the transport to it say when something goes wrong, told as IncusError with a hint."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from anklume_images.errors import IncusError, IncusUnreachableError
from anklume_images.incus.transport import failures

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["explain", "is_missing", "translated"]

# Words of the daemon's messages (lower case) and what to do about them.
_HINTS = (
    ("no space left on device", "the storage pool or the disk is full: delete images or instances, or make it larger"),
    ("out of disk space", "the storage pool or the disk is full: delete images or instances, or make it larger"),
    ("disk quota exceeded", "the instance's or the project's disk limit is reached"),
    ("fingerprints don't match", "the image changed on its way or on disk: verify the store and try again"),
    ("no storage pool found", "create a pool first: incus admin init"),
    ("no root device could be found", "the profile has no root disk: incus admin init, or name another profile"),
    ("invalid pci address", "incus info --resources lists the cards"),
    ("failed to detect requested gpu device", "no such card on this host: incus info --resources"),
    ("idmapping abilities are required", "this file system does not support ID-mapped mounts; use ext4, xfs or btrfs"),
    ("already defined on another nic", "another instance has that address; one no longer in the file goes by --prune"),
    ("cannot modify shifting", "stop the machines that use the volume, then run it again"),
    ("missing source path", "the host has no such file or folder; a driver that moved is found by the next apply"),
    ("command not found", "the image has no such program"),
    ("not authorized", "the client's certificate is restricted to other projects"),
)


@contextlib.contextmanager
def translated(address: str) -> Iterator[None]:
    """Turn the exceptions of the transport into IncusError; `address` is the server's."""
    import requests

    known = failures()

    try:
        yield
    except known.refused as error:
        response: Any = getattr(error, "response", None)
        raise explain(str(error) or f"status {response.status_code}", address) from error
    except (known.unreachable, requests.RequestException, OSError) as error:
        raise _unreachable(error, address) from error


def explain(message: str, address: str) -> IncusError:
    """The daemon's own words as an error, with a hint where one is known."""
    lower = message.lower()
    hint = next((hint for words, hint in _HINTS if words in lower), None)
    return IncusError(message, where=address, hint=hint)


def is_missing(error: IncusError) -> bool:
    """Whether the server said that there is no such thing."""
    return isinstance(error.__cause__, failures().missing)


def _unreachable(error: BaseException, address: str) -> IncusError:
    from http.client import HTTPException

    from urllib3.exceptions import ProtocolError

    causes = list(_causes(error))
    if any(isinstance(cause, PermissionError) for cause in causes):
        return IncusError("permission denied", where=address, hint="run as root, or join the group incus-admin")
    if any(isinstance(cause, (ConnectionRefusedError, FileNotFoundError)) for cause in causes):
        hint = "is it running? systemctl status incus"
        return IncusUnreachableError("no Incus daemon answers", where=address, hint=hint)
    text = " ".join(str(cause) for cause in causes)
    if "Fingerprints did not match" in text:
        return IncusError(
            "the server's certificate is not the pinned one",
            where=address,
            hint="if it was renewed on purpose, fetch it anew: incus remote remove, incus remote add",
        )
    if "certificate verify failed" in text:
        return IncusError(
            "no trusted authority signed the server's certificate",
            where=address,
            hint="pin it: incus remote add stores it beside the client's configuration",
        )
    if any(isinstance(cause, (HTTPException, ConnectionError, ProtocolError)) for cause in causes):
        return IncusUnreachableError("the connection broke off", where=address)
    return IncusUnreachableError(f"no answer: {causes[-1]}", where=address)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The chain of exceptions, and those that the HTTP libraries carry as arguments."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        cause = waiting.pop(0)
        if cause is None or id(cause) in seen:
            continue
        seen.add(id(cause))
        yield cause
        waiting += [cause.__cause__, cause.__context__, getattr(cause, "reason", None)]
        waiting += [argument for argument in cause.args if isinstance(argument, BaseException)]
