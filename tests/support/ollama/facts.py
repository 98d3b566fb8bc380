"""What is known of a real Ollama, and which of it the stand-in does: what a test upon the stand-in can show.

The facts were seen as a server ran that was built of Ollama's own source (0.33.0-rc2: CPU and Vulkan, no CUDA), by
itself and in the image, on a CPU and on an H100; or they were read in that source; or they are told by Ollama's
documentation and by what others show of it. tests/unit/test_ollama_standin*.py
hold the stand-in to each fact that is not left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["FACTS", "Fact", "facts_of"]

Room = Literal["settings", "devices", "interface", "answers", "store", "pull"]


@dataclass(frozen=True)
class Fact:
    """One fact; `known` is whether it was seen to run, read in the source or told by others.

    `left_out` is why the stand-in lacks it.
    """

    room: Room
    code: str
    says: str
    known: Literal["run", "read", "told"] = "run"
    left_out: str = ""


_OF_THE_IMAGE = "it is about the image or the host, not about what the server does"
_NO_TESTER = "nothing here depends on it"
_HARDWARE = "it takes a driver that tells of a device's kind; nothing here depends on it"

FACTS = (
    # OLLAMA_HOST
    Fact("settings", "host-default", "unset or empty, it listens on 127.0.0.1:11434"),
    Fact("settings", "host-alone", "0.0.0.0, ::1, [::] and a name get port 11434"),
    Fact("settings", "host-scheme", "http://x gets port 80, https://x port 443"),
    Fact("settings", "host-port-alone", ":8080 is all addresses"),
    Fact("settings", "host-bad-port", "a bad port is a warning, and 11434"),
    Fact("settings", "host-quotes-path-brackets", "quotes, a path and [::1]:p are accepted"),
    Fact("settings", "host-port-zero", "port 0 is a random one"),
    Fact("settings", "host-https", "https:// still serves plain HTTP", "read"),
    # its other settings
    Fact("settings", "keep-alive", "5m by default; a bare number is seconds, a negative one for ever, garbage 5m"),
    Fact("settings", "no-cloud", "OLLAMA_NO_CLOUD: anything but 0 and false is yes"),
    Fact("settings", "home-unset", "without HOME it ends with `$HOME is not defined`, even with OLLAMA_MODELS"),
    Fact("settings", "models-folder", "models are in HOME/.ollama/models, or in OLLAMA_MODELS", "read"),
    Fact("settings", "key", "the first start makes HOME/.ollama/id_ed25519, which later ones keep", "read"),
    Fact(
        "settings",
        "parallel-and-context",
        "the runner is started with -c CONTEXT x PARALLEL and -np PARALLEL, which is 1",
    ),
    Fact("settings", "unknown-command", "a wrong command is an error and exit code 1", "told"),
    # where it computes, by its log
    Fact("devices", "cpu", "without a card one INFO line `inference compute` with id=cpu library=cpu, and no warning"),
    Fact("devices", "context-of-cpu", 'then `vram-based default context` with total_vram="0 B" default_num_ctx=4096'),
    Fact("devices", "vulkan", "with a card `inference compute` with id=0 library=Vulkan name=Vulkan0 and its memory"),
    Fact("devices", "cuda", "with NVIDIA's driver and the CUDA runner, library=CUDA", "told"),
    Fact("devices", "no-libvulkan", "a missing libvulkan.so.1 is silent: it computes on the CPU"),
    Fact("devices", "no-backend", "a GPU backend that is not there is silent"),
    Fact("devices", "no-icd", "a card whose Vulkan driver has no ICD file is silent", "told"),
    Fact("devices", "software-driver", "Mesa's lavapipe is a device with GGML_VK_VISIBLE_DEVICES=0 only"),
    Fact(
        "devices", "no-runner", "a missing llama-server is INFO `failure during llama-server GPU discovery`; it serves"
    ),
    Fact("devices", "context-by-memory", "below 23 GiB 4096 tokens, from 23 on 32768, from 47 on 262144"),
    Fact("devices", "context-set", "OLLAMA_CONTEXT_LENGTH beats the cards' memory", "told"),
    Fact("devices", "llm-library", "OLLAMA_LLM_LIBRARY is a folder below lib/ollama; none such is the CPU", "read"),
    Fact("devices", "vulkan-off", "OLLAMA_VULKAN is on by default; 0 takes its devices away", "read"),
    Fact(
        "devices", "visible-devices", "`user overrode visible devices` where CUDA_VISIBLE_DEVICES and its like are set"
    ),
    Fact("devices", "integrated", "integrated GPUs are passed over unless OLLAMA_IGPU_ENABLE=1", "read", _HARDWARE),
    Fact(
        "devices",
        "watchdog",
        "`llama-server GPU discovery watchdog timed out`",
        "read",
        "unit tests have the line itself",
    ),
    Fact(
        "devices",
        "driver-old",
        '`NVIDIA driver too old` with required_driver="550 or newer"',
        "read",
        "unit tests have the line itself",
    ),
    Fact("devices", "amd-old", "`AMD driver is too old.`", "read", "unit tests have the line itself"),
    Fact(
        "devices",
        "driver-by-links",
        "links to the host's driver suffice; CUDA, Vulkan and nvidia-smi worked",
        "run",
        _OF_THE_IMAGE,
    ),
    # what it answers
    Fact("interface", "version", "GET /api/version tells it, GET / that it runs"),
    Fact("interface", "not-found", "a path that is none is 404, a model that is not there 404 with an error", "told"),
    Fact("interface", "tags", "GET /api/tags has name, size, digest (the manifest's sha256) and details"),
    Fact("interface", "show", "POST /api/show has a Modelfile whose FROM is the file of the weights", "told"),
    Fact("interface", "openai-models", "GET /v1/models lists the same names", "told"),
    Fact("interface", "foreign-origin", "another origin gets 403 with an empty body"),
    Fact("interface", "origins-added", "OLLAMA_ORIGINS adds to the defaults"),
    Fact("interface", "foreign-host", "on loopback, a foreign Host header gets 403"),
    Fact("interface", "foreign-host-elsewhere", "on other addresses, any Host header is taken", "told"),
    # models at work
    Fact(
        "answers",
        "generate",
        "/api/generate with stream false is one object with response, counts and durations",
        "run",
    ),
    Fact(
        "answers", "generate-streamed", "streamed, unless stream is false: an object a line, the last one done", "told"
    ),
    Fact("answers", "chat-streamed", "/api/chat: the same with message; the last has counts and nanoseconds", "told"),
    Fact("answers", "openai", "/v1/chat/completions: one object unless stream is true", "told"),
    Fact("answers", "openai-streamed", "streamed: `data: ` events, usage where it is asked for, [DONE]", "told"),
    Fact("answers", "as-it-is-made", "a streamed answer comes in pieces while it is made", "told"),
    Fact("answers", "num-predict", "num_predict cuts an answer; done_reason is length"),
    Fact(
        "answers",
        "base-model",
        "a model without chat template never ends a chat: ten times the context, or num_predict",
    ),
    Fact("answers", "unknown-model", "asking a model that is not there is 404", "told"),
    Fact(
        "answers",
        "no-model-blob",
        "without its blob a model stays listed; asking it is 400 `does not support generate`",
    ),
    Fact("answers", "ps-cpu", "/api/ps on the CPU: size 287246908, size_vram 0; `ollama ps` says 100% CPU"),
    Fact("answers", "ps-card", "on a card size = size_vram = 325708676, 100% GPU, `offloaded 31/31 layers to GPU`"),
    Fact("answers", "names-its-file", "on a card a load begins with `loaded meta data … from FILE (version`", "read"),
    Fact(
        "answers",
        "ps-partly",
        "too little memory: `projected to use`, 10/31 layers, size_vram below size, 67%/33% CPU/GPU",
    ),
    Fact("answers", "ps-until", "after its time (keep_alive of request or setting) a model is loaded no more", "told"),
    Fact(
        "answers",
        "out-of-memory",
        "for good: `ErrorOutOfDeviceMemory` in the log, and HTTP 500 with the runner's last words",
    ),
    Fact("answers", "out-of-memory-cuda", "CUDA's word is `cudaMalloc failed`", "read"),
    Fact("answers", "runner-died", "HTTP 500 `llama-server process has terminated: …` when the runner died"),
    Fact(
        "answers",
        "evicting",
        "`llama-server model predicted to exceed available memory, evicting`",
        "read",
        "one model at a time is loaded here",
    ),
    Fact(
        "answers",
        "reducing",
        "`llama-server load failed; reducing automatic context and retrying once`",
        "read",
        "what follows it is stood in for",
    ),
    Fact(
        "answers",
        "runtime-oom",
        "`runtime OOM detected; expiring loaded models …`",
        "read",
        "unit tests have the line itself",
    ),
    Fact("answers", "context-cut", "the default context is cut to the model's own", "run", "its models have none"),
    Fact("answers", "speed", "SmolLM2-135M-Instruct: 82-84 tokens/s on two idle cores", "run", "it computes nothing"),
    # the store
    Fact("store", "layout", "manifests/REGISTRY/library/MODEL/TAG and blobs/sha256-HEX"),
    Fact("store", "brought", "a model brought as a folder is seen at once, one by a manifest written by hand too"),
    Fact("store", "config-blob", "without the config blob a model is listed until a restart, and then vanishes"),
    Fact("store", "create", "`create` writes manifest, config (152 bytes), template and params in the store's layout"),
    Fact("store", "create-quantize", "`create` needs lib/ollama/llama-quantize beside the runner"),
    Fact(
        "store", "create-rewrites", "it passes the GGUF through llama-quantize COPY: some come out with another sha256"
    ),
    Fact("store", "create-leaves", "the original stays as an unreferenced blob"),
    Fact("store", "create-base", "a GGUF without chat template gets no template and no params", "told"),
    Fact("store", "create-not-gguf", "what is no GGUF file is an error", "told"),
    Fact("store", "blob-digest", "a blob whose bytes are not its digest's is refused", "told"),
    Fact("store", "prune", "a start removes unreferenced blobs and -partial files older than an hour"),
    Fact("store", "prune-folders", "it removes empty folders of manifests"),
    Fact("store", "noprune", "OLLAMA_NOPRUNE=1 keeps all"),
    Fact("store", "prune-corrupt", "one corrupt manifest makes it skip pruning; the other models are served"),
    Fact("store", "libraries", "libstdc++6, libgcc_s and libc come from the image", "run", _OF_THE_IMAGE),
    Fact("store", "upgrade", "an upgrade must leave no old lib/ollama", "read", _OF_THE_IMAGE),
    # pulling
    Fact("pull", "insecure", "plain HTTP only with insecure, else the error is Go's of an HTTPS client"),
    Fact("pull", "insecure-scheme", "http:// in the name without insecure: `insecure protocol http`", "told"),
    Fact("pull", "requests", "GET of the manifest with its Accept, HEAD for the size, then ranged GETs"),
    Fact("pull", "location", "the GET of a blob must have a Location header, of 200 or 307"),
    Fact("pull", "no-location", "else `http: no Location header in response`"),
    Fact("pull", "parts", "-partial is of whole size at once; -partial-N has N, Offset, Size, Completed"),
    Fact("pull", "killed", "after SIGKILL parts go on from what was recorded"),
    Fact("pull", "client-gone", "a client that goes away stops it, with Completed up to date"),
    Fact("pull", "digest", "at the end the whole digest is checked"),
    Fact(
        "pull", "no-manifest", "a model that the registry has not: `pull model manifest: file does not exist`", "told"
    ),
    Fact(
        "pull",
        "quiet",
        "with stream false one object, and HTTP 500 for an error; streamed, the error is a line",
        "told",
    ),
    Fact("pull", "tries", "six tries a part", "read"),
    Fact("pull", "stalled", "30 s without a byte end a try", "read", "a test would have to wait for it"),
    Fact(
        "pull",
        "part-sizes",
        "parts are of 100 MB to 1 GB",
        "run",
        "a test takes parts of a few bytes; the default is 100 MB",
    ),
    Fact("pull", "registry-login", "a registry may ask for a token that the key signs", "told", _NO_TESTER),
)


def facts_of(*rooms: Room) -> list[Fact]:
    """The facts of these rooms that the stand-in stands in for."""
    return [fact for fact in FACTS if fact.room in rooms and not fact.left_out]
