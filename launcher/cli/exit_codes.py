"""The codes that single commands of anklume-launch end with, beside or in place of those of every command."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

from anklume_images.cli.exit_codes import ANY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anklume_images.cli.exit_codes import Codes

__all__ = ["EXIT_CODES"]

_MUST_ASK = "wrong usage or an invalid file; or it has to ask, and there is no terminal"
_TWICE = "the file gives one GPU to two machines"
_REFUSED = f"{_TWICE}, another instance has the GPU, or an image or a model was revoked"
_TODO = "there is something to do"

EXIT_CODES: Mapping[str, Codes] = MappingProxyType(
    {
        "apply": {
            "2": _MUST_ASK,
            "3": f"`--plan`: {_TODO}",
            "4": f"{_REFUSED}; or `--prune` would remove a protected machine",
        },
        "chat": {"4": _TWICE},
        "destroy": {
            "2": _MUST_ASK,
            "3": f"`--plan`: {_TODO}",
            "4": f"a machine is protected from being deleted, or {_TWICE}",
        },
        "doctor": {"1": "it found an error, or the command failed", "4": _TWICE},
        "gpu": {"4": f"{_TWICE}, or another instance has the GPU"},
        "lock": {"4": _TWICE},
        "logs": {"4": _TWICE},
        "plan": {"3": _TODO, "4": _REFUSED},
        "shell": {"4": _TWICE, ANY: "the code of the command in the machine"},
        "status": {
            "1": "a machine does not run, lacks its address or is not healthy; or the command failed",
            "4": _TWICE,
        },
        "try": {"4": _REFUSED, ANY: "the code of the command that it ran"},
        "verify": {"1": "a check failed, or the command did", "4": _TWICE},
    }
)
