"""Actions in processes of their own: beside each other, or killed at a line of their code."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anklume_images

if TYPE_CHECKING:
    from collections.abc import Callable

_CODE = str(Path(anklume_images.__file__).parent)


def killed_at(line: int, action: Callable[[], object]) -> bool:
    """Run an action and kill it before so many lines of our code are done; False when it ended before that."""
    child = os.fork()
    if child == 0:
        try:
            _count_lines(line)
            action()
        finally:
            sys.settrace(None)
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL


def started(action: Callable[[], object]) -> int:
    """Run an action in a process of its own, which ends well unless the action fails; its id is for `waitpid`."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        action()
        status = 0
    finally:
        os._exit(status)


def _count_lines(line: int) -> None:
    left = line

    def trace(frame: Any, event: str, _argument: object) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.startswith(_CODE):
            return None
        if event == "line":
            left -= 1
            if left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
