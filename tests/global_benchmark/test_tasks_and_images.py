"""The tasks of Global Benchmarks, the rows and images that they stand for, and their results."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from oellm import frameworks
from oellm.clusters.cluster import Cluster
from oellm.errors import MachineError, UsageError
from oellm.frameworks.bigcode_eval import definitions
from oellm.global_benchmark import benchmark_tasks, framework_images, manifest_rows
from oellm.global_benchmark.benchmark_tasks import MODEL, SETTINGS, TASK, Sampling, find_task
from oellm.global_benchmark.config_file import default_config
from oellm.global_benchmark.result_file import results_of
from oellm.global_benchmark.run_cluster import require_environments
from oellm.images.definitions import containers_directory, definition_names
from oellm.metrics.records import MetricRecord

DRAWN = {suite: [Sampling(0.2, 20), Sampling(0, 1)] for suite in ("bigcode_eval", "bigcodebench")}


def rows(*names: str, cells: tuple[str, ...] = (), **images: str) -> list[dict[str, str]]:
    """Return the cells of the rows of tasks on a cluster with some images."""
    made = manifest_rows.make_rows(
        manifest_rows.GivenModel("acme/tiny,revision=main", default_config()),
        [find_task(name) for name in names],
        samplings=DRAWN,
        cells=[manifest_rows.parse_cell(text) for text in cells],
        cluster=Cluster({"images": images}, {}),
        log=lambda _: None,
    )
    return [{name: text for name, text in row.cells.items() if text} for row in made]


def test_the_41_tasks_are_tasks_of_frameworks() -> None:
    tasks = benchmark_tasks.known_tasks()
    assert len(tasks) == 41
    suites = {each.eval_suite for each in tasks.values()}
    names = {suite: set(frameworks.list_task_names(suite, lambda _: None)) for suite in suites}
    for task in tasks.values():
        assert set(task.tasks.values()) <= names[task.eval_suite], task
    told = [name for name, task in tasks.items() if benchmark_tasks.find_obstacle(task)]
    assert told == [name for name in tasks if definitions.find_obstacle(name)]
    assert {"multiple-cljcpp", "multiple-mlpl", "apps-interview"} <= set(told)


def test_rows_are_what_global_benchmarks_ran() -> None:
    (row,) = rows("mmlu")
    assert row.pop(SETTINGS) == "{}"
    assert row == {
        "model_path": "acme/tiny,revision=main",
        "task_path": "mmlu",
        "eval_suite": "lm_eval",
        "backend": "vllm",
        "model_args": "gpu_memory_utilization=0.9",
        "batch_size": "auto",
        "log_samples": "true",
        TASK: "mmlu",
        MODEL: "acme/tiny,revision=main",
    }
    plain, chat = rows("arc_easy", "arc_easy_chat")
    assert {**plain, "apply_chat_template": "true", TASK: "arc_easy_chat"} == chat
    made = rows("big_code_bench_complete", "multiple-py")
    assert [(row["task_path"], row["gen_kwargs"], row[SETTINGS]) for row in made] == [
        (task, kwargs, f'{{"temperature":{temperature:g},"n_samples":{count}{subset}}}')
        for drawn, greedy, tasks in (
            (
                "n_samples=20,temperature=0.2",
                "n_samples=1,temperature=0",
                {
                    "bigcodebench-complete": ',"subset":"full"',
                    "bigcodebench-hard-complete": ',"subset":"hard"',
                },
            ),
            ("n_samples=20,temperature=0.2", "n_samples=1,do_sample=false", {"multiple-py": ""}),
        )
        for kwargs, temperature, count in ((drawn, 0.2, 20), (greedy, 0, 1))
        for task, subset in tasks.items()
    ]


def test_cells_of_the_command_line_count_for_their_framework() -> None:
    given = ("limit=12", "lm_eval.model_args=max_length=99", "bigcode_eval.gen_kwargs=top_p=1")
    lm, code, _ = rows("mmlu", "multiple-py", cells=given)
    assert (lm["limit"], lm["model_args"]) == ("12", "gpu_memory_utilization=0.9,max_length=99")
    assert code["gen_kwargs"] == "n_samples=20,temperature=0.2,top_p=1"
    (other,) = rows("mmlu", cells=("lm_eval.backend=hf",))
    assert (other["backend"], other.get("model_args")) == ("hf", None)
    (without,) = rows("mmlu", lm_eval="/images/lm_eval-cpu.sif")
    assert not {"backend", "model_args"} & without.keys()
    for text, told in (
        ("limt=1", "--cell: unknown column 'limt', did you mean limit?"),
        ("lm_evl.limit=1", "--cell: unknown framework 'lm_evl', did you mean lm_eval?"),
        ("limit", "--cell: expected COLUMN=VALUE"),
    ):
        with pytest.raises(UsageError, match=told):
            manifest_rows.parse_cell(text)


def test_what_cannot_be_run_is_refused_with_its_name() -> None:
    with pytest.raises(UsageError, match=r"apps-interview: .* pyext"):
        rows("apps-interview")
    with pytest.raises(UsageError, match="unknown task 'multiple-javs', did you mean multiple-ja"):
        find_task("multiple-javs")
    with pytest.raises(UsageError, match=r"has no task 'humanval' .* did you mean humaneval"):
        rows("evalplus:humanval")
    with pytest.raises(UsageError, match=r"multiple-py: .*limit"):
        rows("multiple-py", cells=("limit=none",))


def test_pairs_are_written_in_several_ways() -> None:
    for text in ("0.2,20", "(0.2, 20)", "[(0.2, 20)]", " (.2,20) "):
        assert benchmark_tasks.parse_samplings(text) == [Sampling(0.2, 20)]
    assert benchmark_tasks.parse_samplings("[(0.2, 20), (0, 1)]") == DRAWN["bigcode_eval"]
    for text in ("", "0.2", "(0.2, 0)", "(0.2, 20) x", "(a, 1)"):
        with pytest.raises(ValueError, match="expected"):
            benchmark_tasks.parse_samplings(text)


def test_definitions_and_images_are_of_the_kind_of_the_machine(tmp_path: Path) -> None:
    known = definition_names(containers_directory())
    candidates = benchmark_tasks.image_candidates().values()
    assert {name for kinds in candidates for each in kinds.values() for name in each} <= set(known)
    names = list(benchmark_tasks.image_definitions())
    found = framework_images.expand_definitions([*names, "lighteval-cpu"], known, "cpu")
    assert {"bigcode_eval-cpu", "bigcodebench-evaluate-cpu", "lighteval-cpu"} <= set(found)
    assert set(found) <= set(known)
    with pytest.raises(UsageError, match="unknown definition 'big_code', did you mean big_code_b"):
        framework_images.expand_definitions(["big_code"], known, "cpu")
    with pytest.raises(UsageError, match="big_code_bench: no definition makes bigcodebench for ro"):
        framework_images.expand_definitions(["big_code_bench"], known, "rocm")
    for name in ("bigcode_eval-cpu", "vllm-cpu-cpu", "bigcode_eval-cuda"):
        tmp_path.joinpath(f"{name}.sif").touch()
    images = framework_images.find_images(tmp_path, "cuda")
    assert os.path.basename(images["bigcode_eval"]) == "bigcode_eval-cuda.sif"
    assert os.path.basename(images["bigcode_eval-evaluate"]) == "bigcode_eval-cpu.sif"
    assert os.path.basename(images["bigcodebench"]) == "vllm-cpu-cpu.sif"
    on_cpu = framework_images.find_images(tmp_path, "cpu")
    assert os.path.basename(on_cpu["bigcode_eval"]) == "bigcode_eval-cpu.sif"


def test_a_missing_image_is_named_with_what_makes_it(tmp_path: Path) -> None:
    (tmp_path / "lm.sif").touch()
    settings = {"images_directory": str(tmp_path), "images": {"lm_eval": "lm.sif"}}
    require_environments(Cluster(settings, {}), [find_task("mmlu")])
    told = "no image of bigcode_eval in .*; `global-benchmark setup --definitions big_code_eval"
    told += ".*or name a virtual environment: setting venv"
    with pytest.raises(MachineError, match=told):
        require_environments(Cluster(settings, {}), [find_task("mmlu"), find_task("multiple-py")])
    require_environments(Cluster({**settings, "venv": "/v"}, {}), [find_task("multiple-py")])
    # A known cluster has an image, but not in this directory.
    (tmp_path / "lm.sif").unlink()
    with pytest.raises(MachineError, match="no image of lm_eval"):
        require_environments(Cluster(settings, {}), [find_task("mmlu")])


def record(task: str, value: float, **more: Any) -> MetricRecord:
    extra = {MODEL: "m", TASK: "mmlu", SETTINGS: "{}"}
    fields = {"eval_id": "1", "eval_suite": "lm_eval", "metric": "acc", "filter": "none", **more}
    return MetricRecord(task=task, value=value, extra=extra, **fields)


def test_the_results_of_a_group_are_its_own() -> None:
    members = [record(f"mmlu_{name}", 0.5, group="mmlu") for name in ("law", "art")]
    whole = record("mmlu", 0.25, stderr=0.5)
    expected = {"model": "m", "mmlu": [{"acc,none": 0.25, "acc_stderr,none": 0.5}]}
    assert results_of([*members, whole]) == expected
    entries = results_of([*members, record("mmlu", 0.1, aggregate="derived")])["mmlu"]
    assert entries == [{"task": f"mmlu_{name}", "acc,none": 0.5} for name in ("law", "art")]
