"""What `doctor` says of a host, by evidence."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import launcher
from anklume_images.errors import IncusError
from launcher.gpu.driver import Driver
from launcher.inspect.collect import unreachable
from launcher.inspect.doctor import Report, as_json, as_text, examine_host
from launcher.inspect.facts import Finding, Pool
from launcher.inspect.preflight import host_findings
from tests.unit.look import CARD, HOST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.inspect.facts import ServerFacts

GIB = 1 << 30


def pool(free: int, status: str = "Created") -> tuple[Pool, ...]:
    return (Pool("default", "btrfs", status, 100 * GIB, 100 * GIB - free),)


def test_a_host_that_is_fine_has_no_findings() -> None:
    assert host_findings(HOST, "default") == []


@pytest.mark.parametrize(
    ("change", "code", "severity", "seen"),
    [
        ({"pools": ()}, "pool-missing", "error", "pools: none"),
        ({"pools": (Pool("other", "dir", "Created"),)}, "pool-missing", "error", "pools: other"),
        ({"pools": pool(50 * GIB, "Unavailable")}, "pool-unavailable", "error", "its status is Unavailable"),
        ({"pools": pool(GIB // 2)}, "pool-full", "warning", "512.0 MiB of 100.0 GiB are free"),
        ({"pools": pool(GIB // 16)}, "pool-full", "error", "64.0 MiB of 100.0 GiB are free"),
        ({"ranges": ("root:1000000:65535\n", None)}, "uid-ranges", "error", "/etc/subuid: root:1000000:65535"),
        ({"ranges": (None, "user:1:65536\n")}, "uid-ranges", "error", "/etc/subgid: user:1:65536"),
        ({"ranges": ("", None)}, "uid-ranges", "error", "/etc/subuid: empty"),
        ({"controllers": ("cpu", "io")}, "cgroup-controllers", "warning", "cgroup v2 has no memory, pids"),
        ({"filesystems": frozenset({"ext4"})}, "no-overlay", "warning", "/proc/filesystems has no overlay"),
        (
            {"containers": 11, "watch_limit": 128},
            "inotify-limit",
            "warning",
            "fs.inotify.max_user_instances = 128, 11 containers run",
        ),
    ],
)
def test_what_is_wrong_with_a_host(change: dict[str, Any], code: str, severity: str, seen: str) -> None:
    (finding,) = host_findings(replace(HOST, **change), "default")
    assert (finding.code, finding.severity, finding.subject) == (code, severity, "host")
    assert finding.evidence == (seen,)
    assert finding.cause
    assert finding.remedy


@pytest.mark.parametrize(
    "change",
    [
        {"ranges": (None, None)},  # Incus takes a range of its own
        {"ranges": ("root:1:30000\nroot:50000:40000\n", "0:100000:65536\n")},
        {
            "controllers": None,
            "filesystems": None,
            "container_tools": None,
            "lxc_hook": None,
            "driver": None,
        },  # a remote
        {"driver": Driver("550.54.15", ("560.35.03", "550.54.15"), uvm=True)},
        {"driver": Driver("550.54.15", uvm=True)},  # `nvidia.runtime` may find the libraries where we do not
        {"cards": (), "driver": Driver()},
        {"pools": (Pool("default", "dir", "Created"),)},  # Incus tells no sizes
        {"pools": pool(2 * GIB)},
        {"containers": 10, "watch_limit": 128},
        {"containers": 500, "watch_limit": None},  # a remote
    ],
)
def test_what_is_not_wrong_with_a_host(change: dict[str, Any]) -> None:
    assert host_findings(replace(HOST, **change), "default") == []


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("no Incus daemon listens here", "incus-unreachable"),
        ("permission denied", "incus-permission"),
        ("this is incus 5.21, not Incus 6.0 or newer", "incus-too-old"),
        ("the server does not know this client's certificate", "incus-trust"),
    ],
)
def test_an_incus_that_cannot_be_used(message: str, code: str) -> None:
    host: ServerFacts = unreachable(IncusError(message, where="/run/incus/unix.socket", hint="do this"))
    report = examine_host(host)
    first = report.findings[0]
    assert (first.code, first.severity, first.remedy) == (code, "error", "do this")
    assert first.evidence == (f"/run/incus/unix.socket: {message}",)
    assert not report.ok


FINDING = Finding("some-code", "error", "brain", "something is wrong", ("line 1", "line 2"), "because", "do that")


def test_a_report_for_people() -> None:
    text = as_text(Report(("Incus 6.0.4 at /socket",), (FINDING,)))
    assert text.splitlines() == [
        "looked at  Incus 6.0.4 at /socket",
        "",
        "error: brain: something is wrong [some-code]",
        "  seen    line 1",
        "  seen    line 2",
        "  cause   because",
        "  remedy  do that",
        "",
        "1 error, 0 warnings",
    ]
    assert as_text(Report((), ())).endswith("no trouble found")


def test_a_report_for_programs() -> None:
    warning = replace(FINDING, severity="warning")
    assert as_json(Report(("a",), (warning,))) == {
        "ok": True,
        "looked_at": ["a"],
        "findings": [
            {
                "code": "some-code",
                "severity": "warning",
                "subject": "brain",
                "what": "something is wrong",
                "evidence": ["line 1", "line 2"],
                "cause": "because",
                "remedy": "do that",
            }
        ],
    }


@pytest.mark.parametrize(
    ("change", "code", "severity", "seen"),
    [
        ({"driver": Driver("550.54.15", ("560.35.03",), uvm=True)}, "driver-not-reloaded", "error", "560.35.03"),
        ({"driver": Driver("550.54.15", ("535.183.01",), uvm=True)}, "driver-mismatch", "error", "535.183.01"),
        ({"driver": Driver("550.54.15", ("550.54.15",))}, "uvm-missing", "warning", "module 550.54.15"),
        ({"cards": (replace(CARD, driver_version="470.256.02"),)}, "driver-old", "error", "driver nvidia 470.256.02"),
        ({"cards": (replace(CARD, driver="nouveau", nvidia=None),)}, "driver-missing", "error", "driver nouveau"),
        (
            {"cards": (replace(CARD, driver="", nvidia=None),), "driver": Driver()},
            "driver-missing",
            "error",
            "not loaded",
        ),
    ],
)
def test_what_is_wrong_with_the_driver(change: dict[str, Any], code: str, severity: str, seen: str) -> None:
    twice = {"cards": (*change.get("cards", HOST.cards), *change.get("cards", HOST.cards))}
    (finding,) = host_findings(replace(HOST, **(change | twice)), "default")
    assert (finding.code, finding.severity, finding.subject) == (code, severity, "host")
    assert any(seen in line for line in finding.evidence)
    assert finding.cause
    assert finding.remedy


def test_what_was_looked_at_is_said() -> None:
    lines = examine_host(HOST).looked_at
    assert "pool default: btrfs, Created, 90.0 GiB of 100.0 GiB free" in lines
    assert "memory: 7.0 GiB of 8.0 GiB free" in lines
    assert "card 0000:01:00.0: NVIDIA GeForce RTX 4090, driver nvidia 550.54.15" in lines
    assert "NVIDIA's driver: module 550.54.15, libraries 550.54.15 in /usr/local/nvidia/lib64" in lines
    assert "nvidia-container-cli: there, LXC hook: there" in lines
    without = examine_host(replace(HOST, container_tools=False, lxc_hook=False)).looked_at
    assert not any("nvidia-container-cli" in line for line in without)  # nobody needs it
    nothing = examine_host(replace(HOST, container_tools=False, lxc_hook=False, driver=Driver("550.54.15"))).looked_at
    assert "nvidia-container-cli: missing, LXC hook: missing" in nothing
    remote = examine_host(replace(HOST, container_tools=None, driver=None)).looked_at
    assert "the host's own files: out of reach from here, not looked at" in remote


def nodes(*modules: str) -> Iterator[ast.AST]:
    for module in modules:
        yield from ast.walk(ast.parse((Path(launcher.__file__).parent / f"{module}.py").read_text("utf-8")))


def test_the_page_has_every_code() -> None:
    judges = [
        f"inspect/{name}"
        for name in ("preflight", "findings", "connections", "administrator", "network", "firewall", "vulkan", "models")
    ]
    words = [node.value for node in nodes(*judges) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    used = {word for word in words if re.fullmatch(r"[a-z]+(-[a-z]+)+", word)}
    diagnoses = [
        node.args[0]
        for node in nodes(
            *(f"gpu/vendors/{file.stem}" for file in Path(launcher.__file__).parent.glob("gpu/vendors/*.py"))
        )
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Diagnosis"
    ]
    used |= {str(code.value) for code in diagnoses if isinstance(code, ast.Constant)}
    used |= {
        node.value.value
        for node in nodes("gpu/vendors/nvidia_driver")
        if isinstance(node, ast.keyword) and node.arg == "code" and isinstance(node.value, ast.Constant)
    }
    assert {"pool-full", "out-of-vram", "webui-cannot-reach-engine"} <= used
    table = (Path(launcher.__file__).parents[1] / "docs/how-to/troubles.md").read_text().split("## All codes")[1]
    cells = "".join(line.split("|")[1] for line in table.splitlines() if line.startswith("| `"))
    assert {code for code in re.findall(r"`([^`]+)`", cells) if not code.startswith("gpu-") or code in used} == used
