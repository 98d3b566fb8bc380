"""Another store, as far as its signatures hold: nothing of it is believed, or fetched that is large, before."""

from __future__ import annotations

import contextlib
import fcntl
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadHTTPError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.metadata import Metadata, Targets
from tuf.ngclient import Updater, UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface

from anklume_images.architectures import host_architecture
from anklume_images.canonical import parsed
from anklume_images.errors import FetchError, StoreError
from anklume_images.files import write_atomic
from anklume_images.store.images import CHANNEL, LATEST
from anklume_images.store.models import model_at, model_path, parse_record, spellings
from anklume_images.trust.attest import attestation_about, attestations_path
from anklume_images.trust.clock import now
from anklume_images.trust.documents import check_document, manifest_of
from anklume_images.trust.place import LargerError, Place
from anklume_images.trust.repository import FOLDER, STORE
from anklume_images.trust.revoked import FILE as REVOKED
from anklume_images.trust.revoked import Revocation, copy_path, parse_revocations, read_revocations

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tuf.api.metadata import TargetFile

    from anklume_images.store.images import Image
    from anklume_images.store.models import ModelRecord

__all__ = ["OVERRIDE", "Origin", "Override", "UntrustedError", "read_override"]

OVERRIDE = "expired.json"
_LIMIT = 64 << 20  # bytes of one document
_LIMITS = {"root": UpdaterConfig.root_max_length, "timestamp": UpdaterConfig.timestamp_max_length}
_IMAGE = re.compile(
    r"images/(?P<name>[a-z0-9][a-z0-9-]{0,99})/(?P<version>[A-Za-z0-9][A-Za-z0-9._-]{0,199})/(?P<arch>[a-z0-9]{1,30})"
    r"/(?P<document>[a-z0-9][a-z0-9.-]{0,99})\.json"
)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MANIFEST = "manifest"
_CHANNEL = 100  # letters of a channel's name
_TOLD: tuple[tuple[type[Exception], str, str], ...] = (
    (
        ExpiredMetadataError,
        "its metadata is past its time, as it is old or somebody keeps you from seeing newer",
        "its owner renews it (trust sign --renew there); for a host without a network there is trust allow-expired",
    ),
    (
        BadVersionNumberError,
        "it shows older metadata than it did before",
        "somebody replays an old copy, or the store was restored from one: ask its owner",
    ),
    (UnsignedMetadataError, "the signatures of its metadata do not hold", "ask its owner"),
    (
        LengthOrHashMismatchError,
        "its metadata does not fit together",
        "it may be written to just now: try again; if it stays so, ask its owner",
    ),
    (DownloadError, "its metadata is not whole", "ask its owner"),
    (RepositoryError, "its metadata is not valid", "ask its owner"),
)


class UntrustedError(StoreError):
    """A store's metadata does not hold: unsigned, expired, replayed, mixed, or by keys that nobody accepted."""


@dataclass(frozen=True)
class Override:
    """Expired metadata is accepted until this day, for a reason."""

    until: str
    why: str
    by: str
    since: str


def read_override(folder: Path) -> Override | None:
    """That of the store of which a folder below `trust/` tells; None where nothing was allowed."""
    try:
        return Override(**json.loads((folder / OVERRIDE).read_bytes()))
    except FileNotFoundError:
        return None


class Origin:
    """A store whose metadata was verified; `warnings` are to be told to whoever asked."""

    def __init__(self, folder: Path, place: Place, identity: str) -> None:
        self.place = place
        self.identity = identity
        self.warnings: list[str] = []
        self.override: Override | None = None  # by which expired metadata was accepted
        self._folder = folder
        with (folder / ".lock").open("a", encoding="utf-8") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            self._entries = self._refresh()
            self.revocations = self._revocations()

    def _refresh(self) -> dict[str, TargetFile]:
        bootstrap = (self._folder / "first.json").read_bytes()
        for override in (None, self._override()):
            try:
                updater = Updater(
                    str(self._folder),
                    f"{FOLDER}/",
                    fetcher=_Fetcher(self.place, self.identity),
                    config=UpdaterConfig(targets_max_length=_LIMIT, snapshot_max_length=_LIMIT),
                    bootstrap=bootstrap,
                )
                if override is not None:
                    # The library has no public way to say at which time metadata is looked at.
                    updater._trusted_set.reference_time = datetime.min.replace(tzinfo=UTC)  # noqa: SLF001
                    self.override = override
                    self.warnings.append(
                        f"the metadata of {self.place} is past its time, and accepted until {override.until} by "
                        f"{override.by}: {override.why}"
                    )
                updater.refresh()
            except ExpiredMetadataError as error:
                if override is None and self._override() is not None:
                    continue
                raise self._told(error) from None
            except (RepositoryError, DownloadError) as error:
                raise self._told(error) from None
            break
        signed = Metadata[Targets].from_file(str(self._folder / "targets.json")).signed
        return dict(signed.targets)

    def _override(self) -> Override | None:
        override = read_override(self._folder)
        return override if override and override.until >= now()[:10] else None

    def _told(self, error: RepositoryError | DownloadError) -> StoreError | FetchError:
        if isinstance(error, DownloadError) and isinstance(error.__cause__, FetchError | UntrustedError):
            return error.__cause__
        what, hint = next((what, hint) for kind, what, hint in _TOLD if isinstance(error, kind))
        return UntrustedError(f"{what}: {error}", where=str(self.place), hint=hint)

    def _revocations(self) -> tuple[Revocation, ...]:
        if REVOKED not in self._entries:
            return read_revocations(self._folder)
        data = self._list_of_revocations()
        found = parse_revocations(data, f"{self.place}/{REVOKED}")
        write_atomic(self._folder / REVOKED, data)
        return found

    def _list_of_revocations(self) -> bytes:
        """The one that was signed, by its hash; stores of earlier programs and bundles have it by its name only.

        A copy of a store may have another one by that name, from before or after its metadata.
        """
        sha256 = self._entries[REVOKED].hashes.get("sha256", "")
        if _SHA256.fullmatch(sha256):
            with contextlib.suppress(UntrustedError, FetchError):  # as a bucket says of what it lacks, too
                data = self._read(REVOKED, copy_path(sha256))
                if data is not None:
                    return data
        return self.document(REVOKED)

    def has(self, path: str) -> bool:
        """Whether a document was signed."""
        return path in self._entries

    def document(self, path: str) -> bytes:
        """A document by its path in the store, as it was signed; UntrustedError where it was not."""
        data = self._read(path)
        if data is None:
            raise UntrustedError(f"it lacks {path}", where=str(self.place), hint="ask its owner to verify the store")
        return data

    def _read(self, path: str, where: str | None = None) -> bytes | None:
        entry = self._entries.get(path)
        if entry is None:
            raise UntrustedError(f"{path} was not signed", where=str(self.place), hint="ask its owner")
        if entry.length > _LIMIT:
            raise UntrustedError(f"{path} is larger than any document", where=str(self.place), hint="ask its owner")
        try:
            data = self.place.read(where or path, entry.length)
            if data is not None:
                entry.verify_length_and_hashes(data)
        except (LargerError, LengthOrHashMismatchError):
            raise UntrustedError(
                f"{path} is not what was signed",
                where=str(self.place),
                hint="it may be written to just now: try again; if it stays so, ask its owner to verify the store",
            ) from None
        return data

    def images(self) -> list[tuple[str, str, str]]:
        """Name, version and architecture of each image, sorted."""
        return sorted(
            (match["name"], match["version"], match["arch"])
            for path in self._entries
            if (match := _IMAGE.fullmatch(path)) and match["document"] == _MANIFEST
        )

    def channels(self, name: str, architecture: str) -> dict[str, str]:
        """The channels of an image: name -> version."""
        prefix = f"channels/{name}/{architecture}/"
        found = {}
        for path, entry in self._entries.items():
            channel = path.removeprefix(prefix)
            custom = entry.custom if isinstance(entry.custom, dict) else {}
            version = custom.get("version")
            if channel != path and len(channel) <= _CHANNEL and CHANNEL.fullmatch(channel) and isinstance(version, str):
                found[channel] = version
        return found

    def resolve(self, ref: str, architecture: str | None = None) -> tuple[Image, str | None]:
        """The image of a reference, and the channel that it was asked by; StoreError says what there is instead."""
        architecture = architecture or host_architecture()
        name, _, selector = ref.partition("@")
        channels = self.channels(name, architecture)
        version = channels.get(selector or LATEST, selector)
        if (name, version, architecture) not in self.images():
            versions = [image[1] for image in self.images() if (image[0], image[2]) == (name, architecture)]
            there = ", ".join([*channels, *versions]) if versions else self._listed()
            raise StoreError(f"{self.place} has no {ref} for {architecture}", hint=f"there are {there}")
        channel = (selector or LATEST) if (selector or LATEST) in channels else None
        return self.image(name, version, architecture), channel

    def image(self, name: str, version: str, architecture: str) -> Image:
        """One image, by its signed manifest."""
        path = f"images/{name}/{version}/{architecture}/{_MANIFEST}.json"
        image = manifest_of(self.document(path), f"{self.place}/{path}")
        if image.key != (name, version, architecture):
            raise UntrustedError(f"{path} describes another image", where=str(self.place), hint="ask its owner")
        return image

    def documents(self, image: Image) -> dict[str, bytes]:
        """The documents of an image but its manifest, by their files' names."""
        wanted = (image.name, image.version, image.architecture)
        found = {}
        for path in self._entries:
            match = _IMAGE.fullmatch(path)
            if match and (match["name"], match["version"], match["arch"]) == wanted and match["document"] != _MANIFEST:
                found[f"{match['document']}.json"] = data = self.document(path)
                check_document(match["document"], data, f"{self.place}/{path}")
        return found

    def attestations(self, image: Image) -> list[bytes]:
        """What builders attest of an image; whether they do is for their own signatures to say.

        One that is not there is passed over: programs from before they travelled serve and bundle none.
        """
        found = []
        for path in sorted(self._entries):
            if path.rpartition("/")[0] == attestations_path(image) and (data := self._read(path)) is not None:
                attestation_about(image, data, f"{self.place}/{path}")
                found.append(data)
        return found

    def models(self) -> list[str]:
        """The names of its models, sorted."""
        return sorted(name for path in self._entries if (name := model_at(path)))

    def model(self, name: str) -> ModelRecord:
        """One model, by its signed record; StoreError says what there is instead."""
        path = next((path for one in spellings(name) if (path := model_path(one)) in self._entries), None)
        if path is None:
            raise StoreError(f"{self.place} has no model {name}", hint=f"there are {self._listed()}")
        record = parse_record(self.document(path), f"{self.place}/{path}")
        if model_path(record.name) != path:
            raise UntrustedError(f"{path} describes another model", where=str(self.place), hint="ask its owner")
        return record

    def _listed(self) -> str:
        names = sorted({image[0] for image in self.images()})
        return f"images: {', '.join(names) or 'none'}; models: {', '.join(self.models()) or 'none'}"


class _Fetcher(FetcherInterface):
    """Gives the library the files of a place, and none that are of another store with the same keys."""

    def __init__(self, place: Place, identity: str) -> None:
        self._place = place
        self._identity = identity

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = url.rpartition("/")[2].split(".")[-2]
        data = self._place.read(url, _LIMITS.get(name, _LIMIT))
        if data is None:
            raise DownloadHTTPError(f"there is no {url}", 404)
        if name != "root" and self._owner(data) != self._identity:
            raise UntrustedError(
                f"{url} is of another store, which has the same keys, or of an earlier program",
                where=str(self._place),
                hint="its owner signs it again (trust sign there)",
            )
        return iter((data,))

    @staticmethod
    def _owner(data: bytes) -> object:
        """Whose store a file says it is of; the library checks next that the keys say so too."""
        try:
            return parsed(data)["signed"][STORE]
        except (ValueError, KeyError, TypeError):
            return None
