"""Hatchling's hook: has man pages and completion in the wheel (pyproject.toml names it)."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class SharedFiles(BuildHookInterface):  # type: ignore[type-arg]  # its argument is of hatchling's insides
    """Makes the files while a wheel is built; what is installed in place has none."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the files of each command that the project has, and name them with their places."""
        if version == "editable":
            return
        self._folder = TemporaryDirectory(prefix="anklume-shared-")
        for number, (place, text) in enumerate(self._files().items()):
            file = Path(self._folder.name, str(number))
            file.write_text(text, encoding="utf-8")
            build_data["shared_data"][str(file)] = place

    def finalize(self, version: str, _build_data: dict[str, Any], _artifact: str) -> None:
        """Remove what was written for the wheel."""
        if version != "editable":
            self._folder.cleanup()

    def _files(self) -> dict[str, str]:
        sys.path.insert(0, self.root)  # an isolated build has no sources in its path
        from anklume_images.packaging.completion import completion_files
        from anklume_images.packaging.man_pages import man_pages

        files: dict[str, str] = {}
        for name, target in self.metadata.core.scripts.items():
            program = import_module(target.partition(":")[0]).cli
            pages = man_pages(program, name, self.metadata.version, program.exit_codes)
            files |= {f"share/man/man1/{page}": text for page, text in pages.items()}
            files |= completion_files(program, name)
        return files
