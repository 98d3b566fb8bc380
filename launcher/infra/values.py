"""The values that keys of an infra.yml take, each with how it is read; `schema.py` says which key takes which."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, WrapValidator

from anklume_images.specs.keys import NAME
from launcher.infra import readers
from launcher.infra.incus_keys import config_keys, device_keys
from launcher.infra.keys import GONE, MappingOf, Read, Written, one_of
from launcher.infra.model import GpuDriver
from launcher.infra.readers import WrongError

if TYPE_CHECKING:
    from collections.abc import Callable

    from launcher.infra.incus_keys import Keys as IncusKeys

__all__ = [
    "NUMBERED",
    "Bool",
    "Bytes",
    "ClusterMember",
    "Config",
    "Consumer",
    "Devices",
    "DriverWay",
    "Folder",
    "Image",
    "Line",
    "MachineName",
    "Mount",
    "MountName",
    "Name",
    "Port",
    "Ports",
    "ProjectName",
    "Size",
    "VariableName",
    "VolumeName",
    "Word",
    "whole",
]

_SMALL = "small letters, digits and '-', with no '-' at either end"
_LETTERS = "letters, digits, '.', '_' and '-'"


def _matching(pattern: str, expected: str, longest: int = 63, *, kind: str = "word") -> Read:
    pattern = pattern.removeprefix("^").removesuffix("$")
    reader = readers.matching(pattern, expected, longest)
    return Read(reader, kind, {"type": "string", "pattern": f"^({pattern})$", "maxLength": longest})


def whole(low: int, high: int, kind: str = "") -> Read:
    """A whole number from `low` to `high`; `kind` is for the reference."""
    schema = {"type": "integer", "minimum": low, "maximum": high}
    return Read(readers.integer(low, high), kind or f"{low} to {high}", schema)


# Incus 6.0 takes 63 characters for the names of instances and devices; a volume's device has a prefix of up to four.
Name = Annotated[str, _matching(NAME, _SMALL)]
MountName = Annotated[str, _matching(NAME, _SMALL, 60)]
MachineName = Annotated[str, _matching(rf"(?!\d+$){NAME.strip('^$')}", f"{_SMALL}, and no number")]
Word = Annotated[str, _matching(r"[A-Za-z0-9][A-Za-z0-9._-]*", _LETTERS)]
VolumeName = Annotated[str, _matching(r"[A-Za-z0-9][A-Za-z0-9._-]*", _LETTERS, 59)]
_ConfigKey = Annotated[str, _matching(r"[A-Za-z0-9][A-Za-z0-9._/-]*", "a key of Incus' configuration", 255)]
VariableName = Annotated[str, _matching(r"[A-Za-z_][A-Za-z0-9_]*", "the name of a variable", 255)]
ProjectName = Annotated[
    str, _matching(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]*\S", "a name on one line", 200, kind="one line")
]
ClusterMember = Annotated[
    str, _matching(r"@?[A-Za-z0-9][A-Za-z0-9._-]*", "a cluster member or @GROUP", 64, kind="member, `@group`")
]
_DEVICE_TYPES = (
    *("none", "nic", "disk", "unix-char", "unix-block", "usb", "gpu", "infiniband", "proxy", "unix-hotplug"),
    *("tpm", "pci"),
)

_SCALAR = {"type": ["string", "number", "boolean"]}
NUMBERED = {"type": ["string", "number"]}

Line = Annotated[str, Read(readers.line, "one line")]
Consumer = Annotated[str, Read(readers.line, "domain or machine")]
Bool = Annotated[bool, Read(readers.boolean, "bool", "boolean")]
Size = Annotated[str, Read(readers.size, "size", NUMBERED)]
Bytes = Annotated[int, Read(readers.size_in_bytes, "size", NUMBERED)]
Folder = Annotated[str, Read(readers.folder, "path")]
Mount = Annotated[str, Read(readers.mount_path, "path")]
Port = Annotated[int, whole(1, 65535)]
Image = Annotated[str, Read(readers.remote_image, "image")]
DriverWay = Annotated[GpuDriver, one_of(*get_args(GpuDriver))]


def _with_booleans(value: Any, known: IncusKeys | None) -> Any:
    """A boolean may be written in any of YAML's ways where Incus wants one; all else is what was written."""
    if not isinstance(value, dict):
        return value

    def is_boolean(name: Any) -> bool:
        found = known.find(name) if known and isinstance(name, str) else None
        return found is not None and found.boolean

    return {
        name: item.value if isinstance(item, Written) and isinstance(item.value, bool) and is_boolean(name) else item
        for name, item in value.items()
        if item is not GONE
    }


def _config(value: Any) -> Any:
    return _with_booleans(value, config_keys())


_DEVICE_TYPE = Read(readers.choice(*_DEVICE_TYPES), as_written=True)
_OF_GPUS = {
    "gputype": Read(readers.choice("physical", "mdev", "mig", "sriov"), as_written=True),
    "pci": Read(readers.pci, as_written=True),
}


def _device(value: Any, texts: Callable[[Any], Any]) -> Any:
    if not isinstance(value, dict):
        return texts(value)
    kind = value.get("type")
    if kind is GONE:  # which is reported, and nothing else can be said of it
        return GONE
    written = _with_booleans(value, device_keys(kind) if isinstance(kind, str) else None)
    special = {"type": _DEVICE_TYPE} | (_OF_GPUS if kind == "gpu" else {})
    device = texts({name: item for name, item in written.items() if name not in special})
    if "type" not in written:
        raise WrongError("missing key 'type'", code="missing-key", hint="such as disk, gpu or nic", whole=True)
    for name in special.keys() & written.keys():
        try:
            device[name] = special[name].read(written[name])
        except WrongError as wrong:
            wrong.within = name
            raise
    return {name: device[name] for name in written}


def _ports(value: Any, ports: Callable[[Any], list[int]]) -> Any:
    """Each once and in order, none for all of them; of a list with wrong ones nothing, as fewer would not do."""
    if value == "all":
        return ()
    if not isinstance(value, list) or not value:
        meant = type(value) is int and 1 <= value <= 65535
        hint = f"write [{value}]" if meant else "such as [80, 443]"
        raise WrongError("must be a list of ports, or all", code="wrong-type", hint=hint)
    return GONE if any(port is GONE for port in value) else tuple(sorted(set(ports(value))))


Config = Annotated[
    dict[_ConfigKey, Annotated[str, Read(readers.config_text, schema=_SCALAR, as_written=True)]],
    BeforeValidator(_config),
]
_Device = Annotated[
    dict[_ConfigKey, Annotated[str, Read(readers.device_text, schema=_SCALAR, as_written=True)]],
    WrapValidator(_device),
    Field(json_schema_extra={"required": ["type"]}),
]
Devices = MappingOf[Word, _Device]
Ports = Annotated[list[Port], WrapValidator(_ports, json_schema_input_type=Literal["all"] | list[Port])]
