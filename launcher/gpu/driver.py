"""NVIDIA's driver as a host has it: the kernel module that runs, and the libraries and programs on its disk.

All is read below one root folder, the daemon's, and links are followed within it. The libraries must be those of the
module that runs, to the last digit: they end in its version (`libcuda.so.550.54.15`). Where distributions have them:
Debian in /usr/lib/<triplet>/nvidia/current, with links through /etc/alternatives, and what all versions could share in
/usr/lib/<triplet>; Ubuntu there; NVIDIA's own installer in /usr/lib64 or /usr/lib; NixOS behind /run/opengl-driver.
"""

from __future__ import annotations

import platform
import re
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from anklume_images.incus.values import pci_address
from launcher.observe.rooted import followed, names_in

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = [
    "CardInformation",
    "Driver",
    "LibraryFolder",
    "borrowed_driver",
    "by_version",
    "read_driver",
    "read_information",
]

_LIBRARIES = ("libcuda.so", "libnvidia-ml.so", "libEGL_nvidia.so")  # those that tell of a driver; the first one counts
_PLACES = (
    "/usr/lib/{triplet}/nvidia/current",
    "/usr/lib/{triplet}",
    "/usr/local/nvidia/lib64",
    "/run/opengl-driver/lib",
    "/usr/lib64",
    "/usr/lib",
)
_BORROWED = ("/usr/local/nvidia/lib64", "/run/opengl-driver/lib")
_PROGRAMS = ("/usr/bin", "/usr/local/nvidia/bin", "/usr/local/bin", "/run/current-system/sw/bin", "/opt/bin")
_CACHE = "/etc/ld.so.cache"
_MODULE = ("/proc/driver/nvidia/version", "/sys/module/nvidia/version")
_CARDS = "/proc/driver/nvidia/gpus"
_UVM = "/dev/nvidia-uvm"
# The cache's strings are paths that end in a zero, in every version of its format (sysdeps/generic/dl-cache.h).
_CACHED = re.compile(rb"(/[^\0]+)/(?:libcuda\.so\.1|libnvidia-ml\.so\.1|libEGL_nvidia\.so\.0)\0")
_VERSION = re.compile(r"\d+(?:\.\d+)+", re.ASCII)
_VERSIONED = re.compile(r"lib.+?\.so\.(\d+(?:\.\d+)+)", re.ASCII)
_LIBC = re.compile(r"libc\.so\.\d+|ld-linux.*\.so\.\d+|ld-musl.*", re.ASCII)
_MACHINES = {"x86_64": 62, "aarch64": 183}  # e_machine of elf(5)
_CLASS64 = 2
_MOST = 1 << 20  # bytes of a file that is read


@dataclass(frozen=True)
class LibraryFolder:
    """A folder with libraries of the driver; one that is `shared` holds a libc too, and much else of the host."""

    path: str
    shared: bool = False


@dataclass(frozen=True)
class Driver:
    """What a host has of NVIDIA's driver.

    `module` is the version of the kernel module that runs, empty where none does. `libraries` are the versions of the
    libraries on disk, the newest first. `folders` are those of the version that counts, the one with libcuda first,
    each by a path that an update leaves as it is, where there is such a path (`pinned` names those without).
    `passed_over` says of other places why nothing of them is used. `smi` is the path of nvidia-smi, empty where there
    is none; `uvm` whether the node by which CUDA gets at memory is there.
    """

    module: str = ""
    libraries: tuple[str, ...] = ()
    folders: tuple[LibraryFolder, ...] = ()
    pinned: tuple[str, ...] = ()
    passed_over: tuple[str, ...] = ()
    smi: str = ""
    uvm: bool = False

    @property
    def version(self) -> str:
        """The version whose libraries count: the running module's, else the newest there is."""
        return self.module if self.module in self.libraries else next(iter(self.libraries), "")


@dataclass(frozen=True)
class CardInformation:
    """What the driver's module says of one card; empty where it does not know yet."""

    pci: str
    uuid: str
    model: str
    node: str


def borrowed_driver(driver: Driver) -> dict[str, str]:
    """Where a private Incus shows its machines the host's driver, each by the host's path: places that are looked at.

    Its root has libraries of its own where most hosts keep the driver's.
    """
    folders = {place: folder.path for place, folder in zip(_BORROWED, driver.folders, strict=False)}
    return folders | ({f"{_PROGRAMS[1]}/nvidia-smi": driver.smi} if driver.smi else {})


def by_version(version: str) -> tuple[int, ...]:
    """A version as numbers, to sort by."""
    return tuple(int(part) for part in version.split(".") if part.isdecimal())


def read_driver(root: Path, machine: str = "") -> Driver:
    """Look for the driver below `root`; `machine` is the kernel's name of the architecture, this host's if empty."""
    machine = machine or platform.machine()
    search = _Search(root, machine)
    search.run(_places(root, machine))
    module = _module(root)
    libraries = tuple(sorted(search.versions, key=by_version, reverse=True))
    version = module if module in libraries else next(iter(libraries), "")
    folders = search.folders(version) if version else []
    return Driver(
        module,
        libraries,
        tuple(folders),
        tuple(folder.path for folder in folders if version in folder.path),
        tuple(search.passed_over),
        _program(root),
        followed(root, _UVM) is not None,
    )


def read_information(root: Path) -> dict[str, CardInformation]:
    """What the module says of its cards, by their PCI address (Documentation of the driver, /proc/driver/nvidia)."""
    cards = {}
    for name in names_in(root, _CARDS):
        lines = (line.partition(":") for line in _text(root, f"{_CARDS}/{name}/information").splitlines())
        told = {key.strip(): value.strip() for key, _, value in lines}
        pci = pci_address(told.get("Bus Location", "")) or pci_address(name)
        if pci is not None:
            uuid, minor = told.get("GPU UUID", ""), told.get("Device Minor", "")
            node = f"nvidia{minor}" if minor.isdecimal() else ""
            cards[pci] = CardInformation(pci, "" if "?" in uuid else uuid, told.get("Model", ""), node)
    return cards


def _module(root: Path) -> str:
    for path in _MODULE:
        # The first line is the module's; the next one has the compiler's version.
        if match := _VERSION.search(_text(root, path).partition("\n")[0]):
            return match[0]
    return ""


def _text(root: Path, path: str) -> str:
    return _bytes(root, path, _MOST).decode(errors="replace")


def _bytes(root: Path, path: str, most: int) -> bytes:
    real = followed(root, path)
    try:
        if real is None or not stat.S_ISREG((root / real.lstrip("/")).stat().st_mode):
            return b""
        with (root / real.lstrip("/")).open("rb") as file:
            return file.read(most)
    except OSError:
        return b""


def _places(root: Path, machine: str) -> Iterator[str]:
    """Folders where libraries of the driver may be: the known ones, then those of the dynamic linker's cache."""
    for place in _PLACES:
        yield place.format(triplet=f"{machine}-linux-gnu")
    for match in _CACHED.finditer(_bytes(root, _CACHE, _MOST)):
        yield match[1].decode(errors="surrogateescape")


def _program(root: Path) -> str:
    for folder in _PROGRAMS:
        path = f"{folder}/nvidia-smi"
        if _bytes(root, path, 1):
            return path
    return ""


class _Search:
    """The folders that were looked at: by their real path, the paths that led there and the libraries in each."""

    def __init__(self, root: Path, machine: str) -> None:
        self._root = root
        self._machine = machine
        self._paths: dict[str, list[str]] = {}
        self._names: dict[str, tuple[str, ...]] = {}
        self.versions: dict[str, None] = {}
        self.passed_over: list[str] = []

    def run(self, places: Iterator[str]) -> None:
        """Look at each place, and where links of the driver's libraries in it lead."""
        todo = list(places)
        for place in todo:  # which grows
            folder = followed(self._root, place)
            if folder is None:
                continue
            self._paths.setdefault(folder, []).append(place)
            if folder not in self._names:
                self._names[folder] = names_in(self._root, folder)
                todo += self._look(place, folder)

    def _look(self, place: str, folder: str) -> Iterator[str]:
        """Note the versions in a folder; gives the folders to which its links lead."""
        for name in self._names[folder]:
            if not name.startswith(_LIBRARIES):
                continue
            end = followed(self._root, f"{folder}/{name}")
            if end is None:
                self.passed_over.append(f"{place}/{name} is a link to nothing")
            elif (parent := end.rpartition("/")[0]) != folder:
                yield parent
            elif end.endswith(f"/{name}") and (match := _VERSIONED.fullmatch(name)):
                if self._fits(end):
                    if name.startswith(_LIBRARIES[0]):
                        self.versions[match[1]] = None
                else:
                    self.passed_over.append(f"{place}/{name} is for another architecture than {self._machine}")

    def folders(self, version: str) -> list[LibraryFolder]:
        """The folders with libraries of that version."""
        found: list[tuple[bool, LibraryFolder]] = []
        for folder, names in self._names.items():
            mine = [name for name in names if (match := _VERSIONED.fullmatch(name)) and match[1] == version]
            if any(self._is_file(f"{folder}/{name}") and self._fits(f"{folder}/{name}") for name in mine):
                shared = any(_LIBC.fullmatch(name) for name in names)
                without = f"{_LIBRARIES[0]}.{version}" not in mine
                found.append((without, LibraryFolder(self._lasting(folder, version), shared)))
        return [folder for _, folder in sorted(found, key=lambda entry: entry[0])]

    def _lasting(self, folder: str, version: str) -> str:
        """A path of a folder that does not name the version, where there is one."""
        return next((path for path in self._paths[folder] if version not in path), folder)

    def _is_file(self, path: str) -> bool:
        return followed(self._root, path) == path

    def _fits(self, path: str) -> bool:
        """Whether a library is for this architecture, by its ELF header: a 32-bit one has the same name."""
        head = _bytes(self._root, path, 20)
        if len(head) < 20 or head[:4] != b"\x7fELF" or head[4] != _CLASS64:
            return False
        return int.from_bytes(head[18:20], "little") == _MACHINES.get(self._machine)
