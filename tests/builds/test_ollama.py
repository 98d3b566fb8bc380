"""Ollama's image, built from a stand-in for its release and booted in both Incus: server, settings, wanted models."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from anklume_images.architectures import host_architecture
from anklume_images.builder.sandbox import Job, Mount, Step, run_job
from anklume_images.specs.catalog import builtin_specs
from tests.support.ollama.program import LIBRARIES, VERSION
from tests.support.ollama.release import (
    NAME,
    NOWHERE,
    PINNED,
    build_images,
    copy_spec,
    make_tarball,
)
from tests.support.private_ca import PrivateCA

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anklume_images.builder.trees import Tree
    from anklume_images.pipeline import Pipeline
    from anklume_images.store.images import Image
    from tests.builds.images import Host, Machine
    from tests.conftest import Cli

pytest_plugins = ("tests.builds.images",)
HOME = "/root/.ollama"
URL = "http://127.0.0.1:11434"
ICDS = "/usr/share/vulkan/icd.d"
REGISTRY = "10.209.0.1:5000"  # an address of the private network


@pytest.fixture(scope="session")
def tarball(toolchain: Tree, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return make_tarball(toolchain.root, tmp_path_factory.mktemp("stand-in"))


@pytest.fixture(scope="session")
def images(tarball: bytes, pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Image]:
    """`ollama` and its variants of the stand-in, locked and built as the real ones are."""
    names = ("ollama", "ollama-cpu", "ollama-mesa")
    return build_images(pipeline, tarball, tmp_path_factory.mktemp("release"), names)


@pytest.fixture(scope="session")
def contents(images: dict[str, Image], pipeline: Pipeline, toolchain: Tree, tmp_path_factory: pytest.TempPathFactory):
    """What is in an image: `-rw-r--r-- root/root` by path."""

    def read(name: str) -> dict[str, str]:
        folder = tmp_path_factory.mktemp("listing")
        (folder / "stage").mkdir()
        squashfs = pipeline.store.blobs.path(images[name].rootfs.sha256)
        job = Job(
            root=str(toolchain.root),
            stage=str(folder / "stage"),
            log=str(folder / "log"),
            steps=(Step("list", ("unsquashfs", "-ll", "-d", "", "/image"), output=str(folder / "list")),),
            mounts=(Mount("/image", str(squashfs)),),
        )
        assert run_job(job).ok
        rows = [line.split(maxsplit=5) for line in (folder / "list").read_text().splitlines()]
        return {row[5]: f"{row[0]} {row[1]}" for row in rows if len(row) == 6}

    return read


@pytest.fixture(scope="module")
def machine(host: Host, images: dict[str, Image]) -> Iterator[Machine]:
    """An instance that each test restarts with the settings that it needs; a stand-in of a card's node is in it."""
    card = {"type": "unix-char", "source": "/dev/null", "path": "/dev/dri/renderD128", "gid": "44", "mode": "0660"}
    with host.launched(images["ollama-mesa"], nodes={"card": card}) as machine:
        yield machine


@contextlib.contextmanager
def registry(host: Host, authority: PrivateCA) -> Iterator[None]:
    """A stand-in for the registry, at an address of the private network; it has the model `tiny`."""
    argv = [sys.executable, "-m", "tests.support.ollama.registry", *REGISTRY.split(":"), str(authority.pem)]
    command = host.incus.command(argv, network_only=True)
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=root) as process:
        try:
            yield
        finally:
            process.kill()


def models(machine: Machine, url: str = URL) -> list[str]:
    return [model["name"] for model in machine.request(f"{url}/api/tags").json()["models"]]


# what is in the image


def test_release_is_unpacked_with_its_runners(contents: Callable[[str], dict[str, str]]) -> None:
    found = contents("ollama")
    assert {f"/usr/lib/ollama/{name}" for name in LIBRARIES.split()} <= found.keys()
    assert found["/usr/bin/ollama"] == "-rwxr-xr-x root/root"
    # The tarball's own folders are a group's to write to.
    assert {found[path] for path in ("/usr", "/usr/bin", "/usr/lib", "/etc")} == {"drwxr-xr-x root/root"}


def test_variant_cpu_has_no_gpu_runners(contents: Callable[[str], dict[str, str]]) -> None:
    everything = {path for path in contents("ollama") if path.startswith("/usr/lib/ollama/")}
    found = {path for path in contents("ollama-cpu") if path.startswith("/usr/lib/ollama/")}
    gpu = {path for path in everything if "/cuda_" in path or "/vulkan" in path}
    assert len(gpu) == 7
    assert found == everything - gpu


def test_variant_mesa_has_the_drivers_of_amds_and_intels_cards_beside_all_the_rest(
    contents: Callable[[str], dict[str, str]],
) -> None:
    everything, found = contents("ollama"), contents("ollama-mesa")
    assert everything.keys() <= found.keys()
    more = found.keys() - everything.keys()
    drivers = {path.rpartition("/")[2].partition("_icd")[0] for path in more if path.startswith(f"{ICDS}/")}
    assert {"radeon", "intel", "lvp"} <= drivers


def test_no_key_is_in_the_image(contents: Callable[[str], dict[str, str]]) -> None:
    found = contents("ollama")
    assert found[HOME] == "drwx------ root/root"
    assert not [path for path in found if "id_ed25519" in path or path.startswith(f"{HOME}/")]


def test_image_says_what_it_is(images: dict[str, Image]) -> None:
    image = images["ollama"]
    assert image.version.startswith(f"{VERSION}-")
    assert image.spec["provides"] == ["ollama_server", "base_system"]
    assert image.spec["volumes"] == [{"path": HOME, "kind": "models"}]
    assert [package.version for package in image.packages if package.kind == "file"] == [
        f"v0.32.7/{NAME.format(image.architecture)}"
    ]


# the upstream


def test_real_release_is_locked_by_its_pinned_hash(pipeline: Pipeline) -> None:
    for name in ("ollama", "ollama-cpu", "ollama-mesa"):
        (file,) = pipeline.locks.get(name).files
        assert file.sha256 == PINNED[pipeline.options.architecture]


def test_an_upstream_that_cannot_be_reached_stops_no_other_image(
    anklume: Cli, tarball: bytes, built: Callable[[str], Image], tmp_path: Path
) -> None:
    specs = copy_spec(tmp_path, tarball + b"another")
    built("debian")
    anklume("--specs", str(specs), "lock", "ollama")
    result = anklume("--specs", str(specs), "build", "ollama", "debian", "--json", check=False)
    assert result.returncode == 1
    assert f"{NOWHERE}/v0.32.7/{NAME.format(host_architecture())}: Connection refused" in result.stderr
    assert "mirrors: {ollama: [URL]}" in result.stderr
    states = {entry["name"]: entry["status"] for entry in json.loads(result.stdout)["images"]}
    assert states == {"debian": "present", "ollama": "failed"}


# in an instance


def test_boots_answers_and_makes_its_key(each_host: Host, images: dict[str, Image]) -> None:
    with each_host.launched(images["ollama"], volumes={HOME: "ollama"}) as machine:
        assert machine.boot() == "running"
        machine.wait(machine.healthy, "ollama")
        assert machine.request(f"{URL}/api/version").json() == {"version": VERSION}
        assert models(machine) == []
        key = machine.output("cat", f"{HOME}/id_ed25519")
        assert machine.output("stat", "--format", "%a %U", f"{HOME}/id_ed25519") == "600 root\n"
        machine.wait(lambda: machine.show("ollama-models", "ActiveState") == "inactive", "ollama-models")
        assert machine.show("ollama-models", "Result") == "success"
    with each_host.launched(images["ollama-cpu"], volumes={HOME: "ollama"}) as another:
        another.wait(another.healthy, "ollama")
        assert another.output("cat", f"{HOME}/id_ed25519") == key


def test_settings_reach_the_server_as_values(machine: Machine) -> None:
    keep = "5m$(touch /tmp/owned)'\"\\"
    machine.restart(
        ollama_host="127.0.0.1:8000",
        ollama_keep_alive=keep,
        ollama_context_length="8192",
        ollama_no_cloud="false",
        ollama_origins="https://app.example app://*",
        ollama_num_parallel="3",
        ollama_flash_attention="false",
        ollama_proxy="http://bob:p%25$(id)@proxy.example:3128",
        ollama_no_proxy="10.0.0.0/8 mirror.example",
        ollama_ca="-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n",
        ollama_environment=f"OLLAMA_DEBUG=1\nOLLAMA_HOST=elsewhere\nODD={keep}\nnot a name=x\n",
    )
    machine.wait(machine.healthy, "ollama")
    assert machine.request("http://127.0.0.1:8000/api/version").status == 200
    assert machine.run("curl", "--silent", f"{URL}/api/version").code == 7
    environment = machine.output("cat", f"/proc/{machine.show('ollama', 'MainPID')}/environ").split("\0")
    found = dict(entry.split("=", 1) for entry in environment if entry)
    assert found["OLLAMA_HOST"] == "127.0.0.1:8000"
    assert found["OLLAMA_KEEP_ALIVE"] == keep
    assert found["OLLAMA_CONTEXT_LENGTH"] == "8192"
    assert found["HOME"] == "/root"
    assert found["OLLAMA_ORIGINS"] == "https://app.example,app://*"
    assert (found["OLLAMA_NUM_PARALLEL"], found["OLLAMA_FLASH_ATTENTION"]) == ("3", "false")
    assert found["HTTPS_PROXY"] == "http://bob:p%25$(id)@proxy.example:3128"
    assert found["NO_PROXY"] == "10.0.0.0/8,mirror.example"
    assert "BEGIN CERTIFICATE" in machine.output("cat", found["SSL_CERT_FILE"])
    assert (found["OLLAMA_DEBUG"], found["ODD"]) == ("1", keep)
    assert not {"HTTP_PROXY", "not a name"} & found.keys()
    assert machine.output("stat", "--format", "%a", "/etc/anklume/ollama-environment") == "600\n"
    assert "OLLAMA_NO_CLOUD" not in found
    assert machine.run("test", "-e", "/tmp/owned").code == 1


@pytest.mark.parametrize(
    ("host_setting", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("0.0.0.0:80", "http://127.0.0.1:80"),
        (":8000", "http://127.0.0.1:8000"),
        ("10.1.2.3:90", "http://10.1.2.3:90"),
        ("http://0.0.0.0", "http://127.0.0.1:80"),
        ("http://10.1.2.3:90/x", "http://10.1.2.3:90"),
        ("[::]:11434", "http://[::1]:11434"),
        ("::", "http://[::1]:11434"),
        ("fd00::1", "http://[fd00::1]:11434"),
        ("a$(id)`id`;b:9", "http://a$(id)`id`;b:9"),
    ],
)
def test_address_by_which_the_instance_asks_itself(host_setting: str, url: str, tmp_path: Path) -> None:
    script = (builtin_specs() / "ollama/files/ollama-url").read_text()
    (tmp_path / "ollama.env").write_text(f"SERVICE_ENABLED=true\nHOST={host_setting}\nNO_CLOUD=true\n")
    script = script.replace("/etc/anklume", str(tmp_path))
    result = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout == f"{url}\n"


def test_wanted_models_without_a_network(machine: Machine) -> None:
    machine.restart(
        ollama_default_model="tiny",
        ollama_extra_models='other:1b $(touch$IFS/tmp/owned) --help * a"},{"b',
    )
    assert machine.boot() == "running"
    machine.wait(machine.healthy, "ollama")
    machine.output("ip", "route", "del", "default")
    machine.output("systemctl", "restart", "ollama-models")
    said = "cannot be pulled: there is no network (no default route). Ollama says: pull model manifest: Get "
    machine.wait(lambda: f"other:1b {said}" in machine.journal("ollama-models"), "ollama-models")
    machine.wait(lambda: "trying again later" in machine.journal("ollama-models"), "ollama-models")
    journal = machine.journal("ollama-models")
    assert f'tiny {said}"https://registry.ollama.ai/v2/library/tiny/manifests/latest": dial tcp: ' in journal
    for name in ("$(touch$IFS/tmp/owned)", "--help", "*", 'a"},{"b'):
        assert f"{name} is not the name of a model and is left out" in journal.splitlines()
    assert machine.run("test", "-e", "/tmp/owned").code == 1
    machine.wait(lambda: machine.show("ollama-models", "SubState") == "auto-restart", "ollama-models")
    assert machine.boot() == "running"
    assert machine.healthy()


def test_wanted_models_are_pulled_once_they_can_be(host: Host, images: dict[str, Image], tmp_path: Path) -> None:
    model = f"{REGISTRY}/library/tiny"
    authority = PrivateCA(tmp_path, REGISTRY.partition(":")[0])
    wanted = {"ollama_default_model": model, "ollama_extra_models": f"{REGISTRY}/library/nothing"}
    wanted["ollama_ca"] = authority.path.read_text()
    with host.launched(images["ollama"], volumes={HOME: "pulled"}, **wanted) as machine:
        machine.wait(lambda: f"{model} cannot be pulled: pull model manifest: Get" in machine.journal("ollama-models"))
        with registry(host, authority):
            # By its own next attempt.
            machine.wait(lambda: f"{model} is there now" in machine.journal("ollama-models"), "ollama-models")
            said = f"{REGISTRY}/library/nothing cannot be pulled: pull model manifest: file does not exist"
            machine.wait(lambda: said in machine.journal("ollama-models").splitlines(), "ollama-models")
        assert models(machine) == [f"{model}:latest"]
        answer = machine.request(f"{URL}/api/generate", {"model": model, "prompt": "hello", "stream": False})
        assert answer.json()["response"] == "stand-in: hello"
        machine.restart(ollama_default_model=model)
        machine.wait(lambda: f"{model} is there\n" in machine.journal("ollama-models"), "ollama-models")
        machine.wait(lambda: machine.show("ollama-models", "ActiveState") == "inactive", "ollama-models")
        assert machine.show("ollama-models", "Result") == "success"


def test_variant_mesa_computes_on_a_card_by_its_driver(machine: Machine) -> None:
    """What looks for driver and card is the stand-in; the drivers are Mesa's own, with all that they need."""
    machine.restart()
    machine.wait(machine.healthy, "ollama")
    assert re.search(r'msg="inference compute".* library=Vulkan .*name=Vulkan0 ', machine.journal("ollama"))
    for driver in ("radeon", "intel"):
        library = json.loads(machine.output("sh", "-c", f"cat {ICDS}/{driver}_icd*.json"))["ICD"]["library_path"]
        needed = machine.output("sh", "-c", f"ldd /usr/lib/*-linux-gnu/{library.rpartition('/')[2]}")
        assert "libc.so.6 => /" in needed
        assert "not found" not in needed


def test_server_is_started_again_when_it_dies(machine: Machine) -> None:
    machine.restart()
    machine.wait(machine.healthy, "ollama")
    machine.output("systemctl", "kill", "--signal", "KILL", "ollama")
    machine.wait(lambda: machine.show("ollama", "NRestarts") == "1" and machine.healthy(), "ollama")


def test_switched_off_nothing_runs_and_all_is_well(machine: Machine) -> None:
    machine.restart(ollama_service_enabled="false", ollama_default_model="tiny")
    assert machine.boot() == "running"
    for unit in ("ollama", "ollama-models"):
        assert machine.show(unit, "ActiveState") == "inactive"
    assert machine.healthy()


def test_services_run_confined(machine: Machine) -> None:
    machine.restart(ollama_default_model="tiny")
    machine.wait(machine.healthy, "ollama")
    pid = machine.show("ollama", "MainPID")
    status = dict(line.split(":\t", 1) for line in machine.output("cat", f"/proc/{pid}/status").splitlines())
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    # Whatever mode models have (1), and ports below 1024 (10).
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 1 << 1 | 1 << 10
    mounts = machine.output("cat", f"/proc/{pid}/mountinfo").splitlines()
    options = {line.split()[4]: line.split()[5].split(",") for line in mounts}
    assert ("ro" in options["/"], "rw" in options[HOME]) == (True, True)
