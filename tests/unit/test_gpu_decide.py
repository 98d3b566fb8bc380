"""Which card each machine gets: exclusive, shared, the whole file, the whole host."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anklume_images.errors import InvalidFileError, PolicyError
from launcher.gpu.holders import holders
from launcher.gpu.policy import GpuDecision, GpuRefusedError, decide, members_of
from launcher.gpu_policy.parts import collide
from launcher.infra.model import GpuSelector, Profile
from tests.unit.gpu_host import (
    address,
    console_chip,
    gpu,
    host,
    infra,
    instance,
    machine,
    nvidia,
    place,
    two_cards,
)

if TYPE_CHECKING:
    from launcher.gpu.cards import Card
    from launcher.infra.model import Infra

FIRST, SECOND = address(0), address(1)
GIB = 1 << 30


def judge(file: Infra, cards: tuple[Card, ...] | None = None, *live: dict[str, Any], **known: Any) -> GpuDecision:
    return decide(file, two_cards() if cards is None else cards, live, place, **known)


def pcis(decision: GpuDecision) -> dict[str, list[str]]:
    return {name: [grant.card.pci for grant in grants] for name, grants in decision.grants.items()}


def codes(decision: GpuDecision) -> list[tuple[str, str]]:
    return [(refusal.machine, refusal.code) for refusal in decision.refusals]


# Which card


def test_only_card_needs_no_name() -> None:
    decision = judge(infra(machine("a")), host(nvidia(0)))
    assert pcis(decision) == {"a": [FIRST]}
    assert decision.grants["a"][0].keys == {"type": "gpu", "gputype": "physical", "pci": FIRST}
    decision.check()


def test_several_cards_need_a_name() -> None:
    decision = judge(infra(machine("a")))
    assert pcis(decision) == {}
    assert codes(decision) == [("a", "gpu-unnamed")]
    with pytest.raises(InvalidFileError) as caught:
        decision.check()
    assert caught.value.exit_code == 2
    (problem,) = caught.value.problems
    assert (problem.file, problem.line, problem.column) == ("infra.yml", 7, 5)
    assert FIRST in str(problem)
    assert SECOND in str(problem)


def test_console_chip_needs_no_naming() -> None:
    assert pcis(judge(infra(machine("a")), host(console_chip(0), nvidia(1)))) == {"a": [SECOND]}


def test_host_without_a_card() -> None:
    decision = judge(infra(machine("a")), ())
    assert codes(decision) == [("a", "gpu-absent")]
    with pytest.raises(PolicyError) as caught:
        decision.check()
    assert caught.value.exit_code == 4


def test_machine_without_gpu_gets_none() -> None:
    assert judge(infra(machine("a", gpu=False))) == GpuDecision()


@pytest.mark.parametrize(
    "selector",
    [GpuSelector(pci=SECOND), GpuSelector(uuid="GPU-00000000-0000-0000-0000-000000000001"), GpuSelector(pci="02:00.0")],
)
def test_card_by_selector(selector: GpuSelector) -> None:
    assert pcis(judge(infra(machine("a", gpu_devices=(selector,))))) == {"a": [SECOND]}


def test_card_that_is_not_there_names_those_that_are() -> None:
    decision = judge(infra(machine("a", pci="0000:7f:00.0")))
    assert codes(decision) == [("a", "gpu-absent")]
    assert "0000:7f:00.0" in decision.refusals[0].message
    assert FIRST in decision.refusals[0].hint
    assert SECOND in decision.refusals[0].hint


def test_two_cards_for_one_machine() -> None:
    both = (GpuSelector(pci=FIRST), GpuSelector(pci=SECOND))
    decision = judge(infra(machine("a", gpu_devices=both)))
    assert [(grant.device, grant.card.pci) for grant in decision.grants["a"]] == [("gpu0", FIRST), ("gpu1", SECOND)]


def test_card_named_twice_is_granted_once() -> None:
    twice = (GpuSelector(pci=FIRST), GpuSelector(uuid="GPU-00000000-0000-0000-0000-000000000000"))
    assert pcis(judge(infra(machine("a", gpu_devices=twice)))) == {"a": [FIRST]}


@pytest.mark.parametrize(
    "device", [gpu(pci=SECOND), gpu(pci="02:00.0"), gpu(id="1"), gpu(vendorid="10de", pci=SECOND, gputype="physical")]
)
def test_card_by_a_device(device: dict[str, str]) -> None:
    decision = judge(infra(machine("a", devices={"card": device})))
    (grant,) = decision.grants["a"]
    assert (grant.device, grant.keys) == ("card", {"type": "gpu", "gputype": "physical", "pci": SECOND})


def test_card_by_a_profile() -> None:
    profiles = {"nvidia": Profile("nvidia", devices={"card": gpu(pci=SECOND)})}
    decision = judge(infra(machine("a", profiles=("default", "nvidia")), profiles=profiles))
    assert pcis(decision) == {"a": [SECOND]}


def test_machines_own_device_beats_the_profiles() -> None:
    profiles = {"nvidia": Profile("nvidia", devices={"card": gpu(pci=SECOND)})}
    own = machine("a", profiles=("nvidia",), devices={"card": gpu(pci=FIRST)})
    assert pcis(judge(infra(own, profiles=profiles))) == {"a": [FIRST]}


def test_selector_that_means_several_is_unclear() -> None:
    decision = judge(infra(machine("a", devices={"card": gpu(vendorid="10de")})))
    assert codes(decision) == [("a", "gpu-unnamed")]


def test_device_that_names_none_takes_the_named_card_and_keeps_its_options() -> None:
    profiles = {"nvidia": Profile("nvidia", devices={"card": gpu(gputype="physical", gid="44", mode="0666")})}
    decision = judge(infra(machine("a", pci=SECOND, profiles=("nvidia",)), profiles=profiles))
    (grant,) = decision.grants["a"]
    assert (grant.device, grant.keys["pci"], grant.keys["gid"], grant.keys["mode"]) == ("card", SECOND, "44", "0666")


def test_generated_devices_avoid_names_that_are_taken() -> None:
    disk = {"type": "disk", "source": "/srv", "path": "/srv"}
    decision = judge(infra(machine("a", pci=FIRST, devices={"gpu0": disk})))
    assert decision.grants["a"][0].device == "gpu1"


# MIG, SR-IOV, virtual machines


def mig(uuid: str) -> tuple[GpuSelector, ...]:
    return (GpuSelector(mig=uuid),)


def test_mig_devices_of_one_card_do_not_collide() -> None:
    file = infra(machine("a", gpu_devices=mig("MIG-aa")), machine("b", gpu_devices=mig("MIG-bb")))
    decision = judge(file, host(nvidia(0)))
    assert decision.refusals == ()
    assert decision.grants["b"][0].keys == {"type": "gpu", "gputype": "mig", "pci": FIRST, "mig.uuid": "MIG-bb"}


def test_one_mig_device_is_for_one_machine() -> None:
    file = infra(machine("a", gpu_devices=mig("MIG-aa")), machine("b", gpu_devices=mig("aa")))
    assert codes(judge(file, host(nvidia(0)))) == [("b", "gpu-exclusive")]


def test_mig_device_and_its_whole_card_collide() -> None:
    file = infra(machine("a", gpu_devices=mig("MIG-aa")), machine("b", pci=FIRST))
    assert codes(judge(file, host(nvidia(0)))) == [("b", "gpu-exclusive")]


def test_mig_device_is_found_where_its_card_is_known() -> None:
    file = infra(machine("a", gpu_devices=mig("MIG-aa")))
    assert codes(judge(file)) == [("a", "gpu-unnamed")]
    assert pcis(judge(file, mig={"MIG-aa": SECOND})) == {"a": [SECOND]}
    old = infra(machine("a", gpu_devices=mig("MIG-GPU-00000000-0000-0000-0000-000000000001/3/0")))
    assert pcis(judge(old)) == {"a": [SECOND]}
    assert judge(old).grants["a"][0].keys == gpu(gputype="mig", pci=SECOND, mig_gi="3", mig_ci="0")


def test_mig_device_by_a_device() -> None:
    device = gpu(gputype="mig", pci=SECOND, mig_gi="3", mig_ci="0")
    (grant,) = judge(infra(machine("a", devices={"card": device}))).grants["a"]
    assert (grant.part, grant.keys) == ("3/0", device)


def test_vm_needs_an_address() -> None:
    decision = judge(infra(machine("a", type="vm")), host(nvidia(0)))
    assert codes(decision) == [("a", "gpu-vm-without-pci")]
    by_uuid = (GpuSelector(uuid="GPU-00000000-0000-0000-0000-000000000000"),)
    assert codes(judge(infra(machine("a", type="vm", gpu_devices=by_uuid)))) == [("a", "gpu-vm-without-pci")]
    assert pcis(judge(infra(machine("a", type="vm", pci=SECOND)))) == {"a": [SECOND]}


def test_what_is_for_the_other_kind_of_instance_is_refused() -> None:
    assert codes(judge(infra(machine("a", type="vm", gpu_devices=mig("MIG-aa"))))) == [("a", "gpu-type")]
    for kind in ("sriov", "mdev"):
        file = infra(machine("a", devices={"card": gpu(gputype=kind, pci=FIRST)}))
        assert codes(judge(file)) == [("a", "gpu-type")]


def test_vms_share_a_card_by_its_virtual_functions() -> None:
    cards = host(nvidia(0), nvidia(1, sriov={"vfs": [{"pci_address": "0000:02:00.4"}]}))
    sliced = {"devices": {"card": gpu(gputype="sriov")}, "type": "vm"}
    decision = judge(infra(machine("a", **sliced), machine("b", **sliced)), cards)
    assert pcis(decision) == {"a": [SECOND], "b": [SECOND]}


# Exclusive


def test_two_machines_cannot_have_one_card() -> None:
    decision = judge(infra(machine("a"), machine("b", domain="work")), host(nvidia(0)))
    assert codes(decision) == [("b", "gpu-exclusive")]
    with pytest.raises(GpuRefusedError) as caught:
        decision.check()
    text = f"{caught.value} {caught.value.hint}"
    for word in ("a", "b", FIRST, "gpu_policy: shared"):
        assert word in text


def test_two_machines_have_a_card_each() -> None:
    assert pcis(judge(infra(machine("a", pci=FIRST), machine("b", pci=SECOND)))) == {"a": [FIRST], "b": [SECOND]}


@pytest.mark.parametrize("status", ["Running", "Stopped"])
def test_instance_outside_the_file_holds_its_card(status: str) -> None:
    other = instance("old", project="hand-made", status=status, gpu=gpu())
    decision = judge(infra(machine("a", pci=FIRST)), None, other)
    assert codes(decision) == [("a", "gpu-held")]
    (refusal,) = decision.refusals
    for word in ("old", "hand-made", FIRST, "which names no card", status.lower()):
        assert word in refusal.message
    for word in ("no other card is free", "gpu_policy: shared", "incus delete old --project hand-made"):
        assert word in refusal.hint


def test_refusal_names_the_cards_that_are_free() -> None:
    decision = judge(infra(machine("a", pci=FIRST)), None, instance("old", gpu=gpu(pci=FIRST)))
    assert f"name another card, free: {SECOND}" in decision.refusals[0].hint


def test_several_refusals_are_told_at_once() -> None:
    file = infra(machine("a", pci=FIRST), machine("b", pci=FIRST), machine("c", pci="0000:7f:00.0"), machine("d"))
    decision = judge(file)
    assert codes(decision) == [("b", "gpu-exclusive"), ("c", "gpu-absent"), ("d", "gpu-unnamed")]
    with pytest.raises(GpuRefusedError) as caught:
        decision.check()
    assert [name in str(caught.value) for name in ("b and a", "c asks", "d wants")] == [True] * 3


def test_machines_own_instance_is_no_rival() -> None:
    live = instance("a", project="ai", status="Running", gpu0=gpu(pci=FIRST))
    decision = judge(infra(machine("a", pci=FIRST)), None, live)
    assert decision.refusals == ()
    assert decision.waits == {}


def test_instance_of_the_same_name_elsewhere_is_one() -> None:
    live = instance("a", project="default", gpu0=gpu(pci=FIRST))
    assert codes(judge(infra(machine("a", pci=FIRST)), None, live)) == [("a", "gpu-held")]


def test_instance_in_a_project_named_as_the_machines_domain_is_one() -> None:
    """Projects may have other names than domains (`nesting_prefix`)."""
    live = instance("a", project="ai", gpu0=gpu(pci=FIRST))
    decision = decide(infra(machine("a", pci=FIRST)), two_cards(), [live], lambda entry: ("001-ai", entry.name))
    assert codes(decision) == [("a", "gpu-held")]


def test_all_that_want_a_card_are_told() -> None:
    both = (GpuSelector(pci=FIRST), GpuSelector(pci=SECOND))
    file = infra(machine("a", pci=FIRST), machine("b", gpu_devices=both), machine("c", pci=SECOND))
    assert codes(judge(file)) == [("b", "gpu-exclusive"), ("c", "gpu-exclusive")]


def test_card_that_changes_hands_waits() -> None:
    live = instance("a", project="ai", status="Running", gpu0=gpu(pci=FIRST))
    decision = judge(infra(machine("a", pci=SECOND), machine("b", pci=FIRST)), None, live)
    assert decision.refusals == ()
    assert decision.waits == {"b": ("a",)}
    decision.check_order({"a", "b"})
    decision.check_order({"a"})
    with pytest.raises(GpuRefusedError, match="b gets a card that a still holds"):
        decision.check_order({"b"})


def test_machine_that_gives_its_gpu_up_is_waited_for() -> None:
    live = instance("a", project="ai", gpu0=gpu(pci=FIRST))
    decision = judge(infra(machine("a", gpu=False), machine("b", pci=FIRST)), None, live)
    assert (pcis(decision), decision.waits) == ({"b": [FIRST]}, {"b": ("a",)})


def test_machine_of_a_disabled_domain_holds_on_while_it_is_there() -> None:
    file = infra(machine("a", pci=FIRST))
    live = instance("b", project="off", gpu0=gpu(pci=FIRST))
    assert codes(judge(file, None, live)) == [("a", "gpu-held")]


@pytest.mark.parametrize(
    "way",
    [
        {"devices": {"node": {"type": "unix-char", "path": "/dev/nvidia0"}}},
        {"devices": {"card": {"type": "pci", "address": FIRST}}},
        {"config": {"raw.lxc": "lxc.mount.entry = /dev/nvidia0 dev/nvidia0 none bind"}},
    ],
)
def test_machine_that_takes_a_card_past_its_gpu_devices_counts(way: dict[str, Any]) -> None:
    file = infra(machine("a", pci=FIRST), machine("b", gpu=False, **way))
    assert codes(judge(file)) == [("b", "gpu-exclusive")]
    held = instance("old", gpu=gpu(pci=FIRST))
    assert codes(judge(infra(machine("b", gpu=False, **way)), None, held)) == [("b", "gpu-held")]
    both = infra(machine("b", gpu=False, **way), machine("c", gpu=False, **way))
    assert codes(judge(both)) == [("c", "gpu-exclusive")]
    assert judge(infra(machine("a", pci=SECOND), machine("b", gpu=False, **way))).refusals == ()


# Shared


def test_shared_warns_and_names_all() -> None:
    file = infra(machine("a", pci=FIRST), machine("b", pci=FIRST), machine("c", pci=SECOND), policy="shared")
    decision = judge(file, None, instance("old", project="hand-made", gpu=gpu(pci=FIRST)))
    assert pcis(decision) == {"a": [FIRST], "b": [FIRST], "c": [SECOND]}
    assert decision.refusals == ()
    (warning,) = decision.warnings
    for word in ("a and b and old (project hand-made", FIRST, "memory apart"):
        assert word in warning


def test_nobody_to_share_with_is_no_warning() -> None:
    assert judge(infra(machine("a", pci=FIRST), policy="shared")).warnings == ()


def test_shared_is_not_for_vms() -> None:
    file = infra(machine("a", pci=FIRST), machine("v", pci=FIRST, type="vm"), policy="shared")
    assert codes(judge(file)) == [("v", "gpu-vm-shared")]
    file = infra(machine("v", pci=FIRST, type="vm"), machine("a", pci=FIRST), policy="shared")
    assert codes(judge(file)) == [("a", "gpu-vm-shared")]
    vm = instance("old", kind="virtual-machine", gpu=gpu(pci=FIRST))
    assert codes(judge(infra(machine("a", pci=FIRST), policy="shared"), None, vm)) == [("a", "gpu-vm-shared")]
    container = instance("old", gpu=gpu(pci=FIRST))
    decision = judge(infra(machine("v", pci=FIRST, type="vm"), policy="shared"), None, container)
    assert codes(decision) == [("v", "gpu-vm-shared")]
    assert "gpu_policy: shared" not in decision.refusals[0].hint


# Memory


def test_memory_of_a_card_is_for_all_its_machines_together() -> None:
    file = infra(
        machine("a", pci=FIRST, gpu_memory=8 * GIB), machine("b", pci=FIRST, gpu_memory=20 * GIB), policy="shared"
    )
    assert judge(file, memory={FIRST: 28 * GIB}).refusals == ()
    decision = judge(file, memory={FIRST: 24 * GIB})
    assert codes(decision) == [("b", "gpu-memory")]
    for word in ("a 8.0 GiB", "b 20.0 GiB", "24.0 GiB", FIRST):
        assert word in decision.refusals[0].message
    assert decision.grants == {}


def test_one_machine_can_want_too_much() -> None:
    decision = judge(infra(machine("a", pci=FIRST, gpu_memory=25 * GIB)), memory={FIRST: 24 * GIB})
    assert codes(decision) == [("a", "gpu-memory")]
    assert decision.refusals[0].exit_code == 4


def test_need_is_spread_over_a_machines_cards() -> None:
    both = (GpuSelector(pci=FIRST), GpuSelector(pci=SECOND))
    file = infra(machine("a", gpu_devices=both, gpu_memory=40 * GIB))
    assert judge(file, memory={FIRST: 24 * GIB, SECOND: 24 * GIB}).refusals == ()
    assert codes(judge(file, memory={FIRST: 24 * GIB, SECOND: 16 * GIB})) == [("a", "gpu-memory")]


def test_unknown_memory_is_said() -> None:
    decision = judge(infra(machine("a", pci=FIRST, gpu_memory=GIB)))
    assert decision.refusals == ()
    assert "gpu_memory was not checked" in decision.warnings[0]


# Clusters


def cluster() -> tuple[Card, ...]:
    return host(nvidia(0), member="one") + host(nvidia(0), member="two")


def test_same_address_on_two_members_is_two_cards() -> None:
    file = infra(machine("a", pci=FIRST, target="one"), machine("b", pci=FIRST, target="two"))
    decision = judge(file, cluster(), members=members_of(file, [], place))
    assert [decision.grants[name][0].card.member for name in ("a", "b")] == ["one", "two"]


def test_member_has_to_be_said_where_it_matters() -> None:
    decision = judge(infra(machine("a", pci=FIRST)), cluster())
    assert codes(decision) == [("a", "gpu-unnamed")]
    assert "target" in decision.refusals[0].hint


def test_instance_stays_on_its_member() -> None:
    file = infra(machine("a", target="@gpu"), machine("b", target="two"), machine("c"))
    live = [instance("a", project="ai", location="one"), instance("b", project="ai", location="one")]
    assert members_of(file, live, place) == {"a": "one", "b": "one"}
    assert members_of(file, [instance("a", project="ai", location="none")], place) == {"b": "two"}


# Whatever happens

SELECTORS = st.one_of(
    st.none(),
    st.sampled_from([GpuSelector(pci=address(index)) for index in range(4)]),
    st.sampled_from([GpuSelector(uuid=f"GPU-00000000-0000-0000-0000-{index:012d}") for index in range(3)]),
    st.sampled_from([GpuSelector(mig="MIG-aa"), GpuSelector(mig="MIG-bb")]),
)
DEVICES = st.sampled_from(
    [
        gpu(),
        gpu(pci=FIRST),
        gpu(pci=SECOND),
        gpu(id="1"),
        gpu(vendorid="10de"),
        gpu(gputype="mig", pci=FIRST, mig_uuid="aa"),
        gpu(gputype="mig", mig_uuid="bb"),
        gpu(gputype="sriov", pci=FIRST),
        {"type": "unix-char", "path": "/dev/nvidia1"},
        {"type": "pci", "address": FIRST},
        {"type": "nic", "network": "n"},
    ]
)


@st.composite
def files(draw: st.DrawFn, policy: str) -> Infra:
    made = []
    for number in range(draw(st.integers(1, 4))):
        selectors = tuple(filter(None, draw(st.lists(SELECTORS, max_size=2))))
        devices = draw(st.dictionaries(st.sampled_from(["g1", "g2"]), DEVICES, max_size=2))
        wants = draw(st.booleans()) or bool(selectors) or any(device["type"] == "gpu" for device in devices.values())
        kind = draw(st.sampled_from(["lxc", "lxc", "vm"]))
        made.append(machine(f"m{number}", gpu=wants, gpu_devices=selectors, devices=devices, type=kind))
    return infra(*made, policy=policy)


LIVE = st.lists(
    st.builds(
        lambda name, project, device, kind, status: instance(name, project=project, kind=kind, status=status, g=device),
        st.sampled_from(["m0", "m1", "x", "y"]),
        st.sampled_from(["ai", "other"]),
        DEVICES,
        st.sampled_from(["container", "virtual-machine"]),
        st.sampled_from(["Running", "Stopped"]),
    ),
    max_size=3,
    unique_by=lambda found: (found["name"], found["project"]),
)
CARDS = st.sampled_from(
    [(), host(nvidia(0)), two_cards(), host(console_chip(0), nvidia(1)), host(*map(nvidia, range(3)))]
)


@given(files("exclusive"), CARDS, LIVE)
def test_exclusive_never_grants_a_card_twice_or_one_that_is_held(
    file: Infra, cards: tuple[Card, ...], live: list[dict[str, Any]]
) -> None:
    decision = judge(file, cards, *live)
    granted = [(name, grant) for name, grants in decision.grants.items() for grant in grants]
    for number, (name, grant) in enumerate(granted):
        for other, taken in granted[:number]:
            assert other == name or taken.card != grant.card or not grant.collides(taken.mode, taken.part)
    own = {place(entry) for entry in file.machines()}
    for holder in holders(cards, live):
        if (holder.project, holder.instance) in own:
            continue
        for _, grant in granted:
            assert holder.card != grant.card or not collide((grant.mode, grant.part), (holder.mode, holder.part))


@given(files("exclusive"), CARDS, LIVE)
def test_what_is_applied_as_decided_is_decided_again(
    file: Infra, cards: tuple[Card, ...], live: list[dict[str, Any]]
) -> None:
    decision = judge(file, cards, *live)
    own = {place(entry) for entry in file.machines()}
    after = [found for found in live if (found["project"], found["name"]) not in own]
    for entry in file.machines():
        devices = {grant.device: grant.keys for grant in decision.grants.get(entry.name, ())}
        kind = "virtual-machine" if entry.type == "vm" else "container"
        after.append(instance(entry.name, project=entry.domain, kind=kind, **devices))
    again = judge(file, cards, *after)
    assert (again.grants, again.refusals, again.waits) == (decision.grants, decision.refusals, {})


@given(st.sampled_from(["exclusive", "shared"]).flatmap(files), CARDS, LIVE)
def test_every_gpu_machine_is_granted_or_told_why_not(
    file: Infra, cards: tuple[Card, ...], live: list[dict[str, Any]]
) -> None:
    decision = judge(file, cards, *live)
    told = {refusal.machine for refusal in decision.refusals}
    for entry in file.machines():
        assert not entry.gpu or entry.name in decision.grants or entry.name in told
    for grants in decision.grants.values():
        assert all(grant.keys["pci"] == grant.card.pci for grant in grants)
    if decision.refusals:
        with pytest.raises((GpuRefusedError, InvalidFileError)):
            decision.check()
