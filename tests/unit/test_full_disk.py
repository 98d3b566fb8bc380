"""A store whose disk fills up while an image comes in, at any moment: it is told, nothing is half, and it goes on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from anklume_images.store.images import Images
from anklume_images.store.store import Store
from anklume_images.trust.contents import signed_contents
from anklume_images.trust.keys import KeyRing
from anklume_images.trust.origins import Origins
from anklume_images.trust.place import Place
from anklume_images.trust.repository import Repository
from anklume_images.trust.roles import ONE, ROLES
from tests.support.stored_images import put

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[2]
FIRST, SECOND = "1.0-00000000000a", "2.0-00000000000b"
# In a mount namespace of its own, where the target is a tmpfs of 8 MiB for each moment anew: somebody takes all that is
# left of it as the n-th file becomes durable, and gives it back afterwards.
FULL = """
import errno, os, shutil, sys
from pathlib import Path
from anklume_images import linux
from anklume_images.errors import StoreError
from anklume_images.store.images import Images
from anklume_images.store.store import Store
from anklume_images.store.verify import verify_store
from tests.unit import test_full_disk as test
linux.unshare(linux.NEWNS)
linux.mount("none", "/", "", linux.REC | linux.PRIVATE)
folder, action = Path(sys.argv[1]), getattr(test, sys.argv[2])
far = Store(folder / "far")
ballast, left = far.home / "ballast", 0
def fsync(_descriptor):
    global left
    left -= 1
    if left == 0:
        with ballast.open("wb", buffering=0) as out:
            try:
                while True:
                    out.write(bytes(1 << 12))
            except OSError:
                pass
os.fsync = fsync
moment, fails, seen = 0, True, set()
while fails:
    moment += 2
    linux.mount("tmpfs", far.home, "tmpfs", 0, "size=8m")
    shutil.copytree(folder / "template", far.home, dirs_exist_ok=True, symlinks=True)
    left, fails = moment, False
    try:
        action(folder, far)
    except (StoreError, OSError) as error:
        fails = True
        full = "the disk is full" in str(error) if isinstance(error, StoreError) else error.errno == errno.ENOSPC
        assert full, repr(error)
    ballast.unlink(missing_ok=True)
    images = Images(far)
    channel = images.channels("box", "amd64")["prod"]
    assert channel == (test.FIRST if fails else test.SECOND), (moment, channel)
    assert all(images.present(image.name, image.version, image.architecture) for image in images), moment
    assert verify_store(far, images, [], "amd64", jobs=1).damaged == (), moment
    action(folder, far)
    assert images.channels("box", "amd64")["prod"] == test.SECOND, moment
    assert images.present("box", test.SECOND, "amd64"), moment
    linux.umount(far.home)
print(moment)
"""


def promoted(folder: Path, far: Store) -> None:
    """Into a signed store, as the command does it."""
    from anklume_images.ship.promote import into_store

    images, theirs = Images(Store(folder / "dev")), Images(far)
    repository = Repository(far.home, KeyRing(folder / "keys"))

    def sign() -> None:
        repository.publish(lambda: signed_contents(far, theirs))

    into_store(images.resolve("box", "amd64"), images, theirs, far, channel="prod", why="", sign=sign, progress=None)


def pulled(folder: Path, far: Store) -> None:
    """Out of a signed store, as the command does it."""
    from anklume_images.ship.pull import pull

    place = str(folder / "dev")
    origins = Origins(far)
    origin = origins.contact(place)
    image, _ = origin.resolve("box", "amd64")
    pull(origin, image, Images(far), far, channel="prod")


def signed(store: Store, ring: KeyRing) -> str:
    repository = Repository(store.home, ring)
    repository.init(ONE, {role: [ring.make(role)] for role in ROLES})
    repository.publish(lambda: signed_contents(store, Images(store)))
    return repository.identity


@pytest.mark.parametrize(("action", "moments"), [(promoted, 15), (pulled, 10)])
def test_it_fills_up_at_any_moment(tmp_path: Path, action: Callable[..., None], moments: int) -> None:
    dev, far = Store(tmp_path / "dev"), Store(tmp_path / "template")
    put(dev, "box", SECOND)
    put(far, "box", FIRST, channels=("prod",))
    identity = signed(dev, KeyRing(tmp_path / "dev-keys"))
    signed(far, KeyRing(tmp_path / "keys"))
    Origins(far).accept(Place(str(dev.home)), identity, "me@here")
    (tmp_path / "far").mkdir()
    argv = ["unshare", "--user", "--map-root-user", "--mount", sys.executable, "-c", FULL]
    done = subprocess.run(
        [*argv, str(tmp_path), action.__name__], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > moments
