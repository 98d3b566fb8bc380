"""The commands on signatures: `trust` and what is below it, and `revoke`."""

from __future__ import annotations

import sys
import tempfile
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from anklume_images.cli.program import CommandTable
from anklume_images.cli.session import JSON, REF, Session, user
from anklume_images.trust.roles import ROLES

if TYPE_CHECKING:
    from anklume_images.trust.origins import Origins
    from anklume_images.trust.place import Place
    from anklume_images.trust.repository import Outcome, Repository

_TABLE = {
    name: f"anklume_images.cli.trust:{name.replace('-', '_')}"
    for name in ("init", "sign", "show", "new-key", "add-key", "rotate", "accept", "forget", "allow-expired")
}
KEYS = click.option(
    "--keys",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of private keys (default: $ANKLUME_KEYS, else ~/.config/anklume/keys).",
)
_ROLE = click.argument("role", type=click.Choice(ROLES))
_PLACE = click.argument("place", metavar="PLACE")
_KNOWN = click.argument("place", metavar="PLACE|FINGERPRINT")


@click.group(cls=CommandTable, table=_TABLE)
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

    word = click.prompt("Passphrase", hide_input=True, confirmation_prompt=True, err=True) if passphrase else None
    repository = session.repository(keys)
    session.store().create()
    outcome = begin(session, repository, STRICT if strict else ONE, public, word)
    _tell(session, repository, outcome)


def begin(session: Session, repository: Repository, policy: Any, public: tuple[str, ...], word: str | None) -> Outcome:
    """Make the signed metadata of a store with the given public keys, and with new ones where too few are given."""
    from anklume_images.trust.keys import read_public_key
    from anklume_images.trust.repository import Outcome

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
    after = session.sign(repository)
    return Outcome(outcome.written | after.written, after.wanted)


@click.command()
@click.option("--renew", is_flag=True, help="Sign unchanged metadata again, so that it expires later.")
@KEYS
@click.pass_obj
def sign(session: Session, keys: Path | None, *, renew: bool) -> None:
    """Sign what the store holds now. The first time, keys are made.

    Metadata that waits for more signatures gets those of the keys on this host.
    """
    from anklume_images.trust.roles import ONE

    repository = session.repository(keys)
    if not repository.exists and repository.staged("root") is None:
        outcome = begin(session, repository, ONE, (), None)
    elif repository.staged("root") or repository.staged("targets"):
        outcome = repository.sign()
        if not outcome.wanted and repository.current("targets") is None:
            outcome = session.sign(repository)
    else:
        outcome = session.sign(repository, renew=renew)
    _tell(session, repository, outcome)


def _tell(session: Session, repository: Repository, outcome: Outcome) -> None:
    warn_of_wanted(session, outcome)
    if repository.exists:
        session.console.result(f"{'signed' if outcome.written else 'unchanged'}; fingerprint {repository.identity}")


def warn_of_wanted(session: Session, outcome: Outcome) -> None:
    """Say what does not count yet for want of signatures."""
    for role, count in outcome.wanted.items():
        signatures = "signature" if count == 1 else "signatures"
        session.console.warn(
            f"{role}: {count} more {signatures} wanted; whoever has a key of it runs: anklume-images trust sign"
        )


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
    accepted = [asdict(one) for one in Origins(session.store())]
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
    lines += [f"believed     {one['place']} ({one['identity'][:16]}…) since {one['since'][:10]}" for one in accepted]
    session.console.result("\n".join(lines))


def _own(repository: Repository) -> dict[str, Any]:
    root = repository.root().signed
    roles = []
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
    word = click.prompt("Passphrase", hide_input=True, confirmation_prompt=True, err=True) if passphrase else None
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

    _tell(session, repository, repository.edit_root(change))


@click.command()
@_ROLE
@click.option("--remove", metavar="ID", help="Key to remove, by the start of its ID (default: all keys of the role).")
@click.option("--no-new", is_flag=True, help="Do not make a new key in its place.")
@click.option("--threshold", type=click.IntRange(1, 64), help="How many keys of the role must sign from now on.")
@KEYS
@click.pass_obj
def rotate(
    session: Session, role: str, remove: str | None, threshold: int | None, keys: Path | None, *, no_new: bool
) -> None:
    """Replace keys of a role, after a theft or when somebody leaves. Needs the root keys, also the old ones."""
    repository = session.repository(keys)
    held = repository.root().signed.roles[role].keyids
    leaving = [keyid for keyid in held if remove is None or keyid.startswith(remove)]
    if not leaving:
        raise click.BadParameter(f"no key of {role} begins with {remove}: there are {', '.join(held)}")
    fresh = [] if no_new else [repository.keys.make(role) for _ in leaving]

    def change(root: Any) -> None:
        for key in fresh:
            root.add_key(key, role)
        for keyid in leaving:
            root.revoke_key(keyid, role)
        _set_threshold(root, role, threshold or root.roles[role].threshold)

    _tell(session, repository, repository.edit_root(change))


def _set_threshold(root: Any, role: str, threshold: int) -> None:
    count = len(root.roles[role].keyids)
    if threshold > count:
        raise click.BadParameter(f"{role} would want {threshold} signatures and has {count} keys: lower --threshold")
    root.roles[role].threshold = threshold


@click.command()
@_PLACE
@click.option(
    "--fingerprint", help="The fingerprint that its owner tells you (trust show there); you are asked without it."
)
@click.pass_obj
def accept(session: Session, place: str, fingerprint: str | None) -> None:
    """Trust another store, a folder or an https address, from now on.

    If no authority on this host vouches for its server's certificate, the certificate is kept.
    """
    from anklume_images.trust.origins import Origins
    from anklume_images.trust.repository import identity_of

    store = session.store()
    store.create()
    origins = Origins(store)
    with tempfile.TemporaryDirectory(prefix="anklume-accept-") as folder:
        where, certificate = _reached(place, origins, Path(folder))
        if fingerprint is None:
            identity = identity_of(origins.first_root(where))
            if not sys.stdin.isatty():
                raise click.UsageError(
                    f"its fingerprint is {identity}: compare it with its owner's, and give it with --fingerprint"
                )
            click.echo(f"The fingerprint of {where} is\n  {identity}", err=True)
            if not click.confirm("Is that what its owner says?", err=True):
                raise click.Abort
            fingerprint = identity
        accepted = origins.accept(where, fingerprint, user(), certificate)
    session.console.result(f"accepted {where} ({accepted.identity[:16]}…)")


def _reached(where: str, origins: Origins, folder: Path) -> tuple[Place, bytes | None]:
    """The store's place, and its server's certificate where that is one that only its owner vouches for."""
    from anklume_images.errors import FetchError
    from anklume_images.inputs.answers import Why
    from anklume_images.trust.place import Place, shown_certificate

    place = Place(where)
    try:
        origins.first_root(place)
    except FetchError as error:
        certificate = shown_certificate(where) if error.hint == Why.CERTIFICATE.value else None
        if certificate is None:
            raise
        (folder / "server.pem").write_bytes(certificate)
        place = Place(where, folder / "server.pem")
        origins.first_root(place)
        return place, certificate
    return place, None


@click.command()
@_KNOWN
@click.pass_obj
def forget(session: Session, place: str) -> None:
    """Stop trusting another store. What it has revoked stays revoked."""
    from anklume_images.trust.origins import Origins

    origins = Origins(session.store())
    origins.forget(origins.known(place))
    session.console.result(f"forgot {place}")


@click.command(name="allow-expired")
@_KNOWN
@click.option("--until", required=True, metavar="YYYY-MM-DD", help="The last day on which it is accepted.")
@click.option("--why", required=True, help="The reason; it is kept and shown.")
@click.pass_obj
def allow_expired(session: Session, place: str, until: str, why: str) -> None:
    """Accept a store's expired metadata for a while, for a host that is rarely in contact with it.

    Each use is reported, with your name and reason.
    """
    from anklume_images.trust.origins import Origins

    try:
        day = date.fromisoformat(until)
    except ValueError:
        raise click.BadParameter(f"{until} is no day: write YYYY-MM-DD") from None
    if day < datetime.now(UTC).date():
        raise click.BadParameter(f"{until} is past")
    origins = Origins(session.store())
    origins.allow_expired(origins.known(place), day.isoformat(), why, user())
    session.console.result(f"{place}: expired metadata is accepted until {day}")


@click.command()
@REF
@click.option("--model", "of_model", is_flag=True, help="REF is the name of a language model.")
@click.option("--why", help="The reason; everybody who uses it sees it.")
@click.option("--undo", is_flag=True, help="Take the revocation back.")
@KEYS
@click.pass_obj
def revoke(session: Session, ref: str, why: str | None, keys: Path | None, *, of_model: bool, undo: bool) -> None:
    """Revoke an image or a model, signed. Other hosts follow at their next contact."""
    from anklume_images.ship.index import write_index
    from anklume_images.trust.clock import now
    from anklume_images.trust.revoked import Revocation, read_revocations, write_revocations

    if not (why or undo):
        raise click.UsageError("--why is missing: give the reason")
    store = session.store()
    if of_model:
        model = session.models().model(ref)
        entry = Revocation(model.name, "", "", model.sha256, why or "", now())
    else:
        image = session.images().resolve(ref, session.arch())
        entry = Revocation(image.name, image.version, image.architecture, image.fingerprint, why or "", now())
    others = [other for other in read_revocations(store.home) if other.fingerprint != entry.fingerprint]
    write_revocations(store.home, others if undo else [*others, entry])
    write_index(store)
    repository = session.repository(keys)
    session.console.result(f"{'not revoked any more' if undo else 'revoked'}: {entry}")
    if repository.exists:
        _tell(session, repository, session.sign(repository))
    else:
        session.console.warn("this store is not signed, so no other store hears of it: anklume-images trust sign")
