"""A small world for tests of the whole way from spec to store: images of a few megabytes, built in a second or two.

Everything on the way is real: the specs, the locks, the fetcher, the sandbox, distrobuilder, the store. Only the root
file system is a stand-in for Debian's: some programs of the toolchain tree, with an empty dpkg status. It comes over
HTTP from a server on loopback.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anklume_images.architectures import host_architecture
from anklume_images.inputs.lockfile import Lock, ReleaseFile, save_lock
from anklume_images.specs.catalog import Catalog, builtin_specs
from tests.support import preloaded

if TYPE_CHECKING:
    from tests.support.faulty_mirror import FaultyMirror

EPOCH = 1_700_000_000
PROGRAMS = (
    "bash cat chmod cp dash date dd env find head hostname id install ln ls mkdir mv rm seq sh sleep stat touch umount"
)
FOLDERS = "dev etc/apt proc root run sys tmp usr/bin usr/lib usr/lib64 usr/sbin var/lib/dpkg var/log"


def make_rootfs(tree: Path) -> bytes:
    """A tarball of programs of the unpacked toolchain at `tree` and the their libraries; the same bytes each time."""
    wanted = _programs(tree)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name in _with_parents(FOLDERS.split()):
            _member(archive, name, tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755)
        for name in ("bin", "lib", "lib64", "sbin"):
            _member(archive, name, tarfile.SYMTYPE, 0o777, link=f"usr/{name}")
        for folder in _with_parents({str(Path(name).parent) for name in wanted}):
            if folder not in _with_parents(FOLDERS.split()):
                _member(archive, folder, tarfile.DIRTYPE, 0o755)
        for name, source in sorted(wanted.items()):
            _member(archive, name, tarfile.REGTYPE, 0o755, data=source.read_bytes())
        _member(archive, "etc/passwd", tarfile.REGTYPE, 0o644, data=b"root:x:0:0:root:/root:/bin/sh\n")
        _member(archive, "etc/group", tarfile.REGTYPE, 0o644, data=b"root:x:0:\n")
        _member(archive, "var/lib/dpkg/status", tarfile.REGTYPE, 0o644)
    return gzip.compress(buffer.getvalue(), 1, mtime=0)


def _programs(tree: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for program in PROGRAMS.split():
        path = f"usr/bin/{program}"
        found[path] = _followed(tree, path)
        listed = subprocess.run(["chroot", tree, "ldd", f"/{path}"], capture_output=True, text=True, check=True)
        for word in listed.stdout.split():
            if word.startswith("/"):
                name = f"usr{word}" if word.startswith("/lib") else word.lstrip("/")
                found[name] = _followed(tree, name)
    return found


def _followed(tree: Path, name: str) -> Path:
    """The file that a path in the tree ends at, by links of the tree."""
    path = tree / name
    while path.is_symlink():
        target = os.readlink(path)
        path = tree / target.lstrip("/") if target.startswith("/") else path.parent / target
    return path


def _with_parents(names: Any) -> list[str]:
    found = set(names)
    for name in names:
        found.update(str(parent) for parent in Path(name).parents if str(parent) != ".")
    return sorted(found)


def _member(archive: tarfile.TarFile, name: str, kind: bytes, mode: int, *, data: bytes = b"", link: str = "") -> None:
    member = tarfile.TarInfo(name)
    member.type, member.mode, member.linkname, member.size = kind, mode, link, len(data)
    archive.addfile(member, io.BytesIO(data))


SPEC = """\
name: {name}
description: A stand-in image
version: "1.0"
{origin}
architectures: [{arch}]
{more}
"""
ROOT_TEMPLATE = """\
{% extends "_image.yaml.j2" %}
{% block source %}
source:
  downloader: rootfs-http
  url: {{ mirror }}/files/rootfs
{% endblock %}
"""
TEMPLATE = """\
{{% extends "_image.yaml.j2" %}}
{{% block post_files %}}
{action}
{{% endblock %}}
"""


@dataclass
class World:
    """A folder with specs and a store; `world("build", "tiny")` runs the command upon both, from within it."""

    folder: Path
    mirror: FaultyMirror
    bodies: dict[str, bytes] = field(default_factory=dict, repr=False)

    @property
    def specs(self) -> Path:
        """The folder of specs."""
        return self.folder / "specs"

    @property
    def store(self) -> Path:
        """The store's folder."""
        return self.folder / "store"

    def copy(self, folder: Path) -> World:
        """The same once more, elsewhere; the unpacked toolchain stays where it is."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return World(folder, self.mirror, dict(self.bodies))

    def serve(self, path: str, body: bytes) -> None:
        """Let the mirror have a file, which specs may then name among their inputs."""
        self.bodies[path] = body
        self.mirror.serve(f"/{path}", body)

    def argv(self, *arguments: str) -> list[str]:
        """The command line of a command."""
        program = [sys.executable, "-m", "anklume_images"]
        return [*program, "--specs", str(self.specs), "--store", str(self.store), *arguments]

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Begin a command in a session of its own, as a terminal would."""
        options.setdefault("cwd", self.folder)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(self.argv(*arguments), text=True, start_new_session=True, **pipes | options)

    def __call__(self, *arguments: str, rc: int = 0, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, which must be `rc`, without a traceback."""
        options.setdefault("cwd", self.folder)
        result = preloaded.run("anklume_images", self.argv(*arguments)[3:], **options)
        assert "Traceback" not in result.stderr, result.stderr
        assert result.returncode == rc, f"exit {result.returncode}\n{result.stdout}{result.stderr}"
        return result

    def json(self, *arguments: str, **options: Any) -> Any:
        """What a command prints with --json."""
        return json.loads(self(*arguments, "--json", **options).stdout)

    def built(self, name: str, *arguments: str) -> dict[str, Any]:
        """Build an image; its entry in the answer."""
        (entry,) = [e for e in self.json("build", name, *arguments)["images"] if e["name"] == name]
        return dict(entry)

    def root(self, name: str = "tiny") -> None:
        """Write and lock the root image's spec: a root of no Debian packages, which `lock` itself would not make."""
        self.write(
            name, "distribution: debian\nrelease: trixie", ROOT_TEMPLATE, {"rootfs": "rootfs.tar.gz"}, lock=False
        )
        body = self.bodies["rootfs.tar.gz"]
        file = ReleaseFile("tiny", "rootfs.tar.gz", hashlib.sha256(body).hexdigest(), len(body), "rootfs")
        arch = host_architecture()
        request = Catalog.load([self.specs, builtin_specs()]).request(name, arch)
        save_lock(self.specs / name / "lock.json", Lock(name, arch, request, EPOCH, "1.0", files=(file,)))

    def app(self, name: str, action: str = ":", *, base: str = "tiny", inputs: dict[str, str] | None = None) -> None:
        """Write and lock the spec of an image over the root image; `inputs` are input names and the mirror's paths."""
        self.write(name, f"from: {base}", TEMPLATE.format(action=action), inputs or {})

    def write(self, name: str, origin: str, template: str, inputs: dict[str, str], *, lock: bool = True) -> None:
        """Write a spec whose inputs the mirror serves, and lock it with the real `lock`."""
        folder = self.specs / name
        folder.mkdir(parents=True, exist_ok=True)
        arch = host_architecture()
        more = ""
        if inputs:
            more = f"archives: {{tiny: {self.mirror.url!r}}}\ninputs:\n"
            more += "" if origin.startswith("from") else "  debian: {suites: [{archive: debian, suite: trixie}]}\n"
            more += "  files:\n"
        for label, path in inputs.items():
            body = self.bodies[path]
            pins = f"sha256: {{{arch}: {hashlib.sha256(body).hexdigest()}}}, size: {{{arch}: {len(body)}}}"
            more += f"    - {{name: {label}, archive: tiny, path: {{{arch}: {path}}}, {pins}}}\n"
        text = SPEC.format(name=name, origin=origin, arch=arch, more=more)
        (folder / "spec.yml").write_text(text)
        (folder / "distrobuilder.yaml.j2").write_text(template)
        if lock:
            self("lock", name)
