"""Single values as people write them, checked and brought into one form; `WrongError` says what a value must be."""

from __future__ import annotations

import ipaddress
import math
import posixpath
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from anklume_images.incus.values import bytes_of, pci_address
from anklume_images.nearest import nearest
from launcher.infra.report import is_plain

if TYPE_CHECKING:
    from launcher.infra.report import Code

__all__ = [
    "Reader",
    "WrongError",
    "address",
    "boolean",
    "choice",
    "config_text",
    "cron",
    "device_text",
    "expiry",
    "folder",
    "image_ref",
    "integer",
    "line",
    "matching",
    "mount_path",
    "pci",
    "remote_image",
    "reserve",
    "size",
    "size_in_bytes",
    "two_octets",
]

Reader = Callable[[Any], Any]

_IMAGE = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(@[A-Za-z0-9][A-Za-z0-9._-]*)?")
_EXPIRY = re.compile(r"([0-9]{1,6})([dhm])")

# Minutes, hours, days of the month, months, days of the week: crontab(5), but Incus 6.0 refuses 7 for Sunday.
_CRON = (
    (0, 59, ()),
    (0, 23, ()),
    (1, 31, ()),
    (1, 12, ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")),
    (0, 6, ("sun", "mon", "tue", "wed", "thu", "fri", "sat")),
)


class WrongError(ValueError):  # no error of the program: a finding on its way to the report
    """What a value must be, as the end of the sentence `'key' …`; with `whole` the sentence itself.

    `within` is the key at which it is wrong, where the value is a mapping.
    """

    def __init__(
        self, message: str, *, code: Code = "wrong-value", hint: str | None = None, whole: bool = False
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.hint = hint
        self.whole = whole
        self.within: str | None = None


def _text(value: Any, what: str) -> str:
    if isinstance(value, str):
        return value
    quotable = isinstance(value, (int, float)) or hasattr(value, "isoformat")
    raise WrongError(f"must be {what}", code="wrong-type", hint="put it in quotes" if quotable else None)


def line(value: Any) -> str:
    """A text of one line."""
    text = _text(value, "text")
    if not is_plain(text):
        raise WrongError("must be one line without control characters")
    return text


def boolean(value: Any) -> bool:
    """True or false, and no text or number that looks like it."""
    if isinstance(value, bool):
        return value
    looks = str(value).lower() in ("yes", "no", "on", "off", "true", "false", "1", "0")
    raise WrongError("must be true or false", code="wrong-type", hint="without quotes" if looks else None)


def integer(low: int, high: int | None = None) -> Callable[[Any], int]:
    """A whole number from `low` to `high`."""
    expected = f"a whole number from {low} to {high}" if high is not None else f"a whole number of at least {low}"
    expected = str(low) if low == high else expected

    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            numeric = isinstance(value, str) and value.isdecimal()
            raise WrongError(f"must be {expected}", code="wrong-type", hint="without quotes" if numeric else None)
        if value < low or (high is not None and value > high):
            raise WrongError(f"must be {expected}")
        return value

    return read


def choice(*words: str | bool) -> Callable[[Any], Any]:
    """One of some words."""
    names = ["true" if word is True else "false" if word is False else str(word) for word in words]
    expected = f"{', '.join(names[:-1])} or {names[-1]}"

    def read(value: Any) -> Any:
        for word in words:
            if type(value) is type(word) and value == word:
                return value
        close = nearest(value, names) if isinstance(value, str) else None
        raise WrongError(f"must be {expected}", hint=f"did you mean '{close}'?" if close else None)

    return read


def matching(pattern: str, expected: str, longest: int = 63) -> Callable[[Any], str]:
    """A text that a pattern matches as a whole."""
    compiled = re.compile(pattern)

    def read(value: Any) -> str:
        text = _text(value, expected)
        if len(text) > longest:
            raise WrongError(f"must have at most {longest} characters")
        if not compiled.fullmatch(text):
            raise WrongError(f"must be {expected}")
        return text

    return read


def folder(value: Any) -> str:
    """An absolute path, without what leads elsewhere."""
    text = line(value)
    if not text.startswith("/"):
        raise WrongError("must be an absolute path")
    if any(part in (".", "..") for part in text.split("/")):
        raise WrongError("must have no '.' or '..' in it")
    if len(text) > 4095:  # PATH_MAX of Linux
        raise WrongError("is longer than a path can be")
    return "/" + posixpath.normpath(text).lstrip("/")


def mount_path(value: Any) -> str:
    """Where something is mounted in a machine."""
    path = folder(value)
    if path == "/":
        raise WrongError("must be below '/'")
    return path


def address(value: Any) -> ipaddress.IPv4Address:
    """An IPv4 address."""
    text = _text(value, "an IPv4 address")
    try:
        return ipaddress.IPv4Address(text)
    except ValueError:
        raise WrongError("must be an IPv4 address", code="wrong-address") from None


def two_octets(value: Any) -> str:
    """The first two numbers of addresses: `10.100`."""
    if isinstance(value, float):
        raise WrongError("must be text", code="wrong-type", hint="put it in quotes, or YAML drops zeros at its end")
    parts = _text(value, "the first two numbers of addresses, such as 10.100").split(".")
    if len(parts) != 2 or not all(re.fullmatch(r"0|[1-9][0-9]{0,2}", part) and int(part) <= 255 for part in parts):
        raise WrongError("must be the first two numbers of addresses, such as 10.100")
    first = int(parts[0])
    if first in (0, 127) or first >= 224:
        raise WrongError("must be the beginning of addresses that machines can have, such as 10.100")
    return f"{parts[0]}.{parts[1]}"


def size(value: Any) -> str:
    """A number of bytes as Incus writes it: `8GiB`; a blank before the unit and KB are forgiven."""
    expected = "a size such as 8GiB"
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() <= 64:
        value = str(value)
    text = re.sub("([0-9]) ?(?=[A-Za-z])", r"\1", _text(value, expected)).replace("KB", "kB")
    if not bytes_of(text):  # nothing is no size to have either
        raise WrongError(f"must be {expected}", hint="units: kB, MB, GB, TB, KiB, MiB, GiB, TiB")
    return text


def size_in_bytes(value: Any) -> int:
    """A number of bytes, given as a number or as Incus writes it."""
    return bytes_of(size(value)) or 0


def reserve(*, of_memory: bool) -> Callable[[Any], str]:
    """What stays for the host: a share in percent, or a number of CPUs or a size."""
    expected = "from 1% to 99%, or a size such as 4GiB" if of_memory else "from 1% to 99%, or a number of CPUs"

    def read(value: Any) -> str:
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,3}%", value):
            if not 1 <= int(value[:-1]) <= 99:
                raise WrongError(f"must be {expected}")
            return f"{int(value[:-1])}%"
        if of_memory and isinstance(value, str):
            return size(value)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise WrongError(f"must be {expected}", code="wrong-type" if not isinstance(value, str) else "wrong-value")
        if not 0 < value < 1 << 62:  # which is not true of .nan either
            raise WrongError(f"must be {expected}")
        return str(int(value)) if of_memory else f"{value:g}"

    return read


def cron(value: Any) -> str:
    """A schedule: five fields of crontab(5)."""
    text = line(value)
    fields = text.lower().split()
    if len(fields) != 5:
        raise WrongError("must be five fields of cron: minute hour day month weekday", hint='such as "0 2 * * *"')
    names = ("minute", "hour", "day", "month", "weekday")
    for name, entry, (low, high, words) in zip(names, fields, _CRON, strict=True):
        if not all(_cron_part(part, low, high, words) for part in entry.split(",")):
            raise WrongError(f"has no {name} that cron knows", hint=f"numbers from {low} to {high}, *, a-b, */n")
    return " ".join(text.split())


def _cron_part(part: str, low: int, high: int, words: tuple[str, ...]) -> bool:
    span, slash, step = part.partition("/")
    if slash and (not re.fullmatch(r"[0-9]{1,3}", step) or int(step) == 0):
        return False
    if span == "*":
        return True
    ends = []
    for end in span.split("-"):
        if end in words:
            ends.append(words.index(end) + low)
        elif re.fullmatch(r"[0-9]{1,3}", end) and low <= int(end) <= high:
            ends.append(int(end))
        else:
            return False
    return len(ends) == 1 or (len(ends) == 2 and ends[0] <= ends[1])


def expiry(value: Any) -> str:
    """How long a snapshot is kept (30d, 24h, 60m), as Incus writes it, which has H and M for hours and minutes."""
    match = _EXPIRY.fullmatch(_text(value, "a time such as 30d, 24h or 60m"))
    if not match:
        raise WrongError("must be a time such as 30d, 24h or 60m")
    return match[1] + {"d": "d", "h": "H", "m": "M"}[match[2]]


def pci(value: Any) -> str:
    """A PCI address, in Incus' form: `0000:01:00.0`."""
    text = pci_address(_text(value, "a PCI address such as 0000:01:00.0"))
    if text is None:
        raise WrongError("must be a PCI address such as 0000:01:00.0")
    return text


def image_ref(value: Any) -> str:
    """An image of the store: `name`, `name@channel` or `name@version`."""
    text = _text(value, "the name of an image")
    if not _IMAGE.fullmatch(text) or len(text) > 255:
        raise WrongError("must be NAME, NAME@CHANNEL or NAME@VERSION", hint="an image of a remote is an os_image")
    return text


def remote_image(value: Any) -> str:
    """An image as Incus names it: `images:debian/13`, or an alias."""
    text = line(value)
    if not text or " " in text or len(text) > 255:
        raise WrongError("must be an image such as images:debian/13")
    return text


def config_text(value: Any) -> str:
    """A value of Incus' configuration as text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if (isinstance(value, int) and value.bit_length() <= 64) or (isinstance(value, float) and math.isfinite(value)):
        return str(value)
    text = _text(value, "text, a number, true or false")
    if not is_plain(text, lines=True):
        raise WrongError("must have no control characters")
    return text


def device_text(value: Any) -> str:
    """A value of a device as text."""
    text = config_text(value)
    if not is_plain(text):
        raise WrongError("must be one line without control characters")
    return text
