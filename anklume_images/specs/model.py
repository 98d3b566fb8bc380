"""What a spec says, checked and frozen: one `Spec` per image, variants included, and the hash of what it asks for.

`loader.py` makes these out of `spec.yml`; everything behind it reads only these.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    StrictBool,
    StrictInt,
    model_serializer,
)

from anklume_images.architectures import ARCHITECTURES
from anklume_images.canonical import canonical
from anklume_images.specs.values import VariableType  # noqa: TC001 - pydantic reads it

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "BUILT_IN_ARCHIVES",
    "DebianInputs",
    "Healthcheck",
    "Inputs",
    "PythonInputs",
    "ReleaseInput",
    "Spec",
    "SpecDocument",
    "StaticFile",
    "Suite",
    "Template",
    "TreeDocument",
    "Unpack",
    "Variable",
    "VersionRule",
    "Volume",
    "request_of",
]

BUILT_IN_ARCHIVES = ("debian", "debian-security", "pypi")
NAME = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$"

Trigger = Literal["create", "copy", "start"]
Backend = Literal["cuda", "hip", "vulkan"]  # how an engine computes on a card, by the names of ggml's backends


def _below_root(path: str) -> str:
    if not path.startswith("/") or path == "/":
        raise ValueError("must be an absolute path in the image")
    if any(part in ("", ".", "..") for part in path[1:].split("/")):
        raise ValueError("must have no '..', '.', '//' or '/' at its end")
    if any(character < " " for character in path):
        raise ValueError("must have no control characters")
    return path


def _below_folder(path: str) -> str:
    if path.startswith("/") or any(part in ("", ".", "..") for part in path.split("/")):
        raise ValueError("must be a relative path without '..'")
    return path


def _base_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("must be an http or https address without query")
    return url.rstrip("/")


def _one_line(text: str) -> str:
    if "\n" in text or "{{" in text or "{%" in text:  # distrobuilder renders descriptions as templates
        raise ValueError("must be one line without '{{' or '{%'")
    return text


def _architecture(name: str) -> str:
    if name not in ARCHITECTURES:
        raise ValueError(f"{name!r} is not one of {', '.join(ARCHITECTURES)}")
    return name


def _each_once(items: tuple[Any, ...]) -> tuple[Any, ...]:
    seen: set[Any] = set()
    for item in items:
        if item in seen:
            raise ValueError(f"{item!r} stands there twice")
        seen.add(item)
    return items


Architecture = Annotated[str, AfterValidator(_architecture)]
Word = Annotated[str, Field(pattern=NAME, max_length=63)]
Role = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
Line = Annotated[str, Field(min_length=1), AfterValidator(_one_line)]
ImagePath = Annotated[str, AfterValidator(_below_root)]
FolderPath = Annotated[str, Field(min_length=1), AfterValidator(_below_folder)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Mode = Annotated[str, Field(pattern=r"^0?[0-7]{3,4}$")]
Package = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.+-]+$")]
TreePackage = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.+-]+(/[a-z0-9][a-z0-9-]*)?$")]  # NAME or NAME/SUITE
PackageVersion = Annotated[str, Field(pattern=r"^[0-9][0-9A-Za-z.+~]*$")]  # of the upstream, as deb-version(7) has it
Url = Annotated[str, AfterValidator(_base_url)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class VersionRule(_Part):
    """Where the image's upstream version comes from: a locked deb, a locked wheel, or the text itself."""

    package: Package | None = None
    python: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] | None = None
    literal: Annotated[str, Field(pattern=r"^[0-9A-Za-z][0-9A-Za-z.+~_-]*$")] | None = None


def _version_rule(value: object) -> object:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise ValueError("a version is text: put it in quotes")  # noqa: TRY004  # pydantic reports ValueError
    if isinstance(value, str):
        return {"literal": value}
    if isinstance(value, dict) and len(value) == 1 and "literal" not in value:
        return value
    raise ValueError('must be {package: NAME}, {python: NAME} or "a version in quotes"')


class Suite(_Part):
    """One suite of a Debian archive; `pin` is an apt_preferences(5) priority for all of it."""

    archive: str
    suite: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9./-]*$")]
    components: Annotated[tuple[Package, ...], Field(min_length=1)] = ("main",)
    pin: Annotated[StrictInt, Field(ge=-1, le=1001)] | None = None


class DebianInputs(_Part):
    """Packages, and the suites in which they are resolved.

    `from_host` names packages that are not in the image, as the host provides them, each with the oldest version.
    """

    suites: Annotated[tuple[Suite, ...], Field(min_length=1)]
    packages: Annotated[tuple[Package, ...], AfterValidator(_each_once)] = ()
    from_host: dict[Package, PackageVersion] = Field(default_factory=dict)

    @model_serializer(mode="wrap")
    def _as_written(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Left out where it is empty: what names an image stays as it was before there was such a thing."""
        plain: dict[str, Any] = serialize(self)
        return {key: value for key, value in plain.items() if key != "from_host" or value}


class TreeDocument(_Part):
    """The keys of a `tree.yml`: packages, and the suites in which they are resolved."""

    name: Word
    suites: Annotated[tuple[Suite, ...], Field(min_length=1)]
    packages: Annotated[tuple[TreePackage, ...], Field(min_length=1), AfterValidator(_each_once)]


class PythonInputs(_Part):
    """Wheels: what to install, and for which Python; `tools` are there while building only.

    What `without_dependencies` names is installed itself, and nothing that it requires.
    """

    version: Annotated[str, Field(pattern=r"^3\.[0-9]{1,2}$")]
    requires: tuple[Line, ...] = ()
    requirements: FolderPath | None = None
    without_dependencies: tuple[Line, ...] = ()
    constraints: tuple[Line, ...] = ()
    overrides: tuple[Line, ...] = ()
    tools: tuple[Line, ...] = ()


class Unpack(_Part):
    """Unpack the file over the base before distrobuilder runs, leaving out members that match `exclude`."""

    to: Annotated[str, AfterValidator(lambda path: path if path == "/" else _below_root(path))]
    exclude: tuple[str, ...] = ()


class ReleaseInput(_Part):
    """A file of an upstream release, per architecture, below an archive's address."""

    name: Word
    archive: str
    path: dict[Architecture, FolderPath]
    checksums: FolderPath | None = None
    sha256: dict[Architecture, Sha256] = Field(default_factory=dict)
    size: dict[Architecture, Annotated[StrictInt, Field(ge=1)]] = Field(default_factory=dict)
    unpack: Unpack | None = None


class Inputs(_Part):
    """Everything that goes into the image."""

    debian: DebianInputs | None = None
    python: PythonInputs | None = None
    files: tuple[ReleaseInput, ...] = ()


class StaticFile(_Part):
    """A text file of the spec's folder, put into the image as it is."""

    source: FolderPath
    path: ImagePath
    mode: Mode = "0644"


class Template(_Part):
    """An Incus (Pongo2) template that Incus renders into the instance."""

    source: FolderPath
    path: ImagePath
    when: Annotated[tuple[Trigger, ...], Field(min_length=1), AfterValidator(_each_once)] = ("create", "copy")
    mode: Mode = "0644"


class Variable(_Part):
    """A per-instance setting, given as `user.anklume.<name>`; `max_bytes` limits its text in UTF-8."""

    type: VariableType
    description: Line
    default: Any = None
    secret: StrictBool = False
    max_bytes: Annotated[StrictInt, Field(ge=1)] | None = None

    @model_serializer(mode="wrap")
    def _as_written(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A limit that is not set is left out: what names an image stays as it was before there were limits."""
        plain: dict[str, Any] = serialize(self)
        return {key: value for key, value in plain.items() if key != "max_bytes" or value is not None}


class Volume(_Part):
    """A place whose data outlives the instance."""

    path: ImagePath
    kind: Literal["models", "data"] = "data"


class Healthcheck(_Part):
    """A command that succeeds inside a healthy instance; `timeout` seconds after start it must."""

    command: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
    timeout: Annotated[StrictInt, Field(ge=1, le=3600)] = 60


class SpecDocument(_Part):
    """The keys of `spec.yml`; a variant is the same but for `name`, `default` and `variants`."""

    name: Word
    description: Line
    version: Annotated[VersionRule, BeforeValidator(_version_rule)]
    distribution: Literal["debian"] | None = None
    release: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")] | None = None
    base: Word | None = Field(default=None, alias="from")
    default: StrictBool = True
    provides: Annotated[tuple[Role, ...], AfterValidator(_each_once)] = ()
    gpus: dict[Word, Annotated[tuple[Backend, ...], Field(min_length=1), AfterValidator(_each_once)]] | None = None
    tags: Annotated[tuple[Word, ...], AfterValidator(_each_once)] = ()
    architectures: Annotated[tuple[Architecture, ...], Field(min_length=1), AfterValidator(_each_once)] = ARCHITECTURES
    archives: dict[Word, Url] = Field(default_factory=dict)
    inputs: Inputs = Inputs()
    files: tuple[StaticFile, ...] = ()
    templates: tuple[Template, ...] = ()
    variables: dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], Variable] = Field(default_factory=dict)
    volumes: tuple[Volume, ...] = ()
    healthcheck: Healthcheck | None = None
    ports: Annotated[
        tuple[Annotated[StrictInt, Field(ge=1, le=65535)], ...],
        AfterValidator(_each_once),
    ] = ()
    variants: dict[Word, dict[str, Any]] = Field(default_factory=dict)


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
