"""The `anklume-images` command as people and programs meet it: commands, exit codes, JSON, completion, progress."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from anklume_images.console import Console, human_size, table
from anklume_images.errors import AnklumeError, BuildError
from anklume_images.store.store import Store
from tests.support.stored_images import put

if TYPE_CHECKING:
    from anklume_images.store.images import Image

PROGRAM = str(Path(sys.executable).with_name("anklume-images"))
COMMANDS = [
    "attest",
    "build",
    "bundle",
    "channel",
    "deltas",
    "diff",
    "enter",
    "fetch",
    "gc",
    "list",
    "lock",
    "models",
    "outdated",
    "promote",
    "provenance",
    "publish",
    "pull",
    "render",
    "revoke",
    "sbom",
    "scan",
    "schema",
    "serve",
    "show",
    "sources",
    "trust",
    "update",
    "verify",
    "why",
]
ONE, TWO = "1.0-00000000000a", "2.0-00000000000b"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def images(home: Path) -> dict[str, Image]:
    """Two versions of one image, and one made from it."""
    store = Store(home)
    old = put(store, "debian", ONE, channels=("prod",), inputs=(b"old",))
    new = put(store, "debian", TWO, inputs=(b"new",))
    app = put(store, "app", ONE, base=new, inputs=(b"a tarball",))
    return {"old": old, "new": new, "app": app}


def run(*arguments: str, rc: int = 0, **options: Any) -> subprocess.CompletedProcess[str]:
    options.setdefault("stdout", subprocess.PIPE)
    options.setdefault("stderr", subprocess.PIPE)
    result = subprocess.run([PROGRAM, *arguments], text=True, check=False, **options)
    assert result.returncode == rc, (result.returncode, result.stdout, result.stderr)
    assert "Traceback" not in (result.stderr or "")
    return result


def answer(home: Path, *arguments: str, rc: int = 0) -> Any:
    return json.loads(run("--store", str(home), *arguments, "--json", rc=rc).stdout)


def test_help_names_every_verb() -> None:
    text = run("--help").stdout
    lines = text.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in lines if line[2:3].strip()] == COMMANDS  # others go on with a sentence
    assert run("-h").stdout == text


@pytest.mark.parametrize("command", COMMANDS)
def test_every_verb_has_help(command: str) -> None:
    text = run(command, "--help").stdout
    assert text.startswith(f"Usage: anklume-images {command} ")
    for line in text.splitlines():
        words = line.split()
        if words and words[0].startswith("--"):
            assert len(words) > 1, f"{words[0]} is not explained"


def test_help_is_quick_because_it_loads_next_to_nothing() -> None:
    script = "import anklume_images.cli.main, sys; print(' '.join(sorted(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    heavy = {
        "PySquashfsImage",
        "cvss",
        "cyclonedx",
        "debian",
        "jinja2",
        "pydantic",
        "pylxd",
        "requests",
        "tqdm",
        "urllib3",
        "uv",
        "yaml",
    }
    assert heavy & set(loaded) == set()


def test_the_version() -> None:
    assert run("--version").stdout.startswith("anklume-images, version 0.")


@pytest.mark.parametrize(
    ("arguments", "what", "about"),
    [
        (["biuld"], "no such command 'biuld' (did you mean 'build'?)", ""),
        (["bundle", "inspekt"], "no such command 'inspekt' (did you mean 'inspect'?)", " bundle"),
        (["build", "--frobnicate"], "no such option '--frobnicate'", " build"),
        (["show"], "missing argument 'REF'", " show"),
        (["show", "a", "b"], "got unexpected extra argument (b)", " show"),
        (["--arch", "m68k", "list"], "invalid value for '--arch': 'm68k' is not one of ", ""),
        (["build", "--jobs", "0"], "invalid value for '--jobs': ", " build"),
        (["build", "--jobs", "many"], "invalid value for '--jobs': ", " build"),
        (["verify", "--from", "mirrors"], "--from is for --repair", " verify"),
        (["--store"], "option '--store' requires an argument", None),
    ],
)
def test_wrong_usage_is_2(arguments: list[str], what: str, about: str | None, home: Path) -> None:
    """And is told as other errors are; `about` is the command whose help is pointed to."""
    result = run("--store", str(home), *arguments, rc=2) if arguments != ["--store"] else run(*arguments, rc=2)
    first, *hints = result.stderr.splitlines()
    assert first.startswith(f"error: {what}")
    options = f" --store {home}" if about else ""
    assert hints == ([] if about is None else [f"  hint: anklume-images{options}{about} --help"])
    assert result.stdout == ""
    assert not home.exists()


@pytest.mark.parametrize("command", ["build", "fetch", "render", "lock"])
def test_an_unknown_image_is_2_with_the_nearest_name(command: str, home: Path) -> None:
    if command == "lock" and os.geteuid() != 0:
        command = "build"
    result = run("--store", str(home), command, "debain", rc=2)
    assert "error: no image is called 'debain'" in result.stderr
    assert "hint: did you mean 'debian'?" in result.stderr


def test_an_unknown_folder_of_specs_is_2(home: Path) -> None:
    assert "error: " in run("--specs", f"{home}/none", "--store", str(home), "render", "debian", rc=2).stderr


def test_an_invalid_spec_is_2_and_all_of_it_is_told(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "spec.yml").write_text("name: broken\npakages: []\nversion: 1.0\n")
    (tmp_path / "broken" / "distrobuilder.yaml.j2").write_text("")
    result = run("--specs", str(tmp_path), "--store", str(tmp_path / "s"), "build", "broken", rc=2)
    assert f"{tmp_path}/broken/spec.yml:2:1: unknown key 'pakages'" in result.stderr
    assert f"{tmp_path}/broken/spec.yml:3:" in result.stderr


def test_what_is_not_in_the_store_is_1(home: Path, images: dict[str, Image]) -> None:
    for command in ("show", "sbom", "provenance", "sources", "verify", "publish"):
        result = run("--store", str(home), command, "debian@staging", rc=1)
        assert "error: the store has no debian@staging for amd64" in result.stderr
        assert f"hint: there are: latest, prod, {ONE}, {TWO}" in result.stderr


def test_list(home: Path, images: dict[str, Image]) -> None:
    lines = run("--store", str(home), "--arch", "amd64", "list").stdout.splitlines()
    assert lines[0].split() == ["NAME", "VERSION", "ARCH", "CHANNELS", "SIZE", "FINGERPRINT", "DESCRIPTION"]
    assert [line.split()[:4] for line in lines[1:]] == [
        ["app", ONE, "amd64", "latest"],
        ["debian", ONE, "amd64", "prod"],
        ["debian", TWO, "amd64", "latest"],
    ]
    assert all(line == line.rstrip() for line in lines)


def test_list_for_programs(home: Path, images: dict[str, Image]) -> None:
    entries = answer(home, "list")
    assert [(entry["name"], entry["version"], entry["channels"]) for entry in entries] == [
        ("app", ONE, ["latest"]),
        ("debian", ONE, ["prod"]),
        ("debian", TWO, ["latest"]),
    ]
    image = images["app"]
    assert entries[0] | {"channels": None} == {
        "name": "app",
        "version": ONE,
        "architecture": "amd64",
        "base": {"name": "debian", "version": TWO},
        "channels": None,
        "description": "The image app",
        "fingerprint": image.fingerprint,
        "recipe": image.recipe,
        "size": image.metadata.size + image.rootfs.size,
        "unpacked": 1,
    }


def test_an_empty_store_lists_nothing_and_is_not_made(home: Path) -> None:
    assert answer(home, "list") == []
    assert len(run("--store", str(home), "list").stdout.splitlines()) == 1
    assert not home.exists()


def test_show(home: Path, images: dict[str, Image]) -> None:
    text = run("--store", str(home), "--arch", "amd64", "show", "app").stdout
    for word in (f"app@{ONE} (amd64)", images["app"].fingerprint, f"debian@{TWO}", "The image app"):
        assert word in text
    document = json.loads(run("--store", str(home), "--arch", "amd64", "show", "app", "--json").stdout)
    for key in ("name", "version", "architecture", "fingerprint", "recipe", "packages", "metadata", "rootfs", "schema"):
        assert key in document
    assert document["packages"] == [{"kind": "file", "name": "input-0", "version": "input-0"}]


def test_sbom_prints_the_document(home: Path, images: dict[str, Image]) -> None:
    assert json.loads(run("--store", str(home), "--arch", "amd64", "sbom", "app").stdout) == {}


def test_verify_says_how_many_and_fails_on_damage(home: Path, images: dict[str, Image]) -> None:
    assert answer(home, "verify") == {
        "checked": 9,
        "bytes": sum(path.stat().st_size for path in home.glob("blobs/sha256/*/*")),
        "damaged": [],
    }
    Store(home).blobs.path(images["app"].rootfs.sha256).write_bytes(b"x")
    report = answer(home, "verify", rc=1)
    assert report["damaged"] == [f"app@{ONE}: blob {images['app'].rootfs.sha256} has other bytes"]
    text = run("--store", str(home), "verify", rc=1).stdout
    assert text.startswith("damaged: app@")
    assert text.endswith("9 files checked, 1 damaged\n")
    done = "removed, to be fetched or built again"
    assert answer(home, "verify", "--repair")["repaired"] == {report["damaged"][0]: done}
    assert not Store(home).blobs.has(images["app"].rootfs.sha256)


def test_verify_takes_what_is_damaged_from_another_store(home: Path, images: dict[str, Image]) -> None:
    other = home.with_name("other")
    shutil.copytree(home, other)
    path = Store(home).blobs.path(images["app"].rootfs.sha256)
    before = path.read_bytes()
    path.write_bytes(b"x")
    said = run("--store", str(home), "verify", "--repair", "--from", str(other)).stdout
    assert f"has other bytes: taken from {other}\n" in said
    assert path.read_bytes() == before
    assert answer(home, "verify")["damaged"] == []
    wrong = run("--store", str(home), "verify", "--repair", "--from", f"{other}/blobs", rc=1)
    assert "this is not a store" in wrong.stderr
    assert "--from is for --repair" in run("--store", str(home), "verify", "--from", "mirrors", rc=2).stderr


def test_verify_a_sample(home: Path, images: dict[str, Image]) -> None:
    assert answer(home, "verify", "--sample", "3")["checked"] == 3
    assert answer(home, "verify", "--sample", "100%")["checked"] == 9
    assert "is no sample" in run("--store", str(home), "verify", "--sample", "0%", rc=2).stderr


def test_gc_says_what_it_would_do_and_does_it(home: Path, images: dict[str, Image]) -> None:
    answer(home, "--arch", "amd64", "channel", "rm", "debian", "prod")
    answer(home, "--arch", "amd64", "channel", "set", "debian", "latest")
    plan = answer(home, "gc", "--dry-run")
    assert plan["removed"][0] == f"image debian@{ONE} (amd64)"
    assert plan["dry_run"]
    assert plan["bytes"] > 0
    said = run("--store", str(home), "gc", "--dry-run")
    assert f"would remove image debian@{ONE} (amd64)" in said.stderr
    assert said.stdout.startswith("would free ")
    assert answer(home, "gc") == plan | {"dry_run": False}
    assert answer(home, "gc") == {"removed": [], "bytes": 0, "dry_run": False}
    assert len(answer(home, "list")) == 2


def test_gc_says_why(home: Path, images: dict[str, Image]) -> None:
    why = run("--store", str(home), "--arch", "amd64", "gc", "--why", "debian").stdout
    assert why.splitlines() == ["channel latest", f"base of app@{ONE}"]


def test_gc_says_why_a_blob_stays(home: Path, images: dict[str, Image]) -> None:
    sha256 = images["app"].rootfs.sha256
    assert answer(home, "gc", "--why", sha256[:16])["kept_by"] == [f"the image app@{ONE} (amd64)"]
    assert "the store has no blob and no tree" in run("--store", str(home), "gc", "--why", "0" * 64, rc=1).stderr


def test_gc_within_a_size(home: Path, images: dict[str, Image]) -> None:
    report = answer(home, "gc", "--max-size", "1GiB")
    assert (report["removed"], report["fits"]) == ([], True)
    assert report["size"] > 0
    said = run("--store", str(home), "gc", "--max-size", "1kB", rc=1)
    assert "1000 B cannot be met" in said.stderr
    assert "is no size" in run("--store", str(home), "gc", "--max-size", "much", rc=2).stderr


def test_a_channel_is_set_and_rolled_back(home: Path, images: dict[str, Image]) -> None:
    amd64 = ("--arch", "amd64", "channel")
    moved = {"name": "debian", "architecture": "amd64", "channel": "prod", "from": ONE, "to": TWO}
    assert answer(home, *amd64, "set", "debian", "prod", "--dry-run") == moved | {"dry_run": True}
    assert answer(home, *amd64, "set", "debian", "prod", "--why", "it works") == moved | {"dry_run": False}
    said = run("--store", str(home), *amd64, "set", "debian", "prod").stdout
    assert said == f"debian@prod (amd64): {TWO}, unchanged\n"
    (row,) = [one for one in answer(home, "channel", "list", "debian") if one["channel"] == "prod"]
    assert (row["version"], row["name"], row["architecture"]) == (TWO, "debian", "amd64")
    assert row["since"]
    assert row["user"]
    back = answer(home, *amd64, "rollback", "debian", "prod", "--why", "it does not")
    assert (back["from"], back["to"]) == (TWO, ONE)
    history = answer(home, *amd64, "history", "debian", "prod")
    told = [(one["from"], one["to"], one["command"], one["why"]) for one in history["moves"]]
    assert told == [
        (None, ONE, "", ""),
        (ONE, TWO, "channel set", "it works"),
        (TWO, ONE, "channel rollback", "it does not"),
    ]
    assert history["breaks"] == []
    assert "has named no version before" in run("--store", str(home), *amd64, "rollback", "debian", "prod", rc=1).stderr
    assert answer(home, *amd64, "rollback", "debian", "prod", "--to", TWO)["to"] == TWO


def test_a_rollback_to_what_is_gone_is_refused(home: Path, images: dict[str, Image]) -> None:
    amd64 = ("--store", str(home), "--arch", "amd64", "channel")
    run(*amd64, "set", f"debian@{TWO}", "prod")
    Store(home).blobs.remove(images["old"].rootfs.sha256)
    said = run(*amd64, "rollback", "debian", "prod", rc=1).stderr
    assert f"error: debian@prod (amd64) cannot go back to {ONE}: its files are gone" in said
    assert "has never named 9" in run(*amd64, "rollback", "debian", "prod", "--to", "9", rc=1).stderr
    assert "there is no channel debian@none" in run(*amd64, "rollback", "debian", "none", rc=1).stderr


def test_a_channel_is_removed(home: Path, images: dict[str, Image]) -> None:
    amd64 = ("--arch", "amd64", "channel")
    assert answer(home, *amd64, "rm", "debian", "prod", "--dry-run")["to"] is None
    assert answer(home, *amd64, "rm", "debian", "prod")["from"] == ONE
    assert [one["channel"] for one in answer(home, "channel", "list", "debian")] == ["latest"]
    assert "there is no channel" in run("--store", str(home), *amd64, "rm", "debian", "prod", rc=1).stderr
    assert "not the name of a channel" in run("--store", str(home), *amd64, "set", "debian", "Prod", rc=1).stderr


def test_a_changed_history_is_told(home: Path, images: dict[str, Image]) -> None:
    log = home / "history" / "channels.jsonl"
    log.write_bytes(log.read_bytes().replace(b'"latest"', b'"LATEST"', 1))
    assert answer(home, "channel", "history", "debian", rc=1)["breaks"]
    assert f"warning: {log}: line " in run("--store", str(home), "channel", "history", "debian", rc=1).stderr


def test_where_the_store_is(home: Path, images: dict[str, Image]) -> None:
    named = os.environ | {"ANKLUME_STORE": str(home)}
    assert len(json.loads(run("list", "--json", env=named).stdout)) == 3
    assert json.loads(run("--store", f"{home}-other", "list", "--json", env=named).stdout) == []


def completions(line: str, env: dict[str, str] | None = None) -> list[str]:
    words = line.split(" ")
    asked = {"_ANKLUME_IMAGES_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
    answers = run(env=os.environ | asked | (env or {})).stdout.split()
    return [entry.partition(",")[2] for entry in answers]


def test_completion(home: Path, images: dict[str, Image]) -> None:
    script = run(env=os.environ | {"_ANKLUME_IMAGES_COMPLETE": "bash_source"}).stdout
    assert "complete -o nosort -F" in script
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0
    assert completions("anklume-images bui") == ["build"]
    assert completions("anklume-images build debian-") == ["debian-12"]
    store = {"ANKLUME_STORE": str(home)}
    assert completions("anklume-images show deb", store) == ["debian", f"debian@{ONE}", f"debian@{TWO}"]
    assert completions("anklume-images channel rollback d", store) == ["debian"]
    assert completions("anklume-images channel rollback debian ", store) == ["latest", "prod"]
    assert completions("anklume-images channel set debian@latest st", store) == ["staging"]


def test_completion_in_a_store_that_is_none_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "schema").write_text("99")
    assert completions("anklume-images show deb", {"ANKLUME_STORE": str(tmp_path)}) == []


def unbuffered(*, on: bool) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"} | (
        {"PYTHONUNBUFFERED": "1"} if on else {}
    )


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("arguments", [["list"], ["list", "--json"], ["--help"]])
def test_a_full_disk_behind_standard_output_is_an_error(
    arguments: list[str], at_once: bool, home: Path, images: dict[str, Image]
) -> None:
    with Path("/dev/full").open("w") as full:
        result = run("--store", str(home), *arguments, rc=1, stdout=full, env=unbuffered(on=at_once))
    assert "error: No space left on device" in result.stderr
    assert "Exception ignored" not in result.stderr


@pytest.mark.parametrize("at_once", [True, False])
def test_a_reader_that_goes_away_is_no_error_to_talk_about(at_once: bool, home: Path, images: dict[str, Image]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    argv = [PROGRAM, "--store", str(home), "list", "--json"]
    with os.fdopen(writing, "w") as pipe:
        result = subprocess.run(
            argv, stdout=pipe, stderr=subprocess.PIPE, text=True, check=False, env=unbuffered(on=at_once)
        )
    assert result.stderr == ""
    assert result.returncode in (1, 141)  # click's own answer, or a shell's for SIGPIPE


def test_closed_outputs_are_no_hindrance(home: Path, images: dict[str, Image]) -> None:
    command = 'exec "$@" >&- 2>&-'
    argv = ["sh", "-c", command, "sh", PROGRAM, "--store", str(home)]
    assert subprocess.run([*argv, "list"], check=False).returncode == 0
    assert subprocess.run([*argv, "build", "debain"], check=False).returncode == 2


class TestConsole:
    """What the pipeline talks to."""

    @pytest.mark.parametrize(
        ("count", "text"),
        [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (62_600_000, "59.7 MiB"), (1 << 50, "1024.0 TiB")],
    )
    def test_sizes(self, count: int, text: str) -> None:
        assert human_size(count) == text

    def test_tables(self) -> None:
        assert table([("a", "1"), ("long", "")], ("NAME", "N")) == "NAME  N\na     1\nlong"

    def test_results_go_to_standard_output_and_progress_to_standard_error(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        console = Console()
        console.note("on its way")
        console.result("done")
        console.json({"b": 1, "a": "é"})
        assert capsys.readouterr() == ('done\n{\n  "a": "é",\n  "b": 1\n}\n', "on its way\n")

    def test_quiet_shows_warnings_all_the_same(self, capsys: pytest.CaptureFixture[str]) -> None:
        console = Console(quiet=True)
        console.note("on its way")
        console.start(10, 1)
        console.warn("mind this")
        console.finish()
        assert capsys.readouterr().err == "warning: mind this\n"

    def test_a_transfer_is_one_line_where_there_is_no_terminal(self, capsys: pytest.CaptureFixture[str]) -> None:
        console = Console()
        console.start(5 << 20, 3)
        console.advance(5 << 20)
        console.finish()
        assert capsys.readouterr().err == "fetching 3 files, 5.0 MiB\n"

    def test_errors_say_what_where_and_what_to_do(self, capsys: pytest.CaptureFixture[str]) -> None:
        Console().error(AnklumeError("it is gone", where="/store", hint="look elsewhere"))
        assert capsys.readouterr().err == "error: /store: it is gone\n  hint: look elsewhere\n"

    def test_a_failed_build_shows_its_last_lines_and_where_to_look(self, capsys: pytest.CaptureFixture[str]) -> None:
        error = BuildError(
            "app: step 'x' failed",
            step="x",
            tail=["one", "two"],
            log="/log",
            enter="anklume-images enter app",
            hint="do",
        )
        Console().error(error)
        assert capsys.readouterr().err.splitlines() == [
            "error: app: step 'x' failed",
            "  | one",
            "  | two",
            "  log: /log",
            "  look around in the sandbox: anklume-images enter app",
            "  hint: do",
        ]

    def test_commands_are_shown_as_they_must_be_typed(self, capsys: pytest.CaptureFixture[str]) -> None:
        console = Console()
        console.configure(quiet=False, options=["--store", "/s"])
        console.error(AnklumeError("it is gone", hint="run: anklume-images fetch app"))
        assert "hint: run: anklume-images --store /s fetch app\n" in capsys.readouterr().err
