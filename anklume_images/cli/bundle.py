"""The commands `bundle create` and `bundle needs`, and the group that they are of."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from anklume_images.cli.bundle_import import index_document, summary
from anklume_images.cli.delta_programs import DELTA_TREE, StoredPrograms
from anklume_images.cli.program import CommandTable
from anklume_images.cli.session import JSON, Session
from anklume_images.cli.trust import KEYS

if TYPE_CHECKING:
    from anklume_images.bundle.gather import Chosen, Gathered
    from anklume_images.bundle.infra import InfraLock
    from anklume_images.bundle.needs import Inventory
    from anklume_images.bundle.tool import Tool
    from anklume_images.store.images import Image
    from anklume_images.store.store import Lease
    from anklume_images.trust.repository import Repository

_TABLE = {
    name: f"anklume_images.cli.{place}"
    for name, place in {
        "create": "bundle:create",
        "import": "bundle_import:import_",
        "inspect": "bundle_import:inspect",
        "needs": "bundle:needs",
        "verify": "bundle_import:verify",
    }.items()
}
_INCUS = DELTA_TREE  # the tree of the private Incus that goes with the tool


@click.group(cls=CommandTable, table=_TABLE)
def bundle() -> None:
    """Carry images and models to a host without a network, in one file."""


def _size(_context: click.Context, _parameter: click.Parameter, text: str | None) -> int | None:
    import re

    from anklume_images.bundle.parts import FAT_LIMIT

    if text is None:
        return None
    match = re.fullmatch(r"([1-9][0-9]*) ?([KMGT]?)(iB|B)?", text)
    if match is None or (match[2] and match[3] == "B"):
        raise click.BadParameter(f"{text}: write a number of bytes, or 4GiB, 700MiB")
    size = int(match[1]) << 10 * (" KMGT".index(match[2]) if match[2] else 0)
    if size < 1 << 16:
        raise click.BadParameter(f"{text} is too small: 64KiB is the least")
    return FAT_LIMIT if size == FAT_LIMIT + 1 else size


@click.command()
@click.argument("names", nargs=-1, metavar="[IMAGE|MODEL]...")
@click.option("-o", "--output", required=True, help="File to write, such as site.anklume; - for standard output.")
@click.option(
    "--infra",
    multiple=True,
    type=click.Path(path_type=Path, exists=True),
    help="Pack everything that this infra.yml needs (repeatable).",
)
@click.option("--with-tool", is_flag=True, help="Include this tool and its private Incus.")
@click.option(
    "--for",
    "inventory",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="INVENTORY",
    help="Leave out what that host has (file of `bundle needs`; - for standard input).",
)
@click.option(
    "--split", "size", callback=_size, metavar="SIZE", help="Split into parts of at most this size, such as 4GiB."
)
@click.option("--dry-run", is_flag=True, help="Show what would be in it; write nothing.")
@KEYS
@JSON
@click.pass_obj
def create(
    session: Session,
    names: tuple[str, ...],
    output: str,
    infra: tuple[Path, ...],
    inventory: Path | None,
    size: int | None,
    keys: Path | None,
    *,
    with_tool: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Write images, models and their signatures into one file.

    The store is signed first, as by `trust sign`.
    """
    from anklume_images.bundle.gather import gather
    from anklume_images.bundle.needs import read_inventory
    from anklume_images.bundle.parts import PartsSink, Sink, check_path
    from anklume_images.bundle.writer import write_bundle

    if not (names or infra or with_tool):
        raise click.UsageError("name images or models, an infra.yml with --infra, or --with-tool")
    path = None if output == "-" else Path(output).absolute()
    if path is None and (size or as_json):
        raise click.UsageError("--split and --json need a file for --output")
    if path is not None:
        check_path(path)
    held = read_inventory(inventory) if inventory else None
    store = session.store()
    with store.lease() as lease:
        chosen = _chosen(session, lease, names, infra, _tool(session, lease) if with_tool else None)
        if held:
            chosen = _with_deltas(session, chosen, held)
        repository = _signed(session, keys)
        gathered = gather(store, repository, chosen, lease, held)
        written: list[Path] = []
        if not dry_run:
            sink = PartsSink(path, size) if path and size else Sink(path)
            write_bundle(gathered, sink, session.console)
            written = sink.written
    document = _described(gathered) | {"dry_run": dry_run, "files": [str(file) for file in written]}
    if as_json:
        session.console.json(document)
    elif path is None:
        session.console.note(summary(document))
    else:
        session.console.result(summary(document))


def _with_deltas(session: Session, chosen: Chosen, inventory: Inventory) -> Chosen:
    """With those that the host is better off with; made here where they lack, if its programs are here."""
    from dataclasses import replace

    from anklume_images.bundle.delta import deltas_for, pairs_for
    from anklume_images.ship.by_delta import keep_deltas
    from anklume_images.ship.deltas import make_delta
    from anklume_images.ship.index import listed_images, write_index

    store, programs = session.store(), StoredPrograms(session)
    lacking = list(pairs_for(listed_images(store, session.images()), chosen.images, inventory))
    if lacking and programs.there():
        for pair in lacking:
            session.console.note(f"{pair.later.ref}: making the delta from {pair.earlier.version}")
            make_delta(store, pair, programs.programs)
        write_index(store)
    deltas = tuple(deltas_for(session.images(), chosen.images, inventory, programs.digest()))
    keep_deltas(session.store(), deltas)
    return replace(chosen, deltas=deltas)


def _chosen(
    session: Session, lease: Lease, names: tuple[str, ...], infra: tuple[Path, ...], tool: Tool | None
) -> Chosen:
    """The images and models that are meant; the store's records of them are made where they lack."""
    from anklume_images.bundle.gather import Chosen
    from anklume_images.errors import StoreError

    images, library = session.images(), session.models()
    found: dict[tuple[str, str], Image] = {}
    wanted: dict[str, None] = {}
    locks = [_lock(session, file) for file in infra]
    for lock in locks:
        for ref, architecture in lock.images:
            found[ref, architecture] = images.resolve(ref, architecture)
        wanted |= dict.fromkeys(lock.models)
    for name in names:
        try:
            image = images.resolve(name, session.arch())
            found[image.ref, image.architecture] = image
        except StoreError:
            if library.find(name) is None:
                raise
            wanted[name] = None
    lease.add(file.sha256 for image in found.values() for file in (image.metadata, image.rootfs))
    records = {(record := library.record(name)).name: record for name in wanted}
    return Chosen(tuple(found.values()), tuple(records.values()), tuple(lock.project for lock in locks), tool)


def _lock(session: Session, file: Path) -> InfraLock:
    """What a file needs, as the other command says it: this half of the project knows nothing of such files.

    It is kept in the store, so that it is signed.
    """
    import subprocess

    from anklume_images.bundle.infra import keep_lock, parse_lock

    specs = [word for folder in session.specs for word in ("--specs", str(folder.absolute()))]
    options = ["--store", str(session.store().home), *specs]
    command = [sys.executable, "-m", "launcher", *options, "lock", str(file), "--json"]
    sys.stderr.flush()
    result = subprocess.run(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, check=False)
    if result.returncode != 0:
        sys.exit(result.returncode)  # it has said why
    lock = parse_lock(result.stdout, str(file))
    keep_lock(session.store(), lock)
    return lock


def _tool(session: Session, lease: Lease) -> Tool:
    """The tool with what it needs, brought into the store."""
    import os

    from anklume_images.bundle.wheelhouse import make_tool
    from anklume_images.settings import load_settings
    from anklume_images.store.noted import write_noted

    pipeline = session.pipeline(architecture=session.arch(), refresh_missing=True)
    trees = {_INCUS: pipeline.locks.get(_INCUS)}
    lease.add(deb.sha256 for deb in trees[_INCUS].debs)
    pipeline.fetch([_INCUS])
    tool = make_tool(session.store(), session.arch(), trees, lease, load_settings(os.environ), session.console)
    home = session.store().home
    write_noted(home, home / tool.path, tool.to_bytes())
    return tool


def _signed(session: Session, keys: Path | None) -> Repository:
    """The store's signed metadata, renewed where the keys are here."""
    from anklume_images.cli.trust import begin
    from anklume_images.errors import StoreError
    from anklume_images.trust.roles import ONE

    repository = session.repository(keys)
    if not repository.exists and repository.staged("root") is None:
        outcome = begin(session, repository, ONE, (), None)
        session.console.note(f"signed; fingerprint {repository.identity}")
    else:
        try:
            outcome = session.sign(repository)
        except StoreError as error:
            session.console.warn(f"not signed anew: {error}")
            return repository
    if outcome.wanted:
        roles = ", ".join(outcome.wanted)
        raise StoreError(
            f"more signatures are wanted for {roles}", hint="whoever has a key runs: anklume-images trust sign"
        )
    return repository


def _described(gathered: Gathered) -> dict[str, Any]:
    contents = gathered.contents
    return index_document(contents) | {"bytes": contents.size, "left_out": gathered.left_out}


@click.command()
@click.option("-o", "--output", help="File to write (default: standard output).")
@click.pass_obj
def needs(session: Session, output: str | None) -> None:
    """List what this host has, so that `bundle create --for FILE` can leave it out."""
    from anklume_images.bundle.needs import take_inventory
    from anklume_images.files import write_atomic

    programs = StoredPrograms(session)
    data = take_inventory(session.store(), tree=programs.digest() if programs.there() else "").to_bytes()
    if output in (None, "-"):
        sys.stdout.write(data.decode())
    else:
        write_atomic(Path(output).absolute(), data)
        session.console.result(f"written  {output}")
