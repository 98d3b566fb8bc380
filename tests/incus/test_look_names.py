"""A machine that is called like its domain is found all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.support.launching import Launcher

FILE = """\
domains:
  box:
    machines:
      other: {image: tiny, ephemeral: true}
      box: {image: tiny, ephemeral: true}
"""


def test_machine_of_the_same_name_as_its_domain(tiny: Launcher) -> None:
    """`shell` and `logs` took both machines of the domain and ended in a traceback."""
    tiny.write(FILE)
    tiny("apply")
    said = tiny("shell", "box", "--", "cat", "/proc/sys/kernel/hostname").stdout
    assert said.strip() == "box"
