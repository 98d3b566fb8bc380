"""Large files are quick, and so are those that are made to hurt."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from launcher.infra.host import HostFacts
from launcher.infra.load import Checked, check_infra

if TYPE_CHECKING:
    from pathlib import Path

    from anklume_images.specs.catalog import Catalog

HEAD = "project_name: p\nglobal: {addressing: {}}\n"

LARGE = """
import sys, time
from pathlib import Path
from anklume_images.specs.catalog import Catalog, builtin_specs
from launcher.infra.host import HostFacts
from launcher.infra.load import check_infra
catalog = Catalog.load([builtin_specs()])
start = time.process_time()
checked = check_infra(Path(sys.argv[1]), catalog, host=HostFacts())
assert checked.valid, checked.errors[:3]
machines = len(list(checked.infra.machines()))
# Not ru_maxrss, which has that of the parent before exec in it.
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
print(machines, time.process_time() - start, int(peak.split()[1]) / 1024)
"""


def large(domains: int) -> str:
    """Ten machines a domain, with all that is checked across a file: policies, shares, wiring, GPUs of their own."""
    text = HEAD.replace("{}", "{zone_base: 0}") + "domains:\n"
    levels = ("admin", "trusted", "semi-trusted", "untrusted", "disposable")
    for number in range(domains):
        text += f"  d{number}:\n    description: One of many\n    trust_level: {levels[number % 3]}\n    machines:\n"
        for machine in range(10):
            role = {0: "ollama_server", 1: "open_webui"}.get(machine, "base_system")
            text += f"      d{number}-m{machine}:\n        description: One machine\n        roles: [{role}]\n"
            text += "        config: {limits.cpu: 2, limits.memory: 2GiB}\n        persistent_data: {x: {path: /x}}\n"
            if machine == 0:
                text += f'        gpu: true\n        gpu_devices: [{{pci: "{number:04x}:01:00.0"}}]\n'
    text += "network_policies:\n" + "".join(
        f"  - {{from: d{number}, to: d{(number + 1) % domains}-m0, ports: [11434]}}\n" for number in range(domains)
    )
    consumers = ", ".join(f"d{number}: ro" for number in range(domains))
    return f"{text}shared_volumes:\n  docs: {{consumers: {{{consumers}}}}}\n"


def measured(file: Path, domains: int) -> tuple[float, float]:
    file.write_text(large(domains))
    best, memory = 1e9, 0.0
    for _ in range(2):
        result = subprocess.run([sys.executable, "-c", LARGE, str(file)], capture_output=True, text=True, check=True)
        machines, seconds, mebibytes = result.stdout.split()
        assert int(machines) == 10 * domains
        best, memory = min(best, float(seconds)), float(mebibytes)
    return best, memory


def test_a_thousand_machines_take_little_memory_and_time_in_proportion(tmp_path: Path):
    few, _ = measured(tmp_path / "few.yml", 100)
    many, memory = measured(tmp_path / "many.yml", 300)
    assert memory < 150
    assert many < 6 * few + 0.5, "three times the machines take more than about three times as long"


HURTFUL = {
    "ten megabytes": HEAD + f"domains: {{lab: {{description: {'x' * 10_000_000}}}}}\n",
    "a long value": HEAD + f"domains: {{lab: {{machines: {{web: {{type: {'x' * 3_000_000}}}}}}}}}\n",
    "a long name": HEAD + f"domains: {{lab: {{machines: {{{'x' * 3_000_000}: {{}}}}}}}}\n",
    "many unknown keys": HEAD + "domains: {}\n" + "".join(f"domain_{number}: 1\n" for number in range(20_000)),
    "many unknown ends": HEAD
    + "domains:\n"
    + "".join(f"  d{number}: {{}}\n" for number in range(200))
    + "network_policies:\n"
    + "".join(f"  - {{from: e{number}, to: f{number}}}\n" for number in range(5_000)),
    "many gpus": HEAD
    + "domains:\n"
    + "".join(
        f"  d{number}:\n    machines:\n"
        + "".join(f'      d{number}-{m}: {{gpu_devices: [{{pci: "{number:04x}:{m:02x}:00.0"}}]}}\n' for m in range(90))
        for number in range(40)
    ),
    "many who want the one gpu": HEAD
    + "domains:\n"
    + "".join(
        f"  d{number}:\n    machines: {{{', '.join(f'd{number}-{m}: {{gpu: true}}' for m in range(90))}}}\n"
        for number in range(40)
    ),
    "many ports": HEAD
    + f"domains: {{lab: {{}}}}\nnetwork_policies: [{{from: lab, to: lab, ports: {list(range(1, 65536))}}}]\n",
    "many merges": HEAD
    + "a: &a\n"
    + "".join(f"  k{number}: 1\n" for number in range(50_000))
    + "domains: {lab: {<<: *a}, pro: {<<: *a}}\n",
    "a bomb": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{b}: &{b} [{','.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)),
    "many nodes": "a: [" + "b," * 2_000_000 + "]",
    "braces": "{" * 100_000,
    "brackets": "[" * 100_000,
}


@pytest.mark.parametrize("what", HURTFUL)
def test_what_is_made_to_hurt_is_answered_quickly(tmp_path: Path, catalog: Catalog, what: str):
    file = tmp_path / "infra.yml"
    file.write_text(HURTFUL[what])
    start = time.process_time()
    checked: Checked = check_infra(file, catalog, host=HostFacts())
    assert time.process_time() - start < 8
    assert all(len(str(problem)) < 600 for problem in checked.errors)


def test_a_zone_has_256_domains(tmp_path: Path, catalog: Catalog):
    file = tmp_path / "infra.yml"
    file.write_text(HEAD + "domains:\n" + "".join(f"  d{number:03}: {{}}\n" for number in range(257)))
    checked = check_infra(file, catalog, host=HostFacts())
    assert [(problem.code, problem.path) for problem in checked.errors] == [("zone-full", "domains.d256")]
