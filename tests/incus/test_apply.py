"""Apply upon a real Incus: it does what its plan says, a second run does nothing, and drift is put right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from anklume_images.ship.publish import image_files, publish
from anklume_images.store.images import Images
from anklume_images.store.store import Store
from anklume_images.trust.revoked import Revocation, write_revocations
from launcher.infra.names import MACHINE, OWNER, UNFINISHED
from launcher.observe.watches import watched_containers
from tests.support.incus_images import make_image
from tests.support.tiny_store import put_tiny

if TYPE_CHECKING:
    from tests.support.launching import Launcher

ONE = """\
domains:
  lab:
    machines:
      box: {image: tiny, ephemeral: true}
"""
TWO = """\
domains:
  lab:
    trust_level: trusted
    profiles:
      small: {config: {limits.processes: 500}, devices: {spare: {type: unix-char, source: /dev/null, path: /dev/spare}}}
    machines:
      one: {image: tiny, ephemeral: true, profiles: [default, small], vars: {tiny_text: one, tiny_secret: hush}}
      two: {image: tiny, description: the second, boot_autostart: false, boot_priority: 7}
  far:
    machines:
      three: {image: tiny, ephemeral: true, snapshots_schedule: "0 3 * * *", snapshots_expiry: 30d}
"""


def get(launcher: Launcher, path: str, **params: str) -> Any:
    with launcher.client() as client:
        return client.get(path, **params)


def send(launcher: Launcher, path: str, body: dict[str, Any], method: Any = "patch", project: str = "lab") -> None:
    with launcher.client() as client:
        client.send(method, path, body, params={"project": project})


def edit(launcher: Launcher, path: str, project: str, **config: str) -> None:
    """Change an object's config by hand, as `incus … edit` does."""
    with launcher.client() as client:
        there = client.get(path, project=project)
        client.send("put", path, there | {"config": there["config"] | config}, params={"project": project})


def test_a_revoked_image_makes_nothing_new_and_what_runs_on_it_is_told(tiny: Launcher) -> None:
    tiny.write(ONE)
    tiny("apply")
    image = Images(Store(tiny.store)).resolve("tiny")
    why = ("bad key", "2026-01-02T00:00:00Z")
    write_revocations(tiny.store, [Revocation(image.name, image.version, image.architecture, image.fingerprint, *why)])
    assert f"box runs on it: {image.ref} was revoked on 2026-01-02: bad key" in tiny("plan").stdout
    tiny("destroy", "--yes")
    assert f"box would be made of it: {image.ref} was revoked" in tiny("apply", code=4).stderr
    assert get(tiny, "instances", **{"all-projects": "true"}) == []


def test_more_machines_than_the_kernel_lets_watch_are_told_of(tiny: Launcher) -> None:
    enough = watched_containers(int(Path("/proc/sys/fs/inotify/max_user_instances").read_text()))

    def notices(number: int) -> list[str]:
        domains = ""
        for first in range(0, number, 90):  # a domain has 99 addresses for machines that name none
            machines = "".join(f"      m{index}: {{image: tiny}}\n" for index in range(first, min(first + 90, number)))
            domains += f"  lab{first}:\n    machines:\n{machines}"
        tiny.write(f"domains:\n{domains}")
        found: list[str] = tiny.json("plan", code=3)["notices"]
        return found

    assert notices(enough) == []
    (notice,) = notices(enough + 1)
    assert notice.startswith(f"{enough + 1} containers will run here, and fs.inotify.max_user_instances = ")


@pytest.mark.both_versions
def test_file_comes_to_life_and_a_second_run_does_nothing(tiny: Launcher) -> None:
    tiny.write(TWO)
    planned = tiny.json("plan", code=3)
    assert {step["action"] for step in planned["steps"]} == {"create"}
    done = tiny.json("apply")
    assert done["done"] == len(planned["steps"]) == len(done["steps"])
    assert done["machines"]["three"] == {
        "project": "far",
        "instance": "three",
        "address": "10.120.0.1",
        "healthy_after": done["machines"]["three"]["healthy_after"],
    }
    instances = {found["name"]: found for found in get(tiny, "instances", recursion="1", **{"all-projects": "true"})}
    assert {name: found["status"] for name, found in instances.items()} == dict.fromkeys(
        ("one", "two", "three"), "Running"
    )
    one, two, three = (instances[name] for name in ("one", "two", "three"))
    assert one["config"]["user.anklume.tiny_text"] == "one"
    assert one["config"][OWNER] == "demo"
    assert two["config"][MACHINE] == "two"
    assert one["expanded_config"]["limits.processes"] == "500"
    assert one["expanded_devices"]["spare"]["path"] == "/dev/spare"
    assert one["devices"]["eth0"]["ipv4.address"] == "10.110.0.1"
    assert one["devices"]["vol-one-models"] == {
        "type": "disk",
        "pool": "default",
        "source": "one-models",
        "path": "/root/models",
    }
    assert (one["config"]["security.protection.delete"], two["config"]["security.protection.delete"]) == (
        "false",
        "true",
    )
    assert (two["config"]["boot.autostart"], two["config"]["boot.autostart.priority"]) == ("false", "7")
    assert two["description"] == "the second"
    assert (three["config"]["snapshots.schedule"], three["config"]["snapshots.expiry"]) == ("0 3 * * *", "30d")
    tiny.settled()


def test_secrets_are_not_shown(tiny: Launcher) -> None:
    tiny.write(TWO)
    tiny("apply")
    tiny.write(TWO.replace("hush", "quiet"))
    for arguments in ((), ("--json",)):
        said = tiny("plan", *arguments, code=3)
        assert "quiet" not in said.stdout + said.stderr
        assert "hush" not in said.stdout + said.stderr
        assert "tiny_secret" in said.stdout


def test_drift_is_shown_by_key_and_put_right(tiny: Launcher) -> None:
    tiny.write(TWO)
    tiny("apply")
    hand = {"limits.memory": "64MiB", "user.mine": "stays", "user.anklume.tiny_text": "other"}
    edit(tiny, "instances/one", "lab", **hand)
    edit(tiny, "profiles/small", "lab", **{"limits.processes": "9"})
    edit(tiny, "networks/net-lab", "default", **{"ipv4.nat": "false"})
    edit(tiny, "projects/lab", "default", **{"user.mine": "stays"})
    rule = {"action": "allow", "state": "enabled"}
    with tiny.client() as client:
        acl = client.get("network-acls/anklume-lab")
        client.send("put", "network-acls/anklume-lab", acl | {"ingress": [rule]})
    with tiny.client() as client:
        client.send("put", "instances/two/state", {"action": "stop", "force": True}, params={"project": "lab"})
    quick, deep = tiny.json("plan", code=3), tiny.json("plan", "--deep", code=3)
    steps = {(step["kind"], step["name"]): step for step in deep["steps"]}
    seen_by_name = {("machine", "one"), ("machine", "two"), ("profile", "small")}
    assert quick["steps"] == [step for name, step in steps.items() if name in seen_by_name]
    # Of both domains bridge and rules, and the volumes of all three machines.
    assert (quick["unread"], deep["unread"]) == (7, 0)
    found = {
        name: (step["action"], {(change["key"], change["before"], change["after"]) for change in step["changes"]})
        for name, step in steps.items()
    }
    assert found == {
        ("machine", "one"): (
            "restart",
            {
                ("config.limits.memory", "64MiB", None),
                ("config.user.anklume.tiny_text", "other", "one"),
            },
        ),
        ("machine", "two"): ("start", set()),
        ("profile", "small"): ("change", {("config.limits.processes", "9", "500")}),
        ("network", "net-lab"): ("change", {("config.ipv4.nat", "false", "true")}),
        ("acl", "anklume-lab"): ("change", {("ingress", "allow all", None)}),
    }
    tiny("apply", "--yes")
    tiny.settled()
    assert get(tiny, "instances/one", project="lab")["config"]["user.mine"] == "stays"
    assert get(tiny, "projects/lab")["config"]["user.mine"] == "stays"


def test_nothing_running_is_stopped_unasked(tiny: Launcher) -> None:
    tiny.write(TWO)
    tiny("apply")
    started = get(tiny, "instances/one/state", project="lab")["pid"]
    tiny.write(TWO.replace("tiny_text: one", "tiny_text: changed"))
    assert "--yes agrees" in tiny("apply", code=2).stderr
    assert get(tiny, "instances/one/state", project="lab")["pid"] == started
    assert "RESTART" in tiny("plan", code=3).stdout
    tiny("apply", "--yes")
    assert get(tiny, "instances/one/state", project="lab")["pid"] != started
    tiny.settled()


def test_a_paused_machine_is_resumed_and_restarted_only_when_that_is_agreed_to(tiny: Launcher) -> None:
    def pause() -> int:
        tiny.incus.run(["incus", "pause", "box", "--project", "lab"], check=True, capture_output=True)
        pid: int = get(tiny, "instances/box/state", project="lab")["pid"]
        return pid

    tiny.write(ONE)
    tiny("apply")
    pid = pause()
    tiny("apply")
    assert get(tiny, "instances/box/state", project="lab")["pid"] == pid
    tiny.settled()
    pid = pause()
    tiny.write(ONE.replace("ephemeral: true", "ephemeral: true, vars: {tiny_text: changed}"))
    assert "RESTART" in tiny("plan", code=3).stdout
    assert "--yes agrees" in tiny("apply", code=2).stderr
    tiny("apply", "--yes")
    assert get(tiny, "instances/box/state", project="lab")["pid"] != pid
    tiny.settled()
    pause()
    tiny("destroy", "--yes")
    assert get(tiny, "instances", **{"all-projects": "true"}) == []


def test_a_live_change_restarts_nothing(tiny: Launcher) -> None:
    tiny.write(ONE)
    tiny("apply")
    started = get(tiny, "instances/box/state", project="lab")["pid"]
    more = "config: {limits.processes: 77}, devices: {spare: {type: unix-char, source: /dev/null, path: /dev/spare}}"
    tiny.write(ONE.replace("ephemeral: true", f"ephemeral: true, {more}"))
    (step,) = tiny.json("plan", code=3)["steps"]
    assert step["action"] == "change"
    tiny("apply")
    assert get(tiny, "instances/box/state", project="lab")["pid"] == started
    tiny.settled()


def test_newer_image_waits_until_it_is_asked_for_and_data_stays(
    tiny: Launcher, tiny_rootfs: Path, tmp_path: Path
) -> None:
    tiny.write(ONE)
    tiny("apply")
    assert tiny.execute("lab", "box", "sh", "-c", "echo kept > /root/models/file; echo gone > /root/gone").code == 0
    newer = put_tiny(Store(tiny.store), tiny_rootfs, tmp_path, 2)
    plan = tiny.json("plan")
    assert plan["steps"] == []
    assert [entry["machine"] for entry in plan["waiting"]] == ["box"]
    tiny("apply")
    assert get(tiny, "instances/box", project="lab")["config"]["volatile.base_image"] != newer.fingerprint
    assert "--replace makes it anew" in tiny("plan").stdout
    assert "REPLACE" in tiny("plan", "--replace", code=3).stdout
    tiny("apply", "--replace", "--yes")
    assert get(tiny, "instances/box", project="lab")["config"]["volatile.base_image"] == newer.fingerprint
    assert tiny.execute("lab", "box", "cat", "/root/models/file").stdout == b"kept\n"
    assert tiny.execute("lab", "box", "cat", "/root/gone").code != 0
    tiny.settled()
    assert tiny.json("plan")["waiting"] == []


def test_instance_with_snapshots_is_not_replaced(tiny: Launcher, tiny_rootfs: Path, tmp_path: Path) -> None:
    tiny.write(ONE)
    tiny("apply")
    send(tiny, "instances/box/snapshots", {"name": "before"}, "post")
    put_tiny(Store(tiny.store), tiny_rootfs, tmp_path, 2)
    said = tiny("apply", "--replace", "--yes", code=1).stderr
    assert "box has snapshots (before)" in said
    assert "incus snapshot delete box NAME --project lab" in said
    assert get(tiny, "instances/box", project="lab")["status"] == "Running"


@pytest.mark.parametrize("kind", ["project", "network", "instance"])
def test_what_is_there_and_not_ours_is_left_alone_until_adopted(tiny: Launcher, kind: str) -> None:
    tiny.write(ONE)
    project = {"name": "lab", "config": {"features.images": "false", "features.networks": "false"}}
    if kind == "network":
        send(tiny, "networks", {"name": "net-lab", "type": "bridge", "config": {}}, "post", "default")
    else:
        send(tiny, "projects", project, "post", "default")
    if kind == "instance":
        (image,) = Images(Store(tiny.store))
        publish(image_files(image, Images(Store(tiny.store)), Store(tiny.store)), tiny.client())
        root = {"type": "disk", "path": "/", "pool": "default"}
        source = {"type": "image", "fingerprint": image.fingerprint}
        send(tiny, "instances", {"name": "box", "source": source, "devices": {"root": root}}, "post")
    said = tiny("apply", code=1).stderr
    assert "was not made by anklume-launch" in said
    assert "--adopt takes it over" in said
    tiny("apply", "--adopt", "--yes")
    tiny.settled()
    if kind == "instance":
        found = get(tiny, "instances/box", project="lab")
        assert (found["config"][OWNER], found["status"]) == ("demo", "Running")
    tiny("destroy", "--yes", "--volumes", "box-models")
    assert [found["name"] for found in get(tiny, "projects", recursion="1")] == ["default"]


def test_two_files_that_want_one_name_or_subnet(tiny: Launcher) -> None:
    first = tiny.write(ONE, name="first")
    tiny("apply")
    tiny.write(ONE, name="second", zone=150)
    assert "belongs to the file with project_name first" in tiny("apply", code=1).stderr
    tiny.write(ONE.replace("lab:", "other:"), name="third")
    said = tiny("apply", code=1).stderr
    assert "the subnet 10.120.0.0/24 of domain other is in use by network net-lab" in said
    with tiny.client() as client:
        assert [found["name"] for found in client.get("projects", recursion=1)] == ["default", "lab"]
    tiny("destroy", "--yes", file=first)


def test_only_and_tags_choose_machines_with_what_they_need(tiny: Launcher) -> None:
    tiny.write(TWO)
    steps = tiny.json("apply", "--only", "one")["steps"]
    assert {(step["kind"], step["name"].split("/")[-1]) for step in steps if step["kind"] != "image"} == {
        ("project", "lab"),
        ("acl", "anklume-lab"),
        ("network", "net-lab"),
        ("profile", "small"),
        ("volume", "one-models"),
        ("machine", "one"),
    }
    left = tiny.json("plan", "--tags", "small", "--only", "far", code=3)["steps"]
    assert {step["name"] for step in left if step["kind"] == "machine"} == {"three"}
    assert (
        "no machine and no domain is called 'onee' (did you mean 'one'?)"
        in tiny("plan", "--only", "onee", code=2).stderr
    )


def test_data_of_the_host_is_shared_into_machines(tiny: Launcher) -> None:
    tiny.write(
        """\
domains:
  lab:
    machines:
      one: {image: tiny, ephemeral: true, persistent_data: {notes: {path: /notes}}}
      two: {image: tiny, ephemeral: true}
shared_volumes:
  drop: {path: /drop, consumers: {one: rw, two: ro}}
""",
        # The private root is an overlay in memory, which cannot be mounted with other ids.
        head="project_name: {name}\nglobal:\n  addressing: {{base_octet: 10, zone_base: {zone}}}\n"
        "  shared_volumes_base: /srv/trial/shares\n  persistent_data_base: /srv/trial/data\n",
    )
    tiny("apply")
    assert tiny.execute("lab", "one", "sh", "-c", "echo hi > /drop/file && echo hi > /notes/file").code == 0
    assert tiny.execute("lab", "two", "cat", "/drop/file").stdout == b"hi\n"
    assert tiny.execute("lab", "two", "sh", "-c", "echo no > /drop/other").code != 0
    assert tiny.incus.run(["cat", "/srv/trial/data/lab/one/notes/file"], capture_output=True).stdout == b"hi\n"
    tiny.settled()


def test_data_on_a_file_system_without_other_owners_is_refused_but_without_shift(tiny: Launcher) -> None:
    """The private root is an overlay."""
    data = ONE.replace("box", "one").replace("true}", "true, persistent_data: {notes: {path: /notes%s}}}")
    tiny.write(data % "")
    for command in ("plan", "apply"):
        said = tiny(command, code=1).stderr
        assert "demo.yml:7:7: the persistent data notes of one is on overlay (/srv/anklume/data/lab/one/notes)" in said
        assert "shift: false" in said
    tiny.write(data % ", shift: false")
    tiny("apply")
    assert tiny.execute("lab", "one", "stat", "-c", "%u", "/notes").stdout == b"65534\n"
    tiny.settled()


def test_a_machine_joins_the_volume_of_a_running_one(tiny: Launcher) -> None:
    one = "      one: {image: tiny, ephemeral: true, storage_volumes: {data: {path: /data}}}\n"
    tiny.write("domains:\n  lab:\n    machines:\n" + one)
    tiny("apply")
    assert tiny.execute("lab", "one", "sh", "-c", "echo kept > /data/file").code == 0
    tiny.write("domains:\n  lab:\n    machines:\n" + one + one.replace("one:", "two:"))
    assert "stopped" in tiny("apply", code=2).stderr
    assert tiny.execute("lab", "one", "cat", "/data/file").code == 0
    tiny("apply", "--yes")
    tiny.settled()
    for name in ("one", "two"):
        result = tiny.execute(
            "lab", name, "sh", "-c", f"cat /data/file && echo {name} > /data/{name} && stat -c %u /data/file"
        )
        assert result.stdout == b"kept\n0\n", result


def test_resource_policy_divides_the_host(tiny: Launcher) -> None:
    tiny.write(
        ONE.replace("ephemeral: true", "ephemeral: true, weight: 3") + "      cat: {image: tiny, ephemeral: true}\n",
        head="project_name: {name}\nglobal:\n  addressing: {{base_octet: 10, zone_base: {zone}}}\n"
        "  resource_policy: {{host_reserve: {{cpu: 20%, memory: 20%}}}}\n",
    )
    tiny("apply")
    box, cat = (get(tiny, f"instances/{name}", project="lab")["config"] for name in ("box", "cat"))
    assert (box["limits.cpu.allowance"], cat["limits.cpu.allowance"]) == ("60%", "20%")
    assert box["limits.memory.enforce"] == "soft"
    ratio = int(box["limits.memory"][:-3]) / int(cat["limits.memory"][:-3])
    assert ratio == pytest.approx(3, rel=0.01)
    tiny.settled()


def test_hostile_texts_are_carried_literally(tiny: Launcher) -> None:
    nasty = """it's "$(touch /tmp/owned)" `id`; {{ config_get('x') }} {% include '/etc/shadow' %} ../../etc"""
    tiny.write(ONE.replace("ephemeral: true", f"ephemeral: true, description: {json.dumps(nasty)}, vars: {{tiny_text: "
                           f"{json.dumps(nasty)}}}, config: {{user.note: {json.dumps(nasty)}}}"))  # fmt: skip
    tiny("apply")
    found = get(tiny, "instances/box", project="lab")
    assert found["description"] == nasty
    assert found["config"]["user.anklume.tiny_text"] == nasty
    assert found["config"]["user.note"] == nasty
    tiny.settled()


def test_what_was_moved_by_hand_is_started_and_never_made_anew(tiny: Launcher) -> None:
    """A copy has never run, as far as Incus' date of the last use tells."""
    tiny.write(ONE)
    tiny("apply")
    tiny.execute("lab", "box", "sh", "-c", "echo kept > /root/file")
    for command in (["stop", "--force", "box"], ["move", "box", "other"], ["move", "other", "box"]):
        tiny.incus.run(["incus", *command, "--project", "lab"], check=True, capture_output=True)
    tiny.incus.run(["incus", "copy", "box", "box-backup", "--project", "lab"], check=True, capture_output=True)
    tiny.incus.run(["incus", "delete", "box", "--project", "lab"], check=True, capture_output=True)
    tiny.incus.run(["incus", "move", "box-backup", "box", "--project", "lab"], check=True, capture_output=True)
    tiny("apply")
    assert tiny.execute("lab", "box", "cat", "/root/file").stdout == b"kept\n"
    tiny.settled()


def test_profile_default_of_a_domain(tiny: Launcher) -> None:
    profiles = "    profiles: {default: {config: {limits.processes: 321}}}\n"
    tiny.write(ONE.replace("    machines:", profiles + "    machines:"))
    tiny("apply")
    assert get(tiny, "instances/box", project="lab")["expanded_config"]["limits.processes"] == "321"
    tiny.settled()


def test_machine_runs_on_when_its_change_is_refused(tiny: Launcher) -> None:
    tiny.write(ONE)
    tiny("apply")
    tiny.write(ONE.replace("ephemeral: true", "ephemeral: true, config: {limits.cpu.priority: 99}"))
    assert "machine box (project lab)" in tiny("apply", "--yes", code=1).stderr
    assert get(tiny, "instances/box", project="lab")["status"] == "Running"


def test_aliases_of_others_stay(tiny: Launcher, tiny_rootfs: Path, tmp_path: Path) -> None:
    other = make_image(tmp_path, tiny_rootfs, aliases=("tiny",))
    with tiny.client() as client:
        publish(other, client)
        tiny.write(ONE)
        tiny("apply")
        assert client.aliases()["tiny"] == other.fingerprint


@pytest.mark.both_versions
def test_a_new_volume_begins_as_the_image_is_there_and_another_is_left_alone(tiny: Launcher) -> None:
    tiny.write("domains: {lab: {machines: {box: {image: tiny, storage_volumes: {old: {path: /root/old}}}}}}\n")
    tiny("apply")
    told = tiny.execute("lab", "box", "stat", "-c", "%a %u %g", "/root/models", "/root/models/sub/first").stdout
    assert told == b"2750 33 44\n600 34 45\n"
    assert tiny.execute("lab", "box", "cat", "/root/models/link").stdout == b"begun\n"
    assert tiny.execute("lab", "box", "stat", "-c", "%a %u", "/root/old").stdout == b"711 0\n"
    tiny.settled()
    assert tiny.execute("lab", "box", "sh", "-c", "echo mine > /root/models/sub/first").code == 0
    tiny("destroy", "--yes", "--force-protected")
    tiny("apply")
    assert tiny.execute("lab", "box", "cat", "/root/models/sub/first").stdout == b"mine\n"


@pytest.mark.both_versions
def test_a_volume_that_is_half_filled_is_filled_anew(tiny: Launcher) -> None:
    tiny.write(ONE)
    tiny("apply")
    tiny("destroy", "--yes", "--force-protected")
    with tiny.client() as client:  # as a daemon that is killed while it unpacks leaves it
        volume = "storage-pools/default/volumes/custom/box-models"
        config = client.get(volume, project="lab")["config"] | {UNFINISHED: "true"}
        client.send("delete", volume, params={"project": "lab"})
        body = {"name": "box-models", "type": "custom", "config": config}
        client.send("post", "storage-pools/default/volumes/custom", body, params={"project": "lab"})
    tiny("apply", "--yes")
    assert tiny.execute("lab", "box", "cat", "/root/models/link").stdout == b"begun\n"
    tiny.settled()
