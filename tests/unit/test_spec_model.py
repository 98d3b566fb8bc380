"""spec.yml: what it may say, every way to get it wrong, variants, and the hash of what a lock answers to."""

from __future__ import annotations

import textwrap
from dataclasses import FrozenInstanceError, fields, replace

import pytest
import yaml

from anklume_images.errors import InvalidFileError, Problem
from anklume_images.specs.keys import SpecDocument, Variable
from anklume_images.specs.loader import load_specs
from anklume_images.specs.model import Spec, request_of
from anklume_images.specs.values import value_problem, value_text

PEM = """-----BEGIN CERTIFICATE-----
MIHFMHmgAwIBAgIBATAFBgMrZXAwDDEKMAgGA1UEAwwBYTAgFw0yMDAxMDEwMDAw
MDBaGA8yMTAwMDEwMTAwMDAwMFowDDEKMAgGA1UEAwwBYTAqMAUGAytlcAMhADKr
CKpYgMGkEy2SIdM8d3Catuj/OUzP/1wL2x2TYY5mMAUGAytlcANBABBh6eyAa0/V
7EgPRiXIIGEnYY9Cf0GBlDh8Fo34eijQS3hFoWNnN4iexgqL0TIXIO5r566VJdx9
c3IbbBn2PAk=
-----END CERTIFICATE-----
"""
KEY_PEM = "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n"
ROOT = """\
name: web
description: A web server
version: "1.0"
distribution: debian
release: trixie
inputs:
  debian:
    suites: [{archive: debian, suite: trixie}]
    packages: [nginx]
"""
CHILD = """\
name: web
description: A web server
version: "1.0"
from: debian
"""
FILE = """\
archives: {upstream: "https://example.org/releases/"}
inputs:
  files:
    - name: server
      archive: upstream
      path: {amd64: v1/server-amd64.tar, arm64: v1/server-arm64.tar}
      sha256: {amd64: AMD, arm64: ARM}
      unpack: {to: /usr, exclude: ["lib/cuda_*"]}
""".replace("AMD", "a" * 64).replace("ARM", "b" * 64)


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "web"
    path.mkdir()
    return path


def read(folder, text):
    (folder / "spec.yml").write_text(text)
    return load_specs(folder)


def one(folder, text):
    (spec,) = read(folder, text)
    return spec


def problems(folder, text) -> list[Problem]:
    with pytest.raises(InvalidFileError) as caught:
        read(folder, text)
    return caught.value.problems


def only(folder, text) -> Problem:
    found = problems(folder, text)
    assert len(found) == 1, [str(problem) for problem in found]
    return found[0]


def changed(text, **changes):
    data = yaml.safe_load(text)
    for path, value in changes.items():
        data[path] = value
    return yaml.safe_dump(data, sort_keys=False)


def test_a_root_image(folder):
    spec = one(folder, ROOT)
    assert (spec.name, spec.variant, spec.base) == ("web", None, None)
    assert (spec.distribution, spec.release) == ("debian", "trixie")
    assert spec.packages == ("nginx",)
    assert spec.debian.suites[0].components == ("main",)
    assert spec.architectures == ("amd64", "arm64")
    assert spec.default is True
    assert spec.lock_file == folder / "lock.json"


def test_everything_that_a_spec_can_say(folder):
    (folder / "files").mkdir()
    (folder / "files" / "web.service").write_text("[Service]\n")
    (folder / "web.env.tpl").write_text("PORT={{ port }}\n")
    (folder / "requirements.txt").write_text("idna==3.10\n")
    text = CHILD + textwrap.dedent("""\
        default: false
        provides: [web_server]
        tags: [llm]
        architectures: [amd64]
        inputs:
          debian: {suites: [{archive: debian, suite: sid, components: [main, contrib], pin: 100}], packages: [nginx]}
          python: {version: "3.11", requirements: requirements.txt, constraints: ["a<2"], overrides: [b], tools: [uv]}
        files: [{source: files/web.service, path: /etc/systemd/system/web.service, mode: "0600"}]
        templates: [{source: web.env.tpl, path: /etc/anklume/web.env, when: [create, copy, start]}]
        variables:
          port: {type: port, default: 80, description: Where it listens}
          key: {type: string, description: A key, secret: true}
        volumes: [{path: /root/.models, kind: models}]
        healthcheck: {command: [curl, -fsS, "http://localhost"], timeout: 30}
        ports: [80, 443]
        """)
    spec = one(folder, text)
    assert spec.default is False
    assert spec.debian.suites[0].pin == 100
    assert spec.python.tools == ("uv",)
    assert spec.files[0].mode == "0600"
    assert spec.templates[0].when == ("create", "copy", "start")
    assert spec.variables["port"].default == 80
    assert spec.variables["key"].secret is True
    assert spec.volumes[0].kind == "models"
    assert spec.healthcheck.timeout == 30
    assert spec.ports == (80, 443)
    assert spec.contents == {
        "files/web.service": "[Service]\n",
        "web.env.tpl": "PORT={{ port }}\n",
        "requirements.txt": "idna==3.10\n",
    }


def test_specs_are_frozen(folder):
    spec = one(folder, ROOT)
    with pytest.raises(FrozenInstanceError):
        spec.name = "other"


def test_unknown_key_names_the_nearest_one(folder):
    problem = only(folder, ROOT.replace("packages:", "pakages:"))
    assert str(problem) == f"{folder}/spec.yml:9:5: unknown key 'pakages' (did you mean 'packages'?)"
    assert (problem.code, problem.path) == ("unknown-key", "inputs.debian.pakages")


def test_unknown_key_in_a_list_item_and_in_a_variable(folder):
    text = (
        ROOT.replace("suite: trixie}", "suit: trixie}") + "variables: {port: {typ: port, type: port, description: x}}\n"
    )
    hints = {problem.hint for problem in problems(folder, text) if problem.code == "unknown-key"}
    assert hints == {"did you mean 'suite'?", "did you mean 'type'?"}


def test_all_problems_at_once(folder):
    text = "name: other\ndescription: 7\nversion: 1.0\nprovides: web\nports: [80, 70000]\ncolour: red\n"
    found = problems(folder, text)
    assert {(problem.line, problem.code) for problem in found} == {
        (1, "name-not-folder"),
        (2, "wrong-type"),
        (3, "wrong-value"),
        (4, "wrong-type"),
        (5, "wrong-value"),
        (6, "unknown-key"),
    }
    assert found == sorted(found)


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ('version: "1.0"', "version: {package: nginx, python: x}", "wrong-value"),
        ('version: "1.0"', "version: {literal: '1'}", "wrong-value"),
        ('version: "1.0"', "version: '1 0/x'", "wrong-value"),
        ('version: "1.0"', "version: {python: open-webui}", "version-without-input"),
        ("name: web", "name: Web", "wrong-value"),
        ("name: web", "name: web2", "name-not-folder"),
        ("release: trixie\n", "", "missing-key"),
        ("distribution: debian", "distribution: gentoo", "wrong-value"),
        ("description: A web server", "description: '{{ image }}'", "wrong-value"),
        ("archive: debian,", "archive: debain,", "unknown-archive"),
        ("archive: debian,", "archive: pypi,", "unknown-archive"),
        ("[nginx]", "[nginx, nginx]", "wrong-value"),
        ("[nginx]", "nginx", "wrong-type"),
        ("[nginx]", "['nginx; rm']", "wrong-value"),
        ("[{archive: debian, suite: trixie}]", "[]", "wrong-value"),
    ],
)
def test_wrong_roots(folder, old, new, code):
    assert old in ROOT
    assert only(folder, ROOT.replace(old, new)).code == code


@pytest.mark.parametrize(
    ("extra", "code", "line"),
    [
        ("from: web\n", "own-base", 4),
        ("release: trixie\n", "not-with-from", 5),
        ("architectures: [amd64, riscv64]\n", "wrong-value", 5),
        ("architectures: []\n", "wrong-value", 5),
        ("default: 1\n", "wrong-type", 5),
        ("archives: {debian: 'https://example.org'}\n", "known-archive", 5),
        ("archives: {mine: 'ftp://example.org'}\n", "wrong-value", 5),
        ("ports: [0]\n", "wrong-value", 5),
        ("ports: [80, 80]\n", "wrong-value", 5),
        ("ports: [true]\n", "wrong-type", 5),
        ("healthcheck: {command: []}\n", "wrong-value", 5),
        ("healthcheck: {command: [x], timeout: 0}\n", "wrong-value", 5),
        ("volumes: [{path: data}]\n", "wrong-value", 5),
        ("volumes: [{path: /data/../etc}]\n", "wrong-value", 5),
        ("volumes: [{path: /data}, {path: /data}]\n", "duplicate-path", 5),
        ("provides: [a-b]\n", "wrong-value", 5),
        ("inputs: {python: {version: '3.11'}}\n", "missing-key", 5),
        ("inputs: {python: {version: 3.11, requires: [a]}}\n", "wrong-type", 5),
        ("variables: {port: {type: prt, description: x}}\n", "wrong-value", 5),
        ("variables: {Port: {type: port, description: x}}\n", "wrong-value", 5),
        ("variables: {port: {type: port, default: '80', description: x}}\n", "wrong-default", 5),
        ("variables: {key: {type: string, default: k, secret: true, description: x}}\n", "secret-default", 5),
        ("files: [{source: none.txt, path: /etc/none}]\n", "no-such-file", 5),
        ("files: [{source: ../web/spec.yml, path: /etc/none}]\n", "wrong-value", 5),
        ("files: [{source: spec.yml, path: /etc/x, mode: 0644}]\n", "wrong-type", 5),
        ("files: [{source: spec.yml, path: /etc/x, mode: '0999'}]\n", "wrong-value", 5),
        ("templates: [{source: spec.yml, path: /etc/x, when: [boot]}]\n", "wrong-value", 5),
        ("templates: [{source: spec.yml, path: /etc/x, when: []}]\n", "wrong-value", 5),
        ("variants: {Big: {}}\n", "wrong-value", 5),
        ("variants: {big: 7}\n", "wrong-type", 5),
        ("variants: {big: {name: x}}\n", "not-in-variant", 5),
        ("variants: {big: {ports: [0]}}\n", "wrong-value", 5),
    ],
)
def test_wrong_children(folder, extra, code, line):
    text = CHILD.replace("from: debian\n", extra) if extra.startswith("from") else CHILD + extra
    problem = only(folder, text)
    assert (problem.code, problem.line) == (code, line)


def test_numbers_where_text_belongs_say_to_quote_it(folder):
    assert only(folder, ROOT.replace("A web server", "7")).hint == "put it in quotes"
    assert "in quotes" in only(folder, ROOT.replace('"1.0"', "1.0")).message
    changed = only(folder, ROOT.replace('"1.0"', "3.10"))
    assert (changed.code, changed.hint) == ("wrong-value", 'write "3.10", in quotes')
    assert "written 3.10, which YAML reads as 3.1" in changed.message
    assert only(folder, ROOT.replace("A web server", "no")).hint == 'write "no", in quotes'


@pytest.mark.parametrize(
    ("extra", "hint"),
    [
        ("ports: [0443]\n", "write 291, or 443"),
        ("healthcheck: {command: [x], timeout: 1:30}\n", "write 90"),
        ("variables: {x: {type: integer, description: x, default: 0x10}}\n", "write 16"),
        ("variants: {big: {ports: [0443]}}\n", "write 291, or 443"),
    ],
)
def test_a_number_that_yaml_changed_is_refused(folder, extra, hint):
    problem = only(folder, CHILD + extra)
    assert (problem.code, problem.line, problem.hint) == ("changed-by-yaml", 5, hint)


def test_wrong_choice_names_the_nearest(folder):
    assert only(folder, CHILD + "volumes: [{path: /m, kind: model}]\n").hint == "did you mean 'models'?"


def test_one_path_for_two_files(folder):
    (folder / "a.txt").write_text("a")
    text = CHILD + "files: [{source: a.txt, path: /etc/a}]\ntemplates: [{source: a.txt, path: /etc/a}]\n"
    problem = only(folder, text)
    assert (problem.code, problem.line, problem.path) == ("duplicate-path", 6, "templates[0].path")


def test_sources_are_text_within_the_folder(folder, tmp_path):
    (tmp_path / "secret").write_text("x")
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "binary").write_bytes(b"\x7fELF\xff")
    (folder / "large").write_bytes(b"a" * ((1 << 20) + 1))
    for source, code in (("link", "outside-folder"), ("binary", "not-text"), ("large", "too-large")):
        assert only(folder, CHILD + f"files: [{{source: {source}, path: /etc/x}}]\n").code == code


def test_missing_source_names_the_nearest_file(folder):
    (folder / "web.service").write_text("x")
    hint = only(folder, CHILD + "files: [{source: web.servce, path: /etc/x}]\n").hint
    assert hint == "did you mean 'web.service'?"


def test_release_files(folder):
    item = one(folder, CHILD + FILE).release_files[0]
    assert item.path["arm64"] == "v1/server-arm64.tar"
    assert item.unpack.exclude == ("lib/cuda_*",)


@pytest.mark.parametrize(
    ("old", "new", "code"),
    [
        ("arm64: v1/server-arm64.tar", "riscv64: x", "wrong-value"),
        (", arm64: v1/server-arm64.tar", "", "missing-architecture"),
        ("b" * 64, "b" * 63, "wrong-value"),
        (f", arm64: {'b' * 64}", "", "missing-sha256"),
        ("archive: upstream", "archive: upsteam", "unknown-archive"),
        ("archive: upstream", "archive: pypi", "unknown-archive"),
        ("to: /usr", "to: usr", "wrong-value"),
        ("v1/server-amd64.tar", "../server", "wrong-value"),
    ],
)
def test_wrong_release_files(folder, old, new, code):
    assert old in FILE
    assert only(folder, CHILD + FILE.replace(old, new)).code == code


def test_a_checksum_file_stands_in_for_pins(folder):
    text = CHILD + FILE.replace(
        "sha256: {amd64: " + "a" * 64 + ", arm64: " + "b" * 64 + "}", "checksums: v1/sha256sum.txt"
    )
    assert one(folder, text).release_files[0].checksums == "v1/sha256sum.txt"


def test_unpacking_needs_a_base(folder):
    data = yaml.safe_load(ROOT)
    extra = yaml.safe_load(FILE)
    data["archives"], data["inputs"]["files"] = extra["archives"], extra["inputs"]["files"]
    assert only(folder, yaml.safe_dump(data)).code == "unpack-without-from"


def test_two_inputs_of_one_name(folder):
    data = yaml.safe_load(CHILD + FILE)
    data["inputs"]["files"] *= 2
    assert only(folder, yaml.safe_dump(data)).code == "duplicate-name"


def test_variants_are_images_of_their_own(folder):
    text = CHILD + textwrap.dedent("""\
        ports: [80]
        inputs: {python: {version: "3.11", requires: [idna], constraints: [a]}}
        healthcheck: {command: [x]}
        variants:
          big:
            description: More of it
            inputs: {python: {requires: [idna, attrs]}}
            healthcheck: null
            ports: [81]
        """)
    plain, big = read(folder, text)
    assert (plain.name, plain.ports, plain.default) == ("web", (80,), True)
    assert (big.name, big.variant, big.default) == ("web-big", "big", False)
    assert big.python.requires == ("idna", "attrs")
    assert (big.python.version, big.python.constraints) == ("3.11", ("a",))
    assert big.description == "More of it"
    assert big.healthcheck is None
    assert big.ports == (81,)
    assert big.lock_file == folder / "lock-big.json"


def test_problems_of_variants_stand_where_they_were_written(folder):
    text = CHILD + "ports: [0]\nvariants:\n  big:\n    tags: [UP]\n    inputs:\n      pythn: {}\n"
    found = problems(folder, text)
    assert [(problem.line, problem.code) for problem in found] == [
        (5, "wrong-value"),
        (8, "wrong-value"),
        (10, "unknown-key"),
    ]
    assert found[2].hint == "did you mean 'python'?"


def test_not_a_mapping(folder):
    assert only(folder, "- a\n").code == "wrong-type"
    assert only(folder, "").code == "wrong-type"


def test_request_is_of_the_inputs_only(folder):
    spec = one(folder, ROOT)
    same = one(folder, changed(ROOT, description="Another", ports=[80], tags=["x"], provides=["web"]))
    other = one(folder, ROOT.replace("[nginx]", "[nginx, curl]"))
    assert request_of(spec, "amd64", None) == request_of(same, "amd64", None)
    assert len({request_of(spec, "amd64", None), request_of(other, "amd64", None)}) == 2


def test_request_depends_on_architecture_base_release_and_version(folder):
    spec = one(folder, ROOT)
    requests = {
        request_of(spec, "amd64", None),
        request_of(spec, "arm64", None),
        request_of(spec, "amd64", "b" * 64),
        request_of(one(folder, ROOT.replace("release: trixie", "release: bookworm")), "amd64", None),
        request_of(one(folder, ROOT.replace('"1.0"', '"1.1"')), "amd64", None),
    }
    assert len(requests) == 5


def test_request_depends_on_what_the_requirements_file_says(folder):
    text = CHILD + "inputs: {python: {version: '3.11', requirements: r.txt}}\n"
    (folder / "r.txt").write_text("idna==3.10\n")
    before = request_of(one(folder, text), "amd64", "x")
    (folder / "r.txt").write_text("idna==3.11\n")
    assert request_of(one(folder, text), "amd64", "x") != before


def test_request_of_release_files_is_per_architecture_and_knows_nothing_of_unpacking(folder):
    spec = one(folder, CHILD + FILE)
    unpacked = one(folder, CHILD + FILE.replace("to: /usr", "to: /opt"))
    arm = one(folder, CHILD + FILE.replace("b" * 64, "c" * 64))
    moved = one(folder, CHILD + FILE.replace("example.org", "example.net"))
    cases = [("amd64", unpacked, True), ("amd64", arm, True), ("arm64", arm, False), ("amd64", moved, False)]
    for arch, other, same in cases:
        assert (request_of(spec, arch, None) == request_of(other, arch, None)) is same


def test_document_is_plain_and_free_of_paths_of_the_host(folder):
    import json

    text = json.dumps(one(folder, CHILD + FILE).document())
    assert str(folder.parent) not in text
    assert "lib/cuda_*" in text


def test_document_is_the_same_wherever_the_folder_is(folder, tmp_path):
    spec = one(folder, ROOT)
    assert replace(spec, folder=tmp_path / "elsewhere").document() == spec.document()


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("string", ["", "a b", "ü"], [7, None, "a\nb", "a\0b", True]),
        ("port", [1, 65535], [0, 65536, "80", True, 1.0]),
        ("integer", [0, -7], ["1", True, 1.5]),
        ("bool", [True, False], [0, 1, "yes", None]),
        ("url", ["", "http://a:1/x", "https://[::1]/"], ["a", "ftp://a", "http://", "http://a b", "http://a:x/", 7]),
        ("list", [[], ["a", "b:3"]], ["a", [1], ["a b"], [""], {"a": 1}]),
        ("environment", [{}, {"A_1": "x y=z", "b": ""}], [{"1A": "x"}, {"A B": "x"}, {"A": 1}, {"A": "a\nb"}, ["A=b"]]),
        (
            "certificates",
            ["", PEM, PEM + "\n" + PEM],
            ["x", PEM[:-9], PEM.replace("M", "N", 1), KEY_PEM, PEM + KEY_PEM, 7],
        ),
        ("urls", [[], ["http://a:1", "https://b"]], ["http://a", ["a"], [""], ["http://a b"], [1]]),
        ("email", ["", "admin@localhost", "o'x+y@a-b.example"], ["bob", "@b", "a@", "a@b@c", "a b@c", "a@-b", 7]),
    ],
)
def test_values_of_variables(kind, good, bad):
    assert [value for value in good if value_problem(kind, value)] == []
    assert [value for value in bad if not value_problem(kind, value)] == []


def test_a_limit_counts_bytes_of_utf8_and_no_message_has_the_value():
    assert value_problem("string", "ü" * 36, 72) is None
    wrong = value_problem("string", "ü" * 36 + "x", 72)
    assert wrong is not None
    assert "73" in wrong.message
    assert "ü" not in wrong.message


def test_a_limit_that_is_not_set_is_no_part_of_the_document():
    plain = {"type": "string", "description": "d"}
    assert "max_bytes" not in Variable(**plain).model_dump(mode="json")
    assert Variable(**plain, max_bytes=72).model_dump(mode="json")["max_bytes"] == 72


def test_values_as_incus_holds_them():
    values = [None, True, False, 80, "a b", ["a", "b"], [], {"A": "b c", "D": ""}]
    assert [value_text(value) for value in values] == ["", "true", "false", "80", "a b", "a b", "", "A=b c\nD=\n"]


def test_every_key_is_in_the_spec_by_its_name():
    """But for those that the loader takes apart."""
    taken_apart = {"inputs", "variants"}
    assert set(SpecDocument.model_fields) - taken_apart <= {entry.name for entry in fields(Spec)}
