"""What a GGUF file says of itself, and whether it is whole: where its tensors begin, of which type and shape they are.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Sizes of types: ggml/src/ggml.c of
https://github.com/ggml-org/llama.cpp, `type_traits`.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING

from anklume_images.errors import AnklumeError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["Gguf", "check_whole", "read_gguf"]

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)  # which have the same layout
_SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # bytes, by the type of a value
_STRING, _ARRAY = 8, 9
_FORMS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_ALIGNMENT = "general.alignment"
_MOST = 1 << 24  # of keys, tensors, or bytes of one text: more is no model
# Values and bytes of a block, by the type of a tensor.
_BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 36),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292),
    16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82),
    23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2),
    34: (256, 54), 35: (256, 66), 39: (32, 17),
}  # fmt: skip


class _CutError(Exception):
    """The file ends within its description."""


class _UnknownError(Exception):
    """The description is not as it is known here."""


@dataclass(frozen=True)
class Gguf:
    """`keys` are texts and numbers of the file's description, lists left out; `parameters` is how many weights it has.

    `end` is where its last tensor ends, in bytes from the file's beginning.
    """

    keys: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    parameters: int = 0
    end: int = 0

    def text(self, key: str) -> str:
        """A key's text; empty where there is none."""
        value = self.keys.get(key, "")
        return value if isinstance(value, str) else ""

    def number(self, key: str) -> int | None:
        """A key's number; None where there is none."""
        value = self.keys.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None


def check_whole(path: Path) -> None:
    """AnklumeError when a file is no GGUF file, or ends before its last tensor does.

    Of a tensor of a type that is not known here only its beginning is looked at. A file whose description is not as
    it is known here, of a newer version say, passes.
    """
    read_gguf(path)


def read_gguf(path: Path) -> Gguf:
    """What a file says of itself, as `check_whole` looks at it; of one that cannot be judged, nothing."""
    hint = "get it again, and compare its sha256 with its publisher's"
    with path.open("rb") as stream:
        start = stream.read(8)
        if start[:4] != _MAGIC:
            raise AnklumeError("this is no GGUF file", where=str(path), hint="models of that form begin with GGUF")
        if len(start) == 8 and struct.unpack("<I", start[4:])[0] not in _VERSIONS:
            return Gguf()
        size = path.stat().st_size
        try:
            description = _read(stream)
        except _CutError:
            description = None
        except _UnknownError:
            return Gguf()
    if description is None or size < description.end:
        wanted = f"{description.end:,}" if description else "more than that"
        raise AnklumeError(f"the model is cut short: {size:,} bytes of {wanted}", where=str(path), hint=hint)
    return description


def _read(stream: IO[bytes]) -> Gguf:
    tensors, count = _number(stream, "Q"), _number(stream, "Q")
    keys: dict[str, str | int | float | bool] = {}
    for _ in range(_bounded(count)):
        key, kind = _text(stream).decode(errors="replace"), _number(stream, "I")
        if kind == _STRING:
            keys[key] = _text(stream).decode(errors="replace")
        elif kind in _FORMS:
            keys[key] = _scalar(stream, kind)
        else:
            _skip_list(stream, kind)
    alignment = keys.get(_ALIGNMENT)
    alignment = max(1, alignment) if isinstance(alignment, int) else 32
    ends, parameters = [0], 0
    for _ in range(_bounded(tensors)):
        _text(stream)
        shape = [_number(stream, "Q") for _ in range(min(_number(stream, "I"), 8))]
        kind, offset = _number(stream, "I"), _number(stream, "Q")
        count, width = _BLOCKS.get(kind, (1, 0))
        ends.append(offset + math.prod(shape) // count * width)
        parameters += math.prod(shape)
    return Gguf(keys, parameters, -(-stream.tell() // alignment) * alignment + max(ends))


def _skip_list(stream: IO[bytes], kind: int) -> None:
    if kind != _ARRAY:
        raise _UnknownError
    inner, count = _number(stream, "I"), _bounded(_number(stream, "Q"))
    if inner in _SCALARS:
        _take(stream, _SCALARS[inner] * count)
    elif inner == _STRING:
        _skip_texts(stream, count)
    else:
        raise _UnknownError


def _skip_texts(stream: IO[bytes], count: int) -> None:
    """Past a vocabulary: some hundred thousand texts, which takes as long as all the rest."""
    read, length = stream.read, struct.Struct("<Q").unpack
    for _ in range(count):
        head = read(8)
        if len(head) < 8:
            raise _CutError
        size = _bounded(length(head)[0])
        if len(read(size)) < size:
            raise _CutError


def _scalar(stream: IO[bytes], kind: int) -> int | float | bool:
    value: int | float | bool = struct.unpack(f"<{_FORMS[kind]}", _take(stream, _SCALARS[kind]))[0]
    return value


def _number(stream: IO[bytes], form: str) -> int:
    return int(struct.unpack(f"<{form}", _take(stream, struct.calcsize(f"<{form}")))[0])


def _text(stream: IO[bytes]) -> bytes:
    return _take(stream, _bounded(_number(stream, "Q")))


def _bounded(count: int) -> int:
    if count > _MOST:
        raise _UnknownError
    return count


def _take(stream: IO[bytes], count: int) -> bytes:
    taken = stream.read(count)
    if len(taken) < count:
        raise _CutError
    return taken
