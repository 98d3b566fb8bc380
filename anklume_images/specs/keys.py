"""The keys of `spec.yml` and `tree.yml`: which there are, what each takes, and what it means.

The loader checks files by them; editors (`json_schema.py`) and the reference of the docs have them from here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args
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
from anklume_images.specs.values import VariableType

__all__ = [
    "BUILT_IN_ARCHIVES",
    "NOT_IN_VARIANTS",
    "DebianInputs",
    "Healthcheck",
    "Inputs",
    "PythonInputs",
    "ReleaseInput",
    "SpecDocument",
    "StaticFile",
    "Suite",
    "Template",
    "TreeDocument",
    "Unpack",
    "Variable",
    "VersionRule",
    "Volume",
]

BUILT_IN_ARCHIVES = ("debian", "debian-security", "pypi")
NOT_IN_VARIANTS = ("name", "variants", "default")
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


Architecture = Annotated[str, AfterValidator(_architecture), Field(json_schema_extra={"enum": [*ARCHITECTURES]})]
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
WheelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
VersionText = Annotated[str, Field(pattern=r"^[0-9A-Za-z][0-9A-Za-z.+~_-]*$")]


def _means(text: str) -> Any:
    """What a key means: for the reference of the docs, and for editors."""
    return Field(description=text)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class VersionRule(_Part):
    """Where the image's upstream version comes from: a locked deb, a locked wheel, or the text itself."""

    package: Package | None = None
    python: WheelName | None = None
    literal: VersionText | None = None


class _OfPackage(_Part):
    package: Annotated[Package, _means("the version of a locked Debian package, without epoch and Debian revision")]


class _OfWheel(_Part):
    python: Annotated[WheelName, _means("the version of a locked wheel")]


_WrittenVersion = VersionText | _OfPackage | _OfWheel


def _version_rule(value: object) -> object:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise ValueError("a version is text: put it in quotes")  # noqa: TRY004  # pydantic reports ValueError
    if isinstance(value, str):
        return {"literal": value}
    if isinstance(value, dict) and len(value) == 1 and "literal" not in value:
        return value
    raise ValueError('must be {package: NAME}, {python: NAME} or "a version in quotes"')


class Suite(_Part):
    """One suite of a Debian archive."""

    archive: Annotated[str, _means("name of the archive: `debian`, `debian-security`, or one of `archives`")]
    suite: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9./-]*$"), _means("the suite, such as `trixie-updates`")]
    components: Annotated[
        tuple[Package, ...], Field(min_length=1), _means("its components, such as `main` and `contrib`")
    ] = ("main",)
    pin: Annotated[
        Annotated[StrictInt, Field(ge=-1, le=1001)] | None,
        _means("an apt priority for all of the suite, from -1 to 1001"),
    ] = None


class DebianInputs(_Part):
    """Packages, and the suites in which they are resolved."""

    suites: Annotated[tuple[Suite, ...], Field(min_length=1), _means("suites of Debian archives, see below")]
    packages: Annotated[
        tuple[Package, ...], AfterValidator(_each_once), _means("packages to add, without recommended ones")
    ] = ()
    from_host: Annotated[
        dict[Package, PackageVersion],
        _means("map package → oldest version: not in the image, as the machine's host provides them"),
    ] = Field(default_factory=dict)

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
    """Wheels: what to install, and for which Python."""

    version: Annotated[str, Field(pattern=r"^3\.[0-9]{1,2}$"), _means('the image\'s Python, in quotes: `"3.11"`')]
    requires: Annotated[tuple[Line, ...], _means("requirements, as pip writes them")] = ()
    requirements: Annotated[
        FolderPath | None, _means("a requirements file in the folder; one of the two is needed")
    ] = None
    without_dependencies: Annotated[
        tuple[Line, ...], _means("installed themselves, and nothing that they require")
    ] = ()
    constraints: Annotated[tuple[Line, ...], _means("versions to keep to, without asking for the package")] = ()
    overrides: Annotated[tuple[Line, ...], _means("versions to take whatever packages say")] = ()
    tools: Annotated[tuple[Line, ...], _means("needed while building, not part of the image")] = ()


class Unpack(_Part):
    """Unpack the file over the base before distrobuilder runs."""

    to: Annotated[
        str, AfterValidator(lambda path: path if path == "/" else _below_root(path)), _means("a folder in the image")
    ]
    exclude: Annotated[tuple[str, ...], _means("patterns of members that are left out")] = ()


class ReleaseInput(_Part):
    """A file of an upstream release, per architecture, below an archive's address."""

    name: Annotated[Word, _means("a word; the file is at `{{ mirror }}/files/NAME` during the build")]
    archive: Annotated[str, _means("one of `archives`")]
    path: Annotated[dict[Architecture, FolderPath], _means("map architecture → path below the archive")]
    checksums: Annotated[FolderPath | None, _means("path of the release's own checksum file")] = None
    sha256: Annotated[
        dict[Architecture, Sha256],
        _means("map architecture → sha256; needed without `checksums`; with both, they must agree"),
    ] = Field(default_factory=dict)
    size: Annotated[dict[Architecture, Annotated[StrictInt, Field(ge=1)]], _means("map architecture → bytes")] = Field(
        default_factory=dict
    )
    unpack: Annotated[
        Unpack | None,
        _means(
            "`to` (a folder in the image) and `exclude` (patterns): unpacked over the base before anything else; "
            "needs `from`"
        ),
    ] = None


class Inputs(_Part):
    """Everything that goes into the image."""

    debian: Annotated[DebianInputs | None, _means("packages of Debian archives")] = None
    python: Annotated[PythonInputs | None, _means("Python packages, as wheels")] = None
    files: Annotated[tuple[ReleaseInput, ...], _means("files of upstream releases")] = ()


class StaticFile(_Part):
    """A text file of the spec's folder, put into the image as it is."""

    source: Annotated[FolderPath, _means("path in the folder; UTF-8 text, at most 1 MiB")]
    path: Annotated[ImagePath, _means("absolute path in the image")]
    mode: Annotated[Mode, _means("the file's mode, in quotes")] = "0644"


class Template(StaticFile):
    """An Incus (Pongo2) template that Incus renders into the instance."""

    when: Annotated[
        tuple[Trigger, ...],
        Field(min_length=1),
        AfterValidator(_each_once),
        _means("of templates: when Incus renders it, of `create`, `copy`, `start`"),
    ] = ("create", "copy")


class Variable(_Part):
    """A per-instance setting, given as `user.anklume.<name>`."""

    type: Annotated[VariableType, _means(f"one of {', '.join(f'`{name}`' for name in get_args(VariableType))}")]
    description: Annotated[Line, _means("one line for those who set it")]
    default: Annotated[Any, _means("a value of that type; none for a secret")] = None
    secret: Annotated[StrictBool, _means("not to be shown")] = False
    max_bytes: Annotated[
        Annotated[StrictInt, Field(ge=1)] | None,
        _means("the most bytes that its text may have in UTF-8; a longer one is refused before launch"),
    ] = None

    @model_serializer(mode="wrap")
    def _as_written(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A limit that is not set is left out: what names an image stays as it was before there were limits."""
        plain: dict[str, Any] = serialize(self)
        return {key: value for key, value in plain.items() if key != "max_bytes" or value is not None}


class Volume(_Part):
    """A place whose data outlives the instance."""

    path: Annotated[ImagePath, _means("absolute path in the image; a new volume begins with a copy of what is there")]
    kind: Annotated[Literal["models", "data"], _means("what it is for: `data` or `models`")] = "data"


class Healthcheck(_Part):
    """A command that succeeds inside a healthy instance."""

    command: Annotated[
        tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1), _means("a list: program and arguments")
    ]
    timeout: Annotated[
        StrictInt, Field(ge=1, le=3600), _means("the seconds after the start within which it must succeed, 1 to 3600")
    ] = 60


class SpecDocument(_Part):
    """The keys of `spec.yml`; a variant is the same but for `name`, `default` and `variants`."""

    name: Annotated[Word, _means("the folder's name; lower-case letters, digits, `-`, at most 63")]
    description: Annotated[Line, _means("one line, shown by `list` and in Incus; no `{{` or `{%`")]
    version: Annotated[
        VersionRule,
        BeforeValidator(_version_rule, json_schema_input_type=_WrittenVersion),
        _means("the upstream half of the version, see below"),
    ]
    distribution: Annotated[Literal["debian"] | None, _means("`debian`; of a root image; not with `from`")] = None
    release: Annotated[
        Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")] | None,
        _means("suite to bootstrap, such as `trixie`; of a root image; not with `from`"),
    ] = None
    base: Annotated[Word | None, _means("the base image; without it, a root image is made from `inputs.debian`")] = (
        Field(default=None, alias="from")
    )
    default: Annotated[StrictBool, _means("whether it is built when no image is named; variants never are")] = True
    provides: Annotated[
        tuple[Role, ...],
        AfterValidator(_each_once),
        _means("roles, what it can do for others, such as `base_system` (`a-z`, digits, `_`)"),
    ] = ()
    gpus: Annotated[
        dict[Word, Annotated[tuple[Backend, ...], Field(min_length=1), AfterValidator(_each_once)]] | None,
        _means(
            "how it computes on cards: map of `nvidia`, `amd` or `intel` → list of `cuda`, `hip`, `vulkan`; "
            "`{}` is on none"
        ),
    ] = None
    tags: Annotated[tuple[Word, ...], AfterValidator(_each_once), _means("words to choose images by")] = ()
    architectures: Annotated[
        tuple[Architecture, ...],
        Field(min_length=1),
        AfterValidator(_each_once),
        _means("those it is made for; its base must be too"),
    ] = ARCHITECTURES
    archives: Annotated[
        dict[Word, Url],
        _means(
            "map name → URL: addresses of release files; `debian`, `debian-security`, `pypi` are known and not listed"
        ),
    ] = Field(default_factory=dict)
    inputs: Annotated[Inputs, _means("what goes in: `debian`, `python`, `files`, see below")] = Inputs()
    files: Annotated[tuple[StaticFile, ...], _means("text files of the folder, put in as they are")] = ()
    templates: Annotated[tuple[Template, ...], _means("Incus templates of the folder, rendered in each instance")] = ()
    variables: Annotated[
        dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], Variable],
        _means("map of per-instance settings, `user.anklume.<name>`"),
    ] = Field(default_factory=dict)
    volumes: Annotated[tuple[Volume, ...], _means("places whose data outlives the instance")] = ()
    healthcheck: Annotated[Healthcheck | None, _means("a command that succeeds in a healthy instance")] = None
    ports: Annotated[
        tuple[Annotated[StrictInt, Field(ge=1, le=65535)], ...],
        AfterValidator(_each_once),
        _means("TCP ports it listens on when nothing is set"),
    ] = ()
    variants: Annotated[dict[Word, dict[str, Any]], _means("map of other forms of the same image, see below")] = Field(
        default_factory=dict
    )
