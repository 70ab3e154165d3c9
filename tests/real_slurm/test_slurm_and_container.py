"""The whole pipeline with sbatch on real Slurm, in a real container, with real lm-eval."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from support.dev_cluster import DevCluster
from support.hub import Hub
from support.hub_content import write_arc, write_code
from support.processes import DEMO_TASKS, make_tiny_model

Results = dict[str, dict[str, Any]]


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoints")
    for seed, step in enumerate((2000, 10000)):
        make_tiny_model(directory / f"iter_{step}", seed)
    return directory


def results(record: dict[str, Any]) -> Results:
    paths = (Path(record["run_dir"]) / "results").glob("*.json")
    return {path.stem: json.loads(path.read_text()) for path in paths}


def test_one_result_per_row_with_the_scores_of_the_lm_eval_command_line(
    cluster: DevCluster, checkpoints: Path, image: Path, tmp_path: Path
) -> None:
    rows = cluster.manifest(checkpoints, "oellm_choice,oellm_copy", "--n_shot=0,2")
    record = cluster.submitted(rows)
    (job,) = record["jobs"]
    cluster.wait()
    found = results(record)
    assert len(found) == 8
    collected = cluster.run("oe-collect", "--columns=task,step,n_shot", record["run_dir"])
    assert [line for line in collected.splitlines() if "oellm_copy" in line] == [
        *("oellm_copy,2000,0", "oellm_copy,2000,2", "oellm_copy,10000,0", "oellm_copy,10000,2")
    ]
    for shard in (0, 1):
        assert cluster.job(job["job_id"], shard)["JobState"] == "COMPLETED"
    for result in found.values():
        ours = result["oellm"]
        assert ours["provenance"]["slurm"]["SLURM_ARRAY_JOB_ID"] == str(job["job_id"])
        # The image's Python and packages, not those of the machine that submitted.
        assert ours["provenance"]["versions"]["lm_eval"] == "0.4.13"
    loads = [result["oellm"]["timing"]["model_load_s"] for result in found.values()]
    assert sum(load > 0 for load in loads) == 2

    model = checkpoints / "iter_2000"
    cluster.run(
        *("apptainer", "exec", "--bind", tmp_path, "--bind", checkpoints, "--bind", DEMO_TASKS),
        *(image, "lm_eval", "run", "--model", "hf", "--model_args", f"pretrained={model}"),
        *("--tasks", "oellm_choice,oellm_copy", "--num_fewshot", "2", "--batch_size", "4"),
        *("--include_path", DEMO_TASKS, "--output_path", tmp_path / "theirs"),
    )
    (path,) = (tmp_path / "theirs").rglob("results_*.json")
    theirs = json.loads(path.read_text())["results"]
    ours = {
        task: scores
        for result in found.values()
        if result["oellm"]["row"]["n_shot"] == "2"
        and result["oellm"]["row"]["model_path"] == str(model)
        for task, scores in result["results"].items()
    }
    assert ours == theirs


def test_tasks_are_fetched_in_the_image_and_run_without_the_hub(
    cluster: DevCluster, checkpoints: Path, hub: Hub, tmp_path: Path
) -> None:
    hub.add_model("acme/tiny", checkpoints / "iter_2000")
    hub.add_dataset("allenai/ai2_arc", write_arc(tmp_path / "arc"))
    # The libraries would expand `$HOME` in the name of the shared directory.
    cluster.env |= {**hub.environment, "HF_HOME": str(tmp_path / "caché d'ir %j #1")}
    code = "def score(doc, results):\n    import langdetekt\n"
    wanting = write_code(tmp_path / "tasks", "wanting", code, process_results="score")
    command = ("oe-manifest", "--models=acme/tiny", f"--tasks=arc_easy,{wanting}", "--n_shot=0")
    fetched = cluster.call("oe-fetch", stdin=cluster.run(*command, "--batch_size=4"), status=1)
    # The image's Python lacks it, whatever the login node has.
    mended = "to fix it: /opt/framework/bin/python3 -m pip install langdetekt"
    assert f"No module named 'langdetekt'; {mended}" in fetched.stderr
    hub.stop()
    assert len(cluster.run("oe-fetch", "--check", stdin=fetched.stdout).splitlines()) == 1
    record = cluster.submitted(fetched.stdout)
    cluster.wait()
    (result,) = results(record).values()
    assert result["results"]["arc_easy"]["acc,none"] is not None
    assert result["n-samples"]["arc_easy"]["effective"] == 4


def test_a_bad_row_fails_alone_and_the_job_says_so(cluster: DevCluster, checkpoints: Path) -> None:
    model = checkpoints / "iter_2000"
    tasks = "oellm_choice,no_such_task,oellm_copy"
    rows = cluster.manifest(model, tasks, "--n_shot=0", "--unchecked_tasks")
    record = cluster.submitted(rows)
    cluster.wait()
    job_id = record["jobs"][0]["job_id"]
    element = cluster.job(job_id, 0)
    assert (element["JobState"], element["ExitCode"]) == ("FAILED", "1:0")
    done = {result["oellm"]["row"]["task_path"] for result in results(record).values()}
    assert done == {"oellm_choice", "oellm_copy"}
    (failure,) = (Path(record["run_dir"]) / "failures").iterdir()
    recorded = json.loads(failure.read_text())["oellm"]["failure"]
    assert "lm-eval has no task, group or tag 'no_such_task'" in recorded["message"]
    log = Path(record["run_dir"]) / "slurm_logs" / f"{job_id}_0.log"
    assert recorded["log"] == str(log)
    assert "no_such_task n_shot=0 failed" in log.read_text()
    missing = cluster.run("oe-missing", record["run_dir"]).splitlines()
    assert len(missing) == 2
    assert "no_such_task" in missing[1]


def test_a_killed_job_is_completed_by_submitting_again(
    cluster: DevCluster, checkpoints: Path
) -> None:
    tasks = "oellm_choice,oellm_copy,oellm_prose"
    rows = cluster.manifest(checkpoints / "iter_2000", tasks, "--n_shot=0,1,2")
    record = cluster.submitted(rows)
    job_id = record["jobs"][0]["job_id"]
    again = cluster.call("oe-submit", record["run_dir"])
    assert again.stderr == "oe-submit: elements: 1 already in the queue\n"
    assert len(cluster.queue()) == 1

    deadline = time.monotonic() + 600
    while not results(record):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    cluster.run("scancel", "--signal=KILL", "--full", str(job_id))
    cluster.wait(180)
    before = results(record)
    assert 1 <= len(before) < 9

    cluster.run("oe-submit", record["run_dir"])
    cluster.wait()
    after = results(record)
    assert len(after) == 9
    assert {name: after[name] for name in before} == before


def test_an_error_of_sbatch_is_quoted(cluster: DevCluster, checkpoints: Path) -> None:
    rows = cluster.manifest(checkpoints, "oellm_choice")
    rendered = cluster.run("oe-render", "--set=partition=nope", stdin=rows)
    done = cluster.call("oe-submit", stdin=rendered, status=1)
    assert (
        "oe-submit: sbatch failed: sbatch: error: invalid partition specified: nope" in done.stderr
    )
    assert cluster.queue() == []


def test_elements_wait_for_room_and_get_a_gpu_each(cluster: DevCluster, checkpoints: Path) -> None:
    """Run the script with a worker that only notes what Slurm gives each element."""
    probe = cluster.base / "venv" / "bin" / "python"
    probe.parent.mkdir(parents=True)
    probe.write_text('#!/bin/bash\nenv >"$3/environment.$5"\nsleep 2\n')
    probe.chmod(0o755)
    rows = cluster.manifest(checkpoints, "oellm_choice")
    settings = [f"--set=venv={cluster.base}/venv", "--set=container_runtime=none"]
    rendered = json.loads(cluster.run("oe-render", *settings, "--set=queue_limit=2", stdin=rows))
    cluster.env["LEAKED"] = "from the submitting shell"
    cluster.run("oe-submit", rendered["run_dir"])
    cluster.wait(180)
    for shard in (0, 1):
        seen = (Path(rendered["run_dir"]) / f"environment.{shard}").read_text()
        assert "CUDA_VISIBLE_DEVICES=" in seen
        assert f"SLURM_ARRAY_TASK_ID={shard}\n" in seen
        assert "HF_HUB_OFFLINE=1\n" in seen
        assert "LEAKED" not in seen
