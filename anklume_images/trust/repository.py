"""The signed metadata of a store, made and renewed: `metadata/` in it, as The Update Framework lays it out.

    <n>.root.json      which keys sign what; each is signed by the keys of the one before, too
    <n>.targets.json   the documents of the store, with their hashes
    <n>.snapshot.json  which targets belong together
    timestamp.json     which snapshot is the newest; written last, so that it is what makes the rest count
    staged/            root or targets that lack signatures, and revocations
    <sha256>.revoked.json   the revocations that targets name (revoked.py)

https://theupdateframework.github.io/specification/latest/, by its reference library.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer

from anklume_images.errors import StoreError
from anklume_images.files import write_atomic
from anklume_images.store.noted import noted
from anklume_images.trust.outcome import NoKeyError, Outcome, Wanted
from anklume_images.trust.revoked import FILE as REVOKED
from anklume_images.trust.revoked import forget_copies, keep_copy, revocations_unchanged, settle_revocations
from anklume_images.trust.roles import FOLDER, ROLES, Policy

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from securesystemslib.signer import Key

    from anklume_images.trust.keys import KeyRing

__all__ = ["FOLDER", "STORE", "Repository", "identity_of"]

LIFETIMES = "x-anklume-days"  # in the root: how many days a signature of each role counts
STORE = "x-anklume-store"  # in all others: whose they are, as two stores may have the same keys
_SOON = timedelta(days=30)
_KEPT = 3  # versions of targets and snapshot that stay for those who read them just now
_VERSIONED = re.compile(r"([1-9][0-9]*)\.(root|targets|snapshot)\.json")


def identity_of(first_root: bytes) -> str:
    """What a repository is known by, at whatever address: the sha256 of what its first root's keys signed."""
    return hashlib.sha256(Metadata[Root].from_bytes(first_root).signed_bytes).hexdigest()


def _revocations_of(entries: Mapping[str, TargetFile]) -> str | None:
    """The hash of the revocations that targets name."""
    return entries[REVOKED].hashes["sha256"] if REVOKED in entries else None


class Repository:
    """The signed metadata of the store at `home`; `keys` are those that are here."""

    def __init__(self, home: Path, keys: KeyRing, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.folder = home / FOLDER
        self._home = home
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

        `contents` is asked while nobody else signs: of two at once, the later one signs what both have done. What
        waits with signatures of others gets those of the keys here first, so that theirs are not lost.
        """
        with self._locked():
            current = self.current("targets")
            with revocations_unchanged(self._home):
                entries = dict(contents())
                for named in (entries, current.signed.targets if current else {}):
                    if sha256 := _revocations_of(named):
                        keep_copy(self._home, sha256)
            root, staged = self.root(), self._waiting()
            if staged is not None and staged.signed.targets == entries:
                return self._take_targets(staged, root)
            fresh = current is not None and self._is_fresh("targets", current, root)
            if current is not None and fresh and not renew and current.signed.targets == entries:
                (self.folder / "staged/targets.json").unlink(missing_ok=True)
                return self._renewed(root, current, renew=False)
            before = Outcome()
            if staged is not None and self._signed_elsewhere(staged, root):
                before = self._take_targets(staged, root)
                if before.wanted:
                    return before
            version = self._next_version()
            targets = Targets(version, expires=self._until(self._lifetime(root, "targets")), targets=entries)
            try:
                return before.then(self._take_targets(self._ours(targets), root))
            except NoKeyError as error:
                if not before.written:
                    raise
                return before.then(Outcome(wanted=error.wanted))

    def _next_version(self) -> int:
        current = self.current("targets")
        return current.signed.version + 1 if current else 1

    def _waiting(self) -> Metadata[Targets] | None:
        """The targets that wait for signatures, if these would be the next ones and count for a while."""
        staged = self.staged("targets")
        if staged is None or staged.signed.version != self._next_version():
            return None
        return staged if self._lasts("targets", staged, self.root()) else None

    def _signed_elsewhere(self, staged: Metadata[Targets], root: Metadata[Root]) -> bool:
        """Whether there is a signature on it that the keys here cannot make again."""
        result = root.signed.get_verification_result("targets", staged.signed_bytes, staged.signatures)
        return any(self.keys.path(keyid) is None for keyid in result.signed)

    def edit_root(self, change: Callable[[Root], None]) -> Outcome:
        """Make the next root, signed by the keys of the old and the new one; then sign what it makes invalid anew."""
        with self._locked():
            return self._next_root(self.root(), change)

    def sign_root(self, *, renew: bool = False) -> Outcome:
        """Sign the root that waits; where none does, the same for longer.

        That is after half of its time if all keys that it takes are here, or to `renew` with those that are.
        """
        with self._locked():
            old = self.root() if self.exists else None
            if (staged := self.staged("root")) is not None:
                return self._take_root(staged, old)
            if old is None or not (renew or self._is_due(old)):
                return Outcome()
            return self._next_root(old, lambda _: None)

    def ending(self) -> dict[str, datetime]:
        """The roles whose signature counts no more in 30 days, or before half of a shorter time, and when."""
        found = {}
        root = self.root()
        for role in ROLES:
            held = self.current(role)
            if held and held.signed.expires - self._now() < min(_SOON, self._lifetime(root, role) / 2):
                found[role] = held.signed.expires
        return found

    def _is_due(self, root: Metadata[Root]) -> bool:
        role = root.signed.roles["root"]
        here = [keyid for keyid in role.keyids if self.keys.path(keyid) is not None]
        return len(here) >= role.threshold and not self._lasts("root", root, root)

    def _next_root(self, old: Metadata[Root], change: Callable[[Root], None]) -> Outcome:
        new = Metadata[Root].from_bytes(old.to_bytes())
        new.signatures.clear()
        change(new.signed)
        new.signed.version += 1
        new.signed.expires = self._until(self._lifetime(old, "root"))
        return self._take_root(new, old)

    def _take_root(self, new: Metadata[Root], old: Metadata[Root] | None) -> Outcome:
        previous = old.signed if old else None
        keyids = {*new.signed.roles["root"].keyids, *(previous.roles["root"].keyids if previous else ())}
        is_here = self._add(new, keyids)
        result = new.signed.get_root_verification_result(previous, new.signed_bytes, new.signatures)
        if not result:
            wanted = Wanted.of(result.first, result.second)
            if not is_here:
                raise NoKeyError("root", wanted, self.keys.folder)
            self._write("staged/root.json", new)
            return Outcome(wanted={"root": wanted})
        self._write(f"{new.signed.version}.root.json", new)
        (self.folder / "staged/root.json").unlink(missing_ok=True)
        return Outcome({"root": new.signed.version}).then(self._after_root(new))

    def _after_root(self, root: Metadata[Root]) -> Outcome:
        """Sign what the new root's keys have not; whoever has them does it next, if they are not here."""
        current = self.current("targets")
        if current is None:
            return Outcome()
        try:
            if self._is_fresh("targets", current, root):
                return self._renewed(root, current, renew=False)
            again = self._ours(current.signed)
            again.signed.version += 1
            again.signed.expires = self._until(self._lifetime(root, "targets"))
            return self._take_targets(self._waiting() or again, root)
        except NoKeyError as error:
            return Outcome(wanted=error.wanted)

    def _take_targets(self, new: Metadata[Targets], root: Metadata[Root]) -> Outcome:
        """Add the signatures of the keys here, and let it count when these are enough and a snapshot can be signed."""
        is_here = self._add(new, root.signed.roles["targets"].keyids)
        result = root.signed.get_verification_result("targets", new.signed_bytes, new.signatures)
        if not result and not is_here:
            raise NoKeyError("targets", Wanted.of(result), self.keys.folder)
        try:
            outcome = self._renewed(root, new, renew=True) if result else Outcome(wanted={"targets": Wanted.of(result)})
        except NoKeyError as error:
            outcome = Outcome(wanted=error.wanted)
        if outcome.wanted:
            self._write("staged/targets.json", new)
            return outcome
        (self.folder / "staged/targets.json").unlink(missing_ok=True)
        return Outcome({"targets": new.signed.version}).then(outcome)

    def _renewed(self, root: Metadata[Root], targets: Metadata[Targets], *, renew: bool) -> Outcome:
        """Snapshot and timestamp for these targets, which are written first; the timestamp last."""
        snapshot, timestamp = self.current("snapshot"), self.current("timestamp")
        sound = all(
            held is not None and self._is_fresh(role, held, root)
            for role, held in (("snapshot", snapshot), ("timestamp", timestamp))
        )
        if sound and not renew:
            self._settle(targets)
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
        self._settle(targets)
        self._forget_old()
        return Outcome({"snapshot": next_snapshot.signed.version, "timestamp": next_timestamp.signed.version})

    def _is_fresh(self, role: str, held: Metadata[Any], root: Metadata[Root]) -> bool:
        """Whether it is signed by today's keys and counts for half of its time at least."""
        if not self._lasts(role, held, root) or held.signed.unrecognized_fields.get(STORE) != self.identity:
            return False
        return bool(root.signed.get_verification_result(role, held.signed_bytes, held.signatures))

    def _lasts(self, role: str, held: Metadata[Any], root: Metadata[Root]) -> bool:
        left: timedelta = held.signed.expires - self._now()
        return left >= self._lifetime(root, role) / 2

    def _ours(self, signed: Any) -> Metadata[Any]:
        signed.unrecognized_fields[STORE] = self.identity
        return Metadata(signed)

    def _add(self, metadata: Metadata[Any], keyids: Iterable[str]) -> bool:
        """Sign with those of the keys that are here; whether there is one."""
        signers = self.keys.signers(sorted(keyids))
        for signer in signers:
            metadata.sign(signer, append=True)
        return bool(signers)

    def _sign_whole(self, metadata: Metadata[Any], role: str, root: Metadata[Root]) -> None:
        self._add(metadata, root.signed.roles[role].keyids)
        result = root.signed.get_verification_result(role, metadata.signed_bytes, metadata.signatures)
        if not result:
            raise NoKeyError(role, Wanted.of(result), self.keys.folder)

    def _lifetime(self, root: Metadata[Root], role: str) -> timedelta:
        return timedelta(days=root.signed.unrecognized_fields[LIFETIMES][role])

    def _until(self, lifetime: timedelta) -> datetime:
        return (self._now() + lifetime).replace(microsecond=0)

    def _versions(self, role: str) -> list[int]:
        if not self.folder.is_dir():
            return []
        matches = [_VERSIONED.fullmatch(path.name) for path in self.folder.iterdir()]
        return sorted(int(match[1]) for match in matches if match and match[2] == role)

    def _settle(self, targets: Metadata[Targets]) -> None:
        if sha256 := _revocations_of(targets.signed.targets):
            settle_revocations(self._home, sha256)

    def _forget_old(self) -> None:
        for role in ("targets", "snapshot"):
            for version in self._versions(role)[:-_KEPT]:
                (self.folder / f"{version}.{role}.json").unlink(missing_ok=True)
        kept = [path.read_bytes() for path in (*self.folder.glob("*.targets.json"), self.folder / "staged/targets.json")
                if path.exists()]  # fmt: skip
        forget_copies(self._home, lambda sha256: any(sha256.encode() in data for data in kept))

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
