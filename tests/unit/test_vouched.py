"""What a plan need not read whole: it sees no less of what the file says, whenever the apply before it was cut off."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.infra.model import Infra, StorageVolume
from launcher.infra.names import APPLIED, OWNER
from launcher.observe.live import Live
from launcher.plan.difference import difference
from launcher.plan.vouched import to_read
from launcher.resources import Key, Resource
from tests.unit.test_plan import as_made, changed, infra, machine, wanted

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

ACL, NETWORK = Key("acl", "default", "anklume-lab"), Key("network", "default", "net-lab")
PROJECT, BOX = Key("project", "", "lab"), Key("machine", "lab", "box")
DATA = Key("volume", "lab", "default/data")


def file(
    *, size: str = "", path: str = "/data", shared: bool = False, isolated: bool = False, gateway: int = 254
) -> Infra:
    volume = (StorageVolume("data", path, "default", size),)
    config = {"security.idmap.isolated": "true"} if isolated else {}
    first = machine(volumes=volume, config=config)
    second = machine("two", address="10.110.0.2", volumes=volume if shared else ())
    made = infra(first, second)
    domain = replace(made.domains["lab"], gateway=f"10.110.0.{gateway}")
    return replace(made, domains={"lab": domain})


def by_name(live: Live) -> Live:
    """The same, when networks, ACLs and volumes are known by name only."""
    unread = frozenset(key for key in live.objects if key.kind in ("network", "acl", "volume"))
    objects = {key: found for key, found in live.objects.items() if key not in unread}
    return Live(objects, unread=unread)


def read(live: Live, whole: Live, keys: Collection[Key]) -> Live:
    """What reading some objects makes of it."""
    objects = {**live.objects, **{key: whole.objects[key] for key in keys}}
    return Live(objects, unread=live.unread - frozenset(keys))


def asked(now: Mapping[Key, Resource], live: Live) -> set[Key]:
    return set(to_read(now.values(), by_name(live), "demo"))


@pytest.mark.parametrize("options", [{}, {"size": "1GiB"}, {"shared": True}, {"isolated": True}], ids=str)
def test_nothing_is_read_of_what_is_as_it_was_applied(options: dict[str, Any]) -> None:
    now = wanted(file(**options))
    live = by_name(as_made(now))
    assert to_read(now.values(), live, "demo") == frozenset()
    plan = difference(now.values(), live, "demo")
    assert (plan.todo, len(plan.steps), plan.orphans) == ((), len(now), ())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"gateway": 253}, {ACL, NETWORK}),
        ({"size": "1GiB"}, {DATA}),
        ({"path": "/other"}, {DATA}),  # its description names it
        ({"shared": True}, {DATA}),
        ({"isolated": True}, {DATA}),
    ],
    ids=["gateway", "size", "path", "shared", "isolated"],
)
def test_what_the_file_says_otherwise_is_read(options: dict[str, Any], expected: set[Key]) -> None:
    assert asked(wanted(file(**options)), as_made(wanted(file()))) == expected


@pytest.mark.parametrize(
    ("key", "config", "expected"),
    [
        (PROJECT, {APPLIED: None}, {ACL, NETWORK}),  # of an older launcher, or cut off before it
        (PROJECT, {OWNER: "another"}, {ACL, NETWORK}),
        (BOX, {OWNER: None}, {DATA}),
        (BOX, {APPLIED: "0"}, {DATA}),
    ],
)
def test_who_has_no_word_vouches_for_nothing(key: Key, config: dict[str, str | None], expected: set[Key]) -> None:
    now = wanted(file(size="1GiB"))
    assert asked(now, changed(as_made(now), key, **config)) == expected


def test_a_volume_that_its_machine_does_not_have_is_read() -> None:
    now = wanted(file())
    live = as_made(now)
    without = copy.deepcopy(dict(live.objects))
    del without[BOX]["devices"]["vol-data"]
    assert asked(now, Live(without)) == {DATA}
    assert asked(now, live.without([BOX])) == {DATA}


def test_a_volume_whose_models_are_looked_for_is_read() -> None:
    now = wanted(file())
    models = Resource(DATA._replace(kind="models"), {}, needs=(DATA,))
    assert asked({**now, models.key: models}, as_made(now)) == {DATA}


def test_what_may_be_left_of_the_file_is_read_and_volumes_of_other_projects_are_not() -> None:
    now = wanted(file())
    objects = dict(as_made(now).objects)
    left = [
        Key("acl", "default", "anklume-old"),
        Key("network", "default", "net-old"),
        DATA._replace(name="default/old"),
    ]
    others = DATA._replace(project="default")
    objects |= {key: {"config": {OWNER: "demo"}} for key in (*left, others)}
    assert asked(now, Live(objects)) == set(left)


FILES = st.builds(
    file,
    size=st.sampled_from(["", "1GiB", "2GiB"]),
    path=st.sampled_from(["/data", "/other"]),
    shared=st.booleans(),
    isolated=st.booleans(),
    gateway=st.sampled_from([253, 254]),
)


@given(before=FILES, now=FILES, reached=st.sets(st.integers(0, 20)))
def test_a_quick_plan_says_of_the_file_what_a_deep_one_says_wherever_apply_was_cut_off(
    before: Infra, now: Infra, reached: set[int]
) -> None:
    old, new = as_made(wanted(before)).objects, as_made(wanted(now)).objects
    done: set[Key] = set()
    for number, resource in enumerate(wanted(now).values()):
        if number in reached and done.issuperset(resource.needs):
            done.add(resource.key)
    live = Live({**old, **{key: new[key] for key in done}})
    deep = difference(wanted(now).values(), live, "demo")
    names = by_name(live)
    quick = difference(wanted(now).values(), read(names, live, to_read(wanted(now).values(), names, "demo")), "demo")
    assert {step.key: (step.action, step.changes) for step in quick.todo} == {
        step.key: (step.action, step.changes) for step in deep.todo
    }
    assert quick.orphans == deep.orphans
