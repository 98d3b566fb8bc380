"""Which checks a machine has, where it is asked, and what becomes of answers."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest

from anklume_images.incus.client import Result
from launcher.engines import ENGINES, PAGE
from launcher.engines.probe import Outcome, Probe
from launcher.engines.settings import Settings
from launcher.gpu.cards import Card, Nvidia
from launcher.gpu.nvidia_smi import Figures
from launcher.inspect.cards import check_cards
from launcher.inspect.guest import Answer
from launcher.inspect.images import Facts
from launcher.inspect.verify import Check, as_json, as_text, checks_of
from tests.unit.look import CARD, machine, seen

if TYPE_CHECKING:
    from launcher.gpu.images import Gpus
    from launcher.observe.instances import InstanceState

CSV = (
    "pci.bus_id, uuid, name, memory.total [MiB], memory.used [MiB], driver_version\n"
    "00000000:01:00.0, GPU-1, NVIDIA GeForce RTX 4090, 24564 MiB, 1 MiB, 550.54.15\n"
)


@dataclass
class StandIn:
    """A stand-in for the inside of a machine: answers by the end of the URL, and remembers what it was asked."""

    answers: dict[str, Any] = field(default_factory=dict)
    result: Result = field(default_factory=lambda: Result(0, CSV.encode(), b""))
    asked: list[tuple[str, Any, str]] = field(default_factory=list)

    def run(self, *_command: str, **_options: Any) -> Result:
        return self.result

    def request(self, url: str, body: Any = None, *, bearer: str = "", **_options: Any) -> Answer:
        self.asked.append((url, body, bearer))
        found = next((answer for end, answer in self.answers.items() if url.endswith(end)), Answer(7, error="refused"))
        return found if isinstance(found, Answer) else Answer(0, 200, json.dumps(found))


OLLAMA, LLAMA = ENGINES["ollama_server"], ENGINES["llama_server"]


def run(check: str, inside: StandIn, models: tuple[str, ...] = (), **given: str) -> Outcome:
    """A check, of the service that has it."""
    defaults = {"ollama_host": "0.0.0.0:11434", "llama_server_host": "::", "llama_server_port": "8080"}
    defaults |= {"open_webui_port": "3000", "open_webui_ollama_enabled": "true"}
    settings = Settings(given, defaults)
    service = next(one for one in (OLLAMA, LLAMA, PAGE) if check in one.checks)
    probe = Probe(inside, settings, service.own_url(settings), settings[service.key_variable], "hello", 60, models)
    return service.checks[check](probe)


# which checks


def names(one: Any, facts: Facts = Facts(), **given: str) -> dict[str, str | None]:  # noqa: B008
    return dict(checks_of(seen(one), facts, Settings(given, {"ollama_service_enabled": "true"})))


def test_checks_follow_from_roles_image_and_card() -> None:
    assert names(machine("plain")) == {}
    assert set(names(machine("brain", gpu=True, roles=("base_system", "ollama_server")))) == {
        "gpu",
        "ollama-api",
        "ollama-inference",
        "gpu-compute",
    }
    assert set(names(machine("web"), Facts(provides=frozenset({"open_webui"})))) == {"webui-page", "webui-engine"}
    both = names(machine("all"), Facts(provides=frozenset({"open_webui", "llama_server"})))
    assert list(both) == ["llama-health", "llama-models", "llama-inference", "webui-page", "webui-engine"]


def test_a_card_that_the_instance_has_counts_like_one_of_the_file() -> None:
    one = seen(machine("plain"), devices={"gpu0": {"type": "gpu"}})
    assert checks_of(one, Facts(), Settings({}, {})) == (("gpu", None),)


def test_a_service_that_is_switched_off_is_left_out_with_the_reason() -> None:
    found = names(machine("brain", roles=("ollama_server",)), ollama_service_enabled="false")
    assert set(found.values()) == {"the service is switched off by the machine's settings"}


# where services are asked


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0:11434", "http://127.0.0.1:11434"),
        ("127.0.0.1", "http://127.0.0.1:11434"),
        (":8000", "http://127.0.0.1:8000"),
        ("http://10.0.0.1", "http://10.0.0.1:80"),
        ("https://10.0.0.1:99/path", "http://10.0.0.1:99"),
        ("[::]:8000", "http://[::1]:8000"),
        ("::", "http://[::1]:11434"),
        ("[fd00::1]", "http://[fd00::1]:11434"),
        ("", "http://127.0.0.1:11434"),
        ("99999", "http://127.0.0.1:11434"),
    ],
)
def test_ollama_is_asked_where_it_listens(host: str, url: str) -> None:
    assert OLLAMA.own_url(Settings({}, {"ollama_host": host})) == url


def test_others_are_asked_where_they_listen() -> None:
    given = {"llama_server_host": "127.0.0.1,::1", "llama_server_port": "80", "open_webui_port": "8080"}
    assert LLAMA.own_url(Settings(given, {})) == "http://127.0.0.1:80"
    assert PAGE.own_url(Settings(given, {})) == "http://127.0.0.1:8080"


def test_engines_that_open_webui_was_given() -> None:
    given = {
        "open_webui_ollama_url": "http://a:1/",
        "open_webui_openai_url": "http://b/v1",
        "open_webui_openai_key": "k",
    }
    defaults = {"open_webui_ollama_enabled": "true"}
    found = PAGE.upstreams(Settings(given, defaults))
    assert [(engine.probe, engine.key) for engine in found] == [
        ("http://a:1/api/tags", ""),
        ("http://b/v1/models", "k"),
    ]
    off = PAGE.upstreams(Settings(given | {"open_webui_ollama_enabled": "false"}, defaults))
    assert [engine.connection.url_variable for engine in off] == ["open_webui_openai_url"]


# the card


BRAIN = machine("brain", gpu=True)
GPU0 = {"type": "gpu", "pci": CARD.pci}


def test_the_hosts_card_inside_is_proof() -> None:
    found = check_cards(StandIn(), seen(BRAIN, devices={"gpu0": GPU0}), (CARD,))
    assert (found.state, CARD.pci in found.evidence) == ("ok", True)


@pytest.mark.parametrize(
    ("result", "evidence"),
    [
        (Result(127, b"", b"nvidia-smi: not found"), "there is no nvidia-smi"),
        (Result(9, b"", b"NVML: Driver/library version mismatch"), "ended with 9: NVML"),
        (Result(0, b"No devices were found\n", b""), "lists no card: No devices"),
        (Result(0, CSV.replace("GPU-1", "GPU-2").encode(), b""), "not a card of this host"),
    ],
)
def test_anything_else_is_none(result: Result, evidence: str) -> None:
    found = check_cards(StandIn(result=result), seen(BRAIN, devices={"gpu0": GPU0}), (CARD,))
    assert found.state == "failed"
    assert evidence in found.evidence


def test_another_card_of_the_host_is_not_the_machines_own() -> None:
    other = replace(CARD, pci="0000:02:00.0", nvidia=Nvidia("GPU-2", "NVIDIA A100", "12.4"))
    found = check_cards(StandIn(), seen(BRAIN, devices={"gpu0": GPU0 | {"pci": other.pci}}), (CARD, other))
    assert (found.state, "does not list 0000:02:00.0" in found.evidence) == ("failed", True)


# cards of other makers, which their device nodes show

AMD = Card("0000:02:00.0", "1002", vendor="AMD", product="Navi 31", driver="amdgpu", drm=("card1", "renderD129"))
INTEL = replace(AMD, vendor_id="8086", vendor="Intel", product="Arc", driver="xe")
MESA, ROCM = {"amd": ("vulkan",), "intel": ("vulkan",)}, {"amd": ("hip",)}
FREED = seen(BRAIN, devices={"gpu0": GPU0 | {"pci": AMD.pci}})
UNIT = "User=llama-server\nGroup=llama-server\nSupplementaryGroups=video\n"


@dataclass
class Nodes:
    """A stand-in for the inside of a machine without nvidia-smi: nodes that are not there (3), or do not open (2)."""

    codes: dict[str, int] = field(default_factory=dict)
    unit: str = UNIT
    opened: list[tuple[str, ...]] = field(default_factory=list)

    def run(self, *command: str) -> Result:
        if command[0] == "systemctl":
            return Result(0, self.unit.encode(), b"")
        if command[0] == "id":
            return Result(0, b"999 27\n", b"")
        assert command[0] in ("sh", "setpriv"), command
        self.opened.append(command)
        code = self.codes.get(command[-1], 0)
        return Result(code, b"", b"sh: 1: cannot open it: Permission denied" if code == 2 else b"")

    def request(self, url: str, *_body: object, **_options: object) -> Answer:
        raise AssertionError(url)


@pytest.mark.parametrize("card", [AMD, INTEL], ids=["amd", "intel"])
@pytest.mark.parametrize("beside", [(), (CARD,)], ids=["alone", "beside-nvidia"])
def test_a_node_that_opens_as_the_engines_user_is_proof(card: Card, beside: tuple[Card, ...]) -> None:
    inside = Nodes()
    figures = {card.pci: Figures(card.pci, "", card.model, 16 << 30, 1 << 30, "")}
    found = check_cards(inside, FREED, (*beside, card), unit="llama-server", gpus=MESA, figures=figures)
    assert found.state == "ok"
    for words in (card.pci, "/dev/dri/renderD129 opens for llama-server", "1.0 GiB of 16.0 GiB"):
        assert words in found.evidence
    (command,) = inside.opened
    assert command[:7] == ("setpriv", "--reuid", "llama-server", "--regid", "llama-server", "--groups", "999,27,video")


@pytest.mark.parametrize("unit", ["", "User=\nGroup=\n"])
def test_an_engine_of_root_opens_nodes_as_root(unit: str) -> None:
    inside = Nodes(unit=unit)
    assert check_cards(inside, FREED, (AMD,), unit="ollama", gpus=MESA).state == "ok"
    assert [command[0] for command in inside.opened] == ["sh"]


@pytest.mark.parametrize(
    ("codes", "gpus", "state", "words"),
    [
        ({"/dev/dri/renderD129": 3}, MESA, "failed", "/dev/dri/renderD129 is not there"),
        ({"/dev/dri/renderD129": 2}, MESA, "failed", "Permission denied"),
        ({"/dev/kfd": 3}, ROCM, "failed", "/dev/kfd is not there"),
        ({"/dev/kfd": 3}, MESA, "ok", "renderD129 opens"),
        ({"/dev/kfd": 3}, None, "ok", "renderD129 opens"),
    ],
)
def test_nodes_that_the_engine_cannot_use(codes: dict[str, int], gpus: Gpus, state: str, words: str) -> None:
    found = check_cards(Nodes(codes), FREED, (AMD,), unit="llama-server", gpus=gpus)
    assert (found.state, words in found.evidence) == (state, True)


def test_a_machine_with_cards_of_two_makers_shows_both() -> None:
    class Both(Nodes):
        def run(self, *command: str) -> Result:
            return Result(0, CSV.encode(), b"") if command[0] == "nvidia-smi" else super().run(*command)

    both = seen(BRAIN, devices={"gpu0": GPU0, "gpu1": GPU0 | {"pci": AMD.pci}})
    found = check_cards(Both(), both, (CARD, AMD), unit="llama-server", gpus=MESA)
    assert (found.state, "GPU-1" in found.evidence, "renderD129" in found.evidence) == ("ok", True, True)
    assert check_cards(Both({"/dev/dri/renderD129": 3}), both, (CARD, AMD)).state == "failed"


@pytest.mark.parametrize(
    ("one", "cards", "state"),
    [
        (seen(BRAIN), (CARD, AMD), "failed"),  # no gpu device
        (FREED, (CARD,), "failed"),  # the card is gone
        (FREED, (replace(AMD, drm=("card1",)),), "failed"),
        (seen(replace(BRAIN, type="vm"), devices=FREED.devices), (AMD,), "skipped"),
    ],
)
def test_where_no_node_can_be_opened(one: InstanceState, cards: tuple[Card, ...], state: str) -> None:
    assert check_cards(Nodes(), one, cards).state == state


# models


def test_models_of_ollama_are_listed_and_one_is_asked() -> None:
    inside = StandIn({"/api/tags": {"models": [{"name": "a:latest"}, {"name": "b:1"}]}})
    assert run("ollama-api", inside).models == ("a:latest", "b:1")
    inside.answers["/api/generate"] = {"response": "hi there", "eval_count": 10, "eval_duration": 500_000_000}
    found = run("ollama-inference", inside, ("a:latest", "b:1"), ollama_default_model="b:1")
    assert (found.state, found.evidence) == ("ok", "b:1: 'hi there' (10 tokens, 20.0 a second)")
    assert inside.asked[-1][1]["model"] == "b:1"
    assert inside.asked[-1][1]["prompt"] == "hello"


@pytest.mark.parametrize(
    ("wanted", "models", "state", "evidence"),
    [
        ("", (), "skipped", "there is no model"),
        ("b", ("a:latest",), "failed", "the model b is not there"),
        ("a", ("a:latest",), "failed", "/api/generate: refused"),
    ],
)
def test_a_model_that_is_not_there(wanted: str, models: tuple[str, ...], state: str, evidence: str) -> None:
    found = run("ollama-inference", StandIn(), models, ollama_default_model=wanted)
    assert found.state == state
    assert evidence in found.evidence


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        ({"response": "yes"}, "ok"),
        ({"response": "", "thinking": "hm"}, "ok"),
        ({"response": ""}, "failed"),
        ({"error": "no"}, "failed"),
        ([], "failed"),
        (Answer(0, 200, "<html>"), "failed"),
        (Answer(0, 500, '{"error":"cudaMalloc failed"}'), "failed"),
    ],
)
def test_what_is_an_answer_of_ollama(answer: Any, state: str) -> None:
    assert run("ollama-inference", StandIn({"/api/generate": answer}), ("a",)).state == state


def test_a_model_without_its_weights_is_told() -> None:
    answer = Answer(0, 400, '{"error":"\\"a:latest\\" does not support generate"}')
    found = run("ollama-inference", StandIn({"/api/generate": answer}), ("a:latest",))
    assert found.state == "failed"
    assert "does not support generate" in found.evidence
    assert "its weights are not in the volume" in found.evidence


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        ({"choices": [{"message": {"content": "yes"}}]}, "ok"),
        ({"choices": [{"message": {"content": "", "reasoning_content": "hm"}}]}, "ok"),
        ({"choices": [{"message": {"content": ""}}]}, "failed"),
        ({"choices": []}, "failed"),
        ([], "failed"),
        (Answer(0, 401, "{}"), "failed"),
    ],
)
def test_what_is_an_answer_of_llama_server(answer: Any, state: str) -> None:
    inside = StandIn({"/v1/chat/completions": answer})
    assert run("llama-inference", inside, ("tiny",), llama_server_api_key="k").state == state
    assert inside.asked[-1][2] == "k"


def test_a_key_reaches_the_server_and_no_process_list() -> None:
    from launcher.inspect.guest import Guest

    commands: list[tuple[list[str], dict[str, str]]] = []

    class Connection:
        """A stand-in for the connection."""

        def within(self, _project: str) -> Connection:
            return self

        def execute(self, _name: str, command: Any, *, environment: Any, **_options: Any) -> Result:
            commands.append((list(command), dict(environment or {})))
            return Result(0, b"{}\n200", b"")

    inside = Guest(Connection(), seen(machine("m")))  # type: ignore[arg-type]
    assert inside.request("http://127.0.0.1/", {"a": "$(b)"}, bearer='k"\\y').ok
    command, environment = commands[-1]
    assert not any('k"' in word for word in command)
    assert environment == {"CURL_CONFIG": 'header = "Authorization: Bearer k\\"\\\\y"\n'}
    assert json.dumps({"a": "$(b)"}) in command[command.index("--data-raw") :]
    inside.request("http://127.0.0.1/")
    assert commands[-1][0][0] == "curl"


# the page


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (Answer(0, 200, "<html><title>Open WebUI</title>"), "ok"),
        (Answer(0, 200, "<html><TITLE>Ours (Open WebUI)</TITLE>"), "ok"),
        (Answer(0, 200, "<html><title>Welcome to nginx!</title>"), "failed"),
        (Answer(0, 200, "{}"), "failed"),
        (Answer(0, 502, ""), "failed"),
        (Answer(7, error="refused"), "failed"),
    ],
)
def test_what_is_the_page(answer: Answer, state: str) -> None:
    assert run("webui-page", StandIn({"/": answer}, Result(1, b"", b""))).state == state


def test_a_page_without_the_administrator_that_was_asked_for_fails() -> None:
    page = {"/": Answer(0, 200, "<title>Open WebUI</title>")}
    open_to_all = page | {"/api/config": {"onboarding": True}}
    asked = {"open_webui_admin_password": "x"}
    no_file = Result(1, b"", b"cat: no such file")
    assert run("webui-page", StandIn(open_to_all, no_file), **asked).state == "failed"
    assert run("webui-page", StandIn(open_to_all, no_file)).state == "ok"
    assert run("webui-page", StandIn(page | {"/api/config": {}}, no_file), **asked).state == "ok"
    closed = run("webui-page", StandIn({}, Result(0, b"not made: why\n", b"")))
    assert (closed.state, closed.evidence) == ("failed", "there is no administrator: not made: why")


def test_all_engines_must_answer_and_none_is_a_reason_to_skip() -> None:
    inside = StandIn({"http://a/api/tags": {"models": []}})
    assert run("webui-engine", inside, open_webui_ollama_url="http://a").state == "ok"
    two = run("webui-engine", inside, open_webui_ollama_url="http://a", open_webui_openai_url="http://b/v1")
    assert (two.state, two.evidence) == ("failed", "http://a/api/tags: HTTP 200; http://b/v1/models: refused")
    assert run("webui-engine", inside).state == "skipped"


# shown

CHECKS = (Check("gpu", "brain", "ok", "a card", 0.12345), Check("ollama-api", "brain", "skipped", "off"))


def test_checks_for_people_and_programs() -> None:
    assert as_text(CHECKS).splitlines()[-1] == "1 ok, 0 failed, 1 skipped"
    assert "brain    gpu         ok       0.1 s  a card" in as_text(CHECKS)
    assert as_json(CHECKS)["ok"] is True
    assert as_json(CHECKS)["checks"][0] == {
        "name": "gpu",
        "machine": "brain",
        "outcome": "ok",
        "evidence": "a card",
        "seconds": 0.123,
    }
    assert as_json([*CHECKS, Check("gpu", "b", "failed", "none")])["ok"] is False
    assert as_text([]).startswith("nothing to verify")
