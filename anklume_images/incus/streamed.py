"""A program without a terminal inside an instance, whose output is handed on while it runs.

API: POST /1.0/instances/NAME/exec without `interactive`; the sockets `0`, `1` and `2` are standard input, output and
error, an empty text message is the end of each, and `control` takes signals as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from typing import TYPE_CHECKING

from anklume_images.incus.client import Result
from anklume_images.incus.websocket import open_websocket

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from websockets.asyncio.client import ClientConnection

    from anklume_images.incus.client import Incus

__all__ = ["run_streamed"]

_PIECE = 1 << 16


def run_streamed(
    incus: Incus,
    name: str,
    command: Sequence[str],
    given: bytes,
    receive: Callable[[bytes], None],
    environment: Mapping[str, str] | None = None,
) -> Result:
    """Run a command in a running instance with `given` as its input; `receive` gets its output as it comes.

    The result's `stdout` is empty. The program is killed when this is interrupted or `receive` raises.
    """
    body = {
        "command": list(command),
        "environment": dict(environment or {}),
        "interactive": False,
        "wait-for-websocket": True,
    }
    operation = incus.begin(f"instances/{name}/exec", body)
    stderr = asyncio.run(_connect(incus, operation["id"], operation["metadata"]["fds"], given, receive))
    return Result(int(incus.wait(operation["id"])["return"]), b"", stderr)


async def _connect(
    incus: Incus, operation: str, secrets: Mapping[str, str], given: bytes, receive: Callable[[bytes], None]
) -> bytes:
    async with (
        open_websocket(incus, operation, secrets["control"]) as control,
        open_websocket(incus, operation, secrets["0"]) as stdin,
        open_websocket(incus, operation, secrets["1"]) as stdout,
        open_websocket(incus, operation, secrets["2"]) as stderr,
    ):
        said = bytearray()
        others = [asyncio.create_task(_send(stdin, given)), asyncio.create_task(_pass_on(stderr, said.extend))]
        try:
            await _pass_on(stdout, receive)
            await others[1]
        except BaseException:
            with contextlib.suppress(Exception):  # the connection may be what is broken
                await control.send(json.dumps({"command": "signal", "signal": int(signal.SIGKILL)}))
            raise
        finally:
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
        return bytes(said)


async def _send(stdin: ClientConnection, given: bytes) -> None:
    from websockets.exceptions import ConnectionClosed

    with contextlib.suppress(ConnectionClosed):  # the program has ended without reading all of it
        for start in range(0, len(given), _PIECE):
            await stdin.send(given[start : start + _PIECE])
        await stdin.send("")


async def _pass_on(source: ClientConnection, receive: Callable[[bytes], object]) -> None:
    from websockets.exceptions import ConnectionClosed

    with contextlib.suppress(ConnectionClosed):  # the program has ended; its exit code is the operation's
        async for message in source:
            if not message:
                return
            receive(message.encode() if isinstance(message, str) else message)
