"""The Vulkan drivers that a machine names, and those of them that are not there.

The loader looks for files of JSON that each name a library: VK_DRIVER_FILES (before it VK_ICD_FILENAMES) says which,
else they are in icd.d of its folders: docs/LoaderDriverInterface.md of https://github.com/KhronosGroup/Vulkan-Loader.
It says nothing of a library that it cannot load, unless VK_LOADER_DEBUG is set.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from launcher.gpu.vendors.nvidia_driver import NO_VULKAN
from launcher.gpu.vendors.vendor import Diagnosis

if TYPE_CHECKING:
    from collections.abc import Sequence

    from launcher.engines.probe import GuestLike
    from launcher.inspect.facts import CommandResult

__all__ = ["CODE", "VulkanDriver", "read_vulkan", "vulkan_trouble"]

CODE = "vulkan-driver-missing"
_FOLDERS = ("/etc/vulkan/icd.d", "/usr/local/share/vulkan/icd.d", "/usr/share/vulkan/icd.d")
_VARIABLES = ("VK_DRIVER_FILES", "VK_ICD_FILENAMES")
_NAMED = re.compile(r'(/[^:\n]+\.json):"library_path"\s*:\s*"([^"]+)"')


_NONE = Diagnosis(
    CODE,
    "the host's driver came without libEGL_nvidia, by which Vulkan gets at the card",
    "install it on the host (Debian: libegl-nvidia0; Ubuntu: libnvidia-gl-<version>), then restart the machine",
)


@dataclass(frozen=True)
class VulkanDriver:
    """A file that names a driver's library. `library` is empty where the file is not there or names none.

    `there` is whether the library is; `variable` the one that names the file, where one does.
    """

    file: str
    library: str
    there: bool
    variable: str = ""


def read_vulkan(inside: GuestLike, unit: str) -> tuple[VulkanDriver, ...]:
    """The drivers that are named to the service `unit` of a machine."""
    files, variable = _files(inside, unit)
    if not files:
        return ()
    shown = inside.run("grep", "-oHE", r'"library_path"\s*:\s*"[^"]+"', *files).stdout.decode(errors="replace")
    named = dict(_NAMED.findall(shown))
    cached = inside.run("/sbin/ldconfig", "-p").stdout.decode(errors="replace")
    known = {line.split()[0] for line in cached.splitlines() if " => " in line}
    return tuple(VulkanDriver(file, *_library(inside, file, named.get(file, ""), known), variable) for file in files)


def _files(inside: GuestLike, unit: str) -> tuple[list[str], str]:
    """The files, and the variable that names them if one does."""
    told = inside.run("systemctl", "show", unit, "--property", "Environment", "--value").stdout.decode(errors="replace")
    given = dict(word.split("=", 1) for word in told.split() if "=" in word)
    for variable in _VARIABLES:
        if paths := [path for path in given.get(variable, "").strip('"').split(":") if path]:
            return paths, variable
    found = inside.run("find", *_FOLDERS, "-name", "*.json").stdout.decode(errors="replace")
    return sorted(found.splitlines()), ""


def _library(inside: GuestLike, file: str, library: str, known: set[str]) -> tuple[str, bool]:
    """The library as a path where it is one, and whether it is there; a name alone is the linker's to find."""
    if "/" not in library:
        return library, library in known
    path = library if library.startswith("/") else f"{file.rpartition('/')[0]}/{library}"
    return path, inside.run("test", "-e", path).code == 0


def vulkan_trouble(
    drivers: Sequence[VulkanDriver], boot_step: CommandResult | None = None
) -> tuple[Diagnosis, tuple[str, ...]] | None:
    """What is wrong with them, and what shows it; `boot_step` is what linked the host's driver, where one did."""
    if not drivers and boot_step is not None and NO_VULKAN in boot_step.text:
        return _NONE, (f"the boot step: {boot_step.text}",)
    missing = [driver for driver in drivers if not driver.there]
    if not missing:
        return None
    first, usable = missing[0], [driver.file for driver in drivers if driver.there]
    seen = tuple(f"{driver.file}: {driver.library or 'no library'}, which is not there" for driver in missing)
    cause = f"{first.file} names {first.library}, and that is not in the machine, so Vulkan finds no card by it"
    if not first.library:
        cause = f"{first.file} is not there, or names no library, so Vulkan finds no card by it"
    remedy = "correct or remove that file"
    if boot_step is not None:
        remedy = f"restart the machine, which links the host's driver anew; if it comes again, {remedy}"
    if first.variable:
        remedy = f"take {first.variable} out of the service's environment, or let it name a driver that is there"
    if first.variable and usable:
        remedy += f" (such as {usable[0]})"
    return Diagnosis(CODE, cause, remedy), seen
