"""A machine that lacks its network after its start is started once more; what ran before is never stopped for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from anklume_images.console import Console
from anklume_images.errors import IncusError, IncusUnreachableError
from launcher.apply import run
from launcher.apply.health import UnhealthyError
from launcher.apply.steps import Context
from launcher.plan.difference import Action, Step
from launcher.resources import Key, Resource

if TYPE_CHECKING:
    from anklume_images.incus.client import Incus
    from anklume_images.store.images import Images
    from anklume_images.store.store import Store

BOX = Resource(Key("machine", "lab", "box"), {"devices": {}}, machines=("box",))


class Server:
    """Notes what is started and stopped."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def within(self, _project: str | None) -> Server:
        return self

    def find_object(self, _what: object) -> dict[str, str]:
        return {"status": "Running"}

    def set_instance_state(self, _what: object, state: str) -> None:
        self.calls.append(state)


def carried_out(
    monkeypatch: pytest.MonkeyPatch,
    action: Action,
    *,
    ill: int,
    daemon_ends: bool = False,
    has_no_network: bool = False,
) -> tuple[list[str], bool]:
    """What is called of the server, and whether the machine became healthy, when it is ill so many times."""
    server, breaks, illnesses = Server(), [daemon_ends], [ill]

    def step_once(*_arguments: object) -> None:
        if breaks.pop() if breaks else False:
            raise IncusUnreachableError("the connection broke off")

    def wait(*_arguments: object, **_keywords: object) -> float:
        illnesses[0] -= 1
        if illnesses[0] >= 0:
            raise UnhealthyError("box is not healthy", tail=[], hint="", has_no_network=has_no_network)
        return 1.0

    monkeypatch.setattr(run, "PAUSE_SECONDS", 0)
    monkeypatch.setattr(run, "label", lambda resource: resource.key.name)
    monkeypatch.setattr(run, "carry_out", step_once)
    monkeypatch.setattr(run, "step_for", lambda resource, _instance, **_keywords: Step(resource, "none"))
    monkeypatch.setattr(run, "wait_until_healthy", wait)
    monkeypatch.setattr(run, "stop", lambda incus, _key: incus.calls.append("stop"))
    step = Step(BOX, action)
    context = Context("demo", cast("Store", None), cast("Images", None))
    carrier = run._Run([step], {}, cast("Incus", server), context, Console(), wait=True, timeout=None)
    monkeypatch.setattr(carrier, "_connection", lambda: server)
    try:
        carrier._carry_out(step)
    except UnhealthyError:
        return server.calls, False
    return server.calls, True


@pytest.mark.parametrize("action", ["create", "start", "restart", "replace"])
@pytest.mark.parametrize("why", ["daemon_ends", "has_no_network"])
def test_what_was_being_started_is_started_once_more(monkeypatch: pytest.MonkeyPatch, action: Action, why: str) -> None:
    assert carried_out(monkeypatch, action, ill=1, **{why: True}) == (["stop", "start"], True)
    assert carried_out(monkeypatch, action, ill=2, **{why: True}) == (["stop", "start"], False)


@pytest.mark.parametrize("why", ["daemon_ends", "has_no_network"])
def test_nothing_else_is_stopped(monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    assert carried_out(monkeypatch, "change", ill=1, **{why: True}) == ([], False)
    assert carried_out(monkeypatch, "create", ill=0, **{why: True}) == ([], True)
    assert carried_out(monkeypatch, "create", ill=1) == ([], False)


@pytest.mark.parametrize("daemon_ends", [True, False])
def test_a_machine_that_the_old_daemon_had_noted_after_all(monkeypatch: pytest.MonkeyPatch, daemon_ends: bool) -> None:
    """It is not there when one looks, and there when it is made: then it is gone on with, unless nothing broke off."""
    exists = IncusError('Instance "box" already exists')
    answers = [IncusUnreachableError("the connection broke off"), exists, None] if daemon_ends else [exists]
    seen = [None, {"status": "Stopped"}]
    carried: list[Step] = []

    def step_once(step: Step, *_arguments: object) -> None:
        carried.append(step)
        if error := answers.pop(0):
            raise error

    monkeypatch.setattr(run, "PAUSE_SECONDS", 0)
    monkeypatch.setattr(run, "carry_out", step_once)
    monkeypatch.setattr(Server, "find_object", lambda *_arguments: seen.pop(0))
    monkeypatch.setattr(run, "step_for", lambda resource, _instance, **_keywords: Step(resource, "create"))
    step = Step(BOX, "create")
    context = Context("demo", cast("Store", None), cast("Images", None))
    carrier = run._Run([step], {}, cast("Incus", Server()), context, Console(), wait=True, timeout=None)
    if daemon_ends:
        assert carrier._persistently(step, cast("Incus", Server()))
        assert [(one.action, one.stopped) for one in carried] == [
            ("create", False),
            ("create", False),
            ("create", True),
        ]
    else:
        with pytest.raises(IncusError, match="already exists"):
            carrier._persistently(step, cast("Incus", Server()))
