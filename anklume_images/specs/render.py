"""Render a spec's `distrobuilder.yaml.j2` to the definition that distrobuilder builds from.

A template finds `spec`, `root`, `arch`, `machine`, `epoch`, `mirror`, `templates` and the filter `yaml`; a name that
is not there is an error. It is looked up in the spec's folder, then in the `_partials` of each folder of specs.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import jinja2
import yaml

from anklume_images.architectures import MACHINES
from anklume_images.errors import AnklumeError, InvalidFileError, Problem
from anklume_images.nearest import nearest
from anklume_images.specs.values import value_text
from anklume_images.specs.yamlfile import loads

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from anklume_images.specs.model import Spec

__all__ = ["MIRROR", "TEMPLATE", "render"]

TEMPLATE = "distrobuilder.yaml.j2"
MIRROR = "http://127.0.0.1"
"""The loopback mirror inside the sealed network namespace, on port 80."""

"""Debian's name of an architecture to the kernel's, which distrobuilder and Incus use."""

_SETTING = re.compile(r"user\.anklume\.([A-Za-z0-9_]+)|\bproperties\.([A-Za-z0-9_]+)")


def render(spec_chain: Sequence[Spec], arch: str, epoch: int, partial_folders: Sequence[Path]) -> str:
    """The distrobuilder definition of the last spec of a chain that begins with its root image."""
    root, spec = spec_chain[0], spec_chain[-1]
    if arch not in spec.architectures:
        raise AnklumeError(
            f"'{spec.name}' is not made for {arch}",
            where=str(spec.spec_file),
            hint=f"architectures: {', '.join(spec.architectures)}",
        )
    problems = [problem for link in spec_chain for problem in _undeclared(link, spec_chain)]
    if problems:
        raise InvalidFileError(problems)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([spec.folder, *partial_folders]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701  # the result is YAML for distrobuilder, not HTML
    )
    environment.filters["yaml"] = _yaml
    context = {
        "spec": spec,
        "root": root,
        "arch": arch,
        "machine": MACHINES[arch],
        "epoch": epoch,
        "mirror": MIRROR,
        "files": [_dump(item.path, item.mode, spec.contents[item.source]) for item in spec.files],
        "templates": list(_template_entries(spec_chain)),
    }
    file = str(spec.folder / TEMPLATE)
    try:
        text = environment.get_template(TEMPLATE).render(context)
    except jinja2.TemplateSyntaxError as error:
        where = error.filename or file
        raise _invalid(where, error.lineno, "template-syntax", str(error.message)) from None
    except jinja2.TemplateNotFound as error:
        where, line = (file, 1) if error.name == TEMPLATE else _template_position(error, file)
        names = environment.list_templates()
        close = nearest(error.name, names)
        hint = f"did you mean '{close}'?" if close else None
        raise _invalid(where, line, "no-such-template", f"no template '{error.name}'", hint) from None
    except jinja2.UndefinedError as error:
        where, line = _template_position(error, file)
        word = re.search(r"'(\w+)' is undefined", str(error.message))
        close = nearest(word[1], context) if word else None
        hint = f"did you mean '{close}'?" if close else None
        raise _invalid(where, line, "undefined-variable", str(error.message), hint) from None
    except Exception as error:  # noqa: BLE001  # a filter or an expression of the template can raise anything
        where, line = _template_position(error, file)
        raise _invalid(where, line, "template-failed", f"{type(error).__name__}: {error}") from None
    text = text.rstrip("\n") + "\n"
    rendered = loads(text.encode(), f"{file} (rendered)")
    if not isinstance(rendered.data, dict):
        raise _invalid(file, 1, "wrong-type", "the rendered definition is not a mapping")
    return text


def _invalid(file: str, line: int, code: str, message: str, hint: str | None = None) -> InvalidFileError:
    return InvalidFileError([Problem(file, line, 1, code, message, hint=hint)])


def _template_position(error: BaseException, file: str) -> tuple[str, int]:
    """The innermost template line of a traceback; Jinja2 rewrites its frames to template files and lines."""
    where, trace = (file, 1), error.__traceback__
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if name.endswith((".j2", ".sh", ".yaml")):
            where = (name, trace.tb_lineno)
        trace = trace.tb_next
    return where


class _Dumper(yaml.SafeDumper):
    """Block style, with multi-line text as it would be read in the file itself."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _represent_text)


def _yaml(value: Any) -> str:
    """A value as YAML on its own lines, or on one line when it is a scalar."""
    if hasattr(value, "model_dump"):
        value = value.model_dump(mode="json")
    if isinstance(value, tuple):
        value = list(value)
    text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, width=1 << 20, allow_unicode=True)
    return text.removesuffix("...\n").rstrip("\n")


def _dump(path: str, mode: str, content: str) -> dict[str, Any]:
    # Explicit modes: distrobuilder would otherwise follow the umask. It adds a final newline where there is none.
    return {"path": path, "generator": "dump", "types": ["container"], "mode": mode, "content": content}


def _template_entries(spec_chain: Sequence[Spec]) -> Iterator[dict[str, Any]]:
    """The `template` entries of a whole chain: each image's metadata is made anew, so bases' templates return.

    The defaults of all variables are the template's `properties`. A file made by Incus gets mode 0644, one that
    is there keeps its mode: hence an empty file first.
    """
    templates = {item.path: (link, item) for link in spec_chain for item in link.templates}
    properties = {name: value_text(item.default) for link in spec_chain for name, item in link.variables.items()}
    taken = {"hostname", "hosts"}
    for path, (link, item) in sorted(templates.items()):
        name = path.strip("/").replace("/", "-")
        while name in taken:
            name += "-"
        taken.add(name)
        yield _dump(path, item.mode, "")
        yield {
            "path": path,
            "generator": "template",
            "types": ["container"],
            "name": name,
            "template": {"when": list(item.when), "properties": dict(sorted(properties.items()))},
            "content": link.contents[item.source],
        }


def _undeclared(spec: Spec, spec_chain: Sequence[Spec]) -> Iterator[Problem]:
    """Settings that a template reads and no spec of the chain declares: nobody could set them."""
    known = {name for link in spec_chain for name in link.variables}
    for item in spec.templates:
        for number, line in enumerate(spec.contents[item.source].splitlines(), start=1):
            for match in _SETTING.finditer(line):
                name = match[1] or match[2]
                if name not in known:
                    close = nearest(name, known)
                    hint = f"did you mean '{close}'?" if close else "declare it under 'variables'"
                    message = f"no variable '{name}' is declared"
                    file = str(spec.folder / item.source)
                    yield Problem(file, number, match.start() + 1, "undeclared-variable", message, hint=hint)
