"""Whether a host can do what a file asks of it: findings from evidence, with nothing looked at here."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal

from anklume_images.console import human_size
from launcher.gpu.cards import describe
from launcher.gpu.vendors.nvidia_driver import driver_troubles
from launcher.inspect.facts import Finding
from launcher.observe.watches import LIMIT, watched_containers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.inspect.facts import Pool, ServerFacts

__all__ = ["host_findings"]

_HOST = "host"
_GIBIBYTE = 1 << 30
_CONTROLLERS = ("cpu", "memory", "pids")
_RANGE = 65536  # ids that one unprivileged container takes


def host_findings(host: ServerFacts, pool: str) -> list[Finding]:
    """What stands in the way; `pool` is the one that the file wants."""
    if host.error:
        return [_unreachable(host), *_kernel(host)]
    return [*_pools(host, pool), *_ranges(host), *_watches(host), *_driver(host), *_kernel(host)]


def _unreachable(host: ServerFacts) -> Finding:
    code = "incus-unreachable"
    cause = "the daemon does not run here, or listens elsewhere"
    if "permission denied" in host.error:
        code, cause = "incus-permission", "this user may not use the daemon's socket"
    elif "not Incus" in host.error:
        code, cause = "incus-too-old", "the server is not one that this program works with"
    elif "certificate" in host.error:
        code, cause = "incus-trust", "server and client do not trust each other's certificates"
    remedy = host.hint or "start it: systemctl start incus"
    return Finding(code, "error", _HOST, "Incus cannot be used", (f"{host.address}: {host.error}",), cause, remedy)


def _pools(host: ServerFacts, name: str) -> Iterator[Finding]:
    pool = next((pool for pool in host.pools if pool.name == name), None)
    if pool is None:
        names = ", ".join(pool.name for pool in host.pools) or "none"
        yield Finding(
            "pool-missing",
            "error",
            _HOST,
            f"there is no storage pool {name}",
            (f"pools: {names}",),
            "the file names a pool that this host does not have",
            f"make it (incus storage create {name} btrfs), or name another in global.storage_pool",
        )
    elif pool.status not in ("", "Created"):
        yield Finding(
            "pool-unavailable",
            "error",
            _HOST,
            f"the storage pool {name} cannot be used",
            (f"its status is {pool.status}",),
            "Incus could not bring it up",
            f"look at incus storage info {name} and at the daemon's log",
        )
    else:
        yield from _space(pool)


def _space(pool: Pool) -> Iterator[Finding]:
    free = pool.total - pool.used
    if pool.total and free < _GIBIBYTE:
        yield Finding(
            "pool-full",
            "error" if free < _GIBIBYTE // 8 else "warning",
            _HOST,
            f"the storage pool {pool.name} is nearly full",
            (f"{human_size(free)} of {human_size(pool.total)} are free",),
            "images, instances and volumes have taken the room",
            "delete what is not needed (incus image list, incus storage volume list), or make the pool larger",
        )


def _ranges(host: ServerFacts) -> Iterator[Finding]:
    for name, text in zip(("/etc/subuid", "/etc/subgid"), host.ranges, strict=True):
        # Without the file Incus takes a range of its own.
        if text is not None and _allotted(text) < _RANGE:
            yield Finding(
                "uid-ranges",
                "error",
                _HOST,
                "root has too few ids for unprivileged containers",
                (f"{name}: {' '.join(text.split()) or 'empty'}",),
                f"containers take {_RANGE} ids that {name} must give to root",
                f"add the line root:1000000:1000000000 to {name} and restart Incus",
            )


def _allotted(text: str) -> int:
    return sum(int(count) for count in re.findall(r"^(?:root|0):\d+:(\d+)$", text, re.MULTILINE))


def _watches(host: ServerFacts) -> Iterator[Finding]:
    if host.watch_limit is not None and host.containers >= watched_containers(host.watch_limit):
        yield Finding(
            "inotify-limit",
            "warning",
            _HOST,
            'another container may end as it starts, with "Too many open files"',
            (f"{LIMIT} = {host.watch_limit}, {host.containers} containers run",),
            "all containers of a host share that limit, and systemd in each takes about ten",
            f"sysctl {LIMIT}=8192; in a file of /etc/sysctl.d it stays",
        )


def _driver(host: ServerFacts) -> Iterator[Finding]:
    """What is wrong with NVIDIA's driver, whichever way machines get it."""
    driver = host.driver
    seen = tuple(
        f"{describe(card)}: driver {card.driver or 'none'} {card.driver_version}".rstrip() for card in host.cards
    )
    if driver is not None:
        libraries = ", ".join(driver.libraries) or "none"
        seen += (f"module {driver.module or 'not loaded'}; libraries: {libraries}", *driver.passed_over)
    for trouble in driver_troubles(host.cards, driver):
        severity: Literal["error", "warning"] = "error" if trouble.fatal else "warning"
        what = "machines cannot compute on the card" if trouble.fatal else "CUDA may not work in machines"
        yield Finding(trouble.code, severity, _HOST, what, seen, trouble.cause, trouble.remedy)


def _kernel(host: ServerFacts) -> Iterator[Finding]:
    if host.controllers is not None:
        missing = [name for name in _CONTROLLERS if name not in host.controllers]
        if missing:
            yield Finding(
                "cgroup-controllers",
                "warning",
                _HOST,
                "limits of CPU and memory do nothing here",
                (f"cgroup v2 has no {', '.join(missing)}",),
                "the kernel has these controllers switched off, or on cgroup v1",
                "start the kernel with systemd.unified_cgroup_hierarchy=1 and without cgroup_disable=",
            )
    if host.filesystems is not None and "overlay" not in host.filesystems:
        yield Finding(
            "no-overlay",
            "warning",
            _HOST,
            "images cannot be built here",
            ("/proc/filesystems has no overlay",),
            "builds work on an overlay file system, and the kernel's module is not loaded",
            "modprobe overlay",
        )
