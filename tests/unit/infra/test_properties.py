"""What holds for any file: no traceback, addresses that are unique, and that stay where they are."""

from __future__ import annotations

import copy
import ipaddress
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from anklume_images.specs.catalog import Catalog, builtin_specs
from launcher.infra.addressing import ZONES
from launcher.infra.host import HostFacts
from launcher.infra.load import Checked, check_infra

CORPUS = Path(__file__).parent.parent / "corpus"
VALID = [yaml.safe_load(path.read_text()) for path in sorted(CORPUS.glob("valid-*.yml"))]
CATALOG = Catalog.load([builtin_specs()])


def keys_of(data: Any) -> set[str]:
    inner = data.values() if isinstance(data, dict) else data if isinstance(data, list) else ()
    own = {str(key) for key in data} if isinstance(data, dict) else set()
    return own.union(*(keys_of(value) for value in inner))


KEYS = sorted(keys_of(VALID) | {"host", "default", "<<"})
HOSTILE = [
    "",
    "\0",
    "a\nb",
    "../../etc",
    "$(reboot)",
    "{{ 7*7 }}",
    "a" * 300,
    "\u202e",
    "٣",
    "0000:01:00.0",
    "all",
    "1%",
]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.dates(),
    st.sampled_from(HOSTILE),
    st.sampled_from(
        ["lab", "web", "host", "ollama", "ollama_server", "base_system", "10.120.0.5", "gpu", "disk", "lxc"]
    ),
    st.text(max_size=8),
)
DATA = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.sampled_from(KEYS), SCALARS), inner, max_size=5),
    ),
    max_leaves=25,
)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("infra") / "infra.yml"


def dumped(data: Any) -> str:
    return str(yaml.dump(data, Dumper=yaml.SafeDumper, sort_keys=False, allow_unicode=True))


def check(file: Path, text: str | bytes) -> Checked:
    file.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    checked = check_infra(file, CATALOG, host=HostFacts())
    for problem in (*checked.errors, *checked.warnings):
        assert problem.line >= 1
        assert problem.column >= 1
        assert problem.message.isprintable(), problem.message
    document = json.loads(json.dumps(checked.document()))
    assert document["valid"] is (not document["errors"])
    assert checked.infra is not None or document["errors"]
    return checked


@given(st.binary(max_size=200))
def test_any_bytes(file: Path, raw: bytes):
    check(file, raw)


@settings(max_examples=120)
@given(st.dictionaries(st.sampled_from(KEYS), DATA, max_size=6))
def test_any_data(file: Path, data: Any):
    check(file, dumped(data))


@settings(max_examples=100)
@given(
    st.dictionaries(
        st.sampled_from(["addressing", "resource_policy", "base_subnet", "gpu_policy", "ai_access_policy"]),
        DATA,
        max_size=3,
    ),
    st.dictionaries(st.sampled_from(KEYS), DATA, max_size=6),
    st.dictionaries(st.sampled_from(KEYS), DATA, max_size=6),
    DATA,
)
def test_any_data_where_machines_and_settings_are(file: Path, config: Any, domain: Any, machine: Any, policies: Any):
    lab = {**domain, "machines": {"web": machine, "db": dict(list(machine.items())[::2])}}
    check(
        file, dumped({"project_name": "p", "global": config, "domains": {"lab": lab}, "network_policies": [policies]})
    )


def places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    for key, value in data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ():
        found += places(value, (*path, key))
    return found


@settings(max_examples=120)
@given(st.sampled_from(VALID), st.data())
def test_a_valid_file_with_one_value_replaced_by_anything(file: Path, whole: Any, choose: st.DataObject):
    data = copy.deepcopy(whole)
    path = choose.draw(st.sampled_from(places(data)))
    parent = data
    for part in path[:-1]:
        parent = parent[part]
    parent[path[-1]] = choose.draw(DATA)
    check(file, dumped(data))


NAMES = st.from_regex(r"[a-z][a-z0-9]{0,6}", fullmatch=True)


@st.composite
def infras(draw: st.DrawFn) -> dict[str, Any]:
    """Files with domains of every trust level, some disabled, some with numbers and addresses of their own."""
    step, base = draw(st.integers(1, 20)), draw(st.integers(0, 120))
    domains: dict[str, Any] = {}
    taken: set[tuple[str, int]] = set()
    for name in draw(st.lists(NAMES, min_size=1, max_size=8, unique=True)):
        if name in ("host", "default"):
            continue
        domain: dict[str, Any] = {"trust_level": draw(st.sampled_from(list(ZONES)))}
        number = draw(st.none() | st.integers(0, 254))
        if number is not None and (domain["trust_level"], number) not in taken:
            taken.add((domain["trust_level"], number))
            domain["subnet_id"] = number
        if draw(st.booleans()):
            domain["enabled"] = False
        count = draw(st.integers(0, 6))
        domain["machines"] = {f"{name}-{index}": {} for index in range(count)}
        domains[name] = domain
    addressing = {"zone_base": base, "zone_step": step}
    return {"project_name": "p", "global": {"addressing": addressing}, "domains": domains}


def addresses(checked: Checked) -> dict[str, str]:
    assert checked.infra is not None, checked.errors
    return {
        machine.name: machine.address
        for domain in checked.infra.domains.values()
        for machine in domain.machines.values()
    }


@given(infras(), st.data())
def test_addresses_are_unique_and_in_their_subnet(file: Path, data: dict[str, Any], choose: st.DataObject):
    for domain in data["domains"].values():  # one machine of each domain says itself where it is
        machines = list(domain["machines"].values())
        if machines and "subnet_id" in domain:
            zone = data["global"]["addressing"]
            octet = zone["zone_base"] + ZONES[domain["trust_level"]] * zone["zone_step"]
            host = choose.draw(st.integers(1, 99))
            choose.draw(st.sampled_from(machines))["ip"] = f"10.{octet}.{domain['subnet_id']}.{host}"
    checked = check(file, dumped(data))
    found = addresses(checked)
    assert len(set(found.values())) == len(found) == sum(len(domain["machines"]) for domain in data["domains"].values())
    assert checked.infra is not None
    subnets = [ipaddress.IPv4Network(domain.subnet) for domain in checked.infra.domains.values()]
    assert len(set(subnets)) == len(subnets)
    for domain in checked.infra.domains.values():
        subnet = ipaddress.IPv4Network(domain.subnet)
        assert ipaddress.IPv4Address(domain.gateway) == subnet[254]
        assert all(ipaddress.IPv4Address(machine.address) in subnet for machine in domain.machines.values())


@given(infras(), st.data())
def test_no_address_moves_when_a_machine_is_appended(file: Path, data: dict[str, Any], choose: st.DataObject):
    before = addresses(check(file, dumped(data)))
    if not data["domains"]:
        return
    domain = choose.draw(st.sampled_from(sorted(data["domains"])))
    data["domains"][domain]["machines"]["appended"] = {}
    after = addresses(check(file, dumped(data)))
    assert before == {name: address for name, address in after.items() if name != "appended"}


@given(infras(), st.booleans())
def test_no_address_moves_when_a_domain_is_switched_off_or_on(file: Path, data: dict[str, Any], on: bool):
    before = addresses(check(file, dumped(data)))
    for domain in data["domains"].values():
        domain["enabled"] = on
    assert addresses(check(file, dumped(data))) == before


@given(st.text("0123456789.:_-+xXabeEnNoOyYsStTrRuUlLfF~", min_size=1, max_size=8))
@settings(max_examples=300)
def test_config_holds_what_was_written_or_is_refused(tmp_path_factory: pytest.TempPathFactory, written: str):
    file = tmp_path_factory.mktemp("written") / "infra.yml"
    file.write_text(
        "project_name: p\nglobal: {addressing: {}}\ndomains:\n  lab:\n    machines:\n      web:\n"
        f"        config:\n          user.x: {written}\n"
    )
    checked = check_infra(file, CATALOG, host=HostFacts())
    machine = checked.infra.machine("web") if checked.infra else None
    if machine is not None and checked.valid:
        assert machine.config["user.x"] == written
    else:
        assert all((problem.line, problem.column) >= (8, 1) for problem in checked.errors)
        assert checked.errors
