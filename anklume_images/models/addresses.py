"""Where a model is pulled from, as it is written on the command line.

A name is one of a registry that speaks Ollama's protocol: `[HOST/][NAMESPACE/]MODEL[:TAG]`, read as Ollama reads it
(types/model/name.go of https://github.com/ollama/ollama). `hf.co/ORG/REPO/FILE.gguf` is a file of a repository at
Hugging Face, with `@REVISION` behind it where another than `main` is meant. What has a scheme is an address: of a file
when it ends in `.gguf`, else of a model at a registry.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from anklume_images.errors import AnklumeError
from anklume_images.store.models import MODEL_NAME

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["AddressError", "HubFile", "RegistryModel", "WebFile", "address_of"]

_REGISTRY, _NAMESPACE, _TAG = "registry.ollama.ai", "library", "latest"
_HUBS = ("hf.co", "huggingface.co")
_ENDPOINT = "https://huggingface.co"
_ENDING = ".gguf"


class AddressError(AnklumeError):
    """What is no place that a model can be pulled from."""

    exit_code = 2


@dataclass(frozen=True)
class WebFile:
    """A file at an address."""

    url: str

    @property
    def name(self) -> str:
        """What the model is called where nobody said: the file's name without its ending."""
        return _stem(unquote(urlsplit(self.url).path))


@dataclass(frozen=True)
class HubFile:
    """A file of a repository at Hugging Face, or a server that stands in for it; `source` is for people."""

    url: str
    source: str

    @property
    def name(self) -> str:
        """What the model is called where nobody said: the file's name without its ending."""
        return _stem(self.source.partition("@")[0])


@dataclass(frozen=True)
class RegistryModel:
    """A model at a registry: `base` is the URL below which its manifests and blobs are."""

    base: str
    tag: str
    name: str

    @property
    def manifest(self) -> str:
        """The URL of its manifest."""
        return f"{self.base}/manifests/{self.tag}"

    def blob(self, sha256: str) -> str:
        """The URL of one of its blobs."""
        return f"{self.base}/blobs/sha256:{sha256}"


Address = WebFile | HubFile | RegistryModel


def address_of(text: str, *, insecure: bool, environ: Mapping[str, str]) -> Address:
    """What a word of the command line names; AddressError.

    `insecure` lets a registry, and a file that nobody gave the sha256 of, be asked without TLS. HF_ENDPOINT names
    another server than Hugging Face's own, as its own tools have it.
    """
    scheme, separator, rest = text.partition("://")
    if separator and scheme not in ("https", "http"):
        raise AddressError(f"{text}: only https:// and http:// can be asked")
    if separator and urlsplit(text).path.endswith(_ENDING):
        return WebFile(text)
    if separator:
        return _at_registry(rest, rest, scheme, insecure=insecure)
    host = text.partition("/")[0]
    if host in _HUBS and text.partition("@")[0].endswith(_ENDING):
        return _at_hub(text, environ.get("HF_ENDPOINT") or _ENDPOINT, insecure=insecure)
    return _at_registry(text, text, "http" if insecure else "https", insecure=insecure)


def _at_registry(text: str, name: str, scheme: str, *, insecure: bool) -> RegistryModel:
    if scheme == "http" and not insecure:
        raise AddressError(
            f"{text}: over http anybody on the way can send another model",
            hint="ask over https; --insecure asks all the same",
        )
    if not MODEL_NAME.fullmatch(name):
        raise AddressError(f"'{text}' is no name of a model", hint="[HOST/][NAMESPACE/]MODEL[:TAG], or an address")
    head, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        head, tag = name, _TAG
    parts = head.split("/")
    if len(parts) > 3:
        raise AddressError(f"'{text}' has more parts than a registry knows", hint="[HOST/][NAMESPACE/]MODEL[:TAG]")
    if len(parts) == 2 and re.search(r"[.:]", parts[0]):
        raise AddressError(f"'{text}' is a host and a model", hint=f"{parts[0]}/{_NAMESPACE}/{parts[1]}, say")
    host, namespace, model = [_REGISTRY, _NAMESPACE][: 3 - len(parts)] + parts
    return RegistryModel(f"{scheme}://{host}/v2/{namespace}/{model}", tag, name)


def _at_hub(text: str, endpoint: str, *, insecure: bool) -> HubFile:
    if endpoint.startswith("http://") and not insecure:
        raise AddressError(f"HF_ENDPOINT is {endpoint}: over http anybody on the way can send another model")
    path, _, revision = text.partition("@")
    _, *parts = path.split("/")
    if len(parts) < 3 or not all(parts) or ".." in parts:
        raise AddressError(f"'{text}' names no file of a repository", hint="hf.co/ORG/REPO/FILE.gguf")
    owner, repository, *file = parts
    where = quote(f"{owner}/{repository}/resolve/{revision or 'main'}/{'/'.join(file)}")
    return HubFile(f"{endpoint.rstrip('/')}/{where}", text)


def _stem(path: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", path.rpartition("/")[2].removesuffix(_ENDING))
