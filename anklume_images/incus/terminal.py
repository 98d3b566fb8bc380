"""A program with a terminal inside an instance, over the API's websockets, connected to the caller's terminal.

API: POST /1.0/instances/NAME/exec with `interactive`; socket `0` carries both directions, `control` window sizes as
JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import termios
import tty
from typing import TYPE_CHECKING

from anklume_images.incus.websocket import open_websocket

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from websockets.asyncio.client import ClientConnection

    from anklume_images.incus.client import Incus

__all__ = ["run_in_terminal"]

_PIECE = 1 << 16


def run_in_terminal(
    incus: Incus, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None
) -> int:
    """Run a command in a running instance with the terminal at descriptors 0 and 1; return its exit code."""
    columns, lines = os.get_terminal_size(0)
    body = {
        "command": list(command),
        "environment": dict(environment or {}),
        "interactive": True,
        "wait-for-websocket": True,
        "width": columns,
        "height": lines,
    }
    operation = incus.begin(f"instances/{name}/exec", body)
    asyncio.run(_connect(incus, operation["id"], operation["metadata"]["fds"]))
    return int(incus.wait(operation["id"])["return"])


async def _connect(incus: Incus, operation: str, secrets: Mapping[str, str]) -> None:
    async with (
        open_websocket(incus, operation, secrets["0"]) as data,
        open_websocket(incus, operation, secrets["control"]) as control,
    ):
        with _raw_terminal():
            await _relay(data, control)


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
    before = termios.tcgetattr(0)
    try:
        tty.setraw(0, termios.TCSANOW)  # what was typed ahead is kept
        yield
    finally:
        termios.tcsetattr(0, termios.TCSANOW, before)  # draining could wait for ever for a reader


async def _relay(data: ClientConnection, control: ClientConnection) -> None:
    """Pass on what is typed, what is shown and how large the window is, until the program's output ends."""
    from websockets.exceptions import ConnectionClosed

    loop = asyncio.get_running_loop()
    resized = asyncio.Event()
    loop.add_signal_handler(signal.SIGWINCH, resized.set)
    senders = [asyncio.create_task(_send_typed(data)), asyncio.create_task(_send_sizes(control, resized))]
    try:
        await _show(data)
    except ConnectionClosed:
        pass  # the program has ended; its exit code is the operation's
    finally:
        loop.remove_signal_handler(signal.SIGWINCH)
        for sender in senders:
            sender.cancel()
        await asyncio.gather(*senders, return_exceptions=True)


async def _show(data: ClientConnection) -> None:
    async for message in data:
        if not message:  # an empty message is the end of the output
            return
        await asyncio.to_thread(_write, message.encode() if isinstance(message, str) else message)


def _write(piece: bytes) -> None:
    while piece:
        piece = piece[os.write(1, piece) :]


async def _send_typed(data: ClientConnection) -> None:
    while piece := await _typed():
        await data.send(piece)


async def _typed() -> bytes:
    """What is typed next; nothing when the terminal is gone."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(0, ready.set)
    try:
        await ready.wait()
        return os.read(0, _PIECE)
    finally:
        loop.remove_reader(0)


async def _send_sizes(control: ClientConnection, resized: asyncio.Event) -> None:
    while await resized.wait():
        resized.clear()
        columns, lines = os.get_terminal_size(0)
        size = {"width": str(columns), "height": str(lines)}
        await control.send(json.dumps({"command": "window-resize", "args": size}))
