"""Which file system a folder of the host lies on, by lines as of real /proc/<pid>/mountinfo."""

from __future__ import annotations

from pathlib import Path

import pytest

from launcher.observe.filesystems import filesystem_of, mounts_of, shifts

MOUNTS = """\
21 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 21 0:44 / /srv/nas rw,relatime shared:2 - nfs4 nas:/export rw,vers=4.2
31 21 0:45 / /home/bob/my\\040drive rw,nosuid,nodev shared:3 - fuse.rclone remote: rw,user_id=1000
32 21 0:46 / /data rw - zfs tank/data rw
33 32 254:1 / /data rw - xfs /dev/vdb rw
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """As `/proc/<pid>/root`, with nothing in it that could be looked at but the mounts."""
    (tmp_path / "mountinfo").write_text(MOUNTS)
    (tmp_path / "root").write_text("no folder: nothing below it can be looked at")
    return tmp_path / "root"


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("/srv/anklume/data/lab/box/notes", "ext4"),
        ("/srv/nas", "nfs4"),
        ("/srv/nas/lab/new", "nfs4"),
        ("/srv/nasty", "ext4"),
        ("/home/bob/my drive/x", "fuse.rclone"),
        ("/data/x", "xfs"),  # the later one hides the earlier
    ],
)
def test_the_mount_that_a_path_is_below(root: Path, folder: str, kind: str) -> None:
    assert filesystem_of(root, folder) == kind


def test_what_is_there_tells_by_its_device(tmp_path: Path) -> None:
    """This very process: a link leads where it leads, and a folder that is not there is its parent's."""
    (tmp_path / "link").symlink_to("/proc/self")
    assert filesystem_of(Path("/proc/self/root"), str(tmp_path / "link/task")) == "proc"
    own = filesystem_of(Path("/proc/self/root"), str(tmp_path))
    assert own is not None
    assert filesystem_of(Path("/proc/self/root"), str(tmp_path / "not/there/yet")) == own


def test_without_a_list_nothing_is_known(tmp_path: Path) -> None:
    assert filesystem_of(tmp_path / "root", "/srv") is None


def test_half_a_line_is_no_disaster() -> None:
    assert mounts_of("21 1 254:0\n\n - \n") == []


@pytest.mark.parametrize(
    ("kind", "able"),
    [("ext4", True), ("btrfs", True), ("zfs", True), ("nfs4", False), ("fuse.sshfs", False), ("fuseblk", False)],
)
def test_which_can_be_shown_with_other_owners(kind: str, *, able: bool) -> None:
    assert shifts(kind) is able
