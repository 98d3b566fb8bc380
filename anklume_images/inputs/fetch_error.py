"""The error of a fetch: every file, what each of its addresses said, and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from anklume_images.errors import FetchError
from anklume_images.inputs.answers import Why, advice

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from anklume_images.inputs.access import Access
    from anklume_images.inputs.answers import Attempt
    from anklume_images.inputs.lockfile import LockedFile
    from anklume_images.inputs.transport import Transport

__all__ = ["Addresses", "fetch_error"]

_LISTED = 20  # files whose every address is listed


class Addresses(Protocol):
    """Where files are had from: mirrors of archives, or another store."""

    def urls(
        self, file: LockedFile, timestamp: str | None, *, transport: Transport, failures: list[Attempt]
    ) -> Iterator[str]:
        """The addresses of a file, the best first; what could not be asked for one goes into `failures`."""

    def access_of(self, file: LockedFile) -> Access:
        """How the server of a file is reached."""

    def hint(self, archive: str) -> str:
        """What to do where no address of an archive's file is known."""

    def passed_over(self, archive: str) -> list[str]:
        """A line for each address that was not asked, and why."""


def fetch_error(files: list[LockedFile], failed: Mapping[str, list[Attempt]], sources: Addresses) -> FetchError:
    """The error for `files`, of which `failed` has what each address said, by sha256."""
    missing = tuple(file for file in files if failed[file.sha256] and all(each.gone for each in failed[file.sha256]))
    unreachable = tuple(file for file in files if file not in missing)
    changed = tuple(file for file in files if any(each.why is Why.CHANGED for each in failed[file.sha256]))
    lines = [f"{len(files)} {'file' if len(files) == 1 else 'files'} could not be fetched"]
    for file in files[:_LISTED]:
        lines.append(f"  {file.path} ({file.archive})")
        lines.extend(f"    {attempt}" for attempt in failed[file.sha256])
        if not failed[file.sha256]:
            lines.append("    no mirror is known")
    if len(files) > _LISTED:
        lines.append(f"  and {len(files) - _LISTED} more")
    for archive in dict.fromkeys(file.archive for file in files):
        lines.extend(line for line in sources.passed_over(archive) if line not in lines)
    hints = [sources.hint(archive) for archive in sorted({file.archive for file in files if not failed[file.sha256]})]
    if missing:
        hints.append("mirrors drop superseded files: lock anew (--refresh-missing), or set 'snapshot' in the settings")
    elif not hints:
        reasons = [each.why for file in unreachable for each in failed[file.sha256] if not each.gone]
        hints += [
            *advice(reasons),
            "then run it again: what has arrived is kept",
            sources.hint(files[0].archive),
        ]
    return FetchError(
        "\n".join(lines),
        hint="; ".join(hints),
        missing=tuple(file.path for file in missing),
        unreachable=tuple(file.path for file in unreachable),
        changed=tuple(file.path for file in changed),
    )
