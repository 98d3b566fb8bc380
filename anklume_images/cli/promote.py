"""The command `promote`."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from anklume_images.cli.delta_programs import StoredPrograms
from anklume_images.cli.places import (
    is_incus,
    is_over_ssh,
    other_store,
    refuse_ignored,
    refuse_places,
    sent_in_words,
    signing,
    to_other_host,
    waiting_in_words,
    want_signed,
    wanted_channel,
)
from anklume_images.cli.session import JSON, REF, Session, user
from anklume_images.cli.trust import KEYS, warn_of_wanted
from anklume_images.evidence.findings import SEVERITIES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anklume_images.ship.publish import PublishReport
    from anklume_images.store.images import Image, Images
    from anklume_images.store.promotion_log import Promotion
    from anklume_images.store.store import Store

_GATES = ("healthcheck", "reproduced", "scan")
_LATEST = "latest"
_SEVERITY = "medium"  # where none is given


@dataclass(frozen=True)
class _Way:
    """A promotion that was asked for: REF's name and selector, places as they were written, the channel to move.

    An empty channel is that which REF names, or latest.
    """

    name: str
    selector: str
    source: str | None
    target: str
    channel: str
    why: str
    gates: tuple[str, ...] = ()
    builders: tuple[Path, ...] = ()
    databases: tuple[Path, ...] = ()
    severity: str | None = None
    fingerprint: str | None = None
    evidence: list[str] = field(default_factory=list)

    @property
    def note(self) -> str:
        """Who did it, when and why, for places that keep a line of it."""
        from anklume_images.trust.clock import now

        return f"{user()} {now()} {self.why}".rstrip()

    @property
    def ref(self) -> str:
        return f"{self.name}@{self.selector}"


@click.command()
@REF
@click.option(
    "--from",
    "source",
    metavar="A",
    help="A store (folder, https address, ssh://HOST/FOLDER) or an Incus (REMOTE:); default: this store.",
)
@click.option(
    "--to", "target", metavar="B", required=True, help="A store's folder, ssh://HOST/FOLDER, or an Incus (REMOTE:)."
)
@click.option("--model", "of_model", is_flag=True, help="REF is the name of a language model.")
@click.option(
    "--channel", callback=wanted_channel, help="Channel to move there (default: the one that REF names, or latest)."
)
@click.option("--why", default="", help="The reason, for the record.")
@click.option(
    "--gate", "gates", multiple=True, type=click.Choice(_GATES), help="Check that must pass first (repeatable)."
)
@click.option(
    "--builder",
    "builders",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    metavar="FILE.pub",
    help="Builder that is trusted for --gate reproduced (repeatable).",
)
@click.option(
    "--db",
    "databases",
    multiple=True,
    type=click.Path(path_type=Path, exists=True),
    metavar="FILE",
    help="Vulnerability database for --gate scan (repeatable).",
)
@click.option(
    "--severity",
    type=click.Choice(SEVERITIES),
    help=f"Lowest severity that counts for --gate scan (default: {_SEVERITY}).",
)
@click.option("--fingerprint", help="Fingerprint of the source store; needed the first time over ssh.")
@click.option("--dry-run", is_flag=True, help="Check the gates and show what would move.")
@KEYS
@JSON
@click.pass_obj
def promote(
    session: Session, /, ref: str, *, keys: Path | None, of_model: bool, dry_run: bool, as_json: bool, **asked: Any
) -> None:
    """Copy an image or a model to another store or Incus, and then move the image's channel there.

    Only what is missing is sent. Between two Incus servers, the target fetches the image itself.
    """
    refuse_places(asked["source"], asked["target"])
    if not is_over_ssh(asked["source"] or ""):
        refuse_ignored("it is for --from ssh://HOST/FOLDER", "fingerprint")
    if of_model:
        from anklume_images.cli.promote_model import promote_model

        promote_model(session, ref, keys, dry_run=dry_run, as_json=as_json, **asked)
        return
    name, _, selector = ref.partition("@")
    way = _Way(name, selector or _LATEST, channel=asked.pop("channel") or "", **asked)
    _check(session, way, keys)
    if way.source and is_incus(way.source):
        report = _between_incus(session, way, keys, dry_run=dry_run)
    else:
        report = _from_store(session, way, keys, dry_run=dry_run)
    waits = report.setdefault("waits", [])
    if waits:
        session.console.warn(waiting_in_words(waits))
    report |= {"dry_run": dry_run, "gates": way.evidence}
    if as_json:
        session.console.json(report)
        return
    for line in way.evidence:
        session.console.note(line)
    session.console.result(_line(report, way))


def _line(report: dict[str, Any], way: _Way) -> str:
    sent = sent_in_words(dry_run=report["dry_run"], sent=report["sent"])
    moved = ", ".join(f"{name}: {before or 'new'} → {after}" for name, before, after in report["moved"])
    waits = "; not signed yet" if report["waits"] else ""
    return f"{report['ref']} to {way.target}: {sent}{f'; {moved}' if moved else ''}{waits}"


def _check(session: Session, way: _Way, keys: Path | None) -> None:
    """Refuse what cannot be done, before anything is read or recorded."""
    if is_over_ssh(way.target):
        want_signed(session, keys)
    if way.source and is_incus(way.source):
        if not is_incus(way.target):
            raise click.UsageError("an image in Incus cannot go into a store: its inputs are missing")
        if way.gates:
            raise click.UsageError("gates check images in a store: promote the image from a store")
    if "reproduced" not in way.gates:
        refuse_ignored("it is for --gate reproduced", "builders")
    elif not way.builders:
        raise click.UsageError("--gate reproduced needs the public key of a builder: --builder FILE.pub")
    if "scan" not in way.gates:
        refuse_ignored("it is for --gate scan", "databases", "severity")
    elif not way.databases:
        raise click.UsageError("--gate scan needs a database: --db FILE")


@contextlib.contextmanager
def _recorded(
    session: Session, way: _Way, keys: Path | None, image: Image | None, *, dry_run: bool
) -> Iterator[Callable[[dict[str, Any]], dict[str, Any]]]:
    """Have this store's log tell of the promotion, which ends with a report; it passes that on."""
    from anklume_images.store.promotion_log import PromotionLog

    if dry_run:
        yield lambda report: report
        return
    asked = _asked(session, way, image)
    with PromotionLog(session.store()).recorded(asked) as done:

        def ended(report: dict[str, Any]) -> dict[str, Any]:
            moved = tuple(tuple(row) for row in report["moved"])
            ended = replace(asked, fingerprint=report["fingerprint"], gates=tuple(way.evidence), moved=moved)
            waits = report.get("waits")
            done(replace(ended, outcome="staged", problem=waiting_in_words(waits)) if waits else ended)
            return report

        yield ended
    _sign_record(session, keys)


def _asked(session: Session, way: _Way, image: Image | None) -> Promotion:
    from anklume_images.store.promotion_log import Promotion

    return Promotion(
        ref=image.ref if image else way.ref,
        architecture=image.architecture if image else None,
        fingerprint=image.fingerprint if image else None,
        source=way.source or str(session.store().home),
        target=way.target,
        channel=way.channel,
        gates=way.gates,
        why=way.why,
    )


def _sign_record(session: Session, keys: Path | None) -> None:
    """Have a signed store's signature cover the log as it is now, and nothing else that is new.

    A log that somebody wrote anew since it was signed does not get a signature by the way.
    """
    from anklume_images.errors import StoreError
    from anklume_images.store.promotion_log import PromotionLog
    from anklume_images.trust.contents import with_record
    from anklume_images.trust.records import signed_lines

    repository = session.repository(keys)
    current = repository.current("targets") if repository.exists else None
    if current is None:
        session.console.note(
            "this store is not signed, so the record of it is not either: anklume-images trust sign signs both"
        )
        return
    if repository.staged("targets") is not None:
        session.console.warn("the record of it is signed with what waits for signatures: anklume-images trust sign")
        return
    chain = PromotionLog(session.store()).chain
    _, unlike = signed_lines(repository, chain)
    if unlike:
        session.console.warn(
            f"not signed: {chain.path} {unlike[0].problem}; anklume-images trust sign signs it as it is"
        )
        return
    try:
        warn_of_wanted(session, repository.publish(lambda: with_record(repository, session.store())))
    except (StoreError, click.Abort) as error:
        why = str(error) or "no passphrase was given"
        session.console.warn(f"the record of it is not signed yet: {why}; sign it: anklume-images trust sign")


def _between_incus(session: Session, way: _Way, keys: Path | None, *, dry_run: bool) -> dict[str, Any]:
    from anklume_images.incus.client import Incus
    from anklume_images.ship.between_incus import is_version, within_incus
    from anklume_images.trust.revoked import known_revocations

    way = replace(way, channel=way.channel or (_LATEST if is_version(way.selector) else way.selector))
    revoked = known_revocations(session.store().home)
    with (
        Incus.find(way.source) as source,
        Incus.find(way.target) as target,
        _recorded(session, way, keys, None, dry_run=dry_run) as ended,
    ):
        report = within_incus(
            source, target, way.name, way.selector, way.channel, revoked, note=way.note, dry_run=dry_run
        )
        return ended(_told(way.ref, report) | {"channel": way.channel})


def _from_store(session: Session, way: _Way, keys: Path | None, *, dry_run: bool) -> dict[str, Any]:
    """From this store, or from another one by way of this store."""
    from anklume_images.cli.promote_source import brought, looked_up

    store, images = session.store(), session.images()
    asked = (session, way.ref, way.source, way.fingerprint)
    image, named = looked_up(*asked, gated=bool(way.gates)) if dry_run else brought(*asked)
    way = replace(way, channel=way.channel or named or _LATEST)
    with store.lease() as lease, _recorded(session, way, keys, image, dry_run=dry_run) as ended:
        lease.add(image.blobs())
        for gate in way.gates:
            way.evidence.append(f"{gate}: {_passed(gate, image, store, way)}")
        if is_incus(way.target):
            report = _to_incus(session, image, images, store, way, dry_run=dry_run)
        elif is_over_ssh(way.target):
            report = _over_ssh(session, image, way, keys, dry_run=dry_run)
        else:
            report = _to_store(session, image, images, way, keys, dry_run=dry_run)
        return ended(report | {"channel": way.channel})


def _passed(gate: str, image: Image, store: Store, way: _Way) -> str:
    from anklume_images.ship import gates

    if gate == "healthcheck":
        return gates.healthcheck(image, store.home)
    if gate == "reproduced":
        from anklume_images.trust.keys import read_public_key

        return gates.reproduced(image, store.home, [read_public_key(path) for path in way.builders])
    return gates.scanned(image, store, way.databases, way.severity or _SEVERITY)


def _to_incus(
    session: Session, image: Image, images: Images, store: Store, way: _Way, *, dry_run: bool
) -> dict[str, Any]:
    from anklume_images.incus.client import Incus
    from anklume_images.ship.promote import to_incus

    with Incus.find(way.target) as incus, session.console.sending() as progress:
        report = to_incus(image, images, store, incus, way.channel, progress, note=way.note, dry_run=dry_run)
    return _told(image.ref, report)


def _told(ref: str, report: PublishReport) -> dict[str, Any]:
    moved = [(one.name, one.before and one.before[:12], one.after[:12]) for one in report.aliases_changed]
    return {"ref": ref, "fingerprint": report.fingerprint, "sent": report.imported, "moved": moved}


def _over_ssh(session: Session, image: Image, way: _Way, keys: Path | None, *, dry_run: bool) -> dict[str, Any]:
    if dry_run:
        from anklume_images.ship.ssh import channel_of, host_of

        there, before = channel_of(image, way.channel, host_of(way.target))
        moved = [] if before == image.version else [(f"{image.name}@{way.channel}", before, image.version)]
        return {"ref": image.ref, "fingerprint": image.fingerprint, "sent": not there, "moved": moved}
    moves = ("--channel", way.channel, "--why", way.why)
    report = to_other_host(session, image.ref, way.target, keys, *moves)
    (one,) = (one for one in report["images"] if one["ref"] == image.ref)
    moved = [(f"{image.name}@{channel}", before, image.version) for channel, before in one["channels"].items()]
    told = {"ref": image.ref, "fingerprint": image.fingerprint, "sent": one["new"], "moved": moved}
    return told | {"waits": report["waits"]}


def _to_store(
    session: Session, image: Image, images: Images, way: _Way, keys: Path | None, *, dry_run: bool
) -> dict[str, Any]:
    """Into another store's folder: blobs and documents, then the channel and its signature together."""
    from anklume_images.ship.index import indexed
    from anklume_images.ship.promote import into_store
    from anklume_images.trust.revoked import refuse_known

    other = other_store(session, way.target)
    target, theirs = other.store(), other.images()
    refuse_known(image, image.ref, target.home)
    sign = signing(other, keys)
    with contextlib.nullcontext() if dry_run else indexed(target):
        report = into_store(
            image,
            images,
            theirs,
            target,
            channel=way.channel,
            why=way.why,
            sign=sign,
            progress=session.console,
            programs=StoredPrograms(session),
            dry_run=dry_run,
        )
    moved = [] if report.before == image.version else [(f"{image.name}@{way.channel}", report.before, image.version)]
    told = {"ref": image.ref, "fingerprint": image.fingerprint, "sent": report.new, "moved": moved}
    return told | {"waits": sign.waits if sign else []}
