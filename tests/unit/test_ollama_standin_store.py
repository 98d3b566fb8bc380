"""The stand-in for Ollama does as a real one does, fact by fact: its store, `create`, and pulling from a registry."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.ollama.checks import Checks
from tests.support.ollama.facts import Fact, facts_of
from tests.support.ollama.registry import Registry
from tests.support.ollama.running import SECONDS, Answer, StandIn, model_files

if TYPE_CHECKING:
    from pathlib import Path

holds = Checks()
ROOMS = facts_of("store", "pull")
OLD = time.time() - 3700


@pytest.mark.parametrize("fact", ROOMS, ids=lambda fact: fact.code)
def test_fact(fact: Fact, tmp_path: Path) -> None:
    holds.hold(fact, tmp_path)


def test_every_fact_has_its_check() -> None:
    assert {fact.code for fact in ROOMS} == holds.keys()


def blobs(stand_in: StandIn) -> set[str]:
    return {file.name for file in (stand_in.models / "blobs").iterdir()}


def blob_name(content: bytes) -> str:
    return f"sha256-{hashlib.sha256(content).hexdigest()}"


def manifest(stand_in: StandIn, name: str, registry: str = "registry.ollama.ai") -> Any:
    return json.loads((stand_in.models / f"manifests/{registry}/library/{name}/latest").read_text())


# the store


@holds("layout")
def _(stand_in: StandIn) -> None:
    stand_in.start()
    with Registry(model_files("tiny")) as registry:
        assert pull(stand_in, registry).status == 200
        assert (
            manifest(stand_in, "tiny", registry.name)["layers"][0]["mediaType"] == "application/vnd.ollama.image.model"
        )
        assert stand_in.names() == [f"{registry.name}/library/tiny:latest"]
    assert {f"blobs/{name}" for name in blobs(stand_in)} < model_files("tiny").keys()


@holds("brought")
def _(stand_in: StandIn) -> None:
    stand_in.start()
    stand_in.give("tiny")
    stand_in.give("other:1b", template=False)
    assert stand_in.names() == ["other:1b", "tiny:latest"]


@holds("config-blob")
def _(stand_in: StandIn) -> None:
    stand_in.give("tiny")
    with stand_in.serving():
        config = manifest(stand_in, "tiny")["config"]["digest"].replace(":", "-")
        (stand_in.models / "blobs" / config).unlink()
        assert stand_in.names() == ["tiny:latest"]
    stand_in.start()
    assert stand_in.names() == []


GGUF = b"GGUF\3 tokenizer.chat_template {{ messages }} and weights"


def create(stand_in: StandIn, name: str, gguf: bytes) -> str:
    """By the command, from a Modelfile; what it says of an error."""
    source = stand_in.folder / "model.gguf"
    source.write_bytes(gguf)
    (stand_in.folder / "Modelfile").write_text(f"FROM {source}\n")
    return stand_in.command("create", name, "-f", str(stand_in.folder / "Modelfile")).stderr


@holds("create")
def _(stand_in: StandIn) -> None:
    stand_in.start()
    assert create(stand_in, "mine", GGUF) == ""
    found = manifest(stand_in, "mine")
    kinds = [layer["mediaType"].rpartition(".")[2] for layer in found["layers"]]
    assert (found["schemaVersion"], kinds) == (2, ["model", "template", "params"])
    assert found["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"
    assert found["config"]["mediaType"] == "application/vnd.docker.container.image.v1+json"
    assert found["config"]["size"] == 152
    for described in (*found["layers"], found["config"]):
        content = (stand_in.models / "blobs" / described["digest"].replace(":", "-")).read_bytes()
        assert (blob_name(content), len(content)) == (described["digest"].replace(":", "-"), described["size"])
    assert json.loads(content)["file_type"] == "Q4_1"
    assert stand_in.ask("/api/generate", {"model": "mine", "prompt": "x"}).status == 200


@holds("create-quantize")
def _(stand_in: StandIn) -> None:
    (stand_in.libraries / "llama-quantize").unlink()
    stand_in.start()
    assert "llama-quantize binary not found" in create(stand_in, "mine", GGUF)
    assert stand_in.names() == []


@holds("create-rewrites")
def _(stand_in: StandIn) -> None:
    stand_in.start()
    for gguf, same in ((GGUF, False), (GGUF + b"\0", True)):
        create(stand_in, "mine", gguf)
        layer = manifest(stand_in, "mine")["layers"][0]
        assert (layer["size"], layer["digest"].replace(":", "-") == blob_name(gguf)) == (len(gguf), same)


@holds("create-leaves")
def _(stand_in: StandIn) -> None:
    stand_in.start()
    create(stand_in, "mine", GGUF)
    assert blob_name(GGUF) in blobs(stand_in)
    assert blob_name(GGUF).replace("-", ":") not in json.dumps(manifest(stand_in, "mine"))


@holds("create-base")
def _(stand_in: StandIn) -> None:
    stand_in.start()
    create(stand_in, "base", b"GGUF\3 and weights")
    assert [layer["mediaType"].rpartition(".")[2] for layer in manifest(stand_in, "base")["layers"]] == ["model"]


@holds("create-not-gguf")
def _(stand_in: StandIn) -> None:
    stand_in.start()
    assert create(stand_in, "mine", b"PK\3\4") == "Error: invalid file magic\n"
    assert stand_in.names() == []


@holds("blob-digest")
def _(stand_in: StandIn) -> None:
    stand_in.start()
    digest = hashlib.sha256(b"right").hexdigest()
    path = f"/api/blobs/sha256:{digest}"
    assert stand_in.ask(path, method="HEAD").status == 404
    assert stand_in.ask(path, b"wrong").status == 400
    assert blobs(stand_in) == set()
    assert stand_in.ask(path, b"right").status == 201
    assert stand_in.ask(path, method="HEAD").status == 200


def lying_about(stand_in: StandIn) -> tuple[set[str], set[str]]:
    """Blobs that nothing names, of more than an hour ago and of now, in a store that has a model; both kinds' names."""
    stand_in.give("tiny")
    kinds: tuple[set[str], set[str]] = (set(), set())
    for when, names in zip((OLD, time.time()), kinds, strict=True):
        for suffix in ("", "-partial", "-partial-0"):
            file = stand_in.models / "blobs" / f"{blob_name(str(when).encode())}{suffix}"
            file.write_bytes(b"x")
            os.utime(file, (when, when))
            names.add(file.name)
    for file in (stand_in.models / "blobs").iterdir():
        if file.name not in kinds[1]:
            os.utime(file, (OLD, OLD))
    return kinds


@holds("prune")
def _(stand_in: StandIn) -> None:
    old, new = lying_about(stand_in)
    stand_in.start()
    there = blobs(stand_in)
    assert not old & there
    assert new < there
    assert stand_in.ask("/api/generate", {"model": "tiny", "prompt": "x"}).status == 200


@holds("prune-folders")
def _(stand_in: StandIn) -> None:
    stand_in.give("tiny")
    library = stand_in.models / "manifests/registry.ollama.ai/library"
    (library / "gone").mkdir()
    (library.parents[1] / "registry.example/library/gone").mkdir(parents=True)
    stand_in.start()
    assert [folder.name for folder in library.parents[1].iterdir()] == ["registry.ollama.ai"]
    assert [folder.name for folder in library.iterdir()] == ["tiny"]


@holds("noprune")
def _(stand_in: StandIn) -> None:
    old, new = lying_about(stand_in)
    stand_in.start(OLLAMA_NOPRUNE="1")
    assert old | new < blobs(stand_in)


@holds("prune-corrupt")
def _(stand_in: StandIn) -> None:
    old, new = lying_about(stand_in)
    stand_in.give("broken")
    (stand_in.models / "manifests/registry.ollama.ai/library/broken/latest").write_text('{"schemaVersion":2,"lay')
    stand_in.start()
    assert old | new < blobs(stand_in)
    assert stand_in.names() == ["tiny:latest"]


# pulling


def pull(stand_in: StandIn, registry: Registry, *, insecure: bool = True, stream: bool = False) -> Answer:
    body = {"model": f"{registry.name}/library/tiny", "insecure": insecure, "stream": stream}
    return stand_in.ask("/api/pull", body)


def ranges(registry: Registry) -> list[str]:
    """Of the model's blob, which every test here lets come in parts."""
    name = registry.blob_of("model").removeprefix("blobs/").replace("-", ":")
    return [wanted.removeprefix("bytes=") for _, path, wanted in registry.asked if path == name and wanted]


MODEL = b"GGUF" + bytes(range(96))


def serving_tiny(**options: Any) -> Registry:
    return Registry(model_files("tiny", model=MODEL), **options)


@holds("insecure")
def _(stand_in: StandIn) -> None:
    stand_in.start()
    with serving_tiny() as registry:
        answer = pull(stand_in, registry, insecure=False)
        url = f"https://{registry.name}/v2/library/tiny/manifests/latest"
        said = f'pull model manifest: Get "{url}": http: server gave HTTP response to HTTPS client'
        assert (answer.status, answer.json()["error"]) == (500, said)
        assert pull(stand_in, registry).json() == {"status": "success"}


@holds("insecure-scheme")
def _(stand_in: StandIn) -> None:
    stand_in.start()
    with serving_tiny() as registry:
        name = f"http://{registry.name}/library/tiny"
        assert stand_in.command("pull", name).stderr == "Error: insecure protocol http\n"
        assert registry.asked == []
        assert stand_in.command("pull", name, "--insecure").returncode == 0


@holds("requests")
def _(stand_in: StandIn) -> None:
    stand_in.start()
    with serving_tiny() as registry:
        pull(stand_in, registry)
        assert registry.accepted == ["application/vnd.docker.distribution.manifest.v2+json"]
        blob = registry.blob_of("model").removeprefix("blobs/").replace("-", ":")
        of_model = [(method, wanted) for method, path, wanted in registry.asked if path == blob]
    assert registry.asked[0] == ("GET", "latest", "")
    assert of_model == [("HEAD", ""), ("GET", ""), ("GET", "bytes=0-99")]


@holds("location")
def _(stand_in: StandIn) -> None:
    stand_in.start()
    for how in ("200", "307"):
        with serving_tiny(location=how) as registry:
            assert pull(stand_in, registry).status == 200
            assert (stand_in.models / registry.blob_of("model")).read_bytes() == MODEL
            (stand_in.models / registry.blob_of("model")).unlink()


@holds("no-location")
def _(stand_in: StandIn) -> None:
    stand_in.start()
    with serving_tiny(location="") as registry:
        assert pull(stand_in, registry).json() == {"error": "http: no Location header in response"}


def begun(stand_in: StandIn, registry: Registry) -> http.client.HTTPConnection:
    """A pull that has got what the registry gives before it waits."""
    connection = http.client.HTTPConnection("127.0.0.1", stand_in.port, timeout=SECONDS)
    body = {"model": f"{registry.name}/library/tiny", "insecure": True}
    connection.request("POST", "/api/pull", json.dumps(body))
    end = time.monotonic() + SECONDS
    while noted(stand_in, registry)[1:] != [{"N": 0, "Offset": 0, "Size": 60, "Completed": 25}, REST]:
        assert time.monotonic() < end, noted(stand_in, registry)
        time.sleep(0.01)
    return connection


REST = {"N": 1, "Offset": 60, "Size": 40, "Completed": 0}


def noted(stand_in: StandIn, registry: Registry) -> list[Any]:
    """The size of the partial file and what is noted of its parts."""
    partial = stand_in.models / f"{registry.blob_of('model')}-partial"
    try:
        parts = [json.loads(file.read_text()) for file in sorted(partial.parent.glob(f"{partial.name}-?"))]
        return [partial.stat().st_size, *parts]
    except FileNotFoundError:
        return []


@holds("parts")
def _(stand_in: StandIn) -> None:
    stand_in.start(STAND_IN_PART="60")
    with serving_tiny(most=25) as registry:
        connection = begun(stand_in, registry)
        assert noted(stand_in, registry)[0] == 100
        registry.most = None
        registry.go_on.set()
        assert b'"success"' in connection.getresponse().read()
        connection.close()
        assert ranges(registry) == ["0-59", "60-99"]
        assert noted(stand_in, registry) == []
        assert (stand_in.models / registry.blob_of("model")).read_bytes() == MODEL


def goes_on(stand_in: StandIn, registry: Registry) -> None:
    """A second pull takes up where the first one ended."""
    registry.most = None
    assert pull(stand_in, registry).json() == {"status": "success"}
    assert ranges(registry) == ["0-59", "25-59", "60-99"]
    assert (stand_in.models / registry.blob_of("model")).read_bytes() == MODEL


@holds("killed")
def _(stand_in: StandIn) -> None:
    stand_in.start(STAND_IN_PART="60")
    with serving_tiny(most=25) as registry:
        connection = begun(stand_in, registry)
        stand_in.stop(kill=True)
        connection.close()
        stand_in.start(STAND_IN_PART="50")  # what was noted counts
        goes_on(stand_in, registry)


@holds("client-gone")
def _(stand_in: StandIn) -> None:
    stand_in.start(STAND_IN_PART="60")
    with serving_tiny(most=25) as registry:
        begun(stand_in, registry).close()
        registry.go_on.set()  # what comes now finds nobody who wants it
        end = time.monotonic() + SECONDS
        while (parts := noted(stand_in, registry))[2] != REST or len(ranges(registry)) > 1:
            assert time.monotonic() < end, parts
        goes_on(stand_in, registry)


@holds("digest")
def _(stand_in: StandIn) -> None:
    stand_in.start()
    with serving_tiny() as registry:
        registry.files[registry.blob_of("model")] = MODEL[:-1] + b"!"
        answer = pull(stand_in, registry)
        assert "digest mismatch" in answer.json()["error"]
        assert not (stand_in.models / registry.blob_of("model")).exists()
        assert stand_in.names() == []


@holds("no-manifest")
def _(stand_in: StandIn) -> None:
    stand_in.start()
    with Registry(model_files("other")) as registry:
        assert pull(stand_in, registry).json() == {"error": "pull model manifest: file does not exist"}


@holds("quiet")
def _(stand_in: StandIn) -> None:
    stand_in.start()
    with serving_tiny() as registry:
        said = pull(stand_in, registry, stream=True).lines()
        assert (said[0], said[-1]) == ({"status": "pulling manifest"}, {"status": "success"})
        progress = [line for line in said if line.get("total") == 100]
        assert progress[-1]["completed"] == 100
        answer = pull(stand_in, registry, insecure=False, stream=True)
        assert (answer.status, "error" in answer.lines()[-1]) == (200, True)
        assert pull(stand_in, registry, insecure=False).status == 500


@holds("tries")
def _(stand_in: StandIn) -> None:
    stand_in.start()
    with serving_tiny(most=0, cut=True) as registry:
        assert pull(stand_in, registry).status == 500
        assert ranges(registry) == ["0-99"] * 6
