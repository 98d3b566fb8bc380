"""The commands that make images: build, lock, fetch, render, enter."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from anklume_images.cli.session import EXPIRED, JSON, NAMES, OFFLINE, REFRESH, Session, complete_images

if TYPE_CHECKING:
    from anklume_images.console import Console
    from anklume_images.pipeline import Pipeline
    from anklume_images.results import Result

__all__ = ["build", "enter", "everything", "fetch", "lock", "render"]


@click.command()
@NAMES
@click.option("--all", "everything", is_flag=True, help="Every image, variants included.")
@click.option("--check", is_flag=True, help="Build again in another environment and compare the bytes.")
@click.option("--explain", is_flag=True, help="Show what would be built and which input changed; build nothing.")
@click.option("--jobs", type=click.IntRange(1), help="Builds at once.")
@OFFLINE
@REFRESH
@EXPIRED
@JSON
@click.pass_obj
def build(
    session: Session,
    /,
    names: tuple[str, ...],
    *,
    everything: bool,
    check: bool,
    explain: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Build images that are not in the store yet. Without names: the default ones."""
    answers = session.answers(names, everything, options["refresh_missing"])
    if not explain and not check and (known := answers.recall()):
        from anklume_images.results import Result

        results = [Result(image.name, "present", image=image) for image in known]
        _report_build(session.console, results, [], as_json=as_json)
        return
    session.want_specs(names, everything)
    pipeline = session.pipeline(**options)
    chosen = names or (pipeline.catalog.names() if everything else pipeline.catalog.defaults())
    if explain:
        from anklume_images.explain import explain as explain_images

        plans = explain_images(pipeline, chosen)
        if as_json:
            session.console.json(plans)
        else:
            for plan in plans:
                session.console.result(
                    "\n".join(
                        [f"{plan['name']}: {plan['state']} {plan['version'] or ''}".rstrip()]
                        + [f"  {line}" for line in plan["changes"]]
                    )
                )
        states = {plan["state"] for plan in plans}
        sys.exit(1 if "invalid" in states else 3 if "missing" in states else 0)
    results = pipeline.build(chosen)
    differing: list[Any] = []
    if check:
        from anklume_images.builder.check import check_image

        for result in results:
            if result.image and result.name in chosen:
                session.console.note(f"{result.name}: building it again, to compare")
                differing.append(check_image(pipeline, result.name))
    if all(result.status == "present" for result in results):
        answers.keep(result.image for result in results if result.image)
    _report_build(session.console, results, differing, as_json=as_json)
    codes = {result.error.exit_code if result.error else 1 for result in results if result.status == "failed"}
    if codes:
        sys.exit(min(codes))  # 2 for invalid files only when there was nothing worse
    sys.exit(3 if any(not outcome.identical for outcome in differing) else 0)


def _report_build(console: Console, results: list[Result], checks: list[Any], *, as_json: bool) -> None:
    if as_json:
        console.json(
            {
                "images": [
                    {
                        "name": result.name,
                        "status": result.status,
                        "seconds": round(result.seconds, 1),
                        "version": result.image.version if result.image else None,
                        "fingerprint": result.image.fingerprint if result.image else None,
                        "error": str(result.error) if result.error else None,
                        "hint": result.error.hint if result.error else None,
                    }
                    for result in results
                ],
                "checks": [{"name": c.name, "identical": c.identical, "paths": c.paths} for c in checks],
            }
        )
    for result in results:
        if result.error:
            console.error(result.error)
        elif result.image and not as_json:
            console.result(f"{result.image.ref}  {result.status}  {result.image.fingerprint[:12]}")
    for outcome in checks:
        if not as_json:
            verdict = "identical bytes" if outcome.identical else "DIFFERENT bytes"
            console.result(
                "\n".join([f"{outcome.name}: {verdict} ({outcome.surroundings})", *(f"  {p}" for p in outcome.paths)])
            )


@click.command()
@NAMES
@click.option("--missing", is_flag=True, help="Only where there is no lock, or a stale one.")
@EXPIRED
@JSON
@click.pass_obj
def lock(session: Session, /, names: tuple[str, ...], *, missing: bool, allow_expired: bool, as_json: bool) -> None:
    """Resolve inputs and write the locks beside the specs. Without names: for every image and tree."""
    from anklume_images.architectures import ARCHITECTURES
    from anklume_images.builder.sandbox import require_root
    from anklume_images.errors import AnklumeError

    session.want_specs(names)
    require_root("locking")
    locks: list[dict[str, Any]] = []
    errors: dict[str, AnklumeError] = {}
    for architecture in [session.architecture] if session.architecture else ARCHITECTURES:
        pipeline = session.pipeline(architecture=architecture, allow_expired=allow_expired)
        for name in names or everything(pipeline):
            entry = {"name": name, "architecture": architecture, "changed": False, "inputs": 0, "bytes": 0}
            try:
                locked = _lock_one(pipeline, name, session.console, missing=missing)
            except AnklumeError as error:
                # It stops no other. What is wrong with a file is said once, not for each architecture.
                if str(error) not in errors:
                    session.console.note(f"{name} ({architecture}): not locked")
                    session.console.error(error)
                errors[str(error)] = error
                locks.append(entry | {"error": str(error), "hint": error.hint})
            else:
                if locked is not None:
                    locks.append(entry | locked | {"error": None, "hint": None})
    if as_json:
        session.console.json({"locks": locks})
    failed = [f"{entry['name']} ({entry['architecture']})" for entry in locks if entry["error"]]
    if failed:
        session.console.warn(f"not locked: {', '.join(failed)}")
        sys.exit(min(error.exit_code for error in errors.values()))


def everything(pipeline: Pipeline) -> list[str]:
    """Every tree and image, bases before what is made from them, the toolchain before all."""
    from anklume_images.builder.trees import tree_names
    from anklume_images.errors import AnklumeError
    from anklume_images.locking import TOOLCHAIN

    names: dict[str, None] = {}
    for name in (TOOLCHAIN, *tree_names(), *pipeline.catalog.names()):
        try:
            names |= dict.fromkeys(pipeline.lineage([name]))
        except AnklumeError:  # it is told when its turn comes
            names[name] = None
    return list(names)


def _lock_one(pipeline: Pipeline, name: str, console: Console, *, missing: bool) -> dict[str, Any] | None:
    """Lock one image or tree; None when there is nothing to do for it."""
    from anklume_images.console import human_size
    from anklume_images.locking import is_tree

    architecture = pipeline.options.architecture
    if not is_tree(name) and architecture not in pipeline.catalog.get(name).architectures:
        return None
    if missing and _is_locked(pipeline, name):
        return None
    changed = pipeline.lock(name)
    entries = list(pipeline.locks.get(name))
    size = sum(entry.size or 0 for entry in entries)
    state = "locked" if changed else "unchanged"
    console.note(f"{name} ({architecture}): {state}, {len(entries)} inputs, {human_size(size)}")
    return {"changed": changed, "inputs": len(entries), "bytes": size}


def _is_locked(pipeline: Pipeline, name: str) -> bool:
    from anklume_images.errors import LockError

    try:
        pipeline.locks.get(name)
    except LockError:
        return False
    return True


@click.command()
@NAMES
@click.option("--rebuild", is_flag=True, help="Also fetch what is needed to rebuild images that are in the store.")
@OFFLINE
@REFRESH
@EXPIRED
@JSON
@click.pass_obj
def fetch(session: Session, /, names: tuple[str, ...], *, rebuild: bool, as_json: bool, **options: Any) -> None:
    """Fetch locked inputs into the store, also those of bases and the toolchain. Without names: the default images'."""
    from anklume_images.console import human_size

    session.want_specs(names)
    pipeline = session.pipeline(**options)
    report = pipeline.fetch(names or pipeline.catalog.defaults(), rebuild=rebuild)
    if as_json:
        session.console.json({"present": report.present, "fetched": report.fetched, "bytes": report.bytes})
    else:
        session.console.result(f"{report.fetched} fetched ({human_size(report.bytes)}), {report.present} were there")


@click.command()
@click.argument("name", shell_complete=complete_images)
@click.pass_obj
def render(session: Session, name: str) -> None:
    """Print the distrobuilder definition of an image."""
    from anklume_images.errors import LockError
    from anklume_images.specs.render import render as render_definition

    pipeline = session.pipeline()
    catalog = pipeline.catalog
    try:
        definition = pipeline.prepare(name).definition
    except LockError:
        definition = render_definition(catalog.chain(name), session.arch(), 0, catalog.partials)
    click.echo(definition.encode(), nl=False)  # YAML is UTF-8, whatever the locale


@click.command()
@click.argument("name", shell_complete=complete_images)
@click.pass_obj
def enter(session: Session, name: str) -> None:
    """Open a shell in the sandbox of a failed build, as the last failure left it."""
    from anklume_images.builder.enter import enter as enter_sandbox

    sys.exit(enter_sandbox(session.pipeline(offline=True), name))
