"""The commands on language models: models list, show, pull, rm, lock."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from anklume_images.cli.program import CommandTable
from anklume_images.cli.session import JSON, OFFLINE, Session, complete_models

if TYPE_CHECKING:
    from anklume_images.models.library import Models

__all__ = ["list_", "lock", "models", "pull", "rm", "show"]

_TABLE = {
    name: f"anklume_images.cli.models:{function}"
    for name, function in {"list": "list_", "lock": "lock", "pull": "pull", "rm": "rm", "show": "show"}.items()
}


_NAME = click.argument("name", shell_complete=complete_models)
_NAMES = click.argument("names", nargs=-1, required=True, metavar="NAME...", shell_complete=complete_models)


@click.group(cls=CommandTable, table=_TABLE)
def models() -> None:
    """List, show, fetch, remove and lock language models."""


@click.command(name="list")
@JSON
@click.pass_obj
def list_(session: Session, *, as_json: bool) -> None:
    """List the models."""
    from anklume_images.console import human_size, table

    library = session.models()
    found = [_summary(library, name) for name in library.names()]
    if as_json:
        session.console.json(found)
        return
    rows = [
        (
            one["name"],
            one["license"],
            human_size(one["size"]),
            "yes" if one["present"] else "no",
            one["description"],
        )
        for one in found
    ]
    session.console.result(table(rows, ("NAME", "LICENSE", "SIZE", "IN STORE", "DESCRIPTION")))


def _summary(library: Models, name: str) -> dict[str, Any]:
    spec, lock = library.get(name), library.locked(name)
    return {
        "name": name,
        "description": spec.document.description,
        "license": spec.document.license,
        "source": spec.document.source,
        "sha256": lock.sha256,
        "size": lock.size,
        "present": library.present(name),
        "wheel": {"path": lock.wheel.path, "sha256": lock.wheel.sha256, "size": lock.wheel.size},
    }


@click.command()
@_NAME
@JSON
@click.pass_obj
def show(session: Session, name: str, *, as_json: bool) -> None:
    """Show one model: licence, source, hashes and sizes."""
    from anklume_images.console import human_size

    library = session.models()
    summary = _summary(library, name)
    if as_json:
        session.console.json(summary)
        return
    blob = library.store.blobs.path(summary["sha256"])
    lines = [
        name,
        f"  {summary['description']}",
        f"  license   {summary['license']}",
        f"  source    {summary['source']}",
        f"  sha256    {summary['sha256']}",
        f"  size      {human_size(summary['size'])}",
        f"  wheel     {summary['wheel']['path']}, {human_size(summary['wheel']['size'])}",
        f"  in store  {blob if summary['present'] else 'no'}",
    ]
    session.console.result("\n".join(lines))


@click.command()
@_NAMES
@OFFLINE
@JSON
@click.pass_obj
def pull(session: Session, names: tuple[str, ...], *, offline: bool, as_json: bool) -> None:
    """Have models in the store.

    What is missing is fetched, and every byte is compared with the lock.
    """
    library = session.models()
    found = []
    for name in names:
        with library.pulled(name, offline=offline) as file:
            found.append({"name": name, "file": str(file)})
    if as_json:
        session.console.json(found)
        return
    for one in found:
        session.console.result(f"{one['name']}  {one['file']}")


@click.command()
@_NAMES
@JSON
@click.pass_obj
def rm(session: Session, names: tuple[str, ...], *, as_json: bool) -> None:
    """Remove models from the store.

    Copies of them in volumes stay.
    """
    from anklume_images.console import human_size

    library = session.models()
    freed = sum(library.remove(name) for name in names)
    if as_json:
        session.console.json({"removed": list(names), "bytes": freed})
    else:
        session.console.result(f"freed {human_size(freed)}")


@click.command()
@_NAMES
@JSON
@click.pass_obj
def lock(session: Session, names: tuple[str, ...], *, as_json: bool) -> None:
    """Ask the index anew, and write the locks beside the specs."""
    library = session.models()
    found = [{"name": name, "changed": library.lock(name)} for name in names]
    if as_json:
        session.console.json(found)
        return
    for one in found:
        session.console.result(f"{one['name']}  {'locked' if one['changed'] else 'unchanged'}")
