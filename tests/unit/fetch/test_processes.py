"""Real processes: killed, interrupted, two at once, on a full disk."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from anklume_images.inputs.answers import StoppedError
from anklume_images.inputs.fetch import FetchReport
from anklume_images.inputs.lockfile import LockedFile
from anklume_images.inputs.partial import open_partial
from anklume_images.inputs.transport import Transport
from tests.support.faulty_mirror import Fault, FaultyMirror, Zeros
from tests.unit.fetch.fetching import (
    DATA,
    FILE,
    PATH,
    Log,
    get,
    leave,
    leftovers,
)

if TYPE_CHECKING:
    from anklume_images.store.blobs import Blobs

CHILD = """
import json, sys
from pathlib import Path
from anklume_images.inputs.fetch import fetch
from anklume_images.inputs.lockfile import LockedFile
from anklume_images.inputs.mirrors import Sources
from anklume_images.store.blobs import Blobs
root, url, path, sha256, size = sys.argv[1:6]
report = fetch([LockedFile("debian", path, sha256, int(size))], Blobs(Path(root)), Sources({"debian": (url,)}))
print(json.dumps([report.present, report.fetched, report.bytes]))
"""


def child(blobs: Blobs, mirror: FaultyMirror, file: LockedFile = FILE, program: str = CHILD) -> subprocess.Popen[str]:
    root = str(blobs.partial.parent)
    command = [sys.executable, "-c", program, root, mirror.url, file.path, file.sha256, str(file.size)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("point", [-1, 1, 65_536, 1_048_577, 2_500_000, len(DATA) - 1])
def test_after_a_kill_at_any_point_the_next_run_resumes(mirror, blobs, point):
    mirror.serve(PATH, DATA)
    mirror.fault(PATH, Fault(hold=point))
    part = blobs.partial / f"{FILE.sha256}.part"
    with child(blobs, mirror) as process:
        assert mirror.holding.wait(30)
        while point > 0 and not (part.exists() and part.stat().st_size == point):
            assert process.poll() is None
        process.kill()
        process.communicate()
    assert not blobs.has(FILE.sha256)
    mirror.release.set()
    assert get(FILE, blobs, mirror).bytes == len(DATA) - max(point, 0)
    assert mirror.ranges(PATH)[1] == (f"bytes={point}-" if point > 0 else None)
    assert blobs.verify(FILE.sha256)
    assert leftovers(blobs) == []


@pytest.mark.parametrize("point", [-1, 1_000_000], ids=["before the answer", "in the body"])
def test_interrupted_it_ends_and_keeps_what_came(mirror, blobs, point):
    mirror.serve(PATH, DATA)
    mirror.fault(PATH, Fault(hold=point))
    part = blobs.partial / f"{FILE.sha256}.part"
    with child(blobs, mirror) as process:
        assert mirror.holding.wait(30)
        while point > 0 and not (part.exists() and part.stat().st_size == point):
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        # The answer is still held back: the process ends by itself or not at all.
        _, errors = process.communicate(timeout=20)
    assert "KeyboardInterrupt" in errors
    assert process.returncode == -signal.SIGINT
    assert get(FILE, blobs, mirror).bytes == len(DATA) - max(point, 0)


def test_two_processes_fetch_a_file_once(mirror, blobs):
    mirror.serve(PATH, DATA)
    mirror.fault(PATH, Fault(hold=1_000_000))
    log = Log()
    reports: list[FetchReport] = []
    with child(blobs, mirror) as process:
        assert mirror.holding.wait(30)
        second = threading.Thread(target=lambda: reports.append(get(FILE, blobs, mirror, progress=log)))
        second.start()
        assert log.noted.wait(30)
        mirror.release.set()
        second.join()
        out, _ = process.communicate()
    assert "another process" in log.notes[0]
    assert out.strip() == f"[0, 1, {len(DATA)}]"
    assert reports == [FetchReport(present=1, fetched=0, bytes=0)]
    assert len(mirror.requests) == 1
    assert leftovers(blobs) == []


def test_when_the_first_process_dies_the_second_goes_on_from_there(mirror, blobs):
    mirror.serve(PATH, DATA)
    mirror.fault(PATH, Fault(hold=1_000_000))
    part = blobs.partial / f"{FILE.sha256}.part"
    log = Log()
    reports: list[FetchReport] = []
    with child(blobs, mirror) as process:
        assert mirror.holding.wait(30)
        while not (part.exists() and part.stat().st_size == 1_000_000):
            assert process.poll() is None
        second = threading.Thread(target=lambda: reports.append(get(FILE, blobs, mirror, progress=log)))
        second.start()
        assert log.noted.wait(30)
        process.kill()
        process.communicate()
        second.join()
    assert reports == [FetchReport(present=0, fetched=1, bytes=len(DATA) - 1_000_000)]
    assert blobs.verify(FILE.sha256)


def test_a_partial_file_renamed_before_it_was_locked_is_opened_anew(blobs, monkeypatch):
    leave(blobs, DATA[:10])
    path = blobs.partial / f"{FILE.sha256}.part"
    real = fcntl.flock

    def just_too_late(descriptor: int, operation: int) -> None:
        monkeypatch.setattr(fcntl, "flock", real)
        path.rename(path.with_name("finished"))
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", just_too_late)
    with open_partial(blobs, FILE.sha256, FILE.size, advance=lambda _: None, wait=lambda _: None) as part:
        part.append(b"new")
    assert path.read_bytes() == b"new"
    assert path.with_name("finished").read_bytes() == DATA[:10]


def test_stopping_ends_a_read_that_waits(mirror):
    url = mirror.serve(PATH, DATA)
    mirror.fault(PATH, Fault(hold=1000))
    transport = Transport(timeout=(5, 600))
    ended: list[str] = []

    def read() -> None:
        with contextlib.suppress(StoppedError), transport.ask(url) as response:
            while response.raw.read1(100):
                pass
        transport.close()
        ended.append("stopped")

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    assert mirror.holding.wait(30)
    transport.stop()
    thread.join(30)
    assert ended == ["stopped"]


MEASURE = (
    CHILD.replace(
        "report = ", "import resource, requests\nbefore = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\nreport = "
    )
    + """
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
)


def test_memory_stays_flat_for_a_large_file(mirror, blobs):
    size = 300 << 20
    digest = hashlib.sha256()
    for _ in range(300):
        digest.update(bytes(1 << 20))
    file = LockedFile("debian", "large", digest.hexdigest(), size)
    mirror.serve("/large", Zeros(size))
    with child(blobs, mirror, file, MEASURE) as process:
        out, errors = process.communicate()
    assert process.returncode == 0, errors
    report, growth = out.splitlines()
    assert report == f"[0, 1, {size}]"
    assert int(growth) < 32 << 10, "KiB"


# A full disk: a tmpfs of 8 MiB in a mount namespace of its own, gone with the process.
FULL = """
import sys
from pathlib import Path
from anklume_images import linux
linux.unshare(linux.NEWNS)
linux.mount("none", "/", "", linux.REC | linux.PRIVATE)
linux.mount("tmpfs", sys.argv[1], "tmpfs", 0, "size=8m")
from anklume_images.errors import StoreError
from anklume_images.inputs.fetch import fetch
from anklume_images.inputs.lockfile import LockedFile
from anklume_images.inputs.mirrors import Sources
from anklume_images.store.blobs import Blobs
root, url, path, sha256, size = sys.argv[1:6]
ballast = Path(root) / "ballast"
class Filler:
    def start(self, total_bytes, count): pass
    def note(self, text): pass
    def finish(self): pass
    def advance(self, n):
        if not ballast.exists():
            ballast.write_bytes(bytes(7 << 20))
file = LockedFile("debian", path, sha256, int(size))
arguments = [file], Blobs(Path(root)), Sources({"debian": (url,)})
try:
    fetch(*arguments, progress=Filler())
except StoreError as error:
    print(error, error.hint, sep="|")
left = sorted(str(path.relative_to(root)) for path in Path(root).rglob("*") if path.is_file() and path != ballast)
print(left == [f"partial/{sha256}.part"] or left)
ballast.unlink(missing_ok=True)
if int(size) < 8 << 20:
    report = fetch(*arguments)
    print(report.fetched, report.bytes < file.size, Blobs(Path(root)).verify(sha256))
"""


def test_a_disk_that_fills_up_is_told_and_the_rest_is_resumed(mirror, blobs):
    mirror.serve(PATH, DATA)
    mirror.fault(PATH, Fault(hold=500_000))
    mirror.release.set()
    blobs.partial.parent.mkdir(exist_ok=True)
    with child(blobs, mirror, FILE, FULL) as process:
        out, errors = process.communicate()
    assert process.returncode == 0, errors
    told, left, resumed = out.splitlines()
    assert "the disk is full" in told
    assert "MiB are free" in told
    assert "--store" in told
    assert left == "True"
    assert resumed == "1 True True"


def test_a_disk_too_small_is_told_before_the_first_byte(mirror, blobs):
    file = LockedFile("debian", "large", "0" * 64, 20 << 20)
    with child(blobs, mirror, file, FULL) as process:
        out, errors = process.communicate()
    assert process.returncode == 0, errors
    told, left = out.splitlines()
    assert "the disk is full: 20.0 MiB more are needed, 8.0 MiB are free" in told
    assert left == "[]"
    assert mirror.requests == []
