"""What store and specs know of the image that a machine is made of: its version, healthcheck, roles and defaults."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from anklume_images.errors import AnklumeError, InvalidFileError, StoreError
from anklume_images.specs.values import value_text

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anklume_images.specs.catalog import Catalog
    from anklume_images.store.images import Image, Images
    from launcher.infra.model import ImageChoice
    from launcher.observe.instances import InstanceState

__all__ = ["Facts", "ImageLookup"]


@dataclass(frozen=True)
class Facts:
    """What is asked about an image; nothing of it is known of one that Incus itself got.

    `gpus` says how it computes on cards, by their makers; None where nobody knows.
    """

    healthcheck: tuple[str, ...] = ()
    provides: frozenset[str] = frozenset()
    defaults: Mapping[str, str] = field(default_factory=dict)
    gpus: Mapping[str, Sequence[str]] | None = None


class ImageLookup:
    """Answers from the store, which knows every version, else from the specs."""

    def __init__(self, images: Images, catalog: Catalog) -> None:
        self._images = images
        self._catalog = catalog

    def wanted(self, choice: ImageChoice, architecture: str) -> str | None:
        """The `name@version` that a choice means now; None when the store has none, and for a remote's image."""
        if choice.store is None:
            return None
        try:
            return self._images.resolve(choice.ref, architecture or None).ref
        except StoreError:
            return None

    def facts(self, seen: InstanceState) -> Facts:
        """What is known of the image that the machine runs, or would run."""
        choice = seen.machine.image
        name, _, version = (seen.image or "").partition("@")
        if not version and (seen.image or choice.store is None):
            return Facts()
        image = self._images.get(name, version, seen.architecture) if version else None
        if image is not None:
            return _stored(image)
        return self._specified(name if version else str(choice.store))

    def _specified(self, name: str) -> Facts:
        try:
            chain, variables = self._catalog.chain(name), self._catalog.variables(name)
        except AnklumeError:
            return Facts()
        defaults = {key: value_text(variable.default) for key, variable in variables.items()}
        healthcheck = chain[-1].healthcheck.command if chain[-1].healthcheck else ()
        provides = frozenset(role for spec in chain for role in spec.provides)
        return Facts(healthcheck, provides, defaults, self._catalog.gpus(name))

    def computing_on(self, makers: frozenset[str], provides: frozenset[str]) -> tuple[str, ...]:
        """The images that do the same as another one, and do it on cards of these makers."""
        names = []
        for name in self._catalog.names():
            with contextlib.suppress(InvalidFileError):
                same = provides & set(self._catalog.get(name).provides)
                if same and makers <= set(self._catalog.gpus(name) or ()):
                    names.append(name)
        return tuple(names)


def _stored(image: Image) -> Facts:
    spec = image.spec
    healthcheck = tuple((spec["healthcheck"] or {}).get("command", ()))
    defaults = {name: value_text(variable["default"]) for name, variable in spec["variables"].items()}
    return Facts(healthcheck, frozenset(spec["provides"]), defaults, spec.get("gpus"))  # older images do not say
