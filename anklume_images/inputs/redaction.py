"""What may be told of an address: everything that leaves this program, for a person, a file or a process, passes here.

User, password, query and fragment of a URL can each be a credential; scheme, host, port and path say enough.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit, urlunsplit

__all__ = ["redact", "redact_text"]

_UNREADABLE = "(an address that cannot be read)"
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>`]+")
_AFTER = re.compile(r"[).,;:\]}]*$")  # punctuation of the sentence that names the URL


def redact(url: str) -> str:
    """The URL without user, password, query and fragment: any of them can be a credential."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # ValueError where a password with a slash or a number sign ended up in place of a port
    except ValueError:
        return _UNREADABLE
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def redact_text(text: str) -> str:
    """A text in another program's words, each URL in it redacted."""
    return _URL.sub(_redacted, text)


def _redacted(match: re.Match[str]) -> str:
    url = match[0]
    end = _AFTER.search(url)
    kept = url[: end.start()] if end else url
    return redact(kept) + url[len(kept) :]
