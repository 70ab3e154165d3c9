"""Each command accepts what the one before prints, and the schema names all of it.

The golden files are real output, with paths and machine names replaced: cluster.json of oe-detect,
manifest.csv of oe-manifest, run/ of oe-render and the worker, results.jsonl of oe-run-task,
metrics.csv of oe-collect, missing.csv of oe-missing. `make golden` writes them again, the slow test
the results.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from oellm.core import schema
from oellm.manifest.rows import Row, eval_id
from support.golden_files import assert_golden
from support.processes import DEMO_TASKS, Run, rows_of

CONTRACT = Path(__file__).parent.parent.parent / "golden" / "contract"
RUN_DIR = "/evals/ada/2024-01-15-14-30-45"
MODEL = "/models/tiny/iter_0001000"
TASKS = "/tasks"


def golden(name: str) -> str:
    return (CONTRACT / name).read_text(encoding="utf-8")


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """Return a copy of the golden run directory, as if it had been rendered here."""
    directory = tmp_path / "run"
    shutil.copytree(CONTRACT / "run", directory)
    (directory / "slurm_logs").mkdir()
    record = json.loads(golden("run/run.json"))
    (directory / "run.json").write_text(json.dumps(record | {"run_dir": str(directory)}))
    return directory


def test_oe_detect_to_oe_render(run: Run, tmp_path: Path) -> None:
    printed = run("oe-detect", "--cluster=lumi", env={"LOGNAME": "ada"}).stdout
    assert_golden("contract/cluster.json", printed)
    assert set(json.loads(printed)) <= set(schema.table("cluster"))
    (tmp_path / "cluster.json").write_text(golden("cluster.json"))
    options = ("--dry_run", "--run_dir=/scratch/run 1")
    rows = golden("manifest.csv")
    from_file = run("oe-render", *options, "--cluster=./cluster.json", stdin=rows).stdout
    by_name = run("oe-render", *options, "--cluster=lumi", stdin=rows, env={"LOGNAME": "ada"})
    assert from_file == by_name.stdout


def test_oe_manifest_to_oe_render(run: Run) -> None:
    printed = run(
        *("oe-manifest", "--models", "EleutherAI/pythia-160m,revision=step1000,dtype=float16"),
        *("--tasks=hellaswag,mmlu", "--n_shot=0,5", "--limit=10", "--seed=1,2,3,4"),
        # To look them up takes an index, which a fast test has no time to make.
        "--unchecked_tasks",
        *(
            "--task_groups",
            "belebele-eu-5-shot[deu_Latn|fra_Latn]",
            "--gen_kwargs=top_p=0.5,top_k=3",
        ),
    ).stdout
    assert_golden("contract/manifest.csv", printed)
    header, *rows = csv.reader(io.StringIO(golden("manifest.csv")))
    assert set(header) <= set(schema.table("manifest"))
    record = json.loads(run("oe-render", "--cluster=local", stdin=golden("manifest.csv")).stdout)
    assert record["n_rows"] == len(rows)


def test_oe_render_to_oe_submit_and_the_worker(run: Run, run_dir: Path) -> None:
    rows = golden("missing.csv")
    fresh = json.loads(run("oe-render", "--cluster=local", stdin=rows).stdout)
    stored = json.loads(golden("run/run.json"))
    table = schema.table("run")
    known = [name for name in table if name in stored or not table[name].get("optional")]
    assert list(fresh) == list(stored) == known
    assert [list(shard) for shard in fresh["shards"]] == [list(s) for s in stored["shards"]]
    # The golden run lacks one row. Its worker is replaced: this test is about its arguments.
    (run_dir / "submit_evals.sbatch").write_text('echo "oe-run-task: shard $SLURM_ARRAY_TASK_ID"\n')
    (run_dir / "oe-run-task.pyz").write_bytes(b"no worker")
    digest = hashlib.sha256(b"no worker").hexdigest()
    record = json.loads((run_dir / "run.json").read_text())
    record["worker"]["sha256"] = digest
    (run_dir / "run.json").write_text(json.dumps(record))
    done = run("oe-submit", "--executor=local", stdin=json.dumps(record), status=1)
    assert "oe-submit: shard 0: shard 0" in done.stderr
    assert list(json.loads(done.stdout)) == list(stored)


def test_oe_run_task_to_oe_collect(run: Run) -> None:
    done = run("oe-collect", stdin=golden("results.jsonl"), status=1)
    assert_golden("contract/metrics.csv", done.stdout)
    assert "stdin:2: no_such_task has no result: " in done.stderr
    header = done.stdout.splitlines()[0].split(",")
    assert header == list(schema.table("metric"))


def test_run_directory_to_oe_collect_and_oe_missing_to_oe_render(run: Run, run_dir: Path) -> None:
    from_files = run("oe-collect", run_dir).stdout
    # The run may have moved, so oe-collect prints where it is now.
    assert from_files.replace(str(run_dir), RUN_DIR) == golden("metrics.csv")
    assert run("oe-collect", stdin=json.dumps({"run_dir": str(run_dir)})).stdout == from_files
    missing = run("oe-missing", run_dir).stdout
    assert_golden("contract/missing.csv", missing)
    record = json.loads(run("oe-render", "--cluster=local", stdin=golden("missing.csv")).stdout)
    (row,) = rows_of(golden("missing.csv"))
    jobs = (Path(record["run_dir"]) / "jobs.csv").read_text()
    assert row["eval_id"] in jobs


def test_oe_collect_to_oe_collect_and_oe_report(run: Run) -> None:
    records = golden("metrics.csv")
    assert run("oe-collect", stdin=records).stdout == records
    page = run("oe-report", stdin=records).stdout
    for row in rows_of(records):
        if row["is_primary"] == "true":
            assert row["task"] in page
            assert f'data-v="{row["value"]}"' in page


def test_the_schema_names_every_key_of_a_result() -> None:
    for line in golden("results.jsonl").splitlines():
        record = json.loads(line)["oellm"]
        assert set(record) <= set(schema.table("result"))
        for metric in record.get("metrics", []):
            assert set(metric) <= set(schema.table("metric"))
        assert set(record["row"]) <= set(schema.table("manifest"))


@pytest.mark.slow
def test_the_worker_still_writes_what_the_golden_results_are(
    run: Run, tiny_model: Path, tmp_path: Path
) -> None:
    columns = "model_path,task_path,n_shot,include_path,limit\n"
    tasks = ("oellm_choice", "no_such_task", "oellm_prose")
    rows = columns + "".join(f"{tiny_model},{task},0,{DEMO_TASKS},4\n" for task in tasks)
    record = json.loads(run("oe-render", "--cluster=local", stdin=rows).stdout)
    directory = Path(record["run_dir"])
    run("oe-submit", directory, status=1)

    def neutral(text: str) -> Any:
        places = [(directory, RUN_DIR), (tiny_model, MODEL), (DEMO_TASKS, TASKS)]
        places += [
            (tmp_path / "home", "/home/ada"),
            (tmp_path, "/evals"),
            (Path(sys.prefix), "/venv"),
        ]
        for here, there in places:
            text = text.replace(str(here), there)
        found = json.loads(text)
        found.pop("pretty_env_info", None)
        if "oellm" in found:
            found["oellm"]["provenance"]["host"] = "node1"
            # The golden run was rendered where its model and tasks are not, so it lacks digests.
            for name in ("model", "task"):
                found["oellm"].get("contents", {}).pop(name, None)
                found["oellm"]["row"].pop(f"{name}_digest", None)
        return found

    paths = [*directory.glob("results/*.json"), *directory.glob("failures/*.json")]
    fresh = {path.stem: neutral(path.read_text()) for path in paths}
    by_task = {value["oellm"]["row"]["task_path"]: value for value in fresh.values()}
    if os.environ.get("OELLM_WRITE_GOLDEN") == "1":
        write_golden(by_task, directory, neutral)
    for line in map(json.loads, golden("results.jsonl").splitlines()):
        now = by_task[line["oellm"]["row"]["task_path"]]
        assert shape(now) == shape(line)


def shape(value: Any, depth: int = 3) -> Any:
    """Return the keys of nested objects, down to some depth."""
    if not isinstance(value, dict) or depth == 0:
        return None
    return {key: shape(item, depth - 1) for key, item in value.items() if key != "versions"}


def write_golden(by_task: dict[str, Any], directory: Path, neutral: Any) -> None:
    """Write the golden run again; its rows have other paths now, so other identities."""
    shutil.rmtree(CONTRACT / "run", ignore_errors=True)
    header, *_ = (directory / "jobs.csv").read_text().splitlines()
    jobs, lines = [header], []
    for task in ("oellm_choice", "no_such_task", "oellm_prose"):
        record = by_task[task]
        ours = record["oellm"]
        ours["eval_id"] = ours["row"]["eval_id"] = eval_id(Row(ours["row"]))
        jobs.append(",".join([*ours["row"].values(), "0"]))
        lines.append(json.dumps(record))
        folder = CONTRACT / "run" / ("results" if ours["status"] == "done" else "failures")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{ours['eval_id']}.json").write_text(json.dumps(record, indent=1) + "\n")
    (CONTRACT / "run" / "jobs.csv").write_text("\n".join(jobs) + "\n")
    (CONTRACT / "results.jsonl").write_text("\n".join(lines) + "\n")
    run_record = neutral((directory / "run.json").read_text())
    (CONTRACT / "run" / "run.json").write_text(json.dumps(run_record, indent=1) + "\n")
