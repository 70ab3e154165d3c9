"""Whether an environment has the versions of frameworks that oellm works with."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from oellm import frameworks


def find_version_faults(
    versions: Mapping[str, str | None], required: Collection[str]
) -> Iterator[str]:
    """Yield what is wrong with the frameworks of an environment.

    `versions` has the version of each framework that is installed, empty if it tells none;
    `required` are the frameworks that must be.
    """
    for name in frameworks.runnable_names():
        version = versions.get(name)
        if version is None:
            if name in required:
                yield f"{name} is not installed"
        elif fault := _fault(name, version):
            yield fault


def _fault(name: str, version: str) -> str:
    if frameworks.is_resident(name):
        return frameworks.find_version_fault(name, version)
    program = frameworks.create_program_framework(name)
    if program is None or version in ("", program.version):
        return ""
    return f"{name} is {version}, and oellm knows the tasks of {program.version}"
