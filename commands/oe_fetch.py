"""oe-fetch: download the models, data sets and metrics that a manifest's rows need.

Usage:
  oe-fetch [options] [--set=KEY=VALUE]... [--] [MANIFEST]

Options:
  --cluster=NAME   Cluster to fetch for: a name, or a JSON file that oe-detect wrote (with a
                   slash in its name, or ending in .json); left out, this machine's.
  --set=KEY=VALUE  Override a setting of the cluster; KEY.MEMBER=VALUE sets a member of a map.
  --jobs=N         Models to download at the same time. [default: 4]
  --help           Print this text.
  --version        Print the version.

Run it where there is internet: a login node. What it downloads goes below the
cluster's hf_home, where the jobs look for it, and what is there already is not
downloaded again.

Of each model: the commit that its `revision` argument stands for (else `main`), or
the commit that the row's model_revision names; without GGUF files, optimizer states,
original/, and .bin files that stand beside safetensors. The repositories that its
arguments tokenizer, peft and delta name come too. A local model must be a directory
with a config.json. Of each task: what lm-eval downloads when it builds it, so every
data set and metric, also of tasks in include_path.

Variables that would keep it from downloading (HF_HUB_OFFLINE and its like) or that put
single caches elsewhere (HF_HUB_CACHE, HF_DATASETS_CACHE and their like) are ignored,
and it says so. HF_TOKEN, or a login with the hub's own tool, opens gated repositories.
HF_ENDPOINT names another hub.

Input: a manifest in CSV, a file or stdin (schema.json, table `manifest`).

Output: the rows whose model and task are there, in order, with the column
  model_revision: the commit of a hub model, empty for a local one. Where it changes,
  the cell eval_id is emptied. Rows that cannot be fetched are left out and named on
  stderr, each reason once. Buffers: prints when everything is fetched.

Exit status: 0 done, 1 some rows were left out, 2 bad input or setting, 3 the hub
  cannot be reached, 130 interrupted.

Example:
  oe-manifest --models EleutherAI/pythia-160m --tasks arc_easy | oe-fetch >evals.csv
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from oellm import cli
from oellm.errors import ExitStatus, UsageError

if TYPE_CHECKING:
    from oellm.fetching import Outcome


class Options(NamedTuple):
    """The command line."""

    manifest: str | None
    cluster: str | None
    overrides: list[str]
    jobs: int


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return cli.run("oe-fetch", __doc__, _fetch, argv)


def _options(arguments: cli.Arguments) -> Options:
    jobs = arguments["--jobs"]
    if not jobs.isdecimal() or int(jobs) < 1:
        raise UsageError(f"--jobs: expected a positive integer, got {jobs!r}")
    return Options(arguments["MANIFEST"], arguments["--cluster"], arguments["--set"], int(jobs))


def _fetch(arguments: cli.Arguments) -> int:
    import os

    from oellm import fetching, hub, manifest
    from oellm.cluster import resolve

    options = _options(arguments)
    cluster = resolve(options.cluster, options.overrides, os.environ)
    with cli.open_input(options.manifest) as stream:
        rows = fetching.read_rows(stream, cli.input_name(options.manifest))
    for variable in hub.configure(os.environ, cluster.text("hf_home")):
        cli.message(f"{variable} is ignored")
    address = hub.endpoint(os.environ)
    if silence := hub.silence(address):
        cli.message(f"{address} gives no answer: {silence}")
        hub.forbid(os.environ)
    problem = hub.no_answer(address) if silence else None
    try:
        with cli.stdout_diverted():
            outcome = fetching.Fetcher(address, problem, options.jobs, cli.message).fetch(rows)
    except KeyboardInterrupt:
        # Python would wait for the threads, and they for whole files.
        cli.message("interrupted")
        os._exit(ExitStatus.INTERRUPTED)
    writer = manifest.Writer(sys.stdout)
    writer.header(outcome.columns)
    for row in outcome.rows:
        writer.write(row)
    return _summary(outcome, len(rows), bool(silence))


def _summary(outcome: Outcome, rows: int, silence: bool) -> int:
    """Tell what became of the rows and return the exit status."""
    for failure in outcome.failures:
        cli.message(str(failure))
    passed = len(outcome.rows)
    cli.message(f"{passed} of {rows} rows fetched" + (", the others left out" * (passed < rows)))
    if not outcome.failures:
        return ExitStatus.DONE
    missed = silence and any(failure.problem.unreachable for failure in outcome.failures)
    return ExitStatus.MACHINE if missed else ExitStatus.FAILED


if __name__ == "__main__":
    sys.exit(main())
