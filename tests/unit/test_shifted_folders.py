"""Which folders of the host are to be shown to a container with its own user IDs, and which cannot be."""

from __future__ import annotations

import pytest

from anklume_images.errors import AnklumeError
from launcher.infra.model import PersistentData, Profile, SharedMount
from launcher.plan.folders import check_folders, shifted_folders
from tests.unit.test_plan import infra, machine

DATA = PersistentData("d", "/srv/d", "/d")
SHARE = SharedMount("s", "/srv/s", "/s", readonly=False)
BOX = machine(persistent_data=(DATA,), shares=(SHARE,))


def test_those_of_a_container_are() -> None:
    assert [folder.source for folder in shifted_folders(infra(BOX), {"box"})] == ["/srv/d", "/srv/s"]
    assert list(shifted_folders(infra(BOX), {"other"})) == []


@pytest.mark.parametrize("value", ["true", "1", "True", "on"])
def test_a_privileged_container_has_the_users_of_the_host(value: str) -> None:
    itself = machine(persistent_data=(DATA,), config={"security.privileged": value})
    assert list(shifted_folders(infra(itself), {"box"})) == []
    profile = {"default": Profile("default", config={"security.privileged": value})}
    assert list(shifted_folders(infra(BOX, profiles=profile), {"box"})) == []
    again = machine(persistent_data=(DATA,), config={"security.privileged": "false"})
    assert len(list(shifted_folders(infra(again, profiles=profile), {"box"}))) == 1


def test_those_without_shift_and_those_of_virtual_machines_are_not() -> None:
    plain = PersistentData("d", "/srv/d", "/d", shift=False)
    assert list(shifted_folders(infra(machine(persistent_data=(plain,))), {"box"})) == []
    assert list(shifted_folders(infra(machine(type="vm", persistent_data=(DATA,))), {"box"})) == []


def test_one_on_a_file_system_that_cannot_is_refused() -> None:
    folders = list(shifted_folders(infra(BOX), {"box"}))
    check_folders(folders, {})
    with pytest.raises(AnklumeError, match="the shared volume s of box is on nfs4 \\(/srv/s\\)") as raised:
        check_folders(folders, {"/srv/s": "nfs4"})
    assert "/srv/d" not in raised.value.message
