"""How Sphinx makes a site of these pages (`make docs`); they are plain Markdown, and know nothing of it.

The contents at the side are the lists of links that pages have anyway: that of docs/README.md, where each kind of page
is a section, the README's of examples, and that of the decisions.
"""

from __future__ import annotations

import posixpath
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from anklume_images import __version__  # noqa: E402  (found by the line before)

project = "anklume-images"
release = __version__
extensions = ["myst_parser"]
root_doc = "README"
include_patterns = ["*.md", "docs/**.md", "examples/**.md"]
exclude_patterns = [".*", "dist"]
myst_heading_anchors = 6
suppress_warnings = ["misc.highlighting_failure"]  # blocks of JSON leave things out: …
html_theme = "furo"  # brings all that its pages load
html_title = f"{project} {release}"
html_copy_source = False


def contents(page: str, text: str) -> list[tuple[str, list[str]]]:
    """The pages below this one, by caption, in the order in which they are linked to."""
    if page == "docs/decisions/README":
        return [("Decisions", _linked(text, "docs/decisions"))]
    if page != root_doc:
        return []
    kinds = re.split(r"^## ", (ROOT / "docs/README.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    examples = [target for target in _linked(text, "") if target.startswith("/examples/")]
    return [
        ("All of it", ["/docs/README"]),
        *((kind.partition("\n")[0], _linked(kind, "docs")) for kind in kinds[1:]),
        ("Examples", examples),
    ]


def _linked(text: str, folder: str) -> list[str]:
    targets = re.findall(r"\]\(([^)#:]+)\.md\)", text)
    return [posixpath.normpath(posixpath.join("/", folder, target)) for target in targets]


def _add_contents(_app: Sphinx, page: str, source: list[str]) -> None:
    for caption, pages in contents(page, source[0]):
        source[0] += "\n".join(["\n```{toctree}", ":hidden:", f":caption: {caption}", *pages, "```\n"])


def _add_index(app: Sphinx, error: Exception | None) -> None:
    if error is None:
        shutil.copy(Path(app.outdir) / f"{root_doc}.html", Path(app.outdir) / "index.html")


def setup(app: Sphinx) -> None:
    """Connect the two functions above to the moments that they are for."""
    app.connect("source-read", _add_contents)
    app.connect("build-finished", _add_index)
