"""The commands `bundle inspect`, `bundle verify` and `bundle import`: what is in a bundle, and out of it."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from anklume_images.cli.delta_programs import StoredPrograms
from anklume_images.cli.places import compared, signing, waiting_in_words, wanted_channel
from anklume_images.cli.session import JSON, Session, user

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anklume_images.bundle.checked import Opened
    from anklume_images.bundle.index import Contents
    from anklume_images.bundle.receive import Received
    from anklume_images.trust.origins import Origins

__all__ = ["import_", "index_document", "inspect", "summary", "verify"]

_LACKS = "it leaves out {} files that this host lacks, so it cannot be imported here"
_FILE = click.argument("bundle", metavar="FILE")


def index_document(contents: Contents) -> dict[str, Any]:
    """An index as plain data, described in docs/reference/commands.md."""
    return {
        "fingerprint": contents.store,
        "images": [{"ref": one.ref, "architecture": one.architecture} for one in contents.images],
        "models": list(contents.models),
        "infra": list(contents.infra),
        "tool": contents.tool,
        "bytes": contents.size,
        "files_in_it": len(contents.members),
        "inventory": contents.inventory,
        "deltas": len(contents.deltas),
    }


def summary(document: dict[str, Any]) -> str:
    """The same as text."""
    from anklume_images.console import human_size

    lines = [f"image    {image['ref']} ({image['architecture']})" for image in document["images"]]
    lines += [f"model    {name}" for name in document["models"]]
    lines += [f"infra    {name}" for name in document["infra"]]
    lines += [f"tool     {document['tool']}"] * (document["tool"] is not None)
    size = f"{human_size(document['bytes'])} in {document['files_in_it']} files"
    if document.get("left_out"):
        size += f"; {human_size(document['left_out'])} that the target has are left out"
    elif document["inventory"]:
        size += "; without what one host had"
    lines += [f"size     {size}", f"signed   {document['fingerprint']}"]
    if document.get("dry_run"):
        lines.append("nothing was done (--dry-run)")
    return "\n".join([*lines, *(f"written  {file}" for file in document.get("files", ()))])


@click.command()
@_FILE
@JSON
@click.pass_obj
def inspect(session: Session, bundle: str, *, as_json: bool) -> None:
    """Show what is in a bundle, from its index only; `verify` checks it."""
    from anklume_images.bundle.parts import Source
    from anklume_images.bundle.reader import BundleReader

    source = Source.at(bundle)
    with contextlib.closing(source):
        document = index_document(BundleReader(source).contents)
    if as_json:
        session.console.json(document)
    else:
        session.console.result(summary(document))


@contextlib.contextmanager
def _opened(bundle: str, folder: Path) -> Iterator[Opened]:
    from anklume_images.bundle.checked import Opened
    from anklume_images.bundle.parts import Source
    from anklume_images.bundle.reader import BundleReader

    source = Source.at(bundle)
    with contextlib.closing(source):
        yield Opened(BundleReader(source), folder)


@click.command()
@_FILE
@JSON
@click.pass_obj
def verify(session: Session, bundle: str, *, as_json: bool) -> None:
    """Check a whole bundle: every part, byte and signature. Nothing is imported.

    Exit code 1 when something is wrong.
    """
    import shutil
    import tempfile

    from anklume_images.bundle.checked import check
    from anklume_images.bundle.index import BundleError
    from anklume_images.bundle.parts import check_parts, parts_of
    from anklume_images.trust.origin import Origin
    from anklume_images.trust.origins import Origins
    from anklume_images.trust.repository import identity_of

    wrong = []
    if bundle != "-":
        for part, problem in check_parts(parts_of(Path(bundle).absolute())):
            session.console.note(f"{part.name}: {'whole' if problem is None else problem}")
            wrong += [part.name] * (problem is not None)
    if wrong:
        raise BundleError(f"damaged: {', '.join(wrong)}", where=bundle, hint="copy these parts again")
    store = session.store()
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="anklume-bundle-")))
        opened = stack.enter_context(_opened(bundle, scratch / "bundle"))
        origins = Origins(store)
        root = origins.first_root(opened.place)
        identity = identity_of(root)
        believed = any(one.identity == identity for one in origins)
        memory = scratch / "trust"
        if believed:
            shutil.copytree(origins.folder / identity[:32], memory)
        else:
            memory.mkdir()
            (memory / "first.json").write_bytes(root)
        checked = check(opened, Origin(memory, opened.place, identity), store.home)
        for warning in checked.origin.warnings:
            session.console.warn(warning)
        session.console.start(opened.contents.size, len(opened.contents.members), "checking")
        try:
            for member in opened.rest():
                opened.reader.pour(member, lambda data: session.console.advance(len(data)))
        finally:
            session.console.finish()
        lacks = checked.lacking(store.blobs)
    document = index_document(opened.contents) | {
        "sound": True,
        "accepted": believed,
        "left_out_and_not_here": len(lacks),
    }
    if as_json:
        session.console.json(document)
        return
    session.console.result(summary(document))
    keys = "of a store that is accepted here" if believed else "of a store that nobody here has accepted yet"
    session.console.result(f"sound: every byte is what was signed by the keys {keys}")
    if lacks:
        session.console.warn(_LACKS.format(len(lacks)))


@click.command(name="import")
@_FILE
@click.option(
    "--fingerprint", help="The fingerprint that the sender tells you; you are asked the first time without it."
)
@click.option("--channel", callback=wanted_channel, help="Move this channel instead of those in the bundle.")
@click.option("--no-channel", "still", is_flag=True, help="Move no channel.")
@click.option("--why", default="", help="The reason, for the record.")
@click.option(
    "--sign", "again", is_flag=True, help="Sign the store again, if it is signed; if that fails, channels go back."
)
@click.option("--dry-run", is_flag=True, help="Check the signatures and show what it would bring; change nothing.")
@JSON
@click.pass_obj
def import_(
    session: Session,
    bundle: str,
    fingerprint: str | None,
    channel: str | None,
    why: str,
    *,
    still: bool,
    again: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Import a bundle into the store: a file, one of its parts, or - for standard input.

    Signatures are checked first, and nothing is visible before all is verified. If it was interrupted, run it again.
    """
    from anklume_images.bundle.checked import check
    from anklume_images.bundle.receive import Moves, receive
    from anklume_images.console import human_size
    from anklume_images.ship.index import indexed, write_index
    from anklume_images.trust.origins import Origins

    if channel and still:
        raise click.UsageError("--channel and --no-channel exclude each other")
    store = session.store()
    store.create()
    store.sweep()
    with store.scratch("bundle") as scratch, _opened(bundle, scratch / "bundle") as opened:
        origins = Origins(store)
        _accept(opened, origins, fingerprint, asked=bundle != "-" and sys.stdin.isatty())
        origin = origins.at(opened.place)
        for warning in origin.warnings:
            session.console.warn(warning)
        write_index(store)  # what it has revoked is offered no more, whatever becomes of the rest
        checked = check(opened, origin, store.home)
        if dry_run:
            lacks = checked.lacking(store.blobs)
            new = [size for sha256, size in checked.blobs.items() if not store.blobs.has(sha256, size)]
            document = index_document(opened.contents) | {"dry_run": True, "new_bytes": sum(new)}
            document |= {"left_out_and_not_here": len(lacks)}
            if lacks:
                session.console.warn(_LACKS.format(len(lacks)))
            text = f"{summary(document)}\nnew here {human_size(document['new_bytes'])}"
        else:
            moves = Moves(channel, why, none=still)
            programs = StoredPrograms(session).programs
            sign = signing(session, None) if again else None
            with indexed(store):
                received = receive(
                    opened, checked, session.images(), store, session.console, moves, programs, sign=sign
                )
            waits = sign.waits if sign else []
            document = {"from": opened.contents.store, "dry_run": False, "waits": waits} | _document(received)
            text = "\n".join(_lines(received))
            if waits:
                session.console.warn(waiting_in_words(waits))
    if as_json:
        session.console.json(document)
    else:
        session.console.result(text)


def _accept(opened: Opened, origins: Origins, fingerprint: str | None, *, asked: bool) -> None:
    """Believe the bundle's store where that is yet to be said."""
    from anklume_images.trust.repository import identity_of

    identity = identity_of(origins.first_root(opened.place))
    if fingerprint is None and any(one.identity == identity for one in origins):
        return
    if fingerprint is None:
        fingerprint = compared(identity, f"the store that {opened.place} comes from", "sender", asked=asked)
    origins.accept(opened.place, fingerprint, user())


def _document(received: Received) -> dict[str, Any]:
    return {
        "images": [
            {
                "ref": one.image.ref,
                "architecture": one.image.architecture,
                "fingerprint": one.image.fingerprint,
                "new": one.new,
                "channels": one.channels,
            }
            for one in received.images
        ],
        "models": [{"name": one.record.name, "state": one.state} for one in received.models],
        "infra": list(received.infra),
        "bytes": received.bytes,
    }


def _lines(received: Received) -> Iterator[str]:
    from anklume_images.console import human_size

    for one in received.images:
        words = [f"image    {one.image.ref}: {'new' if one.new else 'was here'}"]
        words += [f"{name}: {before or 'new'} → {one.image.version}" for name, before in one.channels.items()]
        yield ", ".join(words)
    for model in received.models:
        yield f"model    {model.record.name}: {'was here' if model.state == 'here' else model.state}"
    for name in received.infra:
        yield f"infra    {name}"
    yield f"size     {human_size(received.bytes)} new here"
