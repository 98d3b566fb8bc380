"""Bytes that break off, are wrong or of unknown number: resumed, refused, or begun again."""

from __future__ import annotations

import hashlib

import pytest

from anklume_images.errors import FetchError, StoreError
from anklume_images.inputs.fetch import FetchReport
from anklume_images.inputs.lockfile import LockedFile
from tests.support.faulty_mirror import Fault, Zeros
from tests.unit.fetch.fetching import (
    DATA,
    FILE,
    PATH,
    Clock,
    Log,
    get,
    leave,
    leftovers,
    locked,
)

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
