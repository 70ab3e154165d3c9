"""oe-build: build, pull and push container images of the frameworks.

Usage:
  oe-build [options] [--arg=NAME=VALUE]... [--set=KEY=VALUE]... [--] [DEF]...

Options:
  --list            Build nothing; print what exists, and what is out of date.
  --verify          Build nothing; check the SHA-256 of each image, also of
                    one that no definition makes, run its %test, and ask it
                    for the versions of the frameworks.
  --manifest=FILE   With --verify: name the tasks of a manifest that lm-eval
                    in the image does not have.
  --pull=SOURCE     Build nothing; put images in place that are built already:
                    from oras://, docker://, library://, hf:// or https://.
  --push=TARGET     Build nothing; upload images to oras://HOST/REPOSITORY:TAG.
  --insecure        Allow plain http, which anybody on the way can read and
                    change. Without it, only for registries on this machine.
  --dir=DIRECTORY   Where the images are. By default the cluster's
                    images_directory.
  --arg=NAME=VALUE  A build argument, such as FROM (another base image). An
                    image that was built with others is out of date.
  --jobs=N          Images to build or pull at once. [default: 2]
  --force           Build or pull also what is up to date.
  --way=WAY         root, userns, fakeroot, proot or remote. By default the
                    first that this user has the rights for.
  --format=FORMAT   jsonl, json, csv, table, markdown, latex or html. By
                    default table on a terminal, jsonl otherwise.
  --cluster=NAME    Cluster to build for: a name, or a JSON file from oe-detect
                    (with a slash in its name, or ending in .json). Without it,
                    this machine's cluster.
  --set=KEY=VALUE   Override a setting; KEY.MEMBER=VALUE sets a member of a
                    map.
  --help            Print this text.
  --version         Print the version.

Run it on a machine with internet access and Apptainer or Singularity. DEF is
the name of a definition in containers/, which comes with oellm: a file
NAME.def there, or a file requirements/NAME.txt with -cpu; or the path of your
own file NAME.def. Its image is NAME.sif, which the setting images of a cluster
may name.

oe-build builds an image only if it is missing, or if the definition, a file
that it copies, the base image or an argument has changed since. What is known
of an image is beside it: NAME.sif.json with its SHA-256, its labels and what
it was made of, and NAME.sif.log with the log of the last build.

The ways to build: root (with all capabilities), userns (root without them: in
a user namespace), fakeroot (other users, in user namespaces), proot and remote
(SingularityCE only). If none works, oe-build says why.

Room on the disks is checked first, roughly: in DIRECTORY, for base images
(APPTAINER_CACHEDIR), and for what is unpacked (APPTAINER_TMPDIR, else TMPDIR).
An image is put in place when it is whole; until then jobs use the one before.
Two oe-build at the same time share the work. What a killed one leaves behind,
the next one removes.

--pull takes an image from SOURCE:

  oras://HOST/REPOSITORY:TAG             an image file in a registry
  hf://datasets/ORG/NAME[@REVISION]/FILE a file of a data set of the hub
  https://ADDRESS#sha256=DIGEST          any other file
  docker://…, library://…                what Apptainer pulls; it makes an
                                         image file of an image of layers

Its name is DEF, else the one in SOURCE. If SOURCE has {name}, one image for
each DEF is pulled. A download that was cut goes on where it ended, also in the
next oe-build; its SHA-256 must be that of the source, or nothing is kept. An
image is pulled again if the source has another one (if it is docker:// or
library://: if SOURCE is another), or with --force. A pulled image is up to
date for oe-build, whatever the definition of its name is.

--push uploads the image DEF, or the one that TARGET names; {name} in TARGET
stands for each DEF. What the registry has already is left out; afterwards its
digest is compared. Logins are those of `apptainer registry login` and `docker
login`.

Input: names, as arguments or line by line on stdin (`-` or none); `#` begins a
  comment. On a terminal, without a name: those that the cluster's images name.
  With --list, no name means all. --pull and --push read names only if the
  address has {name}.

Output: a record for each image (schema.json, table `image`), as it ends.
  Tables buffer.

Exit status: 0 done; 1 an image could not be built or moved, or is not sound; 2
  bad usage; 3 no Apptainer, no rights, or no room; 130 interrupted.

Examples:
  oe-build --list
  oe-build --dir images lm_eval-cuda evalplus-evaluate-cpu
  oe-build --list --format csv | csvgrep -c status -m out_of_date |
      csvcut -c name | sed 1d | oe-build
  oe-build --verify --manifest evals.csv lm_eval-cuda
  oe-build --pull oras://registry.example.org/oellm/{name}:1.0 lm_eval-cuda
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
    from oellm.manifest.rows import Row


# Letters of a reason that a table shows on any terminal.
_NARROWEST = 20


class Options(NamedTuple):
    """The command line."""

    names: list[str]
    directory: str | None
    arguments: dict[str, str]
    layout: str
    jobs: int
    is_list: bool
    is_check: bool
    manifest: str | None
    pull: str | None
    push: str | None
    is_insecure: bool
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

    formats = (*tables.STREAMED, *tables.TABLES)
    layout = tables.choose_format(arguments["--format"], sys.stdout, formats, piped="jsonl")
    actions = [name for name in ("--list", "--verify", "--pull", "--push") if arguments[name]]
    for name in ("--pull", "--push", "--manifest", "--dir", "--way", "--cluster"):
        # Such as a variable of a script that is not set.
        if arguments[name] == "":
            raise UsageError(f"{name}: expected a value, got ''")
    if len(actions) > 1:
        raise UsageError(f"{' and '.join(actions)} exclude each other")
    if arguments["--force"] and actions and not arguments["--pull"]:
        raise UsageError(f"{actions[0]} builds nothing: leave out --force")
    if arguments["--arg"] and actions not in ([], ["--list"]):
        raise UsageError(f"{actions[0]} builds nothing: leave out --arg")
    if arguments["--manifest"] and not arguments["--verify"]:
        raise UsageError("--manifest: only --verify looks up its tasks")
    if arguments["--manifest"] == "-" and arguments["DEF"] in ([], ["-"]):
        raise UsageError(
            "--manifest=-: give the names of images, too, since stdin can be read only once"
        )
    return Options(
        names=arguments["DEF"],
        directory=arguments["--dir"],
        arguments=parse_arguments(arguments["--arg"]),
        layout=layout,
        jobs=cli.positive(arguments, "--jobs"),
        is_list=arguments["--list"],
        is_check=arguments["--verify"],
        manifest=arguments["--manifest"],
        pull=arguments["--pull"],
        push=arguments["--push"],
        is_insecure=arguments["--insecure"],
        is_forced=arguments["--force"],
        way=arguments["--way"],
        cluster=arguments["--cluster"],
        overrides=arguments["--set"],
    )


def _build(arguments: cli.Arguments) -> int:
    from oellm.build import building
    from oellm.build.parallel_jobs import ParallelJobs

    options = _options(arguments)
    way = building.choose_way(options.way)
    cluster = _cluster(options)
    images = building.ImageCollection(cluster, options.directory, os.environ, log=cli.message)
    names = _names(options, images)
    if not names and not _is_complete(options):
        cli.message("nothing to do: there are no names")
    if options.pull or options.push:
        return _move(options, images, names)
    if options.is_check:
        verified = images.verify(names, _rows(options.manifest))
        return _exit_status(_write(verified, options.layout))
    targets = images.targets(names, options.arguments)
    if options.is_list:
        _write(images.describe(targets, is_whole=not options.names), options.layout)
        return ExitStatus.DONE
    jobs = ParallelJobs(options.jobs, cli.message, cli.status_line())
    ended = images.build(targets, jobs, at_once=options.jobs, is_forced=options.is_forced, way=way)
    return _exit_status(_write(ended, options.layout))


def _move(options: Options, images: ImageCollection, names: list[str]) -> int:
    """Pull or push images; return the exit status."""
    from oellm.build import moving
    from oellm.build.image_pusher import ImagePusher
    from oellm.build.parallel_jobs import ParallelJobs
    from oellm.hub.environment import configure_libraries

    if (options.pull or "").startswith("hf://"):
        for variable in configure_libraries(os.environ, hf_home=""):
            cli.message(f"{variable} is ignored")
    status = cli.status_line()
    if options.pull:
        pulled = moving.pull_jobs(
            options.pull,
            names,
            images,
            environ=os.environ,
            insecure=options.is_insecure,
            is_forced=options.is_forced,
        )
        ended = ParallelJobs(options.jobs, cli.message, status).run(pulled)
    else:
        pusher = ImagePusher(
            os.environ, insecure=options.is_insecure, log=cli.message, status=status
        )
        ended = moving.push_images(options.push or "", names, images, pusher=pusher)
    return _exit_status(_write(ended, options.layout))


def _exit_status(statuses: set[ImageStatus]) -> int:
    from oellm.build.outcomes import ImageStatus

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
    """Return the names of the images that are asked for."""
    if options.names and options.names != ["-"]:
        return options.names
    if not options.names and _is_complete(options):
        return []
    if options.is_list and not options.names:
        return images.all_names()
    if not options.names and sys.stdin.isatty():
        return images.names_in_use() if options.is_check else images.names_of_cluster()
    with cli.open_input(None) as stream:
        lines = [line.partition("#")[0].strip() for line in stream]
    return [line for line in lines if line]


def _rows(path: str | None) -> list[Row]:
    """Return the rows of a manifest, none without one."""
    from oellm.manifest.csv_file import read_rows

    if path is None:
        return []
    with cli.open_input(path) as stream:
        return list(read_rows(stream, cli.input_name(path), cli.message))


def _is_complete(options: Options) -> bool:
    """Return whether the address of --pull or --push alone says what to move."""
    from oellm.build import moving

    address = options.pull or options.push
    return bool(address) and not moving.needs_names(str(address))


def _write(outcomes: Iterable[ImageOutcome], layout: str) -> set[ImageStatus]:
    """Print a record for each image as it comes; return their statuses."""
    from pathlib import Path

    from oellm.core import schema, tables
    from oellm.core.atomic import naming_file

    is_table = layout in tables.TABLES
    columns = schema.shown_columns("image") if is_table else list(schema.table("image"))
    statuses = set()

    def rows() -> Iterator[list[Any]]:
        for outcome in outcomes:
            statuses.add(outcome.status)
            record = outcome.to_json()
            yield [_cell(record[column], layout) for column in columns]
            with naming_file(Path("stdout")):
                sys.stdout.flush()

    shown: Iterable[list[Any]] = rows()
    if is_table:
        shown = _for_people(list(shown), columns, is_shortened=layout == "table")
    counts = schema.count_columns("image")
    tables.write_rows(shown, columns, layout, stream=sys.stdout, counts=counts)
    return statuses


def _for_people(
    rows: list[list[Any]], columns: list[str], *, is_shortened: bool
) -> list[list[Any]]:
    """Return rows with readable sizes, and perhaps with reasons that fit on the terminal."""
    from oellm.core import display

    size, reason = columns.index("size"), columns.index("reason")
    for row in rows:
        row[size] = "" if row[size] is None else display.format_size(row[size])
    if is_shortened and sys.stdout.isatty():
        others = [place for place in range(len(columns)) if place != reason]
        widths = [max([len(str(row[place] or "")) for row in rows], default=0) for place in others]
        heads = [len(columns[place]) for place in others]
        used = sum(max(pair) + 2 for pair in zip(widths, heads, strict=True) if pair[0])
        room = max(os.get_terminal_size(1).columns - used, _NARROWEST)
        for row in rows:
            row[reason] = display.shorten_end(row[reason], room)
    return rows


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
