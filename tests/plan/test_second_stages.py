"""Rows with two stages: where a plan puts each stage, and what its jobs ask for."""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oellm import __version__, frameworks
from oellm.clusters.cluster import Cluster
from oellm.errors import OellmError
from oellm.manifest.rows import Row
from oellm.plan import planning
from oellm.plan.batch_script import ScriptFrame, render_script
from oellm.plan.costs import CostModel
from oellm.plan.planning import RunPlan
from oellm.plan.row_spool import RowSpool
from support.golden_files import assert_golden
from support.processes import Run, clean_environment
from support.second_stages import HEADER, install_toy
from support.two_stages import program

SETTINGS: dict[str, Any] = {
    "name": "here",
    "executor": "local",
    "shard_time": "00:10:00",
    "gpus_per_node": 4,
    "gpu_gres": "gpu",
    "cpus_per_gpu": 8,
    "partition": "gpus",
    "cpu_partition": "thin",
    "unsafe_execution": True,
}
COLUMNS = ["model_path", "task_path", "n_shot", "eval_suite", "tp", "gen_kwargs", "n_docs"]
Cells = dict[str, str]


@pytest.fixture(autouse=True, scope="module")
def two_stages() -> Iterator[None]:
    """Make the made-up framework known."""
    with pytest.MonkeyPatch.context() as patch:
        known = frameworks._FRAMEWORKS
        ours = frameworks._Framework("support.two_stages", is_program=True)
        patch.setattr(frameworks, "_FRAMEWORKS", {**known, program.NAME: ours})
        frameworks.create_program.cache_clear()
        yield
    frameworks.create_program.cache_clear()


def plan(manifest: list[Cells], **settings: Any) -> tuple[RunPlan, list[Row]]:
    """Return the plan of a manifest, and its rows with their shards."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({"n_shot": "", **cells} for cells in manifest)
    jobs = io.StringIO()
    given = {name: value for name, value in (SETTINGS | settings).items() if value is not None}
    with RowSpool() as spool:
        made = planning.plan_run(
            io.StringIO(text.getvalue()),
            "manifest",
            Cluster(given, {}),
            costs=CostModel(),
            report=lambda _: None,
            spool=spool,
        )
        spool.write_jobs(jobs, made.places, made.digests)
    return made, [Row(cells) for cells in csv.DictReader(jobs.getvalue().splitlines())]


def row(model: str, task: str, suite: str = program.NAME, **cells: str) -> Cells:
    return {"model_path": model, "task_path": task, "eval_suite": suite, **cells}


ROWS = st.builds(
    row,
    st.sampled_from(["acme/a", "acme/b", "acme/c-70b"]),
    st.sampled_from(list(program.TASKS)),
    tp=st.sampled_from(["", "", "2"]),
    gen_kwargs=st.sampled_from(["", "n_samples=1", "n_samples=200", "temperature=0.5"]),
) | st.builds(row, st.just("acme/a"), st.sampled_from(["arc_easy", "copa"]), st.just("lm_eval"))


@settings(deadline=None, max_examples=25)
@given(
    manifest=st.lists(ROWS, min_size=1, max_size=15),
    whole_node=st.booleans(),
    shard_time=st.sampled_from(["00:00:00", "00:01:00", "01:00:00"]),
    queue_limit=st.none() | st.integers(1, 9),
)
def test_each_stage_of_each_row_is_in_one_shard(
    manifest: list[Cells], whole_node: bool, shard_time: str, queue_limit: int | None
) -> None:
    made, jobs = plan(
        manifest, whole_node=whole_node, shard_time=shard_time, queue_limit=queue_limit
    )
    counted: dict[int, int] = defaultdict(int)
    shards_of_output: dict[tuple[str, str], set[str]] = defaultdict(set)
    for job in jobs:
        stages = frameworks.stages_of(job)
        counted[int(job["shard"])] += 1
        first = made.shards[int(job["shard"])]
        assert made.arrays[first.array].follows is None
        assert made.arrays[first.array].gpus == job.typed.tp
        assert bool(job["evaluate_shard"]) == (len(stages) == 2)
        if len(stages) == 2:
            counted[int(job["evaluate_shard"])] += 1
            second = made.shards[int(job["evaluate_shard"])]
            assert made.arrays[second.array].follows == first.array
            assert second.element == first.element
            shards_of_output[frameworks.generation_key(job), job["tp"]].add(job["shard"])
    assert {len(shards) for shards in shards_of_output.values()} <= {1}
    assert [shard.rows for shard in made.shards] == [counted[s.index] for s in made.shards]
    for position, array in enumerate(made.arrays):
        if array.follows is None:
            continue
        leader = made.arrays[array.follows]
        assert (array.elements, array.workers, array.gpus) == (leader.elements, 1, 0)
        assert (array.cpus, array.memory_gib) == (2, 3)
        shards = [shard for shard in made.shards if shard.array == position]
        assert [shard.element for shard in shards] == list(range(array.elements))
        assert shards[0].index == array.first_shard > leader.first_shard
    leading = [one for one in made.arrays if one.follows is None]
    assert made.arrays[: len(leading)] == leading
    if queue_limit is not None:
        jobs_in_queue = sum(made.count_jobs(position) for position in range(len(made.arrays)))
        assert jobs_in_queue <= max(queue_limit, 2 * len(leading))


def test_a_shared_generation_costs_its_time_once() -> None:
    alone, _ = plan([row("acme/a", "problems")])
    shared, jobs = plan([row("acme/a", "problems"), row("acme/a", "problems-hard")])
    assert shared.shards[0].estimate_s == alone.shards[0].estimate_s
    assert shared.shards[0].rows == 2
    assert shared.shards[1].estimate_s > alone.shards[1].estimate_s
    assert len({job["shard"] for job in jobs}) == 1


def test_answers_and_cores_decide_how_long_stages_take() -> None:
    one, _ = plan([row("acme/a", "problems", gen_kwargs="n_samples=1")])
    many, _ = plan([row("acme/a", "problems", gen_kwargs="n_samples=200")])
    counted, _ = plan([row("acme/a", "problems", n_docs="4000", gen_kwargs="n_samples=1")])
    first, second = one.shards
    assert many.shards[0].estimate_s > 20 * (first.estimate_s - 100)
    # 20 problems on two cores, at two seconds each.
    assert many.shards[1].estimate_s - second.estimate_s == pytest.approx(199 * 20)
    assert counted.shards == many.shards


def test_a_program_loads_the_model_for_each_row_that_it_computes_alone() -> None:
    one, _ = plan([row("acme/a-70b", "problems")], shard_time="09:00:00")
    rows = [row("acme/a-70b", "problems"), row("acme/a-70b", "problems", gen_kwargs="sleep_s=1")]
    two, _ = plan(rows, shard_time="09:00:00")
    start_s = CostModel().start_s
    assert two.shards[0].estimate_s - start_s == pytest.approx(
        2 * (one.shards[0].estimate_s - start_s)
    )


def script_of(made: RunPlan, position: int, **settings: Any) -> list[str]:
    frame = ScriptFrame(0, is_outside=position in made.outside)
    given = Cluster({**SETTINGS, **settings}, {})
    return render_script(given, Path("/run"), made.arrays[position], frame=frame).splitlines()


def test_second_stages_ask_for_what_they_need_and_no_gpu() -> None:
    made, _ = plan([row("acme/a", "problems")])
    ours: dict[str, Any] = {
        "qos": "gpu-debug",
        "reservation": "gpu-day",
        "gpu_constraint": "a100",
        "exclude": "n7",
        "sbatch": {"gres": "gpu:1,disk:2", "mail-type": "FAIL", "mem-per-gpu": "9G"},
    }
    first, second = (script_of(made, position, **ours) for position in (0, 1))
    of_gpus = {"partition=gpus", "qos=gpu-debug", "reservation=gpu-day", "constraint=a100"}
    both = {"#SBATCH --exclude=n7", "#SBATCH --mail-type=FAIL"}
    assert {f"#SBATCH --{option}" for option in of_gpus} | both <= set(first)
    wanted = {"partition=thin", "cpus-per-task=2", "mem=3G"}
    assert {f"#SBATCH --{option}" for option in wanted} | both <= set(second)
    for word in ("gpu:", "qos", "reservation", "constraint", "mem-per-gpu"):
        assert not [line for line in second if line.startswith("#SBATCH") and word in line]
    own = script_of(made, 1, cpus_per_task=5, mem="64G", cpu_partition="", qos="normal")
    wanted = {"partition=gpus", "cpus-per-task=5", "mem=64G", "qos=normal"}
    assert {f"#SBATCH --{option}" for option in wanted} <= set(own)


def test_code_of_a_model_needs_a_container_or_somebody_who_permits_it_without() -> None:
    unsafe = [row("acme/a", "problems")]
    with pytest.raises(OellmError, match=r"manifest:2: task_path: problems runs .* set images\."):
        plan(unsafe, unsafe_execution=None)
    many = [row("acme/a", "problems", gen_kwargs=f"n_samples={count}") for count in range(1, 5)]
    with pytest.raises(OellmError, match=r"manifest:2: .*; the same in 3 more rows$"):
        plan(many, unsafe_execution=None)
    images = {f"{program.NAME}-evaluate": "x.sif"}
    made, _ = plan(unsafe, unsafe_execution=None, images=images)
    assert made.environments == [program.NAME, f"{program.NAME}-evaluate"]
    plan([row("acme/a", "alone")], unsafe_execution=None)


def test_a_row_that_its_framework_refuses_is_named_before_anything_is_planned() -> None:
    rows = [row("acme/a", "problems"), row("acme/a", "problems-hard", n_shot="3")]
    with pytest.raises(OellmError, match="manifest:3: n_shot: two_stages has no shots"):
        plan(rows)


def test_scripts_of_both_stages_are_golden() -> None:
    made, _ = plan([row("acme/a", "problems"), row("acme/a", "alone")], whole_node=True)
    ours = {"whole_node": True, "python": "python3.11", "time_limit": "24:00:00"}
    for position, name in enumerate(("program", "program-evaluate")):
        frame = ScriptFrame(0, is_outside=True, is_followed=position == 0)
        given = Cluster({**SETTINGS, **ours}, {})
        array = dataclasses.replace(made.arrays[position], time_limit="01:00:00")
        text = render_script(given, Path("/scratch/run 1"), array, frame=frame)
        assert_golden(f"{name}.sbatch", text.replace(f"oe-render {__version__}", "oe-render 0.1.0"))


STUB = """#!/bin/bash
if [[ $1 == -c ]]; then exit "$TOO_OLD"; fi
printf '%s\\n' "$@" >"$0.called"
"""


def test_a_worker_outside_of_containers_needs_its_digest_and_a_python(tmp_path: Path) -> None:
    python, run_dir = tmp_path / "python", tmp_path / "run 1"
    python.write_text(STUB)
    python.chmod(0o755)
    run_dir.mkdir()
    (run_dir / "run.json").touch()
    (run_dir / "oe-run-task.pyz").write_text("worker")
    made, _ = plan([row("acme/a", "problems")])
    script = tmp_path / "script"
    script.write_text("\n".join(script_of(made, 1, python=str(python), images={"x": "y.sif"})))

    def execute(digest: str, too_old: str) -> tuple[int, str]:
        done = subprocess.run(
            ["bash", script, "0", run_dir, digest],
            env=clean_environment(tmp_path, {"SLURM_ARRAY_TASK_ID": "0", "TOO_OLD": too_old}),
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stderr

    digest = hashlib.sha256(b"worker").hexdigest()
    status, said = execute(digest, "1")
    assert (status, "is no Python 3.10 or newer" in said) == (3, True)
    assert execute("0" * 64, "0")[0] == 2
    assert not (tmp_path / "python.called").exists()
    assert execute(digest, "0") == (0, "")
    worker = [f"{run_dir}/oe-run-task.pyz", "--run_dir", str(run_dir), "--shard", "1"]
    assert (tmp_path / "python.called").read_text().splitlines() == worker


def test_a_second_stage_copies_no_model_to_its_node() -> None:
    made, _ = plan([row("acme/a", "problems")])
    first, second = (script_of(made, position, stage_dir="$LOCAL_SSD") for position in (0, 1))
    assert "LOCAL_SSD" in "\n".join(first)
    assert "LOCAL_SSD" not in "\n".join(second)


ENDS = """#!/bin/bash
if [[ $1 == -c ]]; then exit 0; fi
[[ ${!#} == 0 ]] && exit "$FIRST"
exit "$OTHER"
"""


@pytest.mark.parametrize(
    ("first", "other", "expected"),
    [(0, 0, 0), (0, 1, 0), (1, 0, 0), (3, 0, 0), (1, 3, 3), (0, 75, 75)],
)
def test_a_node_is_followed_if_one_of_its_workers_has_left_something(
    tmp_path: Path, first: int, other: int, expected: int
) -> None:
    python = tmp_path / "python"
    python.write_text(ENDS)
    python.chmod(0o755)
    (tmp_path / "slurm_logs").mkdir()
    (tmp_path / "run.json").touch()
    made, _ = plan([row(f"acme/{name}", "problems") for name in "ab"], whole_node=True)
    given = Cluster({**SETTINGS, "whole_node": True, "python": str(python)}, {})
    array = dataclasses.replace(made.arrays[0], workers=2, gpus=1)
    frame = ScriptFrame(1, is_outside=True, is_followed=True)
    (tmp_path / "script").write_text(render_script(given, tmp_path, array, frame=frame))
    ends = {"FIRST": str(first), "OTHER": str(other), "CUDA_VISIBLE_DEVICES": "0,1"}
    done = subprocess.run(
        ["bash", tmp_path / "script", "0", tmp_path],
        env=clean_environment(tmp_path, {"SLURM_ARRAY_TASK_ID": "0", **ends}),
        capture_output=True,
        check=False,
    )
    assert done.returncode == expected


def test_a_run_records_the_images_of_all_stages(run: Run, tmp_path: Path) -> None:
    env = install_toy(tmp_path / "plugin")
    for name in ("first.sif", "second.sif"):
        (tmp_path / name).write_text(name)
    images = {"toy": "first.sif", "toy-evaluate": "second.sif"}

    def render(**given: str) -> dict[str, Any]:
        options = [f"--set=images.{name}={image}" for name, image in given.items()]
        options += ["--set=partition=gpus", f"--set=eval_base_dir={tmp_path}"]
        manifest = f"{HEADER}acme/a,two,,toy\nacme/a,one,,toy\n"
        done = run("oe-render", "--cluster=slurm", *options, stdin=manifest, env=env)
        record: dict[str, Any] = json.loads(done.stdout)
        return record

    both = render(**images)
    assert [(image["eval_suite"], Path(image["path"]).name) for image in both["images"]] == [
        ("toy", "first.sif"),
        ("toy-evaluate", "second.sif"),
    ]
    assert all(image["sha256"] for image in both["images"])
    assert [array.get("follows") for array in both["arrays"]] == [None, 0]
    # One image for both stages is described once.
    (image,) = render(toy="first.sif")["images"]
    assert image["eval_suite"] == "toy"
    script = Path(both["run_dir"], "submit_evals-evaluate.sbatch").read_text()
    assert ".sif" not in script
    dry = run(
        *("oe-render", "--dry_run", "--cluster=slurm", "--set=partition=gpus"),
        *(f"--set=eval_base_dir={tmp_path}", "--set=images.toy=first.sif"),
        stdin=f"{HEADER}acme/a,two,,toy\n",
        env=env,
    )
    assert "shards 1: second stage, models: 1, rows: 1, about " in dry.stderr
    assert "-evaluate.sbatch: jobs: 1, each after that of submit_evals.sbatch, " in dry.stderr
    assert "no cpu_partition is set: jobs that need no GPU are for gpus, too" in dry.stderr
    assert dry.stdout.count("#!/bin/bash") == 2
    refused = run(
        *("oe-render", "--cluster=slurm", f"--set=eval_base_dir={tmp_path}"),
        *("--set=images.toy=first.sif", "--set=images.toy-evaluate=none.sif"),
        stdin=f"{HEADER}acme/a,two,,toy\n",
        env=env,
        status=3,
    )
    assert "none.sif: no such image; set images_directory or images.toy-evaluate" in refused.stderr
