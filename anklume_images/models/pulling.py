"""Brings models from registries, Hugging Face and addresses into the store: many blobs at once, each resumable.

A registry answers a manifest (an OCI image manifest with Ollama's media types) and its blobs by sha256; that is
server/download.go and images.go of https://github.com/ollama/ollama. Hugging Face tells the sha256 and the size of a
large file in the headers `X-Linked-Etag` and `X-Linked-Size` of its redirect (src/huggingface_hub/file_download.py of
https://github.com/huggingface/huggingface_hub). Of a file elsewhere only the user may know the sha256; without one,
that of the first time is recorded, and counts from then on.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from anklume_images.canonical import parsed
from anklume_images.errors import AnklumeError, FetchError
from anklume_images.files import write_atomic
from anklume_images.inputs.access import environment_access
from anklume_images.inputs.answers import Refusal, advice
from anklume_images.inputs.fetch import fetch
from anklume_images.inputs.lockfile import LockedFile
from anklume_images.inputs.redaction import redact
from anklume_images.inputs.transport import Transport
from anklume_images.models.addresses import HubFile, RegistryModel, WebFile
from anklume_images.models.gguf import read_gguf
from anklume_images.models.importing import ModelNameError, check_name, check_servable, describe
from anklume_images.models.unlocked import fetch_unlocked
from anklume_images.store.images import StoredFile
from anklume_images.store.models import ModelRecord, ModelRecords

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from anklume_images.inputs.access import Access
    from anklume_images.inputs.fetch import Progress
    from anklume_images.inputs.fetch_error import Addresses
    from anklume_images.models.addresses import Address
    from anklume_images.store.store import Store

__all__ = ["Wanted", "pull"]

_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_MODEL, _LICENSE = "application/vnd.ollama.image.model", "application/vnd.ollama.image.license"
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_LARGEST_MANIFEST = 1 << 20
_MOST_LAYERS = 64
_REDIRECTS = 5


@dataclass(frozen=True)
class Wanted:
    """One model to pull: from where, under which name, and what is known of its file."""

    address: Address
    name: str
    sha256: str = ""
    license: str = ""


@dataclass
class _Found:
    """What has to be fetched for one model: addresses by sha256. Without files, its sha256 is not known yet."""

    wanted: Wanted
    source: str
    files: dict[str, LockedFile] = field(default_factory=dict)
    urls: dict[str, str] = field(default_factory=dict)
    model: str = ""
    license: str = ""
    manifest: bytes = b""

    def add(self, sha256: str, size: int | None, url: str, what: str) -> None:
        self.files[sha256] = LockedFile("models", f"{self.wanted.name}: {what}", sha256, size)
        self.urls[sha256] = url


class _OneAddress:
    """The one address of each file, by its sha256."""

    def __init__(self, urls: Mapping[str, str]) -> None:
        self._urls = urls

    def urls(self, file: LockedFile, *_: object, **__: object) -> Iterator[str]:
        """That address."""
        yield self._urls[file.sha256]

    def access_of(self, _file: LockedFile) -> Access:
        """Registries are reached as the environment says."""
        return environment_access()

    def hint(self, _archive: str) -> str:
        """What to do about one that does not answer."""
        return "run it again: what has arrived is kept"

    def passed_over(self, _archive: str) -> list[str]:
        """There is no other address."""
        return []


def pull(
    store: Store,
    wanted: Sequence[Wanted],
    progress: Progress,
    *,
    timeout: tuple[float, float] = (10, 30),
    attempts: int = 4,
) -> list[ModelRecord]:
    """Have models in the store, all their blobs at once; a record appears when all of its model is there.

    FetchError for what cannot be had or is not what was promised; what has arrived is kept for the next time.
    """
    for model in wanted:
        check_name(model.name)
    transport = Transport(timeout=timeout, attempts=attempts)
    puller = _Puller(store, transport, progress)
    try:
        with store.lease() as lease:
            found = [puller.look(model) for model in wanted]
            puller.check_free(found)
            lease.add(sha256 for one in found for sha256 in one.files)
            files = [file for one in found for file in one.files.values()]
            sources = _OneAddress({sha256: url for one in found for sha256, url in one.urls.items()})
            puller.fetch(files, sources, timeout=timeout, attempts=attempts)
            for one in found:
                if not one.model:
                    one.model = puller.first_time(one, lease.add)
            return [puller.finish(one, lease.add) for one in found]
    finally:
        transport.close()


class _Puller:
    def __init__(self, store: Store, transport: Transport, progress: Progress) -> None:
        self.store = store
        self.transport = transport
        self.progress = progress
        self.records = ModelRecords(store)

    def look(self, wanted: Wanted) -> _Found:
        """Ask for what is to be fetched; small answers only."""
        match wanted.address:
            case RegistryModel():
                return self._manifest(wanted, wanted.address)
            case HubFile():
                return self._hub(wanted, wanted.address)
            case WebFile():
                return self._web(wanted, wanted.address)

    def check_free(self, found: Sequence[_Found]) -> None:
        """ModelNameError for a name that a model of another origin has."""
        for one in found:
            existing = self.records.get(one.wanted.name)
            if existing and existing.source != one.source and existing.sha256 != one.model:
                raise ModelNameError(
                    f"the store has another model called '{existing.name}', from {existing.source or 'a file'}",
                    hint=f"choose another --name, or remove that one: anklume-images models rm {existing.name}",
                )

    def fetch(
        self, files: list[LockedFile], sources: Addresses, *, timeout: tuple[float, float], attempts: int
    ) -> None:
        try:
            fetch(files, self.store.blobs, sources, progress=self.progress, timeout=timeout, attempts=attempts)
        except FetchError as error:
            hint = error.hint
            if error.changed:
                hint = "the server has other bytes than it, or you, promised: nothing of it is in the store"
            elif error.missing:
                hint = "the server has it no more, or never had: check the name"
            raise FetchError(
                error.message, hint=hint, missing=error.missing, unreachable=error.unreachable, changed=error.changed
            ) from None

    # A registry

    def _manifest(self, wanted: Wanted, address: RegistryModel) -> _Found:
        content = self._read_manifest(address, wanted.name)
        found = _Found(wanted, address.manifest, manifest=content)
        try:
            document = parsed(content)
            entries = [document["config"], *document["layers"]]
            _need(document["schemaVersion"] == 2 and 1 < len(entries) <= _MOST_LAYERS, "it is of another form")
            for entry in entries:
                sha256, size = _digest(entry["digest"]), entry["size"]
                _need(isinstance(size, int) and size >= 0, f"a size is {size!r}")
                found.add(sha256, size, address.blob(sha256), str(entry["mediaType"]).rpartition(".")[2])
            models = [_digest(entry["digest"]) for entry in entries if entry["mediaType"] == _MODEL]
            _need(len(models) == 1, f"it names {len(models)} model files")
            found.model = models[0]
            found.license = next((_digest(entry["digest"]) for entry in entries if entry["mediaType"] == _LICENSE), "")
        except (ValueError, KeyError, TypeError) as error:
            raise FetchError(
                f"{wanted.name}: the server's manifest is not that of a model: {error}",
                where=redact(address.manifest),
                unreachable=(wanted.name,),
            ) from None
        if wanted.sha256 and wanted.sha256 != found.model:
            raise _changed(wanted, address.manifest, found.model)
        return found

    def _read_manifest(self, address: RegistryModel, name: str) -> bytes:
        def read() -> bytes:
            with self.transport.ask(address.manifest, {"Accept": _MANIFEST}) as response:
                content = bytes(response.raw.read(_LARGEST_MANIFEST + 1, decode_content=True))
                stated = _DIGEST.fullmatch(response.headers.get("Docker-Content-Digest", ""))
                if len(content) > _LARGEST_MANIFEST:
                    raise Refusal("the manifest is larger than any", answered=True)
                if stated and stated[1] != hashlib.sha256(content).hexdigest():
                    raise Refusal("the manifest is not the one that the server promises", answered=True)
                return content

        with self._explained(address.manifest, name):
            return self.transport.insist(address.manifest, read)

    # Files

    def _hub(self, wanted: Wanted, address: HubFile) -> _Found:
        found = _Found(wanted, f"https://{address.source}")
        with self._explained(address.url, wanted.name):
            headers = self._headers(address.url)
        sha256 = headers.get("X-Linked-Etag", "").strip('"')
        size = headers.get("X-Linked-Size", "")
        if not _SHA256.fullmatch(sha256) or not size.isdecimal():
            raise FetchError(
                f"{wanted.name}: the server does not tell the file's sha256",
                where=redact(address.url),
                hint="large files of a repository have one: is it the file that you mean?",
                unreachable=(wanted.name,),
            )
        if wanted.sha256 and wanted.sha256 != sha256:
            raise _changed(wanted, address.url, sha256)
        found.model = sha256
        found.add(sha256, int(size), address.url, "file")
        return found

    def _headers(self, url: str) -> Mapping[str, str]:
        """What a hub says of a file: before its last redirect, which leads to where the bytes are."""
        headers: Mapping[str, str] = {}
        for _ in range(_REDIRECTS):
            asked = url

            def ask(url: str = asked) -> tuple[Mapping[str, str], str]:
                with self.transport.ask(url, method="HEAD", follow=False) as response:
                    following = response.next.url if response.next is not None else None
                    return dict(response.headers), str(following or "")

            headers, following = self.transport.insist(asked, ask)
            headers = {name.title(): value for name, value in headers.items()}
            if "X-Linked-Etag" in headers or not following:
                break
            url = following
        return headers

    def _web(self, wanted: Wanted, address: WebFile) -> _Found:
        found = _Found(wanted, redact(address.url))
        existing = self.records.get(wanted.name)
        recorded = existing.sha256 if existing and existing.source == found.source else ""
        if sha256 := wanted.sha256 or recorded:
            found.model = sha256
            with self._explained(address.url, wanted.name):
                size = self.transport.size(address.url)
            found.add(sha256, size, address.url, "file")
        return found

    def first_time(self, found: _Found, keep: Any) -> str:
        """Fetch a file of which nobody knows the sha256, and say so."""
        address = found.wanted.address
        assert isinstance(address, WebFile)  # noqa: S101 - the others tell it
        with self._explained(address.url, found.wanted.name):
            sha256 = fetch_unlocked(self.store.blobs, address.url, self.transport, self.progress, keep)
        self.progress.note(
            f"{found.wanted.name}: nothing but the server vouches for these bytes; their sha256 is recorded, and "
            f"counts from now on: {sha256}"
        )
        return sha256

    # What has arrived

    def finish(self, found: _Found, keep: Any) -> ModelRecord:
        """Judge the file, and let the model appear."""
        blobs, wanted = self.store.blobs, found.wanted
        path = blobs.path(found.model)
        try:
            gguf = read_gguf(path)
            check_servable(gguf, found.source)
        except AnklumeError as error:
            if found.model not in self.records.needed():
                blobs.remove(found.model)
            raise FetchError(
                f"{wanted.name}: {error.message}", where=found.source, hint=error.hint, unreachable=(wanted.name,)
            ) from None
        manifest = self._keep(found.manifest, keep) if found.manifest else None
        layers = tuple(
            StoredFile(sha256, blobs.path(sha256).stat().st_size) for sha256 in found.files if sha256 != found.model
        )
        record = ModelRecord(
            name=wanted.name,
            sha256=found.model,
            size=path.stat().st_size,
            description=describe(gguf),
            license=wanted.license or self._license(found) or gguf.text("general.license"),
            source=found.source,
            manifest=manifest,
            layers=layers if manifest else (),
        )
        self.records.add(record)
        return record

    def _keep(self, content: bytes, keep: Any) -> StoredFile:
        sha256 = hashlib.sha256(content).hexdigest()
        keep([sha256])
        if not self.store.blobs.has(sha256, len(content)):
            with self.store.scratch("manifest") as scratch:
                write_atomic(scratch / "manifest", content)
                self.store.blobs.adopt(scratch / "manifest", sha256)
        return StoredFile(sha256, len(content))

    def _license(self, found: _Found) -> str:
        """The first line of the licence that a registry has with a model."""
        if not found.license:
            return ""
        with self.store.blobs.path(found.license).open(encoding="utf-8", errors="replace") as stream:
            lines = (line.strip() for line in stream.read(4096).splitlines())
            line = next((line for line in lines if line), "")
        return "".join(character for character in line if character.isprintable())[:80]

    @contextlib.contextmanager
    def _explained(self, url: str, name: str) -> Iterator[None]:
        """What an address said, as an error of a fetch."""
        try:
            yield
        except Refusal as refusal:
            hint = "check the name, or the address" if refusal.gone else "; ".join(advice([refusal.why]))
            raise FetchError(
                f"the model {name} cannot be had: {refusal.of(url)}",
                hint=hint,
                missing=(name,) if refusal.gone else (),
                unreachable=() if refusal.gone else (name,),
            ) from None


def _need(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ValueError(otherwise)


def _digest(text: Any) -> str:
    match = _DIGEST.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError(f"{text!r} is no sha256")
    return match[1]


def _changed(wanted: Wanted, url: str, sha256: str) -> FetchError:
    return FetchError(
        f"{wanted.name}: the server has another file (sha256 {sha256}) than you named",
        where=redact(url),
        hint="find out which of the two is right before you pull it",
        changed=(wanted.name,),
    )
