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
    from collections.abc import Callable, Mapping, Sequence

    from anklume_images.incus.client import Incus
    from launcher.observe.instances import InstanceState

__all__ = ["NOT_FOUND", "TIMED_OUT", "Answer", "Guest"]

NOT_FOUND, TIMED_OUT = 127, 124  # exit codes, as shells and coreutils have them
_JOURNAL_LINES = 1000
_GRACE = 5.0  # seconds by which what ends itself may be late
_CONNECT_SECONDS = "10"
_PIPE = 'printf %s "$CURL_CONFIG" | exec curl --config - "$@"'
_BESIDE = 'exec curl --config /dev/fd/3 "$@" 3<<END\n$CURL_CONFIG\nEND\n'  # standard input is the body's


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
        options = ["--output", "cat", "--no-pager", "--quiet"]
        if patterns:
            # Not with --lines, which turns their order around.
            options += ["--case-sensitive=no", "--grep", "|".join(pattern.pattern for pattern in patterns)]
        else:
            options += ["--lines", str(_JOURNAL_LINES)]
        said = self.run("journalctl", *options, *which).stdout.decode(errors="replace")
        return tuple(said.splitlines()[-_JOURNAL_LINES:])

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
            environment = _secret(bearer)
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

    def stream(self, url: str, body: Any, receive: Callable[[bytes], None], *, bearer: str = "") -> Answer:
        """POST JSON, and hand on the answer to `receive` as it comes; the `text` of what is returned is empty.

        However long it takes: interrupting this ends the request.
        """
        from anklume_images.incus.streamed import run_streamed

        options = ["--silent", "--show-error", "--no-buffer", "--connect-timeout", _CONNECT_SECONDS, "--noproxy", "*"]
        options += ["--globoff", "--write-out", "%{stderr}\n%{http_code}"]
        options += ["--header", "Content-Type: application/json", "--data-binary", "@-", "--url", url]
        command = ["sh", "-c", _BESIDE, "curl", *options] if bearer else ["curl", *options]
        begin = time.monotonic()
        result = run_streamed(
            self._incus, self._name, command, json.dumps(body).encode(), receive, _secret(bearer) if bearer else None
        )
        took = time.monotonic() - begin
        error, _, status = result.stderr.decode(errors="replace").rpartition("\n")
        if result.code or not status.isdigit():
            return Answer(result.code or 1, error=error.strip(), seconds=took)
        return Answer(0, int(status), seconds=took)


def _secret(bearer: str) -> dict[str, str]:
    """The environment by which the shell is given a header for curl's configuration."""
    escaped = f"Authorization: Bearer {bearer}".replace("\\", "\\\\").replace('"', '\\"')
    return {"CURL_CONFIG": f'header = "{escaped}"\n'}
