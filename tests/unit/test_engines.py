"""An engine is one file and a spec: those of docs/how-to/add-an-engine.md, put beside the ones that are there."""

from __future__ import annotations

import importlib.util
import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from anklume_images.incus.client import Result
from anklume_images.specs.catalog import Catalog, builtin_specs
from launcher.engines import ENGINES, PAGE, own_defaults
from launcher.engines.open_webui import OPENAI_API
from launcher.engines.page import Upstream
from launcher.engines.settings import Settings
from launcher.infra.host import HostFacts
from launcher.infra.load import check_infra
from launcher.inspect.collect import machine_facts
from launcher.inspect.facts import EngineTest
from launcher.inspect.findings import machine_findings
from launcher.inspect.images import Facts
from launcher.inspect.verify import checks_of, verified
from tests.unit.look import HOST, evidence, infra, machine, seen

if TYPE_CHECKING:
    from anklume_images.incus.client import Incus
    from launcher.engines.engine import Engine
    from launcher.infra.model import Machine
    from launcher.inspect.images import ImageLookup

PAGE_OF_DOCS = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "add-an-engine.md"
SHOWN = re.compile(r"^`([\w./-]+)`:\n\n```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ROLE = "vllm_server"
FACTS = Facts(provides=frozenset({ROLE}))
CHECKS = ("vllm-health", "vllm-models", "vllm-inference")
FILE = """\
project_name: p
global: {{addressing: {{}}}}
domains:
  lab:
    machines:
      webui: {{roles: [open_webui]}}
      llm: {{roles: [vllm_server], vars: {{{variables}}}}}
{more}
"""


@pytest.fixture
def how_to(tmp_path: Path) -> Path:
    """A folder with the files that the page shows, by their paths."""
    for name, text in SHOWN.findall(PAGE_OF_DOCS.read_text()):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return tmp_path


@pytest.fixture
def engine(how_to: Path, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """The page's engine, in the table for as long as a test."""
    spec = importlib.util.spec_from_file_location("vllm_of_the_page", how_to / "launcher" / "engines" / "vllm.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = cast("Engine", module.ENGINE)
    monkeypatch.setitem(ENGINES, found.role, found)
    return found


def wired(how_to: Path, variables: str = "", more: str = "") -> tuple[Machine, tuple[str, ...]]:
    """Open WebUI's machine of a file with both, and the notices."""
    file = how_to / "infra.yml"
    file.write_text(FILE.format(variables=variables, more=more))
    checked = check_infra(file, Catalog.load([how_to / "image_specs", builtin_specs()]), host=HostFacts())
    assert checked.valid, checked.errors
    assert checked.infra is not None
    webui = checked.infra.machine("webui")
    assert webui is not None
    return webui, checked.infra.notices


# wiring


def test_the_page_is_wired_to_it(how_to: Path, engine: Engine) -> None:
    webui, notices = wired(how_to, "vllm_port: 9000, vllm_api_key: k")
    assert webui.variables == {
        "open_webui_openai_url": "http://10.120.0.2:9000/v1",
        "open_webui_openai_key": "k",
        "open_webui_ollama_enabled": "false",
    }
    assert any(f"{engine.title} of 'llm' (same domain)" in notice for notice in notices)


@pytest.mark.usefixtures("engine")
def test_the_default_of_its_spec_is_its_port(how_to: Path) -> None:
    webui, _ = wired(how_to)
    assert webui.variables["open_webui_openai_url"] == "http://10.120.0.2:8000/v1"


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("variables", ["vllm_host: 127.0.0.1", "vllm_service_enabled: false"])
def test_one_that_nobody_reaches_is_left_alone(how_to: Path, variables: str) -> None:
    webui, notices = wired(how_to, variables)
    assert webui.variables == {}
    assert any("reaches no model server" in notice for notice in notices)


@pytest.mark.usefixtures("engine")
def test_of_two_with_one_interface_none_is_chosen(how_to: Path) -> None:
    webui, notices = wired(how_to, more="      other: {roles: [llama_server]}")
    assert webui.variables == {}
    assert any("'other', 'llm'" in notice and "open_webui_openai_url: http://" in notice for notice in notices)


def test_without_its_file_a_role_is_a_role_only(how_to: Path) -> None:
    webui, _ = wired(how_to)
    assert webui.variables == {}
    assert checks_of(seen(machine("llm")), FACTS, Settings({}, own_defaults())) == ()


def test_an_engine_that_its_image_switches_off_is_wired_to_nothing(how_to: Path, engine: Engine) -> None:
    spec = how_to / "image_specs" / "vllm" / "spec.yml"
    before, after = spec.read_text().split(f"{engine.switch}:\n", 1)
    spec.write_text(f"{before}{engine.switch}:\n{after.replace('default: true', 'default: false', 1)}")
    assert wired(how_to)[0].variables == {}
    assert wired(how_to, f"{engine.switch}: true")[0].variables["open_webui_openai_url"] == "http://10.120.0.2:8000/v1"


# where it is asked, and for what


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ({}, "http://127.0.0.1:8000"),
        ({"vllm_host": "::", "vllm_port": "80"}, "http://[::1]:80"),
        ({"vllm_host": "no such host"}, "http://127.0.0.1:8000"),
    ],
)
def test_it_is_asked_where_it_listens(engine: Engine, given: dict[str, str], url: str) -> None:
    assert engine.own_url(Settings(given, own_defaults())) == url


@dataclass
class StandIn:
    """A stand-in for a connection to Incus: curl is answered by its URL's path, everything else by its program."""

    answers: dict[str, Any]
    said: dict[str, str] = field(default_factory=dict)
    asked: list[tuple[str, ...]] = field(default_factory=list)
    address = "https://10.0.0.1:8443"

    def within(self, _project: str) -> StandIn:
        return self

    def execute(self, _name: str, command: Any, **options: Any) -> Result:
        words = tuple(command)
        self.asked.append((*words, str(options.get("environment") or "")))
        if "--url" not in words:
            return Result(0, self.said.get(words[0], "").encode(), b"")
        url = words[words.index("--url") + 1]
        if url not in self.answers:
            return Result(7, b"", b"curl: (7) refused")
        return Result(0, f"{json.dumps(self.answers[url])}\n200".encode(), b"")


class Book:
    """A stand-in for what store and specs say."""

    def facts(self, _seen: object) -> Facts:
        return FACTS


@pytest.mark.usefixtures("engine")
def test_verify_asks_it_with_its_key() -> None:
    url = "http://127.0.0.1:9000"
    incus = StandIn(
        {
            f"{url}/health": {},
            f"{url}/v1/models": {"data": [{"id": "tiny"}]},
            f"{url}/v1/chat/completions": {"choices": [{"message": {"content": "yes"}}]},
        }
    )
    config = {"user.anklume.vllm_port": "9000", "user.anklume.vllm_api_key": "secret"}
    one = seen(machine("llm"), config=config)
    found = verified(cast("Incus", incus), [one], cast("ImageLookup", Book()), prompt="hello", seconds=9)
    assert [(check.name, check.outcome) for check in found] == [(name, "ok") for name in CHECKS]
    assert found[-1].evidence == "tiny: 'yes'"
    assert "Bearer secret" in incus.asked[-1][-1]
    off = seen(machine("llm"), config={"user.anklume.vllm_service_enabled": "false"})
    left_out = verified(cast("Incus", incus), [off], cast("ImageLookup", Book()), prompt="hello", seconds=9)
    assert [(check.name, check.outcome) for check in left_out] == [(name, "skipped") for name in CHECKS]


# its troubles


def test_doctor_reads_the_journal_of_its_unit(engine: Engine) -> None:
    line = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"
    incus = StandIn({}, {"journalctl": f"starting\n{line}\n", "ss": "LISTEN 0 9 127.0.0.1:8000 0.0.0.0:*\n"})
    one = machine("llm")
    file = infra(one)
    (found,) = machine_facts(cast("Incus", incus), file, [seen(one)], cast("ImageLookup", Book()), ())
    assert ("systemctl", "show", engine.unit) in [words[:3] for words in incus.asked]
    assert found.listening == ("127.0.0.1:8000",)
    (finding,) = machine_findings(file, [found], HOST)
    assert (finding.code, finding.evidence) == ("out-of-vram", (line,))
    assert engine.smaller_model in finding.remedy


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("INFO [__init__.py:247] No platform detected, vLLM is running on UnspecifiedPlatform", "engine-on-cpu"),
        ("ValueError: No available memory for the cache blocks. Try increasing", "out-of-vram"),
        ("vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue.", "runner-died"),
    ],
)
def test_lines_of_its_journal_mean_what_its_file_says(line: str, code: str) -> None:
    one = machine("llm", gpu=True)
    (finding,) = machine_findings(infra(one), [evidence(one, ROLE, journal=("starting", line))], HOST)
    assert (finding.code, finding.evidence) == (code, (line,))


LLM, WEB = machine("llm", "ai", 1), machine("webui", "ai", 2)


def cause(
    *services: str, llm: Machine = LLM, settings: dict[str, str] | None = None, status: int = 0, sockets: Any = ()
) -> str:
    """Why the page does not reach the engine at its machine."""
    test = EngineTest(Upstream(OPENAI_API, "http://10.1.0.1:8000/v1"), 0 if status else 7, status, "said")
    there = evidence(llm, *services, listening=sockets)
    there = replace(there, settings=Settings(settings or {}, own_defaults()))
    (finding,) = machine_findings(infra(llm, WEB), [there, evidence(WEB, PAGE.role, tests=(test,))], HOST)
    assert (finding.code, finding.subject) == ("webui-cannot-reach-engine", "webui")
    return f"{finding.cause} | {finding.remedy} | {finding.evidence}"


@pytest.mark.usefixtures("engine")
def test_the_connection_to_it_is_judged_at_both_ends() -> None:
    assert "set vllm_host to 0.0.0.0 for llm" in cause(ROLE, sockets=("127.0.0.1:8000",))
    assert "set vllm_service_enabled to true" in cause(ROLE, settings={"vllm_service_enabled": "false"})
    assert "nothing in llm listens at port 8000" in cause(ROLE, sockets=("0.0.0.0:80",))
    assert "set open_webui_openai_key" in cause(ROLE, status=401)
    assert "drops the packets" in cause(ROLE, sockets=("0.0.0.0:8000",))


def test_a_machine_without_a_known_engine_is_told_as_one() -> None:
    assert "llm offers no engine that is known here | set open_webui_openai_url" in cause(ROLE)
    assert "no network policy lets ai reach llm (far)" in cause(ROLE, llm=replace(LLM, domain="far"))


# the table


@pytest.mark.parametrize("one", ENGINES.values(), ids=lambda one: one.role)
def test_what_an_engine_says_agrees_with_a_spec(one: Engine) -> None:
    """Its role, the types of its variables, the port: of each image that comes with the program and provides it."""
    catalog = Catalog.load([builtin_specs()])
    specs = [spec for name in catalog.names() if one.role in (spec := catalog.get(name)).provides]
    assert specs
    for spec in specs:
        variables = catalog.variables(spec.name)
        assert variables[one.host_variable].type == one.listens_as
        assert (one.port_variable in variables) is (one.listens_as == "hosts")
        assert set(one.defaults) <= set(variables)
        assert spec.ports == (one.port,)
        assert {file.path for file in spec.files} >= {f"/etc/systemd/system/{one.unit}.service"}
        if one.model_store:
            assert one.model_store in {volume.path for volume in spec.volumes}
    assert PAGE.connections.count(one.connection) == 1


def test_checks_have_names_of_their_own() -> None:
    names = [name for service in (*ENGINES.values(), PAGE) for name in service.checks]
    assert len(names) == len(set(names))
