"""The catalogue page of a store: one HTML file with relative links, which needs no server and no script: pure."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from importlib import resources
from itertools import groupby, pairwise
from typing import TYPE_CHECKING
from urllib.parse import quote

from anklume_images.ship.aliases import aliases_of
from anklume_images.store.blobs import blob_path
from anklume_images.store.images import LATEST, image_path
from anklume_images.store.models import model_path

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from anklume_images.ship.simplestreams import Listed
    from anklume_images.store.images import Summary
    from anklume_images.store.models import ModelRecord
    from anklume_images.trust.revoked import Revocation

__all__ = ["PAGE", "Change", "age", "changes_between", "page", "pair_key", "predecessors", "template_hash"]

PAGE = "index.html"
_SHOWN_CHANGES = 60  # of one version; the bills of materials have all


@dataclass(frozen=True)
class Change:
    """A package that came (`before` is empty), went (`after` is) or has another version."""

    name: str
    before: str
    after: str


@dataclass(frozen=True)
class Version:
    """A version as the page shows it."""

    listed: Listed
    earlier: Summary | None
    changes: tuple[Change, ...]

    @property
    def folder(self) -> str:
        """Where its documents are."""
        image = self.listed.image
        return image_path(image.name, image.version, image.architecture)

    @property
    def shown(self) -> tuple[Change, ...]:
        """The changes that the page has room for."""
        return self.changes[:_SHOWN_CHANGES]


@dataclass(frozen=True)
class Group:
    """An image with its versions, the newest first."""

    name: str
    versions: tuple[Version, ...]

    @property
    def current(self) -> Version:
        """What its bare name means; the newest where that means nothing."""
        return next((one for one in self.versions if LATEST in one.listed.channels), self.versions[0])

    @property
    def channels(self) -> list[tuple[str, str]]:
        """Its channels with their versions; with the architecture, where there are several."""
        several = len({one.listed.image.architecture for one in self.versions}) > 1
        return sorted(
            (
                channel,
                f"{one.listed.image.version} ({one.listed.image.architecture})"
                if several
                else one.listed.image.version,
            )
            for one in self.versions
            for channel in one.listed.channels
        )

    @property
    def alias(self) -> str:
        """By what Incus knows the current version, best shortly."""
        image = self.current.listed.image
        return aliases_of(image.name, image.version, self.current.listed.channels)[-1]


def changes_between(before: Mapping[tuple[str, str], str], after: Mapping[tuple[str, str], str]) -> tuple[Change, ...]:
    """The packages that differ, by name; of both images their versions by name and kind."""
    differing = {key for key, _ in before.items() ^ after.items()}
    return tuple(Change(key[0], before.get(key, ""), after.get(key, "")) for key in sorted(differing))


def predecessors(listed: Iterable[Listed]) -> Iterator[tuple[Summary, Summary]]:
    """Each image that has a version before it in the store, and that one."""
    images = sorted((one.image for one in listed), key=lambda image: (image.name, image.architecture, *age(image)))
    for _, versions in groupby(images, key=lambda image: (image.name, image.architecture)):
        for earlier, later in pairwise(versions):
            yield later, earlier


def pair_key(earlier: Summary, later: Summary) -> str:
    """What the changes from one image to another are filed under."""
    return f"{earlier.fingerprint}:{later.fingerprint}"


def page(
    listed: Sequence[Listed],
    changes: Mapping[str, tuple[Change, ...]],
    revoked: Sequence[Revocation] = (),
    models: Sequence[ModelRecord] = (),
) -> str:
    """The page; `changes` are those to each image from its predecessor, by `pair_key`."""
    from jinja2 import Environment, StrictUndefined

    before = {(later.ref, later.architecture): earlier for later, earlier in predecessors(listed)}
    versions = []
    for one in listed:
        earlier = before.get((one.image.ref, one.image.architecture))
        found = changes.get(pair_key(earlier, one.image), ()) if earlier else ()
        versions.append(Version(one, earlier, found))
    versions.sort(key=lambda version: age(version.listed.image), reverse=True)
    versions.sort(key=lambda version: version.listed.image.name)
    groups = [
        Group(name, tuple(group)) for name, group in groupby(versions, key=lambda version: version.listed.image.name)
    ]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"day": _day, "blob": blob_path, "record": model_path, "urlquote": quote}
    style, script = _part("catalogue.css"), _part("catalogue.js")
    return environment.from_string(_part("catalogue.html.j2")).render(
        groups=groups,
        revoked=revoked,
        models=models,
        style=style,
        script=script,
        policy=f"default-src 'none'; style-src '{_source(style)}'; script-src '{_source(script)}'; img-src data:",
    )


@cache
def template_hash() -> str:
    """Changes with what the page is made from."""
    parts = "".join(_part(name) for name in ("catalogue.html.j2", "catalogue.css", "catalogue.js"))
    return hashlib.sha256(parts.encode()).hexdigest()


def age(image: Summary) -> tuple[int, int, str]:
    """Later versions have newer inputs; of the same inputs, that is later which came into the store later."""
    return image.epoch, image.stored, image.version


def _part(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _source(text: str) -> str:
    """How a Content-Security-Policy names an inline element (CSP level 3, hash-source)."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _day(epoch: int) -> str:
    return f"{datetime.fromtimestamp(epoch, UTC):%Y-%m-%d}"
