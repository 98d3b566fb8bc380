"""A language model of half a megabyte with random weights, for servers that want a GGUF: the same bytes each time.

Format: GGUF version 3 (docs/gguf.md of the ggml project). What it answers is nonsense, in printable characters.
"""

from __future__ import annotations

import random
import struct
import sys
from array import array
from pathlib import Path
from typing import Any

WIDTH, LAYERS, HEADS, INNER, CONTEXT = 64, 2, 4, 128, 2048
ALIGNMENT = 32
UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9  # types of metadata values
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6  # types of tokens
WORDS = ["hello", "world", "offline", "test", "model", "the", "a", "is", "ok", "image"]
CHAT = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


def vocabulary() -> list[tuple[str, int]]:
    """Tokens and their types as SentencePiece has them, with every byte, so that any text can be said."""
    tokens = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)]
    tokens += [(f"<0x{byte:02X}>", BYTE) for byte in range(256)]
    tokens += [("▁", NORMAL), *((chr(code), NORMAL) for code in range(33, 127))]
    return tokens + [(f"▁{word}", NORMAL) for word in WORDS]


def tiny_gguf(seed: int = 1) -> bytes:
    """The whole file."""
    tokens = vocabulary()
    metadata = _metadata(tokens)
    tensors = _tensors(tokens, random.Random(seed))  # noqa: S311 - the same each time, no secret
    head, data = bytearray(), bytearray()
    for name, shape, values in tensors:
        # Dimensions are counted from the one that lies closest in memory.
        head += _text(name) + struct.pack("<I", len(shape))
        head += struct.pack(f"<{len(shape)}Q", *reversed(shape)) + struct.pack("<IQ", 0, len(data))  # 0: 32-bit floats
        data += _little(values)
        data += bytes(-len(data) % ALIGNMENT)
    begin = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(metadata))
    begin += b"".join(_text(key) + struct.pack("<I", kind) + _value(kind, value) for key, kind, value in metadata)
    begin += head
    return begin + bytes(-len(begin) % ALIGNMENT) + data


def _metadata(tokens: list[tuple[str, int]]) -> list[tuple[str, int, Any]]:
    scores = [-float(number) for number in range(len(tokens))]
    return [
        ("general.architecture", STRING, "llama"),
        ("general.name", STRING, "tiny-random"),
        ("general.alignment", UINT32, ALIGNMENT),
        ("llama.context_length", UINT32, CONTEXT),
        ("llama.embedding_length", UINT32, WIDTH),
        ("llama.block_count", UINT32, LAYERS),
        ("llama.feed_forward_length", UINT32, INNER),
        ("llama.attention.head_count", UINT32, HEADS),
        ("llama.attention.head_count_kv", UINT32, HEADS),
        ("llama.attention.layer_norm_rms_epsilon", FLOAT32, 1e-5),
        ("llama.rope.dimension_count", UINT32, WIDTH // HEADS),
        ("llama.vocab_size", UINT32, len(tokens)),
        ("tokenizer.ggml.model", STRING, "llama"),
        ("tokenizer.ggml.pre", STRING, "default"),
        ("tokenizer.ggml.tokens", ARRAY, (STRING, [text for text, _ in tokens])),
        ("tokenizer.ggml.scores", ARRAY, (FLOAT32, scores)),
        ("tokenizer.ggml.token_type", ARRAY, (INT32, [kind for _, kind in tokens])),
        ("tokenizer.ggml.unknown_token_id", UINT32, 0),
        ("tokenizer.ggml.bos_token_id", UINT32, 1),
        ("tokenizer.ggml.eos_token_id", UINT32, 2),
        ("tokenizer.ggml.add_bos_token", BOOL, True),
        ("tokenizer.ggml.add_space_prefix", BOOL, True),
        ("tokenizer.chat_template", STRING, CHAT),
    ]


def _tensors(tokens: list[tuple[str, int]], chance: random.Random) -> list[tuple[str, tuple[int, ...], array[float]]]:
    def weights(*shape: int) -> tuple[tuple[int, ...], array[float]]:
        count = shape[0] * shape[1]
        return shape, array("f", (chance.gauss(0.0, 0.08) for _ in range(count)))

    ones = ((WIDTH,), array("f", [1.0] * WIDTH))
    shape, output = weights(len(tokens), WIDTH)
    for row, (_, kind) in enumerate(tokens):
        if kind != NORMAL:  # such tokens never win
            output[row * WIDTH : (row + 1) * WIDTH] = array("f", bytes(4 * WIDTH))
    tensors = [
        ("token_embd.weight", *weights(len(tokens), WIDTH)),
        ("output_norm.weight", *ones),
        ("output.weight", shape, output),
    ]
    for layer in range(LAYERS):
        block = f"blk.{layer}."
        tensors += [(f"{block}{name}.weight", *ones) for name in ("attn_norm", "ffn_norm")]
        tensors += [
            (f"{block}{name}.weight", *weights(WIDTH, WIDTH)) for name in ("attn_q", "attn_k", "attn_v", "attn_output")
        ]
        tensors += [(f"{block}{name}.weight", *weights(INNER, WIDTH)) for name in ("ffn_gate", "ffn_up")]
        tensors.append((f"{block}ffn_down.weight", *weights(WIDTH, INNER)))
    return tensors


def _text(text: str) -> bytes:
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(kind: int, value: Any) -> bytes:
    if kind == STRING:
        return _text(value)
    if kind == ARRAY:
        inner, items = value
        return struct.pack("<IQ", inner, len(items)) + b"".join(_value(inner, item) for item in items)
    return struct.pack({UINT32: "<I", INT32: "<i", FLOAT32: "<f", BOOL: "<?"}[kind], value)


def _little(values: array[float]) -> bytes:
    if sys.byteorder == "big":
        values = array("f", values)
        values.byteswap()
    return values.tobytes()


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(tiny_gguf())
