"""The `anklume-images` command: thin verbs over the pipeline and the store; the only module that exits.

Exit codes: 0 done; 1 failed; 2 usage or invalid file; 3 there are differences; 4 refused by policy.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from anklume_images import __version__
from anklume_images.console import Console
from anklume_images.errors import AnklumeError

if TYPE_CHECKING:
    from anklume_images.pipeline import Pipeline
    from anklume_images.specs.catalog import Catalog
    from anklume_images.store.images import Images
    from anklume_images.store.store import Store

__all__ = ["cli", "main"]


@dataclass
class Session:
    """What the options before the verb say."""

    specs: tuple[Path, ...]
    home: Path | None
    architecture: str | None
    console: Console

    def arch(self) -> str:
        """The architecture asked for, or this machine's."""
        from anklume_images.store.images import host_architecture

        return self.architecture or host_architecture()

    def store(self) -> Store:
        """The store."""
        from anklume_images.settings import store_home
        from anklume_images.store.store import Store

        return Store(self.home or store_home(os.environ))

    def images(self) -> Images:
        """The images of the store."""
        from anklume_images.store.images import Images

        return Images(self.store())

    def catalog(self) -> Catalog:
        """The specs, the user's own folders first."""
        from anklume_images.specs.catalog import Catalog, builtin_specs

        return Catalog.load([*self.specs, builtin_specs()])

    def pipeline(self, **options: Any) -> Pipeline:
        """The pipeline with these options."""
        from anklume_images.pipeline import Options, Pipeline
        from anklume_images.settings import load_settings

        settings = load_settings(os.environ)
        jobs = options.pop("jobs", None) or settings.jobs or os.cpu_count() or 1
        chosen = Options(options.pop("architecture", None) or self.arch(), jobs=jobs, **options)
        return Pipeline(self.store(), self.catalog(), settings, chosen, self.console)


def _complete_images(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    with contextlib.suppress(AnklumeError, OSError):  # nobody reads errors while typing
        return [name for name in _asked(context).catalog().names() if name.startswith(incomplete)]
    return []


def _complete_refs(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    with contextlib.suppress(AnklumeError, OSError):
        images = list(_asked(context).images())
        names = {image.name for image in images} | {image.ref for image in images}
        return sorted(name for name in names if name.startswith(incomplete))
    return []


def _asked(context: click.Context) -> Session:
    """What the options before the verb say so far, on a command line that is yet to be completed."""
    given = context.find_root().params
    return Session(given.get("specs") or (), given.get("home"), given.get("arch"), Console())


_NAMES = click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=_complete_images)
_REF = click.argument("ref", shell_complete=_complete_refs)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
_REFRESH = click.option(
    "--refresh-missing", is_flag=True, help="Lock anew, in the store only, what no mirror has any more."
)
_EXPIRED = click.option("--allow-expired", is_flag=True, help="Accept archive indexes whose validity is past.")
_OFFLINE = click.option("--offline", is_flag=True, help="Touch no network.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="anklume-images")
@click.option(
    "--specs",
    multiple=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="A folder of specs of your own; may be given again, and the first that has a name wins.",
)
@click.option(
    "--store",
    "home",
    type=click.Path(path_type=Path, file_okay=False),
    help="The store's folder, in place of $ANKLUME_STORE or the usual one.",
)
@click.option("--arch", type=click.Choice(["amd64", "arm64"]), help="Another architecture than this machine's.")
@click.option("-q", "--quiet", is_flag=True, help="Show results and errors only.")
@click.pass_context
def cli(context: click.Context, specs: tuple[Path, ...], home: Path | None, arch: str | None, *, quiet: bool) -> None:
    """Build reproducible Incus images from locked inputs, and keep them in a store."""
    console = context.obj or Console()
    given = [("--specs", folder) for folder in specs] + [("--store", home)] * (home is not None) + [("--arch", arch)]
    program = shlex.join(["anklume-images", *(str(word) for pair in given if pair[1] for word in pair)])
    console.configure(quiet=quiet, program=program)
    context.obj = Session(specs, home.absolute() if home else None, arch, console)


@cli.command()
@_NAMES
@click.option("--all", "everything", is_flag=True, help="Every image, variants included.")
@click.option("--check", is_flag=True, help="Build again in other surroundings and compare the bytes.")
@click.option("--explain", is_flag=True, help="Say what would be built and which input changed; build nothing.")
@click.option("--jobs", type=click.IntRange(1), help="Builds at once.")
@_OFFLINE
@_REFRESH
@_EXPIRED
@_JSON
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
        from anklume_images.build.check import check_image

        for result in results:
            if result.image and result.name in chosen:
                session.console.note(f"{result.name}: building it again, to compare")
                differing.append(check_image(pipeline, result.name))
    _report_build(session.console, results, differing, as_json=as_json)
    codes = {result.error.exit_code if result.error else 1 for result in results if result.status == "failed"}
    if codes:
        sys.exit(min(codes))  # 2 for invalid files only when there was nothing worse
    sys.exit(3 if any(not outcome.identical for outcome in differing) else 0)


def _report_build(console: Console, results: list[Any], checks: list[Any], *, as_json: bool) -> None:
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


@cli.command()
@_NAMES
@click.option("--missing", is_flag=True, help="Only what has no lock, or a stale one.")
@_EXPIRED
@_JSON
@click.pass_obj
def lock(session: Session, /, names: tuple[str, ...], *, missing: bool, allow_expired: bool, as_json: bool) -> None:
    """Resolve inputs and write the locks beside the specs. Without names: of every image and tree."""
    _lock(session, names, missing=missing, allow_expired=allow_expired, as_json=as_json)


@cli.command()
@_NAMES
@_EXPIRED
@_JSON
@click.pass_obj
def update(session: Session, /, names: tuple[str, ...], *, allow_expired: bool, as_json: bool) -> None:
    """Lock newer inputs where the archives have them. Without names: of every image and tree."""
    _lock(session, names, missing=False, allow_expired=allow_expired, as_json=as_json)


def _lock(session: Session, /, names: tuple[str, ...], *, missing: bool, allow_expired: bool, as_json: bool) -> None:
    from anklume_images.build.sandbox import require_root
    from anklume_images.build.trees import tree_names
    from anklume_images.console import human_size
    from anklume_images.locking import TOOLCHAIN, is_tree
    from anklume_images.specs.model import ARCHITECTURES

    require_root("locking")
    done = []
    for architecture in [session.architecture] if session.architecture else ARCHITECTURES:
        pipeline = session.pipeline(architecture=architecture, allow_expired=allow_expired)
        trees = [TOOLCHAIN, *(name for name in tree_names() if name != TOOLCHAIN)]
        for name in names or pipeline.lineage((*trees, *pipeline.catalog.names())):
            if not is_tree(name) and architecture not in pipeline.catalog.get(name).architectures:
                continue
            if missing and _is_locked(pipeline, name):
                continue
            changed = pipeline.lock(name)
            entries = list(pipeline.locks.get(name))
            size = sum(entry.size or 0 for entry in entries)
            done.append(
                {"name": name, "architecture": architecture, "changed": changed, "inputs": len(entries), "bytes": size}
            )
            state = "locked" if changed else "unchanged"
            session.console.note(f"{name} ({architecture}): {state}, {len(entries)} inputs, {human_size(size)}")
    if as_json:
        session.console.json({"locks": done})


def _is_locked(pipeline: Pipeline, name: str) -> bool:
    from anklume_images.errors import LockError

    try:
        pipeline.locks.get(name)
    except LockError:
        return False
    return True


@cli.command()
@_NAMES
@_OFFLINE
@_REFRESH
@_EXPIRED
@_JSON
@click.pass_obj
def fetch(session: Session, /, names: tuple[str, ...], *, as_json: bool, **options: Any) -> None:
    """Bring locked inputs into the store, the toolchain's too. Without names: of the default images."""
    from anklume_images.console import human_size
    from anklume_images.locking import TOOLCHAIN

    pipeline = session.pipeline(**options)
    needed = [] if pipeline.unpacked(TOOLCHAIN) else [TOOLCHAIN]
    report = pipeline.fetch([*needed, *(names or pipeline.catalog.defaults())])
    if as_json:
        session.console.json({"present": report.present, "fetched": report.fetched, "bytes": report.bytes})
    else:
        session.console.result(f"{report.fetched} fetched ({human_size(report.bytes)}), {report.present} were there")


@cli.command()
@click.argument("name", shell_complete=_complete_images)
@click.pass_obj
def render(session: Session, name: str) -> None:
    """Print the distrobuilder definition of an image."""
    from anklume_images.errors import LockError
    from anklume_images.specs.render import render as render_definition

    catalog = session.catalog()
    chain = catalog.chain(name)
    try:
        epoch = session.pipeline().prepare(name).epoch
    except LockError:
        epoch = 0
    click.echo(render_definition(chain, session.arch(), epoch, catalog.partials), nl=False)


@cli.command(name="list")
@_JSON
@click.pass_obj
def list_(session: Session, *, as_json: bool) -> None:
    """List the images in the store."""
    from anklume_images.console import human_size, table

    images = session.images()
    rows = []
    for image in images:
        channels = [
            c for c, version in images.channels(image.name, image.architecture).items() if version == image.version
        ]
        rows.append((image, channels))
    if as_json:
        session.console.json([_summary(image) | {"channels": channels} for image, channels in rows])
        return
    cells = [
        (
            i.name,
            i.version,
            i.architecture,
            ",".join(c) or "-",
            human_size(i.rootfs.size),
            i.fingerprint[:12],
            i.description,
        )
        for i, c in rows
    ]
    session.console.result(table(cells, ("NAME", "VERSION", "ARCH", "CHANNELS", "SIZE", "FINGERPRINT", "DESCRIPTION")))


def _summary(image: Any) -> dict[str, Any]:
    return {
        "name": image.name,
        "version": image.version,
        "architecture": image.architecture,
        "fingerprint": image.fingerprint,
        "size": image.metadata.size + image.rootfs.size,
        "unpacked": image.unpacked,
        "recipe": image.recipe,
        "base": image.base,
        "description": image.description,
    }


@cli.command()
@_REF
@_JSON
@click.pass_obj
def show(session: Session, ref: str, *, as_json: bool) -> None:
    """Show one image: fingerprint, recipe, sizes and settings; with --json, its packages too."""
    from dataclasses import asdict

    from anklume_images.console import human_size

    image = session.images().resolve(ref, session.arch())
    if as_json:
        session.console.json(asdict(image))
        return
    base = f"{image.base['name']}@{image.base['version']}" if image.base else "none"
    lines = [
        f"{image.ref} ({image.architecture})",
        f"  {image.description}",
        f"  fingerprint  {image.fingerprint}",
        f"  recipe       {image.recipe}",
        f"  base         {base}",
        f"  size         {human_size(image.rootfs.size)}, unpacked {human_size(image.unpacked)}",
        f"  provides     {', '.join(image.spec['provides']) or '-'}",
        f"  packages     {len(image.packages)}",
        f"  ports        {', '.join(str(port) for port in image.spec['ports']) or '-'}",
        f"  volumes      {', '.join(volume['path'] for volume in image.spec['volumes']) or '-'}",
        f"  healthcheck  {shlex.join((image.spec['healthcheck'] or {}).get('command', ['-']))}",
    ]
    lines += [f"  variable     {name} ({v['type']}) {v['description']}" for name, v in image.spec["variables"].items()]
    session.console.result("\n".join(lines))


@cli.command()
@_REF
@click.pass_obj
def sbom(session: Session, ref: str) -> None:
    """Print an image's software bill of materials (CycloneDX JSON)."""
    images = session.images()
    session.console.json(images.document(images.resolve(ref, session.arch()), "sbom.cdx"))


@cli.command()
@click.argument("refs", nargs=-1, metavar="[REF]...", shell_complete=_complete_refs)
@click.option("--repair", is_flag=True, help="Remove damaged blobs, so that they are fetched or built again.")
@_JSON
@click.pass_obj
def verify(session: Session, refs: tuple[str, ...], *, repair: bool, as_json: bool) -> None:
    """Read images, or the whole store, and compare every byte with its hash."""
    from anklume_images.store.verify import verify_store

    report = verify_store(session.store(), session.images(), refs, session.arch(), repair=repair)
    if as_json:
        session.console.json({"checked": report.checked, "bytes": report.bytes, "damaged": list(report.damaged)})
    else:
        for line in report.damaged:
            session.console.result(f"damaged: {line}")
        session.console.result(f"{report.checked} files checked, {len(report.damaged)} damaged")
    sys.exit(1 if report.damaged and not repair else 0)


@cli.command()
@click.option("--why", metavar="REF", help="Say what keeps an image.")
@click.option("--dry-run", is_flag=True, help="Say what would be removed; remove nothing.")
@_JSON
@click.pass_obj
def gc(session: Session, why: str | None, *, dry_run: bool, as_json: bool) -> None:
    """Remove what no channel, no build and no tree in use needs."""
    from anklume_images.console import human_size
    from anklume_images.store.gc import collect, reasons

    store, images = session.store(), session.images()
    if why:
        kept_by = reasons(store, images, images.resolve(why, session.arch()))
        if as_json:
            session.console.json({"ref": why, "kept_by": kept_by})
        else:
            session.console.result("\n".join(kept_by) or "nothing: gc would remove it")
        return
    report = collect(store, images, _trees_in_use(session), dry_run=dry_run)
    if as_json:
        session.console.json({"removed": list(report.removed), "bytes": report.bytes, "dry_run": dry_run})
        return
    verb = "would remove" if dry_run else "removed"
    nameless = [
        line for line in report.removed if line.startswith(("blob ", "leftover building/", "leftover partial/"))
    ]
    for line in report.removed:
        if line not in nameless:
            session.console.note(f"{verb} {line}")
    if nameless:
        session.console.note(f"{verb} {len(nameless)} blobs and leftovers of builds and downloads (--json names them)")
    session.console.result(f"{'would free' if dry_run else 'freed'} {human_size(report.bytes)}")


def _trees_in_use(session: Session) -> set[str]:
    from anklume_images.build.trees import tree_digest, tree_names
    from anklume_images.errors import LockError

    locks = session.pipeline().locks
    digests = set()
    for name in tree_names():
        try:
            digests.add(tree_digest(locks.get(name)))
        except LockError:
            continue
    return digests


@cli.command()
@_REF
@click.option("--remote", help="A remote of the incus client's configuration.")
@click.option("--project", help="The Incus project.")
@_JSON
@click.pass_obj
def publish(session: Session, ref: str, remote: str | None, project: str | None, *, as_json: bool) -> None:
    """Import an image into Incus, with its aliases and properties. What is there is left."""
    from anklume_images.ship.verb import publish_ref

    report = publish_ref(session.images(), session.store(), ref, session.arch(), remote, project, session.console)
    if as_json:
        session.console.json(report)
    else:
        session.console.result(f"{report['ref']}: {report['status']} as {report['fingerprint'][:12]}")


@cli.command()
@click.argument("name", shell_complete=_complete_images)
@click.pass_obj
def enter(session: Session, name: str) -> None:
    """Open a shell in the sandbox of a failed build. It is as the image's last failure left it."""
    from anklume_images.build.enter import enter as enter_sandbox

    sys.exit(enter_sandbox(session.pipeline(offline=True), name))


def main(argv: list[str] | None = None) -> None:
    """Run the command; errors become text, a hint and an exit code, never a traceback."""
    _run(cli, argv)


def _run(command: click.Group, argv: list[str] | None) -> None:
    sys.stdout, sys.stderr = sys.stdout or _nowhere(), sys.stderr or _nowhere()  # None where the caller closed them
    console = Console()
    try:
        try:
            command.main(argv, standalone_mode=False, obj=console)
        finally:
            sys.stdout.flush()  # here, where a full disk or a closed pipe can still be told
    except AnklumeError as error:
        console.error(error)
        sys.exit(error.exit_code)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.stderr.write("interrupted\n")
        sys.exit(130)
    except BrokenPipeError:
        _give_up_output()
        sys.exit(141)
    except OSError as error:
        _give_up_output()
        where = f"{error.filename}: " if error.filename else ""
        console.error(AnklumeError(f"{where}{error.strerror or error}", hint=_system_hint(error)))
        sys.exit(1)


def _nowhere() -> TextIO:
    return Path(os.devnull).open("w")


def _give_up_output() -> None:
    """Let what could not be written go, or Python would try again at its end and complain."""
    with _nowhere() as sink:
        os.dup2(sink.fileno(), sys.stdout.fileno())


def _system_hint(error: OSError) -> str | None:
    import errno

    return {
        errno.ENOSPC: "free some space: anklume-images gc, or name a store on a larger disk with --store",
        errno.EACCES: "run it as root, or name a store of your own with --store",
        errno.EROFS: "name a store on a writable disk with --store",
    }.get(error.errno or 0)
