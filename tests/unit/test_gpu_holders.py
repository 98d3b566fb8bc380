"""Every way in which an instance can hold a card, and what holds none."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.gpu.holders import holders
from launcher.gpu_policy.parts import collide
from tests.unit.gpu_host import address, amd, gpu, host, instance, nvidia, two_cards

FIRST, SECOND = address(0), address(1)


def held(found: dict[str, Any], *entries: dict[str, Any]) -> list[str]:
    return [holder.card.pci for holder in holders(host(*entries) if entries else two_cards(), [found])]


def node(path: str, **keys: str) -> dict[str, str]:
    return {"type": "unix-char", "path": path, **keys}


@pytest.mark.parametrize(
    ("device", "cards"),
    [
        (gpu(), [FIRST, SECOND]),
        (gpu(gputype="physical"), [FIRST, SECOND]),
        (gpu(gputype="no-such-type"), [FIRST, SECOND]),
        (gpu(pci=FIRST), [FIRST]),
        (gpu(pci="02:00.0"), [SECOND]),
        (gpu(pci="0000:7f:00.0"), []),
        (gpu(id="1"), [SECOND]),
        (gpu(id="0"), [FIRST]),
        (gpu(vendorid="10de"), [FIRST, SECOND]),
        (gpu(vendorid="10DE", productid="2684"), [FIRST, SECOND]),
        (gpu(vendorid="1002"), []),
        (gpu(vendorid="10de", productid="ffff"), []),
        (gpu(pci=""), [FIRST, SECOND]),
        ({"type": "pci", "address": SECOND}, [SECOND]),
        ({"type": "pci", "address": "02:00.0"}, [SECOND]),
        ({"type": "pci", "address": "0000:02:00.1"}, []),
        (node("/dev/nvidia0"), [FIRST]),
        (node("/dev/gpu", source="/dev/nvidia1"), [SECOND]),
        (node("/dev/anything", major="195", minor="1"), [SECOND]),
        (node("/dev/anything", major="226", minor="128"), [FIRST]),
        (node("/dev/anything", major="195", minor="255"), []),
        (node("/dev/dri/renderD129"), [SECOND]),
        (node("/dev/dri/card0"), [FIRST]),
        (node("/dev/dri/by-path/pci-0000:02:00.0-render"), [SECOND]),
        (node("/dev/char/195:1"), [SECOND]),
        (node("/dev//dri/../dri/card0"), [FIRST]),
        (node("/dev/nvidiactl"), []),
        (node("/dev/nvidia-uvm"), []),
        (node("/dev/nvidia-modeset"), []),
        (node("/dev/nvidia-caps/nvidia-cap1"), []),
        (node("/dev/nvidia7"), []),
        (node("/dev/ttyUSB0"), []),
        (node("/dev/kfd"), []),
        ({"type": "disk", "source": "/dev/dri", "path": "/dev/dri"}, [FIRST, SECOND]),
        ({"type": "disk", "source": "/dev/nvidia0", "path": "/dev/nvidia0"}, [FIRST]),
        ({"type": "disk", "pool": "default", "source": "dev", "path": "/dev"}, []),
        ({"type": "disk", "source": "/srv/dev/dri", "path": "/dev/dri"}, []),
        ({"type": "none"}, []),
        ({"type": "nic", "network": "incusbr0"}, []),
    ],
)
def test_device(device: dict[str, str], cards: list[str]) -> None:
    assert held(instance("c1", thing=device)) == cards


@pytest.mark.parametrize(
    ("raw", "cards"),
    [
        ("lxc.cgroup.devices.allow = c 195:0 rwm", [FIRST]),
        ("lxc.cgroup2.devices.allow = c 195:* rwm", [FIRST, SECOND]),
        ("lxc.cgroup2.devices.allow=c 226:129 rw", [SECOND]),
        ("lxc.cgroup2.devices.allow = c 226:* rwm", [FIRST, SECOND]),
        ("lxc.cgroup2.devices.allow = c 195:255 rwm", []),
        ("lxc.cgroup2.devices.allow = c 195:0 m", []),
        ("lxc.cgroup2.devices.allow = c 195:0", [FIRST]),
        ("lxc.cgroup2.devices.allow = c 10:200 rwm", []),
        ("lxc.cgroup2.devices.allow = b 226:0 rwm", []),
        ("lxc.cgroup2.devices.allow = a", []),
        ("lxc.cgroup2.devices.deny = c 195:0 rwm", []),
        ("lxc.mount.entry = /dev/nvidia1 dev/nvidia1 none bind,optional,create=file", [SECOND]),
        ("lxc.mount.entry = /dev/dri dev/dri none bind,optional,create=dir", [FIRST, SECOND]),
        ("lxc.mount.entry = /dev/dri/card1 dev/dri/card1 none bind", [SECOND]),
        ("lxc.mount.entry = /dev/nvidiactl dev/nvidiactl none bind", []),
        ("lxc.mount.entry =", []),
        ("lxc.environment = NVIDIA_VISIBLE_DEVICES=all", [FIRST, SECOND]),
        ("lxc.environment = NVIDIA_VISIBLE_DEVICES=none", []),
        ("lxc.environment = NVIDIA_VISIBLE_DEVICES=", []),
        ("lxc.environment = NVIDIA_VISIBLE_DEVICES=1", [SECOND]),
        ("lxc.environment = NVIDIA_VISIBLE_DEVICES=GPU-00000000-0000-0000-0000-000000000000", [FIRST]),
        ("lxc.environment = NVIDIA_VISIBLE_DEVICES=MIG-whatever", [FIRST, SECOND]),
        ("# lxc.mount.entry = /dev/nvidia1 dev/nvidia1 none bind", []),
        ("lxc.apparmor.profile = unconfined\nlxc.mount.entry = /dev/nvidia0 dev/nvidia0 none bind", [FIRST]),
        ("nonsense\n=\n= = =\nlxc.cgroup2.devices.allow = c\nlxc.cgroup2.devices.allow = c 195 rwm", []),
    ],
)
def test_raw_lxc(raw: str, cards: list[str]) -> None:
    assert held(instance("c1", config={"raw.lxc": raw})) == cards


@pytest.mark.parametrize("rule", ["a", "a *:* rwm", "c *:* rwm"])
def test_all_devices_count_where_the_container_may_make_nodes(rule: str) -> None:
    config = {"raw.lxc": f"lxc.cgroup2.devices.allow = {rule}"}
    assert held(instance("c1", config=config)) == []
    assert held(instance("c1", config={**config, "security.privileged": "true"})) == [FIRST, SECOND]


@pytest.mark.parametrize(
    "config",
    [
        {"raw.qemu": "-device vfio-pci,host=02:00.0"},
        {"raw.qemu": "-device vfio-pci,sysfsdev=/sys/bus/pci/devices/0000:02:00.0"},
        {"raw.qemu.conf": '[device "card"]\ndriver = "vfio-pci"\nhost = "0000:02:00.0"'},
    ],
)
def test_raw_qemu(config: dict[str, str]) -> None:
    assert held(instance("v1", kind="virtual-machine", config=config)) == [SECOND]


def test_devices_of_a_profile_count() -> None:
    found = instance("c1", gpu=gpu(pci=FIRST))
    assert found["devices"] == {}  # only the expanded ones have it
    assert held(found) == [FIRST]


LAST_STATE = {"boot.autostart": "last-state", "volatile.last_state.power": "RUNNING"}


def test_every_project_counts_running_or_not() -> None:
    found = holders(
        two_cards(),
        [
            instance("a", project="one", status="Running", gpu=gpu(pci=FIRST)),
            instance("b", project="two", gpu=gpu(pci=FIRST)),
            instance("c", project="two", config={"boot.autostart": "true"}, gpu=gpu(pci=SECOND)),
            instance("d", project="two", config={"volatile.last_state.power": "RUNNING"}, gpu=gpu(pci=SECOND)),
            instance("e", status="Frozen", gpu=gpu(pci=SECOND)),
            instance("f", project="two", config=LAST_STATE, gpu=gpu(pci=SECOND)),
        ],
    )
    assert [(holder.project, holder.instance, holder.state) for holder in found] == [
        ("one", "a", "running"),
        ("two", "b", "stopped"),
        ("default", "e", "running"),
        ("two", "c", "stopped, starts with Incus"),
        ("two", "d", "stopped, starts with Incus"),
        ("two", "f", "stopped, starts with Incus"),
    ]


def test_ways_of_one_instance_are_one_hold() -> None:
    raw = {"raw.lxc": "lxc.cgroup2.devices.allow = c 195:0 rwm\nlxc.mount.entry = /dev/nvidia0 dev/nvidia0 none bind"}
    (holder,) = holders(two_cards(), [instance("c1", config=raw, gpu=gpu(pci=FIRST), node=node("/dev/nvidia0"))])
    assert holder.by == "device gpu, device node (/dev/nvidia0), raw.lxc"
    assert holder.mode == "physical"


def test_words_say_that_a_device_names_no_card() -> None:
    first, _ = holders(two_cards(), [instance("c1", gpu0=gpu())])
    assert first.by == "device gpu0, which names no card"


def test_names_that_others_chose_cannot_write_to_the_terminal() -> None:
    found = instance("c1")
    found["expanded_devices"] = {"\x1b[2J\n" + "x" * 500: gpu(pci=FIRST)}
    (holder,) = holders(two_cards(), [found])
    assert holder.by.startswith("device \\x1b[2J\\nxxx")
    assert len(holder.by) == 200


def test_nodes_without_nvidias_tools_count_in_order() -> None:
    bare = [{**nvidia(index), "nvidia": None} for index in range(2)]
    assert held(instance("c1", thing=node("/dev/nvidia1")), *bare) == [SECOND]


def test_nodes_are_numbered_as_nvidias_tools_say() -> None:
    crossed = [{**nvidia(index), "nvidia": nvidia(1 - index)["nvidia"]} for index in range(2)]
    assert held(instance("c1", thing=node("/dev/nvidia1")), *crossed) == [FIRST]


def test_kfd_alone_means_every_amd_card() -> None:
    entries = (amd(0), amd(1), nvidia(2))
    assert held(instance("c1", kfd=node("/dev/kfd")), *entries) == [FIRST, SECOND]


def test_kfd_beside_a_card_means_that_card() -> None:
    entries = (amd(0), amd(1))
    assert held(instance("c1", kfd=node("/dev/kfd"), gpu=gpu(pci=SECOND)), *entries) == [SECOND]
    assert held(instance("c1", kfd=node("/dev/kfd"), dri=node("/dev/dri/renderD128")), *entries) == [FIRST]


def test_holders_are_where_the_card_is() -> None:
    cards = host(nvidia(0), member="one") + host(nvidia(0), member="two")
    (holder,) = holders(cards, [instance("c1", location="two", gpu=gpu())])
    assert holder.card.member == "two"


def test_parts_that_the_hardware_keeps_apart() -> None:
    def parts(*devices: dict[str, str]) -> list[tuple[Any, Any]]:
        entries = [instance(f"c{number}", thing=device) for number, device in enumerate(devices)]
        return [(holder.mode, holder.part) for holder in holders(host(nvidia(0)), entries)]

    one, two = parts(gpu(gputype="mig", mig_uuid="MIG-a"), gpu(gputype="mig", mig_uuid="b"))
    assert not collide(one, two)
    assert collide(one, one)
    (numbers,) = parts(gpu(gputype="mig", mig_gi="3", mig_ci="0"))
    assert collide(one, numbers)  # they may be the same
    (old,) = parts(gpu(gputype="mig", mig_uuid="MIG-GPU-00000000/3/0"))
    assert old == numbers
    (whole,) = parts(gpu())
    assert collide(whole, one)
    assert collide(whole, whole)
    first, second = parts(gpu(gputype="sriov"), gpu(gputype="sriov"))
    assert not collide(first, second)
    assert collide(first, one)


def test_virtual_function_by_pci_device_is_a_part() -> None:
    vfs = [{"pci_address": "0000:01:00.4"}]
    (holder,) = holders(
        host(nvidia(0, sriov={"vfs": vfs})), [instance("v1", nic={"type": "pci", "address": "0000:01:00.4"})]
    )
    assert (holder.card.pci, holder.part) == (FIRST, "0000:01:00.4")
    assert collide((holder.mode, holder.part), ("pci", None))
    assert not collide((holder.mode, holder.part), ("pci", "0000:01:00.5"))


def test_what_older_servers_leave_out_is_no_trouble() -> None:
    assert (
        holders(two_cards(), [{"name": "c1"}, {"name": "c2", "devices": {"g": gpu(pci=FIRST)}, "config": None}]) != ()
    )


@given(
    st.text(max_size=200),
    st.dictionaries(
        st.text(max_size=5),
        st.dictionaries(
            st.sampled_from(["type", "pci", "id", "source", "path", "major", "minor", "gputype", "address"]),
            st.one_of(st.sampled_from(["gpu", "unix-char", "pci", "disk", "/dev/dri"]), st.text(max_size=12)),
        ),
        max_size=3,
    ),
)
def test_nothing_that_an_instance_says_is_an_error(raw: str, devices: dict[str, dict[str, str]]) -> None:
    found = instance("c1", config={"raw.lxc": raw, "raw.qemu": raw})
    found["expanded_devices"] = devices
    for holder in holders(two_cards(), [found]):
        assert holder.card in two_cards()
        assert holder.by
