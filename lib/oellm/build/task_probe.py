"""What oe-build --verify runs inside an image: it looks up tasks, and prints those unknown."""

from __future__ import annotations

import sys

from oellm import frameworks
from oellm.core import json_codec
from oellm.errors import ExitStatus
from oellm.manifest.rows import Row


def main() -> int:
    """Read rows from stdin, print what is wrong with the tasks of each."""
    asked = json_codec.loads(sys.stdin.buffer.read())
    rows = [Row(cells, source, line) for cells, source, line in asked]
    unknown = frameworks.find_unknown_tasks(rows, lambda _: None)
    sys.stdout.buffer.write(json_codec.dumps([str(error) for error in unknown]) + b"\n")
    return ExitStatus.DONE


if __name__ == "__main__":
    sys.exit(main())
