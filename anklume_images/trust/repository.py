"""The signed metadata of a store, made and renewed: `metadata/` in it, as The Update Framework lays it out.

    <n>.root.json      which keys sign what; each is signed by the keys of the one before, too
    <n>.targets.json   the documents of the store, with their hashes
    <n>.snapshot.json  which targets belong together
    timestamp.json     which snapshot is the newest; written last, so that it is what makes the rest count
    staged/            root or targets that lack signatures

https://theupdateframework.github.io/specification/latest/, by its reference library.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer

from anklume_images.errors import StoreError
from anklume_images.files import write_atomic
from anklume_images.store.noted import noted
from anklume_images.trust.roles import ROLES, Policy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from securesystemslib.signer import Key

    from anklume_images.trust.keys import KeyRing

__all__ = ["FOLDER", "STORE", "Outcome", "Repository", "identity_of"]

FOLDER = "metadata"
LIFETIMES = "x-anklume-days"  # in the root: how many days a signature of each role counts
STORE = "x-anklume-store"  # in all others: whose they are, as two stores may have the same keys
_KEPT = 3  # versions of targets and snapshot that stay for those who read them just now
_VERSIONED = re.compile(r"([1-9][0-9]*)\.(root|targets|snapshot)\.json")


def identity_of(first_root: bytes) -> str:
    """What a repository is known by, at whatever address: the sha256 of what its first root's keys signed."""
    return hashlib.sha256(Metadata[Root].from_bytes(first_root).signed_bytes).hexdigest()


class NoKeyError(StoreError):
    """None of the keys that may sign is here."""


@dataclass(frozen=True)
class Outcome:
    """What was written, role and version; and of which roles how many signatures are still wanted."""

    written: dict[str, int] = field(default_factory=dict)
    wanted: dict[str, int] = field(default_factory=dict)


class Repository:
    """The signed metadata of the store at `home`; `keys` are those that are here."""

    def __init__(self, home: Path, keys: KeyRing, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.folder = home / FOLDER
        self.keys = keys
        self._now = now

    @property
    def exists(self) -> bool:
        """Whether the store has signed metadata, or has begun to."""
        return (self.folder / "1.root.json").exists()

    @property
    def identity(self) -> str:
        """What others know it by."""
        return hashlib.sha256(self._read("1.root.json").signed_bytes).hexdigest()

    def root(self) -> Metadata[Root]:
        """The newest root; StoreError where there is none."""
        versions = self._versions("root")
        if not versions:
            raise StoreError(
                "this store has no signed metadata", where=str(self.folder), hint="make it: anklume-images trust init"
            )
        return cast("Metadata[Root]", self._read(f"{versions[-1]}.root.json"))

    def current(self, role: str) -> Metadata[Any] | None:
        """The metadata of a role that counts now; None before the first."""
        if role == "root":
            return self.root()
        if not (self.folder / "timestamp.json").exists():
            return None
        found = self._read("timestamp.json")
        if role in ("snapshot", "targets"):
            found = self._read(f"{found.signed.snapshot_meta.version}.snapshot.json")
        if role == "targets":
            found = self._read(f"{found.signed.meta['targets.json'].version}.targets.json")
        return found

    def files(self) -> list[str]:
        """The names of the files by which a reader checks what counts now; none before it is signed as a whole."""
        current = {role: self.current(role) for role in ("snapshot", "targets")}
        named = [f"{held.signed.version}.{role}.json" for role, held in current.items() if held is not None]
        roots = [f"{version}.root.json" for version in self._versions("root")]
        return [*roots, "timestamp.json", *named] if len(named) == len(current) else []

    def staged(self, role: str) -> Metadata[Any] | None:
        """What waits for signatures."""
        path = f"staged/{role}.json"
        return self._read(path) if (self.folder / path).exists() else None

    def init(self, policy: Policy, keys: Mapping[str, list[Key]]) -> Outcome:
        """Make the first root: StoreError where there is one, or where keys of the root are missing here."""
        with self._locked():
            if self.exists:
                raise StoreError(
                    "this store has signed metadata", where=str(self.folder), hint="look: anklume-images trust show"
                )
            root = Root(consistent_snapshot=True, expires=self._until(policy.lifetime("root")))
            root.unrecognized_fields[LIFETIMES] = dict(policy.days)
            for role in ROLES:
                for key in keys[role]:
                    root.add_key(key, role)
                root.roles[role].threshold = policy.thresholds[role]
            return self._take_root(Metadata(root), None)

    def publish(self, contents: Callable[[], Mapping[str, TargetFile]], *, renew: bool = False) -> Outcome:
        """Sign what the store holds; what is signed already and counts for a while is left, unless to `renew`.

        `contents` is asked while nobody else signs: of two at once, the later one signs what both have done.
        """
        with self._locked():
            entries, root = contents(), self.root()
            current = self.current("targets")
            fresh = current is not None and self._is_fresh("targets", current, root)
            if current is not None and fresh and not renew and current.signed.targets == dict(entries):
                (self.folder / "staged/targets.json").unlink(missing_ok=True)
                return self._renewed(root, current, renew=False)
            version = current.signed.version + 1 if current else 1
            targets = Targets(version, expires=self._until(self._lifetime(root, "targets")), targets=dict(entries))
            return self._take_targets(self._ours(targets), root)

    def edit_root(self, change: Callable[[Root], None]) -> Outcome:
        """Make the next root, signed by the keys of the old and the new one; then sign the others anew."""
        with self._locked():
            old = self.root()
            new = Metadata[Root].from_bytes(old.to_bytes())
            new.signatures.clear()
            change(new.signed)
            new.signed.version += 1
            new.signed.expires = self._until(self._lifetime(old, "root"))
            return self._take_root(new, old)

    def sign(self) -> Outcome:
        """Add the signatures of the keys that are here to what waits, and let it count when these are enough."""
        with self._locked():
            outcome = Outcome()
            if (root := self.staged("root")) is not None:
                outcome = self._take_root(root, self.root() if self.exists else None)
            elif (targets := self.staged("targets")) is not None:
                outcome = self._take_targets(targets, self.root())
            return outcome

    def _take_root(self, new: Metadata[Root], old: Metadata[Root] | None) -> Outcome:
        previous = old.signed if old else None
        keyids = {*new.signed.roles["root"].keyids, *(previous.roles["root"].keyids if previous else ())}
        self._sign(new, "root", keyids)
        result = new.signed.get_root_verification_result(previous, new.signed_bytes, new.signatures)
        if not result:
            self._write("staged/root.json", new)
            return Outcome(wanted={"root": max(result.first.missing, result.second.missing)})
        current = self.current("targets") if old else None
        self._write(f"{new.signed.version}.root.json", new)
        (self.folder / "staged/root.json").unlink(missing_ok=True)
        outcome = Outcome({"root": new.signed.version})
        if current is not None:
            again = self._ours(current.signed)
            again.signed.version += 1
            again.signed.expires = self._until(self._lifetime(new, "targets"))
            try:
                after = self._take_targets(again, new)
            except NoKeyError:  # whoever has one signs the targets next
                after = Outcome(wanted={"targets": new.signed.roles["targets"].threshold})
            outcome = Outcome(outcome.written | after.written, after.wanted)
        return outcome

    def _take_targets(self, new: Metadata[Targets], root: Metadata[Root]) -> Outcome:
        self._sign(new, "targets", root.signed.roles["targets"].keyids)
        result = root.signed.get_verification_result("targets", new.signed_bytes, new.signatures)
        if not result:
            self._write("staged/targets.json", new)
            return Outcome(wanted={"targets": result.missing})
        outcome = self._renewed(root, new, renew=True)
        (self.folder / "staged/targets.json").unlink(missing_ok=True)
        return Outcome({"targets": new.signed.version} | outcome.written)

    def _renewed(self, root: Metadata[Root], targets: Metadata[Targets], *, renew: bool) -> Outcome:
        """Snapshot and timestamp for these targets, which are written first; the timestamp last."""
        snapshot, timestamp = self.current("snapshot"), self.current("timestamp")
        sound = all(
            held is not None and self._is_fresh(role, held, root)
            for role, held in (("snapshot", snapshot), ("timestamp", timestamp))
        )
        if sound and not renew:
            return Outcome()
        meta = MetaFile.from_data(targets.signed.version, self._bytes(targets), ["sha256"])
        next_snapshot = self._ours(
            Snapshot(
                snapshot.signed.version + 1 if snapshot else 1,
                expires=self._until(self._lifetime(root, "snapshot")),
                meta={"targets.json": meta},
            )
        )
        self._sign_whole(next_snapshot, "snapshot", root)
        data = self._bytes(next_snapshot)
        next_timestamp = self._ours(
            Timestamp(
                timestamp.signed.version + 1 if timestamp else 1,
                expires=self._until(self._lifetime(root, "timestamp")),
                snapshot_meta=MetaFile.from_data(next_snapshot.signed.version, data, ["sha256"]),
            )
        )
        self._sign_whole(next_timestamp, "timestamp", root)
        self._write(f"{targets.signed.version}.targets.json", targets)
        self._write(f"{next_snapshot.signed.version}.snapshot.json", next_snapshot)
        self._write("timestamp.json", next_timestamp)
        self._forget_old()
        return Outcome({"snapshot": next_snapshot.signed.version, "timestamp": next_timestamp.signed.version})

    def _is_fresh(self, role: str, held: Metadata[Any], root: Metadata[Root]) -> bool:
        """Whether it is signed by today's keys and counts for half of its time at least."""
        half = self._lifetime(root, role) / 2
        if held.signed.expires - self._now() < half or held.signed.unrecognized_fields.get(STORE) != self.identity:
            return False
        return bool(root.signed.get_verification_result(role, held.signed_bytes, held.signatures))

    def _ours(self, signed: Any) -> Metadata[Any]:
        signed.unrecognized_fields[STORE] = self.identity
        return Metadata(signed)

    def _sign(self, metadata: Metadata[Any], role: str, keyids: Iterable[str]) -> None:
        signers = self.keys.signers(sorted(keyids))
        if not signers:
            wanted = ", ".join(sorted(keyid[:16] for keyid in keyids))
            raise NoKeyError(
                f"no key of the role {role} is here",
                where=str(self.keys.folder),
                hint=f"sign where one is, or name its folder with --keys; it is {wanted}",
            )
        for signer in signers:
            metadata.sign(signer, append=True)

    def _sign_whole(self, metadata: Metadata[Any], role: str, root: Metadata[Root]) -> None:
        self._sign(metadata, role, root.signed.roles[role].keyids)
        result = root.signed.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
        if not result:
            raise StoreError(
                f"{result.missing} more keys of the role {role} would have to be here", where=str(self.keys.folder)
            )

    def _lifetime(self, root: Metadata[Root], role: str) -> timedelta:
        return timedelta(days=root.signed.unrecognized_fields[LIFETIMES][role])

    def _until(self, lifetime: timedelta) -> datetime:
        return (self._now() + lifetime).replace(microsecond=0)

    def _versions(self, role: str) -> list[int]:
        if not self.folder.is_dir():
            return []
        matches = [_VERSIONED.fullmatch(path.name) for path in self.folder.iterdir()]
        return sorted(int(match[1]) for match in matches if match and match[2] == role)

    def _forget_old(self) -> None:
        for role in ("targets", "snapshot"):
            for version in self._versions(role)[:-_KEPT]:
                (self.folder / f"{version}.{role}.json").unlink(missing_ok=True)

    def _read(self, name: str) -> Metadata[Any]:
        path = self.folder / name
        try:
            return Metadata.from_bytes(path.read_bytes())
        except (OSError, RepositoryError) as error:
            raise StoreError(
                f"signed metadata cannot be read: {error}",
                where=str(path),
                hint="restore it from a copy of the store; what consumers have seen cannot be made again",
            ) from None

    def _write(self, name: str, metadata: Metadata[Any]) -> None:
        write_atomic(self.folder / name, self._bytes(metadata))

    @staticmethod
    def _bytes(metadata: Metadata[Any]) -> bytes:
        return metadata.to_bytes(JSONSerializer(compact=True))

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("a", encoding="utf-8") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            with noted(self.folder.parent, self.folder):
                yield
