"""The command `promote`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from anklume_images.cli.delta_programs import StoredPrograms
from anklume_images.cli.session import JSON, REF, Session, user
from anklume_images.cli.trust import KEYS, warn_of_wanted
from anklume_images.evidence.findings import SEVERITIES

if TYPE_CHECKING:
    from collections.abc import Callable

    from anklume_images.store.images import Image, Images
    from anklume_images.store.models import ModelRecord
    from anklume_images.store.store import Store
    from anklume_images.trust.origin import Origin
    from anklume_images.trust.revoked import Revocable

_GATES = ("healthcheck", "reproduced", "scan")


@dataclass(frozen=True)
class _Way:
    """A promotion that was asked for: REF's name and selector, places as they were written, the channel to move."""

    name: str
    selector: str
    source: str | None
    target: str
    channel: str
    why: str
    gates: tuple[str, ...] = ()
    builders: tuple[Path, ...] = ()
    databases: tuple[Path, ...] = ()
    severity: str = "medium"
    evidence: list[str] = field(default_factory=list)

    @property
    def note(self) -> str:
        """Who did it, when and why, for places that keep a line of it."""
        from anklume_images.trust.clock import now

        return f"{user()} {now()} {self.why}".rstrip()

    @property
    def ref(self) -> str:
        return f"{self.name}@{self.selector}"


def is_incus(place: str) -> bool:
    """Whether a place is a remote of the incus client (`prod:`) rather than a store."""
    return place.endswith(":") and "/" not in place


@click.command()
@REF
@click.option(
    "--from", "source", metavar="A", help="A store (folder, https address) or an Incus (REMOTE:); else this store."
)
@click.option(
    "--to", "target", metavar="B", required=True, help="A store's folder, ssh://HOST/FOLDER, or an Incus (REMOTE:)."
)
@click.option("--model", "of_model", is_flag=True, help="REF is the name of a language model.")
@click.option("--channel", help="The channel to move there; else the one that REF names, or latest.")
@click.option("--why", default="", help="The reason, for the record.")
@click.option("--gate", "gates", multiple=True, type=click.Choice(_GATES), help="Must be passed first (repeatable).")
@click.option(
    "--builder",
    "builders",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    metavar="FILE.pub",
    help="A builder whose word counts for --gate reproduced (repeatable).",
)
@click.option(
    "--db",
    "databases",
    multiple=True,
    type=click.Path(path_type=Path, exists=True),
    metavar="FILE",
    help="A database of vulnerabilities for --gate scan (repeatable).",
)
@click.option(
    "--severity",
    type=click.Choice(SEVERITIES),
    default="medium",
    help="The least that counts for --gate scan (medium).",
)
@click.option("--dry-run", is_flag=True, help="Pass the gates and say what would move.")
@KEYS
@JSON
@click.pass_obj
def promote(
    session: Session, /, ref: str, *, keys: Path | None, of_model: bool, dry_run: bool, as_json: bool, **asked: Any
) -> None:
    """Bring an image or a model to the next place, and move the image's channel there, last.

    Only what is missing is sent. From Incus to Incus the target fetches it itself.
    """
    if of_model:
        _promote_model(session, ref, keys, dry_run=dry_run, as_json=as_json, **asked)
        return
    name, _, selector = ref.partition("@")
    way = _Way(name, selector or "latest", channel=asked.pop("channel") or _channel(selector), **asked)
    if way.source and is_incus(way.source):
        report = _between_incus(way, dry_run=dry_run)
    else:
        report = _from_store(session, way, keys, dry_run=dry_run)
    report |= {"channel": way.channel, "dry_run": dry_run, "gates": way.evidence}
    if as_json:
        session.console.json(report)
        return
    for line in way.evidence:
        session.console.note(line)
    session.console.result(_line(report, way))


def _channel(selector: str) -> str:
    """The channel that a reference names; a version names none."""
    from anklume_images.store.images import CHANNEL

    return selector if selector and CHANNEL.fullmatch(selector) else "latest"


def _line(report: dict[str, Any], way: _Way) -> str:
    sent = _sent(dry_run=report["dry_run"], sent=report["sent"])
    moved = ", ".join(f"{name}: {before or 'new'} → {after}" for name, before, after in report["moved"])
    return f"{report['ref']} to {way.target}: {sent}{f'; {moved}' if moved else ''}"


def _sent(*, dry_run: bool, sent: bool) -> str:
    return "would be sent" if dry_run else "sent" if sent else "was there"


def _between_incus(way: _Way, *, dry_run: bool) -> dict[str, Any]:
    from anklume_images.incus.client import Incus
    from anklume_images.ship.between_incus import within_incus

    if not is_incus(way.target):
        raise click.UsageError("an image of an Incus goes to another Incus only: a store wants what it was made of too")
    if way.gates:
        raise click.UsageError("gates look at an image in a store: promote it from one")
    with Incus.find(way.source) as source, Incus.find(way.target) as target:
        moved = within_incus(source, target, way.name, way.selector, way.channel, note=way.note, dry_run=dry_run)
    rows = [(name, before and before[:12], moved.fingerprint[:12]) for name, before in moved.names]
    return {"ref": way.ref, "fingerprint": moved.fingerprint, "sent": moved.sent, "moved": rows}


def _from_store(session: Session, way: _Way, keys: Path | None, *, dry_run: bool) -> dict[str, Any]:
    """From this store, or from another one by way of this store."""
    store, images = session.store(), session.images()
    if way.source:
        image = _brought(session, way)
    else:
        image = images.resolve(way.ref, session.arch())
        _refuse_revoked(image, image.ref, store)
    with store.lease() as lease:
        lease.add(image.blobs())
        for gate in way.gates:
            way.evidence.append(f"{gate}: {_passed(gate, image, store, way)}")
        if is_incus(way.target):
            return _to_incus(session, image, images, store, way, dry_run=dry_run)
        if way.target.startswith("ssh:"):
            return _image_over_ssh(session, image, way, keys, dry_run=dry_run)
        return _to_store(session, image, images, way, keys, dry_run=dry_run)


def _promote_model(
    session: Session,
    name: str,
    keys: Path | None,
    *,
    source: str | None,
    target: str,
    dry_run: bool,
    as_json: bool,
    **asked: Any,
) -> None:
    from anklume_images.models.library import record_of
    from anklume_images.ship.pull import pull_model

    if asked["channel"] or asked["why"] or asked["gates"]:
        raise click.UsageError("a model has no channel, no record of its moves, and no gates: say only where to")
    if is_incus(target) or (source and is_incus(source)):
        raise click.UsageError("an Incus keeps no models: anklume-launch brings them into the volumes of machines")
    store, library = session.store(), session.models()
    origin = _contact(session, source) if source else None
    record = origin.model(name) if origin else record_of(library.model(name))
    _refuse_revoked(record, record.name, store)
    if origin:
        library.check_new(record.name, record.sha256)
    with store.lease() as lease:
        lease.add(record.blobs())
        if not dry_run and origin:
            pull_model(origin, record, store, progress=session.console)
        elif not dry_run:
            library.record(name)
        sent, replaced = _send_model(session, record, target, keys, dry_run=dry_run)
    if as_json:
        report = {"model": record.name, "sha256": record.sha256, "sent": sent, "replaced": replaced}
        session.console.json(report | {"dry_run": dry_run})
        return
    other = ", in place of another of that name" if replaced else ""
    session.console.result(f"{record.name} to {target}: {_sent(dry_run=dry_run, sent=sent)}{other}")


def _send_model(
    session: Session, record: ModelRecord, target: str, keys: Path | None, *, dry_run: bool
) -> tuple[bool, bool]:
    """To another store; whether it was not there as it is, and whether another model had its name there."""
    from anklume_images.ship.index import write_index
    from anklume_images.ship.promote import model_into_store
    from anklume_images.store.models import ModelRecords

    if target.startswith("ssh:"):
        name = f"{record.name}:latest"  # the same model, and never an image of that name
        received = _over_ssh(session, name, target, keys, dry_run=dry_run)
        (state,) = (one["state"] for one in received["models"])
        return state != "here", state == "changed"
    other = _other(session, target)
    store = other.store()
    before = ModelRecords(store).get(record.name)
    sent = before != record or not all(store.blobs.has(sha256, size) for sha256, size in record.blobs().items())
    if not dry_run:
        model_into_store(record, session.store(), store, sign=_signing(session, other, keys), progress=session.console)
        write_index(store)
    return sent, before not in (None, record)


def _contact(session: Session, place: str) -> Origin:
    from anklume_images.trust.origins import Origins

    origin = Origins(session.store()).contact(place)
    for warning in origin.warnings:
        session.console.warn(warning)
    return origin


def _brought(session: Session, way: _Way) -> Image:
    """An image of another store, had in this one; no channel of this store moves."""
    from anklume_images.ship.pull import pull

    origin = _contact(session, str(way.source))
    image, _ = origin.resolve(way.ref, session.arch())
    images, store, programs = session.images(), session.store(), StoredPrograms(session)
    return pull(origin, image, images, store, channel=None, progress=session.console, programs=programs).image


def _refuse_revoked(what: Revocable, ref: str, store: Store) -> None:
    from anklume_images.ship.pull import RevokedError
    from anklume_images.trust.revoked import known_revocations

    for entry in known_revocations(store.home):
        if entry.concerns(what):
            raise RevokedError(f"{ref} was revoked on {entry.since[:10]}: {entry.why}", hint="name another version")


def _passed(gate: str, image: Image, store: Store, way: _Way) -> str:
    from anklume_images.ship import gates

    if gate == "healthcheck":
        return gates.healthcheck(image, store.home)
    if gate == "reproduced":
        from anklume_images.trust.keys import read_public_key

        if not way.builders:
            raise click.UsageError("--gate reproduced wants the public key of a builder: --builder FILE.pub")
        return gates.reproduced(image, store.home, [read_public_key(path) for path in way.builders])
    if not way.databases:
        raise click.UsageError("--gate scan wants a database: --db FILE")
    return gates.scanned(image, store, way.databases, way.severity)


def _to_incus(
    session: Session, image: Image, images: Images, store: Store, way: _Way, *, dry_run: bool
) -> dict[str, Any]:
    from anklume_images.incus.client import Incus
    from anklume_images.ship.between_incus import names_of
    from anklume_images.ship.promote import to_incus

    with Incus.find(way.target) as incus:
        if dry_run:
            aliases = incus.aliases()
            names = [name for name in names_of(image.name, image.version, way.channel, list(aliases))
                     if aliases.get(name) != image.fingerprint]  # fmt: skip
            moved = [(name, aliases.get(name, "")[:12] or None, image.fingerprint[:12]) for name in names]
            sent = incus.image(image.fingerprint) is None
        else:
            report = to_incus(image, images, store, incus, way.channel, _progress(session), note=way.note)
            moved = [(name, before and before[:12], image.fingerprint[:12]) for name, before in report.names]
            sent = report.sent
    return {"ref": image.ref, "fingerprint": image.fingerprint, "sent": sent, "moved": moved}


def _progress(session: Session) -> Callable[[int, int], None]:
    sent = 0

    def progress(done: int, total: int) -> None:
        nonlocal sent
        if not sent:
            session.console.start(total, 1, "sending")
        session.console.advance(done - sent)
        sent = done
        if done == total:
            session.console.finish()

    return progress


def _over_ssh(
    session: Session, name: str, target: str, keys: Path | None, *moves: str, dry_run: bool
) -> dict[str, Any]:
    """An image or a model by its name; `moves` are options of the import there."""
    from anklume_images.ship.ssh import host_of, send

    host = host_of(target)
    if dry_run:
        raise click.UsageError("over ssh there is no --dry-run")
    repository = session.repository(keys)
    if not repository.exists:
        raise click.UsageError("the other host believes what is signed: anklume-images trust sign")
    own = ["--store", str(session.store().home), "--arch", session.arch()]
    return send(name, own, host, fingerprint=repository.identity, moves=moves)


def _image_over_ssh(session: Session, image: Image, way: _Way, keys: Path | None, *, dry_run: bool) -> dict[str, Any]:
    moves = ("--channel", way.channel, "--why", way.why)
    received = _over_ssh(session, image.ref, way.target, keys, *moves, dry_run=dry_run)
    (there,) = (one for one in received["images"] if one["ref"] == image.ref)
    moved = [(f"{image.name}@{channel}", before, image.version) for channel, before in there["channels"].items()]
    return {"ref": image.ref, "fingerprint": image.fingerprint, "sent": there["new"], "moved": moved}


def _to_store(
    session: Session, image: Image, images: Images, way: _Way, keys: Path | None, *, dry_run: bool
) -> dict[str, Any]:
    """Into another store's folder: blobs and documents, then the channel and its signature together."""
    from anklume_images.ship.index import write_index
    from anklume_images.ship.promote import into_store

    other = _other(session, way.target)
    target, theirs = other.store(), other.images()
    _refuse_revoked(image, image.ref, target)
    before = theirs.channels(image.name, image.architecture).get(way.channel)
    moved = [] if before == image.version else [(f"{image.name}@{way.channel}", before, image.version)]
    sent = theirs.present(image.name, image.version, image.architecture) is None
    if not dry_run:
        into_store(
            image,
            images,
            theirs,
            target,
            channel=way.channel,
            why=way.why,
            sign=_signing(session, other, keys),
            progress=session.console,
            programs=StoredPrograms(session),
        )
        write_index(target)
    return {"ref": image.ref, "fingerprint": image.fingerprint, "sent": sent, "moved": moved}


def _other(session: Session, folder: str) -> Session:
    """The same options upon another store."""
    return Session(session.specs, Path(folder).expanduser().absolute(), session.architecture, session.console)


def _signing(session: Session, other: Session, keys: Path | None) -> Callable[[], None] | None:
    """What signs another store again; None where it is not signed."""
    repository = other.repository(keys)
    return (lambda: warn_of_wanted(session, other.sign(repository))) if repository.exists else None
