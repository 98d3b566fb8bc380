"""The gate that launches an image before it is promoted: a real private Incus, and an image that does not come up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anklume_images.store.images import Images
from anklume_images.store.store import Store
from tests.conftest import Cli
from tests.support.blobs import share_blob

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def test_an_image_is_launched_before_it_moves(built: Callable[[str], Any], anklume: Cli, tmp_path: Path) -> None:
    image = built("debian")
    target = tmp_path / "prod"
    report = anklume.json("promote", "debian", "--to", str(target), "--gate", "healthcheck")
    assert report["gates"] == ["healthcheck: healthy in a private Incus"]
    assert Images(Store(target)).resolve("debian").fingerprint == image.fingerprint


def test_one_that_does_not_come_up_stays(
    built: Callable[[str], Any], incus_tree: Callable[[str], Path], anklume: Cli, tmp_path: Path
) -> None:
    """Its files are not what they should be, so Incus refuses them."""
    image, tree = built("debian"), incus_tree("incus-7")
    store = Store(tmp_path / "store")
    store.create()
    images = Images(store)
    share_blob(Store(anklume.store).blobs, image.metadata.sha256, store.blobs)
    share_blob(Store(anklume.store).blobs, image.rootfs.sha256, store.blobs)
    (store.home / "trees").mkdir()
    (store.home / "trees" / tree.parent.name).symlink_to(tree.parent)
    images.add(image, Images(Store(anklume.store)).documents(image))
    images.set_channel("debian", image.architecture, "latest", image.version)
    damaged = store.blobs.path(image.rootfs.sha256)
    damaged.unlink()
    damaged.write_bytes(bytes(image.rootfs.size))
    refused = Cli(store.home)("promote", "debian", "--to", str(tmp_path / "prod"), "--gate", "healthcheck", check=False)
    assert refused.returncode == 4, refused.stderr
    assert "did not come up healthy" in refused.stderr
    assert not (tmp_path / "prod").exists()
