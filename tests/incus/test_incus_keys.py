"""The committed table of Incus' keys is what both daemons say, and they take and refuse what it says they do."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from launcher.infra.incus_keys import config_keys, device_keys
from tests.support.incus_keys import DEVICES, FILE, PROBES, PROFILE, accepts, names

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anklume_images.incus.client import Incus

pytestmark = pytest.mark.both_versions

RENEW = "python -m tests.support.incus_keys"


@pytest.fixture
def table(client: Incus) -> Iterator[dict[str, Any]]:
    """The committed table of the daemon's version, with a profile in which to try it."""
    client.send("post", "profiles", {"name": PROFILE})
    release = ".".join(map(str, client.server.release[:2]))
    yield json.loads(FILE.read_text("utf-8"))[release]
    client.send("delete", f"profiles/{PROFILE}")


def test_the_table_is_what_the_daemon_says(client: Incus, table: dict[str, Any]) -> None:
    said = names(client)
    assert sorted(table["config"]) == said["config"], RENEW
    assert {kind: sorted(keys) for kind, keys in table["devices"].items()} == said["devices"], RENEW


def test_checked_config_is_taken_and_refused_as_the_table_says(client: Incus, table: dict[str, Any]) -> None:
    checked = {key: kinds.split(",") for key, kinds in table["config"].items() if kinds != "text"}
    assert len(checked) > 40
    for key, kinds in checked.items():
        for kind in kinds:
            assert accepts(client, {key: PROBES[kind][0]}), f"{key}: {RENEW}"
            known = config_keys().find(key)
            assert known is not None
            assert known.problem(PROBES[kind][0]) is None
        assert not accepts(client, {key: "maybe"}), f"{key}: {RENEW}"
        assert known.problem("maybe")


def test_checked_devices_are_refused_as_the_table_says(client: Incus, table: dict[str, Any]) -> None:
    for kind, keys in table["devices"].items():
        known = device_keys(kind)
        assert known is not None
        for key in (key for key, kinds in keys.items() if kinds != "text"):
            found = known.find(key)
            assert found is not None
            assert found.problem("maybe")
            for device in (device for devices in DEVICES[kind].values() for device in devices):
                assert not accepts(client, {}, {"type": kind, **device, key: "maybe"}), f"{kind} {key}: {RENEW}"
