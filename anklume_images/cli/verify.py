"""The command that compares the store with its hashes, and puts right what it can."""

from __future__ import annotations

import contextlib
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from anklume_images.cli.session import JSON, Session, complete_refs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from anklume_images.inputs.lockfile import LockedFile
    from anklume_images.store.store import Store
    from anklume_images.store.verify import Damage, Sample, VerifyReport
    from anklume_images.trust.place import Place

__all__ = ["verify"]

_MIRRORS = "mirrors"


class _SampleType(click.ParamType[Any]):
    name = "sample"

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> Sample:
        from anklume_images.store.verify import Sample

        match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)%|([0-9]{1,9})", value)
        number = float(match[1] or match[2]) if match else 0
        if not match or number <= 0 or (match[1] and number > 100):
            self.fail(f"{value!r} is no sample: write 5% or 100", parameter, context)
        return Sample(part=number / 100) if match[1] else Sample(count=int(number))


@click.command()
@click.argument("refs", nargs=-1, metavar="[REF]...", shell_complete=complete_refs)
@click.option("--sample", type=_SampleType(), metavar="N%|COUNT", help="Read only some of the blobs, picked at random.")
@click.option(
    "--repair", is_flag=True, help="Repair what can be repaired; remove what has to be fetched or built again."
)
@click.option(
    "--from",
    "origins",
    multiple=True,
    metavar=f"STORE|{_MIRRORS}",
    help="Where --repair gets files from: a folder or an https address (repeatable).",
)
@JSON
@click.pass_obj
def verify(
    session: Session,
    refs: tuple[str, ...],
    sample: Sample | None,
    origins: tuple[str, ...],
    *,
    repair: bool,
    as_json: bool,
) -> None:
    """Check the files of images against their hashes.

    Without a name: the whole store, also documents, channels, logs, locks and trees.
    """
    from anklume_images.store.verify import verify_store

    if origins and not repair:
        raise click.UsageError("--from is for --repair")
    store, images = session.store(), session.images()
    others = _others(origin for origin in origins if origin != _MIRRORS and "://" not in origin)
    places = _places(session, [origin for origin in origins if "://" in origin])
    report = verify_store(store, images, refs, session.arch(), sample=sample, progress=session.console)
    done: dict[int, str] = {}
    left = bool(report.damage) and not repair
    if repair:
        from anklume_images.ship.index import write_index
        from anklume_images.store.repair import repair as put_right

        fetch = _fetch(session) if _MIRRORS in origins else None
        for damage, outcome in put_right(store, images, report.damage, others, fetch, _served(session, places)):
            done[id(damage)] = outcome.done
            left |= outcome.left
        if report.damage:
            write_index(store)
    _tell(session, report, done, as_json=as_json)
    sys.exit(1 if left else 0)


def _tell(session: Session, report: VerifyReport, done: dict[int, str], *, as_json: bool) -> None:
    if as_json:
        document: dict[str, Any] = {"checked": report.checked, "bytes": report.bytes, "damaged": list(report.damaged)}
        if done:
            document["repaired"] = {damage.text: done[id(damage)] for damage in report.damage}
        session.console.json(document)
        return
    for damage in report.damage:
        session.console.result(f"damaged: {damage.text}{_outcome(damage, done)}")
    session.console.result(f"{report.checked} files checked, {len(report.damage)} damaged")


def _outcome(damage: Damage, done: dict[int, str]) -> str:
    return f": {done[id(damage)]}" if id(damage) in done else ""


def _others(folders: Iterable[str]) -> list[Store]:
    from anklume_images.errors import StoreError
    from anklume_images.store.store import Store

    others = []
    for folder in folders:
        if not (Path(folder) / "schema").exists():
            raise StoreError("this is not a store", where=folder, hint="--from wants the folder of another store")
        others.append(Store(Path(folder).absolute()))
    return others


def _places(session: Session, addresses: Sequence[str]) -> list[Place]:
    from anklume_images.trust.origins import Origins

    origins = Origins(session.store())
    return [origins.place(address) for address in addresses]


def _served(session: Session, places: Sequence[Place]) -> Callable[[str], str | None]:
    """What has a blob from the first of these places that gives it, as its sha256 says: no signature is asked for."""
    from anklume_images.errors import FetchError
    from anklume_images.inputs.fetch import fetch
    from anklume_images.inputs.lockfile import LockedFile
    from anklume_images.store.blobs import blob_path

    blobs, reached = session.store().blobs, list(places)

    def have(sha256: str) -> str | None:
        for place in tuple(reached):
            try:
                fetch([LockedFile("store", blob_path(sha256), sha256, None)], blobs, place, progress=session.console)
            except FetchError as error:  # each attempt has been told
                if error.unreachable and not error.changed:
                    reached.remove(place)  # it would keep each further file waiting
            else:
                return str(place)
        return None

    return have


def _fetch(session: Session) -> Callable[[str, LockedFile], None]:
    """What has one locked file of an image in the store, by the settings and what the image's spec says."""
    from anklume_images.errors import AnklumeError
    from anklume_images.inputs.fetch import fetch

    pipeline, blobs = session.pipeline(), session.store().blobs

    def fetch_one(name: str, file: LockedFile) -> None:
        sources = pipeline.sources()
        with contextlib.suppress(AnklumeError):  # an image without a spec here has none of its own archives
            sources = pipeline.sources([name])
        fetch([file], blobs, sources, progress=session.console)

    return fetch_one
