"""The tables of docs/reference that come from the declarations of keys: `make reference` writes them anew.

In a page they stand between `<!-- keys: NAME -->` and `<!-- end of keys -->`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_origin

from anklume_images.settings import SETTINGS
from launcher.infra.keys import Keys, Read
from launcher.infra.schema import SECTIONS

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from launcher.infra.keys import KeyInfo

REFERENCE = Path(__file__).parents[2] / "docs/reference"
PAGES = [REFERENCE / "infra.md", REFERENCE / "settings.md"]
_TABLE = re.compile(r"(<!-- keys: (\S+) -->\n).*?(<!-- end of keys -->\n)", re.DOTALL)


def written(page: str) -> str:
    """The page with its tables as the declarations have them."""
    return _TABLE.sub(lambda match: f"{match[1]}\n{_named(match[2])}\n{match[3]}", page)


def sections(page: str) -> list[str]:
    """The names of the tables in a page."""
    return [match[2] for match in _TABLE.finditer(page)]


def _named(name: str) -> str:
    return table_of_settings() if name == "settings" else table(SECTIONS[name])


def table_of_settings() -> str:
    """The settings, and how each is written in the environment."""
    lines = ["| key | in the environment | default | meaning |", "|---|---|---|---|"]
    for name, setting in SETTINGS.items():
        variable = f"`ANKLUME_{name.upper()}={setting.written}`"
        lines.append(f"| `{name}` | {variable} | {setting.default} | {setting.meaning} |")
    return "\n".join(lines) + "\n"


def table(section: type[Keys]) -> str:
    """The keys of one section; those that do nothing here share the last line."""
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    fields = {field.alias or name: field for name, field in section.model_fields.items()}
    infos = section.infos()
    for name, info in infos.items():
        if not info.foreign:
            new = "*new*: " if info.new else ""
            kind = info.kind or _kind(fields[name])
            lines.append(f"| `{name}` | {kind} | {_default(info, fields[name])} | {new}{info.meaning} |")
    foreign = ", ".join(f"`{name}`" for name, info in infos.items() if info.foreign)
    if foreign:
        lines.append(f"| {foreign} | | - | the framework's own: accepted, and named in one notice |")
    return "\n".join(lines) + "\n"


def _kind(field: FieldInfo) -> str:
    for mark in field.metadata:
        if isinstance(mark, Read):
            return mark.kind
    annotation: Any = field.annotation
    return {list: "list", dict: "map"}.get(get_origin(annotation), "mapping")


def _default(info: KeyInfo, field: FieldInfo) -> str:
    if info.required or info.present:
        return "required" if info.required else "required, may be empty"
    if info.default:
        return info.default
    value = field.default
    if field.default_factory is not None or value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return {(): "`[]`"}.get(value, f"`{value}`") if not isinstance(value, dict) else "`{}`"


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(written(page.read_text("utf-8")), "utf-8")
