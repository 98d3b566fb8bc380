"""What is to be and the difference to what is, without any server: names, devices, what is live and what restarts."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anklume_images.store.images import Image, StoredFile
from anklume_images.store.models import ModelFile
from anklume_images.trust.revoked import Revocation, RevokedError
from launcher.infra.model import (
    Domain,
    ImageChoice,
    Infra,
    Machine,
    PersistentData,
    Profile,
    Settings,
    SharedMount,
    StorageVolume,
)
from launcher.infra.models import WantedModel
from launcher.infra.names import CLAIM, IMAGE, OWNER, Names, names_for
from launcher.observe.live import Live
from launcher.plan.desired import PlanContext, desired
from launcher.plan.difference import difference, owned, step_for
from launcher.plan.render import document, lines
from launcher.plan.revoked import _is_of, heed
from launcher.resources import Key, Resource

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from launcher.plan.changes import Change

STORED = StoredFile("0" * 64, 1)


def image(number: int = 1, **spec: Any) -> Image:
    kept = {"variables": {}, "volumes": [], "healthcheck": None} | spec
    fingerprint = f"{number:064x}"
    return Image("app", f"1.{number}", "amd64", "r", fingerprint, STORED, STORED, 1, 0, "An app", "t", spec=kept)


def machine(name: str = "box", **changes: Any) -> Machine:
    choice = ImageChoice("app")
    return replace(Machine(name, "lab", "10.110.0.1", choice, "infra.yml:9:3", ephemeral=True), **changes)


def infra(*machines: Machine, profiles: Mapping[str, Profile] | None = None, **settings: Any) -> Infra:
    members = {entry.name: entry for entry in machines}
    domain = Domain("lab", "10.110.0.0/24", "10.110.0.254", "infra.yml:5:3", profiles=profiles or {}, machines=members)
    return Infra("infra.yml", "demo", Settings(**settings), {"lab": domain})


def wanted(file: Infra, images: Mapping[str, Image] | None = None, **around: Any) -> dict[Key, Resource]:
    chosen = images if images is not None else {entry.name: image() for entry in file.machines()}
    found = desired(file, PlanContext(images=chosen, **around))
    return {resource.key: resource for resource in found.resources}


def box(resources: Mapping[Key, Resource], name: str = "box") -> Mapping[str, Any]:
    return resources[Key("machine", "lab", name)].body


def as_made(resources: Mapping[Key, Resource]) -> Live:
    """The server when all of it is there, with what Incus adds of its own."""
    objects: dict[Key, dict[str, Any]] = {}
    for key, resource in resources.items():
        there = copy.deepcopy(dict(resource.body)) | {"name": key.name}
        there.setdefault("config", {})
        there["config"] = dict(there["config"])
        if key.kind == "machine":
            there |= {"status": "Running"}
            base = resource.image.fingerprint if resource.image else "f" * 64
            there["config"] |= {"volatile.base_image": base, "image.os": "tiny", "user.of.others": "1"}
        if key.kind in ("project", "network", "volume"):
            there["config"] |= {"volatile.x": "1", "features.storage.buckets": "true"}
        if key.kind == "network":
            there |= {"status": "Created"}
        objects[key] = there
    return Live(objects)


def changed(live: Live, key: Key, **config: str | None) -> Live:
    objects = copy.deepcopy(dict(live.objects))
    for name, value in config.items():
        keys = objects[key]["config"]
        _ = keys.pop(name, None) if value is None else keys.update({name: value})
    return Live(objects)


class TestNames:
    def test_long_bridges_are_cut_stably_and_stay_apart(self) -> None:
        names = Names()
        long = [names.network(f"a-very-long-domain-{number}") for number in range(50)]
        assert all(len(name) == 15 for name in long)
        assert len(set(long)) == 50
        assert names.network("ten-chars-x") == "net-ten-chars-x"
        assert names.network("a-very-long-domain-1") == long[1]

    def test_prefix_comes_from_the_host_and_only_where_it_is_wanted(self, tmp_path: Path) -> None:
        level = tmp_path / "absolute_level"
        assert names_for(infra(), level) == Names()
        level.write_text("2\n")
        names = names_for(infra(), level)
        assert (names.project("lab"), names.instance("box"), names.network("lab")) == (
            "002-lab",
            "002-box",
            "002-net-lab",
        )
        assert names_for(infra(nesting_prefix=False), level) == Names()
        level.write_text("deep\n")
        assert names_for(infra(), level) == Names()


class TestDesired:
    def test_machine_has_network_root_and_marks(self) -> None:
        body = box(wanted(infra(machine())))
        assert body["devices"] == {
            "root": {"type": "disk", "path": "/", "pool": "default"},
            "eth0": {
                "type": "nic",
                "name": "eth0",
                "network": "net-lab",
                "ipv4.address": "10.110.0.1",
                "security.ipv4_filtering": "true",
                "security.mac_filtering": "true",
            },
        }
        assert body["config"][OWNER] == "demo"
        assert body["config"][IMAGE] == "app@1.1"

    def test_what_the_file_says_of_a_machine_wins(self) -> None:
        own = machine(config={"boot.autostart": "false"}, devices={"eth0": {"type": "nic", "network": "other"}})
        body = box(
            wanted(infra(replace(own, keys={"boot.autostart": "true"})), limits={"box": {"limits.memory": "1GiB"}})
        )
        assert body["config"]["boot.autostart"] == "false"
        assert body["config"]["limits.memory"] == "1GiB"
        assert body["devices"]["eth0"] == {"type": "nic", "network": "other"}

    def test_declared_volume_is_made_unless_something_is_there(self) -> None:
        declared = {"box": image(volumes=[{"path": "/root/.ollama", "kind": "models"}])}
        key = Key("volume", "lab", "default/box-models")
        assert key in wanted(infra(machine()), declared)
        own = machine(volumes=(StorageVolume("mine", "/root/.ollama", "fast", "20GiB"),))
        resources = wanted(infra(own), declared)
        assert key not in resources
        assert resources[Key("volume", "lab", "fast/mine")].config["size"] == "20GiB"
        for taken in (
            machine(persistent_data=(PersistentData("p", "/srv/p", "/root/.ollama"),)),
            machine(shares=(SharedMount("s", "/srv/s", "/root/.ollama", readonly=True),)),
            machine(devices={"d": {"type": "disk", "path": "/root/.ollama", "source": "/x"}}),
        ):
            assert key not in wanted(infra(taken), declared)
        profile = Profile("p", devices={"d": {"type": "disk", "path": "/root/.ollama", "source": "/x"}})
        by_profile = infra(machine(profiles=("default", "p")), profiles={"p": profile})
        assert key not in wanted(by_profile, declared)

    def test_volume_of_two_machines_is_one_and_shifted(self) -> None:
        volume = StorageVolume("both", "/data", "default")
        resources = wanted(infra(machine("one", volumes=(volume,)), machine("two", volumes=(volume,))))
        found = resources[Key("volume", "lab", "default/both")]
        assert found.machines == ("one", "two")
        assert found.config["security.shifted"] == "true"

    @pytest.mark.parametrize("text", ["true", "1", "Yes"])
    def test_volume_of_an_isolated_machine_is_shifted_whoever_isolates_it(self, text: str) -> None:
        volume, isolated = StorageVolume("own", "/data", "default"), {"security.idmap.isolated": text}
        by_itself = infra(machine(volumes=(volume,), config=isolated))
        by_profile = infra(
            machine(volumes=(volume,), profiles=("apart",)), profiles={"apart": Profile("apart", isolated)}
        )
        for file in (by_itself, by_profile):
            assert wanted(file)[Key("volume", "lab", "default/own")].config["security.shifted"] == "true"

    def test_data_and_shares_become_disks(self) -> None:
        own = machine(
            persistent_data=(PersistentData("notes", "/srv/notes", "/notes", readonly=True),),
            shares=(SharedMount("drop", "/srv/drop", "/drop", readonly=False, shift=False),),
        )
        devices = box(wanted(infra(own)))["devices"]
        assert devices["pd-notes"] == {
            "type": "disk",
            "source": "/srv/notes",
            "path": "/notes",
            "shift": "true",
            "readonly": "true",
        }
        assert devices["sv-drop"] == {"type": "disk", "source": "/srv/drop", "path": "/drop"}

    def test_long_device_names_stay_apart(self) -> None:
        names = ["v" * 70 + str(number) for number in range(3)]
        own = machine(volumes=tuple(StorageVolume(name, f"/{name}", "default") for name in names))
        devices = [name for name in box(wanted(infra(own)))["devices"] if name.startswith("vol-")]
        assert len(devices) == 3
        assert all(len(name) <= 63 for name in devices)

    def test_empty_variable_with_a_default_is_told_about(self) -> None:
        variables = {"greeting": {"default": "hello"}, "name": {"default": ""}}
        file = infra(machine(variables={"greeting": "", "name": ""}))
        found = desired(file, PlanContext(images={"box": image(variables=variables)}))
        (notice,) = found.notices
        assert "greeting stays at the image's default, hello" in notice

    def test_needs_come_first(self) -> None:
        resources = list(wanted(infra(machine(profiles=("default", "p")), profiles={"p": Profile("p")})).values())
        seen: set[Key] = set()
        for resource in resources:
            assert set(resource.needs) <= seen
            seen.add(resource.key)


class TestDifference:
    def plan(self, file: Infra, live: Live, **options: Any) -> dict[tuple[str, str], tuple[str, tuple[Change, ...]]]:
        plan = difference(wanted(file).values(), live, "demo", **options)
        assert not plan.conflicts
        return {(step.key.kind, step.key.name): (step.action, step.changes) for step in plan.todo}

    def test_what_is_there_needs_nothing(self) -> None:
        file = infra(machine(), machine("two", address="10.110.0.2"), profiles={"p": Profile("p", {"limits.cpu": "1"})})
        assert self.plan(file, as_made(wanted(file))) == {}
        assert len(self.plan(file, Live())) == len(wanted(file))

    @pytest.mark.parametrize(
        ("name", "action"),
        [
            ("limits.cpu", "change"),
            ("boot.autostart", "change"),
            ("security.protection.delete", "change"),
            ("user.anklume.greeting", "restart"),
            ("security.nesting", "restart"),
            ("nvidia.runtime", "restart"),
            ("raw.lxc", "restart"),
        ],
    )
    def test_what_a_running_machine_takes_and_what_restarts_it(self, name: str, action: str) -> None:
        file = infra(machine())
        key = Key("machine", "lab", "box")
        found = self.plan(file, changed(as_made(wanted(file)), key, **{name: "by-hand"}))
        assert found["machine", "box"][0] == action
        assert [change.key for change in found["machine", "box"][1]] == [f"config.{name}"]

    @pytest.mark.parametrize("name", ["volatile.eth0.hwaddr", "image.os", "user.comment"])
    def test_what_is_none_of_our_business(self, name: str) -> None:
        file = infra(machine())
        key = Key("machine", "lab", "box")
        assert self.plan(file, changed(as_made(wanted(file)), key, **{name: "x"})) == {}

    def test_profile_change_restarts_who_has_it(self) -> None:
        def file(value: str) -> Infra:
            profile = Profile("p", {"security.nesting": value})
            return infra(
                machine(profiles=("default", "p")), machine("two", address="10.110.0.2"), profiles={"p": profile}
            )

        found = self.plan(file("true"), as_made(wanted(file("false"))))
        assert {key: action for key, (action, _) in found.items()} == {
            ("profile", "p"): "change",
            ("machine", "box"): "restart",
        }
        # Also when the profile was changed, and its machine not restarted any more.
        half = as_made(wanted(file("false")))
        profile = Key("profile", "lab", "p")
        half = Live({**half.objects, profile: as_made(wanted(file("true"))).objects[profile]})
        assert {key: action for key, (action, _) in self.plan(file("true"), half).items()} == {
            ("machine", "box"): "restart"
        }

    def test_stopped_machine_is_started(self) -> None:
        file = infra(machine())
        live = as_made(wanted(file))
        objects = copy.deepcopy(dict(live.objects))
        objects[Key("machine", "lab", "box")]["status"] = "Stopped"
        assert self.plan(file, Live(objects)) == {("machine", "box"): ("start", ())}

    def test_bridge_that_was_never_finished_is_made_anew(self) -> None:
        file = infra(machine())
        objects = copy.deepcopy(dict(as_made(wanted(file)).objects))
        objects[Key("network", "default", "net-lab")]["status"] = "Pending"
        plan = difference(wanted(file).values(), Live(objects), "demo")
        assert [(step.key.name, step.action) for step in plan.todo] == [("net-lab", "replace")]
        assert not plan.interrupts

    def test_newer_image_waits(self) -> None:
        file = infra(machine())
        live = as_made(wanted(file))
        newer = list(wanted(file, {"box": image(2)}).values())
        plan = difference(newer, live, "demo")
        assert plan.todo == ()
        assert plan.waiting == (("box", "app@1.1", "app@1.2"),)
        plan = difference(newer, live, "demo", replace=True)
        assert [(step.key.kind, step.action) for step in plan.todo] == [("image", "create"), ("machine", "replace")]
        assert plan.interrupts
        assert plan.waiting == ()

    def test_image_of_a_remote_is_compared_by_name(self) -> None:
        file = infra(machine(image=ImageChoice(None, remote="images:debian/13")))
        live = as_made(wanted(file, {}))
        assert not difference(wanted(file, {}).values(), live, "demo").waiting
        other = infra(machine(image=ImageChoice(None, remote="images:debian/12")))
        plan = difference(wanted(other, {}).values(), live, "demo")
        assert plan.waiting == (("box", "images:debian/13", "images:debian/12"),)

    def test_foreign_things_are_conflicts_until_adopted(self) -> None:
        file = infra(machine())
        live = as_made(wanted(file))
        for key in live.objects:
            if key.kind == "image":
                continue
            for owner in (None, "another"):
                foreign = changed(live, key, **{OWNER: owner})
                plan = difference(wanted(file).values(), foreign, "demo")
                assert [conflict.key for conflict in plan.conflicts] == [key]
                assert ("--adopt" in plan.conflicts[0].hint) == (owner is None)
                adopting = difference(wanted(file).values(), foreign, "demo", adopt=True)
                assert bool(adopting.conflicts) == (owner is not None)

    def test_default_profile_of_our_own_project_is_ours(self) -> None:
        file = infra(machine(), profiles={"default": Profile("default", {"limits.cpu": "1"})})
        key = Key("profile", "lab", "default")
        live = changed(as_made(wanted(file)), key, **{OWNER: None})
        assert self.plan(file, live)["profile", "default"][0] == "change"
        foreign = changed(live, Key("project", "", "lab"), **{OWNER: None})
        assert {conflict.key for conflict in difference(wanted(file).values(), foreign, "demo").conflicts} == {
            key,
            Key("project", "", "lab"),
        }

    def test_subnet_in_use_is_a_conflict(self) -> None:
        file = infra(machine())
        bridge = {Key("network", "default", "other"): {"config": {"ipv4.address": "10.110.0.77/16"}}}
        assert "in use by network other" in difference(wanted(file).values(), Live(bridge), "demo").conflicts[0].message
        host = Live(host_networks=(("eth0", "10.110.0.9/24"),))
        assert "the host's interface eth0" in difference(wanted(file).values(), host, "demo").conflicts[0].message

    def test_a_bridge_that_moves_is_held_against_others_too(self) -> None:
        file = infra(machine())
        other = {Key("network", "default", "other"): {"config": {"ipv4.address": "10.110.0.77/16"}}}
        moving = changed(
            as_made(wanted(file)), Key("network", "default", "net-lab"), **{"ipv4.address": "10.9.0.254/24"}
        )
        plan = difference(wanted(file).values(), Live({**moving.objects, **other}), "demo")
        assert "in use by network other" in plan.conflicts[0].message

    def test_type_and_pool_stay_as_they_are(self) -> None:
        file = infra(machine())
        for changes in ({"type": "vm"}, {}):
            other = infra(machine(**changes), **({} if changes else {"storage_pool": "fast"}))
            images = {} if changes else None
            plan = difference(wanted(other, images).values(), as_made(wanted(file)), "demo")
            (conflict,) = plan.conflicts
            assert "cannot become" in conflict.message

    def test_a_copy_made_by_hand_is_not_ours(self) -> None:
        live = as_made(wanted(infra(machine())))
        key = Key("machine", "lab", "box")
        copies = {Key("machine", "lab", name): live.objects[key] for name in ("box-backup", "001-box")}
        found = [entry.name for entry in owned(Live({**live.objects, **copies}), "demo") if entry.kind == "machine"]
        assert found == ["001-box", "box"]

    def test_image_mark_tells_of_what_a_machine_was_made_of(self) -> None:
        file = infra(machine())
        live = changed(as_made(wanted(file)), Key("machine", "lab", "box"), **{IMAGE: "app@0.9"})
        assert self.plan(file, live)["machine", "box"][0] == "change"  # it is of this image by its bytes
        other = wanted(file, {"box": image(2)}).values()
        assert difference(other, live, "demo").todo == ()

    def test_orphans_are_ours_but_no_claims(self) -> None:
        file = infra(machine())
        live = as_made(wanted(file))
        gone = Key("profile", "lab", "gone")
        claim = Key("acl", "default", "gpu-claim-1")
        extra = {gone: {"config": {OWNER: "demo"}}, claim: {"config": {OWNER: "demo", CLAIM: "0000:01:00.0"}}}
        plan = difference(wanted(file).values(), Live({**live.objects, **extra}), "demo")
        assert plan.orphans == (gone,)

    def test_machines_that_give_up_a_wanted_address(self) -> None:
        def file(one: str, two: str) -> Infra:
            return infra(machine("one", address=one), machine("two", address=two))

        def moving(before: Infra, after: Infra) -> set[str]:
            plan = difference(wanted(after).values(), as_made(wanted(before)), "demo")
            return {step.key.name for step in plan.moving}

        assert moving(file("10.110.0.1", "10.110.0.2"), file("10.110.0.2", "10.110.0.1")) == {"one", "two"}
        assert moving(file("10.110.0.1", "10.110.0.2"), file("10.110.0.2", "10.110.0.3")) == {"two"}
        assert moving(file("10.110.0.1", "10.110.0.2"), file("10.110.0.3", "10.110.0.2")) == set()

    def test_a_machine_with_another_address_restarts_and_gives_that_up_first(self) -> None:
        file = infra(machine())
        key = Key("machine", "lab", "box")
        live = replace(as_made(wanted(file)), astray={key: "10.110.0.113"})
        plan = difference(wanted(file).values(), live, "demo")
        assert [(step.key, step.action) for step in plan.todo] == [(key, "restart")]
        assert [step.key for step in plan.moving] == [key]
        assert "    address: 10.110.0.113 → 10.110.0.1" in lines(plan)

    @pytest.mark.parametrize(
        ("owner", "protected", "words"),
        [
            ("demo", "true", "--prune --force-protected removes it"),
            ("demo", "1", "--prune --force-protected removes it"),
            ("demo", "false", "--prune removes it"),
            ("x", "true", "another"),
        ],
    )
    def test_an_address_that_a_machine_outside_the_file_has_is_a_conflict(
        self, owner: str, protected: str, words: str
    ) -> None:
        old, new = machine("old"), machine("new")
        config = {OWNER: owner, "security.protection.delete": protected}
        left = changed(as_made(wanted(infra(old))), Key("machine", "lab", "old"), **config)
        (conflict,) = difference(wanted(infra(new)).values(), left, "demo").conflicts
        assert conflict.key == Key("machine", "lab", "new")
        assert "10.110.0.1, which the instance old (project lab) has" in conflict.message
        assert words in conflict.hint

    def test_an_address_that_a_machine_gives_up_only_when_it_is_selected(self) -> None:
        before = infra(machine("one"))
        after = infra(machine("first"), machine("one", address="10.110.0.2"))
        resources, live = wanted(after).values(), as_made(wanted(before))
        assert difference(resources, live, "demo").conflicts == ()
        only = difference(resources, live, "demo", chosen=lambda resource: resource.machines == ("first",))
        assert len(only.conflicts) == 1

    def test_a_machine_that_runs_with_a_volume_which_another_joins_restarts(self) -> None:
        volume = StorageVolume("data", "/data", "default")
        one = machine("one", volumes=(volume,))
        two = machine("two", address="10.110.0.2", volumes=(volume,))
        resources, live = wanted(infra(one, two)).values(), as_made(wanted(infra(one)))
        plan = difference(resources, live, "demo")
        actions = {step.key.name: step.action for step in plan.todo if step.key.kind in ("machine", "volume")}
        assert actions == {"default/data": "change", "one": "restart", "two": "create"}
        assert plan.interrupts
        assert [step.key.name for step in plan.sharing] == ["one"]
        assert "    volumes.default/data: - → shared" in lines(plan)
        only = difference(resources, live, "demo", chosen=lambda resource: resource.machines == ("two",))
        assert "the instance one (project lab) runs with it" in only.conflicts[0].message

    def test_secret_is_in_neither_text_nor_json(self) -> None:
        variables = {"key": {"secret": True, "default": None}}
        file = infra(machine(variables={"key": "hush"}))
        before = wanted(file, {"box": image(variables=variables)})
        after = wanted(infra(machine(variables={"key": "quiet"})), {"box": image(variables=variables)})
        plan = difference(after.values(), as_made(before), "demo")
        said = "\n".join(lines(plan)) + str(document(plan))
        assert "user.anklume.key" in said
        assert "hush" not in said
        assert "quiet" not in said


TEXT = st.text(min_size=1, max_size=12)


@given(config=st.dictionaries(TEXT, TEXT, max_size=4), devices=st.dictionaries(TEXT, st.dictionaries(TEXT, TEXT)))
def test_whatever_is_made_needs_nothing_more(config: dict[str, str], devices: dict[str, dict[str, str]]) -> None:
    file = infra(machine(config=config, devices=devices))
    plan = difference(wanted(file).values(), as_made(wanted(file)), "demo")
    assert plan.todo == ()
    "\n".join(lines(difference(wanted(file).values(), Live(), "demo")))


def test_an_image_that_was_revoked_by_its_version_only_is_known_by_what_its_machine_says() -> None:
    entry = Revocation("box", "1.0", "amd64", "", "a hole", "2026-01-02T00:00:00Z")
    assert _is_of(entry, "f" * 64, "box@1.0", "amd64")
    assert not _is_of(entry, "f" * 64, "box@1.1", "amd64")
    assert not _is_of(entry, "f" * 64, "box@1.0", "arm64")
    assert not _is_of(replace(entry, fingerprint="e" * 64), "f" * 64, "box@1.0", "amd64")


def test_a_revoked_model_is_brought_into_no_volume_and_told_of_where_it_is() -> None:
    models = [WantedModel(name, 1, (ModelFile(f"{name}.gguf", name[0] * 64, 1),)) for name in ("a", "b")]
    volume = Resource(Key("models", "lab", "default/llm"), {}, models=tuple(models))
    revoked = [Revocation("a", "", "", "a" * 64, "it lies", "2026-01-02T00:00:00Z")]
    with pytest.raises(RevokedError, match="volume default/llm would get it: a was revoked on 2026-01-02: it lies"):
        heed([step_for(volume, None)], Live(), revoked)
    other_is_missing = step_for(volume, {"missing": {"b.gguf"}})
    assert other_is_missing.action == "change"
    (told,) = heed([other_is_missing], Live(), revoked)
    assert told.startswith("volume default/llm has it: a was revoked")
