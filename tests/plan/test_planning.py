"""The plan of a run: what rows should take, in which shards, within which time limit."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from support.environments import idle_venv
from support.processes import ROOT, Run, clean_environment

GOLDEN_RUN = ROOT / "tests" / "golden" / "contract" / "run"
COUNTED = "model_path,task_path,n_shot,n_docs,n_requests,request_types,model_bytes,tp\n"
# Rows of a model with 2 bytes for each of 8 billion parameters.
HELLASWAG = "acme/8b,hellaswag,10,10042,40168,loglikelihood=40168,16000000000,{tp}\n"
SMALL = "acme/8b,copa,0,100,200,loglikelihood=200,16000000000,{tp}\n"


def cluster(tmp_path: Path, **settings: Any) -> list[str]:
    ours = {"eval_base_dir": tmp_path / "base", "venv": idle_venv(), **settings}
    return ["--cluster=slurm", *(f"--set={key}={value}" for key, value in ours.items())]


def estimates(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(text.splitlines()))


def test_explain_says_what_each_row_should_take_and_writes_nothing(
    run: Run, tmp_path: Path
) -> None:
    manifest = COUNTED + HELLASWAG.format(tp="") + SMALL.format(tp="") + "acme/x-70b,mmlu,5,,,,,\n"
    done = run("oe-render", "--explain", *cluster(tmp_path), stdin=manifest)
    long, short, unknown = estimates(done.stdout)
    assert (long["task_path"], long["n_shot"], long["basis"]) == ("hellaswag", "10", "guessed")
    assert float(long["seconds"]) > 20 * float(short["seconds"]) > 0
    # Of a row that nobody has counted only the model's name says something.
    assert float(unknown["seconds"]) > 100
    *_, total = done.stderr.splitlines()
    assert "; times of rows: 3 guessed" in total
    assert not (tmp_path / "base").exists()


def test_a_run_keeps_its_plan_and_says_it(run: Run, tmp_path: Path) -> None:
    done = run("oe-render", *cluster(tmp_path), stdin=COUNTED + HELLASWAG.format(tp=""))
    record = json.loads(done.stdout)
    (shard,) = record["shards"]
    assert record["plan"]["estimate_s"] == round(shard["estimate_s"], 1)
    assert record["plan"]["gpu_hours"] == pytest.approx(shard["estimate_s"] / 3600, abs=2e-5)
    assert record["plan"]["rows_by_basis"] == {"guessed": 1}
    assert "rows: 1, shards: 1, about " in done.stderr


def test_times_of_earlier_runs_replace_guesses(run: Run, tmp_path: Path) -> None:
    before = tmp_path / "base" / "ada" / "2024-01-15-14-30-45"
    shutil.copytree(GOLDEN_RUN, before)
    (result, *_) = sorted((before / "results").iterdir())
    ours = json.loads(result.read_text())["oellm"]
    for path in (before / "run.json", *(before / "results").iterdir()):
        path.write_text(path.read_text().replace('"local"', '"slurm"'))
    row = ours["row"]
    model = tmp_path / "model"
    model.mkdir()
    cells = [str(model), row["task_path"], row["n_shot"], row["include_path"], row["limit"]]
    size = ours["provenance"]["model"]["total_bytes"]
    manifest = "model_path,task_path,n_shot,include_path,limit,model_bytes\n" + "".join(
        f"{','.join([cells[0], task, *cells[2:]])},{size}\n" for task in (cells[1], "another")
    )
    arguments = ["oe-render", "--explain", *cluster(tmp_path)]
    same, other = estimates(run(*arguments, stdin=manifest).stdout)
    assert same["basis"] == "measured"
    assert 0 < float(same["seconds"]) < 60
    assert other["basis"] != "measured"


def test_rows_that_need_more_gpus_get_a_script_of_their_own(run: Run, tmp_path: Path) -> None:
    manifest = COUNTED + SMALL.format(tp="") + SMALL.format(tp=4).replace("copa", "rte")
    record = json.loads(
        run("oe-render", *cluster(tmp_path, gpus_per_node=4), stdin=manifest).stdout
    )
    directory = Path(record["run_dir"])
    scripts = [(directory / array["script"]).read_text() for array in record["arrays"]]
    assert [array["gpus"] for array in record["arrays"]] == [1, 4]
    assert ["--gres=gpu:1\n" in scripts[0], "--gres=gpu:4\n" in scripts[1]] == [True, True]
    assert [(shard["array"], shard["element"]) for shard in record["shards"]] == [(0, 0), (1, 0)]
    shown = run("oe-render", "--dry_run", *cluster(tmp_path, gpus_per_node=4), stdin=manifest)
    assert shown.stdout.count("#!/bin/bash") == 2


def test_a_worker_that_no_node_can_hold_is_an_error_of_its_row(run: Run, tmp_path: Path) -> None:
    manifest = COUNTED + SMALL.format(tp="") + SMALL.format(tp=8).replace("copa", "rte")
    done = run("oe-render", *cluster(tmp_path, gpus_per_node=4), stdin=manifest, status=2)
    assert done.stderr.startswith("oe-render: stdin:3: tp: expected at most 4, got 8: ")
    assert not (tmp_path / "base").exists()


@pytest.mark.slow
def test_the_time_limit_follows_the_longest_shard_up_to_what_is_allowed(
    run: Run, tmp_path: Path
) -> None:
    sinfo = tmp_path / "bin" / "sinfo"
    sinfo.parent.mkdir()
    sinfo.write_text("#!/bin/bash\necho 'debug 30:00'\necho 'gpu* 12:00:00'\n")
    sinfo.chmod(0o755)
    env = {"PATH": f"{sinfo.parent}:{clean_environment(tmp_path)['PATH']}"}

    def rendered(row: str, *settings: str) -> tuple[str, str]:
        arguments = ["--dry_run", *cluster(tmp_path), *settings]
        done = run("oe-render", *arguments, stdin=COUNTED + row, env=env)
        (line,) = (line for line in done.stdout.splitlines() if "--time=" in line)
        return line.partition("=")[2], done.stderr

    short, _ = rendered(SMALL.format(tp=""))
    assert "00:15:00" <= short <= "01:00:00"
    long = HELLASWAG.format(tp="").replace("16000", "999000")
    limit, messages = rendered(long, "--set=time_limit=10:00:00")
    assert limit == "10:00:00"
    assert (
        "more than the time limit of 10 h 00 min: its job requeues itself and continues" in messages
    )
    # What Slurm says of the partition counts as well: of the default one, too.
    assert rendered(long)[0] == "12:00:00"
    assert rendered(long, "--set=partition=debug")[0] == "00:30:00"
