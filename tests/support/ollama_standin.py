"""A stand-in for Ollama's release: a tarball of the same layout whose server speaks enough of the same interface.

The release itself is 1.4 GB from a host that tests do not ask. The stand-in's `ollama` is a Perl program, as every
Debian has Perl: it serves, pulls (a manifest over plain HTTP, nothing more), lists, and keeps its key and models where
Ollama does. Its runners are empty words.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import io
import shutil
import tarfile
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from anklume_images.builder.sandbox import Job, Mount, Step, run_job
from anklume_images.pipeline import Pipeline
from anklume_images.settings import load_settings
from anklume_images.specs.catalog import Catalog, builtin_specs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from anklume_images.store.images import Image

VERSION = "0.32.7-stand-in"
NAME = "ollama-linux-{}.tar.zst"
NOWHERE = "http://127.0.0.1:1/stand-in"
PINNED = {  # as the spec pins the release
    "amd64": "ed1e39fe8fea90bd7f4c723bd949a2cea3153e111220ec0a183ea5b8dc8b2cae",
    "arm64": "413cb50f2fd201b65e17e563c082607bc0ade60d700132c563c7a1c0cd529fde",
}
LIBRARIES = (
    "libggml-base.so libggml-cpu-haswell.so llama-server cuda_v12/libggml-cuda.so cuda_v12/libcublas.so.12 "
    "cuda_v13/libggml-cuda.so vulkan/libggml-vulkan.so vulkan/libvulkan.so.1"
)
PROGRAM = r"""#!/usr/bin/perl
# A stand-in for Ollama.
use strict;
use warnings;
use File::Path qw(make_path);
use IO::Socket::IP;

my $version = "VERSION";
my $home = $ENV{HOME} // die 'Error: $HOME is not defined';
my $models = $ENV{OLLAMA_MODELS} || "$home/.ollama/models";
my ($host, $port) = address($ENV{OLLAMA_HOST} // "");
my $command = shift // "";
$| = 1;

if ($command eq "serve") { serve() }
elsif ($command eq "list") { print map { "$_\n" } names() }
elsif ($command eq "pull") { my $error = pull(shift); die "Error: $error\n" if $error }
elsif ($command eq "--version") { print "ollama version is $version\n" }
else { die "Error: unknown command \"$command\" for \"ollama\"\n" }

sub address {
    my ($text) = @_;
    $text =~ s{^\w+://}{};
    $text =~ s{/.*$}{};
    return ($1 || "127.0.0.1", $2) if $text =~ /^\[?([^\]]*?)\]?:(\d+)$/;
    return ($text || "127.0.0.1", 11434);
}

sub serve {
    local $SIG{CHLD} = "IGNORE";
    key();
    make_path("$models/manifests", "$models/blobs");
    my $server = IO::Socket::IP->new(LocalHost => $host, LocalPort => $port, Listen => 16, ReuseAddr => 1)
        or die "Error: listen tcp $host:$port: $@\n";
    print "Listening on $host:$port (version $version)\n";
    # As Ollama tells of the devices that it will compute on.
    my $library = on_card() ? "CUDA" : "cpu";
    print qq(level=INFO source=types.go:42 msg="inference compute" id=0 library=$library compute="" name=stand-in\n);
    while (my $client = $server->accept) {
        next if fork;
        answer($client);
        exit 0;
    }
}

# The runtime's stand-in brings no library but nvidia-smi.
sub on_card {
    my $driver = -x "/usr/bin/nvidia-smi" || `/usr/sbin/ldconfig -p` =~ /libcuda\.so\.1 /;
    return -e "/dev/nvidia0" && $driver;
}

# The model that answered last stays in memory: the card's, where there is one.
sub loaded {
    open my $file, "<", "/tmp/loaded" or return "";
    my $size = 325708676;
    return sprintf '{"name":"%s","size":%d,"size_vram":%d}', scalar(<$file>), $size, on_card() ? $size : 0;
}

sub key {
    my $path = "$home/.ollama/id_ed25519";
    return if -e $path;
    make_path("$home/.ollama");
    open my $random, "<", "/dev/urandom" or die;
    my $bytes = '';
    read $random, $bytes, 32;
    my $mask = umask 0077;
    write_file($path, unpack("H*", $bytes) . "\n");
    umask $mask;
    write_file("$path.pub", "ssh-ed25519 stand-in\n");
}

sub answer {
    my ($client) = @_;
    my ($method, $path) = split " ", <$client> // return;
    my $length = 0;
    while (my $line = <$client>) {
        last if $line =~ /^\r?$/;
        $length = $1 if $line =~ /^content-length:\s*(\d+)/i;
    }
    my $body = '';
    read $client, $body, $length;
    my ($name) = $body =~ /"model"\s*:\s*"((?:[^"\\]|\\.)*)"/;
    my ($status, $text) = (404, '404 page not found');
    if ($path eq "/") { ($status, $text) = (200, "Ollama is running") }
    if ($path eq "/api/version") { ($status, $text) = (200, qq({"version":"$version"})) }
    if ($path eq "/api/tags") {
        ($status, $text) = (200, '{"models":[' . join(",", map { qq({"name":"$_","model":"$_"}) } names()) . "]}");
    }
    if ($path eq "/api/show" and $method eq "POST") {
        my $known = grep { $_ eq canonical($name) } names();
        ($status, $text) = $known ? (200, '{"details":{}}') : (404, qq({"error":"model '$name' not found"}));
    }
    if ($path eq "/v1/models") {
        my $list = join(",", map { qq({"id":"$_","object":"model"}) } names());
        ($status, $text) = (200, qq({"object":"list","data":[$list]}));
    }
    if ($path eq "/api/ps") { ($status, $text) = (200, '{"models":[' . loaded() . "]}") }
    if ($path eq "/api/generate" and $method eq "POST") { ($status, $text) = generate($name, $body) }
    if ($path eq "/api/pull" and $method eq "POST") {
        my $error = pull($name);
        $error =~ s/(["\\])/\\$1/g;
        ($status, $text) = $error ? (500, qq({"error":"$error"})) : (200, '{"status":"success"}');
    }
    printf $client "HTTP/1.1 %d Stand-in\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
        $status, length $text, $text;
    close $client;
}

# It repeats what it is asked. A model called `too-large` fails as one does that the card has no room for.
sub generate {
    my ($name, $body) = @_;
    my $canonical = canonical($name);
    return (404, qq({"error":"model '$name' not found"})) unless grep { $_ eq $canonical } names();
    if ($canonical =~ /^too-large:/) {
        print "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 40960.00 MiB on device 0: ",
            "cudaMalloc failed: out of memory\n";
        return (500, '{"error":"llama runner process has terminated: cudaMalloc failed: out of memory"}');
    }
    write_file("/tmp/loaded", $canonical);
    my ($prompt) = $body =~ /"prompt"\s*:\s*"((?:[^"\\]|\\.)*)"/;
    return (200, qq({"model":"$canonical","response":"stand-in: $prompt","done":true,)
        . qq("eval_count":4,"eval_duration":2000000}));
}

sub parts {
    my ($name) = @_;
    $name =~ s{^\w+://}{};
    my @parts = split m{/}, $name;
    my ($model, $tag) = split /:/, pop @parts;
    my $space = pop(@parts) // "library";
    my $registry = pop(@parts) // "registry.ollama.ai";
    return ($registry, $space, $model, $tag // "latest");
}

sub canonical {
    my ($registry, $space, $model, $tag) = parts($_[0]);
    return "$model:$tag" if $registry eq "registry.ollama.ai" and $space eq "library";
    return "$registry/$space/$model:$tag";
}

sub names {
    return map { my $path = $_; $path =~ s{^\Q$models\E/manifests/}{}; $path =~ s{/([^/]*)$}{:$1}; canonical($path) }
        glob("$models/manifests/*/*/*/*");
}

sub pull {
    my ($registry, $space, $model, $tag) = parts($_[0]);
    my ($server, $number) = $registry =~ /^(.*):(\d+)$/ ? ($1, $2) : ($registry, 443);
    my $path = "/v2/$space/$model/manifests/$tag";
    my $socket = IO::Socket::IP->new(PeerHost => $server, PeerPort => $number, Timeout => 10)
        or return qq(pull model manifest: Get "https://$registry$path": dial tcp: $@);
    print $socket "GET $path HTTP/1.0\r\n\r\n";
    local $/;
    my ($head, $body) = split /\r\n\r\n/, <$socket> // "", 2;
    return "pull model manifest: file does not exist" unless ($head // "") =~ m{^HTTP/1\.\d 200 };
    make_path("$models/manifests/$registry/$space/$model");
    write_file("$models/manifests/$registry/$space/$model/$tag", $body);
    return "";
}

sub write_file {
    my ($path, $text) = @_;
    open my $file, ">", $path or die "Error: open $path: $!\n";
    print $file $text;
    close $file or die "Error: $path: $!\n";
}
""".replace("VERSION", VERSION)


def make_tarball(tree: Path, folder: Path) -> bytes:
    """The compressed tarball; `tree` is the unpacked toolchain, whose zstd does it in a sandbox at work in `folder`."""
    members = {"bin/ollama": PROGRAM.encode()}
    members |= {f"lib/ollama/{name}": f"a stand-in for {name}\n".encode() for name in LIBRARIES.split()}
    parents = {f"{parent}/" for name in members for parent in _parents(name)}
    work, stage = folder / "tarball", folder / "stage"
    work.mkdir()
    stage.mkdir()
    with tarfile.open(work / "ollama.tar", "w") as archive:
        for name in sorted({"./", *parents, *members}):
            member = tarfile.TarInfo(name)
            # Folders that a group may write to and that belong to somebody, as a release's may.
            member.uid = member.gid = 1001
            if name in members:
                member.size, member.mode = len(members[name]), 0o755
                archive.addfile(member, io.BytesIO(members[name]))
            else:
                member.type, member.mode = tarfile.DIRTYPE, 0o2775
                archive.addfile(member)
    job = Job(
        root=str(tree),
        stage=str(stage),
        log=str(folder / "zstd.log"),
        steps=(Step("compress", ("zstd", "-q", "/made/ollama.tar")),),
        mounts=(Mount("/made", str(work), writable=True),),
    )
    outcome = run_job(job)
    assert outcome.ok, (folder / "zstd.log").read_text()
    return (work / "ollama.tar.zst").read_bytes()


def _parents(name: str) -> list[str]:
    parts = name.split("/")[:-1]
    return ["/".join(parts[:length]) for length in range(1, len(parts) + 1)]


@contextlib.contextmanager
def serve_release(folder: Path, tarball: bytes) -> Iterator[str]:
    """A web server on loopback that has the release's files as upstream has; its address."""
    release = folder / "v0.32.7"
    release.mkdir(parents=True)
    for architecture in PINNED:
        (release / NAME.format(architecture)).write_bytes(tarball)
    digest = hashlib.sha256(tarball).hexdigest()
    (release / "sha256sum.txt").write_text("".join(f"{digest}  ./{NAME.format(name)}\n" for name in PINNED))
    handler = functools.partial(_Quiet, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def build_images(pipeline: Pipeline, tarball: bytes, folder: Path, names: Sequence[str]) -> dict[str, Image]:
    """Images of the stand-in, `ollama` and `ollama-cpu`, locked and built as the real ones are."""
    with serve_release(folder / "upstream", tarball) as address:
        catalog = Catalog.load([copy_spec(folder / "specs", tarball), builtin_specs()])
        settings = load_settings()
        settings = dataclasses.replace(settings, mirrors={**settings.mirrors, "ollama": (address,)})
        own = Pipeline(pipeline.store, catalog, settings, pipeline.options, pipeline._console)
        for name in names:
            own.lock(name)
        results = {result.name: result for result in own.build(list(names))}
    found = {}
    for name, result in results.items():
        assert result.image is not None, result.error
        found[name] = result.image
    return found


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def copy_spec(folder: Path, tarball: bytes) -> Path:
    """A folder of specs with Ollama's own, of which only version, upstream and hashes are the stand-in's.

    The upstream that it names is never there: a served release comes in as a mirror of the settings.
    """
    target = folder / "ollama"
    shutil.copytree(builtin_specs() / "ollama", target, ignore=shutil.ignore_patterns("lock*.json"))
    text = (target / "spec.yml").read_text()
    replaced = {
        'version: "0.32.7"': f'version: "{VERSION}"',
        "https://github.com/ollama/ollama/releases/download": NOWHERE,
        **dict.fromkeys(PINNED.values(), hashlib.sha256(tarball).hexdigest()),
    }
    for old, new in replaced.items():
        assert old in text, f"the spec has no {old} any more"
        text = text.replace(old, new)
    (target / "spec.yml").write_text(text)
    return folder
