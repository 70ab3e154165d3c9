"""oe-render: the plan, and the run directory."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from support.processes import Run, clean_environment

HEADER = "model_path,task_path,n_shot\n"
MANIFEST = HEADER + "acme/tiny,hellaswag,5\nacme/tiny,mmlu,\nacme/small,hellaswag,5\n"


def test_dry_run_writes_nothing(run: Run, tmp_path: Path) -> None:
    before = set(tmp_path.rglob("*"))
    run("oe-render", "--dry_run", "--cluster=local", stdin=MANIFEST)
    assert set(tmp_path.rglob("*")) == before


def test_run_directory_holds_the_whole_run(run: Run, tmp_path: Path) -> None:
    done = run(
        *("oe-render", "--cluster=local"),
        stdin=HEADER.replace("n_shot", "n_shot,note") + "acme/tiny,mmlu,05,keep me\n",
        env={"LOGNAME": "ada"},
    )
    record = json.loads(done.stdout)
    path = Path(record["run_dir"])
    assert path.parent == tmp_path / "oellm-output" / "ada"
    assert sorted(p.name for p in path.iterdir()) == [
        *("jobs.csv", "oe-run-task.pyz", "results", "run.json", "slurm_logs", "submit_evals.sbatch")
    ]
    assert json.loads((path / "run.json").read_text()) == record
    worker = (path / "oe-run-task.pyz").read_bytes()
    assert record["worker"]["sha256"] == hashlib.sha256(worker).hexdigest()
    header, line = (path / "jobs.csv").read_text().splitlines()
    assert header == "model_path,task_path,n_shot,note,eval_id,shard"
    assert line.startswith("acme/tiny,mmlu,05,keep me,")
    assert line.endswith(",0")


@pytest.mark.slow
def test_runs_of_the_same_second_have_directories_of_their_own(run: Run) -> None:
    directories = {
        json.loads(run("oe-render", "--cluster=local", stdin=MANIFEST).stdout)["run_dir"]
        for _ in range(4)
    }
    assert len(directories) == 4


def test_frozen_worker_runs_alone_in_any_python(run: Run, tmp_path: Path) -> None:
    render = ("oe-render", "--cluster=local", "--set=shard_time=0")
    record = json.loads(run(*render, stdin=MANIFEST).stdout)
    worker = Path(record["run_dir"]) / "oe-run-task.pyz"
    # -I and -S: neither this project nor docopt nor orjson can come from anywhere else.
    isolated = ["python3", "-I", "-S", worker]
    assert run(*isolated, "--version").stdout.startswith("oe-run-task ")
    refused = run(*isolated, "--run_dir", record["run_dir"], "--shard", "7", status=2)
    assert refused.stderr == "oe-run-task: --shard: expected 0 to 1, got 7\n"


def test_more_models_than_the_queue_takes_share_shards(run: Run) -> None:
    rows = "".join(f"acme/m{m},task{t},0\n" for m in range(7) for t in range(m + 1))
    record = json.loads(
        run("oe-render", "--cluster=local", "--set=queue_limit=3", stdin=HEADER + rows).stdout
    )
    assert sum(shard["models"] for shard in record["shards"]) == 7
    assert sorted(shard["rows"] for shard in record["shards"]) == [9, 9, 10]


def test_a_duplicate_row_is_evaluated_once_and_reported(run: Run) -> None:
    done = run(
        *("oe-render", "--cluster=local"),
        stdin=HEADER + "acme/tiny,mmlu,5\nacme/tiny,arc_easy,5\nacme/tiny,mmlu,05\n",
    )
    assert json.loads(done.stdout)["n_rows"] == 2
    assert "stdin:4: the same evaluation as line 2, left out" in done.stderr


def test_only_the_first_of_many_duplicate_rows_are_named(run: Run) -> None:
    rows = "".join(f"acme/tiny,arc_easy,{n % 1000}\n" for n in range(2500))
    done = run("oe-render", "--cluster=local", stdin=HEADER + rows)
    assert json.loads(done.stdout)["n_rows"] == 1000
    named = [f"stdin:{n + 1002}: the same evaluation as line {n + 2}, left out" for n in range(10)]
    lines = done.stderr.splitlines()
    assert lines[:11] == [
        *(f"oe-render: {text}" for text in named),
        "oe-render: 1490 more duplicate rows, left out",
    ]
    assert len(lines) == 12


def test_jobs_are_the_rows_in_their_order_each_with_the_shard_of_its_model(run: Run) -> None:
    cells = [
        *(["acme/a", "mmlu", "5", "0", ""], ["acme/b", "piqa", "", "7", 'two\r\nlines, "x"']),
        *(["acme/a", "/own/quiz.yaml", "0", "0", ","], ["acme/a ", "boolq", "1", "3", "\u2028"]),
    ]
    # A column `shard` comes from another run.
    manifest = io.StringIO(newline="")
    csv.writer(manifest).writerows([["model_path", "task_path", "n_shot", "shard", "note"], *cells])
    render = ("oe-render", "--cluster=local", "--set=shard_time=0")
    done = run(*render, stdin=manifest.getvalue())
    path = Path(json.loads(done.stdout)["run_dir"]) / "jobs.csv"
    with open(path, encoding="utf-8", newline="") as stream:
        header, *jobs = csv.reader(stream, strict=True)
    assert header == ["model_path", "task_path", "n_shot", "note", "eval_id", "shard"]
    assert [job[:4] for job in jobs] == [[*row[:3], row[4]] for row in cells]
    assert [job[5] for job in jobs] == ["0", "1", "0", "0"]


def test_a_full_disk_is_reported_and_leaves_nothing(run: Run, tmp_path: Path) -> None:
    (tmp_path / "small").mkdir()
    rows = "".join(f"acme/tiny,arc_easy,{n}\n" for n in range(5_000))
    done = run(
        # A limit on the size of files stands in for a full file system.
        *("bash", "-c", "ulimit -f 64; exec oe-render --cluster=local"),
        stdin=HEADER + rows,
        env={"TMPDIR": str(tmp_path / "small")},
        status=3,
    )
    expected = f"{tmp_path}/small: File too large; set TMPDIR to a directory with more room"
    assert done.stderr == f"oe-render: {expected}\n"
    assert not list((tmp_path / "small").iterdir())
    assert not (tmp_path / "oellm-output").exists()


# Prints the status of a command and its peak memory in KiB. A small process starts the command,
# because the memory of its parent counts as the child's at first.
PEAK = """
import os, subprocess, sys
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(child.pid, 0)
print(status, usage.ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.parametrize("options", [["--dry_run"], []], ids=["dry_run", "written"])
def test_a_row_takes_little_memory(tmp_path: Path, options: list[str]) -> None:
    def peak_kib(models: int) -> int:
        environment = clean_environment(tmp_path)
        names = ",".join(f"acme/m{number}" for number in range(models))
        shots = ",".join(map(str, range(50)))
        make = ["oe-manifest", "--models", names, "--tasks=arc_easy,boolq", f"--n_shot={shots}"]
        render = ["oe-render", "--cluster=local", *options]
        with subprocess.Popen(make, stdout=subprocess.PIPE, env=environment) as manifest:
            done = subprocess.run(
                [sys.executable, "-c", PEAK, *render],
                stdin=manifest.stdout,
                stdout=subprocess.PIPE,
                env=environment,
                cwd=tmp_path,
                check=True,
            )
        assert manifest.returncode == 0
        status, peak = map(int, done.stdout.split())
        assert status == 0
        return peak

    # 200,000 rows and 2,000, with less than 150 bytes for each.
    assert peak_kib(2000) - peak_kib(20) < 198_000 * 150 / 1024


@pytest.mark.slow
def test_cluster_settings_fill_empty_cells_but_never_change_an_identified_row(run: Run) -> None:
    def rendered(manifest: str, *settings: str) -> str:
        done = run("oe-render", "--cluster=local", *settings, stdin=manifest)
        return (Path(json.loads(done.stdout)["run_dir"]) / "jobs.csv").read_text()

    manifest = "model_path,task_path,n_shot,batch_size\nacme/tiny,mmlu,5,\nacme/tiny,boolq,5,2\n"
    jobs = rendered(manifest, "--set=batch_size=16", "--set=dtype=bfloat16")
    assert "acme/tiny,mmlu,5,16,bfloat16," in jobs
    assert "acme/tiny,boolq,5,2,bfloat16," in jobs
    identified = "\n".join(line.rpartition(",")[0] for line in jobs.splitlines()) + "\n"
    again = rendered(identified, "--set=dtype=float32")
    assert [line.split(",")[5] for line in again.splitlines()] == [
        line.split(",")[5] for line in jobs.splitlines()
    ]
    plain = rendered(manifest)
    kept = "\n".join(line.rpartition(",")[0] for line in plain.splitlines()) + "\n"
    assert ",float32" not in rendered(kept, "--set=dtype=float32")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stdin", "message"),
    [
        ("", "stdin: expected a CSV header, got nothing: did the command before fail?"),
        ("\x00\xff garbage", "stdin:1: expected UTF-8 text"),
        ("{}\n", "stdin:1: model_path: required column is missing; the header is '{}'"),
        (
            HEADER + "acme/tiny,mmlu,5\nacme/tiny,mmlu,five\n",
            "stdin:3: n_shot: expected a non-negative integer, got 'five'",
        ),
        (HEADER + "acme/tiny,mmlu\n", "stdin:2: expected 3 cells as in the header, got 2"),
        (
            HEADER.replace("n_shot", "n_shot,eval_suite") + "acme/tiny,mmlu,5,lm_evil\n",
            "stdin:2: eval_suite: expected one of bigcode_eval, bigcodebench, evalplus, lighteval, "
            "lm_eval, got 'lm_evil'",
        ),
        (
            HEADER.replace("n_shot", "n_shot,eval_id") + "acme/tiny,mmlu,5,0123456789abcdef\n",
            "stdin:2: eval_id: expected ",
        ),
    ],
)
def test_bad_manifest_is_named_by_line_and_column(
    run: Run, tmp_path: Path, stdin: str, message: str
) -> None:
    done = run("oe-render", "--cluster=local", stdin=stdin.encode("latin-1"), status=2)
    assert done.stderr.startswith(f"oe-render: {message}")
    assert done.stdout == ""
    assert not (tmp_path / "oellm-output").exists()


@pytest.mark.slow
def test_what_is_missing_is_reported_before_anything_is_written(run: Run, tmp_path: Path) -> None:
    base = [f"--set=eval_base_dir={tmp_path}/base", "--cluster=slurm"]
    image = run("oe-render", *base, "--set=images.lm_eval=x.sif", stdin=MANIFEST, status=3)
    assert image.stderr == (
        f"oe-render: {tmp_path}/base/x.sif: no such image; set images_directory or images.lm_eval\n"
    )
    nothing = run("oe-render", *base, stdin=MANIFEST, status=3)
    assert "set images.lm_eval (a container image) or venv" in nothing.stderr
    assert not (tmp_path / "base").exists()
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    refused = run(
        "oe-render", "--cluster=local", f"--run_dir={tmp_path}/there", stdin=MANIFEST, status=2
    )
    assert "exists already and is not empty" in refused.stderr


def test_a_container_sees_the_models_their_links_and_the_tasks_and_no_more(
    run: Run, tmp_path: Path
) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "weights").touch()
    for step in ("iter_1", "iter_2"):
        model = tmp_path / "models" / "m" / step
        model.mkdir(parents=True)
        (model / "config.json").touch()
        (model / "model.safetensors").symlink_to(tmp_path / "blobs" / "weights")
    (tmp_path / "x.sif").touch()
    record = json.loads(
        run(
            *("oe-render", "--cluster=slurm", f"--set=eval_base_dir={tmp_path}/base"),
            *(f"--set=images.lm_eval={tmp_path}/x.sif", "--set=binds=/data:/data:ro"),
            stdin="model_path,task_path,n_shot,include_path\n"
            f"{tmp_path}/models/m/iter_1,t,0,{tmp_path}/tasks\n"
            f"{tmp_path}/models/m/iter_2,{tmp_path}/own/task.yaml,0,\n",
        ).stdout
    )
    binds = (Path(record["run_dir"]) / "binds").read_text().splitlines()
    here = str(tmp_path)
    assert binds == [
        *(f"{here}/base", f"{here}/blobs", f"{here}/models/m", f"{here}/own", f"{here}/tasks"),
        "/data:/data:ro",
    ]
