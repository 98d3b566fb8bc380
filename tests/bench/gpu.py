"""What a container costs llama-server: its speed, and the time to the first token, against the same program outside.

On a free card of the host where there is one, else on the CPU, which is a figure of its own: nothing of it says how a
card would do.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from anklume_images.console import Console
from anklume_images.models.library import Models
from anklume_images.settings import load_settings
from anklume_images.ship.volume import VolumeFile, make_volume
from anklume_images.specs.catalog import builtin_specs
from launcher.apply.run import launch
from launcher.cli.session import Session
from launcher.gpu.cards import describe
from launcher.gpu.driver import Driver, borrowed_driver, read_driver
from launcher.gpu.vendors.nvidia_driver import BOOT_STEP, FOLDER
from launcher.private_incus.daemon import PrivateIncus
from launcher.quickstart import EXAMPLE, MODEL
from launcher.trial.free_card import with_free_card
from launcher.trial.neighbours import neighbours_of_host
from launcher.trial.shell_environment import dying_with_caller
from tests.bench.measure import RUNS, ratio, record, say, seconds
from tests.support.launching import Launcher, clear

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from launcher.gpu.cards import Card
    from tests.bench.measure import Bench

_HOST, _PORT = Path("/"), 18080
_TOKENS, _ASKED = 32, 3  # of an answer; answers of each side in one run
_SECONDS = 300.0
_INFRA = """\
domains:
  chat:
    machines:
      llm: {{image: {image}, vars: {{llama_server_extra_args: [--threads, "{threads}"]}}{gpu}}}
network_policies:
  - {{from: host, to: llm, ports: [8080]}}
"""
_ON_CARD = re.compile(r"offloaded ([1-9]\d*)/(\d+) layers to GPU")
_DETACHED = """\
set -eu
root=$1 model=$2; shift 2
mount --rbind /dev "$root/dev"
mount --rbind /sys "$root/sys"
mount -t proc proc "$root/proc"
touch "$root/model.gguf"
mount --bind "$model" "$root/model.gguf"
while [ "$1" != -- ]; do
    if [ -d "$1" ]; then mkdir -p "$root$2"; else mkdir -p "$root${2%/*}"; touch "$root$2"; fi
    mount --bind "$1" "$root$2"
    shift 2
done
shift
if [ -e "$root$BOOT_STEP" ]; then chroot "$root" "$BOOT_STEP" >&2; fi
cache=$(mktemp -d "$root/var/cache/bench.XXXXXX")
exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root XDG_CACHE_HOME="${cache#"$root"}" chroot "$root" "$@"
"""


@dataclass(frozen=True)
class _Outside:
    """The image's own program on the host, in the image's own files: no container, and no limits."""

    root: Path
    model: Path
    shown: tuple[tuple[str, str], ...]  # the driver's folders, as the container has them
    arguments: tuple[str, ...]
    log: Path

    @contextlib.contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        shown = [word for pair in self.shown for word in pair]
        argv = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _DETACHED, "sh"]
        argv += [str(self.root), str(self.model), *shown, "--", *self.arguments]
        environment = {"PATH": os.environ["PATH"], "BOOT_STEP": BOOT_STEP}
        with (
            self.log.open("wb") as log,
            subprocess.Popen(dying_with_caller(argv), stdout=log, stderr=log, env=environment) as process,
        ):
            try:
                yield process
            finally:
                process.send_signal(signal.SIGKILL)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{_PORT}"

    def first_token(self) -> float:
        """Seconds from the start of the program to its first token."""
        begun = time.monotonic()
        with self.running():
            return _moment([sys.executable, "-m", "tests.bench.first_token", self.url]) - begun


class _Inside:
    """The machine, launched by the command upon a private Incus; the model is in its volume beforehand."""

    def __init__(self, bench: Bench, incus: PrivateIncus, model: VolumeFile, text: str) -> None:
        self._incus = incus
        self._model = model
        place = bench.place()
        self._launcher = Launcher(incus, bench.pipeline.store.home, place, place / "infra.yml")
        self._launcher.write(text, name="bench")
        self._session = Session((), self._launcher.store, Console(quiet=True))
        self._infra = self._session.infra(self._launcher.file)
        (machine,) = self._infra.machines()
        self.url = f"http://{machine.address}:8080"

    def prepare(self) -> None:
        with self._incus.client() as client:
            store = self._session.store()
            prepared, _ = launch(self._infra, store, client, self._session.console, kinds=["project"])
            (volume,) = (step.resource for step in prepared.plan.steps if step.resource.key.kind == "volume")
            pool, _, name = volume.key.name.partition("/")
            within = client.within(volume.key.project)
            text = volume.body["description"]
            make_volume(within, pool, name, [self._model], config=volume.config, description=text)

    def first_token(self) -> float:
        """Seconds from the start of the command, which finds no machine yet, to the first token of its server."""
        self.prepare()
        begun = time.monotonic()
        with self._asking() as asked, self._launcher.start("apply") as command:
            assert command.wait(_SECONDS) == 0, command.stdout and command.stdout.read()
            return float(asked()) - begun

    def again(self) -> float:
        """The same of a start of the server alone, in the machine that runs."""
        self.execute("systemctl", "stop", "llama-server")
        begun = time.monotonic()
        with self._asking() as asked:
            self.execute("systemctl", "start", "llama-server")
            return float(asked()) - begun

    @contextlib.contextmanager
    def _asking(self) -> Iterator[Callable[[], str]]:
        """Ask meanwhile, over the private network."""
        argv = self._incus.command([sys.executable, "-m", "tests.bench.first_token", self.url], network_only=True)
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
            yield lambda: process.communicate(timeout=_SECONDS)[0]

    def execute(self, *command: str) -> str:
        with self._incus.client("chat") as client:
            result = client.execute("llm", command, timeout=_SECONDS)
        assert result.code == 0, result.stderr
        return result.stdout.decode(errors="replace")

    def speed(self) -> float:
        """Tokens in a second of one answer, by the server's own clock."""
        body = json.dumps(_QUESTION)
        options = ["--silent", "--fail", "--noproxy", "*", "--header", "Content-Type: application/json"]
        return _told(self.execute("curl", *options, "--data-raw", body, "http://127.0.0.1:8080/completion"))

    def arguments(self) -> tuple[str, ...]:
        """How the image starts the server, for the same outside."""
        pid = self.execute("systemctl", "show", "llama-server", "--property", "MainPID", "--value").strip()
        words = self.execute("cat", f"/proc/{pid}/cmdline").rstrip("\0").split("\0")
        changed = {"--model": "/model.gguf", "--host": "127.0.0.1", "--port": str(_PORT)}
        return tuple(changed.get(before, word) for before, word in zip(["", *words], words, strict=False))

    def log(self) -> str:
        return self.execute("journalctl", "-u", "llama-server", "-o", "cat", "--no-pager")

    def clear(self) -> None:
        clear(self._incus)


_QUESTION = {
    "prompt": "Once upon a time",
    "n_predict": _TOKENS,
    "ignore_eos": True,
    "temperature": 0,
    "cache_prompt": False,
}


def _told(answer: str) -> float:
    document = json.loads(answer)
    assert document["tokens_predicted"] == _TOKENS
    return float(document["timings"]["predicted_per_second"])


def _asked_outside(url: str) -> float:
    request = urllib.request.Request(
        f"{url}/completion", json.dumps(_QUESTION).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=_SECONDS) as answer:
        return _told(answer.read().decode())


def _moment(argv: list[str]) -> float:
    return float(subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout)


def gpu(bench: Bench) -> None:
    """llama-server in the container against the very same one on the host, out of the image's own files.

    The same arguments, threads, model and, on an NVIDIA card, the same files of the host's driver. The speed is the
    server's own figure for answers of the same length, of both sides in turn. To the first token: the whole command
    from its start, with the image unpacked in the pool and the model in the volume, but no machine; then the service
    alone, started in a machine that runs; each against the start of the program on the host.
    """
    pipeline, console = bench.pipeline, Console(quiet=True)
    image, card = _chosen(bench, console)
    pipeline.build([image])
    where = "CPU" if card is None else describe(card)
    threads = max(1, (os.cpu_count() or 1) // 2)  # all of them would wait for whatever else runs
    say(f"  llama-server ({image}) with {MODEL} on {where}, threads: {threads}")
    given = "" if card is None else f', gpu: true, gpu_devices: [{{pci: "{card.pci}"}}]'
    text = _INFRA.format(image=image, threads=threads, gpu=given)
    models = Models(pipeline.store, [builtin_specs()], load_settings(), console)
    driver = read_driver(_HOST) if card and card.is_nvidia else Driver()
    tree = pipeline.tree(bench.incus).root
    with models.pulled(MODEL) as model, PrivateIncus(tree=tree, borrowed=borrowed_driver(driver)) as incus:
        inside = _Inside(bench, incus, VolumeFile(f"{MODEL}.gguf", model), text)
        spent = inside.first_token()
        say(f"  the first launch, which publishes and unpacks the image: {spent:.1f} s to the first token")
        place = bench.place()
        root = _unpacked(bench, image, place)
        outside = _Outside(root, model, tuple(_shown(driver)), inside.arguments(), place / "log")
        _speeds(inside, outside, where, card)
        _starts(inside, outside, where)


def _chosen(bench: Bench, console: Console) -> tuple[str, Card | None]:
    """A free card of the host, and the image for it; without one the CPU."""
    pipeline = bench.pipeline
    infra = Session((), pipeline.store.home, console).infra(EXAMPLE)
    chosen, card = with_free_card(
        infra, "llm", _HOST, lambda: neighbours_of_host(console), console, pipeline.catalog, lambda _image: True
    )
    return next(str(machine.image.store) for machine in chosen.machines() if machine.name == "llm"), card


def _shown(driver: Driver) -> Iterator[tuple[str, str]]:
    """The driver's folders and nvidia-smi, where the image's boot step looks for them."""
    for number, folder in enumerate(driver.folders, 1):
        yield folder.path, f"{FOLDER}/lib" + ("" if number == 1 else f"-{number}")
    if driver.smi:
        yield driver.smi, f"{FOLDER}/bin/nvidia-smi"


def _starts(inside: _Inside, outside: _Outside, where: str) -> None:
    own, commands, services = [], [], []
    for _ in range(RUNS):
        services.append(inside.again())
        inside.clear()
        own.append(outside.first_token())
        commands.append(inside.first_token())
    theirs = "the program's own start on the host"
    ratio(f"first token on {where}, anklume-launch from nothing / {theirs}", "≤ 1.1", commands, own)
    ratio(f"first token on {where}, the service's start in a running machine / {theirs}", "≤ 1.1", services, own)
    more = statistics.median(a - b for a, b in zip(commands, own, strict=True))
    say(f"  the command takes {more:.1f} s more: Python, project, bridge, rules, the machine and its boot")


def _speeds(inside: _Inside, outside: _Outside, where: str, card: Card | None) -> None:
    rows = []
    with outside.running():
        _moment([sys.executable, "-m", "tests.bench.first_token", outside.url])
        inside.speed(), _asked_outside(outside.url)  # neither's first answer counts
        for _ in range(RUNS):
            pairs = [(inside.speed(), _asked_outside(outside.url)) for _ in range(_ASKED)]
            rows.append(tuple(statistics.median(side) for side in zip(*pairs, strict=True)))
    for name, log in (("machine", inside.log()), ("host", outside.log.read_text(errors="replace"))):
        placed = _ON_CARD.search(log)
        assert (placed is not None) == (card is not None), f"{name}: {placed and placed[0]}"
    each = "  ".join(f"{ours:.1f}/{theirs:.1f}" for ours, theirs in rows)
    ratios = [ours / theirs for ours, theirs in rows]
    record(f"tokens a second on {where}, container / host", "≥ 0.97", ratios, "", each)


def _unpacked(bench: Bench, image: str, place: Path) -> Path:
    """The image's own files, by the unsquashfs that Incus has."""
    pipeline = bench.pipeline
    tree, target = pipeline.tree(bench.incus).root, place / "root"
    loader = next(tree.glob("usr/lib/*-linux-gnu/ld-linux-*.so.*"))
    rootfs = pipeline.store.blobs.path(pipeline.images.resolve(image).rootfs.sha256)
    argv = [str(loader), "--library-path", str(loader.parent), str(tree / "usr/bin/unsquashfs")]
    argv += ["-q", "-n", "-d", str(target), str(rootfs)]
    spent = seconds(lambda: subprocess.run(argv, check=True, stdout=subprocess.DEVNULL))
    say(f"  the image's files unpacked for the host in {spent:.1f} s")
    return target
