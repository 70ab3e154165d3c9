"""oe-detect: print the settings of this cluster as one JSON object.

Usage:
  oe-detect [options] [--set=KEY=VALUE]...

Options:
  --cluster=NAME   Use this cluster, whatever the host name says.
  --set=KEY=VALUE  Override a setting; KEY.MEMBER=VALUE sets a member of a map.
  --explain        Print a table of the settings and where each came from.
  --list           Print the names of the known clusters.
  --help           Print this text.
  --version        Print the version.

--cluster or OELLM_CLUSTER names the cluster. Without them, it is the cluster
whose host name patterns match this machine. A machine that matches none and
has no sbatch is the cluster `local`.

Each setting comes from the first of these that has it:

  1. --set KEY=VALUE
  2. the environment: OELLM_KEY; EVAL_BASE_DIR, EVAL_OUTPUT_DIR and HF_HOME
  3. your file: $OELLM_CONFIG, else $XDG_CONFIG_HOME/oellm/clusters.json
  4. clusters.json of this package: the cluster, then the defaults

Values may refer to other settings, {user} and {home}: "{eval_base_dir}/images".

Output: a JSON object (schema.json, table `cluster`). oe-render accepts it with
  `--cluster FILE`.

Exit status: 0 done, 2 bad setting, 3 no cluster matches this machine.

Example:
  oe-detect --set time_limit=02:00:00 >cluster.json
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from oellm import cli
from oellm.errors import ExitStatus

if TYPE_CHECKING:
    from oellm.clusters.cluster import Cluster


class Options(NamedTuple):
    """The command line."""

    cluster: str | None
    overrides: list[str]
    explain: bool
    list: bool


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return cli.run("oe-detect", doc=__doc__, command=_detect, argv=argv)


def _explain(resolved: Cluster) -> None:
    """Print a table of the settings; the values come last, since they may be long."""
    from oellm.core import json_codec

    lines = [("setting", "origin", "value")]
    for key, value in resolved.settings.items():
        shown = value if isinstance(value, str) else json_codec.dumps(value).decode()
        lines.append((key, resolved.origins[key], shown))
    keys, origins = (max(len(line[column]) for line in lines) for column in (0, 1))
    for key, origin, shown in lines:
        print(f"{key:{keys}}  {origin:{origins}}  {shown}".rstrip())


def _detect(arguments: cli.Arguments) -> int:
    from oellm.clusters import cluster
    from oellm.core import json_codec

    options = Options(
        cluster=arguments["--cluster"],
        overrides=arguments["--set"],
        explain=arguments["--explain"],
        list=arguments["--list"],
    )
    if options.list:
        for name in cluster.known_clusters(os.environ):
            print(name)
        return ExitStatus.DONE
    resolved = cluster.resolve_cluster(options.cluster, options.overrides, os.environ)
    if options.explain:
        _explain(resolved)
    else:
        sys.stdout.write(json_codec.dumps(dict(resolved.settings), indent=True).decode() + "\n")
    return ExitStatus.DONE


if __name__ == "__main__":
    sys.exit(main())
