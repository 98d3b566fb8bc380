"""Writes launcher/infra/incus_keys.json: which keys Incus knows for instances and devices, and what each takes.

    python -m tests.support.incus_keys

Each version's daemon says its keys (/1.0/metadata/configuration). What it says of their types is not always what it
takes (`boot.autostart` takes more than a boolean, `wwn` is none), so each key is tried in a profile: what it takes of
`bool`, `integer`, `size`, `percent` and `last-state`, with commas between, or `text` where it takes other things too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anklume_images.errors import IncusError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from anklume_images.incus.client import Incus

FILE = Path(__file__).parents[2] / "launcher/infra/incus_keys.json"
VERSIONS = ("incus-6", "incus-7")

Kinds = dict[str, str]

# What the daemon takes where it takes this kind of value, and what no key takes that takes these kinds only.
PROBES = {
    "bool": ("true", "no", "OFF"),
    "integer": ("7",),
    "size": ("10MiB", "1GB"),
    "percent": ("10%",),
    "last-state": ("last-state",),
}
WRONG = ("maybe", "none", "1gb", "1.5GiB", "10iops", "10Mbit", "1,2", "10ms/100ms")
# The groups of the metadata by type of device, each with devices that the daemon takes.
DEVICES: dict[str, dict[str, tuple[dict[str, str], ...]]] = {
    "disk": {"disk": ({"source": "/srv", "path": "/srv"}, {"pool": "default", "path": "/"})},
    "gpu": {f"gpu_{kind}": ({"gputype": kind},) for kind in ("mdev", "mig", "physical", "sriov")},
    "nic": {
        "nic_bridged": ({"nictype": "bridged", "parent": "incusbr0"},),
        "nic_ipvlan": ({"nictype": "ipvlan", "parent": "lo"},),
        "nic_macvlan": ({"nictype": "macvlan", "parent": "lo"},),
        "nic_ovn": (),
        "nic_p2p": ({"nictype": "p2p"},),
        "nic_physical": ({"nictype": "physical", "parent": "lo"},),
        "nic_routed": ({"nictype": "routed", "parent": "lo"},),
        "nic_sriov": ({"nictype": "sriov", "parent": "lo"},),
    },
    "infiniband": {"infiniband": ({"nictype": "physical", "parent": "lo"},)},
    "pci": {"pci": ({"address": "0000:01:00.0"},)},
    "proxy": {
        "proxy": (
            {"listen": "tcp:127.0.0.1:80", "connect": "tcp:127.0.0.1:80"},
            {"listen": "unix:/run/x", "connect": "tcp:127.0.0.1:80"},
        )
    },
    "tpm": {"tpm": ({"path": "/dev/tpm0", "pathrm": "/dev/tpmrm0"},)},
    "unix-block": {"unix-char-block": ({"source": "/dev/loop0"},)},
    "unix-char": {"unix-char-block": ({"source": "/dev/null"},)},
    "unix-hotplug": {"unix-hotplug": ({"vendorid": "1234"},)},
    "usb": {"usb": ({"vendorid": "1234"},)},
}
# Keys that the daemon takes and its metadata leaves out.
SILENT = {"gpu": ("gputype",), "nic": ("nictype",)}
PROFILE = "anklume-keys"


def table(client: Incus) -> dict[str, Any]:
    """The keys of one server: `config` and, by type, `devices`, each with what it takes."""
    configs = client.get("metadata/configuration")["configs"]
    client.send("post", "profiles", {"name": PROFILE})
    try:
        config = {key: _config_kind(client, key) for key in sorted(_config_keys(configs))}
        devices = {kind: keys for kind in DEVICES if (keys := _device_keys(client, configs, kind))}
    finally:
        client.send("delete", f"profiles/{PROFILE}")
    return {"config": config, "devices": devices}


def names(client: Incus) -> dict[str, Any]:
    """The same keys as the daemon's metadata names them, without trying what they take."""
    configs = client.get("metadata/configuration")["configs"]
    devices = {}
    for kind, groups in DEVICES.items():
        found = {key for group in groups for key in _keys(configs["devices"].get(group, {}))}
        if found:
            devices[kind] = sorted(found | set(SILENT.get(kind, ())))
    return {"config": sorted(_config_keys(configs)), "devices": devices}


def accepts(client: Incus, config: Mapping[str, str], device: Mapping[str, str] | None = None) -> bool:
    """Whether the daemon takes a profile of these."""
    body = {"config": dict(config), "devices": {"d": dict(device)} if device else {}}
    try:
        client.send("put", f"profiles/{PROFILE}", body)
    except IncusError:
        return False
    return True


def _keys(group: Mapping[str, Any]) -> Iterator[str]:
    for entry in group.get("keys", ()):
        yield from entry


def _config_keys(configs: Mapping[str, Any]) -> set[str]:
    """Names; a part that is any is `*`. What Incus keeps for itself is one pattern."""
    groups = [*configs["instance"].items(), *configs["kernel"].items()]
    found = {key for name, group in groups if name != "volatile" for key in _keys(group)}
    found = {key.partition("<")[0] + "*" if "<" in key else key for key in found}
    return {key for key in found if not key.startswith(("user.", "raw."))} | {"raw.*", "user.*", "volatile.*"}


def _kind(takes: Callable[[str], bool]) -> str:
    if any(map(takes, WRONG)):
        return "text"
    return ",".join(kind for kind, right in PROBES.items() if all(map(takes, right))) or "text"


def _config_kind(client: Incus, key: str) -> str:
    return "text" if "*" in key else _kind(lambda value: accepts(client, {key: value}))


def _device_keys(client: Incus, configs: Mapping[str, Any], kind: str) -> Kinds:
    """A key of several groups is of a kind where all that were tried say so."""
    found: dict[str, set[str]] = {}
    for group, devices in DEVICES[kind].items():
        bases = [base for device in devices if accepts(client, {}, base := {"type": kind, **device})]
        for key in _keys(configs["devices"].get(group, {})):
            kinds = found.setdefault(key, set())
            if bases and "*" not in key:
                tried = [_kind(_in_device(client, base, key)) for base in bases]
                kinds.add(next((kind for kind in tried if kind != "text"), "text"))
    if not found:
        return {}
    found |= {key: set() for key in SILENT.get(kind, ())}
    return {key: kinds.pop() if len(kinds) == 1 else "text" for key, kinds in sorted(found.items())}


def _in_device(client: Incus, base: Mapping[str, str], key: str) -> Callable[[str], bool]:
    return lambda value: accepts(client, {}, {**base, key: value})


def main() -> None:
    from anklume_images.architectures import host_architecture
    from anklume_images.console import Console
    from anklume_images.pipeline import Options, Pipeline
    from anklume_images.settings import load_settings, store_home
    from anklume_images.specs.catalog import Catalog, builtin_specs
    from anklume_images.store.store import Store
    from launcher.private_incus.daemon import PrivateIncus

    catalog, options = Catalog.load([builtin_specs()]), Options(host_architecture(), refresh_missing=True)
    pipeline = Pipeline(Store(store_home()), catalog, load_settings(), options, Console())
    found = {}
    for name in VERSIONS:
        with PrivateIncus(tree=pipeline.tree(name).root) as incus, incus.client() as client:
            found[".".join(map(str, client.server.release[:2]))] = table(client)
    FILE.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", "utf-8")


if __name__ == "__main__":
    main()
