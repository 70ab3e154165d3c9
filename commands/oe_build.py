"""oe-build: build the container images that the frameworks run in.

Usage:
  oe-build [options] [--arg=NAME=VALUE]... [--set=KEY=VALUE]... [--] [DEF]...

Options:
  --list            Build nothing; print what exists, and what is out of date.
  --dir=DIRECTORY   Where the images are. By default the cluster's
                    images_directory.
  --arg=NAME=VALUE  A build argument, such as FROM (another base image). An image
                    that was built with others is out of date.
  --jobs=N          Images to build at once. [default: 2]
  --force           Build also what is up to date.
  --way=WAY         root, userns, fakeroot, proot or remote. By default the first
                    that this user has the rights for.
  --format=FORMAT   jsonl, json, csv, table, markdown, latex or html. By default
                    table on a terminal, jsonl otherwise.
  --cluster=NAME    Cluster to build for: a name, or a JSON file from oe-detect
                    (with a slash in its name, or ending in .json). Without it,
                    this machine's cluster.
  --set=KEY=VALUE   Override a setting; KEY.MEMBER=VALUE sets a member of a map.
  --help            Print this text.
  --version         Print the version.

Run it on a machine with internet access and Apptainer or Singularity. DEF is
the name of a definition in containers/, which comes with oellm: a file NAME.def
there, or a file requirements/NAME.txt with -cpu; or the path of your own file
NAME.def. Its image is NAME.sif, which the setting images of a cluster may name.

oe-build builds an image only if it is missing, or if the definition, a file in
it, the base image or an argument has changed since. What is known of an image
is beside it: NAME.sif.json with its SHA-256, labels, and what it was made of,
and NAME.sif.log with the log of the last build.

The way to build is root (with all capabilities), userns (root without: in a
user namespace), fakeroot (a user with user namespaces or subordinate ids),
proot (SingularityCE), or remote (SingularityCE, after `remote login`). If none
works, oe-build says why.

Room on the disks is checked first, roughly: in DIRECTORY, for the base images
(APPTAINER_CACHEDIR), and for what is unpacked (APPTAINER_TMPDIR, else TMPDIR).
An image is put in place when it is whole, so jobs can use the one before until
then. Two oe-build at the same time share the work. What a killed one leaves
behind, the next one removes.

Input: names, as arguments or line by line on stdin (`-` or none); `#` begins a
  comment. On a terminal, without a name: those that the cluster's images name.
  With --list, no name means all.

Output: a record for each image (schema.json, table `image`), as it ends.
  Tables buffer.

Exit status: 0 done; 1 an image could not be built; 2 bad usage; 3 no Apptainer,
  no rights, or no room; 130 interrupted.

Examples:
  oe-build --list
  oe-build --dir images lm_eval-cuda evalplus-evaluate-cpu
  oe-build --arg FROM=nvcr.io/nvidia/pytorch:25.12-py3 lm_eval-cuda
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from oellm import cli
from oellm.errors import ExitStatus, MachineError, UsageError

if TYPE_CHECKING:
    from oellm.build.building import ImageCollection
    from oellm.build.outcomes import ImageOutcome, ImageStatus
    from oellm.clusters.cluster import Cluster


class Options(NamedTuple):
    """The command line."""

    names: list[str]
    directory: str | None
    arguments: dict[str, str]
    layout: str
    jobs: int
    is_list: bool
    is_forced: bool
    way: str | None
    cluster: str | None
    overrides: list[str]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return cli.run("oe-build", doc=__doc__, command=_build, argv=argv)


def _options(arguments: cli.Arguments) -> Options:
    from oellm.build.building import parse_arguments
    from oellm.core import tables

    layout = arguments["--format"] or ("table" if sys.stdout.isatty() else "jsonl")
    formats = (*tables.STREAMED, *tables.TABLES)
    if layout not in formats:
        raise UsageError(f"--format: expected one of {', '.join(formats)}, got {layout!r}")
    if arguments["--list"] and arguments["--force"]:
        raise UsageError("--list builds nothing: leave out --force")
    return Options(
        names=arguments["DEF"],
        directory=arguments["--dir"],
        arguments=parse_arguments(arguments["--arg"]),
        layout=layout,
        jobs=cli.positive(arguments, "--jobs"),
        is_list=arguments["--list"],
        is_forced=arguments["--force"],
        way=arguments["--way"],
        cluster=arguments["--cluster"],
        overrides=arguments["--set"],
    )


def _build(arguments: cli.Arguments) -> int:
    from oellm.build import building
    from oellm.build.outcomes import ImageStatus
    from oellm.build.parallel_jobs import ParallelJobs

    options = _options(arguments)
    way = building.choose_way(options.way)
    cluster = _cluster(options)
    images = building.ImageCollection(cluster, options.directory, os.environ, log=cli.message)
    names = _names(options, images)
    targets = images.targets(names, options.arguments)
    if options.is_list:
        _write(images.describe(targets, is_whole=not options.names), options.layout)
        return ExitStatus.DONE
    if not targets:
        cli.message("nothing to do: there are no names")
    jobs = ParallelJobs(options.jobs, cli.message, cli.status_line())
    ended = images.build(targets, jobs, at_once=options.jobs, is_forced=options.is_forced, way=way)
    statuses = _write(ended, options.layout)
    return ExitStatus.FAILED if ImageStatus.FAILED in statuses else ExitStatus.DONE


def _cluster(options: Options) -> Cluster:
    """Return the cluster; with --dir it need not be a known one."""
    from oellm.clusters.cluster import Cluster, resolve_cluster

    try:
        return resolve_cluster(options.cluster, options.overrides, os.environ)
    except MachineError:
        if options.directory and not options.overrides:
            return Cluster({}, {})
        raise


def _names(options: Options, images: ImageCollection) -> list[str]:
    """Return the names of the definitions that are asked for."""
    if options.names and options.names != ["-"]:
        return options.names
    if options.is_list and not options.names:
        return images.all_names()
    if not options.names and sys.stdin.isatty():
        return images.names_of_cluster()
    with cli.open_input(None) as stream:
        lines = [line.partition("#")[0].strip() for line in stream]
    return [line for line in lines if line]


def _write(outcomes: Iterable[ImageOutcome], layout: str) -> set[ImageStatus]:
    """Print a record for each image as it comes; return their statuses."""
    from oellm.core import schema, tables

    is_table = layout in tables.TABLES
    columns = schema.shown_columns("image") if is_table else list(schema.table("image"))
    statuses = set()

    def rows() -> Iterator[list[Any]]:
        for outcome in outcomes:
            statuses.add(outcome.status)
            record = outcome.to_json()
            yield [_cell(record[column], layout) for column in columns]
            sys.stdout.flush()

    counts = schema.count_columns("image")
    tables.write_rows(rows(), columns, layout, stream=sys.stdout, counts=counts)
    return statuses


def _cell(value: Any, layout: str) -> Any:
    """Return a value as a layout can show it: CSV and tables have texts and numbers only."""
    from oellm.core import json_codec

    if layout in ("json", "jsonl"):
        return value
    if isinstance(value, list):
        return " ".join(value)
    if isinstance(value, dict):
        return json_codec.dumps(value).decode()
    return value


if __name__ == "__main__":
    sys.exit(main())
