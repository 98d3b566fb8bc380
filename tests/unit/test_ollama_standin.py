"""The stand-in for Ollama does as a real one does, fact by fact: its settings, and the devices that it finds."""

from __future__ import annotations

import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.ollama.checks import Checks
from tests.support.ollama.facts import FACTS, Fact, facts_of
from tests.support.ollama.running import CARD, NVIDIA, SECONDS, StandIn

if TYPE_CHECKING:
    from pathlib import Path

holds = Checks()
ROOMS = facts_of("settings", "devices")


@pytest.mark.parametrize("fact", ROOMS, ids=lambda fact: fact.code)
def test_fact(fact: Fact, tmp_path: Path) -> None:
    holds.hold(fact, tmp_path)


def test_every_fact_has_its_check() -> None:
    assert {fact.code for fact in ROOMS} == holds.keys()


def test_each_fact_is_named_once() -> None:
    codes = [fact.code for fact in FACTS]
    assert len(codes) == len(set(codes))


# settings


def settings(stand_in: StandIn, **variables: str) -> dict[str, str]:
    """What it says of its settings before it listens, wherever that may be."""
    environment = stand_in.variables(STAND_IN_SETTINGS="1", **variables)
    argv = [str(stand_in.program), "serve"]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=True, timeout=SECONDS)
    stand_in.log_file.write_text(done.stderr)
    found = re.search(r'msg="server config" env="map\[(.*)\]"', done.stderr)
    assert found, done.stderr
    return dict(re.findall(r"(\w+):(\S*)(?: |$)", found[1]))


def hosts(stand_in: StandIn, **urls: str) -> None:
    for text, url in urls.items():
        assert settings(stand_in, OLLAMA_HOST=text)["OLLAMA_HOST"] == url, text


@holds("host-default")
def _(stand_in: StandIn) -> None:
    hosts(stand_in, **{"": "http://127.0.0.1:11434"})


@holds("host-alone")
def _(stand_in: StandIn) -> None:
    urls = {"0.0.0.0": "http://0.0.0.0:11434", "::1": "http://[::1]:11434", "[::]": "http://[::]:11434"}
    hosts(stand_in, **urls, localhost="http://localhost:11434")


@holds("host-scheme")
def _(stand_in: StandIn) -> None:
    hosts(stand_in, **{"http://10.1.2.3": "http://10.1.2.3:80", "https://10.1.2.3": "https://10.1.2.3:443"})


@holds("host-port-alone")
def _(stand_in: StandIn) -> None:
    hosts(stand_in, **{":8080": "http://:8080"})
    stand_in.start(OLLAMA_HOST=":0")
    assert stand_in.ask("/api/version", host="127.0.0.2").status == 200


@holds("host-bad-port")
def _(stand_in: StandIn) -> None:
    for text in ("127.0.0.1:66666", "127.0.0.1:x", "127.0.0.1:-1"):
        hosts(stand_in, **{text: "http://127.0.0.1:11434"})
        assert 'level=WARN source=stand-in msg="invalid port, using default"' in stand_in.log()


@holds("host-quotes-path-brackets")
def _(stand_in: StandIn) -> None:
    hosts(stand_in, **{"'127.0.0.1:90'": "http://127.0.0.1:90", '"::1"': "http://[::1]:11434"})
    hosts(stand_in, **{"http://127.0.0.1:90/x": "http://127.0.0.1:90", "[::1]:90": "http://[::1]:90"})


@holds("host-port-zero")
def _(stand_in: StandIn) -> None:
    stand_in.start(OLLAMA_HOST="127.0.0.1:0")
    assert stand_in.port not in (0, 11434)
    assert stand_in.ask("/").status == 200


@holds("host-https")
def _(stand_in: StandIn) -> None:
    stand_in.start(OLLAMA_HOST="https://127.0.0.1:0")
    assert stand_in.ask("/").body == b"Ollama is running"


@holds("keep-alive")
def _(stand_in: StandIn) -> None:
    forms = {"": "5m0s", "5m": "5m0s", "90": "1m30s", "24h": "24h0m0s", "1h30m": "1h30m0s", "nonsense": "5m0s"}
    forms |= {"-1": "2562047h47m16.854775807s", "-5m": "2562047h47m16.854775807s"}
    for text, value in forms.items():
        assert settings(stand_in, OLLAMA_KEEP_ALIVE=text)["OLLAMA_KEEP_ALIVE"] == value, text


@holds("no-cloud")
def _(stand_in: StandIn) -> None:
    for text, value in {"": "false", "0": "false", "false": "false", "1": "true", "true": "true", "no": "true"}.items():
        assert settings(stand_in, OLLAMA_NO_CLOUD=text)["OLLAMA_NO_CLOUD"] == value, text


@holds("home-unset")
def _(stand_in: StandIn) -> None:
    environment = stand_in.variables(OLLAMA_MODELS=str(stand_in.folder / "models"))
    del environment["HOME"]
    argv = [str(stand_in.program), "serve"]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, check=False, timeout=SECONDS)
    assert (done.returncode, done.stderr) == (1, "Error: $HOME is not defined\n")


@holds("models-folder")
def _(stand_in: StandIn) -> None:
    stand_in.give("tiny")
    elsewhere = stand_in.folder / "elsewhere"
    with stand_in.serving(OLLAMA_MODELS=str(elsewhere)):
        assert (stand_in.names(), elsewhere.joinpath("blobs").is_dir()) == ([], True)
    stand_in.start()
    assert stand_in.names() == ["tiny:latest"]


@holds("key")
def _(stand_in: StandIn) -> None:
    key = stand_in.home / ".ollama/id_ed25519"
    with stand_in.serving():
        made = key.read_bytes()
        assert key.stat().st_mode & 0o777 == 0o600
    with stand_in.serving():
        assert key.read_bytes() == made


@holds("parallel-and-context")
def _(stand_in: StandIn) -> None:
    stand_in.give("tiny")
    for variables, arguments in (({}, "-c 4096 -np 1"), ({"OLLAMA_NUM_PARALLEL": "3"}, "-c 12288 -np 3")):
        with stand_in.serving(**variables):
            stand_in.ask("/api/generate", {"model": "tiny", "prompt": "x"})
            assert f'/llama-server {arguments}"' in stand_in.log()


@holds("unknown-command")
def _(stand_in: StandIn) -> None:
    done = stand_in.command("sing")
    assert (done.returncode, done.stderr.startswith("Error: unknown command")) == (1, True)


# devices


def device(stand_in: StandIn, **variables: str) -> str:
    """The library that it says to compute by, in its only line of that kind; its log must be free of warnings."""
    with stand_in.serving(**variables):
        (line,) = [line for line in stand_in.log().splitlines() if 'msg="inference compute"' in line]
    return line.partition("library=")[2].split()[0]


@holds("cpu")
def _(stand_in: StandIn) -> None:
    assert device(stand_in) == "cpu"
    assert 'level=INFO source=stand-in msg="inference compute" id=cpu library=cpu' in stand_in.log()
    assert "level=WARN" not in stand_in.log()


@holds("context-of-cpu")
def _(stand_in: StandIn) -> None:
    assert device(stand_in) == "cpu"
    assert stand_in.log().endswith('msg="vram-based default context" total_vram="0 B" default_num_ctx=4096\n')


@holds("vulkan")
def _(stand_in: StandIn) -> None:
    stand_in.put(*CARD)
    assert device(stand_in, STAND_IN_VRAM="79.6") == "Vulkan"
    line = 'msg="inference compute" id=0 filter_id=0 library=Vulkan compute=0.0 name=Vulkan0 '
    assert line in stand_in.log()
    assert 'libdirs=ollama,vulkan driver=0.0 pci_id="" type=discrete total="79.6 GiB"' in stand_in.log()


@holds("cuda")
def _(stand_in: StandIn) -> None:
    stand_in.put(*CARD, *NVIDIA)
    assert device(stand_in) == "CUDA"
    (stand_in.root / NVIDIA[1]).unlink()
    assert device(stand_in) == "Vulkan"


@holds("no-libvulkan")
def _(stand_in: StandIn) -> None:
    stand_in.put(*CARD)
    (stand_in.root / CARD[1]).unlink()
    assert device(stand_in) == "cpu"
    assert "level=WARN" not in stand_in.log()


@holds("no-backend")
def _(stand_in: StandIn) -> None:
    stand_in.put(*CARD)
    (stand_in.libraries / "vulkan").rename(stand_in.folder / "vulkan")
    assert device(stand_in) == "cpu"
    assert "level=WARN" not in stand_in.log()


@holds("no-icd")
def _(stand_in: StandIn) -> None:
    stand_in.put(*CARD[:2])
    assert device(stand_in) == "cpu"


@holds("software-driver")
def _(stand_in: StandIn) -> None:
    stand_in.put(CARD[1], "usr/share/vulkan/icd.d/lvp_icd.x86_64.json")
    assert device(stand_in) == "cpu"
    assert device(stand_in, GGML_VK_VISIBLE_DEVICES="0") == "Vulkan"


@holds("no-runner")
def _(stand_in: StandIn) -> None:
    stand_in.put(*CARD)
    (stand_in.libraries / "llama-server").unlink()
    stand_in.start()
    assert 'level=INFO source=stand-in msg="failure during llama-server GPU discovery"' in stand_in.log()
    assert "library=cpu" in stand_in.log()
    assert stand_in.ask("/api/version").status == 200


@holds("context-by-memory")
def _(stand_in: StandIn) -> None:
    stand_in.put(*CARD)
    for memory, tokens in (("22.9", 4096), ("23", 32768), ("46.9", 32768), ("47", 262144)):
        device(stand_in, STAND_IN_VRAM=memory)
        assert stand_in.log().endswith(f'total_vram="{float(memory):.1f} GiB" default_num_ctx={tokens}\n')


@holds("context-set")
def _(stand_in: StandIn) -> None:
    stand_in.put(*CARD)
    stand_in.give("tiny")
    stand_in.start(OLLAMA_CONTEXT_LENGTH="8192")
    stand_in.ask("/api/generate", {"model": "tiny", "prompt": "x"})
    assert '/llama-server -c 8192 -np 1"' in stand_in.log()


@holds("llm-library")
def _(stand_in: StandIn) -> None:
    stand_in.put(*CARD, *NVIDIA)
    found = {name: device(stand_in, OLLAMA_LLM_LIBRARY=name) for name in ("cuda_v13", "vulkan", "none-such")}
    assert found == {"cuda_v13": "CUDA", "vulkan": "Vulkan", "none-such": "cpu"}


@holds("vulkan-off")
def _(stand_in: StandIn) -> None:
    stand_in.put(*CARD)
    assert [device(stand_in, OLLAMA_VULKAN=text) for text in ("", "1", "0")] == ["Vulkan", "Vulkan", "cpu"]


@holds("visible-devices")
def _(stand_in: StandIn) -> None:
    stand_in.put(*NVIDIA)
    assert device(stand_in, CUDA_VISIBLE_DEVICES="-1") == "cpu"
    assert 'msg="user overrode visible devices" CUDA_VISIBLE_DEVICES=-1' in stand_in.log()
