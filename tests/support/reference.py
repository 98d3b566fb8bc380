"""What the docs have from declarations: tables of keys, exit codes, what needs a restart, images with their variables.

`make reference` writes it anew. In a page it stands between `<!-- keys: NAME -->` and `<!-- end of keys -->`.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_origin

from anklume_images.cli.exit_codes import EXIT_CODES, OF_EVERY_COMMAND
from anklume_images.settings import SETTINGS
from anklume_images.specs.catalog import Catalog, builtin_specs
from anklume_images.specs.keys import (
    DebianInputs,
    Healthcheck,
    PythonInputs,
    ReleaseInput,
    SpecDocument,
    StaticFile,
    Suite,
    Template,
    Variable,
    Volume,
)
from anklume_images.specs.values import value_text
from launcher.cli.exit_codes import EXIT_CODES as LAUNCH_CODES
from launcher.infra.keys import CHANGES, Keys, Read
from launcher.infra.live import LIVE_CONFIG, RESTARTING_CONFIG, RESTARTING_DEVICES
from launcher.infra.schema import SECTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

    from anklume_images.cli.exit_codes import Codes
    from anklume_images.specs.model import Spec
    from launcher.infra.keys import KeyInfo

REFERENCE = Path(__file__).parents[2] / "docs/reference"
EXAMPLES = REFERENCE.parents[1] / "examples/specs"
PAGES = [
    *(REFERENCE / f"{name}.md" for name in ("infra", "settings", "spec", "variables", "commands", "launch-commands")),
    REFERENCE.parent / "explanation/apply.md",
]
_TABLE = re.compile(r"(<!-- keys: (\S+) -->\n).*?(<!-- end of keys -->\n)", re.DOTALL)


def written(page: str) -> str:
    """The page with its tables as the declarations have them."""
    return _TABLE.sub(lambda match: f"{match[1]}\n{_named(match[2])}\n{match[3]}", page)


def sections(page: str) -> list[str]:
    """The names of the tables in a page."""
    return [match[2] for match in _TABLE.finditer(page)]


def _named(name: str) -> str:
    return OTHERS[name]() if name in OTHERS else table(SECTIONS[name])


def table_of_settings() -> str:
    """The settings, and how each is written in the environment."""
    lines = ["| key | in the environment | default | meaning |", "|---|---|---|---|"]
    for name, setting in SETTINGS.items():
        variable = f"`ANKLUME_{name.upper()}={setting.written}`"
        lines.append(f"| `{name}` | {variable} | {setting.default} | {setting.meaning} |")
    return "\n".join(lines) + "\n"


def keys_of_a_spec(*models: type[BaseModel]) -> str:
    """The keys of a part of a spec.yml, or of two parts that share some."""
    fields = {field.alias or name: field for model in models for name, field in model.model_fields.items()}
    lines = [f"| `{name}` | {_usual(field)} | {field.description} |" for name, field in fields.items()]
    return "\n".join(["| key | default | meaning |", "|---|---|---|", *lines]) + "\n"


def _usual(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "-"
    if isinstance(value, tuple):
        return f"`[{', '.join(value)}]`"
    if isinstance(value, str) and value.isdigit():
        return f'`"{value}"`'
    return f"`{str(value).lower()}`" if isinstance(value, bool | int | str) else "`{}`"


def variables_of_images() -> str:
    """A section for each image with its variants: what it is, and its own variables."""
    catalog = Catalog.load([builtin_specs(), EXAMPLES])
    specs = [catalog.get(name) for name in catalog.names()]
    return "\n".join(
        _image(spec, [one.name for one in specs if one.variant and one.folder == spec.folder])
        for spec in specs
        if not spec.variant
    )


def _image(spec: Spec, variants: list[str]) -> str:
    about = [f"{spec.description}."]
    if spec.base:
        about.append(f"Made from `{spec.base}`.")
    if variants:
        about.append(f"Variants: {', '.join(f'`{name}`' for name in variants)}.")
    if spec.volumes:
        about.append(f"Volumes: {', '.join(f'`{volume.path}` ({volume.kind})' for volume in spec.volumes)}.")
    if spec.ports:
        about.append(f"Ports: {', '.join(map(str, spec.ports))}.")
    lines = [f"## {spec.name}", "", " ".join(about), ""]
    if spec.variables:
        lines += ["| variable | type | default | meaning |", "|---|---|---|---|", *_variables(spec), ""]
    return "\n".join(lines)


def _variables(spec: Spec) -> Iterator[str]:
    for name, variable in spec.variables.items():
        kind = f"{variable.type}, secret" if variable.secret else variable.type
        default = value_text(variable.default)
        yield f"| `{name}` | {kind} | {f'`{default}`' if default else '-'} | {variable.description} |"


def exit_codes(own: Mapping[str, Codes]) -> str:
    """The codes of every command, and those of single ones."""
    rows = {(code, text): ["every command"] for code, text in OF_EVERY_COMMAND.items()}
    for command, codes in own.items():
        for code, text in codes.items():
            rows.setdefault((code, text), []).append(f"`{command}`")
    ordered = sorted(rows, key=lambda row: int(row[0]) if row[0].isdigit() else 200)
    lines = [f"| {code} | {', '.join(rows[code, text])} | {text} |" for code, text in ordered]
    return "\n".join(["| code | of | meaning |", "|---|---|---|", *lines]) + "\n"


def live_or_restart() -> str:
    """What of an instance Incus changes while it runs."""
    config = ", ".join(f"`{name}`" for name in LIVE_CONFIG)
    but = ", ".join(f"`{name}*`" if name.endswith(".") else f"`{name}`" for name in RESTARTING_CONFIG)
    devices = ", ".join(f"`{kind}`" for kind in RESTARTING_DEVICES)
    rows = [
        (f"config below {config}", f"all other config; {but}"),
        ("all other devices", f"devices of type {devices}; `root`; folders of NVIDIA's driver"),
    ]
    return "\n".join(["| live | RESTART |", "|---|---|", *(f"| {live} | {restart} |" for live, restart in rows)]) + "\n"


def what_changes_do() -> str:
    """What the words mean that the tables of keys have for a change."""
    rows = [f"| {word} | {text} |" for word, text in CHANGES.values() if text]
    return "\n".join(["| change | meaning |", "|---|---|", *rows]) + "\n"


OTHERS: dict[str, Callable[[], str]] = {
    "changes": what_changes_do,
    "live": live_or_restart,
    "settings": table_of_settings,
    "spec": partial(keys_of_a_spec, SpecDocument),
    "spec-debian": partial(keys_of_a_spec, DebianInputs),
    "spec-suites": partial(keys_of_a_spec, Suite),
    "spec-python": partial(keys_of_a_spec, PythonInputs),
    "spec-files": partial(keys_of_a_spec, ReleaseInput),
    "spec-texts": partial(keys_of_a_spec, StaticFile, Template),
    "spec-variables": partial(keys_of_a_spec, Variable),
    "spec-volumes": partial(keys_of_a_spec, Volume),
    "spec-healthcheck": partial(keys_of_a_spec, Healthcheck),
    "images": variables_of_images,
    "exit-codes-of-images": partial(exit_codes, EXIT_CODES),
    "exit-codes-of-launch": partial(exit_codes, LAUNCH_CODES),
}
"""What is no section of an infra.yml, by its name in the pages."""


def table(section: type[Keys]) -> str:
    """The keys of one section; those that do nothing here come last, those of one meaning in one line."""
    lines = ["| key | type | default | change | meaning |", "|---|---|---|---|---|"]
    fields = {field.alias or name: field for name, field in section.model_fields.items()}
    infos = section.infos()
    for name, info in infos.items():
        if not info.foreign:
            new = "*new*: " if info.new else ""
            kind = info.kind or _kind(fields[name])
            change = CHANGES[info.changing][0] if info.changing else ""
            lines.append(f"| `{name}` | {kind} | {_default(info, fields[name])} | {change} | {new}{info.meaning} |")
    foreign: dict[str, list[str]] = {}
    for name, info in infos.items():
        if info.foreign:
            foreign.setdefault(info.meaning, []).append(f"`{name}`")
    lines += [f"| {', '.join(names)} | | - | | {meaning} |" for meaning, names in foreign.items()]
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
