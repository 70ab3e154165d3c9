"""lighteval as a real process: many rows in one start, each with its own score or failure."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from support.belebele_rows import LANGUAGE
from support.frameworks import KNOWN, PROBLEMS, reciting_model
from support.lighteval_cache import FLORES, MISSING, SHORT, lighteval_cache, write_punkt
from support.program_runs import ProgramRun
from support.toy_rows import records

pytestmark = pytest.mark.slow

TASK = f"belebele_{LANGUAGE}_cf"


def manifest(*rows: str) -> str:
    """Return a manifest with rows of the reciting model: task, shots, limit, log_samples."""
    columns = "model_path,eval_suite,model_args,batch_size,task_path,n_shot,limit,log_samples"
    begin = f"{reciting_model()},lighteval,max_length=1024,4"
    return "\n".join([columns, *(f"{begin},{row}" for row in rows)]) + "\n"


def scores(record: dict[str, Any]) -> dict[str, float]:
    return {metric["metric"]: metric["value"] for metric in record["metrics"]}


def with_punkt(directory: Path) -> dict[str, str]:
    """Return the variables for a cache that has a tokenizer, too."""
    directory.mkdir()
    for path in Path(lighteval_cache()["HF_HOME"]).iterdir():
        (directory / path.name).symlink_to(path)
    write_punkt(directory / "nltk_data")
    return {"HF_HOME": str(directory)}


def test_rows_share_a_start_and_each_has_its_own_end(tmp_path: Path) -> None:
    run = ProgramRun(tmp_path, {"lighteval": "lighteval"}, with_punkt(tmp_path / "hf"))
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
    assert "3 rows evaluated, 0 already had results, 2 failed" in told
    failures = records(run.home / "out", "failures")
    expected = {
        f"belebele_{SHORT}_cf": "lost .* of the 4 choices of a question",
        f"belebele_{MISSING}_cf": f"Couldn't find cache for .*{MISSING}.*; run oe-fetch",
    }
    assert failures.keys() == expected.keys()
    for task, text in expected.items():
        assert re.search(text, failures[task]["failure"]["message"])
    found = [
        json.loads(path.read_bytes())["oellm"]
        for path in (run.home / "out" / "results").glob("*.json")
    ]
    whole, half = sorted(
        (each for each in found if each["row"]["task_path"] == TASK),
        key=lambda record: str(record["row"]["n_shot"]),
    )
    # These are the scores that lighteval's own command gives.
    assert scores(whole)["acc_norm_token"] == pytest.approx(KNOWN / PROBLEMS)
    assert (whole["usage"]["documents"], half["usage"]["documents"]) == (PROBLEMS, PROBLEMS // 2)
    (flores,) = (each for each in found if each["row"]["task_path"].startswith("flores"))
    assert scores(flores).keys() == {"chrf++", "bleu", "bleu_1", "bleu_4"}
    assert len(list((run.home / "out" / "samples").glob("*.jsonl"))) == 1
    # No answers are left beside the model.
    assert sorted(path.name for path in reciting_model().iterdir()) == before


@pytest.mark.cluster
def test_rows_of_an_interrupted_start_are_kept_and_no_answers_are(tmp_path: Path) -> None:
    cache = with_punkt(tmp_path / "hf")
    run = ProgramRun(tmp_path, {"lighteval": "lighteval"}, cache, in_images=True)
    # Some seconds of rows come after the first.
    limits = range(1, PROBLEMS)
    rows = manifest(f"{TASK},0,,", *(f"{TASK},0,{n}," for n in limits), f"flores200:{FLORES},0,2,")
    status, told = run.evaluate_until(rows, f"oellm: {TASK}|0 is evaluated")
    assert (status, records(run.home / "out", "failures")) == (75, {}), told
    kept = results(run)
    assert kept[""]["acc_norm_token"] == pytest.approx(KNOWN / PROBLEMS)
    assert len(kept) < len(limits) + 2
    shutil.rmtree(run.home / "out" / "results")
    # With other data, the same requests have other answers.
    told = run.evaluate(rows, status=1, **lighteval_cache(right="2"))
    assert results(run)[""]["acc_norm_token"] != kept[""]["acc_norm_token"]
    assert "punkt_tab of NLTK not in the cache (NLTK_DATA); run oe-fetch" in told
    assert f"{len(limits) + 1} rows evaluated, 0 already had results, 1 failed" in told


def results(run: ProgramRun) -> dict[str, dict[str, float]]:
    """Return the scores of the rows that have any, by their limit."""
    paths = (run.home / "out" / "results").glob("*.json")
    found = [json.loads(path.read_bytes())["oellm"] for path in paths]
    return {record["row"].get("limit", ""): scores(record) for record in found}
