"""From a spec and its templates to the definition that distrobuilder reads."""

from __future__ import annotations

import subprocess

import pytest
import yaml

from anklume_images.errors import AnklumeError, InvalidFileError
from anklume_images.specs.catalog import Catalog, builtin_specs
from anklume_images.specs.render import render

APP = """\
name: app
description: "An app: with a colon"
version: "1"
from: debian
inputs: {debian: {suites: [{archive: debian, suite: trixie}], packages: [nginx]}}
files: [{source: app.service, path: /etc/systemd/system/app.service, mode: "0640"}]
templates: [{source: app.env.tpl, path: /etc/anklume/app.env, mode: "0600", when: [create, start]}]
variables:
  app_port: {type: port, default: 8080, description: Where it listens}
  app_models: {type: list, default: [a, "b:3"], description: Models}
  app_key: {type: string, secret: true, description: A key}
"""
SERVICE = "[Unit]\nDescription=App\n\n[Service]\nExecStart=/usr/bin/app\n"
ENV = 'PORT={{ config_get("user.anklume.app_port", properties.app_port) }}\n'
TEMPLATE = """\
{% extends "_image.yaml.j2" %}
{% block post_packages %}
install -d /var/lib/app
  indented
{% endblock %}
{% block post_files %}
systemctl enable app.service
{% endblock %}
"""


@pytest.fixture
def app(tmp_path):
    folder = tmp_path / "specs" / "app"
    folder.mkdir(parents=True)
    (folder / "spec.yml").write_text(APP)
    (folder / "app.service").write_text(SERVICE)
    (folder / "app.env.tpl").write_text(ENV)
    (folder / "distrobuilder.yaml.j2").write_text(TEMPLATE)
    return folder


def rendered(folder, name="app", arch="amd64", epoch=1700000000):
    catalog = Catalog.load([folder.parent, builtin_specs()])
    return render(catalog.chain(name), arch, epoch, catalog.partials)


def definition(folder, **words):
    return yaml.safe_load(rendered(folder, **words))


def problem(folder):
    with pytest.raises(InvalidFileError) as caught:
        rendered(folder)
    return caught.value.problems[0]


def scripts(parsed, trigger="post-files"):
    return [action["action"] for action in parsed["actions"] if action["trigger"] == trigger]


@pytest.mark.parametrize(("name", "release"), [("debian", "trixie"), ("debian-12", "bookworm")])
def test_root_images_come_from_the_loopback_mirror(app, name, release):
    parsed = definition(app, name=name)
    assert parsed["source"] == {
        "downloader": "debootstrap",
        "variant": "minbase",
        "suite": release,
        "url": "http://127.0.0.1/debian",
        "components": ["main"],
        "skip_verification": True,
    }
    (repository,) = parsed["packages"]["repositories"]
    assert repository["url"] == f"deb [trusted=yes] http://127.0.0.1/debian {release} main"
    (packages,) = parsed["packages"]["sets"]
    assert packages["flags"] == ["--no-install-recommends"]
    assert "systemd-sysv" in packages["packages"]
    assert parsed["mappings"] == {"architecture_map": "debian"}
    assert parsed["image"]["release"] == release


@pytest.mark.parametrize(("arch", "machine"), [("amd64", "x86_64"), ("arm64", "aarch64")])
def test_machine_and_epoch(app, arch, machine):
    image = definition(app, arch=arch, epoch=1234)["image"]
    assert (image["architecture"], image["serial"], image["name"]) == (machine, "1234", "app")
    assert image["description"] == "An app: with a colon"


def test_whatever_packing_over_a_base_must_not_skip_says_container(app):
    for name in ("app", "debian"):
        parsed = definition(app, name=name)
        packages = parsed["packages"]
        entries = [*parsed["files"], *parsed["actions"], *packages["repositories"], *packages["sets"]]
        assert {tuple(entry.get("types", ())) for entry in entries} == {("container",)}


def test_files_are_dumped_with_their_mode_and_text(app):
    entries = [entry for entry in definition(app)["files"] if entry["path"].endswith("app.service")]
    assert entries == [
        {
            "path": "/etc/systemd/system/app.service",
            "generator": "dump",
            "types": ["container"],
            "mode": "0640",
            "content": SERVICE,
        }
    ]


def test_templates_of_the_whole_chain_with_defaults_as_properties(app):
    files = definition(app)["files"]
    templates = {entry["path"]: entry for entry in files if entry["generator"] == "template"}
    assert set(templates) == {"/etc/anklume/app.env", "/etc/apt/sources.list.d/anklume.sources"}
    entry = templates["/etc/anklume/app.env"]
    assert entry["content"] == ENV
    assert entry["template"]["when"] == ["create", "start"]
    assert entry["template"]["properties"] == {
        "app_key": "",
        "app_models": "a b:3",
        "app_port": "8080",
        "apt_mirror": "",
    }


def test_an_empty_file_gives_a_template_its_mode(app):
    files = definition(app)["files"]
    position = next(n for n, entry in enumerate(files) if entry["generator"] == "template" and "app" in entry["path"])
    before = files[position - 1]
    assert (before["generator"], before["path"], before["mode"]) == ("dump", "/etc/anklume/app.env", "0600")


def test_names_of_templates_are_files_of_one_folder_and_differ(app):
    text = APP.replace("/etc/anklume/app.env,", "/etc/a-b,").replace(
        "templates: [", "templates: [{source: app.env.tpl, path: /etc/a/b}, "
    )
    (app / "spec.yml").write_text(text)
    names = [entry["name"] for entry in definition(app)["files"] if entry["generator"] == "template"]
    assert len(set(names)) == 3
    assert not [name for name in names if "/" in name]


def test_hostname_and_hosts_are_declared_in_every_image(app):
    for name in ("app", "debian"):
        generators = {entry["generator"]: entry["path"] for entry in definition(app, name=name)["files"]}
        assert generators["hostname"] == "/etc/hostname"
        assert generators["hosts"] == "/etc/hosts"


def test_an_app_says_only_its_own(app):
    parsed = definition(app)
    assert parsed["source"] == {"downloader": "rootfs-http"}
    assert scripts(parsed, "post-packages") == ["#!/bin/sh\nset -eu\ninstall -d /var/lib/app\n  indented"]
    assert scripts(parsed)[0] == "#!/bin/sh\nset -eu\nsystemctl enable app.service"


def test_normalising_comes_last(app):
    for name in ("app", "debian", "debian-12"):
        last = definition(app, name=name)["actions"][-1]
        assert last["trigger"] == "post-files"
        for trace in ("ssh_host_", "aux-cache", "dbus/machine-id", "/var/log", "*-old", ".pwd.lock", "random-seed"):
            assert trace in last["action"]


def test_the_shell_of_every_action_parses(app):
    for name in ("app", "debian", "debian-12"):
        for action in definition(app, name=name)["actions"]:
            assert action["action"].startswith("#!/bin/sh\n")
            done = subprocess.run(["sh", "-n"], input=action["action"].encode(), capture_output=True, check=False)
            assert (done.returncode, done.stderr) == (0, b"")


def test_without_packages_there_is_nothing_to_refresh(app):
    (app / "spec.yml").write_text("\n".join(line for line in APP.splitlines() if not line.startswith("inputs")))
    packages = definition(app)["packages"]
    assert "sets" not in packages
    assert "repositories" not in packages


def test_blocks_may_add_whole_actions(app):
    extra = "  - {trigger: post-unpack, types: [container], action: x}\n"
    (app / "distrobuilder.yaml.j2").write_text(
        f'{{% extends "_image.yaml.j2" %}}\n{{% block actions %}}\n{extra}{{% endblock %}}\n'
    )
    triggers = [action["trigger"] for action in definition(app)["actions"]]
    assert triggers == ["post-unpack", "post-files"]


def test_no_name_of_a_mirror_is_in_a_definition(app):
    for name in ("app", "debian", "debian-12"):
        text = rendered(app, name=name)
        hosts = {line.split("://")[1].split("/")[0].split()[0] for line in text.splitlines() if "://" in line}
        assert hosts == {"127.0.0.1"}


def test_rendering_twice_gives_the_same_text(app):
    assert rendered(app) == rendered(app)


def test_undefined_variable_has_its_line_and_the_nearest_name(app):
    (app / "distrobuilder.yaml.j2").write_text("image:\n  name: {{ spec.name }}\n  arch: {{ machin }}\n")
    found = problem(app)
    assert (found.file, found.line, found.code) == (f"{app}/distrobuilder.yaml.j2", 3, "undefined-variable")
    assert found.hint == "did you mean 'machine'?"


def test_undefined_attribute(app):
    (app / "distrobuilder.yaml.j2").write_text("a: 1\nb: {{ spec.nme }}\n")
    found = problem(app)
    assert (found.line, found.code) == (2, "undefined-variable")


def test_undefined_variable_in_a_block_of_a_child(app):
    (app / "distrobuilder.yaml.j2").write_text(TEMPLATE.replace("install -d", "{{ nothing }}"))
    found = problem(app)
    assert (found.file, found.line) == (f"{app}/distrobuilder.yaml.j2", 3)


def test_syntax_error_of_a_template(app):
    (app / "distrobuilder.yaml.j2").write_text("a: 1\nb: {% if %}\n")
    found = problem(app)
    assert (found.file, found.line, found.code) == (f"{app}/distrobuilder.yaml.j2", 2, "template-syntax")


def test_missing_parent_template_names_the_nearest(app):
    (app / "distrobuilder.yaml.j2").write_text('{% extends "_imag.yaml.j2" %}\n')
    found = problem(app)
    assert (found.code, found.hint) == ("no-such-template", "did you mean '_image.yaml.j2'?")
    assert found.file == f"{app}/distrobuilder.yaml.j2"


def test_missing_template(app):
    (app / "distrobuilder.yaml.j2").unlink()
    assert problem(app).code == "no-such-template"


def test_an_expression_that_fails(app):
    (app / "distrobuilder.yaml.j2").write_text("a: 1\nb: {{ 1 // 0 }}\n")
    found = problem(app)
    assert (found.line, found.code) == (2, "template-failed")


def test_duplicate_keys_of_the_result(app):
    (app / "distrobuilder.yaml.j2").write_text("a: 1\n{% for n in [1, 2] %}\nb: {{ n }}\n{% endfor %}\n")
    found = problem(app)
    assert (found.code, found.line) == ("duplicate-key", 3)
    assert found.file.endswith("(rendered)")


def test_a_result_that_is_no_mapping(app):
    (app / "distrobuilder.yaml.j2").write_text("- a\n")
    assert problem(app).code == "wrong-type"


def test_a_setting_that_nobody_declared(app):
    (app / "app.env.tpl").write_text('A=1\nP={{ config_get("user.anklume.app_prt", "") }}\n')
    found = problem(app)
    assert (found.file, found.line, found.code) == (f"{app}/app.env.tpl", 2, "undeclared-variable")
    assert found.hint == "did you mean 'app_port'?"


def test_an_architecture_that_the_spec_is_not_made_for(app):
    (app / "spec.yml").write_text(APP + "architectures: [amd64]\n")
    with pytest.raises(AnklumeError, match="'app' is not made for arm64"):
        rendered(app, arch="arm64")


def test_partials_of_ones_own_come_before_those_of_the_program(app):
    partials = app.parent / "_partials"
    partials.mkdir()
    (partials / "_normalise.sh.j2").write_text("#!/bin/sh\ntrue\n")
    assert scripts(definition(app))[-1] == "#!/bin/sh\ntrue"
