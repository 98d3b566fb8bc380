"""From spec to store: what is built, what is skipped, what is found to differ, and what `--explain` says of it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anklume_images.architectures import host_architecture
from anklume_images.store.blobs import hash_file
from anklume_images.store.images import Images, fingerprint
from anklume_images.store.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from anklume_images.builder.trees import Tree
    from anklume_images.pipeline import Pipeline
    from anklume_images.store.images import Image
    from tests.conftest import Cli
    from tests.support.tiny import World

ROOT = Path(__file__).resolve().parents[2]


def explained(world: World, name: str) -> dict[str, Any]:
    result = subprocess.run(
        world.argv("build", name, "--explain", "--json"), capture_output=True, text=True, check=False, cwd=world.folder
    )
    states = {entry["state"] for entry in json.loads(result.stdout)}
    assert result.returncode == (1 if "invalid" in states else 0 if states == {"present"} else 3), result.stderr
    (entry,) = [entry for entry in json.loads(result.stdout) if entry["name"] == name]
    return dict(entry)


def edit(world: World, path: str, change: Callable[[str], str]) -> None:
    file = world.specs / path
    file.write_text(change(file.read_text()))


def test_bases_are_built_first_and_asking_again_is_present(fresh: World) -> None:
    first = fresh.json("build", "tiny-app")["images"]
    assert [(entry["name"], entry["status"]) for entry in first] == [("tiny", "built"), ("tiny-app", "built")]
    second = fresh.json("build", "tiny", "tiny-app", "--offline")["images"]
    assert [(entry["name"], entry["status"]) for entry in second] == [("tiny", "present"), ("tiny-app", "present")]
    assert [entry["fingerprint"] for entry in first] == [entry["fingerprint"] for entry in second]
    assert not list((fresh.store / "scratch").iterdir())
    assert not list((fresh.store / "leases").iterdir())


def test_an_image_is_what_its_manifest_says(world: World) -> None:
    images = Images(Store(world.store))
    image = images.resolve("tiny-app")
    blobs = Store(world.store).blobs
    metadata, rootfs = blobs.path(image.metadata.sha256), blobs.path(image.rootfs.sha256)
    assert fingerprint(metadata, rootfs) == image.fingerprint
    assert [hash_file(metadata), hash_file(rootfs)] == [image.metadata.sha256, image.rootfs.sha256]
    assert image.version == f"1.0-{image.recipe[:12]}"
    assert image.base == {"name": "tiny", "version": images.resolve("tiny").version}
    assert [(p.kind, p.name) for p in image.packages] == [("file", "note"), ("file", "rootfs")]


def test_built_again_elsewhere_it_has_the_same_bytes(world: World) -> None:
    result = world("build", "tiny-app", "--check")
    (line,) = [line for line in result.stdout.splitlines() if line.startswith("tiny-app:")]
    assert "identical bytes" in line
    assert "umask 077, LC_ALL=POSIX, TZ=Pacific/Kiritimati" in line
    assert world.json("build", "tiny", "--check")["checks"] == [{"name": "tiny", "identical": True, "paths": []}]


def test_what_differs_is_listed(world: World) -> None:
    world.app("moment", "echo $$-$(cat /proc/sys/kernel/random/uuid) > /etc/moment\nls > /etc/same")
    result = world("build", "moment", "--check", rc=3)
    lines = result.stdout.splitlines()
    assert any(line.startswith("moment: DIFFERENT bytes") for line in lines)
    assert lines[-1:] == ["  /etc/moment"]
    (check,) = json.loads(world("build", "moment", "--check", "--json", rc=3).stdout)["checks"]
    assert check == {"name": "moment", "identical": False, "paths": ["/etc/moment"]}


def test_names_and_kinds_that_differ_are_listed(world: World) -> None:
    world.app("moment", "name=$(cat /proc/sys/kernel/random/uuid); touch /etc/$name; ln -s $name /etc/link")
    (check,) = json.loads(world("build", "moment", "--check", "--json", rc=3).stdout)["checks"]
    assert "/etc/link" in check["paths"]
    assert len([path for path in check["paths"] if re.fullmatch(r"/etc/[0-9a-f-]{36}", path)]) == 2


def test_two_clones_at_different_paths_build_the_same(fresh: World, tmp_path: Path) -> None:
    fingerprints = []
    for place in (tmp_path / "one", tmp_path / "another" / "and longer, place"):
        for package in ("anklume_images", "image_specs"):
            shutil.copytree(ROOT / package, place / package, ignore=shutil.ignore_patterns("__pycache__"))
        own = fresh.copy(place / "world")
        argv = own.argv("build", "tiny-app", "--json")
        result = subprocess.run(argv, cwd=place, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        inside = subprocess.run(
            [sys.executable, "-c", "import anklume_images as a; print(a.__file__)"],
            cwd=place,
            capture_output=True,
            text=True,
            check=True,
        )
        assert inside.stdout.startswith(str(place))
        fingerprints.append([(e["version"], e["fingerprint"]) for e in json.loads(result.stdout)["images"]])
    assert fingerprints[0] == fingerprints[1]


def test_explain_says_nothing_of_what_is_present(world: World) -> None:
    assert explained(world, "tiny-app")["state"] == "present"
    assert explained(world, "tiny-app")["changes"] == []


def test_explain_of_what_was_never_built(world: World) -> None:
    world.app("new")
    assert explained(world, "new")["changes"] == ["never built in this store"]


def test_explain_names_a_changed_action(world: World) -> None:
    world.app("tiny-app", "cp /etc/passwd /etc/copied-elsewhere", inputs={"note": "note.txt"})
    entry = explained(world, "tiny-app")
    assert entry["state"] == "missing"
    assert entry["changes"] == ["definition: 1 lines gone, 1 lines new"]


def test_explain_names_a_changed_template_and_variable(world: World) -> None:
    (world.specs / "tiny-app" / "greeting.tpl").write_text("hello\n")
    more = (
        "templates: [{source: greeting.tpl, path: /etc/greeting}]\n"
        "variables: {port: {type: port, default: 80, description: A port}}\n"
    )
    edit(world, "tiny-app/spec.yml", lambda text: text + more)
    assert world.built("tiny-app")["status"] == "built"
    edit(world, "tiny-app/greeting.tpl", lambda text: text + "and goodbye\n")
    edit(world, "tiny-app/spec.yml", lambda text: text.replace("default: 80", "default: 81"))
    changes = explained(world, "tiny-app")["changes"]
    assert "file greeting.tpl changed" in changes
    assert "variable port changed" in changes
    assert world.built("tiny-app")["status"] == "built"
    assert explained(world, "tiny-app")["state"] == "present"


def test_explain_names_changed_inputs(world: World) -> None:
    world.serve("other.txt", b"another note\n")
    world.app("tiny-app", "cp /etc/passwd /etc/copied", inputs={"note": "other.txt", "more": "note.txt"})
    changes = explained(world, "tiny-app")["changes"]
    assert "file more: note.txt added" in changes
    assert "file note: note.txt → other.txt" in changes


def test_explain_names_a_changed_base(world: World) -> None:
    edit(world, "tiny/spec.yml", lambda text: text.replace("A stand-in image", "A stand-in of a root"))
    assert "spec: description changed" in explained(world, "tiny")["changes"]
    changes = explained(world, "tiny-app")["changes"]
    assert [line for line in changes if re.fullmatch(r"base: [0-9a-f]{12} → [0-9a-f]{12}", line)]


def test_explain_names_a_changed_toolchain(world: World, toolchain: Tree) -> None:
    images = Images(Store(world.store))
    recipe = images.folder("tiny", images.resolve("tiny").version, images.resolve("tiny").architecture) / "recipe.json"
    assert toolchain.digest in recipe.read_text()
    recipe.write_text(recipe.read_text().replace(toolchain.digest, "0" * 64))
    edit(world, "tiny/spec.yml", lambda text: text.replace("A stand-in image", "A stand-in of a root"))
    assert f"toolchain: {'0' * 12} → {toolchain.digest[:12]}" in explained(world, "tiny")["changes"]


def test_explain_of_a_stale_lock(world: World) -> None:
    edit(world, "tiny-app/spec.yml", lambda text: text.replace('"1.0"', '"2.0"'))
    entry = explained(world, "tiny-app")
    assert entry["state"] == "invalid"
    assert "the spec of tiny-app changed since it was locked" in entry["changes"][0]
    assert "anklume-images lock tiny-app" in "\n".join(entry["changes"])


def test_one_that_fails_does_not_stop_the_others(world: World) -> None:
    world.app("broken", "exit 1")
    world.app("from-broken", base="broken")
    world.app("sound")
    result = world("build", "from-broken", "sound", "--json", rc=1)
    states = {entry["name"]: (entry["status"], entry["error"]) for entry in json.loads(result.stdout)["images"]}
    assert states["broken"][0] == "failed"
    assert states["from-broken"] == ("failed", "from-broken: its base broken was not built")
    assert states["sound"] == ("built", None)


def test_one_whose_mirror_is_unreachable_does_not_stop_the_others(world: World) -> None:
    world.serve("gone.txt", b"not to be had\n")
    world.app("unreachable", inputs={"gone": "gone.txt"})
    world.app("sound")
    edit(world, "unreachable/spec.yml", lambda text: text.replace(world.mirror.url, "http://127.0.0.1:9"))
    world("lock", "unreachable")
    result = world("build", "unreachable", "sound", rc=1)
    assert "error: 1 file could not be fetched" in result.stderr
    assert "gone.txt (tiny)" in result.stderr
    assert "http://127.0.0.1:9/gone.txt" in result.stderr
    assert "hint: " in result.stderr
    assert re.search(r"^sound@\S+  built", result.stdout, re.MULTILINE)


def test_a_second_build_of_the_same_waits_for_the_first(world: World) -> None:
    world.app("slow", "sleep 2")
    processes = [world.start("build", "slow", "--json") for _ in range(2)]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    entries = [json.loads(out)["images"][0] for out, _ in outputs]
    assert entries[0]["fingerprint"] == entries[1]["fingerprint"]
    assert len(list((world.store / "logs" / "slow").glob("*[0-9].log"))) == 1, "only one of them built"
    assert sum("another process is building it, waiting" in errors for _, errors in outputs) == 1


def test_a_list_of_contents_goes_with_each_image(world: World) -> None:
    document = json.loads(world("sbom", "tiny-app").stdout)
    names = {component["name"]: component for component in document["components"]}
    assert set(names) == {"note", "rootfs"}
    assert names["rootfs"]["hashes"][0]["alg"] == "SHA-256"


def test_gc_at_the_same_time_does_no_harm(fresh: World) -> None:
    """While images are fetched and built, gc over and over: bases are not yet in a channel, blobs in no image."""
    for number in range(3):
        fresh.app(f"app-{number}", f"echo {number} > /etc/number", inputs={"note": "note.txt"})
    names = ["tiny-app", *(f"app-{number}" for number in range(3))]
    rounds = 0
    with fresh.start("build", *names, "--jobs", "2", "--json") as process:
        while process.poll() is None:
            fresh("gc")
            rounds += 1
        out, errors = process.communicate()
    assert process.returncode == 0, out + errors
    assert rounds > 3
    assert {entry["status"] for entry in json.loads(out)["images"]} == {"built"}
    assert " 0 damaged" in fresh("verify").stdout
    assert [entry["name"] for entry in fresh.json("list")] == sorted([*names, "tiny"])
    assert fresh.json("gc")["removed"] == []
    # What is kept is enough to build all of it again, without a network.
    for name in names:
        assert fresh.json("build", name, "--check", "--offline")["checks"][0]["identical"]


def test_gc_removes_what_no_channel_names(world: World) -> None:
    old = world.built("tiny-app")["version"]
    world.app("tiny-app", "cp /etc/passwd /etc/copied-elsewhere")
    new = world.built("tiny-app")["version"]
    plan = world.json("gc", "--keep", "1", "--dry-run")
    assert f"image tiny-app@{old} ({host_architecture()})" in plan["removed"]
    assert world.json("gc", "--keep", "1")["removed"] == plan["removed"]
    assert [entry["version"] for entry in world.json("list") if entry["name"] == "tiny-app"] == [new]
    assert world("gc", "--why", "tiny").stdout.splitlines() == ["channel latest", f"base of tiny-app@{new}"]
    assert not list(world.store.glob("partial/*"))
    assert not list(world.store.glob("building/*"))


def test_what_a_failed_build_left_goes_with_gc(world: World) -> None:
    world.app("broken", "exit 1")
    world("build", "broken", rc=1)
    assert "leftover failed/broken" in world.json("gc")["removed"]
    assert not list((world.store / "failed").iterdir())
    assert "no failed build of broken is kept" in world("enter", "broken", rc=1).stderr


def test_debians_list_of_contents_is_what_is_installed(
    pipeline: Pipeline, anklume: Cli, built: Callable[[str], Image]
) -> None:
    image = built("debian")
    text = anklume("sbom", "debian").stdout
    assert anklume("sbom", "debian").stdout == text
    components = json.loads(text)["components"]
    locked = {deb.package: deb for deb in pipeline.locks.get("debian").debs}
    assert {c["name"]: c["version"] for c in components} == {p.name: p.version for p in image.packages}
    assert {c["name"] for c in components} == set(locked)
    for component in components:
        deb = locked[component["name"]]
        assert component["hashes"] == [{"alg": "SHA-256", "content": deb.sha256}]
        assert component["purl"].startswith(f"pkg:deb/debian/{deb.package.replace('+', '%2B')}@")
        assert component["purl"].endswith(f"?arch={deb.architecture}")
