"""What `doctor` looks at, collected and frozen: the host, and each machine from inside."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from launcher.engines import engines_of

if TYPE_CHECKING:
    from launcher.engines.engine import Engine, Loaded
    from launcher.engines.page import NoAdministrator, Upstream
    from launcher.engines.settings import Settings
    from launcher.gpu.cards import Card
    from launcher.gpu.driver import Driver
    from launcher.gpu.nvidia_smi import Figures
    from launcher.gpu.preflight import Obstacle
    from launcher.gpu_policy.refusals import Refusal
    from launcher.inspect.nodes import NodeTest
    from launcher.inspect.vulkan import VulkanDriver
    from launcher.observe.instances import InstanceState
    from launcher.observe.live import Lease

__all__ = [
    "CommandResult",
    "EngineTest",
    "Filters",
    "Finding",
    "MachineFacts",
    "Pool",
    "ServerFacts",
]


@dataclass(frozen=True)
class Finding:
    """One trouble: what it is, what shows it, where it comes from and what to do.

    `subject` is a machine, or `host`; `code` is a stable word.
    """

    code: str
    severity: Literal["error", "warning"]
    subject: str
    what: str
    evidence: tuple[str, ...]
    cause: str
    remedy: str


@dataclass(frozen=True)
class Pool:
    """A storage pool; sizes in bytes, 0 where Incus does not tell."""

    name: str
    driver: str
    status: str
    total: int = 0
    used: int = 0


@dataclass(frozen=True)
class Filters:
    """The host's packet filters: what `nft --json list ruleset` and forms of `iptables-save` say.

    `nft` is None where that did not answer. `uplink` is the interface of the default route.
    """

    nft: str | None = None
    iptables: tuple[str, ...] = ()
    uplink: str = ""


@dataclass(frozen=True)
class ServerFacts:
    """The host that the daemon runs on.

    `error` and `hint` say why Incus cannot be used; the rest of its own answers is empty then. What is read from the
    host's files is None where they are out of reach, on a remote.
    """

    address: str
    error: str = ""
    hint: str = ""
    version: str = ""
    pools: tuple[Pool, ...] = ()
    cards: tuple[Card, ...] = ()
    memory: tuple[int, int] = (0, 0)  # used and total, in bytes
    container_tools: bool | None = None
    lxc_hook: bool | None = None
    driver: Driver | None = None  # NVIDIA's
    ranges: tuple[str | None, str | None] = (None, None)  # /etc/subuid and /etc/subgid
    controllers: tuple[str, ...] | None = None
    filesystems: frozenset[str] | None = None
    containers: int = 0  # that run
    filters: Filters | None = None
    watch_limit: int | None = None  # fs.inotify.max_user_instances


@dataclass(frozen=True)
class CommandResult:
    """A command's exit code and what it said."""

    code: int
    text: str


@dataclass(frozen=True)
class EngineTest:
    """A request to an engine from inside the page's machine: curl's exit code, the status, what was said."""

    upstream: Upstream
    code: int
    status: int
    message: str

    @property
    def ok(self) -> bool:
        """Whether the engine answered."""
        return self.code == 0 and self.status == 200


@dataclass(frozen=True)
class MachineFacts:
    """A machine, and how it looks from inside when it runs.

    `granted` are the cards that the file gives it, `refusals` and `obstacles` say what is in the way of the cards that
    the file gives it, `unusable` are those on which its image cannot compute, and `able_images` the other images that
    do the same on its cards.

    `nvidia_smi` is what that said, where the machine has a card of NVIDIA's; `nodes` are those by which programs get at
    other cards of it. `cards` are the figures of the cards that tell theirs.

    `boot_step` is what linked the host's driver at its start: 127 where its image has no such thing, else 0 and its
    last words. `journal` are the lines of its engine since that was last started, `pulling` those about models that it
    wants and cannot get. `listening` are the addresses and ports of TCP sockets, as `ss` writes them. `leases` are
    those for the machine's address and for its network device, where it has not its address.
    """

    seen: InstanceState
    services: frozenset[str]
    settings: Settings
    wants_gpu: bool
    granted: tuple[Card, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    obstacles: tuple[Obstacle, ...] = ()
    unusable: tuple[Card, ...] = ()
    able_images: tuple[str, ...] = ()
    nvidia_smi: CommandResult | None = None
    nodes: tuple[NodeTest, ...] = ()
    boot_step: CommandResult | None = None
    cards: tuple[Figures, ...] = ()
    journal: tuple[str, ...] = ()
    pulling: tuple[str, ...] = ()
    loaded: tuple[Loaded, ...] = ()
    vulkan: tuple[VulkanDriver, ...] = ()
    listening: tuple[str, ...] = ()
    tests: tuple[EngineTest, ...] = field(default=())
    no_administrator: NoAdministrator | None = None
    leases: tuple[Lease, ...] = ()

    @property
    def name(self) -> str:
        """The machine's name in the file."""
        return self.seen.machine.name

    @property
    def engine(self) -> Engine | None:
        """The engine that it offers, the first one of several."""
        return next(iter(engines_of(self.services)), None)
