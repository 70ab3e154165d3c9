"""oe-report: make an HTML page of scores.

Usage:
  oe-report [options] [--] [PATH]...

Options:
  --output=FILE   Write the page to FILE; by default to stdout, which must not
                  be a terminal.
  --title=TEXT    Heading of the page. [default: Evaluation report]
  --figures=DIR   Also write the figures to DIR, each as SVG and PNG.
  --help          Print this text.
  --version       Print the version.

Input: paths or stdin, as oe-collect reads them: run directories, names of
  runs, directories that have some below them, files of results, tables of
  scores, and metric records in CSV, JSON lines or a JSON array; of these, the
  columns model_path, task, metric and value are required. Reads the whole
  input before it writes the page.

Output: a page that needs no network and no other files. It has

  a leaderboard     models × tasks by primary metrics, coloured within each
                    column. You can sort it by its headers, filter models and
                    tasks by name, and fold the parts of groups. Results with
                    another limit have their own table. Scores from a part of
                    a group are marked, and those that are not as asked, or
                    cannot be compared with the others of their column.
  curves            over training steps, if models are checkpoints.
  languages         models × languages, if tasks have languages.
  what is missing   rows that failed or have no result, by reason, with a log.
  what ran where    cluster, versions, image digests, GPU-hours, and where the
                    time went.

  For records on stdin, the last two cover the run directories that the records
  name and that are on this machine. Slurm is not asked. If a row has several
  results, the page shows the newest and names the others. The average covers
  columns in which every model has a score from 0 to 1 and more is better.

Figures need matplotlib (pip install 'oellm[report]'). Without it the page has
no figures, and a message says so; --figures is then an error.

Exit status: 0 done; 1 a result file is damaged and left out; 2 bad input; 3
  --figures without matplotlib.

Examples:
  oe-report --output report.html RUN_DIR
  oe-collect RUN_DIR OTHER_RUN | mlr --csv filter '$n_shot == 5' |
      oe-report > report.html
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from oellm import cli
from oellm.errors import ExitStatus, MachineError, UsageError

if TYPE_CHECKING:
    from oellm.collect.record_source import RecordSource
    from oellm.metrics.records import MetricRecord
    from oellm.report.page import PageFigures
    from oellm.tasks.languages import Language


class Options(NamedTuple):
    """The command line."""

    paths: list[str]
    output: str | None
    title: str
    figures: str | None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return cli.run("oe-report", doc=__doc__, command=_report, argv=argv)


def _options(arguments: cli.Arguments) -> Options:
    output = arguments["--output"]
    if output is None and sys.stdout.isatty():
        raise UsageError("stdout is a terminal: give --output FILE, or > FILE")
    return Options(
        paths=cli.input_paths(arguments),
        output=output,
        title=arguments["--title"],
        figures=arguments["--figures"],
    )


def _report(arguments: cli.Arguments) -> int:
    from pathlib import Path

    from oellm.collect.record_source import RecordRequest, RecordSource
    from oellm.core import atomic
    from oellm.report import page
    from oellm.report import runs as report_runs
    from oellm.tasks import suites

    options = _options(arguments)
    source = RecordSource(RecordRequest.parse({}, partial=True), cli.message)
    records = _read_records(source, options.paths)
    run_dirs = [str(run.path) for run in source.runs]
    # The runs of the collection come first: some of them have no result, and so no record.
    run_dirs = list(dict.fromkeys([*run_dirs, *report_runs.list_run_dirs(records)]))
    languages = suites.load_suites((), os.environ).languages
    contents = page.PageContents(
        title=options.title,
        records=records,
        runs=list(report_runs.read_runs(run_dirs, cli.message)),
        figures=_figures(records, languages, options),
        languages=languages,
    )
    content = page.render_page(contents, cli.message).encode("utf-8", "replace")
    if options.output:
        atomic.write_file(Path(options.output), content)
    else:
        sys.stdout.buffer.write(content)
    return ExitStatus.DONE if source.is_whole else ExitStatus.FAILED


def _read_records(source: RecordSource, paths: Sequence[str]) -> list[MetricRecord]:
    """Return the records of some paths, or of stdin."""
    if paths:
        source.add_paths(paths)
        return list(source.records())
    with cli.open_input(None) as stream:
        source.add_stream(stream, "stdin")
        return list(source.records())


def _figures(
    records: Sequence[MetricRecord], languages: Mapping[str, Language], options: Options
) -> PageFigures:
    """Return the figures of the page, and write those that --figures asks for."""
    from importlib.util import find_spec
    from pathlib import Path

    from oellm.report.page import PageFigures

    if find_spec("matplotlib") is None:
        if options.figures:
            raise MachineError("--figures needs matplotlib: pip install 'oellm[report]'")
        cli.message("the page has no figures: these need matplotlib (pip install 'oellm[report]')")
        return PageFigures(curves=[], language_map=None)
    from oellm.report.figures import figures

    if options.figures:
        figures.save_figures(records, Path(options.figures), languages)
    # A suite may have a hundred parts of groups, so the page leaves out their curves.
    whole = [record for record in records if not record.group]
    return PageFigures(
        curves=list(figures.draw_curves(whole)),
        language_map=figures.draw_language_map(whole, languages),
    )


if __name__ == "__main__":
    sys.exit(main())
