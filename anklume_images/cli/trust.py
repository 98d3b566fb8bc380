"""The commands on signatures of one's own store: `trust` and most of what is below it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from anklume_images.cli.program import CommandTable
from anklume_images.cli.session import JSON, Session
from anklume_images.trust.roles import ROLES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anklume_images.trust.origins import Accepted, Origins
    from anklume_images.trust.outcome import Outcome
    from anklume_images.trust.repository import Repository

_TABLE = {
    **dict.fromkeys(("init", "sign", "show", "new-key", "add-key", "rotate"), "trust"),
    **dict.fromkeys(("accept", "forget", "allow-expired"), "believe"),
}
KEYS = click.option(
    "--keys",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of private keys (default: $ANKLUME_KEYS, else ~/.config/anklume/keys).",
)
_ROLE = click.argument("role", type=click.Choice(ROLES))


@click.group(
    cls=CommandTable,
    table={name: f"anklume_images.cli.{module}:{name.replace('-', '_')}" for name, module in _TABLE.items()},
)
def trust() -> None:
    """Sign the store, and choose which other stores you trust."""


@click.command()
@click.option("--strict", is_flag=True, help="For a team: two keys each for root and targets, short lifetimes.")
@click.option(
    "--key",
    "public",
    multiple=True,
    metavar="ROLE=FILE.pub",
    help="Public key of another person, or of a key kept elsewhere (repeatable).",
)
@click.option("--passphrase", is_flag=True, help="Ask for a passphrase to encrypt the new keys with.")
@KEYS
@click.pass_obj
def init(session: Session, public: tuple[str, ...], keys: Path | None, *, strict: bool, passphrase: bool) -> None:
    """Start signing the store: make missing keys, and sign what it holds."""
    from anklume_images.trust.roles import ONE, STRICT

    word = _new_passphrase() if passphrase else None
    repository = session.repository(keys)
    session.store().create()
    outcome = begin(session, repository, STRICT if strict else ONE, public, word)
    tell(session, repository, outcome)


def begin(session: Session, repository: Repository, policy: Any, public: tuple[str, ...], word: str | None) -> Outcome:
    """Make the signed metadata of a store with the given public keys, and with new ones where too few are given."""
    from anklume_images.trust.keys import read_public_key

    chosen: dict[str, list[Any]] = {role: [] for role in ROLES}
    for text in public:
        role, _, file = text.partition("=")
        if role not in chosen or not file:
            raise click.BadParameter(f"{text}: write ROLE=FILE.pub, with ROLE one of {', '.join(ROLES)}")
        chosen[role].append(read_public_key(Path(file)))
    if repository.exists:
        return repository.init(policy, chosen)  # which says so, before a key is made
    for role in ("root", "targets"):
        while len(chosen[role]) < policy.thresholds[role]:
            chosen[role].append(repository.keys.make(role, word))
    if not (chosen["snapshot"] and chosen["timestamp"]):
        online = repository.keys.make("online", word)
        for role in ("snapshot", "timestamp"):
            chosen[role] = chosen[role] or [online]
    outcome = repository.init(policy, chosen)
    if outcome.wanted:
        return outcome
    session.console.note(f"private keys: {repository.keys.folder}; keep a copy of them, the root's above all")
    return outcome.then(session.sign(repository))


@click.command()
@click.option("--renew", is_flag=True, help="Sign unchanged metadata again, so that it expires later.")
@KEYS
@click.pass_obj
def sign(session: Session, keys: Path | None, *, renew: bool) -> None:
    """Sign what the store holds now. The first time, keys are made.

    Metadata that waits for more signatures gets those of the keys on this host. --renew is for the root too, if its
    keys are here.
    """
    from anklume_images.trust.roles import ONE

    repository = session.repository(keys)
    if not repository.exists and repository.staged("root") is None:
        outcome = begin(session, repository, ONE, (), None)
    else:
        outcome = _sign(session, repository, renew=renew)
    tell(session, repository, outcome)


def _sign(session: Session, repository: Repository, *, renew: bool) -> Outcome:
    """What the keys here can sign, of the root and of what it stands above."""
    from anklume_images.trust.outcome import NoKeyError, Outcome

    waits = repository.staged("root") is not None
    try:
        outcome = repository.sign_root(renew=renew)
    except NoKeyError as error:
        if not repository.exists:
            raise
        outcome = Outcome(wanted=error.wanted if waits else {})
        if not waits:
            until, held = repository.root().signed.expires.date(), _named(error.wanted["root"].keys)
            session.console.note(f"root: not renewed, valid until {until}; trust sign --renew does it where {held} is")
    if not repository.exists:
        return outcome
    try:
        return outcome.then(session.sign(repository, renew=renew))
    except NoKeyError as error:
        if not outcome.written and not outcome.wanted:
            raise
        return outcome.then(Outcome(wanted=error.wanted))


def tell(session: Session, repository: Repository, outcome: Outcome) -> None:
    """Say what was signed, what is wanted for it to count, and what will soon not count any more."""
    warn_of_wanted(session, outcome)
    if repository.exists:
        session.console.result(f"{'signed' if outcome.written else 'unchanged'}; fingerprint {repository.identity}")
        for line in ending_in_words(repository):
            session.console.warn(line)


def warn_of_wanted(session: Session, outcome: Outcome) -> None:
    """Say what does not count yet for want of signatures, and who gives them."""
    for line in wanted_in_words(outcome):
        session.console.warn(line)


def wanted_in_words(outcome: Outcome) -> list[str]:
    """What is to be told of signatures that are wanted, a line for each role."""
    lines = []
    for role, wanted in outcome.wanted.items():
        given = f"{wanted.threshold - wanted.missing} of {wanted.threshold} signatures"
        then = ", then whoever has the keys of snapshot and timestamp" if role == "targets" else ""
        lines.append(f"{role}: {given}; whoever has {_named(wanted.keys)} runs: anklume-images trust sign{then}")
    return lines


def _named(keys: Sequence[str]) -> str:
    """Keys by the beginnings of their IDs, which their files' names have too."""
    names = ", ".join(keyid[:16] for keyid in keys)
    return f"the key {names}" if len(keys) == 1 else f"one of the keys {names}"


def ending_in_words(repository: Repository) -> list[str]:
    """What is to be told of signatures that soon count no more."""
    return [
        f"{role}: valid until {expires:%Y-%m-%d %H:%M} UTC only; renew it: anklume-images trust sign --renew"
        for role, expires in repository.ending().items()
    ]


@click.command()
@JSON
@KEYS
@click.pass_obj
def show(session: Session, keys: Path | None, *, as_json: bool) -> None:
    """Show the store's fingerprint, keys and expiry dates, and which other stores are trusted."""
    from dataclasses import asdict

    from anklume_images.trust.origins import Origins

    repository = session.repository(keys)
    own = _own(repository) if repository.exists else None
    origins = Origins(session.store())
    accepted = [asdict(one) | {"expired": _expired(origins, one)} for one in origins]
    if as_json:
        session.console.json({"own": own, "accepted": accepted})
        return
    lines = [] if own else ["this store is not signed; anklume-images trust sign does it"]
    if own:
        lines.append(f"fingerprint  {own['fingerprint']}")
        for role in own["roles"]:
            held = ", ".join(f"{key['id'][:16]}{' (here)' if key['here'] else ''}" for key in role["keys"])
            signed = f"version {role['version']}, until {role['expires'][:10]}" if role["version"] else "not signed yet"
            waits = f", {role['waiting']} more wanted" if role["waiting"] else ""
            lines.append(f"{role['role']:<11}  {signed}; {role['threshold']} of {held}{waits}")
    for one in accepted:
        lines.append(f"believed     {one['place']} ({one['identity'][:16]}…) since {one['since'][:10]}")
        if allowed := one["expired"]:
            used = (
                f"used {allowed['uses']} times, last on {allowed['last'][:10]}" if allowed["uses"] else "not used yet"
            )
            lines.append(
                f"             even if expired, until {allowed['until']}, by {allowed['by']}: {allowed['why']}; {used}"
            )
    session.console.result("\n".join(lines))
    for line in ending_in_words(repository) if own else ():
        session.console.warn(line)


def _expired(origins: Origins, accepted: Accepted) -> dict[str, Any] | None:
    """Until when a store's expired metadata is accepted, and how often it was."""
    from dataclasses import asdict

    override = origins.override(accepted)
    if override is None:
        return None
    uses = [use for use in origins.uses(accepted) if use.time >= override.since]
    return asdict(override) | {"uses": len(uses), "last": uses[-1].time if uses else None}


def _own(repository: Repository) -> dict[str, Any]:
    root = repository.root().signed
    roles, ending = [], repository.ending()
    for role in ROLES:
        current, staged = repository.current(role), repository.staged(role)
        waiting = 0
        if staged is not None:
            result = root.get_verification_result(role, staged.signed_bytes, staged.signatures)
            waiting = result.missing
        roles.append(
            {
                "role": role,
                "threshold": root.roles[role].threshold,
                "keys": [
                    {"id": keyid, "here": repository.keys.path(keyid) is not None}
                    for keyid in sorted(root.roles[role].keyids)
                ],
                "version": current.signed.version if current else None,
                "expires": current.signed.expires.isoformat() if current else None,
                "waiting": waiting,
                "ends_soon": role in ending,
            }
        )
    return {"fingerprint": repository.identity, "roles": roles}


@click.command(name="new-key")
@click.argument("label", default="key")
@click.option("--passphrase", is_flag=True, help="Ask for a passphrase to encrypt it with.")
@KEYS
@click.pass_obj
def new_key(session: Session, label: str, keys: Path | None, *, passphrase: bool) -> None:
    """Make a key for somebody else's store, and print the file with its public part."""
    import re

    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", label):
        raise click.BadParameter(f"{label}: a label has small letters, digits and hyphens")
    word = _new_passphrase() if passphrase else None
    ring = session.repository(keys).keys
    path = ring.path(ring.make(label, word).keyid)
    if path:
        session.console.result(str(path.with_suffix(".pub")))


@click.command(name="add-key")
@_ROLE
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True), metavar="FILE.pub")
@click.option("--threshold", type=click.IntRange(1, 64), help="How many keys of the role must sign from now on.")
@KEYS
@click.pass_obj
def add_key(session: Session, role: str, file: Path, threshold: int | None, keys: Path | None) -> None:
    """Let another key sign for a role. Needs the root keys."""
    from anklume_images.trust.keys import read_public_key

    repository, key = session.repository(keys), read_public_key(file)

    def change(root: Any) -> None:
        root.add_key(key, role)
        _set_threshold(root, role, threshold or root.roles[role].threshold)

    tell(session, repository, repository.edit_root(change))


@click.command()
@_ROLE
@click.option("--remove", metavar="ID", help="Key to remove, by the start of its ID (default: all keys of the role).")
@click.option("--no-new", is_flag=True, help="Do not make a new key in its place.")
@click.option("--passphrase", is_flag=True, help="Ask for a passphrase, also if the key before had none.")
@click.option("--threshold", type=click.IntRange(1, 64), help="How many keys of the role must sign from now on.")
@KEYS
@click.pass_obj
def rotate(
    session: Session,
    role: str,
    remove: str | None,
    threshold: int | None,
    keys: Path | None,
    *,
    no_new: bool,
    passphrase: bool,
) -> None:
    """Replace keys of a role, after a theft or when somebody leaves. Needs the root keys, also the old ones.

    A key that replaces one with a passphrase gets one, too.
    """
    repository = session.repository(keys)
    held = repository.root().signed.roles[role].keyids
    leaving = [keyid for keyid in held if remove is None or keyid.startswith(remove)]
    if not leaving:
        raise click.BadParameter(f"no key of {role} begins with {remove}: there are {', '.join(held)}")
    secret = not no_new and (passphrase or any(repository.keys.is_encrypted(keyid) for keyid in leaving))
    word = _new_passphrase() if secret else None
    fresh = [] if no_new else [repository.keys.make(role, word) for _ in leaving]

    def change(root: Any) -> None:
        for key in fresh:
            root.add_key(key, role)
        for keyid in leaving:
            root.revoke_key(keyid, role)
        _set_threshold(root, role, threshold or root.roles[role].threshold)

    tell(session, repository, repository.edit_root(change))


def _new_passphrase() -> str:
    """That of keys which are yet to be made, by the environment or by asking twice."""
    if given := os.environ.get("ANKLUME_KEY_PASSPHRASE"):
        return given
    return str(click.prompt("Passphrase", hide_input=True, confirmation_prompt=True, err=True))


def _set_threshold(root: Any, role: str, threshold: int) -> None:
    count = len(root.roles[role].keyids)
    if threshold > count:
        raise click.BadParameter(f"{role} would want {threshold} signatures and has {count} keys: lower --threshold")
    root.roles[role].threshold = threshold
