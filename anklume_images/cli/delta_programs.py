"""What makes and applies deltas, for the commands: which tree it comes out of, and whether that is here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from anklume_images.cli.session import Session
    from anklume_images.ship.delta_programs import Programs

__all__ = ["DELTA_TREE", "StoredPrograms"]

DELTA_TREE = "incus-7"  # the tree of the private Incus; Incus applies deltas with its xdelta3 too


@dataclass(frozen=True)
class StoredPrograms:
    """The programs of this store's tree; no network is touched for them."""

    session: Session

    def there(self) -> bool:
        """Whether the tree is here, or all of its packages."""
        pipeline, blobs = self.session.pipeline(), self.session.store().blobs
        return pipeline.unpacked(DELTA_TREE) or all(
            blobs.has(deb.sha256, deb.size) for deb in pipeline.locks.get(DELTA_TREE).debs
        )

    def digest(self) -> str:
        """Of the tree: two hosts with the same one pack alike."""
        from anklume_images.builder.trees import tree_digest

        return tree_digest(self.session.pipeline().locks.get(DELTA_TREE))

    def programs(self) -> Programs:
        """How they are run."""
        from anklume_images.ship.delta_programs import programs_of

        return programs_of(self.session.pipeline(offline=True).tree(DELTA_TREE).root)
