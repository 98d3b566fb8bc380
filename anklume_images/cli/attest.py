"""The command `attest`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from anklume_images.cli.session import REF, Session, user
from anklume_images.cli.trust import KEYS

if TYPE_CHECKING:
    from anklume_images.store.images import Image


@click.command()
@REF
@click.option(
    "--add",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    metavar="FILE",
    help="Keep another builder's attestation (a file).",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="File to write (default: standard output).",
)
@KEYS
@click.pass_obj
def attest(session: Session, ref: str, add: Path | None, output: Path | None, keys: Path | None) -> None:
    """Build an image again, and sign that the bytes were the same.

    Give the file to the owner of another store, who keeps it with --add and requires it by `promote --gate reproduced`.
    """
    from anklume_images.trust.attest import add_attestation

    store, images = session.store(), session.images()
    image = images.resolve(ref, session.arch())
    if add:
        path = add_attestation(store.home, image, add.read_bytes(), str(add))
        session.console.result(f"kept: {path.relative_to(store.home)}")
        return
    data = _attested(session, image, keys)
    if output:
        from anklume_images.files import write_atomic

        write_atomic(output, data)
        session.console.result(f"{image.ref}: the same bytes; signed in {output}")
    else:
        session.console.result(data.decode().rstrip())


def _attested(session: Session, image: Image, keys: Path | None) -> bytes:
    from anklume_images.builder.check import check_image
    from anklume_images.errors import BuildError
    from anklume_images.settings import keys_home
    from anklume_images.trust.attest import attest as sign
    from anklume_images.trust.clock import now
    from anklume_images.trust.keys import KeyRing

    pipeline = session.pipeline()
    wanted = pipeline.prepare(image.name).version
    if wanted != image.version:
        raise click.UsageError(f"the spec here makes {image.name}@{wanted}: check out the commit of {image.ref}")
    outcome = check_image(pipeline, image.name)
    if not outcome.identical:
        raise BuildError(
            f"{image.ref} came out with other bytes here",
            step="check",
            tail=list(outcome.paths)[:12],
            hint="anklume-images build --check says more",
        )
    ring = KeyRing(keys.absolute() if keys else keys_home(os.environ))
    return sign(image, ring.labelled("builder"), {"builder": user(), "finished": now()})
