"""Turn an infra.yml, or a folder that means the same, into an `Infra`; every error is found at once, with its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anklume_images.errors import InvalidFileError, Problem
from launcher.gpu_policy.refusals import POLICY_CODES
from launcher.infra import rules
from launcher.infra.addressing import assign
from launcher.infra.build import build_infra
from launcher.infra.config import check_config
from launcher.infra.document import read_source
from launcher.infra.entries import entries
from launcher.infra.gpus import check_gpus
from launcher.infra.host import HostFacts
from launcher.infra.images import NO_IMAGE, ImageIndex, choose_images
from launcher.infra.mounts import check_mounts, shared_mounts
from launcher.infra.names import Names
from launcher.infra.reading import read_document
from launcher.infra.report import Report
from launcher.infra.variables import read_variables
from launcher.infra.wiring import wire

if TYPE_CHECKING:
    from pathlib import Path

    from anklume_images.specs.catalog import Catalog
    from launcher.infra.document import Source
    from launcher.infra.model import Infra

__all__ = ["Checked", "RefusedFileError", "check_infra", "load_infra"]


class RefusedFileError(InvalidFileError):
    """Nothing stands against the file but its own GPU policy."""

    exit_code = 4


@dataclass(frozen=True)
class Checked:
    """What a check found.

    `infra` is there when nothing stands against the file, and also when only images or variables do: machines and
    addresses are known then, but it must not be launched. `names` are those that its things have on this host.
    """

    errors: tuple[Problem, ...]
    warnings: tuple[Problem, ...]
    infra: Infra | None
    names: Names

    @property
    def valid(self) -> bool:
        """Whether the file may be launched."""
        return not self.errors

    def document(self) -> dict[str, Any]:
        """The result as plain data, documented in docs/reference/infra.md."""
        infra = self.infra
        machines = infra.machines() if infra else ()
        domains = infra.domains.values() if infra else ()
        return {
            "valid": self.valid,
            "errors": [_plain(problem) for problem in self.errors],
            "warnings": [_plain(problem) for problem in self.warnings],
            "notices": list(infra.notices) if infra else [],
            "machines": {
                machine.name: {
                    "domain": machine.domain,
                    "project": self.names.project(machine.domain),
                    "ip": machine.address,
                    "image": None if machine.image is NO_IMAGE else machine.image.ref,
                    "gpu": machine.gpu,
                }
                for machine in machines
            },
            "domains": {
                domain.name: {
                    "project": self.names.project(domain.name),
                    "network": self.names.network(domain.name),
                    "subnet": domain.subnet,
                    "gateway": domain.gateway,
                    "enabled": domain.enabled,
                }
                for domain in domains
            },
        }


def _plain(problem: Problem) -> dict[str, Any]:
    return {
        "code": problem.code,
        "file": problem.file.encode(errors="backslashreplace").decode(),
        "line": problem.line,
        "column": problem.column,
        "path": problem.path,
        "message": problem.message,
        "hint": problem.hint,
    }


def load_infra(
    path: Path, catalog: Catalog, *, yolo: bool = False, host: HostFacts | None = None
) -> tuple[Infra, tuple[Problem, ...]]:
    """The valid file or folder at `path`, and its warnings; InvalidFileError with every problem otherwise.

    RefusedFileError, which is one, when all that is wrong is that two machines would hold one GPU.
    """
    checked = check_infra(path, catalog, yolo=yolo, host=host)
    if checked.errors or checked.infra is None:
        refused = all(problem.code in POLICY_CODES for problem in checked.errors)
        raise (RefusedFileError if refused else InvalidFileError)(list(checked.errors))
    return checked.infra, checked.warnings


def check_infra(path: Path, catalog: Catalog, *, yolo: bool = False, host: HostFacts | None = None) -> Checked:
    """Everything that can be said of the file or folder at `path` without an Incus; `host` is this one if not given."""
    facts = host or HostFacts.read()
    try:
        source = read_source(path)
    except InvalidFileError as error:
        return Checked(_in_order(error.problems), (), None, Names())
    return _Check(source, catalog, facts, yolo=yolo).run()


def _in_order(problems: list[Problem]) -> tuple[Problem, ...]:
    return tuple(
        sorted(
            set(problems),
            key=lambda problem: (problem.file, problem.line, problem.column, problem.message, problem.path),
        )
    )


class _Check:
    """One run over one source."""

    def __init__(self, source: Source, catalog: Catalog, host: HostFacts, *, yolo: bool) -> None:
        self._report = Report(source, warnings=list(source.warnings))
        self._catalog = catalog
        self._host = host
        self._yolo = yolo

    def run(self) -> Checked:
        report = self._report
        rules.check_required(report.source.data, report)
        tree = read_document(report)
        settings, domains = tree["global"], tree["domains"]
        names = self._names(settings)
        machines = entries(domains)

        addresses = assign(settings, domains, report)
        rules.check_domains(domains, names, report)
        rules.check_subnets(addresses.subnets, self._host, names, report)
        rules.check_machines(machines, self._host, names, yolo=self._yolo, report=report)
        check_config(domains, report)
        check_gpus(machines, settings["gpu_policy"], report)
        shares = shared_mounts(tree["shared_volumes"], settings["shared_volumes_base"], machines, report)
        check_mounts(machines, shares, settings["storage_pool"], report)
        written = tree["network_policies"]
        policies = rules.policies(written, domains, machines, report)
        policies += rules.ai_access(settings, written, domains, report)
        rules.check_firewall(settings, report)

        shelf = ImageIndex(self._catalog)
        choices = choose_images(machines, settings["default_os_image"], settings["image_channel"], shelf, report)
        variables = read_variables(machines, choices, shelf, report)

        infra = None
        if not report.errors:
            report.notices += wire(machines, choices, addresses.machines, policies, variables, shelf)
            report.note_foreign_keys()
            infra = build_infra(report, tree, machines, addresses, choices, variables, shares, policies, shelf)
        return Checked(_in_order(report.errors + report.image_errors), _in_order(report.warnings), infra, names)

    def _names(self, settings: dict[str, Any]) -> Names:
        if self._host.level is None or not settings["nesting_prefix"]:
            return Names()
        return Names(f"{self._host.level:03d}-")
