"""What the build of a wheel makes: a page of man for each command, from its docstring."""

from __future__ import annotations

import ast
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ManPages(BuildHookInterface[Any]):
    """Puts share/man/man1/NAME.1 into a wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Write the pages to a temporary directory, from where the wheel takes them."""
        sys.path.insert(0, str(Path(self.root, "lib")))
        from oellm.manuals.man_page import make_man_page

        self._pages = tempfile.TemporaryDirectory(prefix="oellm-man-")
        scripts = self.metadata.core.scripts
        for name, entry in scripts.items():
            source = Path(self.root, "commands", f"{entry.partition(':')[0]}.py")
            manual = ast.get_docstring(ast.parse(source.read_bytes()), clean=False) or ""
            page = Path(self._pages.name, f"{name}.1")
            page.write_text(make_man_page(manual, self.metadata.version, scripts), "ascii")
            build_data["shared_data"][str(page)] = f"share/man/man1/{page.name}"

    def finalize(self, *_: object) -> None:
        """Remove the temporary directory."""
        self._pages.cleanup()
