"""The package that stands for what a machine's host provides: real readers of deb files read it."""

from __future__ import annotations

import hashlib
import io
from typing import TYPE_CHECKING

import pytest
from debian.deb822 import Deb822
from debian.debfile import DebFile
from pydantic import ValidationError

from anklume_images.builder.rootfs import apt_repository
from anklume_images.inputs.from_host import HostPackage, host_package
from anklume_images.specs.catalog import Catalog, builtin_specs
from anklume_images.specs.keys import DebianInputs
from anklume_images.store.blobs import Blobs

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

EPOCH = 1_700_000_000
PACKAGE = HostPackage("app-from-host", {"libx.so.1": "550", "libw.so.2": "1.2"})
SUITES: dict[str, Any] = {"suites": [{"archive": "debian", "suite": "sid"}]}


def test_it_has_a_control_file_and_nothing_else() -> None:
    deb = DebFile(fileobj=io.BytesIO(PACKAGE.deb(EPOCH)))
    control = deb.debcontrol()
    assert (control["Package"], control["Architecture"]) == ("app-from-host", "all")
    assert control["Provides"] == "libw.so.2 (= 1.2), libx.so.1 (= 550)"
    members = [member for part in (deb.control, deb.data) for member in part.tgz().getmembers()]
    assert [member.name for member in members if member.isfile()] == ["./control"]
    assert {(member.uid, member.gid, member.mtime) for member in members} == {(0, 0, EPOCH)}


def test_its_bytes_follow_from_what_it_says() -> None:
    assert PACKAGE.deb(EPOCH) == HostPackage("app-from-host", dict(reversed(PACKAGE.provides.items()))).deb(EPOCH)
    assert PACKAGE.deb(EPOCH) != PACKAGE.deb(EPOCH + 1)
    assert PACKAGE.deb(EPOCH).isascii()


def test_the_repository_of_a_build_has_it(tmp_path: Path) -> None:
    files = apt_repository((), "trixie", "amd64", EPOCH, Blobs(tmp_path), PACKAGE)
    paragraph = Deb822(files["/debian/dists/trixie/main/binary-amd64/Packages"]["text"])
    deb = files[f"/debian/{paragraph['Filename']}"]["text"].encode()
    assert deb == PACKAGE.deb(EPOCH)
    assert (paragraph["Size"], paragraph["SHA256"]) == (str(len(deb)), hashlib.sha256(deb).hexdigest())


def test_what_an_image_has_of_its_host_is_in_its_document_only_where_there_is_any() -> None:
    assert "from_host" not in DebianInputs(**SUITES).model_dump(mode="json")
    given = DebianInputs(**SUITES, from_host={"libx.so.1": "550"})
    assert given.model_dump(mode="json")["from_host"] == {"libx.so.1": "550"}


@pytest.mark.parametrize("wrong", [{"Libx": "1"}, {"libx": "newest"}, {"libx": "1\nEssential: yes"}, {"x y": "1"}])
def test_only_names_and_versions_of_packages(wrong: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        DebianInputs(**SUITES, from_host=wrong)


def test_our_images_with_cuda_have_none_of_the_driver() -> None:
    catalog = Catalog.load([builtin_specs()])
    assert host_package(catalog.get("llama-server")) is None
    package = host_package(catalog.get("llama-server-cuda"))
    assert package is not None
    assert (package.name, list(package.provides)) == ("llama-server-cuda-from-host", ["libcuda.so.1"])
    lock = (builtin_specs() / "llama-server" / "lock-cuda.json").read_text()
    assert "libcublas12" in lock
    assert not any(f'"package": "{name}' in lock for name in ("libcuda1", "libnvidia", "nvidia"))
