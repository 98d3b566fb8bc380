"""Packet filters as `nft --json list ruleset` and `iptables-save` list them, and what becomes of a packet in them.

Formats: libnftables-json(5), iptables-extensions(8). What is not understood of a rule may match or not, so a packet has
a set of possible fates; who asks whether it is dropped for sure is not misled by it.
"""

from __future__ import annotations

import fnmatch
import ipaddress
import json
import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

__all__ = [
    "IPTABLES",
    "LEGACY",
    "NFT",
    "Chain",
    "Packet",
    "Rule",
    "Table",
    "dropping_chains",
    "iptables_tables",
    "nft_tables",
]

NFT, IPTABLES, LEGACY = "nft", "iptables", "iptables-legacy"
ACCEPT, DROP, RETURN, CONTINUE = "accept", "drop", "return", "continue"
_ENDS = {"accept": ACCEPT, "drop": DROP, "reject": DROP, "return": RETURN, "continue": CONTINUE, "queue": ACCEPT}
_NEUTRAL = frozenset({"counter", "log", "comment", "notrack", "mangle", "set", "meta"})
_DEPTH = 16  # the kernel's own limit of jumps


@dataclass(frozen=True)
class Packet:
    """The first packet of a connection over IPv4, by its interfaces; `outgoing` is empty to the host itself."""

    incoming: str
    outgoing: str
    protocol: str
    source: str
    destination: str
    port: int


@dataclass(frozen=True)
class Rule:
    """Conditions (each says yes, no, or None for what is not understood) and what happens when all hold."""

    conditions: tuple[Callable[[Packet], bool | None], ...]
    verdict: str
    target: str = ""
    goto: bool = False


@dataclass(frozen=True)
class Chain:
    """A chain; `hook` is empty for one that only others jump to."""

    name: str
    hook: str = ""
    policy: str = ACCEPT
    rules: tuple[Rule, ...] = ()


@dataclass(frozen=True)
class Table:
    """A table of chains; `tool` is the program that changes it: nft, or a form of iptables."""

    tool: str
    name: str
    chains: Mapping[str, Chain] = field(default_factory=dict)


def dropping_chains(tables: Iterable[Table], hook: str, packet: Packet) -> Iterator[tuple[Table, Chain]]:
    """The base chains at a hook that drop a packet for sure; one suffices, whatever the others accept."""
    for table in tables:
        for chain in table.chains.values():
            if chain.hook == hook and _fates(table, chain, packet, 0) == {DROP}:
                yield table, chain


def _fates(table: Table, chain: Chain, packet: Packet, depth: int) -> set[str]:
    outcomes: set[str] = set()
    for rule in chain.rules:
        answers = [_answer(condition, packet) for condition in rule.conditions]
        if False in answers:
            continue
        fates = _fate(table, rule, packet, depth)
        outcomes |= fates - {CONTINUE}
        if CONTINUE not in fates and None not in answers:
            return outcomes
    return outcomes | {chain.policy if chain.hook else RETURN}


def _answer(condition: Callable[[Packet], bool | None], packet: Packet) -> bool | None:
    try:
        return condition(packet)
    except (LookupError, TypeError, ValueError):  # of a version that says it otherwise
        return None


def _fate(table: Table, rule: Rule, packet: Packet, depth: int) -> set[str]:
    if not rule.target:
        return {rule.verdict}
    chain = table.chains.get(rule.target)
    if chain is None or depth >= _DEPTH:
        return {ACCEPT, CONTINUE}  # not known
    fates = _fates(table, chain, packet, depth + 1)
    if RETURN in fates:
        fates = fates - {RETURN} | {RETURN if rule.goto else CONTINUE}
    return fates


# nft


def nft_tables(text: str, *, without: Iterable[str] = ()) -> list[Table]:
    """The tables for IPv4 of a listing by nft, without some by name (those of iptables: `ip filter`, …)."""
    entries = json.loads(text).get("nftables") or []
    chains: dict[str, dict[str, dict[str, Any]]] = {}
    rules: dict[tuple[str, str], list[Rule]] = {}
    for entry in entries:
        kind, content = next(iter(entry.items()))
        name = f"{content.get('family')} {content.get('table')}"
        if content.get("family") not in ("ip", "inet") or name in without:
            continue
        if kind == "chain":
            chains.setdefault(name, {})[content["name"]] = content
        elif kind == "rule":
            rules.setdefault((name, content["chain"]), []).extend(_nft_rules(content.get("expr") or []))
    return [
        Table(
            NFT,
            table,
            {
                name: Chain(
                    name, chain.get("hook", ""), chain.get("policy", ACCEPT), tuple(rules.get((table, name), ()))
                )
                for name, chain in by_name.items()
            },
        )
        for table, by_name in chains.items()
    ]


def _nft_rules(expressions: list[dict[str, Any]]) -> Iterator[Rule]:
    """A rule; one with a map of verdicts becomes a rule for each of its entries."""
    conditions: list[Callable[[Packet], bool | None]] = []
    for expression in expressions:
        kind, content = next(iter(expression.items()))
        if kind == "match":
            conditions.append(_nft_match(content))
        elif kind in ("jump", "goto"):
            yield Rule(tuple(conditions), "", content["target"], kind == "goto")
        elif kind in _ENDS:
            yield Rule(tuple(conditions), _ENDS[kind])
        elif kind == "vmap":
            data = content.get("data")
            for value, verdict in data.get("set") or [] if isinstance(data, dict) else []:
                match = _nft_match({"op": "==", "left": content["key"], "right": value})
                yield from _nft_with((*conditions, match), verdict)
        elif kind not in _NEUTRAL:
            conditions.append(_unknown)


def _nft_with(conditions: tuple[Callable[[Packet], bool | None], ...], verdict: dict[str, Any]) -> Iterator[Rule]:
    for rule in _nft_rules([verdict]):
        yield Rule(conditions, rule.verdict, rule.target, rule.goto)


def _unknown(_packet: Packet) -> bool | None:
    return None


def _nft_match(match: dict[str, Any]) -> Callable[[Packet], bool | None]:
    operator, left, right = match.get("op"), match.get("left"), match.get("right")

    def holds(packet: Packet) -> bool | None:
        values = _nft_values(left, packet)
        if values is None:
            return None
        if not values:  # of another protocol, or without any such state
            return operator == "!=" and isinstance(left, dict) and "ct" in left
        answer = _any(_is(value, right) for value in values)
        if operator == "!=":
            return None if answer is None else not answer
        return answer if operator in ("==", "in") else None

    return holds


def _nft_values(left: Any, packet: Packet) -> tuple[str, ...] | None:
    """What a packet has there; none at all when it is of another kind, None when that is not known."""
    kind, content = next(iter(left.items())) if isinstance(left, dict) else ("", {})
    if kind == "meta":
        known = {
            "iifname": packet.incoming,
            "iif": packet.incoming,
            "oifname": packet.outgoing,
            "oif": packet.outgoing,
            "l4proto": packet.protocol,
            "nfproto": "ipv4",
            "protocol": "ip",
        }
        return (known[content["key"]],) if content["key"] in known else None
    if kind == "ct":
        return {"state": ("new",), "status": ()}.get(content["key"])
    return _payload(content["protocol"], content["field"], packet) if kind == "payload" else None


def _payload(protocol: str, name: str, packet: Packet) -> tuple[str, ...] | None:
    if protocol == "ip":
        known = {"saddr": packet.source, "daddr": packet.destination, "protocol": packet.protocol}
        return (known[name],) if name in known else None
    if protocol in ("th", packet.protocol):
        return (str(packet.port),) if name == "dport" else None
    return ()  # another protocol's


def _is(value: str, right: Any) -> bool | None:
    kind: str = ""
    content: Any = right
    if isinstance(right, dict):
        kind, content = next(iter(right.items()))
    if kind == "range":
        return _between(value, *content)
    if kind == "prefix":
        return _within(value, f"{content['addr']}/{content['len']}")
    if kind not in ("", "set") or (isinstance(content, str) and content.startswith("@")):
        return None
    if isinstance(content, list):
        return _any(_is(value, entry) for entry in content)
    return fnmatch.fnmatchcase(value, str(content))


def _between(value: str, low: Any, high: Any) -> bool | None:
    if value.isdigit():
        return int(low) <= int(value) <= int(high)
    return ipaddress.IPv4Address(low) <= ipaddress.IPv4Address(value) <= ipaddress.IPv4Address(high)


def _within(address: str, network: str) -> bool:
    return ipaddress.IPv4Address(address) in ipaddress.ip_network(network)


def _any(answers: Iterable[bool | None]) -> bool | None:
    answers = list(answers)
    return True if True in answers else None if None in answers else False


# iptables


def iptables_tables(text: str, tool: str = IPTABLES) -> list[Table]:
    """The table `filter` of a listing by iptables-save; others drop nothing in practice."""
    chains: dict[str, tuple[str, list[Rule]]] = {}
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
        elif table == "filter" and line.startswith(":"):
            name, policy, *_ = line[1:].split()
            chains[name] = (policy, [])
        elif table == "filter" and line.startswith("-A "):
            words = shlex.split(line)
            chains.setdefault(words[1], ("-", []))[1].append(_iptables_rule(words[2:]))
    hooks = {"INPUT": "input", "FORWARD": "forward", "OUTPUT": "output"}
    made = {
        name: Chain(name, hooks.get(name, ""), DROP if policy == "DROP" else ACCEPT, tuple(rules))
        for name, (policy, rules) in chains.items()
    }
    return [Table(tool, "filter", made)] if made else []


_ANY_MODULE = frozenset({"conntrack", "state", "comment", "tcp", "udp", "multiport"})


def _iptables_rule(words: list[str]) -> Rule:
    conditions: list[Callable[[Packet], bool | None]] = []
    verdict, target, goto = CONTINUE, "", False
    ended = negated = False
    position = 0
    while position < len(words):
        word = words[position]
        value = words[position + 1] if position + 1 < len(words) else ""
        position += 1
        if word == "!":
            negated = True
            continue
        if word in ("-j", "-g"):
            goto = word == "-g"
            verdict, target = _iptables_target(value)
            ended = True
            position += 1
        elif word.startswith("-") and not ended:  # what follows a target are its own options
            conditions.append(_iptables_condition(word, value, negated=negated))
            position += 1
        negated = False
    return Rule(tuple(conditions), verdict, target, goto)


def _iptables_target(name: str) -> tuple[str, str]:
    if name in ("ACCEPT", "DROP", "REJECT", "RETURN"):
        return _ENDS[name.lower()], ""
    if name in ("LOG", "NFLOG", "MARK", "CONNMARK", "TCPMSS", "CT", "CHECKSUM"):
        return CONTINUE, ""
    return "", name


def _iptables_condition(option: str, value: str, *, negated: bool) -> Callable[[Packet], bool | None]:
    def holds(packet: Packet) -> bool | None:
        answer = _iptables_holds(option, value, packet)
        return answer if answer is None else answer != negated

    return holds


def _iptables_holds(option: str, value: str, packet: Packet) -> bool | None:
    known: dict[str, Callable[[], bool | None]] = {
        "-i": lambda: fnmatch.fnmatchcase(packet.incoming, value.replace("+", "*")),
        "-o": lambda: fnmatch.fnmatchcase(packet.outgoing, value.replace("+", "*")),
        "-p": lambda: value in (packet.protocol, "all"),
        "-s": lambda: _within(packet.source, value),
        "-d": lambda: _within(packet.destination, value),
        "--dport": lambda: _port(packet.port, value),
        "--dports": lambda: _any(_port(packet.port, text) for text in value.split(",")),
        "--ctstate": lambda: "NEW" in value.split(","),
        "--state": lambda: "NEW" in value.split(","),
        "--comment": lambda: True,
        "-m": lambda: True if value in _ANY_MODULE else None,
    }
    return known[option]() if option in known else None


def _port(port: int, text: str) -> bool:
    low, _, high = text.partition(":")
    return int(low or 0) <= port <= int(high or low)
