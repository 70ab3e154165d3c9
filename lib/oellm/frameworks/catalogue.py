"""The tasks of a framework as a file that is shipped with its adapter.

The file is made in the framework's own environment by a script of the project, for one version.
So a login node knows the names without the framework, which may need another Python.
"""

from __future__ import annotations

import functools
import pkgutil
from collections.abc import Mapping
from typing import Any, NamedTuple

from oellm.core import json_codec
from oellm.errors import nearest


class CatalogueTask(NamedTuple):
    """A task of a framework.

    Attributes:
        n_docs: The number of its documents; None if the catalogue does not know.
        digest: What tells its definition from another version's; empty if unknown.
    """

    n_docs: int | None = None
    digest: str = ""


class Catalogue(NamedTuple):
    """The tasks and groups of a version of a framework.

    Attributes:
        version: The version.
        tasks: The tasks by name.
        groups: The names of the members of each group.
    """

    version: str
    tasks: Mapping[str, CatalogueTask]
    groups: Mapping[str, tuple[str, ...]] = {}  # nobody changes it

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Catalogue:
        """Read a catalogue file; raises KeyError, TypeError or ValueError if it is damaged."""
        return cls(
            version=str(content["version"]),
            tasks={name: CatalogueTask(**task) for name, task in content["tasks"].items()},
            groups={name: tuple(members) for name, members in content.get("groups", {}).items()},
        )

    def find_unknown(self, task: str) -> str:
        """Return that there is no such task or group, with the nearest name; empty if there is."""
        if task in self.tasks or task in self.groups:
            return ""
        hint = nearest(task, [*self.tasks, *self.groups])
        return f"no task {task!r} in version {self.version}{hint}"


class Catalogued:
    """An adapter whose package has a catalogue file; it names the package as `_PACKAGE`."""

    _PACKAGE: str

    @property
    def version(self) -> str:
        """The version of the framework."""
        return self.catalogue().version

    def catalogue(self) -> Catalogue:
        """Return the tasks and groups of that version."""
        return read_catalogue(self._PACKAGE)


@functools.cache
def read_catalogue(package: str, name: str = "catalogue.json") -> Catalogue:
    """Return the catalogue in a file of an adapter's package, also from a zip archive."""
    content = pkgutil.get_data(package, name)
    return Catalogue.from_json(json_codec.loads(content or b""))
