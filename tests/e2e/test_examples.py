"""The examples: valid as they are, and launched on a real private Incus of each version with one simulated card.

Ollama's image is made of a stand-in for its release; all others are the real ones.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from anklume_images.console import Console
from anklume_images.pipeline import Pipeline
from anklume_images.settings import load_settings
from anklume_images.specs.catalog import Catalog, builtin_specs
from launcher.private_incus.daemon import PrivateIncus
from launcher.private_incus.init import HOME
from launcher.trial.tiny_gguf import tiny_gguf
from tests.support.example_store import example_store
from tests.support.launching import Launcher, clear
from tests.support.ollama.running import model_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
SPECS = EXAMPLES / "specs"
CARD = "0000:01:00.0"
ALLOWED, DROPPED = 0, 28  # curl's exit codes: an answer, and none within the time
SECONDS = 30.0
FILES = {
    "quickstart": "infra.yml",
    "pro-workstation": "infra.yml",
    "llm-supervisor": "infra",
    "student-sysadmin": "infra.yml",
    "sandbox-isolation": "infra.yml",
}
WARNINGS = {
    "quickstart": [],
    "pro-workstation": [],
    "llm-supervisor": ["gpu-shared"],
    "student-sysadmin": ["container-in-untrusted"],
    "sandbox-isolation": ["container-in-untrusted"] * 3,
}
# Reads a request and answers with one line.
ANSWER = 'sed "/^.$/q" > /dev/null; printf "HTTP/1.0 200 OK\\r\\n\\r\\nhello\\n"'


def path_of(example: str) -> Path:
    return EXAMPLES / example / FILES[example]


@pytest.fixture(scope="session")
def store(pipeline: Pipeline) -> Iterator[Path]:
    """A store with every image that the examples want."""
    catalog = Catalog.load([SPECS, builtin_specs()])
    own = Pipeline(pipeline.store, catalog, load_settings(), pipeline.options, Console())
    results = own.build(["debian", "open-webui", "llama-server", "nginx"])
    images = [result.image for result in results if result.image]
    assert len(images) == len(results), [result.error for result in results]
    with example_store(own, images) as home:
        yield home


@pytest.fixture(scope="session")
def running(incus_tree: Callable[[str], Path]) -> Iterator[Callable[[str], PrivateIncus]]:
    """Starts a version at its first use, with one simulated card."""
    there: dict[str, PrivateIncus] = {}
    with tempfile.TemporaryDirectory(prefix="anklume-test-", dir="/var/tmp") as folder, contextlib.ExitStack() as stack:

        def start(name: str) -> PrivateIncus:
            if name not in there:
                home = Path(folder) / name
                there[name] = stack.enter_context(PrivateIncus(tree=incus_tree(name), home=home, fake_gpus=1))
            return there[name]

        yield start


@pytest.fixture(params=["incus-6", "incus-7"])
def launcher(
    request: pytest.FixtureRequest, running: Callable[[str], PrivateIncus], store: Path, tmp_path: Path
) -> Iterator[Launcher]:
    """`anklume-launch` upon each version, with nothing of an earlier example in it."""
    incus = running(request.param)
    yield Launcher(incus, store, tmp_path, tmp_path / "infra.yml")
    clear(incus)


def is_older(launcher: Launcher) -> bool:
    with launcher.client() as client:
        return bool(client.server.version.startswith("6."))


def bring_up(launcher: Launcher, example: str, *options: str) -> None:
    """Apply, see that a second time does nothing, and that all is well."""
    launcher.file = path_of(example)
    planned = launcher.json("plan", *options, code=3)
    done = launcher.json("apply", *options)
    assert done["done"] == len(planned["steps"]) > 0
    settled_and_well(launcher, *options)


def settled_and_well(launcher: Launcher, *options: str) -> None:
    assert launcher.json("plan", *options)["steps"] == []
    assert "nothing to do" in launcher("apply", *options).stdout
    status = launcher.json("status", *options)
    assert status["machines"]
    assert all(machine["health"]["state"] == "healthy" for machine in status["machines"])


def put_away(launcher: Launcher, volumes: set[str], *, protected: bool) -> None:
    """Destroy: machines go, volumes stay; then these too, and nothing is left but the images."""
    if protected:
        assert "protected from deletion" in launcher("destroy", "--yes", code=4).stderr
    gone = launcher.json("destroy", "--yes", *(["--force-protected"] if protected else []))
    assert {entry["name"] for entry in gone["kept"] if entry["kind"] == "volume"} == volumes
    found = there(launcher)
    assert found["instances"] == found["networks"] == found["network-acls"] == set()
    assert found["volumes"] == volumes
    names = [word for volume in sorted(volumes) for word in ("--volumes", volume.partition("/")[2])]
    launcher("destroy", "--yes", *names)
    assert not any(there(launcher).values())
    assert launcher.json("destroy", "--plan")["removed"] == []


def there(launcher: Launcher) -> dict[str, set[str]]:
    """What is in Incus besides what every new one has."""
    with launcher.client() as client:
        everywhere = {"all-projects": "true"}
        volumes = client.get("storage-pools/default/volumes/custom", recursion=1, **everywhere)
        return {
            "instances": {found["name"] for found in client.get("instances", recursion=1, **everywhere)},
            "projects": {found["name"] for found in client.get("projects", recursion=1)} - {"default"},
            "networks": {found["name"] for found in client.get("networks", recursion=1) if found["managed"]}
            - {"incusbr0"},
            "network-acls": {found["name"] for found in client.get("network-acls", recursion=1)},
            "volumes": {f"default/{found['name']}" for found in volumes},
        }


def instance(launcher: Launcher, project: str, name: str) -> dict[str, Any]:
    with launcher.client() as client:
        return dict(client.get(f"instances/{name}", project=project))


def reaches(launcher: Launcher, project: str, name: str, url: str) -> int:
    """How a request from inside a machine ends."""
    return launcher.execute(project, name, "curl", "-sS", "-o", "/dev/null", "--max-time", "1", url).code


def host_reaches(launcher: Launcher, address: str, port: int) -> bool:
    """Whether the private Incus' own host gets a connection."""
    code = f"import socket; socket.create_connection(({address!r}, {port}), 1)"
    return launcher.incus.run([sys.executable, "-c", code], network_only=True, capture_output=True).returncode == 0


def url(address: str) -> str:
    return f"http://{address}:8000/"


def serve(launcher: Launcher, project: str, name: str, port: int) -> None:
    """A server of one line in a machine, of nothing but systemd and a shell."""
    listen = ["systemd-socket-activate", "--listen", str(port), "--accept", "--inetd", "sh", "-c", ANSWER]
    result = launcher.execute(project, name, "systemd-run", "--quiet", "--unit", f"page-{port}", *listen)
    assert result.code == 0, result.stderr
    end = time.monotonic() + SECONDS
    while reaches(launcher, project, name, f"http://127.0.0.1:{port}/") != ALLOWED:
        assert time.monotonic() < end, f"{name} does not serve"
        time.sleep(0.1)


def give_model(launcher: Launcher, project: str, name: str, model: str) -> None:
    """A model for the stand-in of Ollama."""
    for path, content in model_files(model).items():
        push(launcher, project, content, f"{name}/root/.ollama/models/{path}")


def push(launcher: Launcher, project: str, content: bytes, target: str) -> None:
    """A file into a running machine, as the examples say."""
    assert launcher.incus.home is not None
    (launcher.incus.home / "pushed").write_bytes(content)
    argv = ["incus", "file", "push", "--quiet", "--create-dirs", "--project", project, f"{HOME}/pushed", target]
    result = launcher.incus.run(argv, capture_output=True)
    assert result.returncode == 0, result.stderr


def verified(launcher: Launcher, *options: str) -> dict[tuple[str, str], str]:
    """What `verify` found, when all of it is well."""
    document = launcher.json("verify", *options)
    assert document["ok"]
    assert {check["outcome"] for check in document["checks"]} == {"ok"}
    return {(check["machine"], check["name"]): check["evidence"] for check in document["checks"]}


def holders(launcher: Launcher) -> set[str]:
    """Who holds the one card."""
    (card,) = launcher.json("gpu")["cards"]
    assert card["pci"] == CARD
    return {f"{holder['project']}/{holder['instance']}" for holder in card["holders"]}


# As they are


def test_every_example_is_tested() -> None:
    assert set(FILES) == {folder.name for folder in EXAMPLES.iterdir()} - {"specs"}


@pytest.mark.parametrize("example", FILES)
def test_example_is_valid(example: str, tmp_path: Path) -> None:
    argv = [
        sys.executable,
        "-m",
        "launcher",
        "--store",
        str(tmp_path / "none"),
        "check",
        str(path_of(example)),
        "--json",
    ]
    result = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.returncode == 0, result.stdout
    found = json.loads(result.stdout)
    assert [warning["code"] for warning in found["warnings"]] == WARNINGS[example]
    readme = (EXAMPLES / example / "README.md").read_text()
    for name, machine in found["machines"].items():
        shown = f"`{name}`" if example == "quickstart" else rf"\b{name} +{re.escape(machine['ip'])}\b"
        assert re.search(shown, readme), f"{name} ({machine['ip']}) is not in the README"


def test_examples_show_what_they_are_for() -> None:
    text = path_of("pro-workstation").read_text()
    for wanted in ("nvidia-compute:", "profiles: [default, nvidia-compute]", "gpu: true", "path: /root/.ollama"):
        assert wanted in text
    assert len(list((path_of("llm-supervisor") / "domains").iterdir())) == 3
    assert path_of("sandbox-isolation").read_text().count("from: ") == 1


# Launched


def test_quickstart(launcher: Launcher) -> None:
    only = () if is_older(launcher) else ("--only", "llm")
    launcher.file = path_of("quickstart")
    launcher("apply", "--no-wait", "--only", "llm")  # `llm` is well once it has a model
    push(launcher, "chat", tiny_gguf(), "llm/var/lib/models/tiny.gguf")
    end = time.monotonic() + SECONDS
    while launcher.execute("chat", "llm", "/usr/lib/anklume/healthcheck").code != 0:
        assert time.monotonic() < end, launcher("logs", "llm").stdout
        time.sleep(0.2)
    if not only:
        launcher("apply")
    settled_and_well(launcher, *only)
    found = verified(launcher, *only)
    assert {name for _, name in found} >= {"llama-health", "llama-models", "llama-inference"}
    put_away(launcher, {"default/llm-models"} | ({"default/webui-data"} if not only else set()), protected=True)


def test_pro_workstation(launcher: Launcher) -> None:
    bring_up(launcher, "pro-workstation")
    server = instance(launcher, "ai-tools", "gpu-server")
    assert server["profiles"] == ["default", "nvidia-compute"]
    assert server["expanded_devices"]["gpu"] == {"type": "gpu", "gputype": "physical", "pci": CARD}
    assert "nvidia.runtime" not in server["expanded_config"]  # the host's own driver is given instead
    assert server["expanded_devices"]["host-driver"]["readonly"] == "true"
    assert server["devices"]["vol-models"]["path"] == "/root/.ollama"
    assert server["config"]["user.anklume.ollama_default_model"] == "llama3.2:3b"
    page = instance(launcher, "ai-tools", "webui")
    assert not [device for device in page["expanded_devices"].values() if device["type"] == "gpu"]
    assert page["config"]["user.anklume.open_webui_ollama_url"] == "http://10.120.0.1:11434"
    assert holders(launcher) == {"ai-tools/gpu-server"}

    give_model(launcher, "ai-tools", "gpu-server", "llama3.2:3b")
    told = launcher.json("doctor")["findings"]
    assert [finding for finding in told if finding["subject"] == "gpu-server"] == []
    found = verified(launcher)
    assert set(found) == {
        ("gpu-server", "gpu"),
        ("gpu-server", "ollama-api"),
        ("gpu-server", "ollama-inference"),
        ("gpu-server", "gpu-compute"),
        ("webui", "webui-page"),
        ("webui", "webui-engine"),
    }
    assert "llama3.2:3b" in found["gpu-server", "ollama-inference"]

    models, chat = "http://10.120.0.1:11434/", "http://10.120.0.2:3000/health"
    assert reaches(launcher, "pro", "dev", models) == ALLOWED
    assert reaches(launcher, "pro", "dev", chat) == ALLOWED
    for project, name in (("perso", "home"), ("admin", "control")):
        assert reaches(launcher, project, name, models) == DROPPED
    assert host_reaches(launcher, "10.120.0.2", 3000)
    assert not host_reaches(launcher, "10.120.0.1", 11434)
    for name, port in (("home", 22), ("dev", 22), ("dev", 80)):
        serve(launcher, {"home": "perso", "dev": "pro"}[name], name, port)
    assert reaches(launcher, "admin", "control", "http://10.110.0.1:22/") == ALLOWED
    assert reaches(launcher, "admin", "control", "http://10.110.1.1:22/") == ALLOWED
    assert reaches(launcher, "admin", "control", "http://10.110.1.1:80/") == DROPPED
    assert reaches(launcher, "ai-tools", "gpu-server", "http://10.110.1.1:22/") == DROPPED

    refuses_a_second_holder(launcher)
    if is_older(launcher):  # of no version; once will do
        put_away_and_come_back(launcher)
    put_away(launcher, {"default/models", "default/webui-data"}, protected=True)


def refuses_a_second_holder(launcher: Launcher) -> None:
    """The card is one machine's alone: neither this file nor another gets it for a second one."""
    text = launcher.file.read_text()
    second = "      second:\n        roles: [base_system]\n        gpu: true\n"
    (launcher.folder / "more.yml").write_text(text.replace("      webui:\n", f"{second}      webui:\n"))
    for command in ("plan", "apply"):
        said = launcher(command, code=4, file=launcher.folder / "more.yml").stderr
        assert "second and gpu-server" in said
    other = launcher.folder / "other.yml"
    other.write_text(
        "project_name: other\nglobal: {addressing: {}}\n"
        "domains: {far: {subnet_id: 99, machines: {thief: {roles: [base_system], gpu: true}}}}\n"
    )
    said = launcher("apply", code=4, file=other).stderr
    assert "gpu-server" in said
    assert CARD in said
    assert holders(launcher) == {"ai-tools/gpu-server"}
    assert {"second", "thief"}.isdisjoint(there(launcher)["instances"])


def put_away_and_come_back(launcher: Launcher) -> None:
    """Models outlive the machine that pulled them."""
    launcher("destroy", "--yes", "--force-protected")
    assert there(launcher)["instances"] == set()
    launcher("apply", "--only", "gpu-server")
    assert "llama3.2:3b" in verified(launcher, "--only", "gpu-server")["gpu-server", "ollama-api"]


def test_llm_supervisor(launcher: Launcher) -> None:
    only = () if not is_older(launcher) else tuple(f"--only={name}" for name in ("alpha", "beta", "judge"))
    bring_up(launcher, "llm-supervisor", *only)
    said = launcher("gpu", str(launcher.file)).stderr
    assert "alpha and beta share card 0000:01:00.0" in said
    assert holders(launcher) == {"llm-alpha/alpha", "llm-beta/beta"}

    models = {"alpha": "llama3.1:8b", "beta": "qwen2.5:7b"}
    for name, context in (("alpha", "8192"), ("beta", "4096")):  # one's own beats everybody's
        config = instance(launcher, f"llm-{name}", name)["config"]
        assert config["user.anklume.ollama_default_model"] == models[name]
        assert config["user.anklume.ollama_context_length"] == context
        assert config["user.anklume.ollama_keep_alive"] == "5m"
        give_model(launcher, f"llm-{name}", name, models[name])
    found = verified(launcher, *only)
    for name, model in models.items():
        assert CARD in found[name, "gpu"]
        assert model in found[name, "ollama-inference"]
    if not only:
        assert found["chat", "webui-engine"].count("HTTP 200") == 2
    addresses = {"alpha": "10.120.0.1", "beta": "10.120.1.1"}
    for name, address in addresses.items():
        assert reaches(launcher, "supervisor", "judge", f"http://{address}:11434/") == ALLOWED
        other = addresses["beta" if name == "alpha" else "alpha"]
        assert reaches(launcher, f"llm-{name}", name, f"http://{other}:11434/") == DROPPED

    exclusive = copied(launcher, "llm-supervisor")
    base = exclusive / "base.yml"
    base.write_text(base.read_text().replace("gpu_policy: shared", "gpu_policy: exclusive"))
    said = launcher("plan", code=4, file=exclusive).stderr
    assert "beta and alpha" in said or "alpha and beta" in said
    volumes = {"default/alpha-models", "default/beta-models"} | (set() if only else {"default/chat-data"})
    put_away(launcher, volumes, protected=True)


def copied(launcher: Launcher, example: str) -> Path:
    """The example with all that lies beside it, to be changed."""
    shutil.copytree(EXAMPLES / example, launcher.folder / example)
    return launcher.folder / example / FILES[example]


def test_student_sysadmin(launcher: Launcher) -> None:
    bring_up(launcher, "student-sysadmin")
    assert "nothing to verify" in launcher("verify").stdout
    serve(launcher, "servers", "web", 80)
    serve(launcher, "servers", "db", 5432)
    page, data = "http://10.120.0.10/", "http://10.120.0.11:5432/"
    assert reaches(launcher, "office", "client", page) == ALLOWED
    assert reaches(launcher, "office", "client", data) == DROPPED
    assert reaches(launcher, "servers", "web", data) == ALLOWED
    assert reaches(launcher, "outside", "stranger", page) == DROPPED
    assert launcher.execute("servers", "db", "sh", "-c", "echo kept > /srv/data/file").code == 0

    # The last exercise: the server baked into the image.
    text = launcher.file.read_text()
    launcher.file = launcher.folder / "infra.yml"
    launcher.file.write_text(text.replace("roles: [base_system]", "roles: [base_system, web_server]", 1))
    launcher.specs = SPECS
    assert launcher.json("plan")["waiting"][0]["machine"] == "web"
    launcher("apply", "--replace", "--yes")
    answer = launcher.execute("office", "client", "curl", "-sS", page).stdout.decode()
    assert "This page was baked into the image." in answer
    launcher.settled()
    put_away(launcher, {"default/db-data"}, protected=False)


def test_sandbox_isolation(launcher: Launcher) -> None:
    bring_up(launcher, "sandbox-isolation")
    addresses = {"desk": "10.110.0.1", "reader": "10.140.0.1", "box-a": "10.150.0.1"}
    projects = {"desk": "home", "reader": "intake", "box-a": "trial-a"}
    for name, project in projects.items():
        serve(launcher, project, name, 8000)
    pairs = [(name, other) for name in addresses for other in addresses if name != other]
    with ThreadPoolExecutor(len(pairs)) as pool:  # what is dropped takes its time
        ends = pool.map(lambda pair: reaches(launcher, projects[pair[0]], pair[0], url(addresses[pair[1]])), pairs)
        found = dict(zip(pairs, ends, strict=True))
        assert not any(pool.map(lambda address: host_reaches(launcher, address, 8000), addresses.values()))
    assert found == dict.fromkeys(pairs, DROPPED) | {("desk", "reader"): ALLOWED}
    links = launcher.execute("trial-b", "box-b", "ls", "/sys/class/net").stdout.decode().split()
    assert links == ["lo"]
    ids = {
        name: launcher.execute(project, name, "cat", "/proc/self/uid_map").stdout.split()[1:]
        for name, project in {"reader": "intake", "box-a": "trial-a", "box-b": "trial-b"}.items()
    }
    assert len({first for first, _ in ids.values()}) == 3
    assert {int(count) for _, count in ids.values()} == {65536}
    assert instance(launcher, "intake", "reader")["expanded_config"]["limits.processes"] == "500"
    put_away(launcher, set(), protected=True)
