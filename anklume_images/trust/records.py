"""How far a log of the store is signed: the signature is over its head, which stands for every line up to it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from anklume_images.store.chain import Break

if TYPE_CHECKING:
    from anklume_images.store.chain import Chain
    from anklume_images.trust.repository import Repository

__all__ = ["signed_lines"]


def signed_lines(repository: Repository, chain: Chain) -> tuple[int, tuple[Break, ...]]:
    """How many lines of a log the store's signature covers, from the first; a break where it is over another log.

    Whoever writes a whole log anew, its chain and its head too, is found by this: they lack the key.
    """
    current = repository.current("targets") if repository.exists else None
    if current is None:
        return 0, ()
    root = repository.root().signed
    entry = current.signed.targets.get(f"{chain.folder.name}/{chain.head_path.name}")
    if not root.get_verification_result("targets", current.signed_bytes, current.signatures):
        return 0, (Break(0, "cannot be compared with the store's signature, which does not hold"),)
    if entry is None:
        return 0, ()
    for head in chain.heads():
        if hashlib.sha256(head.document()).hexdigest() == entry.hashes["sha256"]:
            return head.lines, ()
    return 0, (Break(0, "is not the log that was signed: lines were changed or cut, or it was begun anew"),)
