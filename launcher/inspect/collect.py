"""Collecting evidence for `doctor`: what Incus says, what the daemon's host shows, what is seen inside machines."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anklume_images.errors import IncusError
from launcher.engines import PAGE
from launcher.engines.probe import names_in
from launcher.gpu.grants import asked
from launcher.gpu.host import read_cards, sysfs_figures
from launcher.gpu.host_files import host_files_of
from launcher.gpu.images import makers, unusable
from launcher.gpu.nvidia_smi import nvidia_smi
from launcher.gpu.preflight import preflight
from launcher.gpu.vendors.nvidia_driver import BOOT_STEP, UNIT, gives_driver
from launcher.infra.names import NIC
from launcher.inspect.cards import QUERY, asks_nvidia_smi, nodes_of, own_cards
from launcher.inspect.facts import CommandResult, EngineTest, MachineFacts, Pool, ServerFacts
from launcher.inspect.guest import NOT_FOUND, Guest
from launcher.inspect.host_filters import read_filters
from launcher.inspect.nodes import read_nodes
from launcher.inspect.services import offered, settings_of, wants_gpu
from launcher.inspect.status import AT_ONCE
from launcher.inspect.vulkan import read_vulkan
from launcher.observe.daemon import daemon_root, watch_limit
from launcher.observe.live import read_leases
from launcher.observe.watches import running_containers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from anklume_images.incus.client import Incus, Result
    from launcher.engines.engine import Engine, Loaded
    from launcher.engines.settings import Settings
    from launcher.gpu.cards import Card
    from launcher.gpu.host_files import HostFiles
    from launcher.gpu.images import Gpus
    from launcher.gpu.nvidia_smi import Figures
    from launcher.infra.model import Infra
    from launcher.inspect.images import ImageLookup
    from launcher.observe.instances import InstanceState
    from launcher.observe.live import Lease

__all__ = ["machine_facts", "server_facts", "unreachable"]

_CONNECT_SECONDS = 3  # for a list of models, from a neighbour


def unreachable(error: IncusError) -> ServerFacts:
    """What is left to see when Incus cannot be used: this machine's own kernel."""
    return ServerFacts(
        error.where or "",
        error.message,
        error.hint or "",
        controllers=_controllers(Path("/")),
        filesystems=_filesystems(),
    )


def server_facts(incus: Incus) -> ServerFacts:
    """The host of the daemon; its files are looked at when it is reached over a socket."""
    resources = incus.resources()
    memory = resources.get("memory") or {}
    root = daemon_root(incus.address)
    files = host_files_of(incus)
    instances = incus.instances()
    return ServerFacts(
        incus.address,
        version=incus.server.version,
        pools=tuple(_pool(incus, pool) for pool in incus.within(None).list_objects("pool")),
        cards=read_cards(incus),
        memory=(int(memory.get("used") or 0), int(memory.get("total") or 0)),
        container_tools=None if files is None else files.container_tool,
        lxc_hook=None if files is None else files.lxc_hook,
        driver=None if files is None else files.driver,
        ranges=(None, None) if root is None else (_text(root / "etc/subuid"), _text(root / "etc/subgid")),
        controllers=None if root is None else _controllers(root),
        filesystems=_filesystems(),
        filters=read_filters(root),
        containers=len(running_containers(instances)),
        watch_limit=watch_limit(root),
    )


def _pool(incus: Incus, pool: dict[str, Any]) -> Pool:
    space: dict[str, Any] = {}
    with contextlib.suppress(IncusError):  # of a pool that is not there, Incus tells none
        space = incus.pool_space(pool["name"])
    total, used = int(space.get("total") or 0), int(space.get("used") or 0)
    return Pool(pool["name"], pool["driver"], pool.get("status", ""), total, used)


def _text(path: Path) -> str | None:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return path.read_text("utf-8", errors="replace")
    return None


def _controllers(root: Path) -> tuple[str, ...] | None:
    text = _text(root / "sys/fs/cgroup/cgroup.controllers")
    return None if text is None else tuple(text.split())


def _filesystems() -> frozenset[str] | None:
    text = _text(Path("/proc/filesystems"))
    return None if text is None else frozenset(line.split()[-1] for line in text.splitlines() if line.strip())


def machine_facts(
    incus: Incus, infra: Infra, instances: Iterable[InstanceState], book: ImageLookup, cards: Sequence[Card]
) -> list[MachineFacts]:
    """What is seen of these machines, in parallel; `cards` are the host's."""
    host = host_files_of(incus)
    figures = sysfs_figures(incus, cards)

    def collected(seen: InstanceState) -> MachineFacts:
        facts = book.facts(seen)
        entry = MachineFacts(seen, offered(seen, facts), settings_of(seen, facts), wants_gpu(seen))
        if entry.wants_gpu:
            entry = _granted(entry, infra, cards, host, book)
        if not seen.running:
            return entry
        inside = Guest(incus, seen)
        if entry.wants_gpu:
            entry = _with_cards(entry, inside, cards, figures, facts.gpus)
        return _from_inside(entry, incus, inside)

    with ThreadPoolExecutor(AT_ONCE, "doctor") as pool:
        return list(pool.map(collected, instances))


def _granted(
    entry: MachineFacts, infra: Infra, cards: Sequence[Card], host: HostFiles | None, book: ImageLookup
) -> MachineFacts:
    """What the file gives the machine of the host's cards, and what is in the way of it."""
    machine = entry.seen.machine
    domain = infra.domains[machine.domain]
    grants, refusals = asked(machine, domain, cards)
    granted = tuple(grant.card for grant in grants)
    facts = book.facts(entry.seen)
    strange = unusable(facts.gpus, granted)
    own = (entry.seen.image or machine.image.ref).partition("@")[0]
    able = book.computing_on(makers(strange or granted), facts.provides) if granted else ()
    return replace(
        entry,
        granted=granted,
        refusals=refusals,
        obstacles=preflight(machine, domain, grants, host, facts.gpus),
        unusable=strange,
        able_images=tuple(name for name in able if name != own),
    )


def _with_cards(
    entry: MachineFacts, inside: Guest, cards: Sequence[Card], figures: Mapping[str, Figures], gpus: Gpus
) -> MachineFacts:
    """How the machine's own cards look from inside; `figures` are of those that tell their memory on the host."""
    own = own_cards(entry.seen, cards, entry.granted)
    smi = inside.run(*QUERY) if asks_nvidia_smi(entry.seen, own) else None
    told = nvidia_smi(smi.stdout.decode(errors="replace")) if smi is not None and smi.code == 0 else ()
    others = [card for card in own if not card.is_nvidia and entry.seen.gpus and entry.seen.machine.type == "lxc"]
    nodes = dict.fromkeys(node for card in others for node in nodes_of(card, gpus))
    return replace(
        entry,
        nvidia_smi=None if smi is None else CommandResult(smi.code, _said(smi)),
        nodes=read_nodes(inside, entry.engine.unit if entry.engine else "", nodes),
        boot_step=_boot_step(inside) if any(map(gives_driver, entry.seen.devices.values())) else None,
        cards=(*told, *(figures[card.pci] for card in own if card.pci in figures)),
        vulkan=read_vulkan(inside, entry.engine.unit) if entry.engine else (),
    )


def _from_inside(entry: MachineFacts, incus: Incus, inside: Guest) -> MachineFacts:
    """What its services say."""
    seen, settings, engine = entry.seen, entry.settings, entry.engine
    page = PAGE.role in entry.services
    return replace(
        entry,
        journal=inside.journal(engine.unit, *engine.journal.patterns) if engine else (),
        pulling=_pulling(inside, engine, settings) if engine else (),
        loaded=loaded_models(inside, engine, settings) if engine else (),
        listening=_listening(inside) if engine else (),
        tests=_tests(inside, settings) if page else (),
        no_administrator=PAGE.missing_administrator(inside, settings) if page else None,
        leases=() if seen.has_address else _leases(incus, seen),
    )


def _pulling(inside: Guest, engine: Engine, settings: Settings) -> tuple[str, ...]:
    """What it says of models that it wants and cannot get; one that was brought meanwhile it has."""
    pulls = engine.from_store.pulls if engine.from_store else None
    lines = inside.journal(pulls.unit, pulls.failed) if pulls else ()
    if not pulls or not lines:
        return ()
    chat = engine.chat
    answer = inside.request(f"{engine.own_url(settings)}{chat.models_path}")
    there = {chat.short(name) for name in names_in(answer, chat.listed, chat.named) or ()}
    found = ((line, pulls.failed.search(line)) for line in lines)
    return tuple(line for line, failed in found if failed and chat.short(failed[1]) not in there)


def _boot_step(inside: Guest) -> CommandResult:
    """What the image's boot step said of the host's driver, if the image has one."""
    if inside.run("test", "-x", BOOT_STEP).code:
        return CommandResult(NOT_FOUND, f"the image has no {BOOT_STEP}")
    words = ("--boot", "--unit", UNIT, "--identifier", UNIT, "--lines", "3", "--output", "cat", "--no-pager", "--quiet")
    return CommandResult(0, _said(inside.run("journalctl", *words)))


def _leases(incus: Incus, seen: InstanceState) -> tuple[Lease, ...]:
    """The leases for the machine's address, and those that its network device has."""
    nic = seen.devices.get(NIC) or {}
    hardware = nic.get("hwaddr") or seen.config.get(f"volatile.{NIC}.hwaddr")
    leases = read_leases(incus, nic["network"], seen.project) if "network" in nic else ()
    return tuple(lease for lease in leases if lease.address == seen.machine.fixed_address or lease.hardware == hardware)


def _said(result: Result) -> str:
    return " ".join((result.stderr or result.stdout).decode(errors="replace").split())[:300]


def loaded_models(inside: Guest, engine: Engine, settings: Settings) -> tuple[Loaded, ...]:
    """The models that an engine holds in memory; none where it does not tell."""
    if not engine.loaded_path:
        return ()
    answer = inside.request(f"{engine.own_url(settings)}{engine.loaded_path}")
    return engine.loaded(answer.json()) if answer.ok else ()


def _listening(inside: Guest) -> tuple[str, ...]:
    """Local addresses of listening TCP sockets: `127.0.0.1:11434`, `*:8080`."""
    lines = inside.run("ss", "--no-header", "--listening", "--tcp", "--numeric").stdout.decode(errors="replace")
    columns = [line.split() for line in lines.splitlines()]
    return tuple(sorted({words[3] for words in columns if len(words) >= 4}))


def _tests(inside: Guest, settings: Settings) -> tuple[EngineTest, ...]:
    tests = []
    for upstream in PAGE.upstreams(settings):
        answer = inside.request(upstream.probe, bearer=upstream.key, seconds=_CONNECT_SECONDS)
        tests.append(EngineTest(upstream, answer.code, answer.status, answer.said()))
    return tuple(tests)
