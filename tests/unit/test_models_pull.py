"""Models out of registries, of a hub, and from addresses: verified, resumed, and nothing of what is wrong is kept."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from anklume_images.console import Console
from anklume_images.errors import AnklumeError, FetchError
from anklume_images.models.addresses import AddressError, HubFile, RegistryModel, WebFile, address_of
from anklume_images.models.importing import ModelNameError, import_file
from anklume_images.models.layout import as_manifest
from anklume_images.models.library import Models
from anklume_images.models.pulling import Wanted
from anklume_images.models.pulling import pull as pull_all
from anklume_images.settings import Settings
from anklume_images.store.gc import Wants, collect
from anklume_images.store.images import Images
from anklume_images.store.models import ModelRecords
from anklume_images.store.store import Store
from launcher.trial.tiny_gguf import tiny_gguf
from tests.support.faulty_mirror import Fault, FaultyMirror
from tests.support.model_registry import CONFIG, LICENSE, TEMPLATE, Registry, publish_at_hub, sha256
from tests.support.private_ca import PrivateCA

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from anklume_images.store.models import ModelRecord
    from tests.conftest import Cli

TINY, OTHER = tiny_gguf(), tiny_gguf(seed=2)
QUICK: dict[str, Any] = {"timeout": (1, 0.5), "attempts": 2}


@pytest.fixture(autouse=True)
def _own_configuration(no_proxy: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("anklume_images.inputs.transport.backoff", lambda *_: 0.0)


@pytest.fixture
def server() -> Iterator[FaultyMirror]:
    with FaultyMirror() as mirror:
        yield mirror


@pytest.fixture
def registry(server: FaultyMirror) -> Registry:
    return Registry(server)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def address(text: str, *, insecure: bool = True, **environ: str) -> Any:
    return address_of(text, insecure=insecure, environ=environ)


def pull(
    store: Store, text: str, *, name: str = "m", environ: dict[str, str] | None = None, **options: Any
) -> ModelRecord:
    known = {key: options.pop(key) for key in ("sha256", "license") if key in options}
    wanted = Wanted(address(text, **(environ or {})), name, **known)
    (record,) = pull_all(store, [wanted], Console(quiet=True), **{**QUICK, **options})
    return record


def nothing_is_there(store: Store) -> bool:
    return list(ModelRecords(store)) == [] and sha256(TINY) not in list(store.blobs)


# addresses


@pytest.mark.parametrize(
    ("text", "manifest"),
    [
        ("llama3.2:3b", "https://registry.ollama.ai/v2/library/llama3.2/manifests/3b"),
        ("llama3.2", "https://registry.ollama.ai/v2/library/llama3.2/manifests/latest"),
        ("user/m:x", "https://registry.ollama.ai/v2/user/m/manifests/x"),
        ("models.example/org/m:x", "https://models.example/v2/org/m/manifests/x"),
        ("models.example:5000/org/m", "https://models.example:5000/v2/org/m/manifests/latest"),
        ("hf.co/org/repo:Q4_K_M", "https://hf.co/v2/org/repo/manifests/Q4_K_M"),
        ("https://models.example/org/m:x", "https://models.example/v2/org/m/manifests/x"),
    ],
)
def test_names_of_registries(text: str, manifest: str) -> None:
    found = address(text, insecure=False)
    assert isinstance(found, RegistryModel)
    assert found.manifest == manifest


def test_files_of_a_hub_and_elsewhere() -> None:
    found = address("hf.co/org/repo/sub/Model-Q4.gguf", insecure=False)
    assert isinstance(found, HubFile)
    assert found.url == "https://huggingface.co/org/repo/resolve/main/sub/Model-Q4.gguf"
    assert found.name == "Model-Q4"
    old = address("hf.co/org/repo/m.gguf@abc123", insecure=False)
    assert old.url == "https://huggingface.co/org/repo/resolve/abc123/m.gguf"
    assert address("hf.co/o/r/m.gguf", insecure=False, HF_ENDPOINT="https://hub.example/").url == (
        "https://hub.example/o/r/resolve/main/m.gguf"
    )
    web = address("https://models.example/a/My%20Model.gguf?x=1", insecure=False)
    assert isinstance(web, WebFile)
    assert web.name == "My-Model"


@pytest.mark.parametrize(
    "text",
    [
        "http://models.example/org/m",
        "models.example:5000/m",
        "ftp://x/y.gguf",
        "a b",
        "a/b/c/d/e",
        "../x",
        "hf.co/org/m.gguf",
        "hf.co/o/../m.gguf",
        "",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(AddressError):
        address(text, insecure=False)


def test_a_hub_over_http_is_refused() -> None:
    with pytest.raises(AddressError):
        address("hf.co/o/r/m.gguf", insecure=False, HF_ENDPOINT="http://hub.example")


# a registry


def test_a_model_of_a_registry_with_all_that_goes_with_it(
    store: Store, registry: Registry, server: FaultyMirror
) -> None:
    manifest = registry.publish(TINY)
    record = pull(store, f"{registry.host}/library/m:1b", name=f"{registry.host}/library/m:1b")
    assert (record.sha256, record.size, record.license) == (sha256(TINY), len(TINY), "Apache License")
    assert record.source == f"{server.url}/v2/library/m/manifests/1b"
    assert set(store.blobs) == {sha256(content) for content in (TINY, CONFIG, LICENSE, TEMPLATE, manifest)}
    models = Models(store, [], Settings(), Console(quiet=True))
    model = models.model(record.name)
    files = as_manifest(model, record.name, store.blobs)
    assert files[-1].content == manifest
    assert files[-1].path == f"models/manifests/{registry.host}/library/m/1b"
    # Again: one question, and no blob.
    asked = len(server.requests)
    pull(store, f"{registry.host}/library/m:1b", name=record.name)
    assert len(server.requests) == asked + 1
    assert collect(store, Images(store), Wants()).removed == ()
    assert models.remove(record.name) > len(TINY)
    assert list(store.blobs) == []


def test_a_tag_that_moved_moves_here(store: Store, registry: Registry) -> None:
    registry.publish(TINY)
    pull(store, f"{registry.host}/library/m:1b")
    registry.publish(OTHER)
    assert pull(store, f"{registry.host}/library/m:1b").sha256 == sha256(OTHER)
    assert f"blob {sha256(TINY)}" in collect(store, Images(store), Wants()).removed
    with pytest.raises(FetchError, match="another file") as failed:
        pull(store, f"{registry.host}/library/m:1b", sha256=sha256(TINY))
    assert failed.value.changed == ("m",)


def test_blobs_of_many_models_come_at_once(store: Store, registry: Registry, server: FaultyMirror) -> None:
    names = [f"library/m{number}" for number in range(3)]
    wanted = []
    for number, name in enumerate(names):
        registry.publish(tiny_gguf(seed=10 + number), name=name)
        server.fault(registry.data_path(tiny_gguf(seed=10 + number)), Fault(hold=1000))
        wanted.append(Wanted(address(f"{registry.host}/{name}:1b"), f"m{number}"))
    with ThreadPoolExecutor(1) as pool:
        pulling = pool.submit(pull_all, store, wanted, Console(quiet=True), timeout=(5, 30))
        end = time.monotonic() + 30
        while server.most_at_once < 3 and time.monotonic() < end and not pulling.done():
            time.sleep(0.01)
        server.release.set()
        assert [record.name for record in pulling.result()] == ["m0", "m1", "m2"]
    assert server.most_at_once >= 3


def test_one_that_breaks_off_is_resumed_where_it_was(store: Store, registry: Registry, server: FaultyMirror) -> None:
    registry.publish(TINY)
    path = registry.data_path(TINY)
    server.fault(path, Fault(cut=100_000), Fault(cut=50_000))
    with pytest.raises(FetchError) as failed:
        pull(store, f"{registry.host}/library/m:1b", attempts=2)
    assert failed.value.unreachable
    assert nothing_is_there(store)
    record = pull(store, f"{registry.host}/library/m:1b")
    assert store.blobs.path(record.sha256).read_bytes() == TINY
    assert server.ranges(path)[-1] == "bytes=150000-"


@pytest.mark.parametrize(
    "fault",
    [
        Fault(flip=1000),
        Fault(declare=len(TINY) - 1),
        Fault(declare=-1, extra=b"more"),
        Fault(declare=len(TINY) + 5, extra=b"extra"),
        Fault(hold=5000),
        Fault(status=500),
        Fault(status=404),
        Fault(status=302, headers={"Location": "/nowhere"}),
        Fault(status=302, headers={"Location": "file:///etc/passwd"}),
        Fault(declare=-1, endless=True),
    ],
    ids=[
        "other bytes",
        "too short",
        "no length",
        "too long",
        "stalls",
        "500",
        "404",
        "redirected",
        "to a file",
        "endless",
    ],
)
def test_nothing_is_kept_of_what_is_wrong(store: Store, registry: Registry, server: FaultyMirror, fault: Fault) -> None:
    registry.publish(TINY)
    server.fault(registry.data_path(TINY), always=fault)
    with pytest.raises(FetchError):
        pull(store, f"{registry.host}/library/m:1b")
    assert nothing_is_there(store)


def test_another_host_counts_as_much_as_what_it_sends(store: Store, registry: Registry, server: FaultyMirror) -> None:
    registry.publish(TINY)
    with FaultyMirror() as other:
        url = other.serve("/elsewhere", OTHER)
        server.fault(registry.blob_path(TINY), always=Fault(status=307, headers={"Location": url}))
        with pytest.raises(FetchError) as failed:
            pull(store, f"{registry.host}/library/m:1b")
        assert failed.value.changed
        assert nothing_is_there(store)
        other.serve("/elsewhere", TINY)
        assert pull(store, f"{registry.host}/library/m:1b").sha256 == sha256(TINY)


@pytest.mark.parametrize(
    "changes",
    [
        {"schemaVersion": 1},
        {"layers": []},
        {"layers": [{"mediaType": "application/vnd.ollama.image.template", "digest": "sha256:" + "0" * 64, "size": 1}]},
        {"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:../../x", "size": 1}]},
        {"layers": [{"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:" + "0" * 64, "size": "1"}]},
        {"layers": "none"},
        {"config": None},
    ],
)
def test_a_manifest_of_another_form_is_refused(
    store: Store, registry: Registry, changes: dict[str, Any], server: FaultyMirror
) -> None:
    registry.publish(TINY, **changes)
    with pytest.raises(FetchError, match="not that of a model"):
        pull(store, f"{registry.host}/library/m:1b")
    assert [request.path for request in server.requests] == ["/v2/library/m/manifests/1b"]


def test_a_manifest_that_is_nested_without_end(store: Store, registry: Registry, server: FaultyMirror) -> None:
    server.serve("/v2/library/m/manifests/1b", b'{"config": ' + b"[" * 500_000)
    with pytest.raises(FetchError, match="not that of a model"):
        pull(store, f"{registry.host}/library/m:1b")


def test_a_manifest_that_is_not_the_promised_one(store: Store, registry: Registry, server: FaultyMirror) -> None:
    registry.publish(TINY)
    server.fault("/v2/library/m/manifests/1b", Fault(headers={"Docker-Content-Digest": "sha256:" + "0" * 64}))
    with pytest.raises(FetchError, match="not the one that the server promises"):
        pull(store, f"{registry.host}/library/m:1b")


def test_one_that_the_registry_has_not(store: Store, registry: Registry) -> None:
    with pytest.raises(FetchError) as failed:
        pull(store, f"{registry.host}/library/nothing")
    assert failed.value.missing == ("m",)


@pytest.mark.parametrize("content", [b"PK\x03\x04 no model", TINY[:-1000]])
def test_what_is_no_whole_model_is_refused_after_all(store: Store, registry: Registry, content: bytes) -> None:
    registry.publish(content)
    with pytest.raises(FetchError):
        pull(store, f"{registry.host}/library/m:1b")
    assert list(ModelRecords(store)) == []
    assert sha256(content) not in list(store.blobs)


# a hub


def test_a_file_of_a_hub_is_held_against_the_hash_that_it_tells(store: Store, server: FaultyMirror) -> None:
    publish_at_hub(server, TINY, "org/repo/resolve/main/Tiny.gguf")
    environ = {"HF_ENDPOINT": server.url}
    record = pull(store, "hf.co/org/repo/Tiny.gguf", environ=environ, license="MIT")
    assert (record.sha256, record.license) == (sha256(TINY), "MIT")
    assert record.source == "https://hf.co/org/repo/Tiny.gguf"
    with pytest.raises(FetchError, match="another file"):
        pull(store, "hf.co/org/repo/Tiny.gguf", environ=environ, sha256="0" * 64)


@pytest.mark.parametrize(
    "headers", [{"X-Linked-Etag": '"' + "0" * 64 + '"'}, {"X-Linked-Size": "1000"}, {"X-Linked-Etag": '"a1b2c3"'}]
)
def test_a_hub_that_tells_another_hash_or_none(store: Store, server: FaultyMirror, headers: dict[str, str]) -> None:
    publish_at_hub(server, TINY, "org/repo/resolve/main/Tiny.gguf", **headers)
    with pytest.raises(FetchError):
        pull(store, "hf.co/org/repo/Tiny.gguf", environ={"HF_ENDPOINT": server.url})
    assert nothing_is_there(store)


def test_a_renamed_repository_is_followed(store: Store, server: FaultyMirror) -> None:
    publish_at_hub(server, TINY, "new/repo/resolve/main/Tiny.gguf")
    moved = Fault(status=307, headers={"Location": "/new/repo/resolve/main/Tiny.gguf"})
    server.fault("/old/repo/resolve/main/Tiny.gguf", always=moved)
    record = pull(store, "hf.co/old/repo/Tiny.gguf", environ={"HF_ENDPOINT": server.url})
    assert record.sha256 == sha256(TINY)


# an address


def test_the_first_sha256_of_a_file_is_recorded_and_counts_then(
    store: Store, server: FaultyMirror, capsys: pytest.CaptureFixture[str]
) -> None:
    url = server.serve("/tiny.gguf", TINY)
    (record,) = pull_all(store, [Wanted(address(url), "tiny")], Console(), **QUICK)
    assert record.sha256 == sha256(TINY)
    assert f"recorded, and counts from now on: {sha256(TINY)}" in capsys.readouterr().err
    server.serve("/tiny.gguf", OTHER)
    store.blobs.remove(sha256(TINY))
    with pytest.raises(FetchError) as failed:  # of the same size
        pull(store, url, name="tiny")
    assert failed.value.changed
    assert ModelRecords(store).get("tiny") == record


def test_one_whose_sha256_is_known_is_held_against_it(store: Store, server: FaultyMirror) -> None:
    url = server.serve("/tiny.gguf", TINY)
    with pytest.raises(FetchError) as failed:
        pull(store, url, sha256="0" * 64)
    assert failed.value.changed
    assert pull(store, url, sha256=sha256(TINY)).sha256 == sha256(TINY)


def test_an_unknown_one_is_resumed_where_the_server_vouches_for_it(store: Store, server: FaultyMirror) -> None:
    url = server.serve("/tiny.gguf", TINY)
    server.fault("/tiny.gguf", Fault(), Fault(cut=100_000), Fault(cut=60_000))
    with pytest.raises(FetchError, match="broke off"):
        pull(store, url)
    assert nothing_is_there(store)
    assert pull(store, url).sha256 == sha256(TINY)
    assert server.ranges("/tiny.gguf")[-1] == "bytes=160000-"
    assert list(store.blobs.partial.iterdir()) == []


@pytest.mark.parametrize(
    "fault",
    [Fault(declare=-1), Fault(declare=len(TINY) - 7), Fault(cut=1000), Fault(hold=1000), Fault(status=403)],
    ids=["no size", "lies about it", "breaks off", "stalls", "403"],
)
def test_nothing_is_kept_of_an_unknown_one_that_is_wrong(store: Store, server: FaultyMirror, fault: Fault) -> None:
    url = server.serve("/tiny.gguf", TINY)
    server.fault("/tiny.gguf", always=fault)
    with pytest.raises(AnklumeError):
        pull(store, url)
    assert nothing_is_there(store)


def test_a_name_that_a_model_of_another_origin_has(store: Store, server: FaultyMirror, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(OTHER)
    import_file(store, tmp_path / "m.gguf", "m", progress=Console(quiet=True))
    with pytest.raises(ModelNameError, match="another model called 'm'"):
        pull(store, server.serve("/tiny.gguf", TINY), sha256=sha256(TINY))


def test_from_https_to_http_is_not_followed(
    store: Store, server: FaultyMirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = PrivateCA(tmp_path)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, str(authority.path))
    server.serve("/tiny.gguf", TINY)
    with FaultyMirror(tls=authority.server) as secure:
        url = secure.serve("/tiny.gguf", TINY)
        assert pull(store, url, name="secure").sha256 == sha256(TINY)
        secure.fault("/tiny.gguf", always=Fault(status=302, headers={"Location": f"{server.url}/tiny.gguf"}))
        with pytest.raises(FetchError, match="from https to http"):
            pull(store, url, name="downgraded")
    assert server.requests == []


# the command


def test_killed_in_the_middle_it_goes_on_where_it_was(
    store: Store, registry: Registry, server: FaultyMirror, anklume: Cli
) -> None:
    registry.publish(TINY)
    path = registry.data_path(TINY)
    server.fault(path, Fault(hold=200_000))
    name = f"{registry.host}/library/m:1b"
    command = [sys.executable, "-m", "anklume_images", "--store", str(store.home), "models", "pull", name, "--insecure"]
    part = store.blobs.partial / f"{sha256(TINY)}.part"
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        end = time.monotonic() + 60
        while not (part.exists() and part.stat().st_size == 200_000):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < end
            time.sleep(0.01)
        process.kill()
    server.release.set()
    assert list(ModelRecords(store)) == []
    type(anklume)(store.home)("models", "pull", name, "--insecure")
    assert server.ranges(path)[-1] == "bytes=200000-"
    assert store.blobs.path(sha256(TINY)).read_bytes() == TINY
    assert list((store.home / "scratch").iterdir()) == []


def test_the_command(store: Store, registry: Registry, server: FaultyMirror, anklume: Cli) -> None:
    cli = type(anklume)(store.home)
    registry.publish(TINY, name="org/m")
    name = f"{registry.host}/org/m:1b"
    url = server.serve("/tiny.gguf", TINY)

    def code(*arguments: str) -> int:
        return int(cli("models", "pull", *arguments, check=False).returncode)

    assert code(f"http://{name}") == 2
    assert code(url) == 2
    assert code(url, name, "--name", "x", "--insecure") == 2
    assert code(url, "--name", "smollm2-135m", "--insecure") == 2
    pulled = json.loads(cli("models", "pull", name, url, "--insecure", "--json").stdout)
    assert [one["name"] for one in pulled] == [name, "tiny"]
    assert {one["file"] for one in pulled} == {str(store.blobs.path(sha256(TINY)))}
    assert code(url, "--sha256", sha256(TINY)) == 0
    assert code(name, "--offline") == 0
    shown = cli.json("models", "show", name)
    assert (shown["license"], shown["source"]) == ("Apache License", f"{server.url}/v2/org/m/manifests/1b")
