"""`anklume-launch` that kills itself at a request: `NUMBER before|after ARGUMENT...`.

Counted are the requests that change something, whichever thread makes them.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from typing import Any

from anklume_images.incus.client import Incus
from launcher.cli.main import main


def arm(number: int, *, after: bool) -> None:
    """Have the process killed before or after the request of that number is sent."""
    count = itertools.count(1)
    send, upload = Incus.send, Incus.upload

    def counted(real: Any) -> Any:
        def call(self: Incus, *arguments: Any, **options: Any) -> Any:
            mine = next(count)
            if mine == number and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            answer = real(self, *arguments, **options)
            if mine == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return answer

        return call

    Incus.send = counted(send)  # type: ignore[method-assign]
    Incus.upload = counted(upload)  # type: ignore[method-assign]


if __name__ == "__main__":
    arm(int(sys.argv[1]), after=sys.argv[2] == "after")
    main(sys.argv[3:])
