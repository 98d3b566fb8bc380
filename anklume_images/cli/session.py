"""What the options before a command say, and the options and arguments that commands share."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from anklume_images.console import Console
from anklume_images.errors import AnklumeError

if TYPE_CHECKING:
    from pathlib import Path

    from anklume_images.answers import Answers
    from anklume_images.models.library import Models
    from anklume_images.pipeline import Pipeline
    from anklume_images.specs.catalog import Catalog
    from anklume_images.store.images import Images, Summary
    from anklume_images.store.store import Store
    from anklume_images.trust.outcome import Outcome
    from anklume_images.trust.repository import Repository

__all__ = [
    "EXPIRED",
    "JSON",
    "NAMES",
    "OFFLINE",
    "REF",
    "REFRESH",
    "Session",
    "StoreSession",
    "complete_images",
    "complete_models",
    "complete_refs",
    "complete_stored",
    "session_of",
    "user",
]


# Commands by which a log says that images were built, or that it does not reach back to where they came from.
_MAY_HAVE_BUILT = ("build", "migration", "verify --repair")


class StoreSession:
    """What both commands are told before their own: folders of specs, the store, and how things are shown."""

    specs: tuple[Path, ...]
    home: Path | None
    console: Console

    def store(self) -> Store:
        """The store."""
        from anklume_images.settings import store_home
        from anklume_images.store.store import Store

        return Store(self.home or store_home(os.environ))

    def images(self) -> Images:
        """The images of the store."""
        from anklume_images.store.images import Images

        return Images(self.store())

    def models(self) -> Models:
        """The language models of the same folders."""
        from anklume_images.models.library import Models
        from anklume_images.settings import load_settings
        from anklume_images.specs.catalog import builtin_specs

        return Models(self.store(), [*self.specs, builtin_specs()], load_settings(os.environ), self.console)


@dataclass
class Session(StoreSession):
    """What the options before the command say."""

    specs: tuple[Path, ...]
    home: Path | None
    architecture: str | None
    console: Console

    def arch(self) -> str:
        """The architecture asked for, or this machine's."""
        from anklume_images.architectures import host_architecture

        return self.architecture or host_architecture()

    def catalog(self) -> Catalog:
        """The specs, the user's own folders first."""
        from anklume_images.specs.catalog import Catalog, builtin_specs

        def stored() -> set[str]:
            return {name for name, _, _ in self.images().listed()}

        return Catalog.load([*self.specs, builtin_specs()], stored=stored)

    def want_specs(self, *named: object) -> None:
        """Refuse what is about specs where nothing is built: an installed program, a store with received images only.

        ReceivedError says so. Who has `named` images or a folder of specs is to have their way, and so is who has a
        checkout.
        """
        from anklume_images.specs.folders import checkout

        images = self.images()
        if any((self.specs, checkout(), *named)) or not any(images.listed()):
            return
        if not any(move.command in _MAY_HAVE_BUILT for move in images.log.read().moves):
            from anklume_images.specs.catalog import NEWER, ReceivedError

            raise ReceivedError(
                "this store has no specs: all of its images were received",
                where=str(images.home),
                hint=f"{NEWER}; to build images of the program's own, name them: anklume-images build NAME",
            )

    def answers(self, *asked: object) -> Answers:
        """What `build` answered before, asked the same."""
        from anklume_images.answers import Answers
        from anklume_images.specs.folders import builtin_specs

        folders = [folder.absolute() for folder in (*self.specs, builtin_specs())]
        return Answers(self.store(), self.images(), folders, [self.arch(), *asked])

    def repository(self, keys: Path | None = None) -> Repository:
        """The signed metadata of the store, with the private keys in a folder."""
        from anklume_images.settings import keys_home
        from anklume_images.trust.keys import KeyRing
        from anklume_images.trust.repository import Repository

        folder, home = keys.absolute() if keys else keys_home(os.environ), self.store().home
        if folder.resolve().is_relative_to(home.resolve()):
            from anklume_images.errors import StoreError

            raise StoreError(
                "private keys do not belong into a store, which others read and copy",
                where=str(folder),
                hint="name a folder outside of it with --keys or ANKLUME_KEYS",
            )
        return Repository(home, KeyRing(folder, _passphrase))

    def sign(self, repository: Repository, *, renew: bool = False) -> Outcome:
        """Sign what the store holds now, models of specs too."""
        from anklume_images.ship.index import write_index
        from anklume_images.trust.contents import signed_contents

        self.models().record_present()
        write_index(self.store())
        return repository.publish(lambda: signed_contents(self.store(), self.images()), renew=renew)

    def pipeline(self, **options: Any) -> Pipeline:
        """The pipeline with these options."""
        from anklume_images.pipeline import Options, Pipeline
        from anklume_images.settings import load_settings

        settings = load_settings(os.environ)
        jobs = options.pop("jobs", None) or settings.jobs or os.cpu_count() or 1
        chosen = Options(options.pop("architecture", None) or self.arch(), jobs=jobs, **options)
        return Pipeline(self.store(), self.catalog(), settings, chosen, self.console)


def user() -> str:
    """Who runs this, for records: `name@host`."""
    import getpass
    import socket

    return f"{getpass.getuser()}@{socket.gethostname()}"


def _passphrase(file: str) -> str:
    """The passphrase of a private key, by the environment or by asking."""
    if (given := os.environ.get("ANKLUME_KEY_PASSPHRASE")) is not None:
        return given
    return str(click.prompt(f"Passphrase of {file}", hide_input=True, err=True))


def complete_images(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names of images that begin like this."""
    with contextlib.suppress(AnklumeError, OSError):  # nobody reads errors while typing
        return [name for name in session_of(context).catalog().names() if name.startswith(incomplete)]
    return []


def complete_refs(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Images of the store that begin like this."""
    with contextlib.suppress(AnklumeError, OSError):
        found = _stored(context)
        names = {image.name for image in found} | {image.ref for image in found}
        return sorted(name for name in names if name.startswith(incomplete))
    return []


def complete_stored(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names of images of the store that begin like this."""
    with contextlib.suppress(AnklumeError, OSError):
        return sorted({image.name for image in _stored(context) if image.name.startswith(incomplete)})
    return []


def _stored(context: click.Context) -> list[Summary]:
    from anklume_images.store.summaries import summaries

    session = session_of(context)
    return summaries(session.store(), session.images())


def complete_models(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names of language models that begin like this."""
    with contextlib.suppress(AnklumeError, OSError):
        return [name for name in session_of(context).models().names() if name.startswith(incomplete)]
    return []


def session_of(context: click.Context) -> Session:
    """What the options before the command say so far, on a command line that is yet to be completed."""
    given = context.find_root().params
    return Session(given.get("specs") or (), given.get("home"), given.get("arch"), Console())


NAMES = click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete_images)
REF = click.argument("ref", shell_complete=complete_refs)
JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
REFRESH = click.option(
    "--refresh-missing",
    is_flag=True,
    help="If no mirror has a locked file any more, lock a newer one, in the store only.",
)
EXPIRED = click.option("--allow-expired", is_flag=True, help="Accept expired archive indexes.")
OFFLINE = click.option("--offline", is_flag=True, help="Do not use the network.")
