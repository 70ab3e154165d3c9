"""The images and virtual environments of a cluster: there, whole, and with their framework."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from oellm import frameworks
from oellm.clusters.cluster import Cluster
from oellm.clusters.image_digest import ImageDigests
from oellm.clusters.runtime import (
    SECOND_STAGE,
    Launcher,
    find_launcher,
    runtime_names,
    worker_command,
)
from oellm.core import json_codec
from oellm.core.display import format_size
from oellm.core.regular_files import open_regular
from oellm.doctor import environment_probe
from oellm.doctor.diagnoses import Diagnosis, found_doubtful, found_ok, found_wrong
from oellm.frameworks.current_contents import definition_version
from oellm.images.definitions import definition_of_image
from oellm.images.image_record import find_other_digest, read_record
from oellm.slurm.job_ends import last_line

_BUILD = "build or pull it (oe-build), or set images.{name} and images_directory"
# The settings of directories that every container sees.
_SHARED = ("eval_base_dir", "hf_home")


# The setup lines, then the path and the version of the first runtime; nothing if there is none.
_FIND_RUNTIME = """set -eo pipefail
exec 3>&1 >&2
{setup}
for name in "$@"; do
    if path=$(command -v "$name"); then
        echo "$path" >&3
        exec "$path" --version >&3
    fi
done
"""


class JobEnvironment(NamedTuple):
    """An image or a Python, and the keys of the settings that name it."""

    launcher: Launcher
    keys: tuple[str, ...]

    @property
    def check(self) -> str:
        """The name of its check."""
        kind = "image" if self.launcher.image else "python"
        return f"{kind} {', '.join(self.keys)}"

    @property
    def suites(self) -> list[str]:
        """The frameworks that it should have."""
        return list(dict.fromkeys(key.removesuffix(SECOND_STAGE) for key in self.keys))

    def find_unbuilt(self) -> str:
        """Return the definition that makes the image; empty if it is there, or none makes it."""
        image = self.launcher.image
        return "" if image is None or os.path.lexists(image) else definition_of_image(image)


def find_environments(cluster: Cluster) -> list[JobEnvironment]:
    """Return the environments that the settings name, each once.

    If they name none, it is the one for frameworks with resident models. Raises MachineError for
    the first that the cluster has no environment for.
    """
    named = [*cluster.mapping("images"), *cluster.mapping("venvs")]
    resident = [name for name in frameworks.runnable_names() if frameworks.is_resident(name)]
    keys: dict[Launcher, list[str]] = {}
    for key in dict.fromkeys(named or resident):
        keys.setdefault(find_launcher(cluster, key), []).append(key)
    return [JobEnvironment(launcher, tuple(members)) for launcher, members in keys.items()]


def find_sandbox_image(found: Iterable[JobEnvironment]) -> Path | None:
    """Return the image in which a model's programs run: that of a second stage if there is one."""
    images = {key: one.launcher.image for one in found for key in one.keys if one.launcher.image}
    later = [image for key, image in images.items() if key.endswith(SECOND_STAGE)]
    return next(iter([*later, *images.values()]), None)


def check_runtime(cluster: Cluster) -> Iterator[Diagnosis]:
    """Ask the container runtime of the settings for its version, after the setup lines."""
    names = runtime_names(cluster.text("container_runtime"))
    remedy = "load its module (setting setup: module load …), or set container_runtime"
    script = _FIND_RUNTIME.format(setup="\n".join(cluster.items("setup")))
    command = ["bash", "-c", script, "bash", *names]
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    path, _, version = done.stdout.strip().partition("\n")
    if done.returncode:
        reason = last_line(done.stderr) or f"status {done.returncode}"
        failed = f"{os.path.basename(path)} --version" if path else "the lines of setup fail"
        text = f"{failed}: {reason}"
        yield found_wrong("runtime", text, remedy)
    elif not path:
        text = f"neither {' nor '.join(names)} is" if len(names) > 1 else f"{names[0]} is not"
        yield found_wrong("runtime", f"{text} on PATH", remedy)
    else:
        yield found_ok("runtime", f"{version}, {path}")


def check_environment(
    cluster: Cluster, environment: JobEnvironment, environ: Mapping[str, str]
) -> Iterator[Diagnosis]:
    """Start an environment once, and look at what it has."""
    image, _ = environment.launcher
    said = ""
    if name := environment.find_unbuilt():
        yield describe_unbuilt(environment.check, f"{image}: not built yet", name)
        return
    if image:
        try:
            said = _describe_image(image, environ)
        except (OSError, ValueError) as error:
            hint = _BUILD.format(name=environment.keys[0])
            text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            yield found_wrong(environment.check, f"{image}: {text}", hint)
            return
    with tempfile.TemporaryDirectory(prefix="oellm-") as directory:
        # A container sees this directory; it need not see where we are installed.
        probe = Path(directory, "environment_probe.py")
        loader = environment_probe.__spec__.loader
        probe.write_bytes(loader.get_data(environment_probe.__file__))  # type: ignore[union-attr]
        command = worker_command(
            _without_missing(cluster),
            environment.keys[0],
            worker=probe,
            paths=[],
            arguments=environment.suites,
        )
        done = subprocess.run(command, capture_output=True, check=False)
    yield describe_start(environment, done, said)


def describe_unbuilt(check: str, text: str, definition: str) -> Diagnosis:
    """Return the finding that an image is still to be made, as after oe-config."""
    return found_doubtful(check, text, f"oe-build {definition} makes it; with --pull, it gets it")


def _without_missing(cluster: Cluster) -> Cluster:
    """Return the settings without shared directories that do not exist yet: none can be bound."""
    gone = {key for key in _SHARED if not os.path.exists(cluster.text(key))}
    kept = {key: value for key, value in cluster.settings.items() if key not in gone}
    return Cluster(kept, cluster.origins)


def describe_start(
    environment: JobEnvironment, done: subprocess.CompletedProcess[bytes], said: str = ""
) -> Diagnosis:
    """Return what the probe in an environment means; `said` is what is known of its image."""
    image, python = environment.launcher
    place = str(image or python)
    try:
        answer = json_codec.loads(done.stdout.splitlines()[-1])
        packages = {str(name): version for name, version in answer["packages"].items()}
    except (LookupError, ValueError, TypeError, AttributeError):
        reason = last_line(done.stderr.decode("utf-8", "replace")) or "it says nothing"
        text = f"{place} does not start (status {done.returncode}): {reason}"
        remedy = "is it an image? " + _BUILD.format(name=environment.keys[0])
        return found_wrong(environment.check, text, remedy if image else "set venv or venvs")
    if missing := [name for name, version in packages.items() if version is None]:
        text = f"{place} lacks {', '.join(missing)}"
        remedy = f"install it there, or set images.{missing[0]} or venvs.{missing[0]}"
        return found_wrong(environment.check, text, remedy)
    shown = [f"{name} {version}".strip() for name, version in packages.items()]
    shown += [f"Python {answer['python']}", *filter(None, [said])]
    if others := list(_other_versions(packages)):
        remedy = "tasks may differ: install the same version here and there"
        text = f"{place}: {', '.join(shown)}; here are {', '.join(others)}"
        return found_doubtful(environment.check, text, remedy)
    return found_ok(environment.check, f"{place}: {', '.join(shown)}")


def _other_versions(packages: Mapping[str, str]) -> Iterable[str]:
    """Yield the frameworks whose tasks are known here in another version than is there."""
    for name, version in packages.items():
        if name not in frameworks.names() or not version:
            continue
        known = definition_version(name)
        if known and known != version:
            yield f"the tasks of {name} {known}"


def _describe_image(image: Path, environ: Mapping[str, str]) -> str:
    """Return what is known of an image; raises OSError, or ValueError if it is not as recorded."""
    if image.is_dir():
        os.listdir(image)
        return "a directory"
    size = image.stat().st_size
    with open_regular(image, any_link=True) as stream:
        stream.read(1)
    record = read_record(image)
    if record is None:
        return f"{format_size(size)}, no record of its digest"
    # It takes long to read an image; oe-build --verify does that in any case.
    found = find_other_digest(image, record, ImageDigests(environ, lambda _: None))
    if found == "":
        raise ValueError("it changed while it was read, or cannot be read")
    if found:
        shown = (found[:16], record.digest[:16])
        raise ValueError("its SHA-256 is {}…, but {}… in the record beside it".format(*shown))
    return f"{format_size(size)}, as oe-build recorded it"
