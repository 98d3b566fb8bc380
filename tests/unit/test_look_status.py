"""What Incus says of instances becomes rows, for people and for programs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from anklume_images.sanitize import sanitized
from launcher.infra.names import IMAGE, MACHINE, OWNER
from launcher.inspect.shell import client_command
from launcher.inspect.status import Health, Row, as_json, as_table
from launcher.observe.instances import Mount
from launcher.observe.instances import seen as seen_of
from tests.unit.look import machine, seen

BRAIN = machine("brain")
ROW = Row(
    "brain",
    "ai",
    "ai",
    "brain",
    "running",
    "10.1.0.1",
    ("10.1.0.1",),
    "ollama@prod",
    "ollama@1.0-abc",
    "ollama@1.0-abc",
    ("0000:01:00.0",),
    Health("healthy", "", 0.12345),
    (Mount("brain-models", "/root/.ollama", "default"), Mount("/srv/data", "/data")),
)
GONE = replace(
    ROW, name="gone", instance="gone", state="missing", addresses=(), running=None, gpus=(), volumes=(),
    health=Health("unknown", "it is missing"),
)  # fmt: skip


def instance(**keys: Any) -> dict[str, Any]:
    config = {OWNER: "own", MACHINE: "brain", IMAGE: "ollama@1.0-abc"}
    found = {"status": "Running", "architecture": "x86_64", "expanded_config": config, "expanded_devices": {}}
    return found | keys


def test_an_instance_with_the_marks_is_ours() -> None:
    found = seen_of(BRAIN, "ai", "brain", instance(), "own")
    assert (found.state, found.image, found.architecture) == ("running", "ollama@1.0-abc", "amd64")


@pytest.mark.parametrize(
    "config",
    [{}, {OWNER: "other", MACHINE: "brain"}, {OWNER: "own", MACHINE: "other"}, {OWNER: "own"}],
)
def test_an_instance_without_them_is_not(config: dict[str, str]) -> None:
    found = seen_of(BRAIN, "ai", "brain", instance(expanded_config=config), "own")
    assert (found.state, found.running, found.config) == ("not ours", False, {})


def test_addresses_disks_and_cards_of_an_instance() -> None:
    def address(text: str, family: str = "inet", scope: str = "global") -> dict[str, str]:
        return {"family": family, "address": text, "scope": scope}

    network = {
        "lo": {"addresses": [address("127.0.0.1", scope="local")]},
        "docker0": {"addresses": [address("172.17.0.1")]},
        "eth0": {"addresses": [address("10.1.0.1"), address("fe80::1", "inet6", "link")]},
    }
    devices = {
        "root": {"type": "disk", "path": "/", "pool": "default"},
        "vol-m": {"type": "disk", "path": "/m", "pool": "default", "source": "m"},
        "pd-d": {"type": "disk", "path": "/d", "source": "/srv/d"},
        "gpu0": {"type": "gpu", "pci": "0000:01:00.0"},
    }
    found = seen_of(BRAIN, "ai", "brain", instance(state={"network": network}, expanded_devices=devices), "own")
    assert found.addresses == ("10.1.0.1", "172.17.0.1")
    assert found.mounts == (Mount("m", "/m", "default"), Mount("/srv/d", "/d"))
    assert [card["pci"] for card in found.gpus] == ["0000:01:00.0"]


def test_a_stopped_instance_has_no_state_to_read() -> None:
    found = seen_of(BRAIN, "ai", "brain", instance(status="Stopped", state={"network": None}), "own")
    assert (found.state, found.addresses) == ("stopped", ())


def test_rows_for_people() -> None:
    text = as_table([ROW, GONE]).splitlines()
    assert text[0].split() == ["MACHINE", "PROJECT", "STATE", "ADDRESS", "IMAGE", "GPU", "HEALTH"]
    assert text[1].split() == ["brain", "ai", "running", "10.1.0.1", "ollama@1.0-abc", "0000:01:00.0", "healthy"]
    assert "missing  10.1.0.1" in text[2]
    assert "- (wanted ollama@1.0-abc)" in text[2]
    assert text[3:] == [
        "  brain: default:brain-models at /root/.ollama",
        "  brain: host:/srv/data at /data",
        "1 of 2 machines running and healthy",
    ]


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        ({"addresses": ("10.1.0.77",)}, "10.1.0.77 (wanted 10.1.0.1)"),
        ({"addresses": ()}, "none (wanted 10.1.0.1)"),
        ({"running": "ollama@0.9-def"}, "ollama@0.9-def (wanted ollama@1.0-abc)"),
        ({"health": Health("unhealthy", "curl: (7) refused")}, "unhealthy: curl: (7) refused"),
        ({"instance": "001-brain", "project": "001-ai"}, "001-ai/001-brain"),
        ({"gpus": ("every card",)}, "every card"),
    ],
)
def test_what_differs_from_the_file_is_shown(change: dict[str, Any], shown: str) -> None:
    assert shown not in as_table([ROW])
    assert shown in as_table([replace(ROW, **change)])


def test_what_a_machine_says_cannot_move_the_cursor() -> None:
    hostile = "\x1b[32mOK\x1b[0m \x1b]0;title\x07 \x9b2J line\nnext"
    assert sanitized(hostile) == r"OK \x1b]0;title\x07 \x9b2J line\nnext"
    text = as_table([replace(ROW, health=Health("unhealthy", hostile))])
    assert "\x1b" not in text
    assert len(text.splitlines()) == 5


def test_rows_for_programs() -> None:
    document = as_json([ROW, GONE])
    assert (document["ok"], [row["ok"] for row in document["machines"]]) == (False, [True, False])
    assert document["machines"][0] == {
        "name": "brain",
        "domain": "ai",
        "project": "ai",
        "instance": "brain",
        "state": "running",
        "address": {"wanted": "10.1.0.1", "actual": ["10.1.0.1"]},
        "image": {
            "wanted": "ollama@prod",
            "version": "ollama@1.0-abc",
            "running": "ollama@1.0-abc",
            "current": True,
        },
        "gpus": ["0000:01:00.0"],
        "health": {"state": "healthy", "detail": "", "seconds": 0.123},
        "volumes": [
            {"name": "brain-models", "path": "/root/.ollama", "pool": "default"},
            {"name": "/srv/data", "path": "/data", "pool": None},
        ],
        "ok": True,
    }
    assert as_json([])["ok"]


@pytest.mark.parametrize(
    ("change", "ok"),
    [
        ({"health": Health("unknown", "the image has no healthcheck")}, True),
        ({"health": Health("unhealthy")}, False),
        ({"state": "stopped"}, False),
        ({"state": "frozen"}, False),
    ],
)
def test_a_machine_is_well_when_it_runs_and_nothing_says_otherwise(change: dict[str, Any], ok: bool) -> None:
    assert replace(ROW, **change).ok is ok


def test_the_incus_clients_command_line_is_the_same_machine() -> None:
    one = seen(BRAIN)
    assert client_command("/usr/bin/incus", one, ("ls", "-l"), None) == [
        "/usr/bin/incus", "exec", "--project", "ai", "brain", "--", "ls", "-l",
    ]  # fmt: skip
    assert client_command("/usr/bin/incus", one, ("ls",), "lab:")[4] == "lab:brain"


@pytest.mark.parametrize(
    ("addresses", "ok"),
    [(("10.1.0.1",), True), (("10.1.0.9", "10.1.0.1"), True), (("10.1.0.113",), False), ((), False)],
)
def test_a_machine_without_its_address_is_not_well(addresses: tuple[str, ...], *, ok: bool) -> None:
    assert replace(ROW, addresses=addresses).ok is ok


def test_a_machine_whose_file_leaves_its_address_open_may_have_any() -> None:
    assert replace(ROW, address="", addresses=()).ok
    own = machine("brain", devices={"eth0": {"type": "nic", "network": "other"}})
    assert (own.fixed_address, seen(own, addresses=()).has_address) == ("", True)
