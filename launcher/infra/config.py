"""Configuration and devices as Incus has them: names that it does not know, values that it does not take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from launcher.infra.incus_keys import FREE, config_keys, device_keys
from launcher.infra.report import shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from anklume_images.specs.yamlfile import KeyPath
    from launcher.infra.incus_keys import Keys
    from launcher.infra.report import Report

__all__ = ["check_config"]

_OWN_KEYS = ("user.anklume-launch.", "user.anklume.")


def check_config(domains: Mapping[str, Any], report: Report) -> None:
    """The config and the devices of every profile and machine, those of disabled domains too."""
    for path, part in _parts(domains):
        config = part["config"]
        _check_own(config, (*path, "config"), report)
        _check_keys(config, (*path, "config"), config_keys(), report)
        for name, device in part["devices"].items():
            keys = device_keys(device["type"])
            if keys is not None:
                _check_keys(device, (*path, "devices", name), keys, report)


def _parts(domains: Mapping[str, Any]) -> Iterator[tuple[KeyPath, Mapping[str, Any]]]:
    for domain, data in domains.items():
        for kind in ("profiles", "machines"):
            for name, part in data[kind].items():
                yield ("domains", domain, kind, name), part


def _check_own(config: Mapping[str, str], path: KeyPath, report: Report) -> None:
    for key in config:
        for prefix in _OWN_KEYS:
            if key.startswith(prefix):
                hint = f"vars: {{{key.removeprefix(prefix)}: …}}" if prefix == "user.anklume." else None
                message = f"the key {shown(key)} is the launcher's own"
                report.error((*path, key), "reserved-name", message, key=True, hint=hint)


def _check_keys(values: Mapping[str, str], path: KeyPath, keys: Keys, report: Report) -> None:
    for key, value in values.items():
        known = keys.find(key)
        if known is not None:
            if problem := known.problem(value):
                report.error((*path, key), "wrong-value", f"{shown(key)} {problem}, not {shown(value)}")
        elif not key.startswith(FREE):
            message = f"Incus is not known to have a key {shown(key)}"
            report.warn((*path, key), "unknown-incus-key", message, key=True, hint=report.did_you_mean(key, keys.names))
