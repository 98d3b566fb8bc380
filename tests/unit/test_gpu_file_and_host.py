"""What `check` says of a file's GPUs is what `plan` says on a host that has the cards, with nobody else on them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anklume_images.specs.catalog import Catalog
from launcher.gpu.policy import decide
from launcher.gpu_policy.judge import Hold, judge
from launcher.gpu_policy.parts import collide
from launcher.gpu_policy.refusals import POLICY_CODES
from launcher.infra.host import HostFacts
from launcher.infra.load import check_infra
from launcher.infra.model import GpuSelector
from tests.unit.gpu_host import address, gpu, host, infra, machine, nvidia, place

if TYPE_CHECKING:
    from pathlib import Path

    from launcher.gpu.cards import Card

FUNCTIONS = [{"vfs": [{"pci_address": f"0000:{index + 1:02x}:00.{n}"} for n in (4, 5)]} for index in range(3)]
CARDS = host(*(nvidia(index, sriov=FUNCTIONS[index]) for index in range(3)))
MIG = {"MIG-aa": address(0), "MIG-bb": address(0), "MIG-cc": address(1)}

Asking = dict[str, Any]  # keys of a machine


def selector(kind: str, value: str) -> Asking:
    return {"gpu_devices": [{kind: value}]}


def device(**keys: str) -> Asking:
    return {"devices": {"g": gpu(**keys)}}


# Every way to name a card, by the kind of its name.
BY_PCI = [
    *(selector("pci", address(index)) for index in range(3)),
    *(device(pci=address(index).removeprefix("0000:")) for index in range(3)),
    *(device(pci=address(0), gputype="mig", mig_gi=number, mig_ci="0") for number in ("3", "4")),
    *(device(pci=address(index), gputype=mode) for index in range(2) for mode in ("sriov", "mdev")),
    {"gpu_devices": [{"pci": address(0)}, {"pci": address(1)}]},
    {"gpu_devices": [{"pci": address(0)}], **device(pci=address(2))},
]
BY_UUID = [selector("uuid", f"GPU-00000000-0000-0000-0000-{index:012d}") for index in range(3)]
BY_MIG = [*(selector("mig", uuid) for uuid in MIG), selector("mig", "aa"), device(gputype="mig", mig_uuid="bb")]
BY_ID = [device(id=str(index)) for index in range(3)]
BY_NO_NAME: list[Asking] = [{}, device(), {**device(), "gpu": True}]


@st.composite
def files(draw: st.DrawFn, *kinds: list[Asking]) -> tuple[str, list[Asking]]:
    asking = st.sampled_from([asked for kind in kinds for asked in kind])
    machines = draw(st.lists(st.builds(lambda asked, kind: {**asked, "type": kind}, asking, TYPES), max_size=5))
    return draw(st.sampled_from(["exclusive", "shared"])), machines


TYPES = st.sampled_from(["lxc", "lxc", "vm"])


def file_says(folder: Path, policy: str, machines: list[Asking]) -> set[tuple[str, str]]:
    written = {f"m{number}": {"gpu": True, **asked} for number, asked in enumerate(machines)}
    path = folder / "infra.yml"
    document = {
        "project_name": "p",
        "global": {"addressing": {}, "gpu_policy": policy},
        "domains": {"ai": {"machines": written}},
    }
    path.write_text(json.dumps(document))
    checked = check_infra(path, Catalog((), {}), host=HostFacts())
    return {(str(problem.path).split(".")[3], problem.code) for problem in checked.errors}


def host_says(cards: tuple[Card, ...], policy: str, machines: list[Asking]) -> set[tuple[str, str]]:
    made = []
    for number, asked in enumerate(machines):
        selectors = tuple(GpuSelector(**card) for card in asked.get("gpu_devices", ()))
        made.append(machine(f"m{number}", **{**asked, "gpu": True, "gpu_devices": selectors}))
    decision = decide(infra(*made, policy=policy), cards, (), place, mig=MIG)
    return {(refusal.machine, refusal.code) for refusal in decision.refusals}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


def agree(folder: Path, cards: tuple[Card, ...], policy: str, machines: list[Asking]) -> None:
    by_file, by_host = file_says(folder, policy, machines), host_says(cards, policy, machines)
    unfit = {(name, code) for name, code in by_file if code not in POLICY_CODES}
    if unfit:  # such a wish is for no card of the host, so that nobody is in its way
        by_file, by_host = unfit, {(name, code) for name, code in by_host if code not in POLICY_CODES}
    assert by_file == by_host


@given(file=st.one_of(files(BY_PCI), files(BY_UUID), files(BY_MIG), files(BY_ID)))
def test_cards_named_in_one_way(folder: Path, file: tuple[str, list[Asking]]) -> None:
    agree(folder, CARDS, *file)


@given(file=files(BY_NO_NAME))
def test_the_only_card(folder: Path, file: tuple[str, list[Asking]]) -> None:
    agree(folder, CARDS[:1], *file)


@given(file=files(BY_PCI, BY_UUID, BY_MIG, BY_ID, BY_NO_NAME))
def test_what_a_file_may_a_host_may(folder: Path, file: tuple[str, list[Asking]]) -> None:
    """Cards named in several ways may be the same one: the file is stricter then, and never looser."""
    if not file_says(folder, *file):
        assert not {code for _, code in host_says(CARDS, *file)} & POLICY_CODES


MODES = st.sampled_from(
    [
        ("physical", None),
        ("node", None),
        *(("mig", part) for part in ("aa", "bb", "3/0")),
        ("sriov", "m/g"),
        ("pci", "0000:01:00.4"),
    ]
)
HOLDS = st.builds(
    lambda holder, card, mode, vm, member: Hold(holder, "ai", card, *mode, vm=vm, member=member),  # type: ignore[arg-type]
    st.sampled_from(["a", "b", "c", "d"]),
    st.sampled_from([None, ("pci", "1"), ("pci", "2"), ("uuid", "1"), ("id", "1")]),
    MODES,
    st.booleans(),
    st.sampled_from([None, "one", "two"]),
)


def in_the_way(first: Hold, second: Hold) -> bool:
    """The rule, pair by pair."""
    if None not in (first.member, second.member) and first.member != second.member:
        return False
    if first.card and second.card and first.card[0] == second.card[0] and first.card != second.card:
        return False
    return collide((first.mode, first.part), (second.mode, second.part))


@given(st.lists(HOLDS, max_size=8, unique_by=lambda hold: hold.holder), st.lists(HOLDS, max_size=4), st.booleans())
def test_every_pair_is_judged(holds: list[Hold], outside: list[Hold], exclusive: bool) -> None:
    expected = []
    for number, hold in enumerate(holds):
        rivals = [rival for rival in outside if in_the_way(hold, rival) and (exclusive or hold.vm or rival.vm)]
        before = [rival for rival in holds[:number] if in_the_way(hold, rival) and (exclusive or hold.vm or rival.vm)]
        expected += [(hold, rival, True) for rival in rivals] + [(hold, rival, False) for rival in before[:1]]
    found = judge(holds, outside, exclusive=exclusive)
    assert [(conflict.hold, conflict.rival, conflict.outside) for conflict in found] == expected
