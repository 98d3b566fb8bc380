"""The quickstart's machines by anklume-launch, against installing the same files into running containers."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import resources
from typing import TYPE_CHECKING

from anklume_images.builder.rootfs import mirror_entries
from anklume_images.console import Console
from anklume_images.ship.publish import image_files, publish
from anklume_images.ship.volume import VolumeFile, make_volume
from anklume_images.specs.catalog import builtin_specs
from launcher.apply.run import launch
from launcher.cli.session import Session
from launcher.private_incus.daemon import PrivateIncus
from launcher.quickstart import EXAMPLE
from launcher.trial.tiny_gguf import tiny_gguf
from tests.bench.measure import ratio, rounds, say
from tests.support.launching import Launcher, clear

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from anklume_images.incus.client import Incus
    from anklume_images.store.images import Image
    from tests.bench.measure import Bench

_GATEWAY = "10.209.0.1"
_MIRROR = f"http://{_GATEWAY}"
_BASES = {"llm": ("debian", "10.209.0.11"), "webui": ("debian-12", "10.209.0.12")}
_SECONDS = 900.0

# What a person would type, as quick as it goes: no recommended packages, nothing to resolve. uv compiles as pip does
# by default: without it, the first start takes several times as long.
_APT = """
export DEBIAN_FRONTEND=noninteractive
mark() { echo "mark $1 $(cut -d' ' -f1 /proc/uptime)"; }
answers() { until curl -fs -o /dev/null --noproxy '*' "http://127.0.0.1:$1/health"; do sleep 0.2; done; mark healthy; }
mark begin
echo "deb [trusted=yes] MIRROR/debian RELEASE main" > /etc/apt/sources.list
apt-get update -q
apt-get install -q -y --no-install-recommends PACKAGES
mark apt
"""
_LLM = """
systemd-run --quiet --unit llama-server /usr/bin/llama-server --offline --host 0.0.0.0 --port 8080 \\
  --model /var/lib/models/tiny.gguf --alias tiny --ctx-size 4096 --parallel 1
answers 8080
"""
_PIP = """
curl -fs -o /root/pip.whl MIRROR/wheels/pip.whl
python3 -m venv --without-pip /opt/open-webui
/opt/open-webui/bin/python /root/pip.whl/pip install --quiet --no-deps --no-index --trusted-host GATEWAY \\
  --find-links MIRROR/wheels/ --require-hashes --requirement MIRROR/wheels/requirements.txt
mark pip
"""
_UV = """
curl -fs -o /root/uv.whl MIRROR/wheels/UV
python3 -m zipfile -e /root/uv.whl /root/uv
chmod 0755 /root/uv/*.data/scripts/uv
uv() { /root/uv/*.data/scripts/uv --no-config --no-python-downloads "$@"; }
uv venv --python /usr/bin/python3 /opt/open-webui
uv pip install --python /opt/open-webui --no-deps --no-index --find-links MIRROR/wheels/ --compile-bytecode \\
  --require-hashes --requirements MIRROR/wheels/requirements.txt
mark uv
"""
_WEBUI = """
mkdir -p /var/lib/open-webui
cat > /root/open-webui.env <<'EOF'
ENVIRONMENT
USE_SLIM_DOCKER=true
ENABLE_OLLAMA_API=false
ENABLE_OPENAI_API=true
OPENAI_API_BASE_URL=http://LLM:8080/v1
EOF
systemd-run --quiet --unit open-webui --property WorkingDirectory=/var/lib/open-webui \\
  --property EnvironmentFile=/root/open-webui.env /opt/open-webui/bin/open-webui serve --host 0.0.0.0 --port 3000
answers 3000
"""


def quickstart(bench: Bench) -> None:
    """From create to healthy, against apt and pip (or uv) into containers that run already, until both answer.

    Both have the model in its volume beforehand, use the same packages and wheels, and work on both machines at once.
    Ours is the whole command, with its project, bridge, rules and health checks, once with the images in the store
    only, which it then publishes, and once with images that were published and used before.
    """
    pipeline = bench.pipeline
    pipeline.fetch(["llama-server", "open-webui"], rebuild=True)
    pipeline.build(["llama-server", "open-webui"])
    images = {name: pipeline.images.resolve(name) for name in ("llama-server", "open-webui", "debian", "debian-12")}
    tree = pipeline.tree(bench.incus).root
    with PrivateIncus(tree=tree, storage="btrfs") as incus, _mirror(bench, incus), incus.client() as client:
        found = _Machines(bench, incus, client, images, bench.place())
        for name in images:
            found.publish(name)
        found.ours("images published, never used")
        ours = {
            "images published and used before": found.ours,
            "images in the store only": found.ours_from_the_store,
        }
        theirs = {"apt and pip": partial(found.theirs, _PIP), "apt and uv": partial(found.theirs, _UV)}
        rows = rounds({name: partial(action, name) for name, action in (ours | theirs).items()})
        for by, goal in (("apt and pip", "≤ 0.1"), ("apt and uv", "-")):
            for name in ours:
                what = f"quickstart, {name} / {by} into running containers"
                ratio(what, goal, rows[name], rows[by])
                ratio(f"  {what}, less Open WebUI's own start", "-", found.before[name], found.before[by])
        for line in found.parts():
            say(f"  {line}")


class _Machines:
    def __init__(self, bench: Bench, incus: PrivateIncus, client: Incus, images: dict[str, Image], place: Path) -> None:
        self._bench = bench
        self._incus = incus
        self._client = client
        self._images = images
        self._launcher = Launcher(incus, bench.pipeline.store.home, place, EXAMPLE)
        self._model = VolumeFile("tiny.gguf", place / "tiny.gguf")
        self._model.source.write_bytes(tiny_gguf())
        self._parts: dict[str, list[float]] = {}
        self.before: dict[str, list[float]] = {}  # seconds until Open WebUI was started

    def publish(self, name: str) -> None:
        pipeline = self._bench.pipeline
        publish(image_files(self._images[name], pipeline.images, pipeline.store), self._client)

    def ours_from_the_store(self, kind: str) -> float:
        """With the images published within the time, and unpacked in the pool."""
        for name in ("llama-server", "open-webui"):
            self._client.delete_image(self._images[name].fingerprint)
        return self.ours(kind)

    def ours(self, kind: str) -> float:
        """Seconds of the whole command; the model is in its volume before."""
        session = Session((), self._launcher.store, Console(quiet=True))
        prepared, _ = launch(session.infra(EXAMPLE), session.store(), self._client, session.console, kinds=["project"])
        for resource in (step.resource for step in prepared.plan.steps):
            if resource.key.kind == "volume" and "llm" in resource.machines:
                within = self._client.within(resource.key.project)
                pool, _, name = resource.key.name.partition("/")
                text = resource.body["description"]
                make_volume(within, pool, name, [self._model], config=resource.config, description=text)
        begun = time.monotonic()
        document = self._launcher.json("apply")
        spent = time.monotonic() - begun
        for name, machine in document["machines"].items():
            self._note(f"{kind}, {name}: healthy after its start", machine["healthy_after"])
        self.before.setdefault(kind, []).append(spent - document["machines"]["webui"]["healthy_after"])
        clear(self._incus)
        return spent

    def theirs(self, installer: str, kind: str) -> float:
        """Seconds until both answer; the containers run, and reach the mirror, before."""
        make_volume(self._client, "default", "model", [self._model])
        model = {"type": "disk", "pool": "default", "source": "model", "path": "/var/lib/models"}
        for name, (base, address) in _BASES.items():
            eth0 = {"type": "nic", "name": "eth0", "network": "incusbr0", "ipv4.address": address}
            devices = {"eth0": eth0} | ({"model": model} if name == "llm" else {})
            self._client.create_instance(name, fingerprint=self._images[base].fingerprint, devices=devices)
            self._client.start(name)
        for name in _BASES:
            self._run(name, f"until curl -fs -o /dev/null {_MIRROR}/wheels/requirements.txt; do sleep 0.2; done")
        scripts = self._scripts(installer)
        begun = time.monotonic()
        with ThreadPoolExecutor() as pool:
            said = dict(zip(scripts, pool.map(self._run, scripts, scripts.values()), strict=True))
        spent = time.monotonic() - begun
        for name, output in said.items():
            marks = [line.split()[1:] for line in output.splitlines() if line.startswith("mark ")]
            for (_, before), (what, after) in itertools.pairwise(marks):
                self._note(f"{kind}, {name}: {what}", float(after) - float(before))
            if name == "webui":
                self.before.setdefault(kind, []).append(spent - float(after) + float(before))
        clear(self._incus)
        return spent

    def parts(self) -> list[str]:
        """How long the parts of each took, in the median."""
        return [f"{what} {statistics.median(rows):.1f} s" for what, rows in self._parts.items()]

    def _note(self, what: str, spent: float) -> None:
        self._parts.setdefault(what, []).append(spent)

    def _scripts(self, installer: str) -> dict[str, str]:
        lock = self._bench.pipeline.locks.get("open-webui")
        fixed = (builtin_specs() / "open-webui/files/open-webui-fixed.env").read_text()
        words = {
            "MIRROR": _MIRROR,
            "GATEWAY": _GATEWAY,
            "LLM": _BASES["llm"][1],
            "ENVIRONMENT": fixed.replace("HOME=/var/lib/open-webui\n", ""),
            "UV": next(wheel.path for wheel in lock.wheels if wheel.tool),
        }
        return {
            "llm": _filled(_APT + _LLM, words | {"RELEASE": "trixie", "PACKAGES": "llama.cpp-tools"}),
            "webui": _filled(_APT + installer + _WEBUI, words | {"RELEASE": "bookworm", "PACKAGES": "python3"}),
        }

    def _run(self, name: str, script: str) -> str:
        with self._incus.client() as client:  # of its own: this runs in threads
            result = client.execute(name, ["sh", "-euc", script], timeout=_SECONDS)
        output = (result.stdout + result.stderr).decode(errors="replace")
        assert result.code == 0, output[-2000:]
        return output


def _filled(script: str, words: dict[str, str]) -> str:
    return re.sub(r"\b(" + "|".join(words) + r")\b", lambda found: words[found[1]], script)


@contextlib.contextmanager
def _mirror(bench: Bench, incus: PrivateIncus) -> Iterator[None]:
    """The build's own mirror, with the locked files of both images, on the bridge of the private Incus."""
    entries: dict[str, object] = {}
    for name in ("llama-server", "open-webui"):
        prepared = bench.pipeline.prepare(name)
        release, blobs = str(prepared.spec.release), bench.pipeline.store.blobs
        entries |= mirror_entries(prepared.lock, release, prepared.epoch, blobs)
    bundled = resources.files("ensurepip") / "_bundled"
    entries["/wheels/pip.whl"] = next(str(path) for path in bundled.iterdir() if path.name.startswith("pip-"))
    place = bench.place()
    (place / "entries").write_text(json.dumps(entries))
    argv = [sys.executable, "-m", "tests.bench.serve", str(place / "entries"), str(place / "log"), _GATEWAY]
    command = incus.command(argv, network_only=True)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        try:
            yield
        finally:
            server.stdin.close()
