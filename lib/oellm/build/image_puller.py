"""An image is pulled: downloaded as a file, or pulled and converted by the container runtime."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oellm.build.disk_room import needs_of_build, require_room
from oellm.build.image_builder import describe_failure, last_lines
from oellm.build.image_jobs import MadeImage, run_logged
from oellm.build.image_states import StateReader
from oellm.build.outcomes import ImageStatus
from oellm.core.redaction import redact
from oellm.core.retry import Backoff, retry
from oellm.errors import OellmError
from oellm.images.downloads import RemoteImage, download_image
from oellm.images.image_record import StoredImage, log_path, read_record
from oellm.images.image_sources import ConvertedImage, ImageSource
from oellm.images.remote_images import find_remote_image
from oellm.images.web_requests import is_loopback

# The runtime itself gives up at the first cut. What it has fetched whole stays in its cache.
_BACKOFF = Backoff(total_s=120.0, first_s=2.0, longest_s=30.0)
_TRANSIENT = re.compile(
    r"unexpected EOF|connection reset|broken pipe|time-?out|timed out|too many requests"
    r"|(?:status|code):? *(?:408|429|50[0234])",
    re.IGNORECASE,
)


class PullFailedError(OellmError):
    """The runtime could not pull an image."""


class ImagePuller:
    """Pulls an image (an ImageMaker)."""

    status = ImageStatus.PULLED

    def __init__(
        self,
        source: ImageSource,
        path: Path,
        runtime: str,
        *,
        environ: Mapping[str, str],
        insecure: bool,
    ) -> None:
        self._place = source
        self._runtime = runtime
        self._environ = environ
        self._insecure = insecure
        self.name = path.stem
        self.path = path
        self.source = str(source)
        self.inputs: Mapping[str, Any] = {}
        self._remote: RemoteImage | None = None

    def why_needed(self) -> tuple[str, StoredImage | None]:
        """Return why the image must be pulled, empty if it need not; and its record.

        Asks the source for the digest that it has now. Raises OellmError.
        """
        if not isinstance(self._place, ConvertedImage):
            self._remote = find_remote_image(
                self._place, self._environ, _write_line, insecure=self._insecure
            )
        if not self.path.exists():
            return ImageStatus.MISSING.value, None
        record = read_record(self.path)
        if record is None:
            return "not recorded", None
        if change := StateReader(self._environ, _write_line).find_change(self.path, record):
            return change, record
        if self._remote:
            is_same = self._remote.sha256 == record.digest
        else:
            # What the runtime converts has another digest each time.
            is_same = record.source == self.source
        return "" if is_same else f"{self.source} is another image", record

    def make(self, attempt: Path, workspace: Path) -> MadeImage:
        """Pull the image; raises OellmError or OSError."""
        if self._remote is None:
            self._convert(attempt, workspace)
            return MadeImage(attempt, None)
        whole = download_image(self._remote, self.path, log=_write_line, status=_write_status)
        return MadeImage(whole, self._remote.sha256)

    def _convert(self, attempt: Path, workspace: Path) -> None:
        require_room(needs_of_build(self.source, self.path.parent, self._environ, known_size=None))
        scratch = {f"{name}_TMPDIR": str(workspace) for name in ("APPTAINER", "SINGULARITY")}
        host = self.source.partition("://")[2].partition("/")[0]
        is_plain = self._insecure or is_loopback(host)
        command = [self._runtime, "pull", "--force", *(["--no-https"] if is_plain else [])]
        command += [str(attempt), self.source]

        def pull() -> None:
            status = run_logged(command, {**self._environ, **scratch}, self.path.parent)
            if status:
                raise PullFailedError(describe_failure("pull", status, log_path(self.path)))

        def may_pass(_: Exception) -> bool:
            lines = last_lines(log_path(self.path), 3)
            return any(_TRANSIENT.search(line) for line in lines)

        retry(
            pull,
            _BACKOFF,
            may_pass=may_pass,
            before_retry=lambda _, wait: _write_line(f"trying again in {wait:.0f} s"),
        )


def _write_line(text: str) -> None:
    """Write a message to the log."""
    _write(f"{redact(text)}\n")


def _write_status(text: str) -> None:
    """Write a line to the log that the next one replaces."""
    _write(f"\r{text}" if text else "\n")


def _write(text: str) -> None:
    """Write to the log, which is stdout, unless its disk is full."""
    with contextlib.suppress(OSError):
        sys.stdout.write(text)
        sys.stdout.flush()
