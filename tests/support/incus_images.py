"""A tiny container image made of a tree's own files, and variants of it with other fingerprints."""

from __future__ import annotations

import io
import shutil
import tarfile
import uuid
from typing import TYPE_CHECKING

from anklume_images.ship.publish import ImageFiles
from anklume_images.store.images import fingerprint

if TYPE_CHECKING:
    from pathlib import Path

    from launcher.private_incus.daemon import PrivateIncus

PROGRAMS = "sh sleep cat ls id stat true false seq stty timeout ip perl"
# Ends on the signal by which LXC asks for a shutdown; asks for an address as other machines do.
INIT = """#!/bin/sh
trap 'exit 0' PWR
[ ! -e /sys/class/net/eth0 ] || perl /usr/sbin/dhcp &
while :; do sleep 1 & wait; done
"""
# A DHCP client (RFC 2131): discover, offer, request, acknowledgement; it takes an address once and renews none.
DHCP = r"""use strict; use Socket;
sub run { system("ip", @_) == 0 or die "ip @_" }
run("link", "set", "lo", "up"); run("link", "set", "eth0", "up");
open(my $file, "<", "/sys/class/net/eth0/address") or die; my $mac = pack("H12", <$file> =~ tr/0-9a-f//cdr);
socket(my $udp, PF_INET, SOCK_DGRAM, 17) or die;
setsockopt($udp, SOL_SOCKET, SO_BROADCAST, 1); setsockopt($udp, SOL_SOCKET, 25, "eth0\0");  # SO_BINDTODEVICE
bind($udp, sockaddr_in(68, INADDR_ANY)) or die "bind: $!";
sub ask {
    my ($kind, @options) = @_;
    my $body = join "", map { pack("CC/a*", @$_) } [53, chr $kind], @options, [55, "\1\3"];
    my $packet = pack("C4NnnN4a16x192N", 1, 1, 6, 0, $$, 0, 0x8000, 0, 0, 0, 0, $mac, 0x63825363) . $body . "\xff";
    send($udp, $packet, 0, sockaddr_in(67, INADDR_BROADCAST));
    while (1) {
        my $ready = ""; vec($ready, fileno($udp), 1) = 1;
        return unless select($ready, undef, undef, 0.5);
        recv($udp, my $answer, 1500, 0);
        next unless unpack("N", substr($answer, 4, 4)) == $$ && substr($answer, 28, 6) eq $mac;
        my ($rest, %got) = (substr($answer, 240), address => substr($answer, 16, 4));
        while (length $rest && ord($rest) != 255) {
            my ($code, $value) = unpack("CC/a", $rest);
            $got{$code} = $value; substr($rest, 0, 2 + length $value) = "";
        }
        return %got;
    }
}
for (1 .. 60) {
    my %offer = ask(1); %offer or print(STDERR "dhcp: no offer\n"), next;
    my %lease = ask(3, [50, $offer{address}], [54, $offer{54}]); %lease or print(STDERR "dhcp: no answer\n"), next;
    ord($lease{53}) == 5 or print(STDERR "dhcp: refused\n"), next;
    run("address", "add", inet_ntoa($lease{address}) . "/" . unpack("%32b*", $lease{1}), "dev", "eth0");
    run("route", "add", "default", "via", inet_ntoa($lease{3}));
    last;
}
"""
MAKE_ROOTFS = f"""
set -e
cd /tmp; mkdir r; cd r
mkdir -p usr/bin usr/sbin usr/lib usr/lib64 etc dev proc sys run tmp root var
ln -s usr/bin usr/sbin usr/lib usr/lib64 .
for program in {PROGRAMS}; do cp -L /usr/bin/$program usr/bin/; done
for program in usr/bin/*; do ldd $program | grep -o '/[^ ]*'; done | sort -u |
  while read library; do cp -L --parents $library .; done
cp -r --parents /usr/lib/*/perl-base .
cat > usr/sbin/init; chmod 755 usr/sbin/init
cat > usr/sbin/dhcp <<'END'
{DHCP}END
echo root:x:0:0:root:/root:/bin/sh > etc/passwd; echo root:x:0: > etc/group
chown -R 0:0 .
mkdir -p root/models/sub; echo begun > root/models/sub/first; ln -s sub/first root/models/link
chmod 2750 root/models; chmod 600 root/models/sub/first; chown 33:44 root/models; chown 34:45 root/models/sub/first
mksquashfs . /srv/trial/tiny.squashfs -quiet -no-progress -comp zstd
rm -r /tmp/r
"""


def make_rootfs(incus: PrivateIncus, target: Path) -> Path:
    """Make the squashfs with the tree's own mksquashfs, inside."""
    incus.run(["sh", "-c", MAKE_ROOTFS], input=INIT.encode(), check=True)
    assert incus.home is not None
    shutil.move(incus.home / "tiny.squashfs", target)
    return target


def make_image(folder: Path, rootfs: Path, *, aliases: tuple[str, ...] = (), **properties: str) -> ImageFiles:
    """An image of that root file system with a fingerprint of its own."""
    serial = uuid.uuid4().hex
    text = f"architecture: x86_64\ncreation_date: 1700000000\nproperties:\n  os: tiny\n  serial: {serial}\n".encode()
    metadata = folder / f"{serial}.tar.gz"
    with tarfile.open(metadata, "w:gz") as archive:
        member = tarfile.TarInfo("metadata.yaml")
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text))
    return ImageFiles(metadata, rootfs, fingerprint(metadata, rootfs), aliases, properties)
