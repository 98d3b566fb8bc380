"""The command `check` as a process of its own: exit codes, JSON, text."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import pytest

from launcher.infra.report import Code
from tests.support import preloaded

if TYPE_CHECKING:
    import subprocess

CORPUS = Path(__file__).parent.parent / "corpus"
REFERENCE = Path(__file__).parents[3] / "docs" / "reference" / "infra.md"


def run(*arguments: str | os.PathLike[str], rc: int = 0, **options: Any) -> subprocess.CompletedProcess[str]:
    options.setdefault("env", {"PATH": "/nowhere", "HOME": "/nowhere", "INCUS_SOCKET": "/nowhere"})
    result = preloaded.run("launcher", [os.fspath(word) for word in arguments], **options)
    assert "Traceback" not in result.stderr, result.stderr
    assert result.returncode == rc, result.stdout + result.stderr
    return result


def test_valid_as_text():
    result = run("check", CORPUS / "valid-wiring-same-domain.yml")
    lines = result.stdout.splitlines()
    assert [line.split() for line in lines[:3]] == [
        ["MACHINE", "DOMAIN", "ADDRESS", "IMAGE", "GPU"],
        ["webui", "lab", "10.120.0.1", "open-webui@latest", "-"],
        ["ai", "lab", "10.120.0.2", "ollama@latest", "-"],
    ]
    assert lines[3].startswith("'webui': open_webui_ollama_url is")
    assert lines[-1] == "valid: 2 machines in 1 domain"
    assert result.stderr == ""


def test_warnings_go_to_standard_error():
    file = CORPUS / "valid-ip-of-dhcp.yml"
    result = run("check", file)
    assert result.stderr.startswith(f"warning: {file}:7:13: 10.120.0.150 is given out by DHCP")


def test_invalid_as_text():
    file = CORPUS / "invalid-all-errors-at-once.yml"
    result = run("check", file, rc=2)
    lines = result.stdout.splitlines()
    assert len(lines) == 13
    assert all(line.startswith(f"{file}:") for line in lines[:-1])
    assert lines[-1] == "not valid: 12 errors"


def test_invalid_as_json():
    file = CORPUS / "invalid-role-without-image-near.yml"
    found = json.loads(run("check", file, "--json", rc=2).stdout)
    assert found["valid"] is False
    (error,) = found["errors"]
    assert error.pop("hint").startswith("did you mean 'ollama_server'?")
    assert error == {
        "code": "role-without-image",
        "file": str(file),
        "line": 7,
        "column": 16,
        "path": "domains.lab.machines.web.roles",
        "message": "'web': no image provides 'olama_server'",
    }
    assert found["warnings"] == []
    assert found["machines"] == {
        "web": {"domain": "lab", "project": "lab", "ip": "10.120.0.1", "image": None, "gpu": False}
    }
    assert found["domains"] == {
        "lab": {
            "project": "lab",
            "network": "net-lab",
            "subnet": "10.120.0.0/24",
            "gateway": "10.120.0.254",
            "enabled": True,
        }
    }


def test_valid_as_json():
    found = json.loads(run("check", "--json", CORPUS / "valid-gpu-one.yml").stdout)
    assert (found["valid"], found["errors"]) == (True, [])
    assert found["machines"]["a"] == {
        "domain": "lab",
        "project": "lab",
        "ip": "10.120.0.1",
        "image": "debian@latest",
        "gpu": True,
    }


def test_yolo():
    file = CORPUS / "invalid-privileged.yml"
    run("check", file, rc=2)
    assert "warning:" in run("check", file, "--yolo").stderr


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_nothing_there(tmp_path: Path, arguments: list[str]):
    result = run("check", tmp_path / "nothing.yml", *arguments, rc=2)
    assert "there is no such file" in result.stdout


@pytest.mark.parametrize("arguments", [[], ["--json"]])
def test_a_name_of_a_file_that_is_not_utf8(tmp_path: Path, arguments: list[str]):
    file = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.yml")
    Path(file).write_text("a: 1\n")
    assert "\\udcff" in run("check", file, *arguments, rc=2).stdout


def test_a_file_may_come_through_a_pipe():
    text = (CORPUS / "valid-gpu-one.yml").read_text()
    assert "valid: 2 machines" in run("check", "/dev/stdin", text=text).stdout


def test_a_device_without_end_is_no_disaster():
    assert "larger than" in run("check", "/dev/zero", rc=2).stdout


def test_the_reference_lists_the_codes_that_there_are():
    rows = [line for line in REFERENCE.read_text().splitlines() if line.startswith("| `")]
    section = REFERENCE.read_text().split("## Codes", 1)[1]
    listed = {
        word for line in rows if line in section for word in line.split("|")[1].replace("`", "").split(", ") if word
    }
    listed = {word.strip() for word in listed}
    yaml_codes = {word for word in listed if word.startswith("yaml-")} | {"no-such-file", "unreadable"}
    assert listed == set(get_args(Code)) | yaml_codes
