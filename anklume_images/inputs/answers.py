"""What an address said when it was asked, what is wrong when it did not give the file, and what to do about that."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anklume_images.inputs.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["AgainError", "Attempt", "Refusal", "StoppedError", "TooLargeRefusal", "Why", "advice", "why_of_text"]


class Why(enum.Enum):
    """What stands between this host and a file; the value is what to do about it."""

    OTHER = "check the network"
    LOGIN = (
        "the server wants a user and a password: put them into its address, apt's auth.conf (for http with the scheme: "
        "machine http://HOST) or ~/.netrc, readable for you"
    )
    FORBIDDEN = "the server does not let this host or user have it: check the address, and the user if it has one"
    PROXY_LOGIN = "the proxy wants a user and a password: put them into its address, http://USER:PASSWORD@HOST:PORT"
    CERTIFICATE = (
        "the server's certificate is not trusted: add its authority to this system's (update-ca-certificates), or name "
        "a file of authorities in SSL_CERT_FILE"
    )
    CHANGED = "the server has other bytes than were locked: find out why before you lock anew"
    NAME = (
        "the server's name is not found: where only a proxy knows it, name the proxy in http_proxy and https_proxy, in "
        "apt's Acquire::http::Proxy, or in pip's configuration (proxy)"
    )
    PROXY = (
        "check the proxy: it is set in http_proxy, https_proxy or all_proxy, in apt's Acquire::http::Proxy, or in "
        "pip's configuration (proxy)"
    )


# The words of apt and its GnuTLS or OpenSSL, and of uv.
_WORDS = (
    (Why.PROXY_LOGIN, r"407 +Proxy Authentication Required|[Pp]roxy authorization required"),
    (Why.LOGIN, r"401 +Unauthorized"),
    (Why.FORBIDDEN, r"403 +Forbidden"),
    (Why.CERTIFICATE, r"[Cc]ertificate verif|certificate is NOT trusted|invalid peer certificate|UnknownIssuer"),
    (Why.NAME, r"Could not resolve|Temporary failure resolving|dns error|failed to lookup address"),
    (Why.PROXY, r"Unsupported proxy|HTTP proxy|[Pp]roxy (?:connect|error)|tunneling socket"),
)


@dataclass(frozen=True)
class Attempt:
    """What one address said; `gone` when it answered that it does not have the file (any more)."""

    url: str
    message: str
    gone: bool = False
    why: Why = Why.OTHER

    def __str__(self) -> str:
        return f"{redact(self.url)}: {self.message}"


class Refusal(Exception):  # noqa: N818 - an answer, not an error of ours
    """Asking this address again is no use; `answered` when it was the server that said so."""

    def __init__(self, message: str, *, gone: bool = False, answered: bool = False, why: Why = Why.OTHER) -> None:
        super().__init__(message)
        self.message = message
        self.gone = gone
        self.answered = answered
        self.why = why

    def of(self, url: str) -> Attempt:
        """The refusal as what this address said."""
        return Attempt(url, self.message, gone=self.gone, why=self.why)


class TooLargeRefusal(Refusal):
    """More than was to be read."""


class AgainError(Exception):
    """It may work later: after `wait` seconds where the server said so; `silent` when no answer came at all."""

    def __init__(
        self,
        message: str,
        *,
        wait: float | None = None,
        silent: bool = False,
        answered: bool = False,
        why: Why = Why.OTHER,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.wait = wait
        self.silent = silent
        self.answered = answered
        self.why = why


class StoppedError(Exception):
    """The work was called off while this thread was at it."""


def advice(reasons: Iterable[Why]) -> list[str]:
    """What to do about them, each once; "check the network" only where nothing better is known."""
    distinct = dict.fromkeys(why for why in reasons)
    return [why.value for why in distinct if why is not Why.OTHER] or [Why.OTHER.value]


def why_of_text(text: str) -> Why:
    """What stands in the way, by the words of another program."""
    return next((why for why, words in _WORDS if re.search(words, text)), Why.OTHER)
