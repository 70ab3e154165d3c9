"""A framework that a package of somebody else adds goes through all commands."""

from __future__ import annotations

import json
import re
import sys
import zipfile
from pathlib import Path

import pytest

from support import quiz
from support.processes import ROOT, Run, rows_of


def test_a_framework_takes_fewer_than_120_lines() -> None:
    assert sum(len(text.splitlines()) for text in quiz.sources().values()) < 120


def test_the_guide_shows_all_of_the_package() -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text()
    (section,) = re.findall(r"\n## The next framework\n.*?(?=\n## )", guide, re.DOTALL)
    shown = [line.removeprefix("    ") for line in section.splitlines() if line.startswith("    ")]
    for name, text in quiz.sources().items():
        missing = [line for line in text.splitlines() if line and line not in shown]
        assert not missing, (name, missing)


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the package beside oellm; return the folder of commands."""
    return quiz.install(tmp_path_factory.mktemp("quiz") / "venv")


@pytest.fixture
def manifest(run: Run, commands: Path, tmp_path: Path) -> str:
    """Return rows of two models and tasks; of one of the answers, it depends on a setting."""
    models = [quiz.write_quiz_model(tmp_path / f"m{size}", size) for size in (64, 128)]
    named = f"--models={','.join(map(str, models))}"
    return run(
        commands / "oe-manifest", named, "--tasks=together,apart", "--eval_suite=quiz"
    ).stdout


@pytest.mark.slow
def test_its_rows_go_through_all_commands(
    run: Run, commands: Path, manifest: str, tmp_path: Path
) -> None:
    env = {"OELLM_CLUSTER": "local", "EVAL_BASE_DIR": str(tmp_path)}
    fetched = run(commands / "oe-fetch", stdin=manifest, env=env)
    assert "oe-fetch: 4 of 4 rows fetched\n" in fetched.stderr
    assert {row["task_version"] for row in rows_of(fetched.stdout)} == {"1.0"}
    run(commands / "oe-render", "--run_dir=run", stdin=fetched.stdout, env=env)
    before = run(commands / "oe-missing", "run", env=env).stdout
    assert len(rows_of(before)) == 4
    submitted = run(commands / "oe-submit", "run", "--wait=done", env=env)
    assert "4 of 4 rows have results" in submitted.stderr
    shown = rows_of(run(commands / "oe-status", "run", env=env).stdout)
    assert {(row["task_path"], row["stage"], row["state"]) for row in shown} == {
        ("together", "", "done"),
        ("apart", "evaluate", "done"),
    }
    records = run(commands / "oe-collect", "run").stdout
    assert {row["framework_version"] for row in rows_of(records)} == {"1.0"}
    pivot = rows_of(run(commands / "oe-pivot", stdin=records).stdout)
    assert [(row["together"], row["apart"]) for row in pivot] == [("1.0", "1.0"), ("0.5", "0.5")]
    assert not rows_of(run(commands / "oe-missing", "run", "--check", env=env).stdout)


@pytest.mark.slow
def test_its_rows_are_evaluated_here_and_now(run: Run, commands: Path, manifest: str) -> None:
    with_width = [
        {**row, "gen_kwargs": width} for row in rows_of(manifest) for width in ("", "width=128")
    ]
    text = "\n".join([",".join(with_width[0]), *(",".join(row.values()) for row in with_width)])
    done = run(commands / "oe-run-task", stdin=text + "\n")
    # Both settings of a model share the answers of the first stage.
    assert done.stderr.count(": generate begins\n") == 2
    found = [json.loads(line)["oellm"] for line in done.stdout.splitlines()]
    scores = {
        (Path(each["row"]["model_path"]).name, each["row"]["gen_kwargs"]): each["metrics"][0][
            "value"
        ]
        for each in found
        if each["row"]["task_path"] == "apart"
    }
    assert scores == {
        ("m64", ""): 1.0,
        ("m64", "width=128"): 0.5,
        ("m128", ""): 0.5,
        ("m128", "width=128"): 1.0,
    }


@pytest.mark.slow
def test_a_mistake_in_its_rows_is_told_before_anything_runs(
    run: Run, commands: Path, manifest: str
) -> None:
    model = rows_of(manifest)[0]["model_path"]
    row = ["--models=" + model, "--eval_suite=quiz"]
    told = run(commands / "oe-manifest", *row, "--tasks=togethr", status=2).stderr
    assert "quiz has no task 'togethr' in version 1.0, did you mean together?" in told
    wrong = manifest.replace("eval_suite\n", "eval_suite,gen_kwargs\n").replace(
        "quiz\n", "quiz,x=1\n"
    )
    told = run(commands / "oe-render", "--cluster=local", "--dry_run", stdin=wrong, status=2).stderr
    assert "stdin:2: gen_kwargs: quiz has no setting 'x'" in told


@pytest.mark.slow
def test_a_job_needs_only_the_worker_of_its_run(
    run: Run, commands: Path, manifest: str, tmp_path: Path
) -> None:
    run(commands / "oe-render", "--cluster=local", "--run_dir=run", stdin=manifest)
    worker = tmp_path / "run" / "oe-run-task.pyz"
    # This Python has neither oellm nor the package.
    bare = Path(sys.base_prefix) / "bin" / Path(sys.executable).resolve().name
    for shard in (0, 1):
        run(bare, "-I", "-S", worker, "--run_dir=run", f"--shard={shard}")
    assert len(list((tmp_path / "run" / "results").iterdir())) == 4
    # A run without such rows does not carry the package.
    others = (
        manifest.replace(",quiz\n", ",lm_eval\n")
        .replace("together", "arc_easy")
        .replace("apart", "piqa")
    )
    run(commands / "oe-render", "--cluster=local", "--run_dir=other", stdin=others)
    with zipfile.ZipFile(tmp_path / "other" / "oe-run-task.pyz") as archive:
        assert not [name for name in archive.namelist() if "quiz" in name]
