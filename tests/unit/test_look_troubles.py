"""Troubles of machines recognised from journals, nvidia-smi, sockets and connection tests."""

from __future__ import annotations

import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from anklume_images.incus.client import Result
from launcher.engines.engine import Loaded
from launcher.engines.page import NoAdministrator
from launcher.gpu.cards import Card
from launcher.gpu.driver import Driver
from launcher.gpu.nvidia_smi import Figures
from launcher.gpu.preflight import Obstacle
from launcher.gpu.vendors.nvidia_driver import NO_VULKAN, driver_troubles
from launcher.gpu_policy.refusals import Refusal
from launcher.infra.model import Policy
from launcher.inspect.facts import CommandResult
from launcher.inspect.findings import machine_findings
from launcher.inspect.nodes import NodeTest
from launcher.inspect.vulkan import VulkanDriver, read_vulkan
from launcher.observe.live import Lease
from tests.unit.look import CARD, HOST, engine_test, evidence, infra, machine, seen

if TYPE_CHECKING:
    from launcher.inspect.facts import Finding, MachineFacts, ServerFacts

OLLAMA, WEBUI, LLAMA = "ollama_server", "open_webui", "llama_server"
GIB = 1 << 30
BRAIN = machine("brain", "ai", 1, gpu=True)
WEB = machine("webui", "web", 1)
URL = "http://10.1.0.1:11434"
GPU = {"gpu0": {"type": "gpu", "pci": CARD.pci}}
READY = seen(BRAIN, devices=GPU, config={"nvidia.runtime": "true"})
FOLDER = {"type": "disk", "source": "/usr/local/nvidia/lib64", "path": "/usr/lib/host-driver/lib"}
LINKED = seen(BRAIN, devices=GPU | {"host-driver": FOLDER})
NOT_FOUND = CommandResult(127, "nvidia-smi: not found")
WORKS = CommandResult(0, "fine")
POLICY = Policy("web", "ai", (11434,))


def found(*machines: MachineFacts, policies: tuple[Policy, ...] = (POLICY,), host: ServerFacts = HOST) -> list[Finding]:
    file = infra(*(one.seen.machine for one in machines), policies=policies)
    return machine_findings(file, machines, host)


def brain(**keys: object) -> MachineFacts:
    keys.setdefault("nvidia_smi", WORKS)
    keys.setdefault("seen", READY)
    return evidence(BRAIN, OLLAMA, **keys)


def test_a_machine_that_works_has_none() -> None:
    journal = ('level=INFO msg="inference compute" id=GPU-1 library=CUDA compute=8.9', "offloaded 33/33 layers to GPU")
    assert found(brain(journal=journal, loaded=(Loaded("m", 2 * GIB, 2 * GIB),))) == []


# 1. no nvidia-smi


@pytest.mark.parametrize(
    ("looks", "host", "cause"),
    [
        (seen(BRAIN, devices={"root": {"type": "disk"}}), HOST, "no gpu device"),
        (seen(BRAIN, devices=GPU), HOST, "neither the host's driver nor nvidia.runtime"),
        (seen(BRAIN, devices=GPU, config={"nvidia.runtime": "false"}), HOST, "neither the host's driver"),
        (LINKED, HOST, "not those of the host's running driver"),
        (LINKED, replace(HOST, driver=Driver("550.54.15", ("560.35.03",), uvm=True)), "not in order"),
        (READY, replace(HOST, container_tools=False), "lacks what nvidia.runtime calls"),
        (READY, replace(HOST, lxc_hook=False), "lacks what nvidia.runtime calls"),
        (READY, replace(HOST, cards=()), "no card that Incus lists"),
        (READY, HOST, "not those of the host's running driver"),
    ],
)
def test_nvidia_smi_missing_and_why(looks: object, host: ServerFacts, cause: str) -> None:
    (finding,) = found(brain(seen=looks, nvidia_smi=NOT_FOUND), host=host)
    assert (finding.code, finding.severity, finding.subject) == ("nvidia-smi-not-found", "error", "brain")
    assert cause in finding.cause
    assert "nvidia-smi ended with 127: nvidia-smi: not found" in finding.evidence


def test_image_without_the_boot_step() -> None:
    step = CommandResult(127, "the image has no /usr/lib/anklume/gpu-driver")
    (finding,) = found(brain(seen=LINKED, nvidia_smi=NOT_FOUND, boot_step=step))
    assert "no boot step" in finding.cause
    assert "--replace" in finding.remedy
    assert any("/usr/local/nvidia/lib64 of the host" in line for line in finding.evidence)
    assert f"the boot step: {step.text}" in finding.evidence


def test_what_the_boot_step_said_is_shown() -> None:
    step = CommandResult(0, "no driver linked")
    (finding,) = found(brain(seen=LINKED, nvidia_smi=CommandResult(12, "couldn't find"), boot_step=step))
    assert (finding.code, "the boot step: no driver linked" in finding.evidence) == ("nvidia-smi-fails", True)


def test_what_is_said_of_the_host_is_not_said_of_each_machine() -> None:
    host = replace(HOST, driver=Driver("550.54.15", ("560.35.03",), uvm=True))
    known = tuple(replace(trouble, machine="brain") for trouble in driver_troubles(host.cards, host.driver))
    assert len(known) == 1
    note = Obstacle("brain", "a", "b", fatal=False, note=True)
    assert found(brain(obstacles=(*known, note)), host=host) == []
    assert [finding.code for finding in found(brain(obstacles=known))] == ["gpu-preflight"]


def test_nvidia_smi_that_fails_is_another_trouble() -> None:
    said = CommandResult(18, "Failed to initialize NVML: Driver/library version mismatch")
    (finding,) = found(brain(nvidia_smi=said))
    assert finding.code == "nvidia-smi-fails"
    assert "version mismatch" in finding.evidence[0]
    assert "restart the host" in finding.remedy


def test_the_tools_of_nvidia_runtime_are_named_where_they_are_missing() -> None:
    """No finding about the host speaks of them, as most machines do without."""
    (finding,) = found(brain(nvidia_smi=NOT_FOUND), host=replace(HOST, container_tools=False))
    assert "libnvidia-container-tools" in finding.remedy
    assert "finding" not in finding.remedy


# 2. cards of other makers

AMD = Card("0000:03:00.0", "1002", vendor="AMD", driver="amdgpu", drm=("card1", "renderD129"))
INTEL = replace(AMD, vendor_id="8086", vendor="Intel", driver="xe")
OTHER = replace(AMD, vendor_id="1d17", vendor="Zhaoxin", driver="zx")
NODE = "/dev/dri/renderD129"
OPENS, ABSENT = NodeTest(NODE, "root"), NodeTest(NODE, "root", there=False, opened=False)
CLOSED = NodeTest(NODE, "llama-server", opened=False, said="cannot open it: Permission denied")
FREED = seen(BRAIN, devices={"gpu0": {"type": "gpu", "pci": AMD.pci}})


def freed(*journal: str, **keys: object) -> MachineFacts:
    """A machine with the card 03:00.0, in which nobody could find an nvidia-smi."""
    keys.setdefault("nodes", (OPENS,))
    keys.setdefault("seen", FREED)
    return brain(nvidia_smi=NOT_FOUND, journal=journal, **keys)


BESIDE = pytest.mark.parametrize("beside", [(), (CARD,)], ids=["alone", "beside-nvidia"])


@BESIDE
@pytest.mark.parametrize("card", [AMD, INTEL, OTHER], ids=["amd", "intel", "other"])
def test_a_machine_with_another_makers_card_needs_no_nvidia_smi(card: Card, beside: tuple[Card, ...]) -> None:
    host = replace(HOST, cards=(*beside, card))
    assert found(freed("offloaded 31/31 layers to GPU"), host=host) == []
    without = evidence(BRAIN, OLLAMA, seen=FREED, nodes=(OPENS,))
    assert found(without, host=host) == []


def test_a_machine_with_nvidias_card_hears_of_nvidia_smi_beside_another_makers() -> None:
    host = replace(HOST, cards=(CARD, AMD))
    assert [finding.code for finding in found(brain(nvidia_smi=NOT_FOUND), host=host)] == ["nvidia-smi-not-found"]


@pytest.mark.parametrize(
    ("keys", "cause", "remedy"),
    [
        ({"nodes": (ABSENT,)}, f"does not have {NODE}", "restart it"),
        ({"nodes": (CLOSED,)}, f"llama-server, as whom the engine runs, cannot open {NODE}", 'gid: "44", mode: "0660"'),
        ({"seen": seen(BRAIN), "nodes": (), "granted": (AMD,)}, "no gpu device", "set gpu: true"),
    ],
)
def test_a_card_whose_nodes_the_engine_cannot_open(keys: dict[str, Any], cause: str, remedy: str) -> None:
    first, second = found(freed(CPU_LINES[0], **keys), host=replace(HOST, cards=(CARD, AMD)))
    assert (first.code, first.severity, first.subject) == ("gpu-node", "error", "brain")
    assert cause in first.cause
    assert remedy in first.remedy
    assert any(AMD.pci in line for line in first.evidence)
    assert (second.code, "the finding gpu-node" in second.remedy) == ("engine-on-cpu", True)


def test_a_card_whose_driver_makes_no_node() -> None:
    bare = replace(AMD, driver="vfio-pci", drm=())
    (finding,) = found(freed(nodes=()), host=replace(HOST, cards=(bare,)))
    assert (finding.code, "no render node" in finding.cause) == ("gpu-node", True)
    assert any("vfio-pci" in line for line in finding.evidence)


def test_memory_of_another_makers_card_is_shown() -> None:
    figures = Figures(AMD.pci, "", "Navi 31", 16 * GIB, 15 * GIB, "")
    (finding,) = found(freed(VRAM_LINES[4], cards=(figures,)), host=replace(HOST, cards=(AMD,)))
    assert finding.evidence == (VRAM_LINES[4], f"{AMD.pci}: 15.0 GiB of 16.0 GiB are in use")


# 3. on the CPU

CPU_LINES = [
    'time=2025-01-01T10:00:00Z level=INFO source=types.go:42 msg="inference compute" id=cpu library=cpu compute=""',
    'level=INFO source=gpu.go:602 msg="no nvidia devices detected" library=/usr/lib/x86_64-linux-gnu/libcuda.so.1',
    'level=INFO source=gpu.go:377 msg="no compatible GPUs were discovered"',
    'level=WARN msg="unable to load cuda driver library" library=libcuda.so error="…"',
    "ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected",
    "CUDA driver version is insufficient for CUDA runtime version",
    "load_tensors: offloaded 0/33 layers to GPU",
    "warning: no usable GPU found, --gpu-layers option will be ignored",
]


@pytest.mark.parametrize("line", [line for line in CPU_LINES if "no nvidia devices" not in line])
def test_an_engine_on_the_cpu_is_known_by_its_journal(line: str) -> None:
    (finding,) = found(brain(journal=("starting", line, "Listening")))
    assert (finding.code, finding.evidence[0]) == ("engine-on-cpu", line)
    assert "the runner cannot use it" in finding.cause


REASONS = [
    'level=INFO msg="failure during llama-server GPU discovery" error="llama-server binary not found"',
    'level=WARN msg="llama-server GPU discovery watchdog timed out"',
    'level=WARN msg="NVIDIA driver too old" required_driver="550 or newer"',
    'level=WARN msg="AMD driver is too old."',
]


@pytest.mark.parametrize("line", REASONS)
def test_why_an_engine_is_on_the_cpu_is_shown_where_it_is(line: str) -> None:
    (finding,) = found(brain(journal=(line, CPU_LINES[0])))
    assert (finding.code, finding.evidence) == ("engine-on-cpu", (line, CPU_LINES[0]))
    assert found(brain(journal=(line, 'msg="inference compute" id=0 library=Vulkan'))) == []


def test_a_variable_that_hides_the_card_is_named_as_the_cause() -> None:
    line = 'level=WARN msg="user overrode visible devices" CUDA_VISIBLE_DEVICES=-1'
    (finding,) = found(brain(journal=(line, CPU_LINES[0])))
    assert (finding.code, line in finding.evidence) == ("engine-on-cpu", True)
    assert "take that variable out" in finding.remedy
    assert found(brain(journal=(line, 'msg="inference compute" id=0 library=CUDA'))) == []


SUSPENDED = [
    "ggml_cuda_init: failed to initialize CUDA: unknown error",
    "cuda driver library failed to get device context 999time=2025-07-11T07:00:00.476Z level=WARN source=gpu.go:434",
    'msg="unknown error initializing cuda driver library" error="cuda driver library init failure: 999"',
    "CUDA error 999: unknown error",
]


@pytest.mark.parametrize("line", SUSPENDED)
def test_after_a_suspend_the_module_is_to_be_loaded_again(line: str) -> None:
    (finding,) = found(brain(seen=seen(BRAIN, devices=GPU), nvidia_smi=CommandResult(0, ""), journal=(line,)))
    assert (finding.code, finding.evidence) == ("gpu-after-suspend", (line,))
    assert "modprobe nvidia_uvm" in finding.remedy


@pytest.mark.parametrize(
    "text",
    [
        "Unable to determine the device handle for GPU0000:01:00.0: Unknown Error",
        "Unable to determine the device handle for GPU 0000:01:00.0: GPU is lost.  Reboot the system",
    ],
)
def test_a_card_that_does_not_answer_is_lost(text: str) -> None:
    (finding,) = found(brain(seen=seen(BRAIN, devices=GPU), nvidia_smi=CommandResult(15, text)))
    assert (finding.code, "Xid" in finding.remedy) == ("gpu-lost", True)


def test_a_driver_that_cannot_compile_for_the_card_is_too_old() -> None:
    line = "CUDA error: the provided PTX was compiled with an unsupported toolchain."
    (finding,) = found(brain(seen=seen(BRAIN, devices=GPU), nvidia_smi=CommandResult(0, ""), journal=(line,)))
    assert (finding.code, finding.evidence) == ("cuda-newer-than-driver", (line,))


def test_a_card_that_rocm_does_not_know_ends_the_runner() -> None:
    line = "rocBLAS error: Cannot read /usr/lib/rocblas/library/TensileLibrary.dat for GPU arch : gfx1036"
    assert [finding.code for finding in found(brain(journal=(line,)))] == ["runner-died"]


def test_a_runner_that_died_is_quoted() -> None:
    line = 'level=ERROR msg="error loading model" error="llama runner process has terminated: CUDA error: invalid"'
    (finding,) = found(brain(journal=(line, "GIN 500")))
    assert (finding.code, finding.evidence) == ("runner-died", (line,))
    assert line in finding.cause
    out_of_memory = "llama runner process has terminated: CUDA error: out of memory"
    assert [finding.code for finding in found(brain(journal=(out_of_memory,)))] == ["out-of-vram"]


@BESIDE
@pytest.mark.parametrize("card", [AMD, INTEL, OTHER], ids=["amd", "intel", "other"])
def test_other_makers_cards_never_hear_of_nvidia(card: Card, beside: tuple[Card, ...]) -> None:
    """Nor of a finding that there is not: the one that there is names its cause itself."""
    one = freed(CPU_LINES[0], "no usable GPU found", able_images=("ollama-mesa",))
    (finding,) = found(one, host=replace(HOST, cards=(*beside, card)))
    assert finding.code == "engine-on-cpu"
    text = f"{finding.cause} {finding.remedy} {' '.join(finding.evidence)}"
    assert not re.search("CUDA|NVIDIA|the finding", text, re.IGNORECASE)
    assert card is OTHER or card.vendor in finding.cause
    assert "ollama-mesa" in finding.remedy


def test_rocms_own_words_for_no_card() -> None:
    line = "ggml_cuda_init: failed to initialize ROCm: no ROCm-capable device is detected"
    (finding,) = found(freed(line), host=replace(HOST, cards=(AMD,)))
    assert (finding.code, finding.evidence) == ("engine-on-cpu", (line,))


def test_a_second_way_to_the_card_is_no_trouble() -> None:
    failed, works = CPU_LINES[4], "load_tensors: offloaded 31/31 layers to GPU"
    assert found(brain(journal=(failed, works))) == []
    assert [finding.code for finding in found(brain(journal=(failed, works, CPU_LINES[6])))] == ["engine-on-cpu"]


def test_an_engine_on_the_cpu_is_known_by_where_its_model_is() -> None:
    (finding,) = found(brain(loaded=(Loaded("llama3.2:3b", 2 * GIB, 0),)))
    assert finding.evidence == ("llama3.2:3b: 0 of 2.0 GiB are in the card (/api/ps)",)


def test_one_device_among_several_on_the_cpu_is_no_trouble() -> None:
    lines = ('msg="inference compute" library=CUDA', 'msg="inference compute" library=cpu')
    assert found(brain(journal=lines)) == []


def test_a_machine_that_never_had_a_card_may_use_its_cpu() -> None:
    plain = machine("plain")
    assert found(evidence(plain, OLLAMA, journal=tuple(CPU_LINES), loaded=(Loaded("m", GIB, 0),))) == []


def test_the_cpu_follows_from_a_missing_nvidia_smi() -> None:
    line = CPU_LINES[2]
    both = found(brain(seen=seen(BRAIN, devices=GPU), nvidia_smi=NOT_FOUND, journal=(line,)))
    assert [finding.code for finding in both] == ["nvidia-smi-not-found", "engine-on-cpu"]
    assert "first the finding about nvidia-smi" in both[1].remedy


def test_the_cpu_follows_from_an_image_that_cannot_use_the_card() -> None:
    image = replace(READY, image="ollama-cpu@1.0-abc")
    (finding,) = found(
        brain(seen=image, journal=(CPU_LINES[2],), unusable=(CARD,), able_images=("ollama", "other")),
    )
    assert (finding.code, finding.severity) == ("image-not-for-gpu", "warning")
    assert "ollama-cpu" in finding.cause
    assert "ollama or other" in finding.remedy


ONLY_CPU = ("0.00.145.478 I cmn  common_param:   - CPU     : AMD EPYC (24105 MiB, 24105 MiB free)",)
NO_DEVICES = "0.00.124.252 I ggml_vulkan: No devices found."
LLM = machine("llm", gpu=True)


def llm(*journal: str, **keys: object) -> MachineFacts:
    return evidence(LLM, LLAMA, nvidia_smi=WORKS, journal=journal, seen=seen(LLM, devices=GPU), **keys)


WRONG = VulkanDriver("/etc/wrong.json", "libgone.so.1", there=False)
RIGHT = VulkanDriver("/usr/share/vulkan/icd.d/lvp_icd.json", "libvulkan_lvp.so", there=True)


@pytest.mark.parametrize(
    ("drivers", "cause", "remedy"),
    [
        ((WRONG,), "/etc/wrong.json names libgone.so.1", "correct or remove that file"),
        ((WRONG, RIGHT), "/etc/wrong.json names libgone.so.1", "correct or remove that file"),
        (tuple(replace(one, variable="VK_DRIVER_FILES") for one in (WRONG, RIGHT)), "libgone.so.1", RIGHT.file),
        ((replace(WRONG, variable="VK_DRIVER_FILES"),), "/etc/wrong.json", "take VK_DRIVER_FILES out"),
        ((replace(WRONG, library=""),), "/etc/wrong.json is not there", "correct or remove that file"),
    ],
)
@pytest.mark.parametrize("linked", [None, CommandResult(0, "fine")])
def test_vulkan_without_its_driver(
    drivers: tuple[VulkanDriver, ...], cause: str, remedy: str, linked: CommandResult | None
) -> None:
    (finding,) = found(llm(NO_DEVICES, vulkan=drivers, boot_step=linked))
    assert (finding.code, finding.severity, finding.subject) == ("vulkan-driver-missing", "error", "llm")
    assert cause in finding.cause
    assert remedy in finding.remedy
    assert finding.evidence[0] == NO_DEVICES
    assert len(finding.evidence) == 2
    by_variable = any(driver.variable for driver in drivers)
    assert ("links the host's driver anew" in finding.remedy) == (linked is not None and not by_variable)


def test_vulkan_on_a_host_whose_driver_came_without_it() -> None:
    linked = CommandResult(0, f"no libEGL_nvidia.so.550.54.15: {NO_VULKAN} driver 550.54.15: 9 libraries linked")
    (finding,) = found(llm(*ONLY_CPU, boot_step=linked))
    assert finding.code == "vulkan-driver-missing"
    assert "libegl-nvidia0" in finding.remedy
    assert [one.code for one in found(llm(*ONLY_CPU, boot_step=replace(linked, text="fine")))] == ["engine-on-cpu"]


def test_a_server_that_lists_a_card_among_its_devices_is_not_on_the_cpu() -> None:
    card = "0.00.060 I cmn  common_param:   - Vulkan0 : NVIDIA H100 80GB HBM3 (81559 MiB, 81062 MiB free)"
    assert found(llm(card, *ONLY_CPU)) == []


def test_vulkan_that_finds_no_card_by_a_driver_that_is_there() -> None:
    (finding,) = found(llm(NO_DEVICES, vulkan=(RIGHT,)))
    assert finding.code == "engine-on-cpu"
    assert "Vulkan" in finding.cause


def test_a_wrong_driver_beside_a_model_on_the_card_is_no_trouble() -> None:
    assert found(llm(NO_DEVICES, "offloaded 31/31 layers to GPU", vulkan=(WRONG,))) == []
    later = found(llm("offloaded 31/31 layers to GPU", "offloaded 0/31 layers to GPU", vulkan=(WRONG,)))
    assert [finding.code for finding in later] == ["vulkan-driver-missing"]


class Here:
    """This machine in a guest's place, but for what systemd says of the service's environment."""

    def __init__(self, environment: str) -> None:
        self._environment = environment.encode()

    def run(self, *command: str) -> Result:
        if command[0] == "systemctl":
            return Result(0, self._environment, b"")
        done = subprocess.run(command, capture_output=True, check=False)
        return Result(done.returncode, done.stdout, done.stderr)

    def request(self, url: str, *_body: object, **_options: object) -> Any:
        raise AssertionError(url)


def test_libraries_that_drivers_name_are_looked_for_as_the_loader_does(tmp_path: Path) -> None:
    (tmp_path / "own.so").touch()
    files = {
        "linker": '{\n  "ICD": {\n    "library_path" : "libc.so.6"\n  }\n}',
        "gone": '{"ICD":{"library_path":"libnot_there.so.1","api_version":"1.4.0"}}',
        "absolute": f'{{"ICD": {{"library_path": "{tmp_path}/own.so"}}}}',
        "relative": '{"ICD": {"library_path": "./not.so"}}',
        "empty": "{}",
    }
    for name, text in files.items():
        (tmp_path / f"{name}.json").write_text(text)
    named = ":".join(f"{tmp_path}/{name}.json" for name in (*files, "missing"))
    found = read_vulkan(Here(f"XDG_CACHE_HOME=/var/cache VK_DRIVER_FILES={named}\n"), "engine")
    assert {driver.variable for driver in found} == {"VK_DRIVER_FILES"}
    assert [(Path(driver.file).stem, driver.library, driver.there) for driver in found] == [
        ("linker", "libc.so.6", True),
        ("gone", "libnot_there.so.1", False),
        ("absolute", f"{tmp_path}/own.so", True),
        ("relative", f"{tmp_path}/./not.so", False),
        ("empty", "", False),
        ("missing", "", False),
    ]


# 4. Open WebUI and its engine


def webui(url: str = URL, *services: str, code: int = 7, status: int = 0, **keys: object) -> MachineFacts:
    test = engine_test(url, code=code, status=status, said="curl: (7) Failed to connect")
    return evidence(WEB, WEBUI, *services, tests=(test,), **keys)


def cause_of(*machines: MachineFacts, policies: tuple[Policy, ...] = (POLICY,)) -> str:
    (finding,) = [one for one in found(*machines, policies=policies) if one.code == "webui-cannot-reach-engine"]
    assert finding.subject == "webui"
    assert finding.evidence[0].endswith("from inside webui: curl: (7) Failed to connect")
    return f"{finding.cause} | {finding.remedy}"


def test_an_engine_that_answers_is_no_trouble() -> None:
    assert found(webui(code=0, status=200), brain(listening=("*:11434",))) == []


def test_an_engine_on_loopback_only() -> None:
    loopback = brain(listening=("127.0.0.1:11434", "[::1]:11434", "0.0.0.0:5355"), given={"ollama_host": "127.0.0.1"})
    cause = cause_of(webui(), loopback)
    assert cause.startswith("the engine in brain listens on loopback only")
    assert "set ollama_host to 0.0.0.0:11434 for brain" in cause


def test_an_engine_that_does_not_listen_at_that_port() -> None:
    assert "nothing in brain listens at port 11434" in cause_of(webui(), brain(listening=("*:8000", "*:111434")))


def test_an_engine_that_is_switched_off_or_stopped() -> None:
    off = brain(given={"ollama_service_enabled": "false"})
    assert "the engine in brain is switched off" in cause_of(webui(), off)
    stopped = evidence(BRAIN, OLLAMA, state="stopped")
    assert "the engine's machine brain is stopped" in cause_of(webui(), stopped)


def test_a_policy_that_is_missing() -> None:
    for policies in ((), (replace(POLICY, ports=(8080,)),), (replace(POLICY, protocol="udp"),), (Policy("ai", "web"),)):
        cause = cause_of(webui(code=28), brain(listening=("*:11434",)), policies=policies)
        assert "no network policy lets web reach brain (ai) at port 11434" in cause
        assert "{from: web, to: brain, ports: [11434], protocol: tcp}" in cause


@pytest.mark.parametrize(
    "policy",
    [POLICY, Policy("webui", "brain"), Policy("brain", "web", bidirectional=True)],
)
def test_a_policy_that_is_there_but_packets_do_not_pass(policy: Policy) -> None:
    cause = cause_of(webui(code=28), brain(listening=("*:11434",)), policies=(policy,))
    assert "something between them drops the packets" in cause
    assert "anklume-launch plan infra.yml" in cause


def test_an_address_of_the_machine_itself() -> None:
    listening = brain(listening=("*:11434",))
    assert "localhost is the machine itself" in cause_of(webui("http://localhost:11434"), listening)
    assert f"such as {URL}" in cause_of(webui("http://127.0.0.1:11434"), listening)
    both = webui("http://localhost:11434", OLLAMA, listening=())
    assert "nothing in webui listens at port 11434" in cause_of(both)


def test_an_address_that_nobody_of_the_file_has() -> None:
    assert "10.9.9.9 is no machine of this file" in cause_of(webui("http://10.9.9.9:11434"), brain())
    assert "nobody knows the name brian" in cause_of(webui("http://brian:11434", code=6), brain())
    assert "the machine brain, which was not looked at" in cause_of_without_engine()


def cause_of_without_engine() -> str:
    one = webui()
    (finding,) = machine_findings(infra(BRAIN, WEB), [one], HOST)
    return finding.cause


def test_a_name_that_incus_gives_its_instance() -> None:
    named = webui("http://brain.incus:11434", code=28)
    assert "no network policy" in cause_of(named, brain(listening=("*:11434",)), policies=())


def test_something_else_that_answers() -> None:
    assert "HTTP 404" in cause_of(webui(code=0, status=404), brain())
    assert "wants a key" in cause_of(webui(code=0, status=401), brain())


# 5. out of memory

VRAM_LINES = [
    "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 6000.00 MiB on device 0: cudaMalloc failed: out of memory",
    "CUDA error: out of memory",
    "ggml_gallocr_reserve_n_impl: failed to allocate CUDA0 buffer of size 6291456000",
    "unable to allocate CUDA0 buffer",
    "ggml_vulkan: vk::Device::allocateMemory: ErrorOutOfDeviceMemory",
    'level=INFO msg="insufficient VRAM to load any model layers"',
    "alloc_tensor_range: failed to allocate Vulkan0 buffer of size 42949672960",
    'level=WARN msg="llama-server reported out-of-memory during startup: ErrorOutOfDeviceMemory"',
    'level=WARN msg="runtime OOM detected; expiring loaded models"',
]


@pytest.mark.parametrize("line", VRAM_LINES)
def test_out_of_vram_is_known_by_the_journal_and_sizes_are_shown(line: str) -> None:
    card = Figures(CARD.pci, "GPU-1", "RTX 4090", 24 * GIB, 23 * GIB, "550.54.15")
    (finding,) = found(brain(journal=(line,), cards=(card,)))
    assert finding.code == "out-of-vram"
    assert finding.evidence == (line, f"{CARD.pci}: 23.0 GiB of 24.0 GiB are in use")
    assert "llama3.2:3b" in finding.remedy


def test_a_model_partly_in_the_card_is_a_warning() -> None:
    (finding,) = found(brain(loaded=(Loaded("big", 8 * GIB, 3 * GIB),)))
    assert (finding.code, finding.severity) == ("partly-in-vram", "warning")
    assert finding.evidence == ("big: 3.0 GiB of 8.0 GiB are in the card (/api/ps)",)


SHORT = "common_params_fit_impl: projected to use 2991 MiB of device memory vs. 2048 MiB of free device memory"
SOME = "load_tensors: offloaded 10/31 layers to GPU"


@pytest.mark.parametrize("engine", [OLLAMA, LLAMA])
def test_a_model_partly_in_the_card_is_known_by_the_journal_when_none_is_loaded(engine: str) -> None:
    def told(*journal: str, **keys: object) -> list[tuple[str, tuple[str, ...]]]:
        one = evidence(BRAIN, engine, seen=READY, nvidia_smi=WORKS, journal=journal, **keys)
        return [(finding.code, finding.evidence) for finding in found(one)]

    assert told(SHORT, SOME) == [("partly-in-vram", (SHORT, SOME))]
    assert told(SOME) == []  # as many as somebody asked for
    assert told(SHORT, SOME, "load_tensors: offloaded 31/31 layers to GPU") == []
    assert told(SHORT, SOME, loaded=(Loaded("m", GIB, GIB),)) == []


def test_too_little_memory_of_the_machine_is_another_trouble() -> None:
    line = "model requires more system memory (9.3 GiB) than is available (5.1 GiB)"
    (finding,) = found(brain(journal=(f'level=WARN msg="{line}"',)))
    assert finding.code == "out-of-memory"
    assert "limits.memory" in finding.cause


def test_llama_servers_journal_is_read_the_same_way() -> None:
    one = evidence(BRAIN, LLAMA, seen=READY, nvidia_smi=WORKS, journal=(VRAM_LINES[0],))
    assert [finding.code for finding in found(one)] == ["out-of-vram"]


def test_no_more_than_three_lines_of_a_journal_are_shown() -> None:
    (finding,) = found(brain(journal=tuple(f"CUDA error: out of memory {number}" for number in range(9))))
    assert finding.evidence == tuple(f"CUDA error: out of memory {number}" for number in (6, 7, 8))


# machines that cannot be looked into, and cards


@pytest.mark.parametrize(
    ("state", "cause"), [("missing", "never launched"), ("not ours", "somebody else"), ("stopped", "it was stopped")]
)
def test_a_machine_that_does_not_run_is_a_warning(state: str, cause: str) -> None:
    (finding,) = found(evidence(machine("plain"), state=state))
    assert (finding.code, finding.severity) == ("not-running", "warning")
    assert cause in finding.cause
    assert "infra.yml" in finding.remedy or state == "not ours"


def test_what_is_in_the_way_of_a_card_is_told_whether_the_machine_runs_or_not() -> None:
    refusal = Refusal("gpu-absent", "brain", "brain wants a GPU, and the host has none", "load it", "infra.yml:9:5")
    obstacle = Obstacle("brain", "the host has no nvidia-container-cli", "install it")
    unseen = replace(obstacle, cause="cannot be seen from here", fatal=False)
    one = evidence(BRAIN, OLLAMA, state="stopped", refusals=(refusal,), obstacles=(obstacle, unseen))
    first, second, third, _ = found(one, host=replace(HOST, cards=()))
    assert (first.code, first.remedy, first.evidence) == (
        "gpu-absent",
        "load it",
        ("the host: no card (incus info --resources)",),
    )
    assert (second.code, second.severity, second.cause) == ("gpu-preflight", "error", obstacle.cause)
    assert (third.severity, third.cause) == ("warning", "cannot be seen from here")


@pytest.mark.parametrize(("is_open", "remedy"), [(True, "--replace"), (False, "open_webui_admin_password")])
def test_a_missing_administrator_is_an_error_with_a_remedy(is_open: bool, remedy: str) -> None:
    one = machine("web")
    missing = NoAdministrator("why", is_open)
    (found,) = machine_findings(infra(one), [evidence(one, "open_webui", no_administrator=missing)], HOST)
    assert (found.code, found.severity, found.evidence) == ("no-administrator", "error", ("why",))
    assert remedy in found.remedy


@pytest.mark.parametrize(("addresses", "code"), [((), "no-address"), (("10.1.0.113",), "other-address")])
def test_a_machine_without_its_address(addresses: tuple[str, ...], code: str) -> None:
    box = machine("box")
    leases = (Lease("10.1.0.1", "00:16:3e:00:00:02", "old", static=False),)
    (finding,) = found(evidence(box, seen=seen(box, addresses=addresses), leases=leases))
    assert (finding.code, finding.severity, finding.subject) == (code, "error", "box")
    assert "lease of 10.1.0.1: old, 00:16:3e:00:00:02" in finding.evidence
