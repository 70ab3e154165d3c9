"""oellm: the seeds' command lines, stage by stage, without evaluating anything."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import pytest

from oellm import __version__
from oellm.wrappers.eval_file import dump_options, read_options
from support.environments import idle_venv
from support.model_directories import write_model
from support.processes import DEMO_TASKS, Run
from support.submitting import FakeSlurm, finish


@pytest.mark.slow
def test_dry_run_of_the_documented_example_prints_the_script(run: Run) -> None:
    done = run(
        *("oellm", "schedule-eval", "--models", "microsoft/DialoGPT-medium,EleutherAI/pythia-160m"),
        *("--tasks", "hellaswag,mmlu", "--n_shot", "5", "--limit", "10", "--dry_run"),
        "--cluster=leonardo",
    )
    assert done.stdout.startswith("#!/bin/bash\n")
    assert "#SBATCH --array=0-0\n" in done.stdout
    assert "oe-fetch" not in done.stderr
    assert done.stderr.splitlines()[0] == (
        "oellm: oe-manifest --models=microsoft/DialoGPT-medium,EleutherAI/pythia-160m "
        "--tasks=hellaswag,mmlu --n_shot=5 --limit=10"
    )


def test_rows_may_come_from_a_file(run: Run, tmp_path: Path) -> None:
    rows = tmp_path / "evals.csv"
    rows.write_text('model_path,task_path,n_shot\n"acme/m,dtype=float16",mmlu,5\nacme/n,mmlu,5\n')
    done = run("oellm", "schedule-eval", f"--eval_csv_path={rows}", "--dry_run", "--cluster=lumi")
    assert "oe-render: shards 0: models: 2, rows: 2, about " in done.stderr
    # Nothing was fetched.
    assert "oe-render: nobody has counted the documents of 2 rows: " in done.stderr


def test_a_failing_stage_stops_the_way_and_gives_its_status(run: Run, tmp_path: Path) -> None:
    rows = tmp_path / "evals.csv"
    rows.write_text("model_path,task_path,n_shot\nacme/m,mmlu,five\n")
    done = run(
        *("oellm", "schedule-eval", f"--eval_csv_path={rows}", "--cluster=local", "--skip_fetch"),
        status=2,
    )
    assert "oe-missing: stdin:2: n_shot: expected a non-negative integer, got 'five'" in done.stderr
    assert "oellm: stopped, oe-missing ended with status 2" in done.stderr
    assert "oe-submit" not in done.stderr
    assert not (tmp_path / "oellm-output").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--tasks=mmlu"], "nothing to evaluate: give --models, or a file of rows"),
        (["x.csv", "--models=a/b"], "--models does not go with a file of rows, which is x.csv"),
        (["x.csv", "--eval-csv-path=y.csv"], "two files: x.csv and --eval_csv_path=y.csv"),
        (["--models=a/b", "--download_only", "--dry_run"], "--download_only only fetches"),
        (["--models=a/b", "--limit=1", "--limit=2"], "--limit is given twice"),
        (["--models=a/b", "--check"], "--check is for oe-fetch alone"),
        (["--modles=a/b"], "unknown option --modles, did you mean --models?\nsee oellm --help\n"),
    ],
)
def test_contradictions_are_refused(run: Run, arguments: list[str], message: str) -> None:
    done = run("oellm", "schedule-eval", *arguments, status=2)
    assert done.stderr.startswith(f"oellm: {message}")


@pytest.mark.slow
def test_download_only_ends_with_the_fetched_manifest(run: Run, tmp_path: Path) -> None:
    for step in (1, 2, 3):
        write_model(tmp_path / "run" / f"iter_{step}")
    (tmp_path / "run" / "iter_3" / "model.safetensors").write_bytes(b"")
    done = run(
        *("oellm", "schedule-eval", "--models=run", "--tasks=oellm_choice", "--n_shot=2"),
        *(f"--include_path={DEMO_TASKS}", "--cluster=local", "--download_only"),
        *("--checkpoints=last", "--skip_broken"),
    )
    header, row = done.stdout.splitlines()
    assert header.endswith(",task_version,n_docs,n_requests,request_types")
    assert row.startswith(f"{tmp_path}/run/iter_2,oellm_choice,2,lm_eval,{DEMO_TASKS}")
    assert "oe-render" not in done.stderr
    assert not (tmp_path / "oellm-output").exists()


def test_rows_with_results_in_earlier_runs_are_not_evaluated_again(
    run: Run, tmp_path: Path
) -> None:
    models = [write_model(tmp_path / name) for name in ("a", "b", "c")]
    rows = tmp_path / "evals.csv"
    rows.write_text("model_path,task_path,n_shot\n" + "".join(f"{m},t,0\n" for m in models))
    options = [
        "--cluster=slurm",
        f"--set=eval_base_dir={tmp_path}/base",
        f"--set=venv={idle_venv()}",
    ]
    options.append("--set=shard_time=0")
    rendered = json.loads(run("oe-render", *options, rows).stdout)
    finish(rendered, 0, 1)
    command = ("oellm", "schedule-eval", f"--eval_csv_path={rows}", "--skip_fetch", *options)
    again = run(*command, "--dry_run").stderr
    told = "of 3 rows have results already, or are under way"
    assert f"oellm: 2 {told}" in again
    assert "; --again evaluates them anew; " in again
    assert "models: 1, rows: 1" in again

    (weights,) = models[0].glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    changed = run(*command, "--dry_run").stderr
    assert f"oe-missing: stale: 1 result of {models[0]}: weights changed" in changed
    assert f"oellm: 1 {told}" in changed

    anew = run(*command, "--dry_run", "--again").stderr
    assert "oe-missing" not in anew
    assert "oe-render: in total about" in anew


def test_an_option_goes_to_each_command_that_has_it(run: Run, tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("model_path,task_path,n_shot\na/b,mmlu,5\n")
    words = ["r.csv", "--local", "--limit", "5", "--set=partition=a b", "--queue-limit=3"]
    words += [
        "--name=n",
        "--wait",
        "--cluster=slurm",
        "--set=eval_base_dir=/base",
        "--accept-stale",
    ]
    cluster = "'--set=partition=a b' --cluster=slurm --set=eval_base_dir=/base"
    printed = run("oellm", "schedule", *words, "--print").stdout
    assert printed.replace(" |\n ", "").split(" oe-") == [
        "oe-manifest --rows=r.csv --limit=5",
        f"fetch {cluster}",
        f"missing --in=/base {cluster} --accept_stale",
        f"render {cluster.replace(' --cluster', ' --name=n --cluster')}",
        "submit --queue_limit=3 --wait --accept_stale --executor=local\n",
    ]


def test_what_is_printed_can_be_pasted(run: Run, tmp_path: Path) -> None:
    (tmp_path / "it's.csv").write_text("model_path,task_path,n_shot,x\na/b,mmlu,5,y\n")
    words = ["it's.csv", "--cluster=slurm", f"--set=eval_base_dir={tmp_path}/a b", "--explain"]
    line = run("oellm", "schedule", *words, "--print").stdout
    assert run("sh", "-c", line).stdout == run("oellm", "schedule", *words).stdout != ""


def test_options_fill_the_columns_of_the_rows(run: Run, tmp_path: Path) -> None:
    rows = tmp_path / "evals.csv"
    rows.write_text("model_path,task_path,n_shot,limit,n_docs\na/b,mmlu,5,3,3\na/c,mmlu,0,,\n")
    identified = run("oe-manifest", f"--rows={rows}").stdout
    assert identified == rows.read_text()
    filled = run("oe-manifest", "--rows=-", "--limit=3", "--seed=7", stdin=identified).stdout
    assert filled.splitlines() == [
        "model_path,task_path,n_shot,limit,n_docs,seed",
        "a/b,mmlu,5,3,,7",
        "a/c,mmlu,0,3,,7",
    ]
    refused = run("oe-manifest", f"--rows={rows}", "--limit=x", status=2)
    assert (refused.stdout, refused.stderr.count(": limit: expected")) == ("", 1)
    refused = run("oe-manifest", f"--rows={rows}", "--tasks=x", status=2)
    assert refused.stderr.startswith("oe-manifest: --tasks does not go with --rows\n")
    # The identity of a row with its old limit is not kept.
    shown = run("oellm", "schedule", rows, "--limit=5", "--dry_run", "--cluster=lumi")
    assert "oe-render: shards 0: models: 2, rows: 2" in shown.stderr


def test_rows_may_come_from_a_pipe_that_only_oellm_has(run: Run, tmp_path: Path) -> None:
    script = 'oellm schedule --limit=5 --dry_run --cluster=lumi <(printf %s "$0")'
    rows = "model_path,task_path,n_shot\nacme/m,mmlu,5\n"
    shown = run("bash", "-c", script, rows)
    assert "oe-render: shards 0: models: 1, rows: 1" in shown.stderr


def test_another_word_runs_the_command_of_that_name(run: Run, tmp_path: Path) -> None:
    assert run("oellm", "status", "--version").stdout == f"oe-status {__version__}\n"
    assert run("oellm", "collect-results", "-V").stdout == f"oe-collect {__version__}\n"
    for name in ("setup", "run"):
        manual = run("global-benchmark", name, "--help").stdout
        assert run("oellm", name, "--help").stdout == manual
    refused = run("oellm", "cancel", tmp_path, status=2)
    assert refused.stderr.startswith(f"oe-submit: {tmp_path}: ")
    added = tmp_path / "oe-foo"
    added.write_text('#!/bin/sh\necho "$@"; exit 7\n')
    added.chmod(0o755)
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    assert run("oellm", "foo", "a b", "--x", env=env, status=7).stdout == "a b --x\n"
    refused = run("oellm", "fooo", env=env, status=2)
    assert refused.stderr == ("oellm: unknown command 'fooo', did you mean foo?\nsee oellm help\n")
    (tmp_path / "oe-room").mkdir()
    assert " foo," in run("oellm", env=env).stdout
    assert "room" not in run("oellm", env=env).stdout
    added.write_text("#!/nothing\n")
    refused = run("oellm", "foo", env=env, status=3)
    assert refused.stderr == f"oellm: {added} cannot be started: No such file or directory\n"
    refused = run("oellm", "shedule-eval", "--models=a", status=2)
    assert "'shedule-eval', did you mean schedule-eval?\n" in refused.stderr


def test_oellm_alone_says_what_to_do_next(run: Run) -> None:
    shown = run("oellm").stdout
    assert len(shown.splitlines()) < 15
    assert "\n  oellm schedule-eval --models " in shown
    assert max(map(len, shown.splitlines())) <= 79
    assert run("oellm", "help").stdout == run("oellm", "schedule", "--help").stdout
    assert run("oellm", "help", "fetch").stdout == run("oe-fetch", "--help").stdout


EVALUATION = """# A comment.
models = ["acme/m", "acme/n,dtype=float16"]
tasks = ["mmlu"]
n-shot = [0, 5]
limit = 7
gen_kwargs = {temperature = 0.5}
unchecked_tasks = true
name = "mine"

[cluster]
name = "slurm"
"""


def test_a_file_of_options_is_kept_in_the_run_and_evaluates_the_same_again(
    run: Run, slurm: FakeSlurm, tmp_path: Path
) -> None:
    places = f"venv = '{idle_venv()}'\neval_base_dir = '{tmp_path}/base'\nimages.a = 'b.sif'\n"
    (tmp_path / "my.toml").write_text(EVALUATION + places)
    command = ("oellm", "schedule", "--skip_fetch", "--again")
    env = {**slurm.env, "OELLM_CACHE_DIR": str(tmp_path / "no-index")}
    first = json.loads(run(*command, "my.toml", env=env).stdout)
    assert first["name"] == "mine"
    assert first["cluster"]["images"]["a"] == "b.sif"
    kept = Path(first["run_dir"]) / "eval.toml"
    assert kept.read_text() == EVALUATION + places
    # Options of the command line come before those of the file.
    words = ("--limit=8", "--set=venv=", f"--set=venv={idle_venv()}", "--name=other")
    second = json.loads(run(*command, kept, *words, env=env).stdout)
    third = json.loads(run(*command, Path(second["run_dir"]) / "eval.toml", env=env).stdout)
    rows = [(Path(made["run_dir"]) / "jobs.csv").read_text() for made in (first, second, third)]
    assert [row["limit"] for row in csv.DictReader(rows[0].splitlines())] == ["7"] * 4
    assert rows[1] == rows[2] == run("oe-manifest", "--rows=-", stdin=rows[1]).stdout
    assert {row["limit"] for row in csv.DictReader(rows[1].splitlines())} == {"8"}
    assert (second["name"], third["name"]) == ("other", "other")


def test_a_file_of_options_names_suites_as_the_option_does(
    run: Run, slurm: FakeSlurm, tmp_path: Path
) -> None:
    text = "models = 'acme/m'\ntask_groups = ['mgsm-eu[de|fr]', 'include[de]']\n"
    (tmp_path / "my.toml").write_text(text)
    shown = run("oellm", "schedule", "my.toml", "--print", "--cluster=local").stdout
    assert " '--task_groups=mgsm-eu[de|fr]' '--task_groups=include[de]' |\n" in shown


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tasks = []\n\nmodel = 'a'\n", "my.toml:3: unknown key 'model', did you mean models?"),
        ("models='a'\nlimit = [1, 2]", "my.toml:2: expected one value, got a list"),
        ("skip_broken = 'yes'", "my.toml:1: expected true or false"),
        ("models = 'a'\n[cluster]\nparttion = 'x'", "my.toml:3: unknown setting 'parttion', did"),
        ("models = 'a'\n[clustr]\nx = 'x'", "my.toml:2: unknown key 'clustr', did you mean clu"),
        ("models = ", "my.toml: expected TOML: Invalid value (at end of document)"),
        ("dry_run = true", "my.toml:1: unknown key 'dry_run'"),
        ("models = 'a'\nlimit = 2026-01-01", "my.toml:2: expected a text, a number or a time of"),
        ("[cluster]\n\nqos = 2026-01-01", "my.toml:3: expected a text, a number or a time of"),
        ("[cluster]\npartition = {}", "my.toml:2: expected no table"),
        ("n-shot = 0\nn_shot = 5", "my.toml:2: 'n-shot' is the same option; leave out one of"),
        ("models = 'a'\nlimit.x = 5", "my.toml:2: expected a text or a number, got {'x': 5}"),
        ("models = 'a'\nlimit = nan", "my.toml:2: expected a number of documents, or a fract"),
        ("\nwait = 'x'", "my.toml:2: expected nothing or done, got 'x'"),
        ("name = 'a b'", "my.toml:1: expected 1 to 60 letters"),
        ("[cluster]\n\nqueue_limit = 'x'", "my.toml:3: queue_limit: expected an integer"),
        ("[cluster]\nenv = {'x y' = '1'}", "my.toml:2: expected names of variables, got 'x y'"),
        ("\udcff", "my.toml: expected UTF-8 text, got byte 0xff"),
    ],
)
def test_a_wrong_file_of_options_is_refused_with_its_line(
    run: Run, tmp_path: Path, text: str, message: str
) -> None:
    (tmp_path / "my.toml").write_text(text, errors="surrogateescape")
    assert run("oellm", "schedule", "my.toml", status=2).stderr.startswith(f"oellm: {message}")


def test_values_of_a_file_of_options_stay_what_they_are(run: Run, tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text(
        "models = 'acme/m'\ntasks = 'mmlu'\nn_shot = 0\ngen_kwargs = ''\nunchecked_tasks = true\n"
        "[cluster]\nname = 'slurm'\nshard_time = 01:30:00\nenv = {}\n"
    )
    where = f"--set=eval_base_dir={tmp_path}/\N{ROCKET}"
    command = ("oellm", "schedule", "my.toml", where, f"--set=venv={idle_venv()}", "--print")
    printed = run(*command).stdout
    assert "--gen_kwargs=" in printed.split()
    assert "--set=shard_time=01:30:00 '--set=env={}' " in printed
    words = ["--models=a\x7f", "--gen_kwargs=", "--wait=", "--unchecked_tasks", where]
    again = read_options(dump_options(words), "eval.toml")
    assert [word.removesuffix("=") for word in again] == [word.removesuffix("=") for word in words]
    assert "--gen_kwargs=" in again


def test_rows_from_stdin_are_not_counted_as_none(run: Run, tmp_path: Path) -> None:
    rows = "model_path,task_path,n_shot\nacme/m,t,0\nacme/n,t,0\n"
    where = ("--cluster=slurm", f"--set=eval_base_dir={tmp_path}/base", f"--set=venv={idle_venv()}")
    told = run("oellm", "schedule", "-", "--dry_run", *where, stdin=rows).stderr
    assert "oe-missing: 2 of 2 rows are missing" in told
    assert "rows have results already" not in told
    # The others have no results, but have not failed.
    (tmp_path / "rows.csv").write_text(rows)
    told = run("oellm", "schedule", "rows.csv", "--dry_run", "--failed", *where).stderr
    assert "rows have results already" not in told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--again", "--failed"], "--failed is for oe-missing, which --again leaves out"),
        (["--again", "--in=x"], "--in is for oe-missing, which --again leaves out"),
        (["--set=eval_output_dir=", "--also_running"], "--also_running needs earlier runs: the "),
        (["--wait=foo"], "--wait: expected nothing or done, got 'foo'"),
        (["--name=a/b"], "--name: expected 1 to 60 letters"),
        (["--in="], "--in: expected a directory, got nothing"),
        (["--poll=x"], "--poll: expected a positive integer"),
    ],
)
def test_options_of_late_commands_are_refused_before_the_first(
    run: Run, tmp_path: Path, words: list[str], told: str
) -> None:
    (tmp_path / "rows.csv").write_text("model_path,task_path,n_shot\nacme/m,t,0\n")
    where = f"--set=eval_base_dir={tmp_path}/base"
    done = run("oellm", "schedule", "rows.csv", "--cluster=slurm", where, *words, status=2)
    assert done.stderr.startswith(f"oellm: {told}")


def test_earlier_runs_may_be_named_without_a_directory_of_runs(run: Run, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("model_path,task_path,n_shot\nacme/m,t,0\n")
    where = ("--cluster=slurm", "--set=eval_base_dir=/base", "--set=eval_output_dir=")
    printed = run("oellm", "schedule", "rows.csv", *where, "--in=x", "--failed", "--print").stdout
    assert f"oe-missing {' '.join(where)} --in=x --failed " in printed


def test_help_knows_itself_and_no_options(run: Run) -> None:
    manual = run("oellm", "--help").stdout
    assert run("oellm", "help", "help").stdout == run("oellm", "help", "-h").stdout == manual
    refused = run("oellm", "help", "--x", status=2).stderr
    assert refused == "oellm: unknown option --x\nsee oellm help\n"
