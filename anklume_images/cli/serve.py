"""The command `serve`: the store over HTTPS."""

from __future__ import annotations

import json
import os
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from anklume_images.cli.session import JSON, Session

if TYPE_CHECKING:
    from anklume_images.ship.certificate import Certificate
    from anklume_images.ship.serve import StoreServer

_ANY = {"0.0.0.0", "::", ""}  # noqa: S104 - all addresses, where the person asks for it
_FILE = click.Path(path_type=Path, dir_okay=False, exists=True)


@click.command()
@click.option(
    "--address", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 lets other hosts in."
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8444, show_default=True, help="Port; 0 picks a free one."
)
@click.option("--certificate", type=_FILE, help="Your own certificate (PEM), instead of a generated one.")
@click.option("--key", type=_FILE, help="Its private key (PEM).")
@click.option("--log", is_flag=True, help="Print a line for each request.")
@JSON
@click.pass_obj
def serve(
    session: Session,
    /,
    address: str,
    port: int,
    certificate: Path | None,
    key: Path | None,
    *,
    log: bool,
    as_json: bool,
) -> None:
    """Serve the store over HTTPS, read-only.

    A stock incus can launch from it, and browsers show a page. Ctrl-C ends it.
    """
    import sys

    from anklume_images.errors import StoreError
    from anklume_images.ship.index import write_index
    from anklume_images.ship.serve import StoreServer
    from anklume_images.ship.simplestreams import INDEX

    if (certificate is None) != (key is None):
        raise click.UsageError("--certificate and --key go together")
    store = session.store()
    write_index(store)
    if not (store.home / INDEX).exists():
        raise StoreError(
            "there is nothing to serve", where=str(store.home), hint="build an image first: anklume-images build"
        )
    note = session.console.note if log else None
    with StoreServer(store.home, address, port, _certificate(certificate, key, address), note) as server:
        facts = _facts(server, address)
        if as_json:
            session.console.result(json.dumps(facts))
        else:
            session.console.result(_told(facts))
        sys.stdout.flush()  # the facts are there before it goes on for long
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return


def _certificate(chain: Path | None, key: Path | None, address: str) -> Certificate:
    from anklume_images.settings import settings_paths
    from anklume_images.ship.certificate import certificate_for, read_certificate

    if chain and key:
        return read_certificate(chain, key)
    names = [name for name in (_host(), "localhost", "127.0.0.1", "::1", address) if name not in _ANY]
    return certificate_for(settings_paths(os.environ)[-1].parent / "serve.pem", names)


def _host() -> str:
    """This host's name, where it can be one in a certificate."""
    name = socket.gethostname()
    return name if name.isascii() and name else "localhost"


def _facts(server: StoreServer, address: str) -> dict[str, Any]:
    host = _host() if address in _ANY else f"[{address}]" if ":" in address else address
    return {
        "store": str(server.home),
        "url": f"https://{host}:{server.port}",
        "address": address,
        "port": server.port,
        "fingerprint": server.certificate.fingerprint,
        "certificate": str(server.certificate.chain),
    }


def _told(facts: dict[str, Any]) -> str:
    return "\n".join(
        [
            f"serving {facts['store']}",
            f"  page         {facts['url']}/",
            f"  fingerprint  {facts['fingerprint']}",
            f"  for incus    incus remote add anklume {facts['url']} --protocol simplestreams",
            "Ctrl-C ends it",
        ]
    )
