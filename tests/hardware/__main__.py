"""`make test-gpu`: from the host's driver to tokens, on a card that this host has.

A free card is chosen as the quickstart chooses one: NVIDIA's first, then one of AMD or Intel. Each engine that can be
had is tried on it in a private Incus, which is gone afterwards; steps.py has what is looked at.

Exit codes: 0 all is well; 1 a step failed; 2 wrong usage, or not root; 77 (what Automake takes for a skipped test)
there is no card to test on, and nothing was tested. `make` itself ends with 2 whenever this is not 0.

With --simulated everything runs upon a simulated NVIDIA card, where nothing can be computed: a test of this program.
On a host without a network: docs/how-to/test-a-gpu.md, and pack.py.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from anklume_images.console import Console
from anklume_images.errors import AnklumeError
from launcher.cli.session import Session
from launcher.gpu.cards import describe
from launcher.gpu.images import makers
from launcher.private_incus import fake_gpu
from launcher.quickstart import EXAMPLE, MODEL
from launcher.trial.free_card import with_free_card
from launcher.trial.neighbours import neighbours_of_host
from launcher.trial.tiny_gguf import tiny_gguf
from tests.bench.measure import say
from tests.hardware.steps import Given

if TYPE_CHECKING:
    from collections.abc import Iterator

    from launcher.gpu.cards import Card

ROOT = Path(__file__).resolve().parents[2]
SKIPPED = 77
ENGINES = {"llama-server": "llama-server", "ollama": "ollama"}  # image and unit
_INFRA = """\
project_name: {name}
global: {{addressing: {{base_octet: 10, zone_base: {zone}}}, gpu_driver: {driver}}}
domains:
  {name}:
    machines:
      llm: {{image: {image}, gpu: true, gpu_devices: [{{pci: "{pci}"}}]}}
"""


class NotHadError(Exception):
    """An engine's image cannot be had here; the text says why."""


@dataclass(frozen=True)
class Options:
    """What the command line says."""

    incus: str
    offline: bool
    simulated: bool


def main() -> int:
    """Find a card, and try each engine on it."""
    parser = argparse.ArgumentParser(prog="make test-gpu ARGS=", description="The GPU road on a real card of this host")
    parser.add_argument("--store", type=Path, help="the store's folder (the user's own)")
    parser.add_argument("--incus", choices=["6", "7"], default="7", help="which Incus (7)")
    parser.add_argument("--offline", action="store_true", help="touch no network: only what is in the store")
    parser.add_argument("--simulated", action="store_true", help="on a simulated card, on which nothing is computed")
    parser.add_argument("--engine", choices=[*ENGINES], action="append", help="only this one (repeatable)")
    given = parser.parse_args()
    session = Session((), given.store.absolute() if given.store else None, Console())
    options = Options(given.incus, given.offline, given.simulated)
    card, vendor = ("", "nvidia") if options.simulated else _card(session)
    if vendor == "":
        say(f"skipped: {card}; nothing was tested (exit code {SKIPPED})")
        return SKIPPED
    if os.geteuid() != 0:
        parser.error("a private Incus needs root")
    say("\n".join(_host(card or "a simulated card: nothing is computed")))
    pci = fake_gpu.cards(1)[0].pci if options.simulated else card.partition(" ")[0]
    codes = {}
    for engine in given.engine or ENGINES:
        try:
            image = _image(session, engine, vendor, options)
        except NotHadError as error:
            say(f"{engine}: not run: {error}")
            continue
        say(f"{engine}: {image}")
        codes[engine] = _try(session, engine, image.partition("@")[0], vendor, pci, options)
    failed = [engine for engine, code in codes.items() if code]
    say(f"failed: {', '.join(failed)}" if failed else f"all is well with {', '.join(codes) or 'nothing'}")
    return 0 if codes and not failed else 1


def _card(session: Session) -> tuple[str, str]:
    """A free card and its maker; why there is none, and no maker."""
    infra = session.infra(EXAMPLE)
    card: Card | None
    _, card = with_free_card(
        infra,
        "llm",
        Path("/"),
        lambda: neighbours_of_host(session.console),
        session.console,
        session.catalog,
        lambda _image: True,
    )
    if card is None:
        return "no card of NVIDIA, AMD or Intel with a driver that works is free on this host", ""
    return describe(card), next(iter(makers([card])))


def _host(card: str) -> Iterator[str]:
    release = dict(line.split("=", 1) for line in _text("/etc/os-release").splitlines() if "=" in line)
    driver = _text("/proc/driver/nvidia/version").partition("\n")[0]
    yield f"card    {card}"
    if driver:
        yield f"driver  {' '.join(driver.split())}"
    name = release.get("PRETTY_NAME", "").strip('"')
    yield f"host    {name}, kernel {platform.release()}, {os.cpu_count()} CPUs"


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _image(session: Session, engine: str, vendor: str, options: Options) -> str:
    """The engine's image for this maker's cards, built where the store lacks it."""
    catalog = session.catalog
    name = engine if vendor in (catalog.gpus(engine) or ()) else f"{engine}-mesa"
    try:
        results = session.pipeline(offline=options.offline).build([name])
    except AnklumeError as error:
        raise NotHadError(str(error)) from None
    for result in results:
        if result.error is not None:
            raise NotHadError(str(result.error).splitlines()[0])
    image = session.images().resolve(name)
    if "stand-in" in image.version:
        raise NotHadError(f"{image.ref} is a stand-in for it")
    return image.ref


def _try(session: Session, engine: str, image: str, vendor: str, pci: str, options: Options) -> int:
    """Launch it by `try`, and look from inside; its exit code."""
    driver = "host" if vendor == "nvidia" else "auto"
    with tempfile.TemporaryDirectory(prefix="anklume-hardware-") as folder, _model(session, options) as model:
        first, second = (Path(folder) / f"{name}.yml" for name in ("first", "second"))
        for zone, file in ((120, first), (150, second)):
            text = _INFRA.format(name=file.stem, zone=zone, driver=driver, image=image, pci=pci)
            file.write_text(text, encoding="utf-8")
        told = Given(str(first), str(second), ENGINES[engine], vendor, str(model), simulated=options.simulated)
        argv = [sys.executable, "-m", "launcher", "--store", str(session.store().home), "try", str(first)]
        argv += ["--incus", options.incus]
        argv += ["--offline"] * options.offline + ["--fake-gpus", "1"] * options.simulated
        argv += ["--model", MODEL if not options.simulated else str(model)] * (engine == "llama-server")
        argv += ["--", sys.executable, "-m", "tests.hardware.steps", json.dumps(asdict(told))]
        path = ":".join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        return subprocess.run(argv, cwd=ROOT, env={**os.environ, "PYTHONPATH": path}, check=False).returncode


@contextlib.contextmanager
def _model(session: Session, options: Options) -> Iterator[Path]:
    """The quickstart's model; for a simulated card a toy, as the CPU computes."""
    if not options.simulated:
        with session.models().pulled(MODEL, offline=options.offline) as file:
            yield file
        return
    with tempfile.TemporaryDirectory(prefix="anklume-hardware-") as folder:
        (Path(folder) / "toy.gguf").write_bytes(tiny_gguf())
        yield Path(folder) / "toy.gguf"


if __name__ == "__main__":
    sys.exit(main())
