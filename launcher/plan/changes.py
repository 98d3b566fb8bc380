"""What differs between a wanted object and the one that is there, and what of it a machine takes while it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from launcher.gpu.vendors.nvidia_driver import gives_driver
from launcher.infra.live import RESTARTING_DEVICES, is_live_config
from launcher.infra.names import DOMAIN, IMAGE, MARK, OWNER, VARIABLE
from launcher.infra.schema import MACHINE

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from launcher.resources import Resource

__all__ = [
    "ASTRAY",
    "BASE_IMAGE",
    "MODELS",
    "SHARED",
    "Change",
    "changes_of",
    "is_live",
    "is_live_device",
]

ASTRAY = "address"  # the key of a change that is about the address that a machine has, not the one it is to have
BASE_IMAGE = "volatile.base_image"  # where Incus keeps the fingerprint that an instance was made of
MODELS = "models."  # begins the key of a change that brings a model into a volume; what it says are bytes
SHARED = "volumes."  # begins the key of a change that is about a volume which another machine joins
_OWN_KEYS = ("description", "profiles")  # of an instance that are keys of a machine, too
_PARTLY = frozenset({"project", "network", "volume"})  # Incus adds defaults of its own to their config


@dataclass(frozen=True)
class Change:
    """One key that differs: `config.limits.cpu`, `devices.eth0.network`; None where there is or will be none."""

    key: str
    before: Any
    after: Any
    secret: bool = False


def changes_of(resource: Resource, existing: Mapping[str, Any]) -> tuple[Change, ...]:
    """What differs, key by key."""
    if resource.key.kind == "image":
        return ()
    if resource.key.kind == "models":
        return tuple(_model_changes(resource, existing))
    return tuple(_changes(resource, existing))


def is_live_device(device: Mapping[str, str]) -> bool:
    """Whether a device comes, goes and changes while its instance runs."""
    return device.get("type") not in RESTARTING_DEVICES and not gives_driver(device)


def is_live(change: Change, resource: Resource, existing: Mapping[str, Any]) -> bool:
    """Whether a running instance takes a change as it is, to all that matters."""
    section, _, name = change.key.partition(".")
    if section == "config":
        return is_live_config(name)
    if section == "devices":
        device = name.partition(".")[0]
        both = (resource.body["devices"], existing.get("devices") or {})
        return device != "root" and all(is_live_device(devices.get(device) or {}) for devices in both)
    return section in _OWN_KEYS and MACHINE.infos()[section].changing == "live"


def _missing_bytes(resource: Resource, missing: Collection[str]) -> dict[str, int]:
    """What is to be brought of each model, in bytes: of its files, those at these paths."""
    return {
        model.name: sum(file.size for file in model.files if file.path in missing)
        for model in resource.models
        if any(file.path in missing for file in model.files)
    }


def _model_changes(resource: Resource, existing: Mapping[str, Any]) -> Iterator[Change]:
    missing = existing["missing"]
    yield from (Change(f"{MODELS}{name}", None, size) for name, size in _missing_bytes(resource, missing).items())


def _changes(resource: Resource, existing: Mapping[str, Any]) -> Iterator[Change]:
    kind = resource.key.kind
    before, after = dict(existing.get("config") or {}), dict(resource.config)
    for name in sorted({*before, *after}):
        if name == IMAGE and before.get(BASE_IMAGE) != (resource.image.fingerprint if resource.image else None):
            continue  # it tells of what the machine was made of
        if before.get(name) != after.get(name) and (name in after or not _is_others(kind, name)):
            secret = name.startswith(VARIABLE) and name not in resource.plain
            yield Change(f"config.{name}", before.get(name), after.get(name), secret)
    if "devices" in resource.body:
        yield from _device_changes(existing.get("devices") or {}, resource.body["devices"])
    for name in _OWN_KEYS:
        if name in resource.body and resource.body[name] != existing.get(name):
            yield Change(name, existing.get(name), resource.body[name])
    for name in ("ingress", "egress"):
        if name in resource.body:
            yield from _rule_changes(name, existing.get(name) or [], resource.body[name])


def _rule_changes(name: str, before: list[dict[str, str]], after: list[dict[str, str]]) -> Iterator[Change]:
    """Rules that go and rules that come, each in words."""
    old, new = ([_in_words(rule) for rule in rules] for rules in (before, after))
    yield from (Change(name, rule, None) for rule in old if rule not in new)
    yield from (Change(name, None, rule) for rule in new if rule not in old)
    if old != new and sorted(old) == sorted(new):
        yield Change(name, old, new)


def _in_words(rule: Mapping[str, str]) -> str:
    """`allow tcp from 10.140.0.1/32 to 10.110.0.1/32 port 8080`; what a rule says besides comes last."""
    words = [rule.get("action", ""), rule.get("protocol") or "all"]
    for key, word in (("source", "from"), ("destination", "to"), ("destination_port", "port")):
        if rule.get(key):
            words += [word, rule[key]]
    known = {"action", "protocol", "source", "destination", "destination_port"}
    words += [f"{key}={text}" for key, text in sorted(rule.items()) if key not in known and text not in ("", "enabled")]
    return " ".join(words)


def _is_others(kind: str, name: str) -> bool:
    """Whether a config key that nobody asked for is none of the launcher's business."""
    if name.startswith((MARK, VARIABLE)):
        return name in (OWNER, DOMAIN)  # an adopted thing's
    return kind in _PARTLY or name.startswith(("volatile.", "image.", "user."))


def _device_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Change]:
    for name in sorted({*before, *after}):
        if name not in before or name not in after:
            yield Change(f"devices.{name}", before.get(name), after.get(name))
            continue
        for key in sorted({*before[name], *after[name]}):
            if before[name].get(key) != after[name].get(key):
                yield Change(f"devices.{name}.{key}", before[name].get(key), after[name].get(key))
