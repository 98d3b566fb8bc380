from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from anklume_images.errors import FetchError, StoreError
from anklume_images.inputs.answers import Attempt, StoppedError, Why
from anklume_images.inputs.fetch import FetchReport, fetch
from anklume_images.inputs.lockfile import LockedFile
from anklume_images.inputs.mirrors import Sources
from anklume_images.inputs.partial import open_partial
from anklume_images.inputs.redaction import redact
from anklume_images.inputs.transport import Transport, backoff, retry_after
from anklume_images.store.blobs import Blobs
from tests.support.faulty_mirror import Fault, FaultyMirror, Zeros

DATA = random.Random(7).randbytes(3_000_000)  # noqa: S311 - the same bytes each time, no secret
SMALL = b"a small file of a mirror"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture
def mirror():
    with FaultyMirror() as server:
        yield server


@pytest.fixture
def other():
    with FaultyMirror() as server:
        yield server


@pytest.fixture
def blobs(tmp_path):
    return Blobs(tmp_path)


class Clock:
    """A stand-in for time: sleeping only moves its hand."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.naps: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now += seconds


class Log:
    """Records what a fetch told; calls `on_advance` with the bytes that are there."""

    def __init__(self, on_advance=None) -> None:
        self.total = self.count = self.done = 0
        self.notes: list[str] = []
        self.finished = 0
        self.noted = threading.Event()
        self._on_advance = on_advance

    def start(self, total_bytes: int, count: int) -> None:
        self.total, self.count = total_bytes, count

    def advance(self, n: int) -> None:
        self.done += n
        if self._on_advance:
            self._on_advance(self.done)

    def note(self, text: str) -> None:
        self.notes.append(text)
        self.noted.set()

    def finish(self) -> None:
        self.finished += 1


def locked(path: str, data: bytes, archive: str = "debian") -> LockedFile:
    return LockedFile(archive, path, hashlib.sha256(data).hexdigest(), len(data))


FILE = locked("pool/a.deb", DATA)
PATH = "/pool/a.deb"
TINY = locked("tiny.deb", SMALL)


def sources(*mirrors: FaultyMirror | str) -> Sources:
    return Sources({"debian": tuple(m if isinstance(m, str) else m.url for m in mirrors)})


def get(
    file: LockedFile, blobs: Blobs, *mirrors: FaultyMirror | str, clock: Clock | None = None, **more
) -> FetchReport:
    clock = clock or Clock()
    more = {"timeout": (5, 5), "clock": clock, "sleep": clock.sleep, **more}
    return fetch([file], blobs, sources(*mirrors), **more)


def closed_address() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def leftovers(blobs: Blobs) -> list[str]:
    return sorted(path.name for path in blobs.partial.iterdir()) if blobs.partial.is_dir() else []


# what goes well


def test_files_arrive_and_are_found_the_next_time(mirror, blobs):
    mirror.serve(PATH, DATA)
    mirror.serve("/tiny.deb", SMALL)
    log = Log()
    report = fetch([FILE, TINY, FILE], blobs, sources(mirror), progress=log)
    assert report == FetchReport(present=0, fetched=2, bytes=len(DATA) + len(SMALL))
    assert blobs.verify(FILE.sha256)
    assert blobs.verify(TINY.sha256)
    assert leftovers(blobs) == []
    assert (log.total, log.count, log.done, log.finished) == (len(DATA) + len(SMALL), 2, log.total, 1)
    assert fetch([FILE, TINY], blobs, sources(mirror)) == FetchReport(present=2, fetched=0, bytes=0)
    assert len(mirror.requests) == 2


def test_a_blob_of_the_wrong_size_is_fetched_again(mirror, blobs):
    mirror.serve(PATH, DATA)
    blobs.path(FILE.sha256).parent.mkdir(parents=True)
    blobs.path(FILE.sha256).write_bytes(DATA[:10])
    assert get(FILE, blobs, mirror).fetched == 1
    assert blobs.verify(FILE.sha256)


def test_an_empty_file_needs_no_request(mirror, blobs):
    empty = locked("empty", b"")
    assert get(empty, blobs, mirror).fetched == 1
    assert blobs.has(empty.sha256, 0)
    assert mirror.requests == []


def test_no_more_connections_than_allowed_and_all_of_them_used(mirror, blobs):
    files = [locked(f"{number}", b"%d" % number) for number in range(9)]
    for number, file in enumerate(files):
        mirror.serve(f"/{file.path}", b"%d" % number)
        mirror.fault(f"/{file.path}", Fault(hold=-1))
    together = threading.Thread(target=fetch, args=(files, blobs, sources(mirror)), kwargs={"connections": 3})
    together.start()
    while mirror.most_at_once < 3:
        assert mirror.holding.wait(30)
    mirror.release.set()
    together.join()
    assert mirror.most_at_once == 3
    assert len(list(blobs)) == 9


def test_a_local_mirror_is_read_from_disk(blobs, tmp_path):
    place = tmp_path / "mir ror" / "pool"
    place.mkdir(parents=True)
    (place / "a.deb").write_bytes(DATA)
    assert get(FILE, blobs, place.parent.as_uri()).fetched == 1
    assert blobs.verify(FILE.sha256)


@pytest.mark.parametrize("content", [b"", DATA[:-1], DATA + b"x", b"x" + DATA[1:]])
def test_a_wrong_file_of_a_local_mirror_is_not_taken(blobs, tmp_path, content, mirror):
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "a.deb").write_bytes(content)
    mirror.serve(PATH, DATA)
    log = Log()
    assert get(FILE, blobs, tmp_path.as_uri(), mirror, progress=log).fetched == 1
    assert blobs.verify(FILE.sha256)
    assert len(log.notes) == 1


def test_the_proxy_of_the_environment_is_used(mirror, blobs, monkeypatch):
    mirror.serve(PATH, DATA)
    monkeypatch.setenv("http_proxy", mirror.url)
    assert get(FILE, blobs, "http://mirror.invalid").fetched == 1


def test_a_path_is_quoted(mirror, blobs):
    file = locked("pool/g++ 1%3a2~rc#1.deb", SMALL)
    mirror.serve("/pool/g++ 1%3a2~rc#1.deb", SMALL)
    assert get(file, blobs, mirror).fetched == 1


# answers that are not the file


@pytest.mark.parametrize("status", [404, 410])
def test_gone_goes_to_the_next_mirror_at_once(mirror, other, blobs, status):
    mirror.fault(PATH, Fault(status=status))
    other.serve(PATH, DATA)
    clock = Clock()
    assert get(FILE, blobs, mirror, other, clock=clock).fetched == 1
    assert clock.naps == []
    assert len(mirror.requests) == 1


def test_gone_everywhere_is_missing(mirror, other, blobs):
    mirror.serve("/tiny.deb", SMALL)
    with pytest.raises(FetchError) as caught:
        fetch([FILE, TINY], blobs, sources(mirror, other))
    assert caught.value.missing == (FILE.path,)
    assert caught.value.unreachable == ()
    assert f"{mirror.url}{PATH}: 404 Not Found" in caught.value.message
    assert f"{other.url}{PATH}: 404 Not Found" in caught.value.message
    assert "--refresh-missing" in (caught.value.hint or "")
    assert blobs.verify(TINY.sha256), "the others are still fetched"


def test_gone_here_and_unreachable_there_is_not_missing(mirror, blobs):
    clock = Clock()
    with pytest.raises(FetchError) as caught:
        get(FILE, blobs, closed_address(), mirror, clock=clock)
    assert caught.value.missing == ()
    assert caught.value.unreachable == (FILE.path,)
    assert "Connection refused" in caught.value.message
    assert len(clock.naps) == 3


def test_a_dead_mirror_costs_the_later_files_one_attempt(mirror, blobs):
    files = [locked(str(number), b"%d" % number) for number in range(5)]
    for number, file in enumerate(files):
        mirror.serve(f"/{file.path}", b"%d" % number)
    clock = Clock()
    report = fetch(files, blobs, sources(closed_address(), mirror), connections=1, clock=clock, sleep=clock.sleep)
    assert report.fetched == 5
    assert len(clock.naps) == 3


def test_refused_goes_to_the_next_mirror_and_counts_as_unreachable(mirror, other, blobs):
    mirror.fault(PATH, always=Fault(status=403))
    with pytest.raises(FetchError) as caught:
        get(FILE, blobs, mirror, other)
    assert caught.value.unreachable == (FILE.path,)
    assert Why.FORBIDDEN.value in str(caught.value.hint)
    assert [len(mirror.requests), len(other.requests)] == [1, 1]


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_in_seconds_is_honoured(mirror, blobs, status):
    mirror.serve(PATH, DATA)
    mirror.fault(
        PATH, Fault(status=status, headers={"Retry-After": "7"}), Fault(status=status, headers={"Retry-After": "4000"})
    )
    clock = Clock()
    assert get(FILE, blobs, mirror, clock=clock).fetched == 1
    assert clock.naps == [7, 60]


def test_retry_after_as_a_date_counts_from_the_servers_clock():
    then = datetime(2001, 2, 3, tzinfo=UTC)
    ask = format_datetime(then + timedelta(seconds=20), usegmt=True)
    assert retry_after(ask, format_datetime(then, usegmt=True)) == 20
    assert retry_after(ask) == 0
    assert retry_after(format_datetime(datetime.now(UTC) + timedelta(days=1), usegmt=True)) == 60
    assert retry_after("soon") is None
    assert retry_after(None) is None


def test_a_pause_holds_for_the_whole_host(mirror, blobs):
    files = [locked("a", b"a"), locked("b", b"bb")]
    mirror.serve("/a", b"a")
    mirror.serve("/b", b"bb")
    mirror.fault(
        "/b",
        Fault(status=429, headers={"Retry-After": "30"}),
        Fault(status=429, headers={"Retry-After": "20"}),
        Fault(status=404),
    )
    clock = Clock()
    with pytest.raises(FetchError):
        fetch(files, blobs, sources(mirror), connections=1, clock=clock, sleep=clock.sleep)
    assert clock.naps == [30, 20]


def test_a_server_error_is_tried_again_ever_later_then_the_next_mirror(mirror, other, blobs):
    mirror.fault(PATH, always=Fault(status=500))
    other.serve(PATH, DATA)
    clock = Clock()
    assert get(FILE, blobs, mirror, other, clock=clock).fetched == 1
    assert len(mirror.requests) == 4
    assert all(whole / 2 <= nap <= whole for nap, whole in zip(clock.naps, (1, 2, 4), strict=True))


def test_a_redirect_is_followed(mirror, other, blobs):
    mirror.fault(PATH, Fault(status=302, headers={"Location": other.serve("/elsewhere", DATA)}))
    assert get(FILE, blobs, mirror).fetched == 1


def test_gone_after_a_redirect_names_both(mirror, other, blobs):
    mirror.fault(PATH, Fault(status=302, headers={"Location": f"{other.url}/elsewhere?token=secret"}))
    with pytest.raises(FetchError, match=r"404 Not Found \(redirected to ") as caught:
        get(FILE, blobs, mirror)
    assert f"{other.url}/elsewhere)" in str(caught.value)
    assert caught.value.missing == (FILE.path,)


def test_redirects_without_end_are_refused(mirror, blobs):
    mirror.fault(PATH, always=Fault(status=302, headers={"Location": PATH}))
    with pytest.raises(FetchError, match="redirects without end") as caught:
        get(FILE, blobs, mirror)
    assert caught.value.unreachable == (FILE.path,)


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ("https://127.0.0.1:PORT", "TLS failed"),
        ("ftp://127.0.0.1:PORT", "not an address"),
        ("http://127.0.0.1:99999999", "not an address"),
        ("http://[oops", "not an address"),
    ],
)
def test_an_address_that_cannot_be_asked_says_why(mirror, blobs, base, said):
    with pytest.raises(FetchError, match=said) as caught:
        get(FILE, blobs, base.replace("PORT", mirror.url.rpartition(":")[2]), attempts=1)
    assert caught.value.unreachable == (FILE.path,)


def test_a_certificate_bundle_that_is_not_there_is_said(mirror, blobs, monkeypatch, tmp_path):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "none.pem"))
    with pytest.raises(FetchError, match=r"none\.pem"):
        get(FILE, blobs, mirror.url.replace("http:", "https:"))


def test_backoff_grows_to_a_limit_with_jitter():
    assert [backoff(n, lambda: 0.0) for n in (1, 2, 3, 9)] == [1, 2, 4, 30]
    assert backoff(3, lambda: 1.0) == 2


# bodies that are not the file


def test_broken_off_is_resumed_where_it_broke(mirror, blobs):
    mirror.serve(PATH, DATA)
    mirror.fault(PATH, Fault(cut=1_234_567), Fault(cut=1_000_000))
    report = get(FILE, blobs, mirror)
    assert report == FetchReport(present=0, fetched=1, bytes=len(DATA))
    assert mirror.ranges(PATH) == [None, "bytes=1234567-", "bytes=2234567-"]
    assert mirror.requests[1].headers["if-range"] == f'"{len(DATA)}"'
    assert blobs.verify(FILE.sha256)


def test_broken_off_without_a_length_is_resumed(mirror, blobs):
    mirror.serve(PATH, DATA)
    mirror.fault(PATH, Fault(cut=1000, declare=-1))
    assert get(FILE, blobs, mirror).fetched == 1
    assert mirror.ranges(PATH) == [None, "bytes=1000-"]


def test_a_reset_connection_is_resumed(mirror, blobs):
    mirror.serve(PATH, DATA)
    mirror.fault(PATH, Fault(cut=2_000_000, reset=True))
    assert get(FILE, blobs, mirror).fetched == 1
    assert len(mirror.requests) == 2
    assert blobs.verify(FILE.sha256)


def test_many_breaks_that_each_bring_something_are_no_failure(mirror, blobs):
    data = bytes(9 << 20)
    file = locked("big", data)
    mirror.serve("/big", data)
    mirror.fault("/big", *[Fault(cut=5 << 18)] * 7)
    assert get(file, blobs, mirror, attempts=2).fetched == 1


def test_breaks_that_bring_nothing_new_end(mirror, blobs):
    mirror.serve(PATH, DATA)
    mirror.fault(PATH, always=Fault(cut=2_500_000, whole=True))
    with pytest.raises(FetchError, match="the connection broke off"):
        get(FILE, blobs, mirror)
    assert len(mirror.requests) == 4


def test_a_shorter_file_is_not_downloaded_at_all(mirror, other, blobs):
    mirror.serve(PATH, DATA[:-5])
    other.serve(PATH, DATA)
    report = get(FILE, blobs, mirror, other)
    assert report.bytes == len(DATA)
    assert len(mirror.requests) == 1


def test_a_body_without_end_is_left_at_once(mirror, blobs):
    mirror.serve(PATH, DATA)
    mirror.fault(PATH, always=Fault(declare=-1, endless=True))
    with pytest.raises(FetchError, match="sends more than 3000000 bytes") as caught:
        get(FILE, blobs, mirror)
    assert caught.value.unreachable == (FILE.path,)
    assert leftovers(blobs) == []


def test_one_byte_too_many_is_refused(mirror, other, blobs):
    mirror.serve(PATH, DATA)
    mirror.fault(PATH, Fault(declare=-1, extra=b"x"))
    other.serve(PATH, DATA)
    assert get(FILE, blobs, mirror, other).fetched == 1
    assert blobs.verify(FILE.sha256)


def test_wrong_bytes_go_to_the_next_mirror(mirror, other, blobs):
    mirror.serve(PATH, DATA)
    mirror.fault(PATH, always=Fault(flip=2_999_999))
    other.serve(PATH, DATA)
    log = Log()
    assert get(FILE, blobs, mirror, other, progress=log).fetched == 1
    assert [len(mirror.requests), len(other.requests)] == [1, 1]
    assert "sends other bytes" in log.notes[0]
    assert log.done == log.total, "what was thrown away is taken back"


def test_wrong_bytes_everywhere_leave_nothing(mirror, blobs):
    mirror.serve(PATH, DATA)
    mirror.fault(PATH, always=Fault(flip=0))
    with pytest.raises(FetchError) as caught:
        get(FILE, blobs, mirror)
    assert caught.value.unreachable == (FILE.path,)
    assert not blobs.has(FILE.sha256)
    assert leftovers(blobs) == []


def test_a_stall_ends_by_the_read_timeout_and_is_resumed(mirror, blobs):
    mirror.serve(PATH, DATA)
    mirror.fault(PATH, Fault(hold=100_000))
    assert get(FILE, blobs, mirror, timeout=(5, 0.3)).fetched == 1
    assert mirror.ranges(PATH) == [None, "bytes=100000-"]


def test_silence_before_the_answer_ends_too(mirror, other, blobs):
    mirror.fault(PATH, always=Fault(hold=-1))
    other.serve(PATH, DATA)
    log = Log()
    assert get(FILE, blobs, mirror, other, timeout=(5, 0.2), attempts=2, progress=log).fetched == 1
    assert "nothing came for 0.2 s" in log.notes[0]


def test_dripping_is_a_stall_although_something_always_comes(mirror, other, blobs):
    mirror.serve(PATH, DATA)
    mirror.fault(PATH, always=Fault(drip=True))
    other.serve(PATH, DATA)
    log = Log()

    class Slow(Clock):
        """Every look is four minutes after the last, so that the drip is slow without the test being so."""

        def __call__(self) -> float:
            self.now += 0 if other.requests else 240
            return self.now

    assert get(FILE, blobs, mirror, other, timeout=(5, 30), clock=Slow(), attempts=2, progress=log).fetched == 1
    assert "bytes in" in log.notes[0]


# ranges gone wrong


def test_a_server_without_ranges_is_read_from_the_beginning(mirror, blobs):
    mirror.serve(PATH, DATA)
    mirror.fault(PATH, Fault(cut=1_000_000), Fault(whole=True))
    assert get(FILE, blobs, mirror).fetched == 1
    assert mirror.ranges(PATH) == [None, "bytes=1000000-"]
    assert blobs.verify(FILE.sha256)


def test_another_range_than_asked_is_not_glued_on(mirror, blobs):
    mirror.serve(PATH, DATA)
    mirror.fault(PATH, Fault(cut=1_000_000), Fault(shift=5))
    assert get(FILE, blobs, mirror).fetched == 1
    assert mirror.ranges(PATH) == [None, "bytes=1000000-", None]
    assert blobs.verify(FILE.sha256)


def test_a_range_refused_is_asked_for_whole(mirror, blobs):
    mirror.serve(PATH, DATA)
    mirror.fault(PATH, Fault(cut=1_000_000), Fault(status=416))
    assert get(FILE, blobs, mirror).fetched == 1
    assert mirror.ranges(PATH) == [None, "bytes=1000000-", None]


def test_resuming_goes_on_at_the_next_mirror(mirror, other, blobs):
    mirror.serve(PATH, DATA)
    mirror.fault(PATH, Fault(cut=1_000_000), Fault(status=403))
    other.serve(PATH, DATA)
    assert get(FILE, blobs, mirror, other).bytes == len(DATA)
    assert other.ranges(PATH) == ["bytes=1000000-"]


# what an earlier run left


def leave(blobs: Blobs, content: bytes) -> None:
    blobs.partial.mkdir(parents=True)
    (blobs.partial / f"{FILE.sha256}.part").write_bytes(content)


def test_a_beginning_is_resumed(mirror, blobs):
    mirror.serve(PATH, DATA)
    leave(blobs, DATA[:2_999_999])
    log = Log()
    assert get(FILE, blobs, mirror, progress=log).bytes == 1
    assert log.done == log.total
    assert blobs.verify(FILE.sha256)


def test_a_wrong_beginning_is_thrown_away_before_the_mirror_is_blamed(mirror, blobs):
    mirror.serve(PATH, DATA)
    leave(blobs, b"x" * 1000)
    log = Log()
    assert get(FILE, blobs, mirror, progress=log).fetched == 1
    assert mirror.ranges(PATH) == ["bytes=1000-", None]
    assert mirror.requests[1].headers["cache-control"] == "no-cache"
    assert log.notes == []
    assert log.done == log.total


def test_a_whole_one_needs_no_request(mirror, blobs):
    leave(blobs, DATA)
    assert get(FILE, blobs, mirror) == FetchReport(present=0, fetched=1, bytes=0)
    assert mirror.requests == []
    assert blobs.verify(FILE.sha256)


@pytest.mark.parametrize("content", [b"x" * len(DATA), DATA + b"x"], ids=["wrong", "longer"])
def test_a_whole_but_wrong_one_is_fetched_from_the_beginning(mirror, blobs, content):
    mirror.serve(PATH, DATA)
    leave(blobs, content)
    assert get(FILE, blobs, mirror).fetched == 1
    assert mirror.ranges(PATH) == [None]
    assert blobs.verify(FILE.sha256)


# a size that the lock does not know


def of_unknown_size(data: bytes, path: str = "pool/a.deb") -> LockedFile:
    return LockedFile("debian", path, hashlib.sha256(data).hexdigest(), None)


UNKNOWN = of_unknown_size(DATA)


def test_unknown_size_is_learned_from_the_mirror(mirror, blobs):
    mirror.serve(PATH, DATA)
    log = Log()
    assert get(UNKNOWN, blobs, mirror, progress=log) == FetchReport(present=0, fetched=1, bytes=len(DATA))
    assert log.notes == [f"pool/a.deb: {len(DATA) / (1 << 20):.1f} MiB"]
    assert get(UNKNOWN, blobs, mirror).present == 1
    assert len(mirror.requests) == 1


def test_unknown_size_is_resumed_where_it_broke(mirror, blobs):
    mirror.serve(PATH, DATA)
    mirror.fault(PATH, Fault(cut=1_000_000))
    assert get(UNKNOWN, blobs, mirror).bytes == len(DATA)
    assert mirror.ranges(PATH) == [None, "bytes=1000000-"]


@pytest.mark.parametrize("left", [DATA[:70_000], b"wrong" * 20_000, DATA, DATA + b"more", b"wrong" * 1_000_000])
def test_unknown_size_and_what_an_earlier_run_left(mirror, blobs, left):
    mirror.serve(PATH, DATA)
    blobs.partial.mkdir()
    (blobs.partial / f"{UNKNOWN.sha256}.part").write_bytes(left)
    get(UNKNOWN, blobs, mirror)
    assert blobs.verify(UNKNOWN.sha256)
    assert leftovers(blobs) == []
    assert len(mirror.requests) == (0 if left == DATA else 1 if DATA.startswith(left) else 2)


def test_unknown_size_and_other_bytes_goes_to_the_next_mirror(mirror, other, blobs):
    mirror.serve(PATH, b"another file")
    other.serve(PATH, DATA)
    get(UNKNOWN, blobs, mirror, other)
    assert blobs.verify(UNKNOWN.sha256)


def test_unknown_size_that_nobody_states_is_refused(mirror, blobs):
    mirror.serve(PATH, DATA)
    mirror.fault(PATH, always=Fault(declare=-1, endless=True))
    with pytest.raises(FetchError, match="does not say how large the file is") as caught:
        get(UNKNOWN, blobs, mirror)
    assert caught.value.unreachable == (UNKNOWN.path,)
    assert leftovers(blobs) == []


def test_unknown_size_too_large_for_the_disk_is_told_before_its_first_byte(mirror, blobs):
    mirror.serve(PATH, Zeros(1 << 60))
    with pytest.raises(StoreError, match=r"the disk is full: 1099511627776\.0 MiB more are needed"):
        get(UNKNOWN, blobs, mirror)
    assert leftovers(blobs) == []


def test_unknown_size_of_a_local_mirror(blobs, tmp_path):
    (tmp_path / "mirror/pool").mkdir(parents=True)
    (tmp_path / "mirror/pool/a.deb").write_bytes(DATA)
    get(UNKNOWN, blobs, (tmp_path / "mirror").as_uri())
    assert blobs.verify(UNKNOWN.sha256)


# errors


def test_without_a_mirror_the_hint_names_the_settings(blobs, tmp_path):
    nowhere = Sources({}, settings_path=tmp_path / "images.yml")
    with pytest.raises(FetchError, match="no mirror is known") as caught:
        fetch([FILE], blobs, nowhere)
    assert caught.value.hint == f"name a mirror in {tmp_path / 'images.yml'}: mirrors: {{debian: [URL]}}"
    assert caught.value.unreachable == (FILE.path,)


def test_credentials_are_never_told(mirror, blobs):
    port = mirror.url.rpartition(":")[2]
    log = Log()
    with pytest.raises(FetchError) as caught:
        get(
            FILE,
            blobs,
            f"http://user:secret@127.0.0.1:{port}",
            closed_address().replace("//", "//user:secret@"),
            progress=log,
        )
    told = " ".join([str(caught.value), caught.value.hint or "", *log.notes])
    assert "127.0.0.1" in told
    assert "secret" not in told
    assert "user" not in told
    assert redact("https://u:p@h.test:1/p?token=t#f") == "https://h.test:1/p"
    assert str(Attempt("http://u:p@h.test/x?k=v", "said")) == "http://h.test/x: said"


def test_a_long_list_of_failures_is_cut(mirror, blobs):
    files = [locked(f"{number}.deb", b"%d" % number) for number in range(30)]
    with pytest.raises(FetchError, match="30 files could not be fetched") as caught:
        fetch(files, blobs, sources(mirror))
    assert "and 10 more" in caught.value.message
    assert set(caught.value.missing) == {file.path for file in files}


def test_a_store_that_cannot_be_written_is_no_fault_of_the_mirror(mirror, tmp_path):
    mirror.serve(PATH, DATA)
    (tmp_path / "partial").write_text("a file where a directory must be")
    with pytest.raises(StoreError) as caught:
        get(FILE, Blobs(tmp_path), mirror)
    assert caught.value.where == str(tmp_path / "partial")
    assert mirror.requests == []


def test_a_blob_that_cannot_be_put_in_place_is_told(mirror, blobs):
    mirror.serve(PATH, DATA)
    blobs.path(FILE.sha256).mkdir(parents=True)
    with pytest.raises(StoreError, match="Is a directory"):
        get(FILE, blobs, mirror)
    assert leftovers(blobs) == [f"{FILE.sha256}.part"]


def test_a_store_that_cannot_be_read_is_told(mirror, blobs, tmp_path):
    (tmp_path / "blobs").write_text("a file where a directory must be")
    with pytest.raises(StoreError, match="Not a directory"):
        get(FILE, blobs, mirror)


# real processes

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
