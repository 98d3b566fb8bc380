"""What `anklume-launch gpu` shows, and the names of claims."""

from __future__ import annotations

import re

from launcher.gpu import report as gpu_report
from launcher.gpu.cards import Card
from launcher.gpu.claims import Claim, _name, read_claims
from launcher.gpu.grants import Grant
from launcher.gpu.holders import holders
from launcher.gpu.policy import decide
from tests.unit.gpu_host import address, gpu, host, infra, instance, machine, nvidia, place, two_cards

FIRST, SECOND = address(0), address(1)
MEMORY = {FIRST: (24564 << 20, 1018 << 20), SECOND: (24564 << 20, None)}


def test_table_says_what_is_free_and_who_holds() -> None:
    live = [instance("c1", project="ai", status="Running", g=gpu(pci=FIRST)), instance("c2", g=gpu(pci=FIRST))]
    text = gpu_report.as_text(two_cards(), holders(two_cards(), live), MEMORY)
    lines = text.splitlines()
    assert lines[0].split() == ["card", "model", "driver", "cuda", "memory", "holders"]
    assert lines[1].endswith("nvidia 550.54.15  12.4  1018.0 MiB of 24.0 GiB  ai/c1, default/c2")
    assert re.search(r"12\.4 +24\.0 GiB +free$", lines[2])
    assert lines[4:] == [
        "card          project  instance  state    by",
        "0000:01:00.0  ai       c1        running  device g",
        "0000:01:00.0  default  c2        stopped  device g",
    ]


def test_no_card_is_said() -> None:
    assert gpu_report.as_text((), (), {}) == "Incus sees no card on this host"
    assert gpu_report.as_json((), (), {}) == {"cards": []}


def test_cluster_names_the_member() -> None:
    cards = host(nvidia(0), member="one") + host(nvidia(0), member="two")
    text = gpu_report.as_text(cards, (), {})
    assert [line.split()[1] for line in text.splitlines()] == ["member", "one", "two"]
    assert [card["member"] for card in gpu_report.as_json(cards, (), {})["cards"]] == ["one", "two"]


def test_part_of_a_card_is_named() -> None:
    live = [instance("c1", g=gpu(gputype="mig", pci=FIRST, mig_uuid="MIG-aa"))]
    assert "0000:01:00.0, mig aa" in gpu_report.as_text(two_cards(), holders(two_cards(), live), {})


def test_claim_without_a_holder_is_shown() -> None:
    found = holders(two_cards(), [instance("c1", project="ai", g=gpu(pci=FIRST))])
    claims = [(FIRST, "none", "ai", "c1"), (SECOND, "none", "ai", "c2")]
    text = gpu_report.as_text(two_cards(), found, {}, claims)
    assert text.splitlines()[-2:] == ["", "0000:02:00.0: claimed by ai/c2, which does not have it"]
    cards = gpu_report.as_json(two_cards(), found, {}, claims)["cards"]
    assert [card["claims"] for card in cards] == [
        [{"project": "ai", "instance": "c1"}],
        [{"project": "ai", "instance": "c2"}],
    ]


def test_file_says_what_its_machines_would_get() -> None:
    decision = decide(infra(machine("a", pci=SECOND), machine("b")), two_cards(), [], place)
    document = gpu_report.as_json(two_cards(), (), MEMORY, (), decision, {"a": "host"})
    granted = {"pci": SECOND, "member": None, "device": "gpu0", "mode": "physical", "driver": "host"}
    assert document["granted"] == {"a": [granted]}
    assert [refusal["code"] for refusal in document["refusals"]] == ["gpu-unnamed"]
    assert document["cards"][0]["memory_total"] == 24564 << 20
    assert gpu_report.granted_text(decision, {"a": "host"}).splitlines()[-1].split() == ["a", SECOND, "gpu0", "host"]
    nothing = decide(infra(machine("b")), two_cards(), [], place)
    assert "no machine of the file gets a card" in gpu_report.granted_text(nothing, {})


def test_names_of_claims_are_such_as_incus_takes() -> None:
    card = Card("10000:01:00.0", member="a-member.with.a.long.name.example")
    grants = [Grant(Card(FIRST), "gpu0"), Grant(card, "gpu0"), Grant(card, "gpu0", "mig", {}, "3/0")]
    names = [_name(grant, 10**6) for grant in grants]
    assert names[0] == "gpu-claim-0000-01-00-0-1000000"
    assert len(set(names)) == 3
    assert all(re.fullmatch(r"[a-z0-9-]{1,63}", name) for name in names)


def test_only_claims_are_read_as_claims() -> None:
    mark = "user.anklume-launch.claim"
    config = {mark: FIRST, f"{mark}.project": "ai", f"{mark}.instance": "c1", f"{mark}.since": "not a date"}
    acls = [
        {"name": "gpu-claim-0000-01-00-0-10", "config": config},
        {"name": "gpu-claim-0000-01-00-0-9", "config": config},
        {"name": "gpu-claim-0000-01-00-0-11", "config": {}},
        {"name": "gpu-claim-0000-01-00-0-x", "config": config},
        {"name": "anklume-ai", "config": None},
    ]
    first, second = read_claims(acls)
    assert (first.number, second.number) == (9, 10)
    assert first == Claim("gpu-claim-0000-01-00-0-9", 9, FIRST, "none", "physical", None, "ai", "c1", 0.0)
