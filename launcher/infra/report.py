"""What is wrong with a file, gathered while it is read: errors, warnings, and notices for the plan."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from anklume_images.nearest import nearest
from launcher.gpu_policy.refusals import FileCode

if TYPE_CHECKING:
    from collections.abc import Collection

    from anklume_images.errors import Problem
    from anklume_images.specs.yamlfile import KeyPath
    from launcher.gpu_policy.refusals import Code as GpuCode
    from launcher.infra.document import Source

__all__ = ["Code", "Report", "is_plain", "shown"]

Code = Literal[
    # the file as such
    "wrong-type",
    "wrong-value",
    "changed-by-yaml",
    "wrong-name",
    "unknown-key",
    "missing-key",
    "duplicate-key",
    "file-ignored",
    # addresses
    "wrong-address",
    "ip-outside-subnet",
    "ip-is-gateway",
    "ip-reserved",
    "duplicate-ip",
    "duplicate-subnet-id",
    "zone-out-of-range",
    "zone-full",
    "domain-full",
    "public-subnet",
    "subnet-overlaps-host",
    "subnet-shadows-route",
    # names and references
    "duplicate-machine",
    "reserved-name",
    "same-network-name",
    "unknown-profile",
    "unknown-end",
    "unknown-consumer",
    "disabled-end",
    "protocol-of-all",
    # machines
    "unknown-incus-key",
    "privileged",
    "container-in-untrusted",
    "firewall-not-made",
    # mounts and devices
    "duplicate-path",
    "duplicate-device",
    "volume-differs",
    # AI access
    "ai-access-default",
    "ai-access-domain",
    "ai-access-policies",
    # GPUs
    FileCode,
    "gpu-shared",
    "gpu-off",
    "gpu-driver",
    # images
    "unknown-image",
    "role-without-image",
    "roles-without-common-image",
    "several-images",
    "image-without-role",
    "image-not-for-gpu",
    "image-not-for-vm",
    "broken-spec",
    # variables
    "unknown-variable",
    "wrong-variable",
    "empty-variable",
    "unused-variables",
    "ansible-expression",
    "environment-not-of-services",
]

_BUDGET = 20_000  # words looked at for "did you mean", over a whole file: a hostile one must not take minutes


@dataclass
class Report:
    """Gathers what is found in one source.

    Errors about images and variables are apart: with these alone, machines and addresses are known all the same.
    `wrong` is where something stands that was refused when it was read.
    """

    source: Source
    errors: list[Problem] = field(default_factory=list)
    image_errors: list[Problem] = field(default_factory=list)
    warnings: list[Problem] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    foreign: dict[str, None] = field(default_factory=dict)
    wrong: set[KeyPath] = field(default_factory=set)
    _looked_at: int = 0

    def error(
        self, path: KeyPath, code: Code | GpuCode, message: str, *, key: bool = False, hint: str | None = None
    ) -> None:
        """Something that must be put right."""
        self.errors.append(self.source.problem(path, code, message, key=key, hint=hint))

    def image_error(self, path: KeyPath, code: Code, message: str, *, hint: str | None = None) -> None:
        """Something about an image or its variables that must be put right."""
        self.image_errors.append(self.source.problem(path, code, message, hint=hint))

    def warn(self, path: KeyPath, code: Code, message: str, *, key: bool = False, hint: str | None = None) -> None:
        """Something that a person should know and may want."""
        self.warnings.append(self.source.problem(path, code, message, key=key, hint=hint))

    def told(self, path: KeyPath, value: object, *, key: bool = False) -> str:
        """The value at `path` for a message, with what was written where YAML made something else of it."""
        odd = self.source.scalar(path, key=key)
        return f"{shown(value)} ({odd})" if odd else shown(value)

    def note_foreign_keys(self) -> None:
        """One notice for all keys of the framework that do nothing here."""
        if self.foreign:
            self.notices.append(f"not used here, as they belong to the anklume framework: {', '.join(self.foreign)}")

    def did_you_mean(self, word: object, known: Collection[str]) -> str | None:
        """A hint with the known word most like `word`."""
        self._looked_at += len(known)
        if self._looked_at > _BUDGET:
            return None
        close = nearest(word, known)
        return f"did you mean {shown(close)}?" if close else None


def is_plain(text: str, *, lines: bool = False) -> bool:
    """Whether a text has no control characters; with `lines`, line ends and tabs may be in it."""
    allowed = "\n\t" if lines else ""
    return text.isprintable() or all(
        character in allowed or unicodedata.category(character) not in ("Cc", "Cs", "Zl", "Zp") for character in text
    )


def shown(value: object) -> str:
    """A value for a message: short, and without anything that a terminal would act upon."""
    if isinstance(value, (dict, list)):
        return ("a" if value else "an empty") + (" mapping" if isinstance(value, dict) else " list")
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "nothing"}[value]
    if isinstance(value, int) and value.bit_length() > 200:
        return "a very large number"  # Python would not even write it
    text = str(value)
    cut = text if len(text) <= 60 else f"{text[:57]}..."
    if isinstance(value, str):
        return f"'{cut}'" if cut.isprintable() else ascii(cut)
    return cut
