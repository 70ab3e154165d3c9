"""oe-doctor: check what a run needs, and say what to do about the rest.

Usage:
  oe-doctor [options] [--set=KEY=VALUE]...

Options:
  --job               Also submit a small job, which looks at its node.
  --cluster=NAME      Cluster to check: a name, or a JSON file from oe-detect
                      (with a slash in its name, or ending in .json). Without
                      it, this machine's cluster.
  --set=KEY=VALUE     Override a setting; KEY.MEMBER=VALUE sets a member of a
                      map.
  --format=FORMAT     table, csv, json or jsonl; by default table on a
                      terminal, else jsonl.
  --timeout=SECONDS   Longest time of each check on this machine.
                      [default: 120]
  --patience=MINUTES  Cancel the job if it has waited for longer.
                      [default: 60]
  --help              Print this text.
  --version           Print the version.

Examples:
  oe-doctor
  oe-doctor --job --set partition=debug
  oe-doctor | jq -r 'select(.status != "ok") | .text'

On this machine: scontrol and squeue answer; partition, account and QOS exist
and are for you; sbatch would take a job with the run's settings (--test-only).
The container runtime starts. Each image is there, has the digest that is
recorded beside it (IMAGE.json), starts, and has its framework, of the version
whose tasks are known here. On a new cluster, images that oe-build has still to
make are warnings. hf_home and eval_output_dir can be written, have room for
bytes and files, lock files between processes, and have this machine's time.
The hub answers, and knows the token if there is one. It says what would
contain programs that a model writes.

--job submits one job of a minute or two with the batch script of a run: its
image, container arguments, binds, variables and GPUs. It finds out whether the
worker starts, the GPUs are usable (as oe-run-task does), the node sees the
same directories, file locks hold between nodes, the clocks agree, there is
temporary room, images of programs start, and what the sandbox is there.
oe-doctor shows why Slurm keeps it waiting. When it ends, also by Ctrl-C, the
job has left the queue, and nothing is left on disk. With the executor local
the job runs on this machine.

The checks run at the same time, in processes of their own: one that hangs on a
file system or service is a finding, and delays no other for longer than
--timeout.

Output: a record for each finding (schema.json, table `check`): what was
  checked, ok, warning or wrong, what is there, what to do, and the host.

Exit status: 0 nothing is wrong (warnings may be), 1 something is wrong, 2 bad
  usage or setting, 3 no cluster matches this machine, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from oellm import cli
from oellm.errors import ExitStatus

if TYPE_CHECKING:
    from oellm.clusters.cluster import Cluster
    from oellm.doctor.diagnoses import Diagnosis

_FORMATS = ("table", "csv", "json", "jsonl")


class Options(NamedTuple):
    """The command line."""

    job: bool
    cluster: str | None
    overrides: list[str]
    layout: str
    timeout_s: int
    patience_s: int


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return cli.run("oe-doctor", doc=__doc__, command=_doctor, argv=argv)


def _options(arguments: cli.Arguments) -> Options:
    from oellm.core import tables

    layout = tables.choose_format(arguments["--format"], sys.stdout, _FORMATS, piped="jsonl")
    return Options(
        job=arguments["--job"],
        cluster=arguments["--cluster"],
        overrides=arguments["--set"],
        layout=layout,
        timeout_s=cli.positive(arguments, "--timeout"),
        patience_s=60 * cli.positive(arguments, "--patience"),
    )


def _doctor(arguments: cli.Arguments) -> int:
    from oellm.clusters.cluster import resolve_cluster
    from oellm.core.display import format_count
    from oellm.doctor.diagnoses import Health, count_verdicts
    from oellm.doctor.presentation import write_findings

    options = _options(arguments)
    cluster = resolve_cluster(options.cluster, options.overrides, os.environ)
    findings: list[Diagnosis] = []

    def noted() -> Iterator[Diagnosis]:
        for finding in _find(options, cluster):
            findings.append(finding)
            yield finding

    write_findings(noted(), options.layout, sys.stdout)
    counts = count_verdicts(findings)
    told = {verdict: f"{counts[verdict]} {verdict}" for verdict in Health if counts[verdict]}
    if counts[Health.WARNING]:
        told[Health.WARNING] = format_count(counts[Health.WARNING], "warning")
    cli.message(f"cluster {cluster.text('name')}: {', '.join(told.values())}")
    return ExitStatus.FAILED if counts[Health.WRONG] else ExitStatus.DONE


def _find(options: Options, cluster: Cluster) -> Iterator[Diagnosis]:
    """Yield what is found on this machine, then on the node of a job."""
    from oellm.doctor.check_processes import run_checks
    from oellm.doctor.checks import list_checks
    from oellm.doctor.probe_job import run_probe_job

    show = cli.status_line() or (lambda _: None)
    for findings in run_checks(list_checks(cluster, os.environ), options.timeout_s, show):
        # The terminal may show the line of a status.
        show("")
        yield from findings
    if options.job:
        for finding in run_probe_job(cluster, options.patience_s, log=cli.message, show=show):
            show("")
            yield finding


if __name__ == "__main__":
    sys.exit(main())
