"""Which machines `--only` and `--tags` mean."""

from __future__ import annotations

import pytest

from launcher.infra.selection import SelectionError, selected
from tests.unit.look import infra, machine

BRAIN = machine("brain", "ai", tags=("llm",))
HELPER = machine("helper", "ai", 2, tags=("base",))
WEBUI = machine("webui", "web", tags=("llm", "web"))
OFF = machine("off", "asleep")
FILE = infra(BRAIN, HELPER, WEBUI, OFF, disabled=("asleep",))


def names(*only: str, tags: tuple[str, ...] = ()) -> list[str]:
    return [one.name for one in selected(FILE, only, tags)]


def test_everything_of_enabled_domains_when_nothing_is_named() -> None:
    assert names() == ["brain", "helper", "webui"]


def test_names_of_machines_and_domains_in_file_order_and_once() -> None:
    assert names("webui", "brain") == ["brain", "webui"]
    assert names("ai", "brain") == ["brain", "helper"]


def test_tags_and_names_narrow_each_other() -> None:
    assert names(tags=("llm",)) == ["brain", "webui"]
    assert names(tags=("web", "base")) == ["helper", "webui"]
    assert names("ai", tags=("llm",)) == ["brain"]
    assert names("helper", tags=("web",)) == []


@pytest.mark.parametrize(
    ("only", "tags", "said"),
    [
        (("brian",), (), "no machine and no domain is called 'brian' (did you mean 'brain'?)"),
        (("wbe",), (), "(did you mean 'web'?)"),
        (("zzz",), (), "no machine and no domain is called 'zzz'"),
        ((), ("lm",), "no machine has the tag 'lm' (did you mean 'llm'?)"),
        ((), ("gpu",), "no machine has the tag 'gpu' (there are: base, llm, web)"),
        (("asleep",), (), "the domain asleep is not enabled"),
        (("off",), (), "the machine off is in a domain that is not enabled"),
    ],
)
def test_what_is_not_there_is_told(only: tuple[str, ...], tags: tuple[str, ...], said: str) -> None:
    with pytest.raises(SelectionError) as caught:
        selected(FILE, only, tags)
    assert caught.value.message.endswith(said)
    assert (caught.value.where, caught.value.exit_code) == ("infra.yml", 2)


def test_every_unknown_name_is_told_at_once() -> None:
    with pytest.raises(SelectionError, match=r"'brian'.*'wbe'.*'lm'"):
        selected(FILE, ("brian", "ai", "wbe"), ("lm",))
