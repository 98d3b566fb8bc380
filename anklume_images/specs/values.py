"""The values of variables: what each type takes, and how Incus' configuration holds it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from anklume_images.specs.listen import ListenError, hosts, listen

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ValueProblem", "VariableType", "value_problem", "value_text"]

VariableType = Literal[
    "string",
    "port",
    "bool",
    "url",
    "list",
    "integer",
    "listen",
    "hosts",
    "email",
    "urls",
    "environment",
    "certificates",
]

_HIGHEST_PORT = 65535
_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----")
_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
# As a sign-in page takes it (HTML standard, "valid e-mail address"); `admin@localhost` is one.
_EMAIL = re.compile(rf"[A-Za-z0-9.!#$%&'*+/=?^_`{{|}}~-]+@{_LABEL}(?:\.{_LABEL})*")


@dataclass(frozen=True)
class ValueProblem:
    """What is wrong with a value, as the end of a sentence about the variable, and what to write."""

    message: str
    hint: str | None = None


def value_problem(kind: VariableType, value: object, max_bytes: int | None = None) -> ValueProblem | None:
    """What is wrong with a variable's value, or None; values are data as YAML gives it.

    `max_bytes` is the most that its text may have in UTF-8. The value itself is in no answer.
    """
    right, description = _TYPES[kind]
    try:
        if right(value):
            return _too_long(value, max_bytes)
    except ListenError as error:
        return ValueProblem(str(error), error.hint)
    hint = None
    if isinstance(value, str) and kind in ("port", "integer", "bool"):
        hint = "without quotes"
    elif type(value) is int and kind == "listen" and 1 <= value <= _HIGHEST_PORT:
        hint = f'a port alone is ":{value}"'
    elif isinstance(value, (int, float)) and kind in ("string", "url", "listen", "hosts"):
        hint = "put it in quotes"
    return ValueProblem(f"must be {description}", hint)


def _too_long(value: object, max_bytes: int | None) -> ValueProblem | None:
    size = len(value_text(value).encode("utf-8", errors="surrogatepass"))
    if max_bytes is None or size <= max_bytes:
        return None
    return ValueProblem(f"must have at most {max_bytes} bytes in UTF-8, and has {size}")


def _is_line(value: object) -> bool:
    return isinstance(value, str) and not re.search(r"[\0\r\n]", value)


def _is_url(value: object) -> bool:
    if not isinstance(value, str) or re.search(r"[\s\0]", value):
        return False
    try:
        parts = urlsplit(value)
        _ = parts.port
    except ValueError:
        return False
    return value == "" or (parts.scheme in ("http", "https") and bool(parts.hostname))


def _is_item(item: object) -> bool:
    return isinstance(item, str) and item != "" and not re.search(r"[\s\0]", item)


def _is_setting(name: object, value: object) -> bool:
    return isinstance(name, str) and bool(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name)) and _is_line(value)


def _are_certificates(text: object) -> bool:
    """PEM (RFC 7468) with certificates alone: a private key has no business in a setting that everybody may read."""
    if not isinstance(text, str) or _CERTIFICATE.sub("", text).strip():
        return False
    if not text.strip():
        return True
    from cryptography.x509 import load_pem_x509_certificates  # not at every start: it takes 0.1 s

    try:
        return bool(load_pem_x509_certificates(text.encode()))
    except ValueError:
        return False


_TYPES: dict[VariableType, tuple[Callable[[object], bool], str]] = {
    "string": (_is_line, "a text of one line"),
    "port": (
        lambda value: isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _HIGHEST_PORT,
        f"a number from 1 to {_HIGHEST_PORT}",
    ),
    "integer": (lambda value: type(value) is int, "a whole number"),
    "bool": (lambda value: type(value) is bool, "true or false"),
    "url": (_is_url, "an http or https address, or empty"),
    "list": (
        lambda value: isinstance(value, (list, tuple)) and all(_is_item(item) for item in value),
        "a list of words without blanks",
    ),
    "email": (
        lambda value: isinstance(value, str) and (value == "" or _EMAIL.fullmatch(value) is not None),
        "an e-mail address such as ada@example.org",
    ),
    "listen": (
        lambda value: isinstance(value, str) and bool(listen(value, 1)),
        "a host, a port or both, such as 0.0.0.0:8080",
    ),
    "hosts": (
        lambda value: isinstance(value, str) and bool(hosts(value, 1)),
        "addresses or names with commas between",
    ),
    "urls": (
        lambda value: isinstance(value, (list, tuple)) and all(_is_item(item) and _is_url(item) for item in value),
        "a list of http or https addresses",
    ),
    "environment": (
        lambda value: isinstance(value, dict) and all(_is_setting(*item) for item in value.items()),
        "a mapping of names (letters, digits, _) to texts of one line",
    ),
    "certificates": (_are_certificates, "certificates in PEM, and nothing else"),
}


def value_text(value: object) -> str:
    """A variable's value as Incus config holds it.

    true/false, digits, text; a list with blanks between; a mapping as lines of `NAME=text`.
    """
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "".join(f"{name}={text}\n" for name, text in value.items())
    if isinstance(value, (list, tuple)):
        return " ".join(str(item) for item in value)
    return str(value)
