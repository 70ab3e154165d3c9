"""Print the labels of an image that only its build knows, one a line: NAME VALUE.

Usage: python3 labels.py PACKAGE… >>"$APPTAINER_LABELS"

They are the date, and the version of each PACKAGE that the image has. Standard library only.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version

if __name__ == "__main__":
    now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    labels = [f"org.opencontainers.image.created {now}"]
    for package in sys.argv[1:]:
        with suppress(PackageNotFoundError):
            labels.append(f"oellm.version.{package} {version(package)}")
    sys.stdout.write("\n".join([*labels, ""]))
