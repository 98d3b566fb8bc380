"""The variables of images as a file sets them: group_vars, then host_vars, then `vars`, the later ones winning."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anklume_images.specs.values import value_problem, value_text
from launcher.infra.entries import written_names
from launcher.infra.images import NO_IMAGE
from launcher.infra.report import shown
from launcher.infra.varfiles import Layer, VariableFiles

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anklume_images.errors import Problem
    from anklume_images.specs.keys import Variable
    from anklume_images.specs.yamlfile import KeyPath
    from launcher.infra.entries import WrittenMachine
    from launcher.infra.images import ImageIndex
    from launcher.infra.model import ImageChoice
    from launcher.infra.report import Report

__all__ = ["read_variables"]

_ALL = "all"  # Ansible's group of every machine
_FRAMEWORK = ("ansible_", "instance_", "domain_", "incus_", "psot_")


def read_variables(
    machines: Sequence[WrittenMachine], choices: Mapping[str, ImageChoice], shelf: ImageIndex, report: Report
) -> dict[str, dict[str, str]]:
    """What is set for each machine of the enabled domains, as Incus' configuration holds it."""
    reader = _Reader(shelf, report)
    values = {machine.name: reader.read(machine, choices[machine.name]) for machine in machines if machine.enabled}
    reader.finish()
    return values


class _Reader:
    def __init__(self, shelf: ImageIndex, report: Report) -> None:
        self._shelf = shelf
        self._report = report
        self._declared = shelf.declared()
        self._groups = VariableFiles(report.source.beside / "group_vars", report)
        self._hosts = VariableFiles(report.source.beside / "host_vars", report)
        self._errors: dict[Problem, None] = {}  # a file of a group is read for each of its machines
        self._warnings: dict[Problem, None] = {}
        self._environment: dict[KeyPath, Problem] = {}

    def read(self, machine: WrittenMachine, image: ImageChoice) -> dict[str, str]:
        """What is set for one machine: of a group's variables those that its image has, of its own all."""
        machine_layer = Layer(machine.data["vars"], self._report.source, (*machine.path, "vars"))
        groups = [self._groups.get(_ALL), self._groups.get(machine.domain) if machine.domain != _ALL else None]
        layers = [layer for layer in (*groups, self._hosts.get(machine.name)) if layer is not None]
        for layer in layers:
            self._check_names(layer)
        if image is NO_IMAGE:
            return {}
        variables = self._shelf.variables(image.store)
        self._warn_of_environment(machine, variables)
        values: dict[str, tuple[Layer, Any]] = {}
        for layer in (*layers, machine_layer):
            for name, value in layer.values.items():
                if name in variables:
                    if self._is_right(layer, name, variables[name], value):
                        values[name] = (layer, value)
                elif layer is machine_layer or layer is self._hosts.get(machine.name):
                    self._not_of_image(layer, name, machine, image, variables)
        texts = {name: (layer, value_text(value)) for name, (layer, value) in values.items()}
        for name, (layer, text) in texts.items():
            if not text:
                self._check_empty(layer, name, variables[name])
        return {name: text for name, (_, text) in texts.items() if text}

    def _warn_of_environment(self, machine: WrittenMachine, variables: Mapping[str, Variable]) -> None:
        """systemd hands the environment that Incus gives it to no service; a profile's is told of once."""
        takers = [name for name, variable in variables.items() if variable.type == "environment"]
        hint = f"vars: {{{takers[0]}: {{NAME: …}}}} is seen by the service" if takers else None
        for key, path in machine.settings("environment.").items():
            message = f"services of the machine do not see {shown(key)}; only 'incus exec' does"
            problem = self._report.source.problem(path, "environment-not-of-services", message, key=True, hint=hint)
            if hint or path not in self._environment:  # of the machines that have a profile, one may know a way
                self._environment[path] = problem

    def finish(self) -> None:
        """Hand over what was found, each once."""
        domains, machines = written_names(self._report.source.data)
        self._groups.warn_about_others(domains | {_ALL}, "domain")
        self._hosts.warn_about_others(machines, "machine")
        self._report.image_errors += self._errors
        self._report.warnings += [*self._warnings, *self._environment.values()]

    def _check_names(self, layer: Layer) -> None:
        for name, value in layer.values.items():
            if name in self._declared:
                if layer.ansible and isinstance(value, str) and "{{" in value:
                    message = f"{shown(name)} is taken as it stands: nothing reads expressions here"
                    self._warnings[layer.problem(name, "ansible-expression", message)] = None
            elif name not in layer.managed and not name.startswith(_FRAMEWORK):
                message = f"no image has a variable {shown(name)}"
                hint = self._report.did_you_mean(name, self._declared) or "anklume-images show NAME lists them"
                self._errors[layer.problem(name, "unknown-variable", message, key=True, hint=hint)] = None

    def _not_of_image(
        self, layer: Layer, name: str, machine: WrittenMachine, image: ImageChoice, variables: Mapping[str, Variable]
    ) -> None:
        """A variable that the machine's image does not have, set for that machine by name."""
        if name in layer.managed or (layer.ansible and (name not in self._declared)):
            return  # the framework's, or reported with the file
        message = f"the image of '{machine.name}', {image.ref}, has no variable {shown(name)}"
        hint = self._report.did_you_mean(name, variables)
        if hint is None and name in self._declared:
            hint = f"{', '.join(self._declared[name])} has it"
        self._errors[layer.problem(name, "unknown-variable", message, key=True, hint=hint)] = None

    def _is_right(self, layer: Layer, name: str, variable: Variable, value: object) -> bool:
        odd = layer.scalar(name)
        if odd and odd.other_number and variable.type in ("port", "integer"):
            self._errors[layer.problem(name, "changed-by-yaml", f"{shown(name)} is {odd}", hint=odd.plain)] = None
            return False
        wrong = value_problem(variable.type, value, variable.max_bytes)
        if wrong is None:
            return True
        message, hint = f"{shown(name)} {wrong.message}", wrong.hint
        if odd:
            message, hint = f"{message}, and is {odd}", odd.quoted if hint else None
        self._errors[layer.problem(name, "wrong-variable", message, hint=hint)] = None
        return False

    def _check_empty(self, layer: Layer, name: str, variable: Variable) -> None:
        """Incus keeps no empty values: an empty one cannot beat a default that is not."""
        default = value_text(variable.default)
        if default:
            message = f"{shown(name)} cannot be empty: Incus keeps no empty values, and the image would take {default}"
            self._errors[layer.problem(name, "empty-variable", message)] = None
