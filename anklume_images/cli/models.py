"""The commands on language models: models list, show, pull, import, rm, lock."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from anklume_images.cli.program import CommandTable
from anklume_images.cli.session import JSON, OFFLINE, Session, complete_models

if TYPE_CHECKING:
    from anklume_images.models.library import Model
    from anklume_images.store.models import ModelRecord

__all__ = ["import_", "list_", "lock", "models", "pull", "rm", "show"]

_TABLE = {
    name: f"anklume_images.cli.models:{function}"
    for name, function in {
        "import": "import_",
        "list": "list_",
        "lock": "lock",
        "pull": "pull",
        "rm": "rm",
        "show": "show",
    }.items()
}


_NAME = click.argument("name", shell_complete=complete_models)
_NAMES = click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=complete_models)


@click.group(cls=CommandTable, table=_TABLE)
def models() -> None:
    """List, show, fetch, import, remove and lock language models."""


@click.command(name="list")
@JSON
@click.pass_obj
def list_(session: Session, *, as_json: bool) -> None:
    """List the models."""
    from anklume_images.console import human_size, table

    library = session.models()
    found = [_summary(library.model(name)) for name in library.names()]
    if as_json:
        session.console.json(found)
        return
    rows = [
        (
            one["name"],
            one["license"] or "-",
            human_size(one["size"]),
            "yes" if one["present"] else "no",
            one["description"],
        )
        for one in found
    ]
    session.console.result(table(rows, ("NAME", "LICENSE", "SIZE", "IN STORE", "DESCRIPTION")))


def _summary(model: Model) -> dict[str, Any]:
    wheel = model.wheel
    return {
        "name": model.name,
        "description": model.description,
        "license": model.license,
        "source": model.source,
        "sha256": model.sha256,
        "size": model.size,
        "present": model.present,
        "spec": model.record is None,
        "wheel": {"path": wheel.path, "sha256": wheel.sha256, "size": wheel.size} if wheel else None,
    }


@click.command()
@_NAME
@JSON
@click.pass_obj
def show(session: Session, name: str, *, as_json: bool) -> None:
    """Show one model: licence, source, hashes and sizes."""
    from anklume_images.console import human_size

    library = session.models()
    summary = _summary(library.model(name))
    if as_json:
        session.console.json(summary)
        return
    blob = library.store.blobs.path(summary["sha256"])
    lines = [
        summary["name"],
        f"  {summary['description']}",
        f"  license   {summary['license'] or 'not known'}",
        f"  source    {summary['source'] or 'not known'}",
        f"  sha256    {summary['sha256']}",
        f"  size      {human_size(summary['size'])}",
        *([f"  wheel     {wheel['path']}, {human_size(wheel['size'])}"] if (wheel := summary["wheel"]) else []),
        f"  in store  {blob if summary['present'] else 'no'}",
    ]
    session.console.result("\n".join(lines))


@click.command()
@_NAMES
@click.option("--name", help="Name in the store (default: from the registry or the file's name).")
@click.option("--sha256", default="", help="Expected sha256 of the file.")
@click.option("--license", "licence", default="", help="Licence (default: what the registry or the file says).")
@click.option("--insecure", is_flag=True, help="Allow plain http, for a registry or for an address without --sha256.")
@OFFLINE
@JSON
@click.pass_obj
def pull(
    session: Session,
    names: tuple[str, ...],
    *,
    name: str | None,
    sha256: str,
    licence: str,
    insecure: bool,
    offline: bool,
    as_json: bool,
) -> None:
    """Fetch models into the store: from a spec, a registry, Hugging Face, or an address.

    NAME is a model with a spec, MODEL:TAG of Ollama's registry, HOST/NAMESPACE/MODEL:TAG of another registry,
    hf.co/ORG/REPO/FILE.gguf, or https://…/FILE.gguf. Every file is checked by its hash.
    """
    from anklume_images.inputs.redaction import redact
    from anklume_images.models.addresses import AddressError, WebFile, address_of
    from anklume_images.models.pulling import Wanted
    from anklume_images.models.pulling import pull as pull_from

    if (name or sha256 or licence) and len(names) > 1:
        raise click.UsageError("--name, --sha256 and --license are for one model: name only one")
    library = session.models()
    found, wanted = {}, {}
    for word in names:
        if library.has_file_only(word) or offline:
            with library.pulled(word, offline=offline) as file:
                found[word] = {"name": word, "file": str(file)}
            continue
        address = address_of(word, insecure=insecure, environ=os.environ)
        if isinstance(address, WebFile) and address.url.startswith("http://") and not (sha256 or insecure):
            raise AddressError(
                f"{redact(word)}: over http anybody on the way can send another file",
                hint="give its --sha256, or ask over https; --insecure takes what comes",
            )
        called = name or address.name
        library.check_new(called)
        wanted[word] = Wanted(address, called, sha256.lower(), licence)
    for word, record in zip(wanted, pull_from(library.store, list(wanted.values()), session.console), strict=True):
        _arrived(session, record)
        found[word] = {"name": record.name, "file": str(library.store.blobs.path(record.sha256))}
    found_in_order = [found[word] for word in names]
    if as_json:
        session.console.json(found_in_order)
        return
    for one in found_in_order:
        session.console.result(f"{one['name']}  {one['file']}")


def _arrived(session: Session, record: ModelRecord) -> None:
    """Offer it to others, and say where no engine may know it."""
    from anklume_images.models.familiar import why_unfamiliar
    from anklume_images.models.gguf import read_gguf
    from anklume_images.ship.index import write_index

    write_index(session.store())
    if why := why_unfamiliar(read_gguf(session.store().blobs.path(record.sha256))):
        session.console.warn(f"{record.name}: {why}")


@click.command(name="import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--name", required=True, help="Name in the store: smollm2, or with a tag, smollm2:135m.")
@click.option("--license", "licence", default="", help="Licence (default: what the file says).")
@click.option("--source", default="", help="Source (default: what the file says).")
@JSON
@click.pass_obj
def import_(session: Session, file: Path, *, name: str, licence: str, source: str, as_json: bool) -> None:
    """Copy a GGUF file into the store.

    You can delete the file afterwards.
    """
    from anklume_images.models.importing import import_file

    library = session.models()
    library.check_new(name)
    record = import_file(library.store, file, name, licence=licence, source=source, progress=session.console)
    _arrived(session, record)
    if as_json:
        session.console.json(_summary(library.model(record.name)))
    else:
        session.console.result(f"{record.name}  {library.store.blobs.path(record.sha256)}")


@click.command()
@_NAMES
@JSON
@click.pass_obj
def rm(session: Session, names: tuple[str, ...], *, as_json: bool) -> None:
    """Remove models from the store.

    Copies in volumes stay.
    """
    from anklume_images.console import human_size
    from anklume_images.ship.index import write_index

    library = session.models()
    freed = sum(library.remove(name) for name in names)
    write_index(library.store)
    if as_json:
        session.console.json({"removed": list(names), "bytes": freed})
    else:
        session.console.result(f"freed {human_size(freed)}")


@click.command()
@_NAMES
@JSON
@click.pass_obj
def lock(session: Session, names: tuple[str, ...], *, as_json: bool) -> None:
    """Resolve models again and write the locks beside the specs."""
    library = session.models()
    found = [{"name": name, "changed": library.lock(name)} for name in names]
    if as_json:
        session.console.json(found)
        return
    for one in found:
        session.console.result(f"{one['name']}  {'locked' if one['changed'] else 'unchanged'}")
