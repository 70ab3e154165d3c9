"""oe-missing --in: a manifest's rows are looked up in all runs below some directories."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oellm.collect import sources
from oellm.errors import InputError
from support import processes
from support.processes import Run, rows_of
from support.submitted_run import HEADER, write_failure, write_result

# Tasks that lm-eval has, since oe-render asks for them.
TASKS = A, B, C, D = ("arc_easy", "boolq", "copa", "piqa")
MANIFEST = HEADER + "".join(f"acme/m,{task},0\n" for task in TASKS)
PINNED = "0123456789abcdef0123456789abcdef01234567"


def render(run: Run, manifest: str, *options: str) -> Path:
    printed = run("oe-render", *options, stdin=manifest).stdout
    return Path(json.loads(printed)["run_dir"])


@pytest.fixture(autouse=True)
def local_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take this machine for the cluster `local`, whatever it is."""
    clean = processes.clean_environment
    monkeypatch.setattr(
        processes,
        "clean_environment",
        lambda home, extra=None: clean(home, {"OELLM_CLUSTER": "local", **(extra or {})}),
    )


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Return the directory that oe-render writes runs below; it does not exist yet."""
    return tmp_path / "oellm-output"


@pytest.fixture
def missing(run: Run, output: Path) -> Callable[..., tuple[list[str], str]]:
    """Return what gives the tasks of the rows that are missing, and the messages."""

    def call(manifest: str = MANIFEST, *options: str, **how: Any) -> tuple[list[str], str]:
        done = run("oe-missing", f"--in={output}", *options, stdin=manifest, **how)
        return [row["task_path"] for row in rows_of(done.stdout)], done.stderr

    return call


def test_all_rows_are_missing_before_the_first_run(run: Run, output: Path, missing: Any) -> None:
    found, said = missing()
    assert found == list(TASKS)
    assert f"oe-missing: {output}: does not exist yet\n" in said
    output.mkdir()
    done = run("oe-missing", "--in", output, stdin=MANIFEST)
    # Rows pass through as they came.
    assert done.stdout == MANIFEST
    assert done.stderr == (
        "oe-missing: 4 of 4 rows are missing (0 of them failed); 0 have results, 0 are queued or "
        "running\n"
    )


def test_an_unset_variable_is_no_directory(run: Run) -> None:
    done = run("oe-missing", "--in=", stdin=MANIFEST, status=2)
    assert done.stderr == "oe-missing: --in: expected a directory, got nothing\n"
    assert done.stdout == ""


def test_a_row_is_done_in_whichever_run_has_its_result(run: Run, missing: Any) -> None:
    first, second = render(run, MANIFEST), render(run, MANIFEST)
    write_result(first, A)
    write_result(second, B)
    write_failure(first, C)
    found, said = missing()
    assert found == [C, D]
    assert said.endswith(
        "2 of 4 rows are missing (1 of them failed); 2 have results, 0 are queued or running\n"
    )
    assert missing(MANIFEST, "--failed")[0] == [C]
    assert missing(MANIFEST, "--check", status=1)[0] == [C, D]
    # The newest run has no say: one valid result is enough, and a damaged one is none.
    damaged = write_result(second, A, status="no")
    assert missing()[0] == [C, D]
    (first / "results" / damaged.name).unlink()
    found, said = missing()
    assert found == [A, C, D]
    assert f"oe-missing: {damaged}: left out, its status is 'no'\n" in said


def test_rows_are_identified_as_oe_render_will_do_it(
    run: Run, tmp_path: Path, output: Path, missing: Any
) -> None:
    model = tmp_path / "model"
    model.mkdir()
    relative = HEADER + "./model,arc_easy,0\n"
    run_dir = render(run, relative, "--set=dtype=bfloat16")
    write_result(run_dir, A)
    # The cluster's default belongs to the identity, and so does the place of a local model.
    assert missing(relative, "--set=dtype=bfloat16")[0] == []
    assert missing(HEADER + f"{model},arc_easy,0\n", "--set=dtype=bfloat16")[0] == []
    assert missing(relative)[0] == [A]
    assert missing(HEADER + "./other,arc_easy,0\n", "--set=dtype=bfloat16")[0] == [A]
    # A row that carries its eval_id has no defaults.
    (row,) = rows_of((run_dir / "jobs.csv").read_text())
    identified = (
        f"model_path,task_path,n_shot,dtype,eval_id\n{model},arc_easy,0,bfloat16,{row['eval_id']}\n"
    )
    assert missing(identified)[0] == []
    wrong = identified.replace(",arc_easy,", ",boolq,")
    refused = run("oe-missing", f"--in={output}", stdin=wrong, status=2)
    assert refused.stderr.startswith("oe-missing: stdin:2: eval_id: expected ")


def test_a_row_without_a_commit_is_done_at_any_commit(run: Run, missing: Any) -> None:
    fetched = "model_path,task_path,n_shot,model_revision\n"
    for name in ("acme/m", "acme/m,revision=step1"):
        write_result(render(run, fetched + f'"{name}",arc_easy,0,{PINNED}\n'), A)
    found, said = missing(MANIFEST)
    assert found == [B, C, D]
    assert "1 rows have results at a commit of the hub, and the manifest names none" in said
    # Another revision, another commit, and other shots are other evaluations.
    others = (
        '"acme/m,revision=step2",arc_easy,0,',
        f"acme/m,arc_easy,0,{PINNED[::-1]}",
        "acme/m,arc_easy,1,",
    )
    for row in others:
        assert missing(f"{fetched}{row}\n")[0] == [A]
    for row in ('"acme/m,revision=step1",arc_easy,0,', f"acme/m,arc_easy,0,{PINNED}"):
        assert missing(f"{fetched}{row}\n")[0] == []
    # The result of a row at a commit is also one of the row without it in the same manifest.
    assert missing(f"{fetched}acme/m,arc_easy,0,{PINNED}\nacme/m,arc_easy,0,\n")[0] == []


def test_places_that_cannot_be_read_are_named_and_the_others_count(
    run: Run, output: Path, missing: Any
) -> None:
    good, damaged, other = (render(run, MANIFEST) for _ in range(3))
    write_result(good, A)
    write_result(damaged, B)
    (damaged / "jobs.csv").write_text("eval_id,shard,model_path\nx\n")
    (other / "run.json").write_text("{")
    (output / "loop").symlink_to(output)
    (output / ".hidden").mkdir()
    shutil.copytree(good, output / ".hidden" / "run")
    write_result(output / ".hidden" / "run", C)
    # As it is while oe-render writes it.
    (output / "unfinished").mkdir()
    (output / "unfinished" / "jobs.csv").write_text(MANIFEST)
    found, said = missing()
    assert found == [C, D]
    assert f"{damaged}/jobs.csv:2: expected 3 cells as in the header, got 1; what this run" in said
    assert f"{other}/run.json: expected JSON: " in said
    # A directory that is named twice, and one inside the other, count once.
    twice = (f"--in={output}", f"--in={good}")
    assert missing(MANIFEST, *twice)[0] == [C, D]


@pytest.mark.parametrize(
    ("key", "damage"),
    [("jobs", [{}]), ("jobs", "x"), ("arrays", []), ("shards", [[]]), ("cluster", [])],
)
def test_a_damaged_record_of_a_run_stops_nobody(
    run: Run, output: Path, missing: Any, key: str, damage: object
) -> None:
    good, damaged = render(run, MANIFEST), render(run, MANIFEST)
    write_result(good, A)
    path = damaged / "run.json"
    record = json.loads(path.read_text())
    entry = {"executor": "local", "job_id": 1, "array": 0, "elements": [0], "offset": 0}
    record["jobs"] = [entry | {"submitted": "2024-01-15T14:30:45+00:00"}]
    path.write_text(json.dumps(record | {key: damage}))
    found, said = missing()
    assert found == [B, C, D]
    assert f"{path}: " in said
    assert (
        "; what this run still evaluates is not known" in said or "; this run is left out" in said
    )


def test_parts_of_a_run_that_cannot_be_listed_stop_nobody(
    run: Run, output: Path, missing: Any
) -> None:
    good, no_results, no_progress = (render(run, MANIFEST) for _ in range(3))
    write_result(good, A)
    shutil.rmtree(no_results / "results")
    (no_results / "results").touch()
    record = json.loads((no_progress / "run.json").read_text())
    entry = {"executor": "local", "job_id": 1, "array": 0, "elements": [0], "offset": 0}
    record["jobs"] = [entry | {"submitted": "2024-01-15T14:30:45+00:00"}]
    (no_progress / "run.json").write_text(json.dumps(record))
    (no_progress / "progress").touch()
    found, said = missing()
    assert found == [B, C, D]
    assert f"{no_results}/results: Not a directory; this run is left out\n" in said
    assert f"{no_progress}/progress: Not a directory; what this run still evaluates is" in said


def test_a_directory_that_cannot_be_listed_is_passed_over_below_and_refused_above() -> None:
    """As nobody, since nothing is closed to root."""
    if os.geteuid() != 0:
        pytest.skip("only root can be somebody else")
    place = Path(tempfile.mkdtemp())
    said: list[str] = []
    try:
        closed = place / "runs" / "closed"
        closed.mkdir(parents=True, mode=0o700)
        (place / "runs" / "run").mkdir()
        (place / "runs" / "run" / "run.json").touch(mode=0o600)
        place.chmod(0o755)
        os.seteuid(65534)
        assert sources.find_runs([str(place / "runs")], said.append) == []
        with pytest.raises(InputError, match="closed: expected a directory: Permission denied"):
            sources.find_runs([str(closed)], said.append)
    finally:
        os.seteuid(0)
        shutil.rmtree(place)
    assert said == [
        f"{closed}: Permission denied",
        f"{place}/runs/run/run.json: Permission denied; this run is left out",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--in=.", "a.csv", "b.csv"], "--in: expected one manifest at most, got 2 paths"),
        (["--in=a.csv", "a.csv"], "a.csv: expected a directory: Not a directory"),
        (["--also_running", "."], "--also_running needs --in"),
        (
            ["--in=evals", "--also_running", "--failed"],
            "--failed and --also_running ask for different rows",
        ),
        (["--cluster=local", "."], "--cluster needs --in"),
        (["--set=dtype=float16", "."], "--set needs --in"),
        (["--in=.", "none.csv"], "none.csv: No such file or directory"),
        (["--in=.", "empty.csv"], "empty.csv: expected a CSV header, got nothing"),
    ],
)
def test_bad_arguments_are_refused(
    run: Run, tmp_path: Path, arguments: list[str], message: str
) -> None:
    (tmp_path / "a.csv").write_text(MANIFEST)
    (tmp_path / "empty.csv").write_text("")
    refused = run("oe-missing", *arguments, status=2)
    assert refused.stderr.startswith(f"oe-missing: {message}")
    assert refused.stdout == ""


def test_with_nothing_to_do_the_whole_pipeline_ends_well(run: Run, output: Path) -> None:
    run_dir = render(run, MANIFEST)
    for task in TASKS:
        write_result(run_dir, task)
    header = run("oe-missing", f"--in={output}", stdin=MANIFEST).stdout
    assert header == HEADER
    fetched = run("oe-fetch", stdin=header)
    assert fetched.stdout.startswith(HEADER.rstrip("\n"))
    assert fetched.stdout.count("\n") == 1
    rendered = run("oe-render", stdin=fetched.stdout)
    assert json.loads(rendered.stdout) == {"run_dir": None, "n_rows": 0}
    submitted = run("oe-submit", stdin=rendered.stdout)
    assert submitted.stdout == rendered.stdout
    for command, done in (("fetch", fetched), ("render", rendered), ("submit", submitted)):
        text = f"oe-{command}: nothing to do: the manifest has no rows\n"
        assert done.stderr == text.replace("has", "had" if command == "submit" else "has")
    assert len(list(output.glob("*/*"))) == 1
    # What follows has nothing to do either.
    for command in ("oe-collect", "oe-missing"):
        assert run(command, stdin=submitted.stdout).stdout.count("\n") == 1
    assert run("oe-status", "-", stdin=submitted.stdout).stdout == ""
    for option in ("--dry_run", "--explain"):
        assert run("oe-render", option, stdin=header).stdout == ""
    # Empty input still means that the command before failed.
    for command in ("oe-missing", "oe-fetch", "oe-render", "oe-submit"):
        arguments = [f"--in={output}"] if command == "oe-missing" else []
        refused = run(command, *arguments, stdin="", status=2)
        assert "got nothing" in refused.stderr
