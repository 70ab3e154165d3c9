"""oe-fetch: download the models, data sets and metrics that a manifest needs.

Usage:
  oe-fetch [options] [--set=KEY=VALUE]... [--] [MANIFEST]

Options:
  --cluster=NAME   Cluster to fetch for: a name, or a JSON file from oe-detect
                   (with a slash in its name, or ending in .json). Without it,
                   this machine's cluster.
  --set=KEY=VALUE  Override a setting; KEY.MEMBER=VALUE sets a member of a map.
  --jobs=N         Models, and data sets, to download at once. [default: 4]
  --check          Download nothing; find the rows that cannot start without a
                   network.
  --help           Print this text.
  --version        Print the version.

Run it on a machine with internet access, such as a login node. It downloads to
the cluster's hf_home, where the jobs look, and does not download again what is
already there.

For each model, oe-fetch downloads the commit in the row's model_revision, else
the commit that its `revision` argument names (by default `main`). It takes
only the weights that will be loaded: safetensors, else .bin, else .pt and
.pth; in the directory that `subfolder` names, the copy that `variant` names,
or the file that `gguf_file` names. It leaves out what training left behind,
and other models in subdirectories. It also downloads the repositories in the
arguments tokenizer (without weights), peft and delta, and those of the model's
code if the row trusts remote code. A local model must be complete, as for
oe-manifest.

For each task, oe-fetch finds every data set, metric and other file by trying
the task in the environment that the jobs will have (the container image or
venv of the cluster). `oe-run-task --fetch_tasks` does that: it asks two
documents, and scores made-up answers, with the network blocked. If something
is missing, it is downloaded, and the task is tried again, so a row that passes
has been seen to start. A data set that is already there is used as it is, even
if the hub has a newer one; delete it to get the newer one.

Sources of tasks (include_path) that are no directories come first: a branch or
tag becomes its commit, and the tree of the commit is fetched, once, to where
the jobs look. docs/TASK_SOURCES.md has the details.

The tasks of other frameworks (eval_suite) are tried in their environments; one
manifest may have several. There, oe-fetch loads what a program will load: data
sets, metrics, packages of NLTK, and files, which it compares with their
digests and keeps below hf_home. The user's own problems (include_path) take
the place of such a file. If a row has two stages, the environment of the
second must be there, too.

--check downloads nothing: it tries the tasks and checks the models' files.
What a framework cannot do as a row asks is an error, before anything is
downloaded.

Models are downloaded only if there is room for all of them. Each file is
compared with the size and digest that the hub lists, and fetched once more if
they differ. If you start oe-fetch again, it continues with the incomplete
files; two at the same time share the work. If the hub limits requests or has
trouble, oe-fetch waits: up to five minutes per request, and as long as the hub
asks for. If the hub does not answer at all, models and data in the cache are
taken as they are. After HF_HUB_DOWNLOAD_TIMEOUT seconds (10) without data it
requests the rest of a file again, at most six times. It shows its progress on
a terminal, and logs a line every 30 s otherwise.

oe-fetch ignores variables that would keep it from downloading (HF_HUB_OFFLINE
and the like) or that put single caches elsewhere (HF_HUB_CACHE,
HF_DATASETS_CACHE and the like), and says so. HF_TOKEN, or a login with the
hub's own tool, opens gated repositories. HF_ENDPOINT names another hub.

Input: a manifest in CSV, a file or stdin (schema.json, table `manifest`). Rows
  of a framework (eval_suite) whose results oellm can only read are left out
  with status 1; if there are no others, that is an error.

Output: the rows whose model and task are in the cache, in order. They have the
  columns model_revision (the commit of a hub model), model_bytes,
  dataset_revision, task_digest, task_version, n_docs, n_requests and
  request_types, and the commits of sources in include_path. If a commit
  changes, eval_id becomes empty. The digest is over the task's own
  configuration, code and local files, so that a change is noticed. stderr
  names the rows that could not be fetched, each reason once. With --check: the
  rows that cannot start, with the columns reason and remedy (the command that
  would solve it). Buffers until everything is fetched. A manifest of a header
  alone passes through, with status 0.

Exit status: 0 done; 1 some rows were left out (cannot start); 2 bad input or
  setting; 3 the hub cannot be reached, no image or environment; 130
  interrupted.

Examples:
  oe-manifest --models acme/tiny --tasks arc_easy | oe-fetch >evals.csv
  oe-fetch --check evals.csv && oe-render evals.csv | oe-submit
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from oellm import cli
from oellm.errors import ExitStatus

if TYPE_CHECKING:
    from oellm.clusters.cluster import Cluster
    from oellm.fetch.fetching import FetchOutcome, Finding
    from oellm.manifest.rows import Row


class Options(NamedTuple):
    """The command line."""

    manifest: str | None
    cluster: str | None
    overrides: list[str]
    jobs: int
    check: bool

    @property
    def without_check(self) -> str:
        """The command that fetches what a check finds missing."""
        import shlex

        flags = [f"--set={text}" for text in self.overrides]
        if self.cluster:
            flags.insert(0, f"--cluster={self.cluster}")
        return shlex.join(["oe-fetch", *flags, self.manifest or "MANIFEST"])


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return cli.run("oe-fetch", doc=__doc__, command=_fetch, argv=argv)


def read_options(arguments: cli.Arguments) -> Options:
    """Return the command line; raises UsageError for values that it cannot have."""
    return Options(
        manifest=arguments["MANIFEST"],
        cluster=arguments["--cluster"],
        overrides=arguments["--set"],
        jobs=cli.positive(arguments, "--jobs"),
        check=arguments["--check"],
    )


def _fetch(arguments: cli.Arguments) -> int:
    import os

    from oellm.clusters.cluster import resolve_cluster
    from oellm.fetch import fetching
    from oellm.hub import environment, errors
    from oellm.manifest import csv_file as manifest

    options = read_options(arguments)
    cluster = resolve_cluster(options.cluster, options.overrides, os.environ)
    with cli.open_input(options.manifest) as stream:
        skipped: list[Row] = []
        source = cli.input_name(options.manifest)
        columns, rows = fetching.read_rows(stream, source, cli.message, skipped=skipped)
    for variable in environment.configure_libraries(os.environ, cluster.text("hf_home")):
        cli.message(f"{variable} is ignored")
    if options.check:
        return _check(options, cluster, rows) or _status(skipped)
    if not rows:
        cli.message("nothing to do: the manifest has no rows")
        manifest.ManifestWriter(sys.stdout).header(fetching.fetched_columns(columns))
        return ExitStatus.DONE
    address = environment.hub_address(os.environ)
    silence = environment.find_silence(address)
    if silence is not None:
        environment.forbid_network(os.environ)
    problem = None if silence is None else errors.unreachable_hub(address)
    fetcher = fetching.Fetcher(
        cluster,
        address,
        problem,
        jobs=options.jobs,
        log=cli.message,
        relay=_relay,
        status=cli.status_line(),
    )
    with cli.stdout_diverted():
        outcome = fetcher.fetch(rows)
    writer = manifest.ManifestWriter(sys.stdout)
    writer.header(outcome.columns)
    for row in outcome.rows:
        writer.write(row)
    missed = any(failure.finding.problem.unreachable for failure in outcome.failures)
    # A silent hub is no news if everything is here.
    if silence is not None and missed:
        cli.message(f"{address} does not answer: {silence}")
    status = _summary(outcome, len(rows), missed=silence is not None and missed)
    cli.next_steps("next: the same, with | oe-render | oe-submit")
    return status or _status(skipped)


def _status(skipped: list[Row]) -> ExitStatus:
    """Return the exit status if all other rows are well."""
    return ExitStatus.FAILED if skipped else ExitStatus.DONE


def _relay(line: str) -> None:
    """Print a line of the process that tries the tasks as one of ours."""
    name, colon, text = line.partition(": ")
    cli.relay(f"oe-fetch: {text}" if name == "oe-run-task" and colon else line)


def _summary(outcome: FetchOutcome, rows: int, missed: bool) -> int:
    """Print what became of the rows; return the exit status."""
    for failure in outcome.failures:
        cli.message(str(failure))
    passed = len(outcome.rows)
    cli.message(f"{passed} of {rows} rows fetched" + (", the others left out" * (passed < rows)))
    if not outcome.failures:
        return ExitStatus.DONE
    return ExitStatus.MACHINE if missed else ExitStatus.FAILED


def _check(options: Options, cluster: Cluster, rows: list[Row]) -> int:
    """Print the rows that cannot start, with the reasons; return the exit status."""
    from oellm.fetch import fetching
    from oellm.manifest import csv_file as manifest

    checked = fetching.Checker(
        cluster, options.jobs, fetch_command=options.without_check, relay=_relay
    ).check(rows)
    found: dict[Finding, list[Row]] = {}
    writer = manifest.ManifestWriter(sys.stdout)
    kept = [name for name in _columns(rows) if name not in fetching.CHECK_COLUMNS]
    writer.header([*kept, *fetching.CHECK_COLUMNS])
    for row, findings in checked:
        for finding in findings:
            found.setdefault(finding, []).append(row)
        if findings:
            reason = "; ".join(finding.problem.text for finding in findings)
            remedy = "; ".join(filter(None, (finding.remedy for finding in findings)))
            writer.write(row.with_cells(reason=reason, remedy=remedy))
    for failure in fetching.group_failures(found):
        cli.message(str(failure))
    stuck = sum(bool(findings) for _, findings in checked)
    cli.message(f"{len(rows) - stuck} of {len(rows)} rows can start")
    return ExitStatus.FAILED if stuck else ExitStatus.DONE


def _columns(rows: list[Row]) -> Iterable[str]:
    from oellm.core import schema

    return rows[0].cells if rows else schema.required("manifest")


if __name__ == "__main__":
    sys.exit(main())
