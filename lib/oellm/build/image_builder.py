"""An image is built from its definition by the container runtime."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from oellm import __version__
from oellm.build.image_jobs import MadeImage, run_logged
from oellm.build.image_states import DEFINITION, ImageTarget, StateReader
from oellm.build.outcomes import ImageStatus
from oellm.build.ways import BuildWay
from oellm.core.display import shorten_end
from oellm.core.redaction import redact
from oellm.core.regular_files import open_regular
from oellm.errors import OellmError
from oellm.images.definitions import DefinitionText
from oellm.images.image_record import StoredImage, log_path

# Bytes at the end of a log that are read.
_TAIL = 2**14
# Letters of a line of a log that are shown.
_LONGEST = 400
# Sections of a definition, in the last words of a runtime, and lines of the runtime itself.
_SECTION = re.compile(r"%(post|test|setup|pre)\b")
_OF_RUNTIME = re.compile(r"(\x1b\[\d+m)?(INFO|WARNING|ERROR|FATAL)\b|\+ ")
# The argument of a definition that says where it comes from, for a label.
_REVISION = "REVISION"
_FULL = "no space left on device"


class BuildFailedError(OellmError):
    """The runtime could not build an image; the text says how it ended."""


class ImageBuilder:
    """Builds the image of a definition (an ImageMaker)."""

    status = ImageStatus.BUILT
    source = DEFINITION

    def __init__(
        self,
        target: ImageTarget,
        find_way: Callable[[], BuildWay],
        runtime: str,
        environ: Mapping[str, str],
    ) -> None:
        self._target = target
        self._find_way = find_way
        self._runtime = runtime
        self._environ = environ
        self.name = target.definition.name
        self.path = target.path
        self.inputs: Mapping[str, Any] = target.inputs.to_json()

    def why_needed(self) -> tuple[str, StoredImage | None]:
        """Return why the image must be built, empty if it need not; and its record."""
        return StateReader(self._environ, lambda _: None).why_out_of_date(self._target)

    def make(self, attempt: Path, workspace: Path) -> MadeImage:
        """Build the image; raises BuildFailedError."""
        way = self._find_way()
        definition = self._target.definition
        arguments = {**definition.arguments, **self._target.arguments}
        if _REVISION in DefinitionText(definition.path).defaults:
            # Not one of the inputs: another revision of the same files makes the same image.
            arguments.setdefault(_REVISION, describe_revision(definition.root))
        command = [*way.before, self._runtime, "build", *way.options]
        for key, value in arguments.items():
            command += ["--build-arg", f"{key}={value}"]
        command += [str(attempt), str(definition.path)]
        sys.stdout.write(redact(shlex.join(command)) + "\n")
        sys.stdout.flush()
        scratch = {f"{name}_TMPDIR": str(workspace) for name in ("APPTAINER", "SINGULARITY")}
        status = run_logged(command, {**self._environ, **scratch}, definition.root)
        if status:
            raise BuildFailedError(describe_failure("build", status, log_path(self.path)))
        return MadeImage(attempt, None)


def describe_revision(root: Path) -> str:
    """Return the commit of the checkout in a directory, or else the version of oellm."""
    if (root / ".git").exists():
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40"]
        with suppress(OSError):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return done.stdout.strip()
    return f"oellm-{__version__}"


def last_lines(log: Path, count: int) -> list[str]:
    """Return the last lines of a log that are not empty."""
    with open_regular(log) as stream:
        stream.seek(0, 2)
        stream.seek(max(0, stream.tell() - _TAIL))
        text = stream.read().decode(errors="replace")
    # Bars of progress move to the start of their line.
    lines = (line.rpartition("\r")[2].strip() for line in text.replace("\r\n", "\n").split("\n"))
    return [shorten_end(line, _LONGEST) for line in lines if line][-count:]


def describe_failure(action: str, status: int, log: Path) -> str:
    """Return how a program failed to build or pull an image, from its exit status and its log."""
    lines = last_lines(log, 100)
    if any(_FULL in line.lower() for line in lines):
        return "the disk became full (No space left on device)"
    if status < 0:
        return f"the {action} was killed by signal {-status}"
    last = lines[-1] if lines else "it wrote nothing"
    if match := _SECTION.search(last):
        # The runtime only says that a section failed; what the section says is above.
        own = [line for line in lines if not _OF_RUNTIME.match(line)]
        return f"its {match[0]} fails: {own[-1] if own else last}"
    return f"the {action} ended with status {status}: {last}"
