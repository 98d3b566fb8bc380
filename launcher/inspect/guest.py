"""Commands and HTTP requests made inside a machine, so that they need no route to it; none goes through a shell.

An exception to that is a request with a secret header: a fixed line of shell hands it to curl in a pipe, as arguments
of a process are everybody's to read.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anklume_images.errors import IncusError
from anklume_images.incus.client import Result

if TYPE_CHECKING:
    import re
    from collections.abc import Mapping, Sequence

    from anklume_images.incus.client import Incus
    from launcher.observe.instances import InstanceState

__all__ = ["NOT_FOUND", "TIMED_OUT", "Answer", "Guest"]

NOT_FOUND, TIMED_OUT = 127, 124  # exit codes, as shells and coreutils have them
_JOURNAL_LINES = 1000
_GRACE = 5.0  # seconds by which what ends itself may be late
_PIPE = 'printf %s "$CURL_CONFIG" | exec curl --config - "$@"'


@dataclass(frozen=True)
class Answer:
    """What came of a request: curl's exit code, and if that is 0 the status and text; `error` is curl's own word."""

    code: int
    status: int = 0
    text: str = ""
    error: str = ""
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether the server answered with 200."""
        return self.code == 0 and self.status == 200

    def json(self) -> Any:
        """The text as JSON; None when it is none."""
        try:
            return json.loads(self.text)
        except ValueError:
            return None

    def said(self) -> str:
        """In a few words, for people."""
        if self.code == NOT_FOUND:
            return "the image has no curl"
        if self.code:
            return self.error or f"curl ended with {self.code}"
        start = " ".join(self.text.split())[:120]
        return f"HTTP {self.status}" + (f": {start}" if self.status != 200 and start else "")


class Guest:
    """One running instance, as seen from within."""

    def __init__(self, incus: Incus, seen: InstanceState) -> None:
        self._incus = incus.within(seen.project)
        self._name = seen.instance

    def run(self, *command: str, timeout: float = 30.0, environment: Mapping[str, str] | None = None) -> Result:
        """Run a command; a program that is not there is exit code 127, one that does not end in time 124."""
        try:
            return self._incus.execute(self._name, command, timeout=timeout, environment=environment)
        except IncusError as error:
            if "command not found" in error.message.lower():
                return Result(NOT_FOUND, b"", f"{command[0]}: not found".encode())
            if "did not end within" in error.message:
                return Result(TIMED_OUT, b"", f"{command[0]} did not end within {timeout:g} s".encode())
            raise

    def journal(self, unit: str, *patterns: re.Pattern[str]) -> tuple[str, ...]:
        """The last lines of a unit since it was last started, or those with one of the patterns in them.

        Older ones tell of what may be over.
        """
        show = self.run("systemctl", "show", unit, "--property", "InvocationID", "--value")
        invocation = show.stdout.decode(errors="replace").strip()
        which = [f"_SYSTEMD_INVOCATION_ID={invocation}"] if invocation else ["--boot", "--unit", unit]
        lines = ["--lines", str(_JOURNAL_LINES), "--output", "cat", "--no-pager", "--quiet"]
        if patterns:
            lines += ["--grep", "|".join(pattern.pattern for pattern in patterns)]
        return tuple(self.run("journalctl", *lines, *which).stdout.decode(errors="replace").splitlines())

    def bounded(self, command: Sequence[str], seconds: int) -> Result:
        """Run a command that is ended inside too when its time is over."""
        return self.run("timeout", "--kill-after=1", str(seconds), *command, timeout=seconds + _GRACE)

    def request(self, url: str, body: Any = None, *, bearer: str = "", seconds: int = 10) -> Answer:
        """GET, or POST of JSON, by the instance's own curl; `bearer` is a key that the server wants."""
        options = ["--silent", "--show-error", "--max-time", str(seconds), "--noproxy", "*", "--globoff"]
        options += ["--write-out", "\n%{http_code}"]
        if body is not None:
            options += ["--header", "Content-Type: application/json", "--data-raw", json.dumps(body)]
        options += ["--url", url]
        begin = time.monotonic()
        if bearer:
            escaped = f"Authorization: Bearer {bearer}".replace("\\", "\\\\").replace('"', '\\"')
            environment = {"CURL_CONFIG": f'header = "{escaped}"\n'}
            command = ["sh", "-c", _PIPE, "curl", *options]
            result = self.run(*command, timeout=seconds + _GRACE, environment=environment)
        else:
            result = self.run("curl", *options, timeout=seconds + _GRACE)
        took = time.monotonic() - begin
        text, _, status = result.stdout.decode(errors="replace").rpartition("\n")
        error = result.stderr.decode(errors="replace").strip()
        if result.code or not status.isdigit():
            return Answer(result.code or 1, error=error, seconds=took)
        return Answer(0, int(status), text, seconds=took)
