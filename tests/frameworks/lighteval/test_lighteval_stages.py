"""lighteval as a real process: many rows in one start, each with its own score or failure."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support.belebele_rows import LANGUAGE
from support.frameworks import framework_environment, reciting_model
from support.lighteval_cache import FLORES, MISSING, SHORT, lighteval_cache, write_punkt
from support.program_runs import ProgramRun
from support.toy_rows import records

pytestmark = pytest.mark.slow

TASK = f"belebele_{LANGUAGE}_cf"


@pytest.fixture
def run(tmp_path: Path) -> ProgramRun:
    return ProgramRun(tmp_path, {"lighteval": "lighteval"}, lighteval_cache())


def manifest(*rows: str) -> str:
    """Return a manifest with rows of the reciting model: task, shots, limit, log_samples."""
    columns = "model_path,eval_suite,model_args,batch_size,task_path,n_shot,limit,log_samples"
    begin = f"{reciting_model()},lighteval,max_length=1024,4"
    return "\n".join([columns, *(f"{begin},{row}" for row in rows)]) + "\n"


def scores(record: dict[str, Any]) -> dict[str, float]:
    return {metric["metric"]: metric["value"] for metric in record["metrics"]}


def command_scores(home: Path, task: str) -> dict[str, float]:
    """Return the scores that lighteval's own command gives, with their errors."""
    model = home / "model"
    model.mkdir(parents=True)
    for path in reciting_model().iterdir():
        (model / path.name).symlink_to(path)
    (home / "cache").mkdir()
    subprocess.run(
        [
            *(framework_environment("lighteval") / "bin" / "lighteval", "accelerate"),
            f"model_name={model},dtype=float32,batch_size=4,max_length=1024",
            *(task, "--load-tasks-multilingual", "--output-dir", home / "native"),
        ],
        env={
            **lighteval_cache(),
            "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_OFFLINE": "1",
            "PATH": "/usr/bin:/bin",
            "HOME": str(home / "cache"),
            "TMPDIR": str(home / "cache"),
        },
        check=True,
        capture_output=True,
        timeout=600,
    )
    (path,) = (home / "native").rglob("results_*.json")
    found: dict[str, float] = json.loads(path.read_bytes())["results"][task]
    return found


def test_rows_share_a_start_and_each_has_its_own_end(run: ProgramRun, tmp_path: Path) -> None:
    before = sorted(path.name for path in reciting_model().iterdir())
    rows = manifest(
        f"{TASK},0,,true",
        f"belebele_{SHORT}_cf,0,,",
        f"belebele_{MISSING}_cf,0,,",
        f"{TASK},2,0.5,",
        f"flores200:{FLORES},0,2,",
    )
    told = run.evaluate(rows, status=1)
    assert told.count(": evaluate begins") == 1
    assert "2 rows evaluated, 0 already had results, 3 failed" in told
    failures = records(run.home / "out", "failures")
    expected = {
        f"belebele_{SHORT}_cf": "lost .* of the 4 choices of a question",
        f"belebele_{MISSING}_cf": f"Couldn't find cache for .*{MISSING}.*; run oe-fetch",
        f"flores200:{FLORES}": "LookupError: punkt_tab of NLTK not in the cache .*; run oe-fetch",
    }
    assert failures.keys() == expected.keys()
    for task, text in expected.items():
        assert re.search(text, failures[task]["failure"]["message"])
    found = {
        path.stem: json.loads(path.read_bytes())["oellm"]
        for path in (run.home / "out" / "results").glob("*.json")
    }
    by_shots = {record["row"]["n_shot"]: record for record in found.values()}
    assert by_shots["2"]["usage"]["documents"] == 6
    native = command_scores(tmp_path / "own", f"{TASK}|0")
    metrics = by_shots["0"]["metrics"]
    assert scores(by_shots["0"]) == {k: v for k, v in native.items() if "stderr" not in k}
    assert {m["metric"]: m["stderr"] for m in metrics} == {
        name.removesuffix("_stderr"): v for name, v in native.items() if "stderr" in name
    }
    assert len(list((run.home / "out" / "samples").glob("*.jsonl"))) == 1
    # No answers are left beside the model, or anywhere else.
    assert sorted(path.name for path in reciting_model().iterdir()) == before


def test_rows_of_an_interrupted_start_are_kept_and_no_answers_are(run: ProgramRun) -> None:
    rows = manifest(f"{TASK},0,,", f"{TASK},1,,", f"{TASK},2,,")
    status, told = run.evaluate_until(rows, f"oellm: {TASK}|0 is evaluated")
    assert status == 75, told
    kept = records(run.home / "out")
    assert kept
    assert not (run.home / "out" / "failures").exists()
    told = run.evaluate(rows)
    assert "0 failed" in told
    assert f"{TASK}|0 is evaluated" not in told
    # With other data, the same requests have other answers.
    (path,) = (
        path
        for path in (run.home / "out" / "results").glob("*.json")
        if json.loads(path.read_bytes())["oellm"]["row"]["n_shot"] == "0"
    )
    before = scores(json.loads(path.read_bytes())["oellm"])
    path.unlink()
    run.evaluate(rows, **lighteval_cache(right="2"))
    assert scores(json.loads(path.read_bytes())["oellm"]) != before


def test_flores_with_its_tokenizer_and_a_model_that_cannot_be_loaded(
    run: ProgramRun, tmp_path: Path
) -> None:
    hf_home = tmp_path / "hf"
    hf_home.mkdir()
    for path in Path(lighteval_cache()["HF_HOME"]).iterdir():
        (hf_home / path.name).symlink_to(path)
    write_punkt(hf_home / "nltk_data")
    run.evaluate(manifest(f"flores200:{FLORES},0,2,"), HF_HOME=str(hf_home))
    (record,) = records(run.home / "out").values()
    assert scores(record).keys() == {"chrf++", "bleu", "bleu_1", "bleu_4"}
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text('{"model_type": "llama", "architectures": ["Llama"]}')
    rows = manifest(f"{TASK},0,,", f"{TASK},1,,").replace(str(reciting_model()), str(broken))
    told = run.evaluate(rows, status=1)
    assert "2 failed" in told
    (failure,) = records(run.home / "out", "failures").values()
    assert failure["failure"]["class"] == "ProgramFailed"


@pytest.mark.cluster
def test_in_a_container_a_start_is_interrupted_and_goes_on(tmp_path: Path) -> None:
    run = ProgramRun(tmp_path, {"lighteval": "lighteval"}, lighteval_cache(), in_images=True)
    rows = manifest(f"{TASK},0,,", f"{TASK},1,,")
    status, told = run.evaluate_until(rows, f"oellm: {TASK}|0 is evaluated")
    assert status == 75, told
    assert "1 rows evaluated" in told
    told = run.evaluate(rows)
    assert "1 rows evaluated, 1 already had results, 0 failed" in told
    assert f"{TASK}|0 is evaluated" not in told
