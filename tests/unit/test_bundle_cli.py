"""The commands of bundles, as processes: from a store to another, through pipes, killed, onto a disk that fills up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from anklume_images.store.images import Images
from anklume_images.store.models import ModelRecord, ModelRecords
from anklume_images.store.store import Store
from tests.conftest import Cli
from tests.support.blobs import put_blob
from tests.support.stored_images import put
from tests.support.terminal import Terminal

if TYPE_CHECKING:
    from typing import Any

ROOT = Path(__file__).resolve().parents[2]
FIRST, SECOND = "1.0-00000000000a", "2.0-00000000000b"
INFRA = """\
project_name: site one
global: {addressing: {}}
domains:
  lab:
    machines:
      one: {image: debian}
      two: {image: "debian@1.0-00000000000a"}
"""


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, str]:
    return dict(os.environ) | {"ANKLUME_KEYS": str(tmp_path / "keys")}


@pytest.fixture
def here(tmp_path: Path) -> Cli:
    store = Store(tmp_path / "here")
    put(store, "debian", FIRST)
    put(store, "debian", SECOND)
    return Cli(tmp_path / "here")


@pytest.fixture
def there(tmp_path: Path) -> Cli:
    return Cli(tmp_path / "there")


def test_a_file_with_all_that_it_means_goes_to_another_host(
    here: Cli, there: Cli, keys: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "site.yml").write_text(INFRA)
    site = tmp_path / "site.anklume"
    options: dict[str, Any] = {"env": keys}
    planned = here.json(
        "bundle", "create", "--infra", str(tmp_path / "site.yml"), "-o", str(site), "--dry-run", **options
    )
    assert not site.exists()
    made = here.json("bundle", "create", "--infra", str(tmp_path / "site.yml"), "-o", str(site), **options)
    assert [image["ref"] for image in made["images"]] == [f"debian@{SECOND}", f"debian@{FIRST}"]
    assert (made["bytes"], made["files"], made["infra"]) == (site.stat().st_size, [str(site)], ["site one"])
    assert {key: value for key, value in planned.items() if key not in ("files", "dry_run")}.items() <= made.items()
    assert there.json("bundle", "inspect", str(site))["fingerprint"] == made["fingerprint"]
    verified = there.json("bundle", "verify", str(site))
    assert (verified["sound"], verified["accepted"], verified["left_out_and_not_here"]) == (True, False, 0)
    assert not there.store.exists()
    assert there("bundle", "import", str(site), check=False).returncode == 2  # nobody can be asked
    dry = there.json("bundle", "import", str(site), "--fingerprint", made["fingerprint"], "--dry-run")
    assert (dry["dry_run"], dry["new_bytes"] > 0) == (True, True)
    assert there.json("list") == []
    taken = there.json("bundle", "import", str(site))
    assert [image["channels"] for image in taken["images"]] == [{"latest": None}, {}]
    (lock,) = there.store.glob("infra/*.json")
    assert json.loads(lock.read_bytes())["machines"]["two"]["image"] == f"debian@{FIRST}"
    assert there.json("bundle", "verify", str(site))["accepted"]
    assert f"image debian@{FIRST} (amd64)" not in there.json("gc")["removed"]
    lock.unlink()
    assert f"image debian@{FIRST} (amd64)" in there.json("gc", "--dry-run")["removed"]


def test_an_infra_that_no_bundle_can_carry(here: Cli, keys: dict[str, str], tmp_path: Path) -> None:
    for text, code in (
        (INFRA.replace("debian}", "'images:alpine/3.20'}").replace("image: 'im", "os_image: 'im"), 1),
        ("[]", 2),
    ):
        (tmp_path / "site.yml").write_text(text)
        arguments = ("bundle", "create", "--infra", str(tmp_path / "site.yml"), "-o", str(tmp_path / "x"))
        assert here(*arguments, env=keys, check=False).returncode == code
    assert not list(tmp_path.glob("*x"))


def test_it_is_asked_for_at_a_terminal(here: Cli, there: Cli, keys: dict[str, str], tmp_path: Path) -> None:
    site = str(tmp_path / "site.anklume")
    made = here.json("bundle", "create", "debian", "-o", site, env=keys)
    for answer, code in (("n\n", 130), ("y\n", 0)):
        terminal = Terminal(
            [sys.executable, "-m", "anklume_images", "--store", str(there.store), "bundle", "import", site]
        )
        assert terminal.read_until(r"[0-9a-f]{64}")[0] == made["fingerprint"]
        terminal.read_until(r"\[y/N\]")
        terminal.type(answer)
        assert terminal.end() == code
    assert [image["version"] for image in there.json("list")] == [SECOND]


def test_through_a_pipe_with_what_a_host_has_left_out(
    here: Cli, there: Cli, keys: dict[str, str], tmp_path: Path
) -> None:
    store = ["--store", str(there.store), "bundle", "import", "-"]
    first = here.json("bundle", "create", f"debian@{FIRST}", "-o", str(tmp_path / "first"), env=keys)
    with (tmp_path / "first").open("rb") as stream:
        argv = [sys.executable, "-m", "anklume_images", *store, "--fingerprint", first["fingerprint"]]
        subprocess.run(argv, stdin=stream, check=True, cwd=ROOT)
    there("bundle", "needs", "-o", str(tmp_path / "needs.json"))
    assert json.loads(there("bundle", "needs").stdout) == json.loads((tmp_path / "needs.json").read_bytes())
    argv = [sys.executable, "-m", "anklume_images", "--store", str(here.store), "bundle", "create", "debian"]
    argv += [f"debian@{FIRST}", "--for", str(tmp_path / "needs.json"), "-o", "-"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, env=keys, cwd=ROOT) as process:
        importing = [sys.executable, "-m", "anklume_images", *store]
        done = subprocess.run(importing, stdin=process.stdout, check=True, cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 0
    assert f"debian@{FIRST}: was here" in done.stdout
    assert {image["version"] for image in there.json("list")} == {FIRST, SECOND}


def test_parts_and_what_the_options_refuse(here: Cli, keys: dict[str, str], tmp_path: Path) -> None:
    site = str(tmp_path / "site.anklume")
    made = here.json("bundle", "create", "debian", "-o", site, "--split", "64KiB", env=keys)
    assert [Path(file).name for file in made["files"]] == ["site.anklume.001", "site.anklume.sha256"]
    assert here("bundle", "verify", site, env=keys).stdout.count("sound") == 1
    data = bytearray(Path(f"{site}.001").read_bytes())
    data[5000] ^= 1
    Path(f"{site}.001").write_bytes(data)
    damaged = here("bundle", "verify", site, env=keys, check=False)
    assert damaged.returncode == 1
    assert "site.anklume.001" in damaged.stderr
    for wrong in (
        ("debian", "-o", site, "--split", "10"),
        ("debian", "-o", site, "--split", "4GB"),
        ("debian", "-o", "-", "--split", "4GiB"),
        ("-o", site),
    ):
        assert here("bundle", "create", *wrong, env=keys, check=False).returncode == 2
    assert here("bundle", "create", "nothing", "-o", site, env=keys, check=False).returncode == 1


def test_a_medium_that_takes_no_more(here: Cli, keys: dict[str, str], tmp_path: Path) -> None:
    """As on FAT, which has a largest file; and one that is full."""
    limited = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000)); {MAIN}"
    full = here("bundle", "create", "debian", "-o", "-", env=keys)  # to make the keys
    assert full.returncode == 0
    for program, output, hint in ((limited, str(tmp_path / "x"), "--split"), (MAIN, "-", "--output")):
        argv = [sys.executable, "-c", program, "--store", str(here.store), "bundle", "create", "debian", "-o", output]
        with Path("/dev/full").open("wb") as sink:
            done = subprocess.run(argv, stdout=sink, stderr=subprocess.PIPE, env=keys, cwd=ROOT, check=False, text=True)
        assert done.returncode == 1
        assert hint in done.stderr
    assert not list(tmp_path.glob("*x*"))


MAIN = "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); from anklume_images.cli.main import main; main()"


# Killed


MODEL = bytes(range(256)) * (24 << 10)  # 6 MiB


@pytest.fixture
def large(here: Cli, keys: dict[str, str], tmp_path: Path) -> tuple[Path, str]:
    """A bundle of an image and a model that takes a moment, and its fingerprint."""
    store = Store(here.store)
    ModelRecords(store).add(ModelRecord("toy", put_blob(store.blobs, MODEL), len(MODEL)))
    made = here.json("bundle", "create", "debian", "toy", "-o", str(tmp_path / "large"), env=keys)
    return tmp_path / "large", made["fingerprint"]


def goes_on(there: Cli, path: Path, fingerprint: str) -> None:
    """Whatever an end has left, the next run makes the whole of it, and the one after that changes nothing."""
    images, records = Images(Store(there.store)), ModelRecords(Store(there.store))
    for _ in range(2):
        there("bundle", "import", str(path), "--fingerprint", fingerprint)
        assert [image.version for image in images] == [SECOND]
        assert images.channels("debian", "amd64") == {"latest": SECOND}
        assert [record.name for record in records] == ["toy"]
    assert there("verify").returncode == 0
    assert not [*there.store.glob("partial/*"), *there.store.glob("scratch/*")]


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_killed_while_it_reads_nothing_appears(large: tuple[Path, str], there: Cli, share: float) -> None:
    path, fingerprint = large
    data = path.read_bytes()
    argv = [sys.executable, "-m", "anklume_images", "--store", str(there.store), "bundle", "import", "-"]
    with subprocess.Popen([*argv, "--fingerprint", fingerprint], stdin=subprocess.PIPE, cwd=ROOT) as process:
        assert process.stdin
        process.stdin.write(data[: int(len(data) * share)])
        process.stdin.flush()
        process.send_signal(signal.SIGKILL)
    assert not [*Images(Store(there.store)), *ModelRecords(Store(there.store))]
    goes_on(there, path, fingerprint)


# Killed as it is about to make its n-th file durable, or to rename it: each moment at which something may be half.
KILLED = """
import os, signal, sys
from anklume_images.cli.main import main
left = int(sys.argv[1])
def killing(real):
    def function(*arguments):
        global left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments)
    return function
os.fsync, os.rename = killing(os.fsync), killing(os.rename)
main(sys.argv[2:])
"""
MOMENTS = 30


@pytest.mark.matrix
@pytest.mark.parametrize("moment", range(1, MOMENTS + 1))
def test_killed_at_any_moment_it_goes_on(large: tuple[Path, str], there: Cli, moment: int) -> None:
    path, fingerprint = large
    argv = [sys.executable, "-c", KILLED, str(moment), "--store", str(there.store), "bundle", "import", str(path)]
    done = subprocess.run([*argv, "--fingerprint", fingerprint], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    images = Images(Store(there.store))
    assert images.channels("debian", "amd64") in ({}, {"latest": SECOND})
    assert all(images.present(image.name, image.version, image.architecture) for image in images)
    goes_on(there, path, fingerprint)


# A disk that fills up: a tmpfs of 68 MiB in a mount namespace of its own, gone with the process.
FULL = """
import sys
from pathlib import Path
from anklume_images import linux
linux.unshare(linux.NEWNS)
linux.mount("none", "/", "", linux.REC | linux.PRIVATE)
home, bundle, fingerprint = sys.argv[1:4]
Path(home).mkdir()
linux.mount("tmpfs", home, "tmpfs", 0, "size=72m")
from anklume_images.bundle import receive
from anklume_images.cli.main import main
real = receive._check_space
def fill(store, new):
    real(store, new)  # there is room, and then somebody takes it
    (Path(home) / "blobs").mkdir()
    (Path(home) / "ballast").write_bytes(bytes(70 << 20))
receive._check_space = fill
def code(*words):
    try:
        main(["--store", home, *words])
    except SystemExit as end:
        return end.code
    return 0
print(code("bundle", "import", bundle, "--fingerprint", fingerprint))
print(len(list(Path(home).glob("images/*"))), len(list(Path(home).glob("partial/*"))))
(Path(home) / "ballast").unlink()
receive._check_space = real
print(code("-q", "bundle", "import", bundle), len(list(Path(home).glob("images/*"))))
"""


def test_a_disk_that_fills_up_is_told_and_it_goes_on_later(large: tuple[Path, str], tmp_path: Path) -> None:
    path, fingerprint = large
    argv = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-c", FULL]
    done = subprocess.run(
        [*argv, str(tmp_path / "small"), str(path), fingerprint], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "the disk is full" in done.stderr
    lines = done.stdout.splitlines()
    assert lines[:2] == ["1", "0 1"]
    assert lines[-1] == "0 1"
