"""What goes and what stays: destroy and prune upon a real Incus."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.incus.test_apply import ONE, TWO, get

if TYPE_CHECKING:
    from tests.support.launching import Launcher


def test_what_left_the_file_goes_when_pruned(tiny: Launcher) -> None:
    tiny.write(TWO)
    tiny("apply")
    tiny.write(TWO.partition("  far:")[0])
    plan = tiny.json("plan")
    gone = {(entry["kind"], entry["name"]) for entry in plan["orphans"]}
    assert ("machine", "three") in gone
    assert "--prune removes it" in tiny("plan").stdout
    planned = tiny.json("plan", "--prune", code=3)
    removing = {(entry["kind"], entry["name"]) for entry in planned["removing"]}
    assert gone - removing == {("volume", "default/three-models"), ("project", "far")}  # it has the volume
    assert "--yes agrees" in tiny("apply", "--prune", code=2).stderr
    tiny("apply", "--prune", "--yes")
    tiny.settled()
    with tiny.client() as client:
        assert client.find_one("instances/three", project="far") is None
        assert client.find_one("networks/net-far") is None
        assert client.find_one("storage-pools/default/volumes/custom/three-models", project="far") is not None


def test_destroy_keeps_data_and_what_is_protected(tiny: Launcher) -> None:
    tiny.write(TWO)
    tiny("apply")
    tiny.execute("lab", "one", "sh", "-c", "echo kept > /root/models/file")
    said = tiny("destroy", "--yes", code=4).stderr
    assert "protected from deletion: two" in said
    assert len(get(tiny, "instances", **{"all-projects": "true"})) == 3
    tiny("destroy", "--yes", "--only", "three")
    assert len(get(tiny, "instances", **{"all-projects": "true"})) == 2
    assert "needs --yes" in tiny("destroy", "--force-protected", code=2).stderr
    result = tiny.json("destroy", "--yes", "--force-protected")
    kept = {(entry["kind"], entry["name"]) for entry in result["kept"]}
    assert kept == {
        ("volume", "default/one-models"),
        ("volume", "default/two-models"),
        ("volume", "default/three-models"),
        ("project", "lab"),
        ("project", "far"),
    }
    tiny("apply")
    assert tiny.execute("lab", "one", "cat", "/root/models/file").stdout == b"kept\n"
    tiny.settled()
    volumes = [word for name in ("one", "two", "three") for word in ("--volumes", f"{name}-models")]
    assert json.loads(tiny("destroy", "--yes", "--force-protected", *volumes, "--json").stdout)["kept"] == []
    with tiny.client() as client:
        assert [found["name"] for found in client.get("projects", recursion=1)] == ["default"]
        assert not [found for found in client.get("networks", recursion=1) if found["name"].startswith("net-")]
    assert "nothing is there" in tiny("destroy", "--yes").stdout


def test_a_volume_is_deleted_by_name_only(tiny: Launcher) -> None:
    tiny.write(ONE)
    tiny("apply")
    said = tiny("destroy", "--yes", "--volumes", "box-model", code=1).stderr
    assert "no volume of this file is called 'box-model'" in said
    assert "lab/box-models" in said
    assert tiny.json("destroy", "--plan", code=3)["kept"][0]["name"] == "default/box-models"
    assert get(tiny, "instances/box", project="lab")["status"] == "Running"


def test_a_copy_made_by_hand_outlives_destroy(tiny: Launcher) -> None:
    tiny.write(ONE)
    tiny("apply")
    tiny.incus.run(["incus", "copy", "box", "box-backup", "--project", "lab"], check=True, capture_output=True)
    said = tiny("destroy", "--yes", code=1)
    assert "network net-lab: " in said.stderr  # the copy is on it
    assert "acl anklume-lab" in said.stderr
    assert "project lab stays" in said.stderr
    assert [found["name"] for found in get(tiny, "instances", recursion="1", project="lab")] == ["box-backup"]


def test_domain_renamed_with_its_subnet_and_a_profile_dropped(tiny: Launcher) -> None:
    text = TWO.replace("  lab:", "  lab:\n    subnet_id: 7")
    tiny.write(text)
    tiny("apply")
    renamed = text.replace("  lab:", "  new:").replace("one:", "first:").replace("two:", "second:")
    tiny.write(renamed)
    tiny("apply", "--prune", "--yes", "--force-protected")
    tiny.settled()
    gone = renamed.partition("    profiles:")[0] + "    machines:" + renamed.partition("    machines:")[2]
    tiny.write(gone.replace("profiles: [default, small], ", ""))
    tiny("apply", "--prune", "--yes")
    tiny.settled()
    assert {found["name"] for found in get(tiny, "profiles", recursion="1", project="new")} == {"default"}
