"""One image: from spec, lock and base to a recipe (pure), and from a recipe to an image in the store (sealed build)."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from anklume_images.builder.pack import installed_packages, pack_metadata, unpacked_size
from anklume_images.builder.recipe import make_recipe, recipe_digest, version_of
from anklume_images.builder.rootfs import Plan, Unpack, build_rootfs, memory_needed
from anklume_images.builder.sandbox import BuildEnvironment
from anklume_images.errors import BuildError, StoreError
from anklume_images.evidence.contents import contents_of
from anklume_images.evidence.provenance import make_provenance
from anklume_images.evidence.sbom import digests_of, make_sbom
from anklume_images.inputs.from_host import host_package
from anklume_images.store.blobs import hash_file
from anklume_images.store.images import SPEC_KEYS, Image, Package, StoredFile, fingerprint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import Any

    from anklume_images.builder.trees import Tree
    from anklume_images.inputs.lockfile import Lock
    from anklume_images.specs.model import Spec
    from anklume_images.store.images import Images
    from anklume_images.store.store import Lease, Store

__all__ = ["Built", "Prepared", "build_image", "built_files", "prepare"]


@dataclass(frozen=True)
class Prepared:
    """An image that could be built: everything decided, nothing done."""

    spec: Spec
    chain: tuple[Spec, ...]
    lock: Lock
    definition: str
    recipe: dict[str, Any]
    digest: str
    version: str
    epoch: int
    base: Prepared | None

    @property
    def name(self) -> str:
        """The image's name."""
        return self.spec.name

    @property
    def architecture(self) -> str:
        """Debian's name of its architecture."""
        return self.lock.architecture

    def lineage(self) -> Iterator[Prepared]:
        """This image and its bases, the root last."""
        yield self
        if self.base:
            yield from self.base.lineage()


@dataclass(frozen=True)
class Built:
    """The files of a build before they are blobs."""

    metadata: Path
    rootfs: Path
    status: Path
    listing: Path


def prepare(
    chain: tuple[Spec, ...],
    lock: Lock,
    base: Prepared | None,
    toolchain: str,
    partials: tuple[Path, ...],
) -> Prepared:
    """Decide everything about a build; pure but for reading the templates."""
    from anklume_images.specs.render import render

    spec = chain[-1]
    epoch = max(lock.epoch, base.epoch) if base else lock.epoch
    definition = render(chain, lock.architecture, epoch, partials)
    document = spec.document() | {"archives": {}}  # where inputs are had from is no part of what they are
    recipe = make_recipe(
        lock=lock,
        spec=json.loads(json.dumps(document)),
        definition=definition,
        toolchain=toolchain,
        base=base.digest if base else None,
        epoch=epoch,
    )
    return Prepared(spec, chain, lock, definition, recipe, recipe_digest(recipe), version_of(recipe), epoch, base)


def plan_of(prepared: Prepared, images: Images, store: Store, memory: int) -> Plan:
    """The run of distrobuilder that makes a prepared image; its base must be in the store."""
    base = None
    if prepared.base:
        image = images.get(prepared.base.name, prepared.base.version, prepared.architecture)
        if image is None or not store.blobs.verify(image.rootfs.sha256):
            raise StoreError(
                f"the base {prepared.base.name}@{prepared.base.version} is not in the store, or damaged",
                hint=f"anklume-images verify --repair; anklume-images build {prepared.base.name}",
            )
        base = store.blobs.path(image.rootfs.sha256)
    digests = {file.name: file.sha256 for file in prepared.lock.files}
    unpack = tuple(
        Unpack(item.name, digests[item.name], item.unpack.to, item.unpack.exclude)
        for item in prepared.spec.release_files
        if item.unpack
    )
    plan = Plan(
        prepared.name,
        prepared.definition,
        str(prepared.spec.release),
        prepared.lock,
        prepared.epoch,
        base,
        unpack,
        from_host=host_package(prepared.spec),
    )
    needed = memory_needed(plan, _unpacked(prepared.base, images), store.blobs)
    return Plan(**{**vars(plan), "memory": needed if needed <= memory else 0})


def _unpacked(base: Prepared | None, images: Images) -> int:
    image = images.get(base.name, base.version, base.architecture) if base else None
    return image.unpacked if image else 0


def built_files(
    prepared: Prepared,
    plan: Plan,
    tree: Tree,
    store: Store,
    scratch: Path,
    log: Path,
    around: BuildEnvironment,
    keep: Path | None,
) -> Built:
    """Run the sealed build and pack it; nothing is added to the store."""
    _verify_inputs(prepared, store)
    rootfs = build_rootfs(plan, tree.root, store.blobs, scratch, log, around, keep)
    _verify_packages(prepared, installed_packages(rootfs.status), log)
    metadata = pack_metadata(
        rootfs.metadata, _properties(prepared), prepared.architecture, prepared.epoch, tree.root, scratch, log
    )
    return Built(metadata, rootfs.squashfs, rootfs.status, rootfs.listing)


def build_image(
    prepared: Prepared,
    images: Images,
    store: Store,
    tree: Tree,
    memory: int,
    lease: Lease,
    wait: Callable[[], None],
) -> Image:
    """Build an image and add it to the store, unless it is there; one process builds a recipe, others wait for it.

    `lease` keeps what the build needs and what comes of it; `wait` is called between two looks at the lock that
    another process holds, and may raise.
    """
    with _only_one(store.home / "building" / prepared.digest, wait):
        kept = f"failed/{prepared.name}"
        lease.add([kept, *(entry.sha256 for link in prepared.lineage() for entry in link.lock)])
        existing = images.present(prepared.name, prepared.version, prepared.architecture)
        if existing:
            lease.add(existing.blobs())
            if images.present(prepared.name, prepared.version, prepared.architecture):  # gc came no earlier
                return existing
        log = _log_path(store, prepared.name)
        keep = _fresh(store.home / kept)
        with store.scratch(prepared.name) as scratch:
            plan = plan_of(prepared, images, store, memory)
            built = built_files(prepared, plan, tree, store, scratch, log, BuildEnvironment(), keep)
            image = _image(prepared, built, tree)
            lease.add(image.blobs())
            store.blobs.adopt(built.metadata, image.metadata.sha256)
            store.blobs.adopt(built.rootfs, image.rootfs.sha256)
            images.add(image, _documents(prepared, image, store))
        with contextlib.suppress(OSError):  # another recipe of that name may have failed meanwhile
            keep.rmdir()
        return image


def _documents(prepared: Prepared, image: Image, store: Store) -> dict[str, bytes]:
    """What lies beside the manifest; it follows from the recipe, and so is the same however often it is made."""
    digests = digests_of(entry for link in prepared.lineage() for entry in link.lock)
    lock = asdict(prepared.lock)
    return {
        "recipe.json": json.dumps(prepared.recipe, sort_keys=True, indent=1).encode() + b"\n",
        "lock.json": json.dumps(lock, sort_keys=True, indent=1).encode() + b"\n",
        "sbom.cdx.json": make_sbom(image, digests, contents_of(store, image)),
        "provenance.slsa.json": make_provenance(image, prepared.recipe, lock),
    }


@contextlib.contextmanager
def _only_one(path: Path, wait: Callable[[], None]) -> Iterator[None]:
    """Hold the lock at `path`; gc removes such a file when nobody holds it."""
    path.parent.mkdir(exist_ok=True)
    while True:
        with path.open("w", encoding="utf-8") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                wait()
                continue
            if not (path.exists() and os.path.samestat(path.stat(), os.fstat(stream.fileno()))):
                continue
            yield
            return


def _fresh(folder: Path) -> Path:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _log_path(store: Store, name: str) -> Path:
    folder = store.home / "logs" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{os.getpid()}.log"


def _verify_inputs(prepared: Prepared, store: Store) -> None:
    from concurrent.futures import ThreadPoolExecutor

    entries = list(prepared.lock)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        sound = list(pool.map(store.blobs.verify, (entry.sha256 for entry in entries)))
    for entry, is_sound in zip(entries, sound, strict=True):
        if not is_sound:
            state = "damaged" if store.blobs.has(entry.sha256) else "missing"
            raise StoreError(
                f"{prepared.name}: the input {entry.path} is {state} in the store",
                where=str(store.blobs.path(entry.sha256)),
                hint=f"anklume-images fetch --rebuild {prepared.name} (`verify --repair` removes damaged blobs first)",
            )


def _verify_packages(prepared: Prepared, installed: dict[str, str], log: Path) -> None:
    """What dpkg says is installed must be what the locks name, no more and no less, and what stands for the host's."""
    expected: dict[str, str] = {}
    for link in reversed(list(prepared.lineage())):
        expected |= {deb.package: deb.version for deb in link.lock.debs}
        if package := host_package(link.spec):
            expected[package.name] = package.version
    wrong = sorted(set(expected.items()) ^ set(installed.items()))
    if wrong:
        names = ", ".join(sorted({name for name, _ in wrong})[:8])
        raise BuildError(
            f"{prepared.name}: what is installed differs from the lock: {names}",
            step="compare with the lock",
            tail=[f"{name}: locked {expected.get(name)}, installed {installed.get(name)}" for name, _ in wrong[:20]],
            log=str(log),
            hint=f"anklume-images lock {prepared.name}",
        )


def _properties(prepared: Prepared) -> dict[str, str]:
    """The properties of the image in Incus; the first ones are those that Incus' own images have."""
    spec = prepared.spec
    return {
        "architecture": prepared.architecture,
        "description": f"{spec.description} ({prepared.version})",
        "name": f"{spec.name}-{prepared.version}",
        "os": str(spec.distribution).capitalize(),
        "release": str(spec.release),
        "serial": prepared.version,
        "variant": spec.variant or "default",
        "anklume.name": spec.name,
        "anklume.version": prepared.version,
        "anklume.recipe": prepared.digest,
    }


def _image(prepared: Prepared, built: Built, tree: Tree) -> Image:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor() as pool:
        whole, rootfs = pool.submit(fingerprint, built.metadata, built.rootfs), pool.submit(hash_file, built.rootfs)
    debs = installed_packages(built.status)
    packages = [Package("deb", name, version) for name, version in debs.items()]
    for link in prepared.lineage():
        packages += [Package("wheel", wheel.package, wheel.version) for wheel in link.lock.wheels if not wheel.tool]
        packages += [Package("file", file.name, file.path) for file in link.lock.files]
        if stand_in := host_package(link.spec):
            packages.remove(Package("deb", stand_in.name, stand_in.version))
            packages += [Package("host", name, version) for name, version in stand_in.provides.items()]
    spec = prepared.recipe["spec"]
    specs = [link.recipe["spec"] for link in prepared.lineage()]
    merged = {key: spec[key] for key in SPEC_KEYS if key in spec}
    merged["provides"] = list(dict.fromkeys(role for each in specs for role in each["provides"]))
    merged |= next(({"gpus": each["gpus"]} for each in specs if "gpus" in each), {})
    merged["variables"] = {k: v for each in reversed(specs) for k, v in each["variables"].items()}
    return Image(
        name=prepared.name,
        version=prepared.version,
        architecture=prepared.architecture,
        recipe=prepared.digest,
        fingerprint=whole.result(),
        metadata=StoredFile(hash_file(built.metadata), built.metadata.stat().st_size),
        rootfs=StoredFile(rootfs.result(), built.rootfs.stat().st_size),
        unpacked=unpacked_size(built.listing),
        epoch=prepared.epoch,
        description=prepared.spec.description,
        toolchain=tree.digest,
        base={"name": prepared.base.name, "version": prepared.base.version} if prepared.base else None,
        packages=tuple(sorted(packages, key=lambda package: (package.kind, package.name))),
        properties=_properties(prepared),
        spec=merged,
    )
