"""What the options before a command say, and the arguments and options that commands share."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import click

from anklume_images.cli.session import JSON, StoreSession

if TYPE_CHECKING:
    from anklume_images.console import Console
    from anklume_images.incus.client import Incus
    from anklume_images.pipeline import Pipeline
    from anklume_images.specs.catalog import Catalog
    from anklume_images.specs.stored import StoredSpec
    from launcher.infra.model import Infra

__all__ = [
    "INFRA",
    "JSON",
    "ONLY",
    "REMOTE",
    "TAGS",
    "YES",
    "YOLO",
    "Session",
    "complete_machines",
    "complete_selection",
]


@dataclass
class Session(StoreSession):
    """What the options before the command say."""

    specs: tuple[Path, ...]
    home: Path | None
    console: Console

    @cached_property
    def catalog(self) -> Catalog:
        """The specs, the user's own folders first, and images of the store that have none."""
        from anklume_images.specs.catalog import Catalog, builtin_specs

        return Catalog.load([*self.specs, builtin_specs()], self._without_spec)

    def _without_spec(self, names: set[str]) -> dict[str, StoredSpec]:
        from anklume_images.specs.stored import stored_spec

        found = {}
        for image in self.images().newest(names):
            spec = stored_spec(image.name, image.description, image.spec, self.store().home, is_root=image.base is None)
            if spec:
                found[image.name] = spec
        return found

    def pipeline(self, *, offline: bool = False) -> Pipeline:
        """The pipeline that builds what the store lacks."""
        from anklume_images.architectures import host_architecture
        from anklume_images.pipeline import Options, Pipeline
        from anklume_images.settings import load_settings

        settings = load_settings(os.environ)
        jobs = settings.jobs or os.cpu_count() or 1
        options = Options(host_architecture(), jobs=jobs, offline=offline, refresh_missing=not offline)
        return Pipeline(self.store(), self.catalog, settings, options, self.console)

    def own_options(self) -> tuple[str, ...]:
        """What our commands need before their name to use the same store and specs."""
        specs = [word for folder in self.specs for word in ("--specs", str(folder.absolute()))]
        return ("--store", str(self.store().home), *specs)

    def incus(self, remote: str | None = None) -> Incus:
        """A connection to Incus, found as the `incus` client finds it."""
        from anklume_images.incus.client import Incus

        return Incus.find(remote)

    def infra(self, path: Path, *, yolo: bool = False, warn: bool = True) -> Infra:
        """The valid infra.yml at `path`; InvalidFileError with every problem otherwise. `warn` shows its warnings.

        Its subnets are held against the networks of the server that it is for, which a plan reads, not against this
        machine's, which may be another.
        """
        from launcher.infra.host import HostFacts
        from launcher.infra.load import load_infra

        facts = replace(HostFacts.read(), networks=(), routes=())
        infra, warnings = load_infra(path, self.catalog, yolo=yolo, host=facts)
        for warning in warnings if warn else ():
            self.console.warn(str(warning))
        return infra


def complete_machines(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Machines of the file that is named so far."""
    infra = _named_so_far(context)
    return [] if infra is None else [name for name in _machines(infra) if name.startswith(incomplete)]


def complete_selection(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Domains and machines of the file that is named so far."""
    infra = _named_so_far(context)
    if infra is None:
        return []
    domains = [domain.name for domain in infra.domains.values() if domain.enabled]
    return [name for name in dict.fromkeys([*domains, *_machines(infra)]) if name.startswith(incomplete)]


def _machines(infra: Infra) -> list[str]:
    return [machine.name for machine in infra.machines()]


def _named_so_far(context: click.Context) -> Infra | None:
    """The file on a command line that is yet to be completed; nobody reads errors or warnings while typing."""
    from anklume_images.errors import AnklumeError
    from anklume_images.specs.catalog import Catalog, builtin_specs
    from launcher.infra.host import HostFacts
    from launcher.infra.load import check_infra

    # An option that lacks its value ends click's reading of the line; the words before it are in `args` then.
    named = context.params.get("infra") or next(iter(context.args), "infra.yml")
    specs = context.find_root().params.get("specs") or ()
    facts = replace(HostFacts.read(), networks=(), routes=())
    try:
        return check_infra(Path(named), Catalog.load([*specs, builtin_specs()]), yolo=True, host=facts).infra
    except (AnklumeError, OSError):
        return None


INFRA = click.argument("infra", type=click.Path(path_type=Path))
YES = click.option("-y", "--yes", is_flag=True, help="Do not ask before changing anything.")
YOLO = click.option("--yolo", is_flag=True, help="Allow privileged containers, with a warning.")
REMOTE = click.option("--remote", help="A remote of the incus client's configuration.")
ONLY = click.option(
    "--only",
    multiple=True,
    metavar="NAME",
    shell_complete=complete_selection,
    help="Only these machines or domains (repeatable).",
)
TAGS = click.option("--tags", multiple=True, metavar="TAG", help="Only machines whose image has this tag, such as llm.")
