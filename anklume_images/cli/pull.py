"""The command `pull`: images and models from another store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from anklume_images.cli.delta_programs import StoredPrograms
from anklume_images.cli.places import contact, wanted_channel
from anklume_images.cli.session import JSON, Session

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from anklume_images.store.store import Store
    from anklume_images.trust.origin import Origin
    from anklume_images.trust.revoked import Revocable, RevokedError


@click.command()
@click.argument("refs", nargs=-1, metavar="[REF]...")
@click.option(
    "--from",
    "place",
    metavar="PLACE",
    help="The other store: a folder or an https address (default: the only accepted one).",
)
@click.option("--model", "of_models", is_flag=True, help="The names are of language models.")
@click.option(
    "--channel", callback=wanted_channel, help="Move this channel to them instead of the one they are named by."
)
@click.option("--dry-run", is_flag=True, help="Show what would be fetched; fetch nothing.")
@JSON
@click.pass_obj
def pull(
    session: Session,
    refs: tuple[str, ...],
    place: str | None,
    channel: str | None,
    *,
    of_models: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Fetch images or models from another store, which you accepted before (trust accept).

    Without REF: the newest versions of all images that both stores have. What was revoked is left out.
    """
    if of_models and (channel or not refs):
        raise click.UsageError("--model needs names of models, and models have no channels")
    origin, refused = contact(session, place), _Refused()
    images = [] if of_models else list(_images(session, origin, refs, channel, refused, dry_run=dry_run))
    models = list(_models(session, origin, refs, refused, dry_run=dry_run)) if of_models else []
    if as_json:
        session.console.json({"from": str(origin.place), "dry_run": dry_run, "images": images, "models": models})
    else:
        for row in images:
            session.console.result(_line(row["ref"], row, _moved(row), dry_run=dry_run))
        for row in models:
            session.console.result(_line(row["name"], row, _changed(row), dry_run=dry_run))
    refused.tell()


class _Refused:
    """What is not to be had, as it was revoked; the rest is."""

    def __init__(self) -> None:
        self._errors: list[RevokedError] = []

    def why(self, origin: Origin, what: Revocable, ref: str, store: Store) -> str | None:
        """Why it is not to be had; None where it is."""
        from anklume_images.ship.pull import refuse_revoked
        from anklume_images.trust.revoked import RevokedError

        try:
            refuse_revoked(origin, what, ref, store)
        except RevokedError as error:
            self._errors.append(error)
            return error.message
        return None

    def tell(self) -> None:
        """RevokedError of all of them, if there are any."""
        if self._errors:
            from anklume_images.trust.revoked import RevokedError

            first, *_ = self._errors
            raise RevokedError("\n".join(one.message for one in self._errors), where=first.where, hint=first.hint)


def _images(
    session: Session, origin: Origin, refs: Sequence[str], channel: str | None, refused: _Refused, *, dry_run: bool
) -> Iterator[dict[str, Any]]:
    from anklume_images.ship.by_delta import offered
    from anklume_images.ship.index import write_index
    from anklume_images.ship.pull import pull as have
    from anklume_images.ship.wanted import wanted

    store, images = session.store(), session.images()
    chosen = [origin.resolve(ref, session.arch()) for ref in refs or _here(session, origin)]
    programs = StoredPrograms(session)
    for image, asked in chosen:
        row: dict[str, Any] = {"ref": image.ref, "architecture": image.architecture, "fingerprint": image.fingerprint}
        row["revoked"] = refused.why(origin, image, image.ref, store)
        if row["revoked"]:
            yield row | {"bytes": 0, "channel": None, "before": None, "attestations": 0}
            continue
        if dry_run:
            todo = wanted(image, store, offered(origin, image), programs)
            row["bytes"], row["channel"], row["before"] = todo.bytes(store), None, None
            yield row | {"attestations": len(origin.attestations(image))}
            continue
        report = have(
            origin, image, images, store, channel=channel or asked, progress=session.console, programs=programs
        )
        write_index(store)
        row["bytes"], row["channel"], row["before"] = report.bytes, report.channel, report.before
        yield row | {"attestations": report.attestations}


def _models(
    session: Session, origin: Origin, names: Sequence[str], refused: _Refused, *, dry_run: bool
) -> Iterator[dict[str, Any]]:
    from anklume_images.ship.index import write_index
    from anklume_images.ship.pull import pull_model
    from anklume_images.store.models import ModelRecords

    store, library = session.store(), session.models()
    records = [origin.model(name) for name in names]
    for record in records:
        library.check_new(record.name, record.sha256)
    for record in records:
        about = {key: getattr(record, key) for key in ("name", "sha256", "size", "license", "source")}
        before = ModelRecords(store).get(record.name)
        about["before"] = before.sha256 if before else None
        about["revoked"] = refused.why(origin, record, record.name, store)
        if about["revoked"]:
            yield about | {"bytes": 0}
            continue
        if dry_run:
            yield about | {"bytes": _absent(record.blobs(), store)}
            continue
        size = pull_model(origin, record, store, progress=session.console).bytes
        write_index(store)
        yield about | {"bytes": size}


def _absent(blobs: Mapping[str, int], store: Store) -> int:
    from anklume_images.ship.wanted import missing

    return sum(file.size or 0 for file in missing(blobs, store))


def _here(session: Session, origin: Origin) -> list[str]:
    here = {(image.name, image.architecture) for image in session.images()}
    there = {(name, arch) for name, _, arch in origin.images() if origin.channels(name, arch).get("latest")}
    return sorted(name for name, arch in here & there if arch == session.arch())


def _line(ref: str, row: Mapping[str, Any], further: Sequence[str], *, dry_run: bool) -> str:
    from anklume_images.console import human_size

    if row["revoked"]:
        return f"{ref}: revoked"
    size = f"{human_size(row['bytes'])} {'to fetch' if dry_run else 'fetched'}"
    return ", ".join([f"{ref}: {size if row['bytes'] else 'here' if dry_run else 'was here'}", *further])


def _moved(row: Mapping[str, Any]) -> list[str]:
    version = row["ref"].partition("@")[2]
    moved = row["channel"] and row["before"] != version
    return [f"{row['channel']}: {row['before'] or 'new'} → {version}"] if moved else []


def _changed(row: Mapping[str, Any]) -> list[str]:
    changed = row["before"] not in (None, row["sha256"])
    return [f"in place of another file of that name ({row['before'][:12]})"] if changed else []
