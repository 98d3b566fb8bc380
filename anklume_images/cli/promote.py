"""The commands `promote` and `attest`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from anklume_images.cli.session import JSON, REF, Session, user
from anklume_images.cli.trust import KEYS, warn_of_wanted
from anklume_images.evidence.findings import SEVERITIES

if TYPE_CHECKING:
    from collections.abc import Callable

    from anklume_images.store.images import Image, Images
    from anklume_images.store.store import Store

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
        from anklume_images.trust.origin import now

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
def promote(session: Session, /, ref: str, *, keys: Path | None, dry_run: bool, as_json: bool, **asked: Any) -> None:
    """Bring an image to the next place, and move its channel there, last.

    Only what is missing is sent. From Incus to Incus the target fetches it itself.
    """
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
    sent = "would be sent" if report["dry_run"] else "sent" if report["sent"] else "was there"
    moved = ", ".join(f"{name}: {before or 'new'} → {after}" for name, before, after in report["moved"])
    return f"{report['ref']} to {way.target}: {sent}{f'; {moved}' if moved else ''}"


def _between_incus(way: _Way, *, dry_run: bool) -> dict[str, Any]:
    from anklume_images.incus.client import Incus
    from anklume_images.ship.promote import within_incus

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
        _refuse_revoked(image, store)
    with store.lease() as lease:
        lease.add([image.metadata.sha256, image.rootfs.sha256])
        for gate in way.gates:
            way.evidence.append(f"{gate}: {_passed(gate, image, store, way)}")
        if is_incus(way.target):
            return _to_incus(session, image, images, store, way, dry_run=dry_run)
        if way.target.startswith("ssh:"):
            return _over_ssh(session, image, way, keys, dry_run=dry_run)
        return _to_store(session, image, images, way, keys, dry_run=dry_run)


def _brought(session: Session, way: _Way) -> Image:
    """An image of another store, had in this one; no channel of this store moves."""
    from anklume_images.ship.pull import pull
    from anklume_images.trust.origins import Origins

    origin = Origins(session.store()).contact(str(way.source))
    for warning in origin.warnings:
        session.console.warn(warning)
    image, _ = origin.resolve(way.ref, session.arch())
    return pull(origin, image, session.images(), session.store(), channel=None, progress=session.console).image


def _refuse_revoked(image: Image, store: Store) -> None:
    from anklume_images.ship.pull import RevokedError
    from anklume_images.trust.revoked import known_revocations

    for entry in known_revocations(store.home):
        if entry.concerns(image):
            raise RevokedError(
                f"{image.ref} was revoked on {entry.since[:10]}: {entry.why}", hint="name another version"
            )


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
    from anklume_images.ship.promote import names_of, to_incus

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


def _over_ssh(session: Session, image: Image, way: _Way, keys: Path | None, *, dry_run: bool) -> dict[str, Any]:
    from anklume_images.ship.ssh import host_of, send

    host = host_of(way.target)
    if dry_run:
        raise click.UsageError("over ssh there is no --dry-run")
    repository = session.repository(keys)
    if not repository.exists:
        raise click.UsageError("the other host believes what is signed: anklume-images trust sign")
    own = ["--store", str(session.store().home), "--arch", image.architecture]
    received = send(image.ref, own, host, channel=way.channel, why=way.why, fingerprint=repository.identity)
    (there,) = (one for one in received["images"] if one["ref"] == image.ref)
    moved = [(f"{image.name}@{channel}", before, image.version) for channel, before in there["channels"].items()]
    return {"ref": image.ref, "fingerprint": image.fingerprint, "sent": there["new"], "moved": moved}


def _to_store(
    session: Session, image: Image, images: Images, way: _Way, keys: Path | None, *, dry_run: bool
) -> dict[str, Any]:
    """Into another store's folder: blobs and documents, then the channel and its signature together."""
    from anklume_images.ship.index import write_index
    from anklume_images.ship.promote import into_store
    from anklume_images.store.images import Images as OtherImages
    from anklume_images.store.store import Store as OtherStore

    target = OtherStore(Path(way.target).expanduser().absolute())
    theirs = OtherImages(target)
    before = theirs.channels(image.name, image.architecture).get(way.channel)
    moved = [] if before == image.version else [(f"{image.name}@{way.channel}", before, image.version)]
    sent = theirs.present(image.name, image.version, image.architecture) is None
    if not dry_run:
        other = Session(session.specs, target.home, session.architecture, session.console)
        repository = other.repository(keys)
        into_store(
            image,
            images,
            theirs,
            target,
            channel=way.channel,
            why=way.why,
            sign=(lambda: warn_of_wanted(session, other.sign(repository))) if repository.exists else None,
            progress=session.console,
        )
        write_index(target)
    return {"ref": image.ref, "fingerprint": image.fingerprint, "sent": sent, "moved": moved}


@click.command()
@REF
@click.option(
    "--add",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    metavar="FILE",
    help="Keep the word of another builder.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Where to write; else standard output.",
)
@KEYS
@click.pass_obj
def attest(session: Session, ref: str, add: Path | None, output: Path | None, keys: Path | None) -> None:
    """Build an image again, and sign that the bytes were the same.

    Its file is for another store, whose owner keeps it with --add and asks for it with promote --gate reproduced.
    """
    from anklume_images.trust.attest import add_attestation

    store, images = session.store(), session.images()
    image = images.resolve(ref, session.arch())
    if add:
        path = add_attestation(store.home, image, add.read_bytes(), str(add))
        session.console.result(f"kept: {path.relative_to(store.home)}")
        return
    data = _attested(session, image, keys)
    if output:
        from anklume_images.files import write_atomic

        write_atomic(output, data)
        session.console.result(f"{image.ref}: the same bytes; signed in {output}")
    else:
        session.console.result(data.decode().rstrip())


def _attested(session: Session, image: Image, keys: Path | None) -> bytes:
    from anklume_images.builder.check import check_image
    from anklume_images.errors import BuildError
    from anklume_images.settings import keys_home
    from anklume_images.trust.attest import attest as sign
    from anklume_images.trust.keys import KeyRing
    from anklume_images.trust.origin import now

    pipeline = session.pipeline()
    wanted = pipeline.prepare(image.name).version
    if wanted != image.version:
        raise click.UsageError(f"the spec here makes {image.name}@{wanted}: check out the commit of {image.ref}")
    outcome = check_image(pipeline, image.name)
    if not outcome.identical:
        raise BuildError(
            f"{image.ref} came out with other bytes here",
            step="check",
            tail=list(outcome.paths)[:12],
            hint="anklume-images build --check says more",
        )
    ring = KeyRing(keys.absolute() if keys else keys_home(os.environ))
    return sign(image, ring.labelled("builder"), {"builder": user(), "finished": now()})
