"""The resource policy: who gets how much of the host."""

from __future__ import annotations

from typing import Any

import pytest

from anklume_images.errors import AnklumeError
from launcher.infra.model import Domain, ImageChoice, Infra, Machine, Profile, ResourcePolicy, Settings
from launcher.plan.limits import Capacity, limits_of

HOST = Capacity(10, 100 << 30)
GIB = 1024


def infra(policy: ResourcePolicy | None, **machines: dict[str, Any]) -> Infra:
    made = {
        name: Machine(name, "lab", "10.1.0.1", ImageChoice("x"), "f:1:1", **changes)
        for name, changes in machines.items()
    }
    profiles = {"big": Profile("big", {"limits.cpu": "4", "limits.memory": "40GiB"})}
    domain = Domain("lab", "10.1.0.0/24", "10.1.0.254", "f:1:1", profiles=profiles, machines=made)
    return Infra("infra.yml", "demo", Settings(resource_policy=policy), {"lab": domain})


def test_no_policy_no_limits() -> None:
    assert limits_of(infra(None, a={}), HOST).config == {}


def test_shares_follow_weights() -> None:
    found = limits_of(infra(ResourcePolicy(), a={"weight": 3}, b={}), HOST).config
    assert found["a"] == {
        "limits.cpu.allowance": "60%",
        "limits.memory": f"{60 * GIB}MiB",
        "limits.memory.enforce": "soft",
    }
    assert (found["b"]["limits.cpu.allowance"], found["b"]["limits.memory"]) == ("20%", f"{20 * GIB}MiB")


def test_equal_shares_by_count_and_hard() -> None:
    policy = ResourcePolicy(mode="equal", cpu_mode="count", memory_enforce="hard")
    found = limits_of(infra(policy, a={"weight": 3}, b={}), HOST).config
    assert found["a"] == found["b"] == {"limits.cpu": "4", "limits.memory": f"{40 * GIB}MiB"}


def test_reserve_in_numbers() -> None:
    policy = ResourcePolicy(reserve_cpu="4", reserve_memory="36GiB")
    found = limits_of(infra(policy, a={}), HOST).config["a"]
    assert (found["limits.cpu.allowance"], found["limits.memory"]) == ("60%", f"{64 * GIB}MiB")


@pytest.mark.parametrize(
    "own",
    [
        {"config": {"limits.cpu": "4", "limits.memory": "40GiB"}},
        {"config": {"limits.cpu": "0-3", "limits.memory": "40%"}},
        {"config": {"limits.cpu.allowance": "40%", "limits.memory": "40GiB"}},
        {"config": {"limits.cpu.allowance": "40ms/10ms", "limits.memory": "40GiB"}},
        {"profiles": ("default", "big")},
    ],
)
def test_own_limits_are_kept_and_taken_off_first(own: dict[str, Any]) -> None:
    found = limits_of(infra(ResourcePolicy(), a=own, b={}), HOST).config
    assert "a" not in found
    assert (found["b"]["limits.cpu.allowance"], found["b"]["limits.memory"]) == ("40%", f"{40 * GIB}MiB")


def test_too_much_is_refused_unless_allowed() -> None:
    own = {"config": {"limits.cpu": "9", "limits.memory": "90GiB"}}
    with pytest.raises(AnklumeError, match=r"9 CPUs; 8 are available.*90.0 GiB of memory; 80.0 GiB"):
        limits_of(infra(ResourcePolicy(), a=own), HOST)
    found = limits_of(infra(ResourcePolicy(overcommit=True), a=own, b={}), HOST)
    assert len(found.notices) == 2
    assert found.config["b"]["limits.cpu.allowance"] == "1%"
    assert found.config["b"]["limits.memory"] == "64MiB"


def test_a_vm_gets_whole_cpus() -> None:
    found = limits_of(infra(ResourcePolicy(), a={"type": "vm"}), HOST).config["a"]
    assert found == {"limits.cpu": "8", "limits.memory": f"{80 * GIB}MiB"}
