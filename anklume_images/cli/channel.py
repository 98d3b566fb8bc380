"""The commands on channels: list, set, history, rollback, rm."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Any

import click

from anklume_images.cli.program import CommandTable
from anklume_images.cli.session import JSON, REF, Session, session_of

if TYPE_CHECKING:
    from anklume_images.store.channel_log import Place
    from anklume_images.store.promotion_log import Promotion

__all__ = ["channel", "history", "list_", "rm", "rollback", "set_"]

_USUAL = ("dev", "latest", "prod", "staging")
_TABLE = {
    name: f"anklume_images.cli.channel:{function}"
    for name, function in {
        "history": "history",
        "list": "list_",
        "rm": "rm",
        "rollback": "rollback",
        "set": "set_",
    }.items()
}


def _complete_names(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Images that have channels."""
    from anklume_images.errors import AnklumeError

    with contextlib.suppress(AnklumeError, OSError):
        names = {place.image for place in session_of(context).images().log.places()}
        return sorted(name for name in names if name.startswith(incomplete))
    return []


def _complete_channels(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    """Channels of the image that is named before; the usual ones too where one may be new."""
    from anklume_images.errors import AnklumeError

    with contextlib.suppress(AnklumeError, OSError):
        ref = context.params.get("ref")
        name = (ref or context.params.get("name") or "").partition("@")[0]
        places = session_of(context).images().log.places()
        channels = {place.channel for place in places if place.image == name} | set(_USUAL if ref else ())
        return sorted(channel for channel in channels if channel.startswith(incomplete))
    return []


_NAME = click.argument("name", shell_complete=_complete_names)
_CHANNEL = click.argument("channel_name", metavar="CHANNEL", shell_complete=_complete_channels)
_WHY = click.option("--why", default="", metavar="TEXT", help="The reason, for the log.")
_DRY_RUN = click.option("--dry-run", is_flag=True, help="Show what would be done; change nothing.")


@click.group(cls=CommandTable, table=_TABLE)
def channel() -> None:
    """List and move channels, see their history, go back."""


@click.command(name="list")
@click.argument("name", required=False, shell_complete=_complete_names)
@JSON
@click.pass_obj
def list_(session: Session, name: str | None, *, as_json: bool) -> None:
    """List channels: which version each points to, since when, and who moved it."""
    from anklume_images.console import table

    images = session.images()
    last = images.log.read().last()
    rows = []
    for place in images.log.places():
        if name in (None, place.image):
            version = images.log.version(place)
            move = last.get(place)
            told = move if move and move.after == version else None
            rows.append((place, version, told))
    if as_json:
        session.console.json(
            [
                _summary(place)
                | {"version": version, "since": told.time if told else None, "user": told.user if told else None}
                for place, version, told in rows
            ]
        )
        return
    cells = [
        (p.image, p.architecture, p.channel, version or "-", *((told.time, told.user) if told else ("-", "-")))
        for p, version, told in rows
    ]
    session.console.result(table(cells, ("NAME", "ARCH", "CHANNEL", "VERSION", "SINCE", "BY")))


def _summary(place: Place) -> dict[str, Any]:
    return {"name": place.image, "architecture": place.architecture, "channel": place.channel}


@click.command(name="set")
@REF
@_CHANNEL
@_WHY
@_DRY_RUN
@JSON
@click.pass_obj
def set_(session: Session, ref: str, channel_name: str, why: str, *, dry_run: bool, as_json: bool) -> None:
    """Point a channel at an image.

    The channel is created if it does not exist. The move is logged.
    """
    images = session.images()
    images.settle()
    image = images.resolve(ref, session.arch())
    place = images.place(image.name, image.architecture, channel_name)
    before = images.log.version(place)
    if not dry_run:
        images.set_channel(
            place.image, place.architecture, place.channel, image.version, command="channel set", why=why
        )
    _tell(session, place, before, image.version, dry_run=dry_run, as_json=as_json)


@click.command()
@_NAME
@_CHANNEL
@click.option("--to", metavar="VERSION", help="Go back to this earlier version (default: the previous one).")
@_WHY
@_DRY_RUN
@JSON
@click.pass_obj
def rollback(
    session: Session, name: str, channel_name: str, to: str | None, why: str, *, dry_run: bool, as_json: bool
) -> None:
    """Point a channel at its previous version.

    Refused if the files of that version are gone.
    """
    from anklume_images.store.channels import present_version, version_before
    from anklume_images.store.generations import ROLLBACK

    images = session.images()
    images.settle()
    place = images.place(name, session.arch(), channel_name)
    before, after = present_version(images, place), version_before(images, place, to)
    if not dry_run:
        images.set_channel(name, place.architecture, channel_name, after, command=ROLLBACK, why=why)
    _tell(session, place, before, after, dry_run=dry_run, as_json=as_json)


@click.command()
@_NAME
@_CHANNEL
@_WHY
@_DRY_RUN
@JSON
@click.pass_obj
def rm(session: Session, name: str, channel_name: str, why: str, *, dry_run: bool, as_json: bool) -> None:
    """Remove a channel.

    The next gc removes what only this channel kept.
    """
    from anklume_images.store.channels import present_version

    images = session.images()
    images.settle()
    place = images.place(name, session.arch(), channel_name)
    before = present_version(images, place)
    if not dry_run:
        images.remove_channel(place.image, place.architecture, place.channel, command="channel rm", why=why)
    _tell(session, place, before, None, dry_run=dry_run, as_json=as_json)


def _tell(
    session: Session, place: Place, before: str | None, after: str | None, *, dry_run: bool, as_json: bool
) -> None:
    if not dry_run:
        from anklume_images.ship.index import write_index

        write_index(session.store())
    if as_json:
        session.console.json(_summary(place) | {"from": before, "to": after, "dry_run": dry_run})
    elif before == after:
        session.console.result(f"{place}: {after}, unchanged")
    else:
        would = "would be " if dry_run else ""
        what = f"{before or 'new'} → {after}" if after else f"{would}removed, {'is' if dry_run else 'was'} {before}"
        session.console.result(f"{place}: {would if after else ''}{what}")


@click.command()
@_NAME
@click.argument("channel_name", metavar="[CHANNEL]", required=False, shell_complete=_complete_channels)
@JSON
@click.pass_obj
def history(session: Session, name: str, channel_name: str | None, *, as_json: bool) -> None:
    """List the moves of an image's channels and its promotions, and check both logs.

    Exit code 1 if one is damaged.
    """
    from anklume_images.console import table
    from anklume_images.store.promotion_log import PromotionLog
    from anklume_images.trust.records import signed_lines

    images = session.images()
    images.settle()
    log, promotions = images.log.read(), PromotionLog(session.store())
    made, gaps = promotions.read()
    moves = [
        move
        for move in log.moves
        if move.place.image == name
        and channel_name in (None, move.place.channel)
        and session.architecture in (None, move.place.architecture)
    ]
    sent = [
        promotion
        for promotion in made
        if promotion.image == name
        and channel_name in (None, promotion.channel)
        and (session.architecture is None or promotion.architecture in (None, session.architecture))
    ]
    repository = session.repository()
    signed, unlike = signed_lines(repository, images.log.chain)
    signed_promotions, unlike_promotions = signed_lines(repository, promotions.chain)
    breaks = [(images.log.path, one) for one in (*log.breaks, *unlike)]
    breaks += [(promotions.chain.path, one) for one in (*gaps, *unlike_promotions)]
    if as_json:
        session.console.json(
            {
                "moves": [move.document() for move in moves],
                "promotions": [promotion.document() for promotion in sent],
                "signed": {"moves": signed, "promotions": signed_promotions} if repository.exists else None,
                "breaks": [{"log": str(path), "line": one.line, "problem": one.problem} for path, one in breaks],
            }
        )
    else:
        cells = [
            (
                move.time,
                move.place.channel,
                move.place.architecture,
                move.before or "-",
                move.after or "-",
                f"{move.user}@{move.host}",
                move.command,
                move.why,
            )
            for move in moves
        ]
        session.console.result(table(cells, ("TIME", "CHANNEL", "ARCH", "FROM", "TO", "BY", "COMMAND", "WHY")))
        if sent:
            head = ("TIME", "PROMOTED", "FROM", "TO", "CHANNEL", "BY", "GATES", "OUTCOME", "WHY")
            session.console.result("\n" + table([_row(promotion) for promotion in sent], head))
        for path, one in breaks:
            session.console.warn(f"{path}: line {one.line} {one.problem}")
    sys.exit(1 if breaks else 0)


def _row(promotion: Promotion) -> tuple[str, ...]:
    """A promotion in a line: of its gates the names, of its outcome why it failed."""
    gates = ", ".join(gate.partition(":")[0] for gate in promotion.gates)
    outcome = "not ended" if promotion.outcome == "begun" else promotion.outcome
    return (
        promotion.time,
        promotion.ref,
        promotion.source,
        promotion.target,
        promotion.channel,
        f"{promotion.user}@{promotion.host}",
        gates or "-",
        f"{outcome}: {promotion.problem}" if promotion.problem else outcome,
        promotion.why,
    )
