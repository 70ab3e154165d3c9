"""Damaged files that a user gives: refused with their place, or read as a strict reader does.

`make fuzz` tries thousands of them, and prints how they ended; `make test` tries a few.
"""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from hypothesis import strategies as st

from oellm.errors import ExitStatus
from support.fuzzed_place import (
    Place,
    fuzz,
    lines,
    members,
    read_json,
    replaced,
    strict,
    strict_lines,
)
from support.fuzzing import Outcome, call, damaged_csv, damaged_json
from support.golden_files import GOLDEN
from support.golden_run import CONTRACT
from support.processes import assert_foreseen

pytestmark = pytest.mark.slow

MANIFEST = [
    ["model_path", "task_path", "n_shot", "limit", "batch_size", "gen_kwargs", "model_args", "x"],
    ["acme/a", "arc_easy", "0", "10", "8", "", "", "1"],
    ["acme/b,revision=1", "hellaswag", "5", "0.5", "auto", '{"do_sample":false}', "", "2"],
    ["acme/c", "mmlu", "", "", "", "temperature=0", '{"device_map":{"a":1}}', ""],
]


@fuzz(damaged_csv(MANIFEST))
def test_manifest(place: Place, content: bytes, choice: int) -> None:
    path = place.directory / "manifest.csv"
    path.write_bytes(content)
    done = place.run("manifest", path, "oe-render", "--explain", path)
    if done.status != ExitStatus.DONE:
        return
    wanted = strict_lines(content)
    given_shots = [float(row["n_shot"] or 0) for row in wanted]
    rows = list(csv.DictReader(io.StringIO(done.out.decode("utf-8", "surrogateescape"))))
    assert len(rows) <= len(wanted)
    assert {float(row["n_shot"] or 0) for row in rows} <= set(given_shots)
    assert {row["task_path"] for row in rows} <= {row["task_path"].strip() for row in wanted}
    limits = {row.get("limit", "").strip() for row in wanted}
    for row in rows:
        assert row["limit"] in limits or float(row["limit"]) in {float(x) for x in limits if x}


MINE: dict[str, Any] = {
    "hostnames": ["login*"],
    "executor": "slurm",
    "account": "acme",
    "partition": "gpu",
    "time_limit": "1-00:00:00",
    "gpus_per_node": 4,
    "whole_node": False,
    "mem": "64G",
    "eval_base_dir": "/scratch/{user}",
    "images": {"lm_eval": "a.sif"},
    "container_args": ["--nv"],
    "env": {"A": "b"},
    "sbatch": {"mail-type": "FAIL"},
}

CLUSTER = {
    "defaults": {"queue_limit": 100, "batch_size": "auto"},
    "clusters": {"mine": MINE},
}


@fuzz(damaged_json(CLUSTER))
def test_clusters(place: Place, content: bytes, choice: int) -> None:
    path = place.directory / "clusters.json"
    path.write_bytes(content)
    place.environ["OELLM_CONFIG"] = str(path)
    try:
        done = place.run("clusters", path, "oe-detect", "--cluster=local")
        if done.status == ExitStatus.DONE:
            strict(content)
            done = call("oe-detect", "--cluster=mine", environ=place.environ)
            check_settings(done, members(content).get("clusters", {}).get("mine", {}))
    finally:
        del place.environ["OELLM_CONFIG"]


@fuzz(damaged_json(MINE | {"name": "mine"}))
def test_cluster(place: Place, content: bytes, choice: int) -> None:
    path = place.directory / "cluster.json"
    path.write_bytes(content)
    done = place.run("cluster", path, "oe-detect", f"--cluster={path}")
    check_settings(done, members(content))


def check_settings(done: Outcome, wanted: dict[str, Any]) -> None:
    assert_foreseen(done.err)
    if done.status != ExitStatus.DONE:
        return
    settled = json.loads(done.out)
    for key, value in wanted.items():
        if isinstance(value, (int, float)) or (isinstance(value, str) and key == "account"):
            assert settled.get(key) == value or "{" in str(value)


SUITES = {
    "languages": {"ltz_Latn": {"alpha2": "lb", "name": "luxembourgish"}},
    "groups": {
        "nordic": {
            "description": "What we look at.",
            "languages": ["dan_Latn", "sv"],
            "tasks": [
                {"task": "belebele_{language}", "n_shot": [0, 5], "primary_metric": "acc"},
                {"task": "saga", "language": "isl_Latn", "gen_kwargs": {"max_gen_toks": 64}},
            ],
        },
        "weekly": {"suites": ["nordic", "open-sci-0.01"]},
    },
}


@fuzz(damaged_json(SUITES))
def test_suites(place: Place, content: bytes, choice: int) -> None:
    with replaced(place.suites, content):
        done = place.run("suites", place.suites, "oe-manifest", "--list")
        if done.status == ExitStatus.DONE:
            strict(content)


RECORDS = list(csv.reader((CONTRACT / "metrics.csv").open()))


@fuzz(
    st.one_of(
        damaged_csv(RECORDS),
        damaged_json([dict(zip(RECORDS[0], row, strict=True)) for row in RECORDS[1:]]),
    )
)
def test_records(place: Place, content: bytes, choice: int) -> None:
    path = place.directory / "records.csv"
    path.write_bytes(content)
    if choice < 3:
        command = ("oe-pivot", "oe-compare", "oe-report")[choice]
        more: list[object] = [path] if command == "oe-compare" else []
        if command == "oe-report":
            more = [f"--output={place.directory}/page.html"]
        place.run("records", path, command, *more, path)
        return
    done = place.run("records", path, "oe-collect", "--format=jsonl", path)
    records = lines(done)
    if not records or done.status == ExitStatus.USAGE:
        return
    try:
        wanted = strict(content)
        wanted = wanted if isinstance(wanted, list) else []
    except ValueError:
        wanted = strict_lines(content)
    assert len(records) <= len(wanted)
    values = [float(one["value"]) for one in wanted if isinstance(one, dict)]
    assert all(record["value"] in values for record in records)


def native(pattern: str) -> Any:
    (path,) = GOLDEN.glob(f"native/{pattern}")
    content = read_json(path)
    return {key: value for key, value in content.items() if key not in ("configs", "task_hashes")}


NATIVE = [
    native("lm_eval-0.4.8-group/results*.json"),
    native("lighteval-*/results*.json"),
    native("evalplus-*/*eval_results.json"),
    native("nvidia*/bigcode.json"),
]


@fuzz(st.sampled_from(NATIVE).flatmap(damaged_json))
def test_native(place: Place, content: bytes, choice: int) -> None:
    path = place.directory / "results_x.json"
    path.write_bytes(content)
    command = "oe-collect" if choice else "oe-pivot"
    place.run("native", path, command, path)
