"""Text is UTF-8 wherever it is read or written, whatever the locale says."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[2]
FILES = [path for name in ("anklume_images", "launcher", "image_specs") for path in (ROOT / name).rglob("*.py")]
# How many values come before the encoding, by the name of what is called.
TEXT = {"read_text": 0, "write_text": 1}
OPENERS = {"open", "NamedTemporaryFile", "TemporaryFile", "fdopen"}
NOT_FILES = {"os", "tarfile", "zipfile", "archive", "lzma", "gzip", "webbrowser"}  # and members of an archive
PROGRAMS = {"text", "universal_newlines"}


def without(tree: ast.AST) -> Iterator[ast.Call]:
    """The calls that leave the encoding to the locale."""
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        given = {keyword.arg for keyword in call.keywords}
        if "encoding" in given:
            continue
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        within = getattr(getattr(call.func, "value", None), "id", "")
        if (name in TEXT and len(call.args) <= TEXT[name]) or given & PROGRAMS:
            yield call
        elif name in OPENERS and (within not in NOT_FILES or name == "fdopen"):
            modes = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
            texts = [node.value for node in modes if isinstance(node, ast.Constant) and isinstance(node.value, str)]
            if not any("b" in text and len(text) <= 4 for text in texts) and (texts or name != "NamedTemporaryFile"):
                yield call


def test_no_file_and_no_program_is_read_as_the_locale_says() -> None:
    assert len(FILES) > 100
    found = [
        f"{path.relative_to(ROOT)}:{call.lineno}" for path in FILES for call in without(ast.parse(path.read_bytes()))
    ]
    assert found == []


def test_the_rule_sees_what_it_is_for() -> None:
    wrong = "p.read_text()\np.write_text(x)\np.open()\np.open('w')\nopen(f)\nrun(a, text=True)\nos.fdopen(1, 'w')\n"
    right = "p.read_text('utf-8')\np.open('rb')\nos.open(p, 0)\nopen(f, encoding='utf-8')\nrun(a)\ntarfile.open(p)\n"
    assert len(list(without(ast.parse(wrong)))) == 7
    assert list(without(ast.parse(right))) == []
