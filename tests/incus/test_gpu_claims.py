"""Claims on cards, on a real Incus of each version: one wins, stale ones are taken over, losers are told."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Any

import pytest

from anklume_images.errors import IncusError, PolicyError
from anklume_images.ship.publish import publish
from launcher.gpu import claims
from launcher.gpu.claims import Claim, Claimant, ClaimLostError, claim, confirm, read_claims, release
from launcher.gpu.holders import holders
from launcher.gpu.host import read_cards
from launcher.gpu.policy import decide
from launcher.infra.names import CLAIM, owner_of
from launcher.private_incus import fake_gpu as fakegpu
from tests.support.instances import create_instance, delete_instance, start_instance
from tests.unit.gpu_host import gpu, infra, machine, place

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anklume_images.incus.client import Incus
    from anklume_images.ship.publish import ImageFiles
    from launcher.gpu.cards import Card
    from launcher.gpu.grants import Grant
    from launcher.private_incus.daemon import PrivateIncus

FIRST, SECOND = (card.pci for card in fakegpu.cards(2))
UUID = "7d6ce9b8-0000-4000-8000-000000000001"
RACERS, ROUNDS = 8, 4


@pytest.fixture(autouse=True)
def no_claims(client: Incus) -> Iterator[None]:
    """Each test begins and ends without a claim."""
    yield
    for name in acls(client):
        client.send("delete", f"network-acls/{name}")


def acls(client: Incus) -> list[str]:
    return sorted(url.rpartition("/")[2] for url in client.get("network-acls"))


def standing(client: Incus) -> list[Claim]:
    return list(read_claims(client.get("network-acls", recursion=1)))


def grant_of(cards: tuple[Card, ...], pci: str | None = FIRST, **more: Any) -> Grant:
    (grant,) = decide(infra(machine("m", pci=pci, **more)), cards, [], place).grants["m"]
    return grant


def claimant(name: str) -> Claimant:
    return Claimant("default", name, f"file-{name}")


def launched(client: Incus, image: ImageFiles, name: str, *, start: bool = False, **devices: dict[str, str]) -> None:
    publish(image, client)
    create_instance(client, name, fingerprint=image.fingerprint, devices=devices)
    if start:
        start_instance(client, name)


def age(client: Incus, entry: Claim, seconds: float) -> None:
    """Put a claim's date back."""
    acl = client.get(f"network-acls/{entry.name}")
    since = datetime.fromtimestamp(client.clock() - seconds, UTC).isoformat()
    config = {**acl["config"], f"{CLAIM}.since": since}
    client.send("put", f"network-acls/{entry.name}", {"description": acl["description"], "config": config})


def test_claim_says_whose_it_is(client: Incus) -> None:
    cards = read_cards(client)
    before = client.clock()
    claim(client, grant_of(cards), claimant("a"), cards)
    (entry,) = standing(client)
    assert entry.name == "gpu-claim-0000-01-00-0-1"
    assert (entry.pci, entry.member, entry.project, entry.instance) == (FIRST, "none", "default", "a")
    assert abs(entry.since - before) <= 2
    acl = client.get(f"network-acls/{entry.name}")
    assert owner_of(acl["config"]) == "file-a"
    assert (acl["ingress"], acl["egress"], acl["used_by"]) == ([], [], [])


def test_who_has_the_claim_keeps_it(client: Incus) -> None:
    cards = read_cards(client)
    for _ in range(3):
        claim(client, grant_of(cards), claimant("a"), cards)
    assert acls(client) == ["gpu-claim-0000-01-00-0-1"]


def test_second_is_refused_and_told_whose_it_is(client: Incus) -> None:
    cards = read_cards(client)
    claim(client, grant_of(cards), claimant("a"), cards)
    with pytest.raises(ClaimLostError, match="a of project default has claimed it") as caught:
        claim(client, grant_of(cards), claimant("b"), cards)
    assert caught.value.exit_code == 4
    assert "incus network acl delete gpu-claim-0000-01-00-0-1" in str(caught.value.hint)
    assert [entry.instance for entry in standing(client)] == ["a"]


def test_each_card_has_claims_of_its_own(client: Incus) -> None:
    cards = read_cards(client)
    claim(client, grant_of(cards, FIRST), claimant("a"), cards)
    claim(client, grant_of(cards, SECOND), claimant("b"), cards)
    assert [(entry.pci, entry.instance) for entry in standing(client)] == [(FIRST, "a"), (SECOND, "b")]


def test_parts_of_a_card_are_claimed_apart_and_not_beside_the_whole(client: Incus) -> None:
    cards = read_cards(client)
    device = {"card": gpu(gputype="mig", pci=FIRST, mig_uuid=UUID)}
    other = {"card": gpu(gputype="mig", pci=FIRST, mig_uuid=UUID.replace("1", "2"))}
    part = grant_of(cards, None, devices=device)
    claim(client, part, claimant("a"), cards)
    claim(client, grant_of(cards, None, devices=other), claimant("b"), cards)
    for taken in (part, grant_of(cards)):
        with pytest.raises(ClaimLostError):
            claim(client, taken, claimant("c"), cards)
    assert sorted(entry.instance for entry in standing(client)) == ["a", "b"]


def test_release_gives_back_what_is_not_kept(client: Incus) -> None:
    cards = read_cards(client)
    first, second = grant_of(cards, FIRST), grant_of(cards, SECOND)
    for grant in (first, second):
        claim(client, grant, claimant("a"), cards)
    release(client, claimant("b"))
    release(client, claimant("a"), keep=[second])
    assert [entry.pci for entry in standing(client)] == [SECOND]
    release(client, claimant("a"))
    release(client, claimant("a"))
    assert acls(client) == []


def test_fresh_claim_counts_before_its_instance_is_there(client: Incus) -> None:
    cards = read_cards(client)
    claim(client, grant_of(cards), claimant("a"), cards)
    age(client, standing(client)[0], 590)
    with pytest.raises(ClaimLostError):
        claim(client, grant_of(cards), claimant("b"), cards)


def test_stale_claim_is_taken_over(client: Incus) -> None:
    cards = read_cards(client)
    claim(client, grant_of(cards), claimant("a"), cards)
    age(client, standing(client)[0], 700)
    claim(client, grant_of(cards), claimant("b"), cards)
    assert [(entry.name, entry.instance) for entry in standing(client)] == [("gpu-claim-0000-01-00-0-2", "b")]


def test_old_claim_counts_while_its_instance_has_the_card(client: Incus, image: ImageFiles) -> None:
    cards = read_cards(client)
    claim(client, grant_of(cards), claimant("a"), cards)
    launched(client, image, "a", gpu0=gpu(pci=FIRST))
    age(client, standing(client)[0], 1e6)
    with pytest.raises(ClaimLostError):
        claim(client, grant_of(cards), claimant("b"), cards)
    # Its instance is there, and has another card by now.
    body = client.get("instances/a")
    body["devices"] = {"gpu0": gpu(pci=SECOND)}
    client.send("put", "instances/a", body)
    claim(client, grant_of(cards), claimant("b"), cards)
    assert [entry.instance for entry in standing(client)] == ["b"]


def test_instance_made_by_hand_in_the_meantime_is_in_the_way(client: Incus, image: ImageFiles) -> None:
    cards = read_cards(client)
    grant = grant_of(cards)  # decided before it is made
    launched(client, image, "by-hand", gpu=gpu())
    with pytest.raises(PolicyError, match="by-hand of project default holds it by now") as caught:
        claim(client, grant, claimant("a"), cards)
    assert caught.value.exit_code == 4
    assert acls(client) == []


def test_confirmed_when_all_is_well(client: Incus, image: ImageFiles) -> None:
    cards = read_cards(client)
    grant = grant_of(cards)
    claim(client, grant, claimant("a"), cards)
    launched(client, image, "a", start=True, gpu0=grant.keys)
    assert confirm(client, [grant], claimant("a"), cards) == ()
    assert client.get("instances/a")["status"] == "Running"


def test_card_given_to_another_by_hand_after_the_check_is_a_warning(client: Incus, image: ImageFiles) -> None:
    cards = read_cards(client)
    grant = grant_of(cards)
    claim(client, grant, claimant("a"), cards)
    launched(client, image, "a", start=True, gpu0=grant.keys)
    launched(client, image, "by-hand", gpu=gpu())
    (warning,) = confirm(client, [grant], claimant("a"), cards)
    assert "by-hand" in warning
    assert client.get("instances/a")["status"] == "Running"


def test_who_lost_the_claim_is_stopped_and_told(client: Incus, image: ImageFiles) -> None:
    cards = read_cards(client)
    grant = grant_of(cards)
    claim(client, grant, claimant("slow"), cards)
    # So slow that its claim went stale before its instance was there.
    age(client, standing(client)[0], 700)
    claim(client, grant, claimant("quick"), cards)
    launched(client, image, "slow", start=True, gpu0=grant.keys)
    with pytest.raises(ClaimLostError, match="slow was stopped again") as caught:
        confirm(client, [grant], claimant("slow"), cards)
    assert "quick of project default has claimed it" in caught.value.message
    assert caught.value.exit_code == 4
    slow = client.get("instances/slow")
    assert (slow["status"], slow["devices"]["gpu0"]) == ("Stopped", {"type": "none"})
    # Nothing of it is in the winner's way.
    launched(client, image, "quick", start=True, gpu0=grant.keys)
    assert confirm(client, [grant], claimant("quick"), cards) == ()


def test_claim_that_somebody_removed_is_made_again(client: Incus, image: ImageFiles) -> None:
    cards = read_cards(client)
    grant = grant_of(cards)
    claim(client, grant, claimant("a"), cards)
    launched(client, image, "a", start=True, gpu0=grant.keys)
    client.send("delete", f"network-acls/{standing(client)[0].name}")
    assert confirm(client, [grant], claimant("a"), cards) == ()
    assert [entry.instance for entry in standing(client)] == ["a"]


def test_server_that_refuses_is_no_lost_claim(client: Incus, monkeypatch: pytest.MonkeyPatch) -> None:
    cards = read_cards(client)
    monkeypatch.setattr(claims, "_name", lambda _grant, _number: "not/a/name")
    with pytest.raises(IncusError):
        claim(client, grant_of(cards), claimant("a"), cards)
    assert acls(client) == []


def test_acls_of_others_are_left_alone(client: Incus) -> None:
    cards = read_cards(client)
    names = ["gpu-claim-0000-01-00-0-7", "anklume-ai", "web"]
    for name in names:
        client.send("post", "network-acls", {"name": name})
    assert standing(client) == []
    claim(client, grant_of(cards), claimant("a"), cards)
    release(client, claimant("a"))
    assert acls(client) == sorted(names)


# Eight at once


@dataclass
class Racer:
    process: subprocess.Popen[str]

    @property
    def input(self) -> IO[str]:
        assert self.process.stdin is not None
        return self.process.stdin

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline()


@contextlib.contextmanager
def racers(incus: PrivateIncus, fingerprint: str, *, grace: float) -> Iterator[list[Racer]]:
    program = [sys.executable, "-m", "tests.support.gpu_racer", str(incus.socket)]
    with contextlib.ExitStack() as stack:
        running = []
        for number in range(RACERS):
            argv = [*program, f"r{number}", fingerprint, str(grace)]
            process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            stack.enter_context(process)
            stack.callback(process.kill)
            running.append(Racer(process))
        assert [racer.line() for racer in running] == ["ready\n"] * RACERS
        yield running
        for racer in running:
            racer.input.close()


def race(
    incus: PrivateIncus, client: Incus, image: ImageFiles, *, stale: bool = False, grace: float = 600
) -> tuple[list[int], list[list[str]]]:
    """In each round: how many the check alone let through, and who kept the card."""
    publish(image, client)
    cards = read_cards(client)
    passed, kept = [], []
    with racers(incus, image.fingerprint, grace=grace) as running:
        for _ in range(ROUNDS):
            if stale:
                claim(client, grant_of(cards), claimant("ghost"), cards)
                age(client, standing(client)[0], 700)
            start = time.monotonic() + 0.05
            for racer in running:
                racer.input.write(f"{start}\n")
                racer.input.flush()
            answers = [json.loads(racer.line()) for racer in running]
            passed.append(sum(answer["checked"] for answer in answers))
            kept.append([answer["name"] for answer in answers if answer["kept"]])
            assert {answer["exit_code"] for answer in answers if not answer["kept"]} <= {4}, answers
            there = client.get("instances", recursion=1)
            assert [found["name"] for found in there if found["status"] == "Running"] == kept[-1]
            having = {holder.instance for holder in holders(cards, there)}
            assert having == set(kept[-1])
            for found in there:
                if found["status"] == "Running":
                    client.stop(found["name"], force=True)
                delete_instance(client, found["name"])
            for entry in standing(client):
                release(client, claimant(entry.instance))
    several = sum(count > 1 for count in passed)
    sys.stdout.write(
        f"\n{client.server.version}: {RACERS} launchers, {ROUNDS} rounds: the check alone let more than one through in "
        f"{several} (on average {sum(passed) / ROUNDS:.1f}); how many kept the card: {[len(names) for names in kept]}\n"
    )
    assert several  # else it was no race
    return passed, kept


@pytest.mark.parametrize(
    "stale",
    [pytest.param(False, marks=pytest.mark.both_versions, id="free"), pytest.param(True, id="stale-claim")],
)
def test_of_eight_launchers_at_one_card_one_keeps_it(
    incus: PrivateIncus, client: Incus, image: ImageFiles, *, stale: bool
) -> None:
    _, kept = race(incus, client, image, stale=stale)
    assert [len(names) for names in kept] == [1] * ROUNDS


def test_two_never_keep_a_card_even_where_claims_do_not_wait(
    incus: PrivateIncus, client: Incus, image: ImageFiles
) -> None:
    # Without grace everybody takes over everybody's claim until an instance is there: only looking again helps.
    _, kept = race(incus, client, image, grace=0)
    assert all(len(names) <= 1 for names in kept)
