"""Times of earlier runs: what a result tells, what is no measurement, what is read once."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oellm.plan.costs import CostModel
from oellm.plan.measured_times import parse_measurement, read_measurements
from support.processes import ROOT

GOLDEN = ROOT / "tests" / "golden" / "contract" / "run"
RESULT = json.loads((GOLDEN / "results" / "ef253598e9c37ffe.json").read_text())


class Runs:
    """A directory of runs, and a cache of its own."""

    def __init__(self, home: Path) -> None:
        self.root = home / "evals"
        self.cache = home / "cache"

    def add(self, name: str, cluster: str = "local", user: str = "ada") -> Path:
        run = self.root / user / name
        (run / "results").mkdir(parents=True)
        record = json.loads((GOLDEN / "run.json").read_text())
        arrays = {"arrays": [], "plan": {}}
        record["cluster"]["name"] = cluster
        (run / "run.json").write_text(json.dumps({**record, **arrays}))
        return run

    def tasks(self, cluster: str = "local") -> list[str]:
        found = read_measurements(
            str(self.root), cluster, {"OELLM_CACHE_DIR": str(self.cache)}
        ).measurements
        return [each.row["task_path"] for each in found]


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


def write(run: Path, task: str, cluster: str = "local") -> Path:
    result = copy.deepcopy(RESULT)
    result["oellm"]["row"]["task_path"] = task
    result["oellm"]["provenance"]["cluster"] = cluster
    path = run / "results" / f"{task}.json"
    path.write_text(json.dumps(result))
    return path


def changed(**parts: Any) -> Any:
    result = copy.deepcopy(RESULT)
    for name, keys in parts.items():
        if isinstance(keys, dict):
            result["oellm"][name] |= keys
        else:
            result["oellm"][name] = keys
    return result


def test_a_result_tells_what_its_row_took() -> None:
    found = parse_measurement(RESULT)
    assert found is not None
    assert (found.gpu, found.cluster) == ("Intel(R) Xeon(R) Processor", "local")
    assert found.row["model_bytes"] == "593256"
    assert found.row["request_types"] == "loglikelihood=12"
    assert (found.row["n_docs"], found.row["n_requests"]) == ("4", "12")
    timing = RESULT["oellm"]["timing"]
    assert found.scoring_s == timing["scoring_s"]
    assert found.building_s == pytest.approx(timing["task_index_s"] + timing["task_build_s"])
    others = timing["row_s"] - timing["wait_s"] - timing["scoring_s"]
    assert found.beside_s == pytest.approx(others - found.building_s)
    assert found.load_s == timing["model_load_s"]
    assert found.start_s == pytest.approx(timing["start_s"] + timing["imports_s"])
    costs = CostModel([found], "local")
    # Half of the work beside scoring counts.
    expected = max(timing["scoring_s"], others / 2)
    assert costs.row(found.row)[:2] == (pytest.approx(expected), "measured")


def test_the_gpu_and_the_requests_are_those_of_the_result() -> None:
    gpus = [{"name": "NVIDIA A100", "memory_bytes": 1}] * 4
    found = parse_measurement(changed(provenance={"accelerator": {"gpus": gpus}}))
    assert found is not None
    assert found.gpu == "NVIDIA A100"
    known = {"request_types": "generate_until=2,loglikelihood=10", "model_bytes": "7"}
    found = parse_measurement(changed(row=known))
    assert found is not None
    assert {name: found.row[name] for name in known} == known
    mixed = {**RESULT, "configs": {"a": {"output_type": "generate_until"}, **RESULT["configs"]}}
    found = parse_measurement(mixed)
    assert found is not None
    assert found.row["request_types"] == ""


def test_a_part_of_a_row_is_no_measurement() -> None:
    assert parse_measurement(changed(usage={"requests_kept": 3})) is None
    assert parse_measurement(changed(usage={"requests": 0})) is None


DAMAGE: list[Any] = [
    changed(timing={"scoring_s": "fast"}),
    changed(timing={"scoring_s": -1.0}),
    changed(timing={"model_load_s": None}),
    changed(timing={"finished": 7}),
    changed(row={"n_shot": "five"}),
    changed(row={"tp": 4}),
    changed(row={"task_path": ""}),
    changed(usage={"requests": -4}),
    changed(usage=[]),
    changed(provenance={"accelerator": {}}),
    changed(provenance={"cpu": None}),
    changed(status="failed"),
    {"results": {}},
    [],
    None,
]


def test_damaged_files_are_skipped(runs: Runs) -> None:
    run = runs.add("2026-01-01-00-00-00")
    for number, content in enumerate(DAMAGE):
        (run / "results" / f"{number}.json").write_text(json.dumps(content))
    (run / "results" / "cut.json").write_text(json.dumps(RESULT)[:-9])
    (run / "results" / "directory.json").mkdir()
    (run / "results" / "link.json").symlink_to("nowhere")
    (run / "results" / "x.json.invalid-1").write_text(json.dumps(RESULT))
    (run / "results" / ".x.json.1-1.tmp").write_text(json.dumps(RESULT))
    (runs.root / "file").write_text("")
    (runs.root / "ada" / "no-run").mkdir()
    unreadable = runs.add("2026-01-02-00-00-00")
    (unreadable / "run.json").write_text("{")
    write(unreadable, "piqa")
    write(run, "arc")
    # If run.json names no cluster, the run belongs to none.
    assert runs.tasks() == ["arc", "piqa"]
    assert (
        read_measurements(
            str(runs.root / "gone"), "local", {"OELLM_CACHE_DIR": str(runs.cache)}
        ).measurements
        == []
    )


def test_results_are_parsed_once(runs: Runs) -> None:
    run = runs.add("2026-01-01-00-00-00")
    for task in ("arc", "piqa"):
        write(run, task)
    first = read_measurements(
        str(runs.root), "local", {"OELLM_CACHE_DIR": str(runs.cache)}
    ).measurements
    assert len(first) == 2
    environ = {"OELLM_CACHE_DIR": str(runs.cache)}
    known = read_measurements(str(runs.root), "local", environ).eval_ids
    assert known == {path.stem for path in (run / "results").iterdir()}
    for path in (run / "results").iterdir():
        path.write_text("no longer a result")
    (run / "run.json").unlink()
    again = read_measurements(
        str(runs.root), "local", {"OELLM_CACHE_DIR": str(runs.cache)}
    ).measurements
    assert again == first
    write(run, "boolq")
    assert sorted(runs.tasks()) == ["arc", "boolq", "piqa"]


def test_a_damaged_result_is_looked_at_again(runs: Runs) -> None:
    run = runs.add("2026-01-01-00-00-00")
    path = write(run, "arc")
    path.write_text("{")
    assert runs.tasks() == []
    path.rename(f"{path}.invalid-1")
    write(run, "arc")
    assert runs.tasks() == ["arc"]


def spoiled(content: Any) -> Any:
    content["results"]["arc.json"][4] = None
    return content


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: [],
        lambda content: {**content, "results": {"arc.json": ["x"]}},
        lambda content: {**content, "results": None},
        spoiled,
    ],
)
def test_a_spoiled_cache_is_written_anew(runs: Runs, spoil: Callable[[Any], Any]) -> None:
    write(runs.add("2026-01-01-00-00-00"), "arc")
    assert runs.tasks() == ["arc"]
    (file,) = (runs.cache / "measured").iterdir()
    whole = file.read_bytes()
    file.write_text(json.dumps(spoil(json.loads(whole))))
    assert runs.tasks() == ["arc"]
    assert file.read_bytes() == whole
    file.write_bytes(whole[:-5])
    assert runs.tasks() == ["arc"]


def test_a_cache_that_cannot_be_written_is_no_error(runs: Runs) -> None:
    write(runs.add("2026-01-01-00-00-00"), "arc")
    runs.cache.write_text("a file")
    assert runs.tasks() == runs.tasks() == ["arc"]


def test_the_latest_runs_count_and_this_clusters_first(runs: Runs) -> None:
    for number in range(203):
        user = "ada" if number % 2 else "bob"
        own = runs.add(f"2026-01-01-00-{number:03}", "lumi", user)
        if number in (0, 202):
            write(own, f"own{number}", "lumi")
    for number in (0, 1):
        other = runs.add(f"2026-01-02-00-{number:03}", "jureca")
        write(other, f"other{number}", "jureca")
    assert runs.tasks("lumi") == ["own202"]
    # The two of this cluster, and 198 others.
    assert runs.tasks("jureca") == ["other1", "other0", "own202"]
