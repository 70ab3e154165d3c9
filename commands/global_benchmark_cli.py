r"""global-benchmark: Global Benchmarks, with its configuration and its results.

Usage:
  global-benchmark config [--force]
  global-benchmark setup [--images_directory=DIR] [--definitions=NAME]...
                         [--pull=SOURCE] [--arg=NAME=VALUE]...
  global-benchmark run [--model=MODEL] [--tasks=TASK]... [--samples=PAIR]...
                       [--limit=N] [--cell=CELL]... [--slurm]
  global-benchmark list
  global-benchmark save RUN_DIR

Options:
  --force                 Overwrite config.json without asking.
  --images_directory=DIR  Where images go; by default that of config.json, else
                          images. -i means the same.
  --definitions=NAME      Images to build: llm_evaluation_harness,
                          big_code_bench, big_code_evaluation_harness, or the
                          name of a definition of oe-build.
  --pull=SOURCE           Pull the images, as oe-build does, such as
                          oras://HOST/REPOSITORY/{name}:TAG.
  --arg=NAME=VALUE        A build argument, as for oe-build.
  --model=MODEL           The model: a name on the hub, or a path, of this
                          machine or of a container. -m means the same.
  --tasks=TASK            Tasks, separated by commas; `list` shows them.
                          FRAMEWORK:TASK is any task of a framework. -t means
                          the same.
  --samples=PAIR          How bigcode's and bigcodebench's answers are drawn:
                          TEMPERATURE,N_SAMPLES, or FRAMEWORK:TEMPERATURE,
                          N_SAMPLES without the blank. Each is one evaluation.
  --limit=N               Evaluate only the first N documents of each task.
  --cell=CELL             A further cell of the rows, COLUMN=VALUE, or
                          FRAMEWORK.COLUMN=VALUE for those of a framework.
  --slurm                 Evaluate in Slurm jobs, and wait for them, instead of
                          here.
  --help                  Print this text.
  --version               Print the version.

On a terminal, global-benchmark asks for what no option says; run then prints
the command line that needs no questions. You may repeat options that take
lists.

config writes config.json. Its section `run` has dtype, tensor_parallel_size
(or tp), binds ("/a", "/a:/b" or {"source": "/a", "target": "/b"}) and
images_directory; `slurm` has cpu_partition, cpus_per_task, gpu_partition,
gpu_gres, mem, cpus_per_gpu, concurrency, account, gpu_constraint and exclude.
A section may have any other setting of a cluster, too (docs/SCHEMA.md). They
replace those of this machine's cluster, which oe-detect shows. Without --slurm
the section slurm does not count.

setup builds or pulls images with oe-build. run takes for each framework the
image that fits: for GPUs of NVIDIA or AMD, or for a CPU if there is no GPU.

run sends its rows through oe-fetch, oe-render, oe-submit and oe-collect, and
prints these command lines on stderr. lm-eval uses vLLM, unless its image has
none. On Slurm, a run that is interrupted while it waits goes on; `oe-submit
--wait=done results/UUID` waits again, and `save results/UUID` writes its
results.

Output: run and save print the path of the results, results/UUID.json: the
  model and, by task, a list of its metrics with their temperature, n_samples
  and subset. The run directory is results/UUID. list prints the tasks
  (schema.json, table `benchmark`): a table on a terminal, CSV elsewhere. setup
  prints the records of oe-build, config the path of the file.

Exit status: 0 done; 1 rows have no result, or an image could not be built; 2
  bad usage or configuration; 3 no sbatch, image or hub; 130 interrupted.

Examples:
  global-benchmark config
  global-benchmark setup --definitions llm_evaluation_harness
  global-benchmark setup --definitions big_code_bench \
      --pull oras://registry.example.org/oellm/{name}:1.0
  global-benchmark run --model acme/tiny --tasks humaneval,mmlu --slurm
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from oellm import cli
from oellm.errors import ExitStatus, UsageError

if TYPE_CHECKING:
    from oellm.clusters.cluster import Cluster
    from oellm.global_benchmark.benchmark_run import BenchmarkRun
    from oellm.global_benchmark.benchmark_tasks import BenchmarkTask, Sampling
    from oellm.global_benchmark.config_file import BenchmarkConfig

_SHORT = {"-m": "--model", "-t": "--tasks", "-i": "--images_directory"}


class Options(NamedTuple):
    """The command line of `run`."""

    model: str | None
    tasks: list[str]
    samples: list[str]
    cells: list[str]
    slurm: bool


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    if argv is None:
        sys.argv[1:] = [_SHORT.get(word, word) for word in sys.argv[1:]]
    return cli.run("global-benchmark", doc=__doc__, command=_global_benchmark, argv=argv)


def _global_benchmark(arguments: cli.Arguments) -> int:
    if arguments["config"]:
        return _config(is_forced=arguments["--force"])
    if arguments["setup"]:
        names = _pieces(arguments["--definitions"])
        options = [f"--arg={text}" for text in arguments["--arg"]]
        if arguments["--pull"]:
            options.append(f"--pull={arguments['--pull']}")
        return _setup(arguments["--images_directory"], names, options)
    if arguments["list"]:
        return _list()
    if arguments["save"]:
        return _save(arguments["RUN_DIR"])
    limit = arguments["--limit"]
    return _run(
        Options(
            model=arguments["--model"],
            tasks=_pieces(arguments["--tasks"]),
            samples=arguments["--samples"],
            cells=[*([f"limit={limit}"] if limit is not None else []), *arguments["--cell"]],
            slurm=arguments["--slurm"],
        )
    )


def _pieces(values: Sequence[str]) -> list[str]:
    pieces = (piece.strip() for value in values for piece in value.split(","))
    return list(dict.fromkeys(filter(None, pieces)))


def _config(*, is_forced: bool) -> int:
    from oellm.core import menus
    from oellm.global_benchmark.config_file import FILE, write_defaults

    if Path(FILE).exists() and not is_forced:
        if not menus.is_interactive():
            raise UsageError(f"{FILE} exists; --force overwrites it")
        if not menus.confirm(f"{FILE} exists. Overwrite it?"):
            cli.message(f"{FILE} stays as it is")
            return ExitStatus.DONE
    write_defaults(Path(FILE))
    print(FILE)
    return ExitStatus.DONE


def _setup(directory: str | None, names: list[str], options: list[str]) -> int:
    from oellm.global_benchmark import framework_images, questions
    from oellm.images.definitions import containers_directory, definition_names
    from oellm.wrappers.pipeline import run_pipeline

    cluster = _find_cluster(_read_config(slurm=False, may_lack=True), slurm=False)
    configured = cluster.text("images_directory")
    chosen = directory or os.path.relpath(configured)
    known = definition_names(containers_directory())
    names = names or questions.ask_definitions(known)
    kind = framework_images.find_kind(cluster)
    definitions = framework_images.expand_definitions(names, known, kind)
    if os.path.abspath(chosen) != configured:
        cli.message(f"config.json has other images: set run.images_directory to {chosen!r}")
    command = ["oe-build", f"--dir={chosen}", *options, *definitions]
    return run_pipeline([command], log=cli.message)


def _list() -> int:
    import textwrap

    from oellm.core import schema, tables
    from oellm.core.display import shorten_middle
    from oellm.global_benchmark.benchmark_tasks import find_obstacle, known_tasks

    rows = [(*task.shown(), find_obstacle(task)) for task in known_tasks().values()]
    columns = list(schema.table("benchmark"))
    if not sys.stdout.isatty():
        tables.write_rows(rows, columns, layout="csv", stream=sys.stdout)
        return ExitStatus.DONE
    # The last columns are long, and mostly empty.
    notes = [f"{row[0]}: {text}" for row in rows for text in row[3:] if text]
    tables.write_rows(
        [(*row[:2], shorten_middle(row[2], 38)) for row in rows],
        columns[:3],
        layout="table",
        stream=sys.stdout,
        caption=[line for note in notes for line in textwrap.wrap(note, 79)],
    )
    return ExitStatus.DONE


def _save_results(run: BenchmarkRun) -> int:
    """Write the file of results, and print its path."""
    status = run.save_results(cli.message)
    if run.results.exists():
        print(run.results)
        cli.next_steps(f"scores: oe-collect --format=table {shlex.quote(str(run.directory))}")
    return status


def _save(directory: str) -> int:
    from oellm.global_benchmark.benchmark_run import BenchmarkRun

    path = Path(os.path.normpath(directory))
    # `.` has no name to which the file's could be added.
    path = path if path.name.strip(".") else Path(os.path.abspath(path))
    if not directory or not path.name:
        raise UsageError(f"expected a run directory, got {directory!r}")
    return _save_results(BenchmarkRun(path))


def _run(options: Options) -> int:
    from oellm.global_benchmark import manifest_rows, questions, run_cluster
    from oellm.global_benchmark.benchmark_run import BenchmarkRun
    from oellm.global_benchmark.benchmark_tasks import find_task

    config = _read_config(slurm=options.slurm)
    cells = [manifest_rows.parse_cell(text) for text in options.cells]
    manifest_rows.require_values(cells)
    tasks = [find_task(name) for name in options.tasks]
    samplings = _samplings(options.samples)
    if tasks:
        _require_needed(samplings, tasks)
    cluster = _find_cluster(config, slurm=options.slurm)
    hf_home = cluster.text("hf_home")
    model = options.model or questions.ask_model(hf_home, config.binds)
    if not tasks:
        tasks = list(map(find_task, questions.ask_tasks(cli.message)))
        _require_needed(samplings, tasks)
    run_cluster.require_environments(cluster, tasks)
    drawn = _complete(samplings, tasks)
    was_asked = "" not in samplings and drawn.keys() - samplings.keys()
    if was_asked or not options.model or not options.tasks:
        _tell_options(options._replace(model=model), tasks, drawn)
    rows = manifest_rows.make_rows(
        manifest_rows.GivenModel(model, config),
        tasks,
        samplings=drawn,
        cells=cells,
        cluster=cluster,
        log=cli.message,
    )
    run = BenchmarkRun.create()
    with cli.stdout_diverted():
        status = run.evaluate(rows, cluster, cli.message)
    if not run.is_there or status not in (ExitStatus.DONE, ExitStatus.FAILED):
        if run.is_there and status == ExitStatus.INTERRUPTED and options.slurm:
            directory = shlex.quote(str(run.directory))
            cli.message(f"the jobs go on: oe-submit --wait=done {directory}")
            cli.message(f"writes their results then: global-benchmark save {directory}")
        return status
    saved = _save_results(run)
    return status or saved


def _tell_options(
    options: Options, tasks: Sequence[BenchmarkTask], samplings: Mapping[str, Sequence[Sampling]]
) -> None:
    """Tell the command line that needs no questions."""
    words = [f"--model={options.model}", f"--tasks={','.join(task.name for task in tasks)}"]
    for suite, drawn in samplings.items():
        words += (f"--samples={suite}:{each.temperature:g},{each.n_samples}" for each in drawn)
    words += (f"--cell={cell}" for cell in options.cells)
    line = shlex.join(["global-benchmark", "run", *words, *(["--slurm"] if options.slurm else [])])
    cli.message(f"the same without questions: {line}")


def _samplings(texts: Sequence[str]) -> dict[str, list[Sampling]]:
    """Return the samplings of the command line by framework; those of all have an empty name."""
    from oellm.global_benchmark.benchmark_tasks import parse_samplings

    found: dict[str, list[Sampling]] = {}
    for text in texts:
        suite, _, pairs = text.rpartition(":")
        try:
            found.setdefault(suite, []).extend(parse_samplings(pairs))
        except ValueError as error:
            raise UsageError(f"--samples: {error}") from None
    return found


def _complete(
    given: dict[str, list[Sampling]], tasks: Sequence[BenchmarkTask]
) -> dict[str, list[Sampling]]:
    """Return the samplings of each framework of the tasks; asks for those that no option gives."""
    from oellm.global_benchmark import questions

    found = {}
    for suite in dict.fromkeys(task.eval_suite for task in tasks if task.needs_samples):
        names = [task.name for task in tasks if task.eval_suite == suite]
        found[suite] = given.get(suite) or given.get("") or questions.ask_samplings(suite, names)
    return found


def _require_needed(samplings: Iterable[str], tasks: Sequence[BenchmarkTask]) -> None:
    """Raise UsageError for samplings of a framework none of whose tasks needs them."""
    needing = {task.eval_suite for task in tasks if task.needs_samples}
    for suite in samplings:
        if not needing or (suite and suite not in needing):
            whose = f" of {suite!r}" if suite else ""
            raise UsageError(f"--samples: no task{whose} needs them")


def _read_config(*, slurm: bool, may_lack: bool = False) -> BenchmarkConfig:
    from oellm.global_benchmark.config_file import FILE, default_config, read_config

    if may_lack and not Path(FILE).exists():
        return default_config()
    return read_config(Path(FILE), slurm=slurm)


def _find_cluster(config: BenchmarkConfig, *, slurm: bool) -> Cluster:
    from oellm.global_benchmark.run_cluster import resolve_benchmark_cluster

    return resolve_benchmark_cluster(config, os.environ, slurm=slurm)


if __name__ == "__main__":
    sys.exit(main())
