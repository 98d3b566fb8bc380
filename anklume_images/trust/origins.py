"""Which other stores are believed, and what was seen of each last: `trust/<identity>/` in one's own store.

origin.json        where it was found, since when it is believed, who said so
first.json         its first root, from which the chain of keys goes on
root.json, timestamp.json, snapshot.json, targets.json, root_history/    what the last contact showed
revoked.json       what it has revoked
expired.json       until when its expired metadata is to be accepted, and why
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from tuf.api.exceptions import RepositoryError

from anklume_images.errors import StoreError
from anklume_images.files import write_atomic
from anklume_images.store.noted import noted, write_noted
from anklume_images.store.override_log import ALLOWED, USED, WITHDRAWN, OverrideLine, OverrideLog
from anklume_images.trust.clock import now
from anklume_images.trust.origin import OVERRIDE, Origin, Override, UntrustedError, read_override
from anklume_images.trust.place import Place
from anklume_images.trust.repository import FOLDER, identity_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from anklume_images.store.store import Store

__all__ = ["Accepted", "Origins"]

CERTIFICATE = "server.pem"
_ROOT_LIMIT = 512_000
_FINGERPRINT = re.compile(r"[0-9a-f]{16,64}")


@dataclass(frozen=True)
class Accepted:
    """A store that is believed: `identity` is its first root's, `place` where it was found, `since` RFC 3339."""

    identity: str
    place: str
    since: str
    by: str


class Origins:
    """The stores that the store `store` believes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.folder = store.home / "trust"

    def __iter__(self) -> Iterator[Accepted]:
        for path in sorted(self.folder.glob("*/origin.json")):
            yield Accepted(**json.loads(path.read_bytes()))

    def find(self, place: Place) -> Accepted | None:
        """The one that was accepted last of those that were found at this place."""
        found = [accepted for accepted in self if accepted.place == place.url]
        return max(found, key=self._accepted, default=None)

    def _accepted(self, accepted: Accepted) -> tuple[str, int]:
        return accepted.since, self._file(accepted).stat().st_mtime_ns

    def _file(self, accepted: Accepted) -> Path:
        return self.folder / accepted.identity[:32] / "origin.json"

    def known(self, where: str) -> Accepted:
        """The one at this place, or with a fingerprint that begins so; StoreError when it is not believed."""
        identities = [one for one in self if _FINGERPRINT.fullmatch(where) and one.identity.startswith(where)]
        found = identities[0] if len(identities) == 1 else self.find(Place(where))
        if found is None:
            raise StoreError(f"{where} is not believed here", hint=f"believed: {self._listed()}")
        return found

    def only(self) -> Accepted:
        """The one that is believed; StoreError when there is none, or when there are several."""
        found = list(self)
        if len(found) != 1:
            raise StoreError(
                "several stores are believed here" if found else "no other store is believed here",
                hint=f"say which with --from: {self._listed()}" if found else "anklume-images trust accept PLACE",
            )
        return found[0]

    def _listed(self) -> str:
        return ", ".join(str(Place(accepted.place)) for accepted in self) or "none"

    def first_root(self, place: Place) -> bytes:
        """The first root of a store; StoreError where it has none."""
        data = place.read(f"{FOLDER}/1.root.json", _ROOT_LIMIT)
        if data is None:
            raise UntrustedError(
                "this store is not signed", where=str(place), hint="its owner signs it (trust sign there)"
            )
        try:
            identity_of(data)
        except RepositoryError as error:
            raise UntrustedError(f"its metadata cannot be read: {error}", where=str(place)) from None
        return data

    def accept(self, place: Place, fingerprint: str, by: str, certificate: bytes | None = None) -> Accepted:
        """Believe the store at a place from now on; UntrustedError when its identity is another one.

        `certificate` is the only one that its server may show from then on.
        """
        root = self.first_root(place)
        identity = identity_of(root)
        if identity != fingerprint.lower().replace(" ", ""):
            raise UntrustedError(
                f"its fingerprint is {identity}, not the one that you named",
                where=str(place),
                hint="ask its owner, not over the same way (trust show there)",
            )
        folder = self.folder / identity[:32]
        accepted = Accepted(identity, place.url, now(), by)
        self._store.create()
        with noted(self._store.home, folder):
            write_atomic(folder / "first.json", root)
            if certificate is not None:
                write_atomic(folder / CERTIFICATE, certificate)
            else:
                (folder / CERTIFICATE).unlink(missing_ok=True)
            write_atomic(self._file(accepted), json.dumps(asdict(accepted), indent=1).encode() + b"\n")
        return accepted

    def forget(self, accepted: Accepted) -> None:
        """Believe it no more; its revocations go on counting."""
        self._file(accepted).unlink()

    def allow_expired(self, accepted: Accepted, until: str, why: str, by: str) -> None:
        """Accept its expired metadata until a day (YYYY-MM-DD), which is told and logged at each contact."""
        override = Override(until, why, by, now())
        self._log(ALLOWED, accepted, accepted.place, override)
        path = self._file(accepted).with_name(OVERRIDE)
        write_noted(self._store.home, path, json.dumps(asdict(override), indent=1).encode() + b"\n")

    def forbid_expired(self, accepted: Accepted) -> None:
        """Accept its expired metadata no more; StoreError where that was not allowed."""
        override = self.override(accepted)
        if override is None:
            raise StoreError("its expired metadata is not accepted here", where=str(Place(accepted.place)))
        with noted(self._store.home, path := self._file(accepted).with_name(OVERRIDE)):
            path.unlink()
        self._log(WITHDRAWN, accepted, accepted.place, override)

    def override(self, accepted: Accepted) -> Override | None:
        """Until when its expired metadata is accepted, or was; None where that was never allowed, or was withdrawn."""
        return read_override(self._file(accepted).parent)

    def uses(self, accepted: Accepted) -> list[OverrideLine]:
        """Each time that its expired metadata was accepted, as the log has it."""
        lines, _ = OverrideLog(self._store).read()
        return [line for line in lines if line.what == USED and line.identity == accepted.identity]

    def _log(self, what: str, accepted: Accepted, place: str, override: Override) -> None:
        line = OverrideLine(what, accepted.identity, place, override.until, override.why, override.by)
        OverrideLog(self._store).add(line)

    def place(self, where: str) -> Place:
        """A place, whose server may show only the certificate that was kept when it was accepted, if one was."""
        place = Place(where)
        accepted = self.find(place)
        pinned = self._file(accepted).with_name(CERTIFICATE) if accepted else None
        return Place(where, pinned) if pinned and pinned.exists() else place

    def contact(self, where: str) -> Origin:
        """The store at a place, with its metadata verified anew; UntrustedError when it does not hold."""
        place = self.place(where)
        accepted = self.find(place)
        return self._origin(accepted, place) if accepted else self.at(place)  # the same one elsewhere

    def at(self, place: Place) -> Origin:
        """The same where only what is there says whose it is: many bundles come by one path."""
        identity = identity_of(self.first_root(place))
        accepted = next((known for known in self if known.identity == identity), None)
        if accepted is None:
            raise UntrustedError(
                f"nobody here has accepted the keys of this store; its fingerprint is {identity}",
                where=str(place),
                hint=f"compare it with its owner's (trust show), then: anklume-images trust accept {place}",
            )
        return self._origin(accepted, place)

    def _origin(self, accepted: Accepted, place: Place) -> Origin:
        folder = self._file(accepted).parent
        with noted(self._store.home, folder):
            origin = Origin(folder, place, accepted.identity)
        if origin.override is not None:
            self._log(USED, accepted, str(place), origin.override)
        return origin
