"""Files come from the first mirror that gives them; what a mirror says decides what is tried next."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from anklume_images.errors import FetchError, StoreError
from anklume_images.inputs.answers import Attempt, Why
from anklume_images.inputs.fetch import FetchReport, fetch
from anklume_images.inputs.mirrors import Sources
from anklume_images.inputs.redaction import redact
from anklume_images.inputs.transport import backoff, retry_after
from anklume_images.store.blobs import Blobs
from tests.support.faulty_mirror import Fault
from tests.unit.fetch.fetching import (
    DATA,
    FILE,
    PATH,
    SMALL,
    TINY,
    Clock,
    Log,
    closed_address,
    get,
    leftovers,
    locked,
    sources,
)

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
