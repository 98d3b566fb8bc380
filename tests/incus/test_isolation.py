"""Who reaches whom, with real packets over TCP and UDP: between domains, within them, and the host."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.launching import Launcher

INFRA = """\
domains:
  dev:
    machines:
      c: {ephemeral: true}
      d: {ephemeral: true}
  web:
    trust_level: trusted
    machines:
      a: {ephemeral: true}
      b: {ephemeral: true}
  gone:
    enabled: false
    machines:
      z: {}
network_policies:
  - {description: a domain to a machine, from: dev, to: a, ports: [8080, 8081]}
  - {description: a machine to a machine, from: c, to: b, ports: [9000], protocol: udp}
  - {description: the host to a domain, from: host, to: web, ports: [7000]}
  - {description: a machine to the host, from: a, to: host, ports: [6000]}
  - {description: a domain to the host, from: web, to: host, ports: [6001], protocol: udp}
  - {description: both ways, from: d, to: b, ports: [5000], bidirectional: true}
  - {description: to what is not there, from: z, to: a, ports: all}
"""
PORTS = (5000, 6000, 6001, 7000, 8080, 8081, 9000)
ADDRESSES = {"a": "10.110.0.1", "b": "10.110.0.2", "c": "10.120.0.1", "d": "10.120.0.2"}
GATEWAYS = {"a": "10.110.0.254", "b": "10.110.0.254", "c": "10.120.0.254", "d": "10.120.0.254"}
FOREIGN = {"a": "10.120.0.254", "b": "10.120.0.254", "c": "10.110.0.254", "d": "10.110.0.254"}
ELSEWHERE = "10.209.0.1"  # the private Incus' own bridge
DOMAIN = {"a": "web", "b": "web", "c": "dev", "d": "dev"}
SECONDS = 2

# Answers every connection and every datagram with its own port.
SERVER = f"""
use IO::Socket::INET; use IO::Select;
my $all = IO::Select->new; my %udp;
for my $port ({", ".join(map(str, PORTS))}) {{
  $all->add(IO::Socket::INET->new(LocalPort => $port, Listen => 9, ReuseAddr => 1) or die "tcp $port: $!");
  my $socket = IO::Socket::INET->new(LocalPort => $port, Proto => "udp") or die "udp $port: $!";
  $udp{{$socket}} = 1; $all->add($socket);
}}
exit 0 if fork; open STDIN, "<", "/dev/null"; open STDOUT, ">", "/dev/null"; open STDERR, ">", "/dev/null";
$SIG{{ALRM}} = sub {{ exit 0 }}; alarm 120;
while (my @ready = $all->can_read) {{
  for my $socket (@ready) {{
    if ($udp{{$socket}}) {{ $socket->recv(my $text, 99); $socket->send("ok"); }}
    else {{ my $peer = $socket->accept or next; print $peer "ok"; close $peer; }}
  }}
}}
"""
# Tries everything that it is given at once and prints what answered.
PROBE = f"""
use IO::Socket::INET; use IO::Select;
my $all = IO::Select->new; my %what;
for (@ARGV) {{
  my ($protocol, $address, $port) = split /:/;
  my $socket = IO::Socket::INET->new(PeerAddr => $address, PeerPort => $port, Proto => $protocol, Blocking => 0)
    or next;
  $what{{$socket}} = $_; $all->add($socket); $socket->send("hello") if $protocol eq "udp";
}}
my $end = time + {SECONDS};
while ($all->count and time < $end) {{
  for my $socket ($all->can_read(0.2)) {{
    $all->remove($socket);
    my $text = "";
    print "$what{{$socket}}\\n" if defined $socket->sysread($text, 9) and $text eq "ok";
  }}
}}
"""


@pytest.mark.both_versions
def test_only_what_a_policy_names_gets_through(launcher: Launcher) -> None:
    launcher.write(INFRA)
    launcher("apply")
    for name in ADDRESSES:
        serving = launcher.execute(DOMAIN[name], name, "perl", "-e", SERVER)
        assert serving.code == 0, serving.stderr
    launcher.incus.run(["perl", "-e", SERVER], check=True)
    sources = (*ADDRESSES, "host")
    with ThreadPoolExecutor(len(sources)) as pool:
        answers = dict(zip(sources, pool.map(lambda source: probe(launcher, source), sources), strict=True))
    reached = {(source, *answer) for source in sources for answer in answers[source]}
    within = {
        (source, protocol, target, port)
        for source, target in itertools.permutations(ADDRESSES, 2)
        if DOMAIN[source] == DOMAIN[target]
        for protocol in ("tcp", "udp")
        for port in PORTS
    }
    assert within <= reached
    assert reached - within == {
        *(("c", "tcp", "a", port) for port in (8080, 8081)),
        *(("d", "tcp", "a", port) for port in (8080, 8081)),
        ("c", "udp", "b", 9000),
        ("d", "tcp", "b", 5000),
        ("b", "tcp", "d", 5000),
        ("host", "tcp", "a", 7000),
        ("host", "tcp", "b", 7000),
        *(("a", "tcp", end, 6000) for end in ("gateway", "other gateway", "a bridge not of ours")),
        # The other gateway's answer comes from this one's address, which the asker does not take for it.
        *((name, "udp", "gateway", 6001) for name in ("a", "b")),
    }
    # Names are still resolved by the bridge's own server.
    assert launcher.execute("dev", "c", "resolvectl", "query", "d.incus").code == 0


def test_no_machine_takes_another_ones_address(launcher: Launcher) -> None:
    launcher.write(
        """\
domains:
  dev: {machines: {c: {ephemeral: true}, d: {ephemeral: true}}}
  web: {machines: {a: {ephemeral: true}}}
network_policies: [{description: of c alone, from: c, to: a, ports: [8080]}]
"""
    )
    launcher("apply")
    a, c, d = (launcher.json("check")["machines"][name]["ip"] for name in "acd")
    assert launcher.execute("web", "a", "perl", "-e", SERVER).code == 0
    target = f"tcp:{a}:8080"
    assert launcher.execute("dev", "c", "perl", "-e", PROBE, target).stdout.decode().split() == [target]
    with launcher.client() as client:
        client.send("put", "instances/c/state", {"action": "stop", "force": True}, params={"project": "dev"})
    for command in (["add", f"{c}/24"], ["del", f"{d}/24"]):
        assert launcher.execute("dev", "d", "ip", "address", *command, "dev", "eth0").code == 0
    assert launcher.execute("dev", "d", "ip", "route", "replace", "default", "via", f"{d[:-1]}254").code == 0
    assert launcher.execute("dev", "d", "perl", "-e", PROBE, target).stdout == b""


def probe(launcher: Launcher, source: str) -> set[tuple[str, str, int]]:
    """What a machine, or the host, reaches: protocol, name and port."""
    targets = {address: name for name, address in ADDRESSES.items() if name != source}
    if source != "host":
        targets |= {GATEWAYS[source]: "gateway", FOREIGN[source]: "other gateway", ELSEWHERE: "a bridge not of ours"}
    wanted = [f"{protocol}:{target}:{port}" for protocol in ("tcp", "udp") for target in targets for port in PORTS]
    if source == "host":
        found = launcher.incus.run(["perl", "-e", PROBE, *wanted], capture_output=True, check=True).stdout
    else:
        found = launcher.execute(DOMAIN[source], source, "perl", "-e", PROBE, *wanted).stdout
    answers = [line.split(":") for line in found.decode().split()]
    return {(protocol, targets[address], int(port)) for protocol, address, port in answers}
