from __future__ import annotations

import os
from pathlib import Path

import pytest

from anklume_images.cli.gc import _wants
from anklume_images.cli.session import Session
from anklume_images.console import Console
from anklume_images.errors import InvalidFileError
from anklume_images.inputs.fetch import FetchReport
from anklume_images.settings import SETTINGS, Settings, load_settings, settings_paths, store_home


def test_without_any_file_the_defaults_hold(tmp_path):
    settings = load_settings({}, [tmp_path / "none.yml"])
    assert settings == Settings(path=tmp_path / "none.yml")
    assert settings.snapshot is None
    assert settings.connections == 8


def test_user_overrides_system_and_environment_overrides_both_mirrors_by_archive(tmp_path):
    system, user = tmp_path / "system.yml", tmp_path / "user.yml"
    system.write_text(
        "mirrors:\n  debian: http://a.test/debian/\n  extra: http://a.test/extra\njobs: 3\nconnections: 2\n"
    )
    user.write_text("mirrors:\n  debian: [http://b.test/debian, file:///srv/debian]\njobs: 4\n")
    settings = load_settings(
        {"ANKLUME_JOBS": "5", "ANKLUME_MIRRORS": "more=http://c.test/1 more=http://c.test/2"}, [system, user]
    )
    assert dict(settings.mirrors) == {
        "debian": ("http://b.test/debian", "file:///srv/debian"),
        "extra": ("http://a.test/extra",),
        "more": ("http://c.test/1", "http://c.test/2"),
    }
    assert (settings.jobs, settings.connections) == (5, 2)
    assert settings.path == user


def test_environment_gives_snapshot_and_indexes():
    environ = {
        "ANKLUME_SNAPSHOT": "http://s.test/archive/",
        "ANKLUME_PYTHON_INDEXES": "http://i.test/simple http://j.test/simple",
    }
    settings = load_settings(environ, [])
    assert settings.snapshot == "http://s.test/archive"
    assert settings.python_indexes == ("http://i.test/simple", "http://j.test/simple")


def test_every_problem_is_told_with_its_place(tmp_path):
    path = tmp_path / "images.yml"
    path.write_text(
        "jobs: many\nmirors: {}\nsnapshot:\n  - 1\njobs: 2\nconnections: 1000\nmirrors:\n  debian: ftp://x.test\n"
    )
    with pytest.raises(InvalidFileError) as caught:
        load_settings({"ANKLUME_JOBS": "-1"}, [path])
    told = {
        (problem.line, problem.code, problem.path) for problem in caught.value.problems if problem.file == str(path)
    }
    assert told == {
        (1, "type", "jobs"),
        (2, "unknown-key", "mirors"),
        (4, "type", "snapshot"),
        (5, "duplicate-key", "jobs"),
        (6, "type", "connections"),
        (8, "type", "mirrors"),
    }
    assert "did you mean 'mirrors'?" in str(caught.value)
    assert "$ANKLUME_JOBS" in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("a: [", "syntax"),
        ("- 1\n", "type"),
        ("just text", "type"),
        ("? {a: 1}\n: 2\n", "unknown-key"),
        ("jobs: !!python/object:os.x {}\n", "syntax"),
    ],
)
def test_a_file_that_is_no_mapping_is_one_problem(tmp_path, text, code):
    path = tmp_path / "images.yml"
    path.write_text(text)
    with pytest.raises(InvalidFileError) as caught:
        load_settings({}, [path])
    assert [problem.code for problem in caught.value.problems] == [code]


def test_a_number_that_yaml_changed_is_refused(tmp_path):
    path = tmp_path / "images.yml"
    path.write_text("jobs: 010\nconnections: 8\n")
    with pytest.raises(InvalidFileError) as caught:
        load_settings({}, [path])
    assert [(p.line, p.column, p.code, p.hint) for p in caught.value.problems] == [
        (1, 7, "changed-by-yaml", "write 8, or 10")
    ]


def test_a_file_that_is_not_text_or_not_a_file_is_a_problem(tmp_path):
    binary = tmp_path / "binary.yml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidFileError) as caught:
        load_settings({}, [binary, tmp_path])
    assert [problem.code for problem in caught.value.problems] == ["unreadable", "unreadable"]


def test_an_empty_file_is_fine(tmp_path):
    path = tmp_path / "images.yml"
    path.write_text("# nothing yet\n")
    assert load_settings({}, [path]).mirrors == {}


def test_paths_follow_the_base_directory_specification(tmp_path):
    assert settings_paths({"XDG_CONFIG_HOME": str(tmp_path)})[-1] == tmp_path / "anklume" / "images.yml"
    assert settings_paths({"XDG_CONFIG_HOME": "relative"})[-1].is_absolute()


def test_home_of_the_store(monkeypatch, tmp_path):
    assert store_home({"ANKLUME_STORE": str(tmp_path)}) == tmp_path
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert store_home({"XDG_DATA_HOME": str(tmp_path)}) == Path("/var/lib/anklume")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert store_home({"XDG_DATA_HOME": str(tmp_path)}) == tmp_path / "anklume"


def test_an_archive_named_twice_is_a_problem(tmp_path):
    path = tmp_path / "images.yml"
    path.write_text("mirrors:\n  debian: http://a.test\n  debian: http://b.test\n")
    with pytest.raises(InvalidFileError, match="names debian twice"):
        load_settings({}, [path])


@pytest.mark.parametrize("url", ["http://", "http://[oops", "http://host:99999999", "relative", "", "ssh://host"])
def test_an_address_that_cannot_be_is_a_problem(url):
    with pytest.raises(InvalidFileError, match="ANKLUME_MIRRORS"):
        load_settings({"ANKLUME_MIRRORS": f"debian={url}"}, [])


EXAMPLES = {
    "mirrors": "debian=http://m.test/debian",
    "snapshot": "http://s.test/archive",
    "python_indexes": "http://i.test/simple",
    "jobs": "999",
    "connections": "2",
    "generations": "5",
}


def asked_for(session, monkeypatch):
    """What commands ask of servers, of the host and of the store, by the settings of the environment."""
    asked = []

    def fetch(lock, _blobs, sources, *, connections, **_others):
        asked.extend((connections, list(sources.urls(lock.debs[0], "20260102T030405Z")), sources.bases("pypi")))
        return FetchReport(0, 0, 0)

    monkeypatch.setattr("anklume_images.pipeline.fetch", fetch)
    pipeline = session.pipeline()
    pipeline.fetch(["toolchain"])
    return asked, pipeline.options.jobs, _wants(session, None).keep


@pytest.mark.parametrize("name", SETTINGS)
def test_each_setting_changes_what_is_asked_for(name, tmp_path, monkeypatch):
    for variable in ("XDG_CONFIG_HOME", "HOME"):
        monkeypatch.setenv(variable, str(tmp_path))
    for other in SETTINGS:
        monkeypatch.delenv(f"ANKLUME_{other.upper()}", raising=False)
    session = Session((), tmp_path / "store", None, Console())
    before = asked_for(session, monkeypatch)
    monkeypatch.setenv(f"ANKLUME_{name.upper()}", EXAMPLES[name])
    assert asked_for(session, monkeypatch) != before
