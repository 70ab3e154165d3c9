"""bigcode as real processes: both stages with a known score, and what happens if one ends early."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from oellm.frameworks.bigcode_eval.definitions import find_obstacle, read_definitions
from support.frameworks import KNOWN, PROBLEMS, framework_environment, reciting_model
from support.program_runs import ProgramRun, human_eval_cache
from support.toy_rows import records

pytestmark = pytest.mark.slow

COLUMNS = "model_path,task_path,n_shot,eval_suite,limit,gen_kwargs,log_samples"
GREEDY = f"{PROBLEMS},do_sample=false"


@pytest.fixture
def run(tmp_path: Path) -> ProgramRun:
    return ProgramRun(tmp_path, {"bigcode_eval": "bigcode_eval"}, human_eval_cache("bigcode_eval"))


def manifest(*rows: str) -> str:
    """Return a manifest with the texts of n_shot, and of limit and what follows it, of each row."""
    begin = f"{reciting_model()},humaneval"
    lines = (row.partition("|") for row in rows)
    return (
        "\n".join([COLUMNS, *(f"{begin},{n},bigcode_eval,{rest}" for n, _, rest in lines)]) + "\n"
    )


def stored(run: ProgramRun) -> list[str]:
    """Return the files of first outputs."""
    paths = (run.home / "out" / "stages").rglob("*")
    return sorted(path.name for path in paths if path.is_file())


def test_a_known_score_in_spite_of_ends_between_and_inside_the_stages(run: ProgramRun) -> None:
    rows = manifest(f"|{GREEDY},")
    status, told = run.evaluate_until(rows, f"/{PROBLEMS} [")
    assert (status, stored(run)) == (75, []), told
    status, told = run.evaluate_until(rows, "evaluation only mode", "--load_generations_path")
    assert status == 1, told
    (failure,) = records(run.home / "out", "failures").values()
    assert failure["failure"]["stage"] == "evaluate"
    assert stored(run) == ["generations_humaneval.json", "stage.json", "version.txt"]
    # Rows that differ in what the generation does not see share it.
    told = run.evaluate(rows + manifest(f"0|{GREEDY},true").partition("\n")[2])
    assert "generate begins" not in told
    assert "2 rows evaluated" in told
    paths = sorted((run.home / "out" / "results").glob("*.json"))
    for path in paths:
        ours = records(path.parent.parent)["humaneval"]
        (metric,) = ours["metrics"]
        assert metric["value"] == pytest.approx(KNOWN / PROBLEMS)
        assert metric["n_samples"] == PROBLEMS
        assert ours["environment"]["framework_version"].startswith("nvidia-bigcode-eval ")
    assert len(list((run.home / "out" / "samples").glob("*.jsonl"))) == 1
    assert "0 rows evaluated, 1 already had results" in run.evaluate(rows)


def test_samples_with_a_temperature_and_a_first_output_that_was_damaged(run: ProgramRun) -> None:
    rows = manifest('|2,"n_samples=2,temperature=0.4",')
    run.evaluate(rows)
    (record,) = records(run.home / "out").values()
    assert [metric["value"] for metric in record["metrics"]] == [1.0]
    assert record["usage"]["requests"] == 4
    (generations,) = (run.home / "out" / "stages").rglob("generations_humaneval.json")
    generations.write_text('[["def f(): pass"]]')
    for result in (run.home / "out" / "results").glob("*.json"):
        result.unlink()
    told = run.evaluate(rows)
    assert "generate begins" in told
    assert "pass@1 1.0000" in told


def test_a_data_set_that_is_missing_is_named(run: ProgramRun, tmp_path: Path) -> None:
    told = run.evaluate(manifest(f"|{GREEDY},"), status=1, HF_HOME=str(tmp_path / "empty"))
    assert f"data set openai_humaneval is not in the cache {tmp_path}/empty/datasets" in told


def test_the_package_has_all_tasks_that_can_be_run() -> None:
    python = framework_environment("bigcode_eval") / "bin" / "python"
    ask = "import json\nfrom bigcode_eval.tasks import ALL_TASKS\nprint(json.dumps(ALL_TASKS))"
    done = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True)
    runnable = {name for name in read_definitions() if not find_obstacle(name)}
    assert runnable <= set(json.loads(done.stdout.splitlines()[-1]))


def test_nothing_starts_for_a_row_with_a_bad_setting(run: ProgramRun) -> None:
    told = run.evaluate(manifest(f"5|{GREEDY},", f"|{GREEDY},"), status=2)
    assert "n_shot: bigcode_eval has no setting for it: humaneval always has 0" in told
    assert "begins" not in told
