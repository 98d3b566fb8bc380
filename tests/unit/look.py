"""Machines and evidence for the tests of what looks at machines, made by hand."""

from __future__ import annotations

from typing import Any

from launcher.engines.open_webui import OLLAMA_API
from launcher.engines.page import Upstream
from launcher.engines.settings import Settings
from launcher.gpu.cards import Card, Nvidia
from launcher.gpu.driver import Driver, LibraryFolder
from launcher.infra.model import Domain, ImageChoice, Infra, Machine, Policy
from launcher.infra.model import Settings as FileSettings
from launcher.inspect.facts import EngineTest, MachineFacts, Pool, ServerFacts
from launcher.observe.instances import InstanceState

CARD = Card(
    "0000:01:00.0",
    "10de",
    driver="nvidia",
    driver_version="550.54.15",
    nvidia=Nvidia("GPU-1", "NVIDIA GeForce RTX 4090", "12.4"),
)
HOST = ServerFacts(
    "/var/lib/incus/unix.socket",
    version="6.0.4",
    pools=(Pool("default", "btrfs", "Created", 100 << 30, 10 << 30),),
    cards=(CARD,),
    memory=(1 << 30, 8 << 30),
    container_tools=True,
    lxc_hook=True,
    driver=Driver("550.54.15", ("550.54.15",), (LibraryFolder("/usr/local/nvidia/lib64"),), uvm=True),
    ranges=("root:1000000:1000000000\n", "root:1000000:1000000000\n"),
    controllers=("cpu", "io", "memory", "pids"),
    filesystems=frozenset({"ext4", "overlay"}),
)


def machine(name: str, domain: str = "ai", host: int = 1, **keys: Any) -> Machine:
    keys.setdefault("image", ImageChoice("debian"))
    return Machine(name, domain, f"10.1.{domain != 'ai':d}.{host}", where="infra.yml:9:5", **keys)


def infra(*machines: Machine, policies: tuple[Policy, ...] = (), disabled: tuple[str, ...] = ()) -> Infra:
    domains = {
        name: Domain(
            name,
            "10.1.0.0/24",
            "10.1.0.254",
            "infra.yml:3:1",
            enabled=name not in disabled,
            machines={one.name: one for one in machines if one.domain == name},
        )
        for name in dict.fromkeys(one.domain for one in machines)
    }
    return Infra("infra.yml", "own", FileSettings(), domains, policies)


def seen(one: Machine, state: str = "running", **keys: Any) -> InstanceState:
    return InstanceState(one, one.domain, one.name, state, **{"addresses": (one.address,)} | keys)


def evidence(one: Machine, *services: str, state: str = "running", given: Any = None, **keys: Any) -> MachineFacts:
    """A machine that offers these services and was given these variables; a running one unless said otherwise."""
    found = keys.pop("seen", None) or seen(one, state)
    settings = Settings(given or {}, {"ollama_host": "0.0.0.0:11434", "ollama_service_enabled": "true"})
    return MachineFacts(found, frozenset(services), settings, one.gpu, **keys)


def engine_test(url: str, *, code: int = 0, status: int = 200, said: str = "") -> EngineTest:
    return EngineTest(Upstream(OLLAMA_API, url), code, status, said)
