"""What a spec says, checked and frozen: one `Spec` per image, variants included, and the hash of what it asks for.

`loader.py` makes these out of `spec.yml`; everything behind it reads only these.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from anklume_images.architectures import ARCHITECTURES
from anklume_images.canonical import canonical

if TYPE_CHECKING:
    from pathlib import Path

    from anklume_images.specs.keys import (
        DebianInputs,
        Healthcheck,
        PythonInputs,
        ReleaseInput,
        StaticFile,
        Template,
        Variable,
        VersionRule,
        Volume,
    )

__all__ = ["Spec", "request_of"]


@dataclass(frozen=True)
class Spec:
    """One image: a spec, or one variant of it.

    `distribution` and `release` are None in a child until the catalog resolves them from its root. `contents` holds
    the text of every file of the folder that the spec names, by its path there. `gpus` says by makers of cards how the
    image computes on them; None where the spec does not say.
    """

    name: str
    folder: Path
    variant: str | None
    description: str
    version: VersionRule
    base: str | None
    distribution: str | None
    release: str | None
    default: bool
    provides: tuple[str, ...] = ()
    gpus: dict[str, tuple[str, ...]] | None = None
    tags: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ARCHITECTURES
    archives: dict[str, str] = field(default_factory=dict)
    debian: DebianInputs | None = None
    python: PythonInputs | None = None
    release_files: tuple[ReleaseInput, ...] = ()
    files: tuple[StaticFile, ...] = ()
    templates: tuple[Template, ...] = ()
    variables: dict[str, Variable] = field(default_factory=dict)
    volumes: tuple[Volume, ...] = ()
    healthcheck: Healthcheck | None = None
    ports: tuple[int, ...] = ()
    contents: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def spec_file(self) -> Path:
        """The file that a person wrote."""
        return self.folder / "spec.yml"

    @property
    def lock_file(self) -> Path:
        """Where the lock of this image or variant is kept."""
        return self.folder / ("lock.json" if self.variant is None else f"lock-{self.variant}.json")

    @property
    def packages(self) -> tuple[str, ...]:
        """The Debian packages that this image itself adds."""
        return self.debian.packages if self.debian else ()

    def document(self) -> dict[str, Any]:
        """Everything the spec says as plain data, independent of where its folder is; `gpus` only where it says it."""
        plain: dict[str, Any] = {}
        for name, value in vars(self).items():
            if name != "folder" and (name, value) != ("gpus", None):
                plain[name] = _plain(value)
        return plain


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def request_of(spec: Spec, arch: str, base_request: str | None) -> str:
    """The sha256 of what a lock answers to: the inputs asked for, on one architecture, upon a base's own request."""
    python = None
    if spec.python is not None:
        python = spec.python.model_dump(mode="json")
        if spec.python.requirements is not None:
            python["requirements"] = spec.contents[spec.python.requirements]
    files = [
        {
            "name": item.name,
            "archive": item.archive,
            "path": item.path[arch],
            "checksums": item.checksums,
            "sha256": item.sha256.get(arch),
            "size": item.size.get(arch),
        }
        for item in spec.release_files
    ]
    used = {item.archive for item in spec.release_files}
    used |= {suite.archive for suite in spec.debian.suites} if spec.debian else set()
    document = {
        "schema": 1,
        "architecture": arch,
        "version": spec.version.model_dump(mode="json"),
        "distribution": None if spec.base else spec.distribution,
        "release": None if spec.base else spec.release,
        "debian": spec.debian.model_dump(mode="json") if spec.debian else None,
        "python": python,
        "files": files,
        "archives": {name: url for name, url in spec.archives.items() if name in used},
        "base": base_request,
    }
    return hashlib.sha256(canonical(document)).hexdigest()
