"""The keys of an infra.yml, what each may hold, and which are required."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anklume_images.specs.model import NAME
from launcher.infra import readers
from launcher.infra.incus_keys import config_keys, device_keys
from launcher.infra.readers import choice, integer, matching
from launcher.infra.schema_types import WRONG, AnyValue, Key, ListOf, MappingOf, Section, Text, Value

if TYPE_CHECKING:
    from anklume_images.specs.yamlfile import KeyPath
    from launcher.infra.report import Report
    from launcher.infra.schema_types import SchemaType

__all__ = ["INFRA", "MACHINE", "TRUST_LEVELS"]

TRUST_LEVELS = ("admin", "trusted", "semi-trusted", "untrusted", "disposable")

# Incus 6.0 takes 63 characters for the names of instances and devices; a volume's device has a prefix of up to four.
_NAME = matching(NAME, "small letters, digits and '-', with no '-' at either end")
_MOUNT_NAME = matching(NAME, "small letters, digits and '-', with no '-' at either end", 60)
_MACHINE_NAME = matching(
    rf"(?!\d+$){NAME[1:]}", "small letters, digits and '-', with no '-' at either end, and no number"
)
_WORD = matching(r"[A-Za-z0-9][A-Za-z0-9._-]*", "letters, digits, '.', '_' and '-'")
_VOLUME_NAME = matching(r"[A-Za-z0-9][A-Za-z0-9._-]*", "letters, digits, '.', '_' and '-'", 59)
_CONFIG_KEY = matching(r"[A-Za-z0-9][A-Za-z0-9._/-]*", "a key of Incus' configuration", 255)
_VARIABLE = matching(r"[A-Za-z_][A-Za-z0-9_]*", "the name of a variable", 255)
_DEVICE_TYPES = (
    *("none", "nic", "disk", "unix-char", "unix-block", "usb", "gpu", "infiniband", "proxy", "unix-hotplug"),
    *("tpm", "pci"),
)
_device_type, _gpu_type = choice(*_DEVICE_TYPES), choice("physical", "mdev", "mig", "sriov")

_LINE, _BOOL, _SIZE = Value(readers.line), Value(readers.boolean), Value(readers.size)
_FOLDER, _MOUNT = Value(readers.folder), Value(readers.mount_path)
_GPU_DRIVER = Value(choice("auto", "host", "runtime"))


class _Config:
    """Incus' configuration as texts; a boolean may be written in any of YAML's ways."""

    _keys = MappingOf(_CONFIG_KEY, AnyValue())

    def read(self, value: Any, path: KeyPath, report: Report) -> Any:
        """The texts by key, or WRONG."""
        entries = self._keys.read(value, path, report)
        if entries is WRONG:
            return WRONG
        read = {key: _config_kind(key, item).read(item, (*path, key), report) for key, item in entries.items()}
        return {key: text for key, text in read.items() if text is not WRONG}


def _config_kind(key: str, value: object) -> SchemaType:
    known = config_keys().find(key) if isinstance(value, bool) else None
    return Value(readers.config_text) if known and known.boolean else Text(readers.config_text)


class _Device:
    """A device: its type and Incus' own keys for it."""

    def read(self, value: Any, path: KeyPath, report: Report) -> Any:
        """The device with texts as values, or WRONG."""
        entries = MappingOf(_CONFIG_KEY, AnyValue()).read(value, path, report)
        if entries is WRONG:
            return WRONG
        if "type" not in entries:
            report.error(path, "missing-key", "missing key 'type'", key=True, hint="such as disk, gpu or nic")
        device = {}
        for key, item in entries.items():
            text = _device_kind(key, entries.get("type"), item).read(item, (*path, key), report)
            if text is not WRONG:
                device[key] = text
        return device if "type" in device else WRONG


def _device_kind(key: str, kind: object, value: object) -> SchemaType:
    reader = _device_reader(key, kind)
    keys = device_keys(kind) if isinstance(value, bool) and isinstance(kind, str) else None
    known = keys.find(key) if keys else None
    return Value(reader) if known and known.boolean else Text(reader)


def _device_reader(key: str, kind: object) -> readers.Reader:
    if key == "type":
        return _device_type
    if key == "gputype" and kind == "gpu":
        return _gpu_type
    if key == "pci" and kind == "gpu":
        return readers.pci
    return readers.device_text


class _Card:
    """One card of gpu_devices: exactly one of the ways to name it."""

    _keys = Section({"pci": Key(Value(readers.pci)), "uuid": Key(Value(_WORD)), "mig": Key(Value(_WORD))})

    def read(self, value: Any, path: KeyPath, report: Report) -> Any:
        """A mapping with one key, or WRONG."""
        card = self._keys.read(value, path, report)
        if card is WRONG or (isinstance(value, dict) and len(card) < len(value)):
            return WRONG
        if len(card) != 1:
            report.error(path, "wrong-value", "a card is named by one of pci, uuid and mig")
            return WRONG
        return card


class _Ports:
    """A list of ports, or `all`."""

    _port = Value(integer(1, 65535))

    def read(self, value: Any, path: KeyPath, report: Report) -> Any:
        """The ports, each once and in order; none for all of them; WRONG when one is wrong, as fewer would not do."""
        if value == "all":
            return ()
        if not isinstance(value, list) or not value:
            meant = type(value) is int and 1 <= value <= 65535 and not report.source.scalar(path)
            hint = f"write [{value}]" if meant else "such as [80, 443]"
            message = f"'ports' must be a list of ports, or all, not {report.told(path, value)}"
            report.error(path, "wrong-type", message, hint=hint)
            return WRONG
        ports = [self._port.read(port, (*path, index), report) for index, port in enumerate(value)]
        return WRONG if WRONG in ports else tuple(sorted(set(ports)))


class _ResourcePolicy:
    """`true`, or a section."""

    _keys = Section(
        {
            "host_reserve": Key(
                Section(
                    {
                        "cpu": Key(Value(readers.reserve(of_memory=False))),
                        "memory": Key(Value(readers.reserve(of_memory=True))),
                    }
                )
            ),
            "mode": Key(Value(choice("proportional", "equal"))),
            "cpu_mode": Key(Value(choice("allowance", "count"))),
            "memory_enforce": Key(Value(choice("soft", "hard"))),
            "overcommit": Key(_BOOL),
        }
    )

    def read(self, value: Any, path: KeyPath, report: Report) -> Any:
        """The section's keys, none for `true`."""
        if value is True:
            return {}
        if not isinstance(value, dict):
            message = f"'resource_policy' must be true or a mapping, not {report.told(path, value)}"
            report.error(path, "wrong-type", message, hint="leave it out for no policy" if value is False else None)
            return WRONG
        return self._keys.read(value, path, report)


_CONFIG = _Config()
_DEVICES = MappingOf(_WORD, _Device())

_ADDRESSING = Section(
    {
        "base_octet": Key(Value(integer(10, 10))),
        "zone_base": Key(Value(integer(0, 245))),
        "zone_step": Key(Value(integer(1, 255))),
    }
)

_GLOBAL = Section(
    {
        "addressing": Key(_ADDRESSING),
        "base_subnet": Key(Value(readers.two_octets)),
        "default_os_image": Key(Value(readers.remote_image)),
        "default_connection": Key(_LINE, foreign=True),
        "default_user": Key(_LINE, foreign=True),
        "gpu_policy": Key(Value(choice("exclusive", "shared"))),
        "gpu_driver": Key(_GPU_DRIVER),
        "ai_access_policy": Key(Value(choice("exclusive", "open"))),
        "ai_access_default": Key(_LINE),
        "ai_vram_flush": Key(_BOOL),
        "nesting_prefix": Key(_BOOL),
        "firewall_mode": Key(Value(choice("host", "vm"))),
        "resource_policy": Key(_ResourcePolicy()),
        "shared_volumes_base": Key(_FOLDER),
        "persistent_data_base": Key(_FOLDER),
        "image_channel": Key(Value(_WORD)),
        "storage_pool": Key(Value(_WORD)),
    }
)

MACHINE = Section(
    {
        "description": Key(_LINE),
        "type": Key(Value(choice("lxc", "vm"))),
        "ip": Key(Value(readers.address)),
        "ephemeral": Key(_BOOL),
        "gpu": Key(_BOOL),
        "profiles": Key(ListOf(Value(_WORD), numbered=True)),
        "weight": Key(Value(integer(1, 1_000_000))),
        "boot_autostart": Key(_BOOL, incus="boot.autostart"),
        "boot_priority": Key(Value(integer(0, 100)), incus="boot.autostart.priority"),
        "snapshots_schedule": Key(Value(readers.cron), incus="snapshots.schedule"),
        "snapshots_expiry": Key(Value(readers.expiry), incus="snapshots.expiry"),
        "config": Key(_CONFIG),
        "devices": Key(_DEVICES),
        "roles": Key(ListOf(Value(_WORD))),
        "storage_volumes": Key(
            MappingOf(
                _VOLUME_NAME,
                Section({"path": Key(_MOUNT, required=True), "pool": Key(Value(_WORD)), "size": Key(_SIZE)}),
                empty=True,
            )
        ),
        "persistent_data": Key(
            MappingOf(
                _MOUNT_NAME,
                Section({"path": Key(_MOUNT, required=True), "readonly": Key(_BOOL), "shift": Key(_BOOL)}),
                empty=True,
            )
        ),
        "os_image": Key(Value(readers.remote_image)),
        "image": Key(Value(readers.image_ref)),
        "vars": Key(MappingOf(_VARIABLE, AnyValue())),
        "gpu_devices": Key(ListOf(_Card())),
        "gpu_memory": Key(Value(readers.size_in_bytes)),
        "gpu_driver": Key(_GPU_DRIVER),
        "target": Key(Value(matching(r"@?[A-Za-z0-9][A-Za-z0-9._-]*", "a cluster member or @GROUP", 64))),
        "export_apps": Key(AnyValue(), foreign=True),
        "services": Key(AnyValue(), foreign=True),
    }
)

_DOMAIN = Section(
    {
        "description": Key(_LINE),
        "enabled": Key(_BOOL),
        "subnet_id": Key(Value(integer(0, 254))),
        "ephemeral": Key(_BOOL),
        "trust_level": Key(Value(choice(*TRUST_LEVELS))),
        "profiles": Key(
            MappingOf(
                _WORD, Section({"description": Key(_LINE), "config": Key(_CONFIG), "devices": Key(_DEVICES)}), True
            )
        ),
        "machines": Key(MappingOf(_MACHINE_NAME, MACHINE, empty=True)),
        "ai_provider": Key(Value(choice("local", "cloud", "local-first")), foreign=True),
        "ai_sanitize": Key(Value(choice(True, False, "always")), foreign=True),
        "file_portal": Key(AnyValue(), foreign=True),
        "openclaw": Key(_BOOL, foreign=True),
        "panel_color": Key(AnyValue(), foreign=True),
        "pinned_apps": Key(AnyValue(), foreign=True),
        "wallpaper": Key(AnyValue(), foreign=True),
    }
)

_POLICY = Section(
    {
        "description": Key(_LINE),
        "from": Key(_LINE, required=True),
        "to": Key(_LINE, required=True),
        "ports": Key(_Ports()),
        "protocol": Key(Value(choice("tcp", "udp"))),
        "bidirectional": Key(_BOOL),
    }
)

_SHARED_VOLUME = Section(
    {
        "source": Key(_FOLDER),
        "path": Key(_MOUNT),
        "shift": Key(_BOOL),
        "propagate": Key(_BOOL),
        "consumers": Key(MappingOf(readers.line, Value(choice("ro", "rw"))), required=True),
    }
)

INFRA = Section(
    {
        "project_name": Key(Value(matching(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]*\S", "a name on one line", 200))),
        "global": Key(_GLOBAL),
        "domains": Key(MappingOf(_NAME, _DOMAIN, empty=True)),
        "network_policies": Key(ListOf(_POLICY, numbered=True)),
        "shared_volumes": Key(MappingOf(_MOUNT_NAME, _SHARED_VOLUME, empty=True)),
    }
)
"""A whole file. Which keys must be there is a rule of its own, as empty ones are allowed."""
