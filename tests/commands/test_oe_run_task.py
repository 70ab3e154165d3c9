"""oe-run-task with real rows on a real, tiny model: failures, files, and equal scores."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.processes import DEMO_TASKS, Run, clean_environment

pytestmark = pytest.mark.slow

COLUMNS = (
    *("model_path", "task_path", "n_shot", "limit", "include_path", "batch_size", "log_samples"),
    *("apply_chat_template", "gen_kwargs", "seed", "tp", "trust_remote_code", "model_args"),
    *("confirm_run_unsafe_code", "backend", "fewshot_as_multiturn", "system_instruction", "note"),
)

FIXED_SHOTS = """\
task: fixed_shots
custom_dataset: !function local_data.load
dataset_kwargs: {file: oellm_choice.jsonl}
output_type: multiple_choice
num_fewshot: 0
fewshot_split: fewshot
test_split: test
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{answer}}"
metric_list: [{metric: acc}]
"""

# Like a library that includes the request it sent in its error.
LEAK = """\
import os


def load(**_):
    raise PermissionError(f"403 for Bearer {os.environ['HF_TOKEN']}")
"""
TOKEN = "hf_" + "NotARealToken" * 3


def manifest(*rows: dict[str, object]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


class Session:
    """The outcome of one process of oe-run-task: lines, directory and messages."""

    def __init__(self, done: subprocess.CompletedProcess[str], directory: Path) -> None:
        self.status = done.returncode
        self.stderr = done.stderr
        self.directory = directory
        self.lines: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]

    def row(self, note: str) -> dict[str, Any]:
        (found,) = [line for line in self.lines if line["oellm"]["row"]["note"] == note]
        return found


@pytest.fixture(scope="module")
def evaluated(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Session:
    """Evaluate a manifest with rows of all kinds in one process."""
    home = tmp_path_factory.mktemp("session")
    tasks = home / "tasks"
    tasks.mkdir()
    for name in ("local_data.py", "oellm_choice.jsonl"):
        (tasks / name).symlink_to(DEMO_TASKS / name)
    (tasks / "fixed_shots.yaml").write_text(FIXED_SHOTS)
    executes = tasks / "executes.yaml"
    executes.write_text(FIXED_SHOTS.replace("fixed_shots", "executes") + "unsafe_code: true\n")
    (tasks / "leak.py").write_text(LEAK)
    leaks = tasks / "leaks.yaml"
    leaks.write_text(FIXED_SHOTS.replace("local_data", "leak").replace("fixed_shots", "leaks"))
    tiny = {"model_path": tiny_model, "n_shot": 0, "include_path": DEMO_TASKS}
    broken = {"model_path": "/no/such/model", "n_shot": 0, "include_path": DEMO_TASKS}
    text = manifest(
        {**tiny, "task_path": "oellm_choice", "note": "first"},
        {**broken, "task_path": "oellm_choice", "note": "no model"},
        {**tiny, "task_path": "oellm_chioce", "note": "no task"},
        {**tiny, "task_path": "oellm_choice", "n_shot": 2, "batch_size": 4, "note": "batch"},
        {**tiny, "task_path": "oellm_copy", "log_samples": "true", "note": "samples"},
        {**broken, "task_path": "oellm_copy", "note": "no model again"},
        {**tiny, "task_path": tasks / "fixed_shots.yaml", "n_shot": 3, "note": "fixed"},
        {
            **tiny,
            "task_path": "oellm_copy",
            "apply_chat_template": "true",
            "gen_kwargs": "max_gen_toks=2",
            "seed": "7",
            "note": "settings",
        },
        {**tiny, "task_path": executes, "note": "forbidden"},
        {
            **tiny,
            "task_path": executes,
            "limit": 3,
            "confirm_run_unsafe_code": "true",
            "note": "permitted",
        },
        {
            **tiny,
            "task_path": "oellm_copy",
            "model_args": '{"dtype": "bfloat16", "max_length": 64}',
            "trust_remote_code": "true",
            "gen_kwargs": '{"until": ["e", "a"], "max_gen_toks": 3}',
            "note": "arguments",
        },
        {**tiny, "task_path": "oellm_copy", "n_shot": 1, "tp": 64, "note": "split"},
        {**tiny, "task_path": leaks, "note": "leaks"},
    )
    done = subprocess.run(
        ["oe-run-task", "--output_dir", home / "out"],
        input=text,
        capture_output=True,
        text=True,
        # Launchers leave these behind; in a single process, lm-eval would hang or write nothing.
        env=clean_environment(
            home, {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "HF_TOKEN": TOKEN}
        ),
        cwd=home,
        check=False,
    )
    return Session(done, home / "out")


def test_every_row_gives_one_line_and_a_failing_row_the_status(evaluated: Session) -> None:
    assert evaluated.status == 1
    statuses = {line["oellm"]["row"]["note"]: line["oellm"]["status"] for line in evaluated.lines}
    done = ("first", "batch", "samples", "fixed", "settings", "permitted", "arguments")
    failed = ("no model", "no task", "no model again", "forbidden", "split", "leaks")
    assert statuses == {**dict.fromkeys(done, "done"), **dict.fromkeys(failed, "failed")}
    assert "oe-run-task: 7 rows evaluated, 0 already had results, 6 failed" in evaluated.stderr


def test_six_rows_of_one_model_load_it_once(evaluated: Session) -> None:
    records = [line["oellm"] for line in evaluated.lines if line["oellm"]["status"] == "done"]
    # Other arguments make another model.
    done = [record for record in records if not record["row"]["model_args"]]
    assert len({record["provenance"]["pid"] for record in done}) == 1
    loads = [record["timing"]["model_load_s"] for record in done]
    # Rows end in any order; the first row that asks waits for the model to load.
    assert sorted(loads)[:-1] == [0, 0, 0, 0, 0]
    assert max(loads) > 0
    assert all(record["timing"]["scoring_s"] > 0 for record in done)


def test_failures_are_recorded_with_their_reason(evaluated: Session) -> None:
    task = evaluated.row("no task")["oellm"]
    assert task["failure"]["message"] == (
        "task_path: lm-eval has no task, group or tag 'oellm_chioce', did you mean oellm_choice?"
    )
    model = evaluated.row("no model")["oellm"]["failure"]
    assert "/no/such/model" in model["message"]
    assert "Traceback" in model["traceback"]
    again = evaluated.row("no model again")["oellm"]["failure"]
    assert again["message"].startswith("the model did not load: ")
    kept = evaluated.directory / "failures" / f"{task['eval_id']}.json"
    assert json.loads(kept.read_text())["oellm"]["failure"]["attempts"] == 1


def test_tokens_are_in_no_file_and_no_message(evaluated: Session) -> None:
    failure = evaluated.row("leaks")["oellm"]["failure"]
    assert failure["message"] == "403 for Bearer [redacted]"
    files = [path for path in evaluated.directory.rglob("*") if path.is_file()]
    written = [path.read_text() for path in files]
    assert len(written) > 12
    assert not [
        text for text in (*written, evaluated.stderr, json.dumps(evaluated.lines)) if TOKEN in text
    ]


def test_a_result_file_is_the_line_and_native_at_top_level(evaluated: Session) -> None:
    line = evaluated.row("first")
    path = evaluated.directory / "results" / f"{line['oellm']['eval_id']}.json"
    assert json.loads(path.read_text()) == line
    assert line["results"]["oellm_choice"]["acc,none"] == line["oellm"]["metrics"][0]["value"]
    assert line["n-samples"]["oellm_choice"] == {"original": 20, "effective": 20}
    assert not list((evaluated.directory / "results").glob(".*"))


def test_columns_reach_the_framework(evaluated: Session) -> None:
    assert evaluated.row("first")["config"]["batch_size"] == 1
    assert evaluated.row("batch")["config"]["batch_size"] == 4
    assert evaluated.row("batch")["oellm"]["metrics"][0]["n_shot"] == 2
    settings = evaluated.row("settings")
    assert settings["config"]["fewshot_seed"] == 7
    assert settings["config"]["gen_kwargs"] == {"max_gen_toks": 2}
    plain, chat = evaluated.row("samples"), settings
    assert plain["task_hashes"] != chat["task_hashes"]


def test_arguments_reach_the_model_and_its_answers(evaluated: Session) -> None:
    config = evaluated.row("arguments")["config"]
    assert config["model_dtype"] == "torch.bfloat16"
    assert config["model_args"].endswith(",dtype=bfloat16,max_length=64,trust_remote_code=True")
    assert config["gen_kwargs"] == {"until": ["e", "a"], "max_gen_toks": 3}
    assert "trust_remote_code" not in evaluated.row("first")["config"]["model_args"]
    split = evaluated.row("split")["oellm"]["failure"]
    assert split["message"].startswith("the model did not load: tp: 64 GPUs are requested, ")


def test_code_that_a_model_wrote_runs_only_with_permission(evaluated: Session) -> None:
    forbidden = evaluated.row("forbidden")["oellm"]["failure"]
    assert "it needs a sandbox: set images.lm_eval-evaluate" in forbidden["message"]
    assert evaluated.row("permitted")["n-samples"]["executes"]["effective"] == 3


def test_samples_are_kept_where_they_were_asked_for(evaluated: Session) -> None:
    identity = evaluated.row("samples")["oellm"]["eval_id"]
    (path,) = (evaluated.directory / "samples").iterdir()
    assert path.name == f"{identity}.jsonl"
    samples = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(samples) == 10
    assert {sample["task"] for sample in samples} == {"oellm_copy"}
    assert all("words" in sample["doc"] and sample["resps"] for sample in samples)


def test_shots_that_a_task_fixes_are_told(evaluated: Session) -> None:
    fixed = evaluated.row("fixed")["oellm"]
    assert fixed["remarks"] == ["fixed_shots fixes its shots: 0 were used, 3 were asked for"]
    assert fixed["metrics"][0]["n_shot"] == 0
    assert "0 were used, 3 were asked for" in evaluated.stderr


def test_scores_are_those_of_the_lm_eval_command_line(
    run: Run, tiny_model: Path, tmp_path: Path
) -> None:
    tasks = ("oellm_choice", "oellm_copy", "oellm_prose")
    options = (f"--tasks={','.join(tasks)}", f"--include_path={DEMO_TASKS}")
    theirs = lm_eval_results(run, tiny_model, tmp_path / "theirs", *options)
    rows = [
        {"model_path": tiny_model, "task_path": task, "n_shot": 2, "include_path": DEMO_TASKS}
        for task in tasks
    ]
    done = run("oe-run-task", stdin=manifest(*rows))
    ours = {
        line["oellm"]["row"]["task_path"]: line
        for line in map(json.loads, done.stdout.splitlines())
    }
    for task in tasks:
        assert ours[task]["results"][task] == theirs["results"][task]
        assert ours[task]["task_hashes"][task] == theirs["task_hashes"][task]
        for key in ("versions", "n-shot", "n-samples", "higher_is_better"):
            assert ours[task][key][task] == theirs[key][task]


def test_sampled_texts_and_conversations_are_those_of_the_lm_eval_command_line(
    run: Run, tiny_model: Path, tmp_path: Path
) -> None:
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    for path in DEMO_TASKS.glob("*.*"):
        (tasks / path.name).symlink_to(path)
    # Two types of requests make two calls; the model may answer another row in between.
    (tasks / "both.yaml").write_text(
        "group: both\ntask: [oellm_choice, oellm_copy]\n"
        "aggregate_metric_list: [{metric: acc, weight_by_size: true}]\n"
    )
    sampling = "do_sample=true,temperature=0.8,top_k=20"
    group = {"task_path": "both", "batch_size": 4, "gen_kwargs": sampling, "note": "group"}
    chat = {
        "task_path": "oellm_copy",
        "apply_chat_template": "true",
        "fewshot_as_multiturn": "true",
        "system_instruction": "Be brief, and exact.",
        "note": "chat",
    }
    other = {"task_path": "oellm_copy", "gen_kwargs": sampling, "seed": 7, "note": "other"}
    again = {**group, "limit": 20, "note": "again"}
    common = {"model_path": tiny_model, "n_shot": 2, "include_path": tasks, "log_samples": "true"}
    rows = manifest(*({**common, **row} for row in (group, other, again, chat)))
    done = run("oe-run-task", "--output_dir", tmp_path / "ours", stdin=rows)
    ours = {
        line["oellm"]["row"]["note"]: line for line in map(json.loads, done.stdout.splitlines())
    }
    options = {
        "group": ("--tasks=both", "--batch_size=4", f"--gen_kwargs={sampling}"),
        "chat": (
            *("--tasks=oellm_copy", "--apply_chat_template", "--fewshot_as_multiturn=true"),
            "--system_instruction=Be brief, and exact.",
        ),
    }
    for name, given in options.items():
        include = f"--include_path={tasks}"
        theirs = lm_eval_results(run, tiny_model, tmp_path / name, include, *given)
        for key in ("results", "groups", "task_hashes", "n-samples", "n-shot"):
            assert ours[name].get(key) == theirs.get(key)
        (path,) = (tmp_path / name).rglob("samples_oellm_copy_*.jsonl")
        assert texts(tmp_path / "ours", ours[name]) == texts_of(path)
    assert ours["again"]["results"] == ours["group"]["results"]
    assert texts(tmp_path / "ours", ours["again"]) == texts(tmp_path / "ours", ours["group"])
    assert texts(tmp_path / "ours", ours["other"]) != texts(tmp_path / "ours", ours["group"])


def lm_eval_results(run: Run, model: Path, output: Path, *options: str) -> dict[str, Any]:
    """Run lm-eval's own command with two shots, and return its results file."""
    run(
        *(sys.executable, "-m", "lm_eval", "run", "--model=hf", f"--model_args=pretrained={model}"),
        *("--num_fewshot=2", f"--output_path={output}", "--log_samples", *options),
    )
    (path,) = output.rglob("results_*.json")
    results: dict[str, Any] = json.loads(path.read_text())
    return results


def texts(directory: Path, result: dict[str, Any]) -> dict[int, str]:
    return texts_of(directory / "samples" / f"{result['oellm']['eval_id']}.jsonl")


def texts_of(samples: Path) -> dict[int, str]:
    """Return what the model wrote for each document of oellm_copy."""
    documents = map(json.loads, samples.read_text().splitlines())
    return {each["doc_id"]: each["resps"][0][0] for each in documents if "words" in each["doc"]}


def test_what_is_wrong_on_stdin_is_told_before_anything_runs(run: Run) -> None:
    refused = run("oe-run-task", stdin="model_path,task_path,n_shot\na/b,t,five\n", status=2)
    assert refused.stderr == (
        "oe-run-task: stdin:2: n_shot: expected a non-negative integer, got 'five'\n"
    )
    homeless = run(
        "oe-run-task", stdin="model_path,task_path,n_shot,log_samples\na/b,t,5,true\n", status=2
    )
    assert "use --output_dir" in homeless.stderr
