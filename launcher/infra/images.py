"""Which image a machine is made of: by its roles, by name, or by what Incus calls an image."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from anklume_images.errors import InvalidFileError
from anklume_images.nearest import nearest
from anklume_images.specs.catalog import UnknownImageError
from launcher.infra.model import ImageChoice
from launcher.infra.report import shown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anklume_images.errors import Problem
    from anklume_images.specs.catalog import Catalog
    from anklume_images.specs.keys import Variable
    from anklume_images.specs.model import Spec
    from anklume_images.specs.yamlfile import KeyPath
    from launcher.infra.entries import WrittenMachine
    from launcher.infra.report import Code, Report

__all__ = ["BASE_ROLE", "NO_IMAGE", "ImageIndex", "choose_images"]

BASE_ROLE = "base_system"
"""The role that every image provides."""

NO_IMAGE = ImageChoice(None, reason="no image could be chosen")

_SUFFIX = "_server"  # which many roles have, and which makes none of them like another
_RELEASES = {"11": "bullseye", "12": "bookworm", "13": "trixie", "14": "forky"}  # Debian's numbers on image servers


class ImageIndex:
    """The images that there are specs of; one whose spec is broken is known by its name only."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self.specs: dict[str, Spec] = {}
        self.broken: dict[str, tuple[Problem, ...]] = {}
        for name in catalog.names():
            try:
                self.specs[name] = catalog.get(name)
            except InvalidFileError as error:
                self.broken[name] = tuple(error.problems)
            except UnknownImageError as error:  # a variant of a spec that an earlier folder hides
                self.broken[name] = ()
                del error
        self._variables: dict[str, Mapping[str, Variable]] = {}

    @property
    def names(self) -> list[str]:
        """Every image."""
        return [*self.specs, *self.broken]

    def variables(self, name: str | None) -> Mapping[str, Variable]:
        """The variables of an image of the store; an image of Incus has none."""
        if name is None or name not in self.specs:
            return {}
        if name not in self._variables:
            self._variables[name] = self._catalog.variables(name)
        return self._variables[name]

    def declared(self) -> dict[str, list[str]]:
        """Every variable, with the images that declare it."""
        by_variable: dict[str, list[str]] = {}
        for name in self.specs:
            for variable in self.variables(name):
                by_variable.setdefault(variable, []).append(name)
        return by_variable

    def provided(self, name: str | None) -> frozenset[str]:
        """The roles that an image provides itself, the base's included."""
        if name is None or name not in self.specs:
            return frozenset()
        return frozenset(role for spec in self._catalog.chain(name) for role in spec.provides) | {BASE_ROLE}

    def gpus(self, name: str | None) -> Mapping[str, tuple[str, ...]] | None:
        """How an image computes on cards, by their makers; None where no spec of it says."""
        return None if name is None or name not in self.specs else self._catalog.gpus(name)

    def providing(self, roles: Sequence[str]) -> list[str]:
        """The images that provide all of some roles: those built by default if any are, and of them the simplest."""
        candidates = [name for name in self.specs if set(roles) <= self.provided(name)]
        defaults = [name for name in candidates if self.specs[name].default]
        simplest = min((len(self.provided(name)) for name in defaults or candidates), default=0)
        return [name for name in defaults or candidates if len(self.provided(name)) == simplest]

    def base(self, remote: str) -> str | None:
        """The root image that is what a remote calls `images:debian/13`."""
        parts = remote.partition(":")[2].split("/")
        if len(parts) < 2 or parts[2:] not in ([], ["default"]):
            return None
        release = _RELEASES.get(parts[1], parts[1]) if parts[0] == "debian" else parts[1]
        for name, spec in self.specs.items():
            if (spec.distribution, spec.release) == (parts[0], release) and self._catalog.is_root(name):
                return name
        return None


@dataclass
class _Finding:
    key: KeyPath
    code: Code
    message: str
    hint: str | None = None


@dataclass
class _Chosen:
    """The choice for one way of asking, and what is wrong with it; many machines ask the same."""

    image: ImageChoice = NO_IMAGE
    findings: list[_Finding] = field(default_factory=list)
    notice: str | None = None


def choose_images(
    machines: Sequence[WrittenMachine], default: str, channel: str, shelf: ImageIndex, report: Report
) -> dict[str, ImageChoice]:
    """The image of each machine; what is wrong with those of disabled domains is not reported."""
    chooser = _Chooser(default, channel, shelf)
    asked: dict[object, _Chosen] = {}
    choices: dict[str, ImageChoice] = {}
    for machine in machines:
        data = machine.data
        roles = tuple(dict.fromkeys(data["roles"]))
        question = (roles, data.get("image"), data.get("os_image"), machine.is_vm)
        if question not in asked:
            asked[question] = chooser.choose(*question)
        chosen = asked[question]
        refused = any((*machine.path, key) in report.wrong for key in ("image", "os_image", "roles"))
        choices[machine.name] = NO_IMAGE if refused else chosen.image
        if not machine.enabled or refused:
            continue
        if machine.wants_gpu and shelf.gpus(chosen.image.store) == {}:
            message = f"'{machine.name}' gets a card, and the image '{chosen.image.store}' computes on none"
            report.warn(machine.path, "image-not-for-gpu", message, hint="name another image, or take the card from it")
        for finding in chosen.findings:
            path = (
                (*machine.path, *finding.key) if report.source.has((*machine.path, *finding.key[:1])) else machine.path
            )
            report.image_error(path, finding.code, f"'{machine.name}': {finding.message}", hint=finding.hint)
        if chosen.notice:
            report.notices.append(f"'{machine.name}': {chosen.notice}")
    return choices


class _Chooser:
    def __init__(self, default: str, channel: str, shelf: ImageIndex) -> None:
        self._default = default
        self._channel = channel
        self._shelf = shelf

    def choose(self, roles: tuple[str, ...], image: str | None, os_image: str | None, vm: bool) -> _Chosen:
        """Roles first, then `image`, `os_image`, and the file's default."""
        needed = [role for role in roles if role != BASE_ROLE]
        if image is not None:
            chosen = self._named(image, needed)
        elif needed:
            chosen = self._by_roles(needed)
        else:
            chosen = self._of_incus(os_image, vm=vm)
        if vm and chosen.image.store is not None:
            key = ("image",) if image is not None else ("roles",) if needed else ("type",)
            message = f"the image '{chosen.image.store}' is for containers, and this is a virtual machine"
            hint = "make it type: lxc, or take an image of a remote with os_image"
            return _Chosen(NO_IMAGE, [_Finding(key, "image-not-for-vm", message, hint)])
        if os_image is not None and chosen.image.store is not None and (image is not None or needed):
            chosen.notice = f"os_image is not used: {chosen.image.reason}"
        return chosen

    def _named(self, ref: str, roles: Sequence[str]) -> _Chosen:
        name, _, version = ref.partition("@")
        if name in self._shelf.broken:
            return self._broken(name, ("image",))
        if name not in self._shelf.specs:
            close = nearest(name, self._shelf.names)
            hint = f"did you mean '{close}'?" if close else f"there are: {', '.join(self._shelf.names)}"
            return _Chosen(findings=[_Finding(("image",), "unknown-image", f"no image is called {shown(name)}", hint)])
        missing = [role for role in roles if role not in self._shelf.provided(name)]
        if missing:
            message = f"the image '{name}' does not provide {_listed(missing)}"
            hint = f"it provides {_listed(sorted(self._shelf.provided(name)))}; name another, or leave roles out"
            return _Chosen(findings=[_Finding(("roles",), "image-without-role", message, hint)])
        return _Chosen(ImageChoice(name, version or self._channel, reason="named by image"))

    def _by_roles(self, roles: Sequence[str]) -> _Chosen:
        images = self._shelf.providing(roles)
        if len(images) == 1:
            return _Chosen(ImageChoice(images[0], self._channel, reason=f"provides {_listed(roles)}"))
        if images:
            message = f"several images provide {_listed(roles)}: {', '.join(images)}"
            return _Chosen(findings=[_Finding(("roles",), "several-images", message, f"name one: image: {images[0]}")])
        unknown = [role for role in roles if not self._shelf.providing([role])]
        if unknown:
            message = f"no image provides {_listed(unknown)}"
            return _Chosen(
                findings=[_Finding(("roles",), "role-without-image", message, self._how_to_provide(unknown))]
            )
        message = f"no single image provides {_listed(roles)}: they are of different images"
        hint = "give each a machine of its own, or write a spec that provides them all (docs/how-to/add-an-image.md)"
        return _Chosen(findings=[_Finding(("roles",), "roles-without-common-image", message, hint)])

    def _how_to_provide(self, roles: Sequence[str]) -> str:
        known = {role for name in self._shelf.specs for role in self._shelf.provided(name)}
        close = nearest(roles[0].removesuffix(_SUFFIX), sorted(role.removesuffix(_SUFFIX) for role in known))
        close = next((role for role in known if role.removesuffix(_SUFFIX) == close), None)
        text = f"did you mean '{close}'? " if close else ""
        text += f"to add one: a spec with provides: [{', '.join(roles)}] (docs/how-to/add-an-image.md)"
        if self._shelf.broken:
            text += f"; the specs of {_listed(list(self._shelf.broken))} are broken"
        return text

    def _of_incus(self, os_image: str | None, *, vm: bool) -> _Chosen:
        asked = os_image or self._default
        key = "os_image" if os_image else "default_os_image"
        name, _, version = asked.partition("@")
        if ":" not in asked and name in self._shelf.broken:
            return self._broken(name, ("os_image",))
        if ":" not in asked and name in self._shelf.specs:
            return _Chosen(ImageChoice(name, version or self._channel, reason=f"named by {key}"))
        base = None if vm else self._shelf.base(asked)
        if base is not None:
            return _Chosen(ImageChoice(base, self._channel, reason=f"the store's image for {key} {asked}"))
        return _Chosen(ImageChoice(None, remote=asked, reason=f"named by {key}"))

    def _broken(self, name: str, key: KeyPath) -> _Chosen:
        problems = self._shelf.broken[name]
        message = f"the spec of the image '{name}' is broken"
        return _Chosen(findings=[_Finding(key, "broken-spec", message, str(problems[0]) if problems else None)])


def _listed(words: Sequence[str]) -> str:
    return ", ".join(shown(word) for word in words)
