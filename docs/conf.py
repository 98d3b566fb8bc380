"""How Sphinx makes a site of these pages (`make docs`); they are plain Markdown, and know nothing of it.

The contents at the side are the lists of links that a page has anyway: the README's under "Next", each kind of page a
caption, and those of the decisions.
"""

from __future__ import annotations

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
    """The pages below this one, by caption, in the order in which it links to them."""
    if page == root_doc:
        items = re.split(r"^- ", text.partition("\n## Next\n")[2], flags=re.MULTILINE)[1:]
        return [(re.split(r"[,:]", item)[0], _linked(item, "")) for item in items]
    if page == "docs/decisions/README":
        return [("Decisions", _linked(text, "docs/decisions/"))]
    return []


def _linked(text: str, folder: str) -> list[str]:
    return [f"/{folder}{target}" for target in re.findall(r"\]\(([^)#]+)\.md\)", text)]


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
