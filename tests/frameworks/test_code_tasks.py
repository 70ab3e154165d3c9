"""Tasks whose answers are programs: recorded answers are scored elsewhere, to the last digit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from oellm.frameworks.interface import NotPermittedError
from oellm.frameworks.lm_eval.catalog.task_index import TaskIndices
from oellm.frameworks.lm_eval.catalog.task_managers import TaskManagers
from oellm.frameworks.lm_eval.code_tasks.known_names import CODE_TASKS
from oellm.frameworks.lm_eval.code_tasks.recorded_answers import RecordedModel
from oellm.frameworks.lm_eval.code_tasks.replay import read_evaluation, replay
from oellm.frameworks.lm_eval.evaluator import LmEvalEvaluator
from oellm.frameworks.lm_eval.messages import Call, CallReply, Handle, Usage
from oellm.frameworks.lm_eval.program import create_program
from oellm.frameworks.program import Place
from oellm.frameworks.stages import EVALUATE, GENERATE
from oellm.manifest.rows import Row
from support.lm_eval_handles import make_handle

CODE = """
import datasets
import evaluate
from pathlib import Path

# As the code of humaneval does.
metric = evaluate.load(str(Path(__file__).with_name("code_eval")))
metric.compute(predictions=[["a program"]], references=["a test"])


def load(**_):
    rows = [{"text": f"n = {n}", "right": n % 3} for n in range(9)]
    return datasets.DatasetDict({"test": datasets.Dataset.from_list(rows)})


def score(doc, results):
    Path(__file__).with_name("SCORED").touch()
    values = {}
    exec(results[0], values)
    return {"passed": float(values["n"] % 3 == doc["right"])}
"""
TASK = """
task: programs
unsafe_code: true
custom_dataset: !function programs.load
output_type: generate_until
test_split: test
doc_to_text: "{{text}}"
doc_to_target: "{{right}}"
process_results: !function programs.score
generation_kwargs: {max_gen_toks: 4, until: ["."], do_sample: SAMPLED, temperature: 0.5}
repeats: 2
metadata: {version: 1.0}
metric_list:
  - metric: passed
    aggregation: mean
    higher_is_better: true
"""


class _Model:
    """A model that answers the number of the request."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def wait_for_model(self) -> Handle:
        return make_handle()

    def request_reply(self, call: Call, is_last: bool) -> CallReply:
        assert is_last or not call.keys
        if not call.keys:
            return CallReply(f"<{call.arguments[0]}>", Usage(), {}, environment="", generators=b"")
        self.calls.append(call)
        answers = [f"n = {place // 4}" for place in range(len(call.arguments))]
        usage = Usage(seconds=2.0, requests=len(answers), batch_size=4)
        return CallReply(answers, usage, {0: 4}, environment="a machine", generators=b"")


METRIC = """
import datasets
import evaluate
from pathlib import Path


class CodeEval(evaluate.Metric):
    def _info(self):
        features = {
            "predictions": datasets.Sequence(datasets.Value("string")),
            "references": datasets.Value("string"),
        }
        return evaluate.MetricInfo(
            description="", citation="", inputs_description="", features=datasets.Features(features)
        )

    def _compute(self, predictions, references):
        Path("TASKS", "RUN").touch()
        return {"pass@1": 1.0}, {}
"""


@pytest.fixture(params=["true", "false"])
def row(tmp_path: Path, request: pytest.FixtureRequest) -> Row:
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "programs.py").write_text(CODE)
    (tasks / "code_eval").mkdir()
    (tasks / "code_eval" / "code_eval.py").write_text(METRIC.replace("TASKS", str(tasks)))
    (tasks / "programs.yaml").write_text(TASK.replace("SAMPLED", request.param))
    cells = {"model_path": "acme/coder", "task_path": "programs", "n_shot": "0"}
    return Row({**cells, "include_path": str(tasks), "eval_id": "0" * 16})


@pytest.mark.slow
def test_a_score_of_recorded_answers_is_that_of_one_go(row: Row, tmp_path: Path) -> None:
    tasks = Path(row["include_path"])
    whole = LmEvalEvaluator(print, runs_model_code=True)
    whole.prepare([row])
    expected = whole.evaluate(row, _Model(), 100)
    (tasks / "SCORED").unlink()

    generated = tmp_path / "generate"
    generated.mkdir()
    model = _Model()
    generation = LmEvalEvaluator(print).generate(row, model, generated)
    assert not (tasks / "SCORED").exists()
    assert generation.contents == expected.contents
    assert generation.environment == expected.environment
    assert generation.usage._replace(documents_per_s=None) == expected.usage._replace(
        documents_per_s=None
    )

    output = tmp_path / "evaluate"
    output.mkdir()
    replay(row, generated, output, bootstrap_iters=100, log=print)
    (_, stage) = create_program().stages(row)
    create_program().check_output(row, stage, output)
    found = create_program().evaluation(row, {GENERATE: generated, EVALUATE: output})
    assert found.scores == expected.scores
    assert 0 < found.scores[0].value < 1
    assert found.tasks == expected.tasks
    assert found.contents == expected.contents
    assert found.environment == expected.environment
    assert found.provenance["model"] == expected.provenance["model"]
    for key in ("n-samples", "versions", "configs", "n-shot", "task_hashes", "results"):
        assert found.native[key] == json.loads(json.dumps(expected.native[key])), key


@pytest.mark.slow
def test_what_a_task_tries_out_while_it_is_loaded_runs_no_program(row: Row, tmp_path: Path) -> None:
    generated = tmp_path / "generate"
    generated.mkdir()
    LmEvalEvaluator(print).generate(row, _Model(), generated)
    assert not Path(row["include_path"], "RUN").exists()


@pytest.mark.slow
def test_answers_to_other_prompts_are_refused(row: Row, tmp_path: Path) -> None:
    generated = tmp_path / "generate"
    generated.mkdir()
    evaluator = LmEvalEvaluator(print)
    evaluator.prepare([row])
    evaluator.generate(row, _Model(), generated)
    yaml = Path(row["include_path"], "programs.yaml")
    yaml.write_text(yaml.read_text().replace("{{text}}", "{{text}}!"))
    with pytest.raises(ValueError, match="18 of 18 prompts are not those that the model has"):
        replay(row, generated, tmp_path, bootstrap_iters=0, log=print)
    environment = RecordedModel(generated).environment
    assert (environment.backend, environment.dtype) == ("hf", "bfloat16")
    assert environment.hardware == "1 × H200"
    (model,) = generated.glob("model.json")
    model.write_text(model.read_text()[:-20])
    with pytest.raises(ValueError, match=r"unexpected|Expecting"):
        RecordedModel(generated)
    with pytest.raises(OSError, match=r"evaluation\.json"):
        read_evaluation(tmp_path)


@pytest.mark.slow
def test_a_row_of_such_a_task_is_not_scored_beside_the_model(row: Row) -> None:
    evaluator = LmEvalEvaluator(print)
    evaluator.prepare([row])
    client: Any = None
    with pytest.raises(NotPermittedError, match="programs runs code that the model wrote"):
        evaluator.evaluate(row, client, 0)
    assert [stage.name for stage in create_program().stages(row)] == [GENERATE, EVALUATE]
    # What was planned with two stages keeps them where lm-eval does not know the task.
    unknown = row.with_cells(task_path="no_such_task", include_path="")
    assert [stage.name for stage in create_program().stages(unknown)] == [EVALUATE]
    planned = unknown.with_cells(evaluate_shard="3")
    assert [stage.name for stage in create_program().stages(planned)] == [GENERATE, EVALUATE]


@pytest.mark.slow
def test_the_sandbox_has_the_trees_of_sources(
    row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its cache has none of them, so the program gets their directories."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    tree = tmp_path / "hf" / "oellm" / "sources" / "git" / commit
    tree.parent.mkdir(parents=True)
    Path(row["include_path"]).rename(tree)
    empty = tmp_path / "empty"
    empty.mkdir()
    pinned = row.with_cells(include_path=f"{empty}:git+https://example.org/r@{commit}")
    program = create_program()
    (_, stage) = program.stages(pinned)
    place = Place("python3", "/out", "/private", own="/own", model="", inputs={"k": "/in"})
    command = program.command([pinned], stage, place)
    assert {str(tree), str(empty)} <= set(command.reads)
    assert json.loads(command.files["row.json"])["include_path"] == f"{empty}:{tree}"


@pytest.mark.slow
def test_the_list_of_code_tasks_is_that_of_lm_eval() -> None:
    managers = TaskManagers(TaskIndices({}, print))
    managers.require("arc_easy", "")
    index = TaskIndices({}, print).shipped()
    # Looking at all 14,000 takes a minute; other tasks have no such word in their files.
    suspects = [
        name
        for name, entry in index.entries.items()
        if not entry.path or "unsafe_code" in Path(index.root, entry.path).read_text()
    ]
    found = {name for name in {*suspects, *CODE_TASKS} if managers.unsafe_tasks(name, "")}
    assert found == CODE_TASKS
