"""Claims: the right of one instance to hold one card of one host, so that two launchers at once cannot both win.

The policy's check reads what is there, and two that read at the same moment both find the card free. A claim is an
object in Incus' database, a network ACL without rules that no network uses, since its creation is atomic: of many who
create the same name one succeeds. (A change guarded by an ETag is not: Incus compares and writes in two steps, and of
eight such changes at once up to five succeeded on 6.0 and on 7.0.)

    gpu-claim-0000-01-00-0-3      the third claim on that card; config says whose it is and since when

The highest number counts. A stale claim (its instance is gone, or has the card no more) is never changed: who takes
over creates the next number, then deletes the stale one. Each writes first and reads then: claim, look at claims and
instances, make the instance, start it, look again (`confirm`). Of two, the one who reads last sees the other.
"""

from __future__ import annotations

import hashlib
import random
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from anklume_images.errors import IncusError, PolicyError
from anklume_images.incus.objects import ObjectId
from launcher.gpu.cards import ANYWHERE, describe
from launcher.gpu.holders import holders
from launcher.gpu_policy.parts import collide
from launcher.infra.names import CLAIM, OWNER

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from anklume_images.incus.client import Incus
    from launcher.gpu.cards import Card
    from launcher.gpu.grants import Grant
    from launcher.gpu.holders import Holder
    from launcher.gpu_policy.parts import Mode

__all__ = ["Claim", "ClaimLostError", "Claimant", "claim", "confirm", "read_claims", "release", "standing_claims"]

_MEMBER, _PROJECT, _INSTANCE = f"{CLAIM}.member", f"{CLAIM}.project", f"{CLAIM}.instance"
_MODE, _PART, _SINCE = f"{CLAIM}.mode", f"{CLAIM}.part", f"{CLAIM}.since"
_PREFIX = "gpu-claim"
_GRACE_SECONDS = 600.0  # a claim comes before its instance; until then it counts without one
_ATTEMPTS = 10
_TAKEN = ("already exists", "UNIQUE constraint failed")  # what Incus says when the name is another's
_NAME = re.compile(rf"{_PREFIX}-.+-(\d+)", re.ASCII)


class ClaimLostError(PolicyError):
    """Somebody else has the claim on the card."""


@dataclass(frozen=True)
class Claimant:
    """Who claims: an instance, and the `project_name` of the file that it is of."""

    project: str
    instance: str
    owner: str


@dataclass(frozen=True)
class Claim:
    """A claim as it stands in Incus; `since` is the server's time in seconds since 1970."""

    name: str
    number: int
    pci: str
    member: str
    mode: Mode
    part: str | None
    project: str
    instance: str
    since: float

    def of(self, claimant: Claimant) -> bool:
        """Whether it is this instance's."""
        return (self.project, self.instance) == (claimant.project, claimant.instance)

    def on(self, card: Card) -> bool:
        """Whether it is about this card."""
        return (self.pci, self.member) == (card.pci, card.member)


def claim(incus: Incus, grant: Grant, claimant: Claimant, cards: Iterable[Card]) -> None:
    """Get the claim on a granted card, before its instance is made or changed; PolicyError when another has it.

    Whoever has it already keeps it. Afterwards every instance of the host is looked at once more: one that holds the
    card without a claim, made by hand in the meantime, is in the way too. `incus` may be of any project.
    """
    cards = tuple(cards)
    for attempt in range(_ATTEMPTS):
        standing = _rivals_of(standing_claims(incus), grant, claimant)
        if standing.mine is not None and standing.is_mine:
            _check_instances(incus, grant, claimant, cards, made=None)
            _sweep(incus, standing.others)
            return
        live = _live(incus, standing.others, grant, cards)
        if live:
            raise _lost(incus, grant, claimant, live[0])
        made = _create(incus, grant, claimant, standing.next_number)
        if made is not None:
            again = _rivals_of(standing_claims(incus), grant, claimant)
            if again.is_mine and set(again.others) <= set(standing.others):
                _check_instances(incus, grant, claimant, cards, made=made)
                _sweep(incus, again.others)
                return
            _delete(incus, made)  # somebody came at the same moment
        time.sleep(random.uniform(0, 0.02 * (attempt + 1)))  # noqa: S311 - so that two do not go on in step
    raise PolicyError(
        f"no claim on card {describe(grant.card)} for {claimant.instance}: others claim and release it all the time",
        hint="try again",
    )


def release(incus: Incus, claimant: Claimant, *, keep: Iterable[Grant] = ()) -> None:
    """Give back an instance's claims, when it goes or has other cards by now (`keep` are those that it has)."""
    kept = [(grant.card.pci, grant.card.member, grant.part) for grant in keep]
    for entry in standing_claims(incus):
        if entry.of(claimant) and (entry.pci, entry.member, entry.part) not in kept:
            _delete(incus, entry.name)


def confirm(incus: Incus, grants: Iterable[Grant], claimant: Claimant, cards: Iterable[Card]) -> tuple[str, ...]:
    """Look once more after the start; when the claim is lost, the instance is stopped and ClaimLostError says so.

    Its gpu devices are then hidden, so that it does not count as a holder. A claim that somebody removed is made again,
    if that can be. Returns warnings: instances that hold the same card without a claim, so somebody gave it to them by
    hand just now.
    """
    grants, cards = tuple(grants), tuple(cards)
    warnings: list[str] = []
    for grant in grants:
        try:
            standing = _rivals_of(standing_claims(incus), grant, claimant)
            if not standing.is_mine:
                claim(incus, grant, claimant, cards)
        except PolicyError as error:
            _take_back(incus, claimant, grants)
            raise ClaimLostError(
                f"{claimant.instance} was stopped again, and its GPU taken off: {error.message}",
                where=error.where,
                hint=error.hint,
            ) from error
        warnings += [
            f"{rival.instance} of project {rival.project} ({rival.state}) holds card {describe(grant.card)} too, by "
            f"{rival.by}, without a claim: take it from there, {claimant.instance} has it"
            for rival in _holding(incus, grant, claimant, cards)
        ]
    return tuple(warnings)


def read_claims(acls: Iterable[dict[str, Any]]) -> tuple[Claim, ...]:
    """The claims among network ACLs (`GET /1.0/network-acls?recursion=1`), the lowest number first."""
    claims = []
    for acl in acls:
        config, match = acl.get("config") or {}, _NAME.fullmatch(acl["name"])
        if match is None or CLAIM not in config:
            continue
        claims.append(
            Claim(
                name=acl["name"],
                number=int(match[1]),
                pci=config[CLAIM],
                member=config.get(_MEMBER, ANYWHERE),
                mode=config.get(_MODE, "physical"),
                part=config.get(_PART) or None,
                project=config.get(_PROJECT, ""),
                instance=config.get(_INSTANCE, ""),
                since=_seconds(config.get(_SINCE, "")),
            )
        )
    return tuple(sorted(claims, key=lambda entry: entry.number))


def standing_claims(incus: Incus) -> tuple[Claim, ...]:
    """All claims, stale ones included.

    One request, and one for each claim: with recursion, Incus looks up the users of every ACL that there is.
    """
    default = incus.within("default")
    acls = [default.find_object(acl) for acl in default.ids("acl") if _NAME.fullmatch(acl.name)]
    return read_claims(acl for acl in acls if acl is not None)


def _seconds(text: str) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0


# What stands


@dataclass(frozen=True)
class _Standing:
    """The claims on one card that matter to one claimant: its own highest, and those of others in its way."""

    mine: Claim | None
    others: tuple[Claim, ...]
    next_number: int

    @property
    def is_mine(self) -> bool:
        """Whether the claimant's own is above all others."""
        return self.mine is not None and all(self.mine.number > other.number for other in self.others)


def _rivals_of(claims: Sequence[Claim], grant: Grant, claimant: Claimant) -> _Standing:
    on_card = [entry for entry in claims if entry.on(grant.card)]
    mine = [entry for entry in on_card if entry.of(claimant) and entry.part == grant.part]
    others = [entry for entry in on_card if not entry.of(claimant) and collide((entry.mode, entry.part), _what(grant))]
    highest = max((entry.number for entry in (*mine, *others)), default=0)
    return _Standing(mine[-1] if mine else None, tuple(others), highest + 1)


def _what(grant: Grant) -> tuple[Mode, str | None]:
    return grant.mode, grant.part


def _live(incus: Incus, others: Iterable[Claim], grant: Grant, cards: Sequence[Card]) -> list[Claim]:
    """Those whose instance has the card, or may still be on its way to it."""
    others = list(others)
    if not others:
        return []
    now = incus.clock()
    have = {(holder.project, holder.instance) for holder in _holders(incus, cards) if holder.card == grant.card}
    return [entry for entry in others if (entry.project, entry.instance) in have or now - entry.since < _GRACE_SECONDS]


def _holders(incus: Incus, cards: Sequence[Card]) -> tuple[Holder, ...]:
    return holders(cards, incus.instances())


def _holding(incus: Incus, grant: Grant, claimant: Claimant, cards: Sequence[Card]) -> list[Holder]:
    """Other instances that have the card by now."""
    return [
        holder
        for holder in _holders(incus, cards)
        if holder.card == grant.card
        and grant.collides(holder.mode, holder.part)
        and (holder.project, holder.instance) != (claimant.project, claimant.instance)
    ]


def _check_instances(
    incus: Incus, grant: Grant, claimant: Claimant, cards: Sequence[Card], *, made: str | None
) -> None:
    for rival in _holding(incus, grant, claimant, cards):
        if made is not None:
            _delete(incus, made)
        raise PolicyError(
            f"{claimant.instance} cannot have card {describe(grant.card)}: instance {rival.instance} of project "
            f"{rival.project} holds it by now ({rival.state}; {rival.by})",
            hint="name another card, set global.gpu_policy: shared, or take it from "
            f"{rival.instance} (incus delete {rival.instance} --project {rival.project})",
        )


def _lost(incus: Incus, grant: Grant, claimant: Claimant, rival: Claim) -> ClaimLostError:
    since = datetime.fromtimestamp(rival.since, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return ClaimLostError(
        f"{claimant.instance} cannot have card {describe(grant.card)}: {rival.instance} of project {rival.project} "
        f"has claimed it (since {since})",
        where=incus.address,
        hint="name another card, set global.gpu_policy: shared, or destroy that machine; a claim whose machine is not "
        f"there after {_GRACE_SECONDS / 60:g} minutes counts no more, and goes at once by: incus network acl delete "
        f"{rival.name} --project default",
    )


# Effects


def _create(incus: Incus, grant: Grant, claimant: Claimant, number: int) -> str | None:
    """Create the claim of that number and return its name; None when somebody else just did."""
    name = _name(grant, number)
    config = {
        OWNER: claimant.owner,
        CLAIM: grant.card.pci,
        _MEMBER: grant.card.member,
        _MODE: grant.mode,
        _PART: grant.part or "",
        _PROJECT: claimant.project,
        _INSTANCE: claimant.instance,
        _SINCE: datetime.fromtimestamp(incus.clock(), UTC).isoformat(),
    }
    body = {
        "description": f"GPU {grant.card.pci} belongs to {claimant.project}/{claimant.instance} (anklume-launch)",
        "config": {key: value for key, value in config.items() if value},
        "ingress": [],
        "egress": [],
    }
    try:
        incus.within("default").create_object(ObjectId("acl", name), body)
    except IncusError as error:
        if any(words in error.message for words in _TAKEN) or any(
            entry.name == name for entry in standing_claims(incus)
        ):
            return None
        raise
    return name


def _name(grant: Grant, number: int) -> str:
    """`gpu-claim-0000-01-00-0-3`; Incus takes letters, digits and hyphens, at most 63."""
    words = [_PREFIX]
    if grant.card.member != ANYWHERE:
        words.append(_short(grant.card.member))
    words.append(re.sub(r"[^0-9a-f]", "-", grant.card.pci))
    if grant.part is not None:
        words.append(_short(f"{grant.mode} {grant.part}"))
    return "-".join([*words, str(number)])


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _sweep(incus: Incus, stale: Iterable[Claim]) -> None:
    for entry in stale:
        _delete(incus, entry.name)


def _delete(incus: Incus, name: str) -> None:
    incus.within("default").delete_object(ObjectId("acl", name))


def _take_back(incus: Incus, claimant: Claimant, grants: Iterable[Grant]) -> None:
    connection, what = incus.within(claimant.project), ObjectId("instance", claimant.instance)
    if connection.get_object(what).get("status") != "Stopped":
        connection.stop(claimant.instance, force=True)
    if connection.find_object(what) is not None:  # an ephemeral one is gone when it stops
        connection.patch_object(what, {"devices": {grant.device: {"type": "none"} for grant in grants}})
