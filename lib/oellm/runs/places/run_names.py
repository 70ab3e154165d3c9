"""The names under which commands find the user's runs, as far as their directories tell."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from oellm.clusters.cluster import resolve_cluster
from oellm.core.paths import user_name
from oellm.runs.places.new_directory import STAMP_PATTERN

# A number after the time is left out: it may be the name's, or tell runs of the same second apart.
_NAMED = re.compile(rf"{STAMP_PATTERN}-(?![0-9]+(?:-|$))(.+)")


def list_names(cluster: str | None, environ: Mapping[str, str]) -> list[str]:
    """Return the names that one run of the user has alone, and those of all run directories.

    No run is read: there may be thousands. Raises what `resolve_cluster` raises.
    """
    output_dir = resolve_cluster(cluster, [], environ).text("eval_output_dir")
    if not output_dir:
        return []
    directories = [path.parent.name for path in (Path(output_dir) / user_name()).glob("*/run.json")]
    names = Counter(found[1] for found in map(_NAMED.fullmatch, directories) if found)
    return sorted([name for name, number in names.items() if number == 1] + directories)
