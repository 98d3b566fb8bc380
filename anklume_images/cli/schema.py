"""The command `schema`: what editors need to know of a spec.yml."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from anklume_images.cli.session import Session

__all__ = ["schema"]


@click.command(name="schema")
@click.pass_obj
def schema(session: Session) -> None:
    """Print the JSON Schema of spec.yml, for editors that complete and explain its keys."""
    from anklume_images.specs.json_schema import json_schema

    session.console.json(json_schema())
