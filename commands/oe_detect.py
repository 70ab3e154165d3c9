"""oe-detect: print the settings of this cluster as one JSON object.

Usage:
  oe-detect [options] [--set=KEY=VALUE]...

Options:
  --cluster=NAME   Use this cluster, whatever the host name says.
  --set=KEY=VALUE  Override a setting; KEY.MEMBER=VALUE sets a member of a map.
  --explain        Print a table of the settings and where each came from.
  --list           Print the names of the known clusters.
  --propose        Print an entry for your file that describes this machine, as
                   far as Slurm and the file system tell; --cluster names it.
                   With --explain, a table of where each value comes from.
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

A map gets the members of all of them; an empty one, {}, drops those below it.
Values may refer to other settings, {user} and {home}:
"{eval_base_dir}/images".

Output: a JSON object (schema.json, table `cluster`). oe-render accepts it with
  `--cluster FILE`.

With --propose, a clusters file with one entry, which oe-config FILE adds to
  yours; what must be filled in is on stderr.

Exit status: 0 done, 1 the proposal is not complete, 2 bad setting, 3 no
cluster matches this machine, or it has no Slurm.

Examples:
  oe-detect --set time_limit=02:00:00 >cluster.json
  oe-detect --propose --explain
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from oellm import cli
from oellm.errors import ExitStatus, UsageError

if TYPE_CHECKING:
    from oellm.clusters.cluster import Cluster


class Options(NamedTuple):
    """The command line."""

    cluster: str | None
    overrides: list[str]
    explain: bool
    list: bool
    propose: bool


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


def _propose(options: Options) -> int:
    """Print the proposal of an entry for the user's clusters file."""
    import shutil

    from oellm.discovery import own_clusters, proposal
    from oellm.discovery.listing import list_settings
    from oellm.discovery.machine import look_at_machine

    decided = proposal.read_decided(options.overrides)
    clusters = own_clusters.read_own_clusters(os.environ)
    machine = look_at_machine(os.environ)
    name = options.cluster or proposal.choose_name(machine, clusters, os.environ)
    if problem := own_clusters.check_name(name):
        raise UsageError(f"--cluster: {problem}")
    proposed = proposal.propose(machine, name, decided)
    if options.explain:
        for line in list_settings(proposed.settings, shutil.get_terminal_size().columns):
            print(line)
    else:
        sys.stdout.write(own_clusters.format_entry(name, proposed.entry()))
    for failure in proposed.failures:
        cli.message(failure)
    for setting in proposed.open_settings():
        cli.message(f"{setting.key} must be filled in: {setting.origin}")
    return ExitStatus.FAILED if proposed.open_settings() else ExitStatus.DONE


def _detect(arguments: cli.Arguments) -> int:
    from oellm.clusters import cluster
    from oellm.core import json_codec

    options = Options(
        cluster=arguments["--cluster"],
        overrides=arguments["--set"],
        explain=arguments["--explain"],
        list=arguments["--list"],
        propose=arguments["--propose"],
    )
    if options.list and (options.propose or options.explain):
        other = "--propose" if options.propose else "--explain"
        raise UsageError(f"--list and {other} exclude each other")
    if options.propose:
        return _propose(options)
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
