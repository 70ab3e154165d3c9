"""Packages of others that add frameworks, with every kind of mistake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from oellm.frameworks.added_program import AdapterError, create_added_program
from oellm.manifest.rows import Row
from support.added_packages import quiz_with, write_package
from support.processes import Run, rows_of
from support.quiz import write_quiz_model

RIGHT = quiz_with()


def env_of(directory: Path) -> dict[str, str]:
    return {"PYTHONPATH": str(directory), "OELLM_CLUSTER": "local"}


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """Return a directory of packages that has the right one."""
    write_package(tmp_path / "packages", "quiz", "oellm_quiz", RIGHT)
    return tmp_path / "packages"


def rows(model: Path, *suites: str, task: str = "together") -> str:
    lines = ["model_path,task_path,n_shot,eval_suite"]
    return "\n".join([*lines, *(f"{model},{task},,{suite}" for suite in suites)]) + "\n"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_quiz_model(tmp_path / "model", 64)


WRONG = {
    "an import that is missing": (
        {**RIGHT, "program.py": "import no_such_module\n"},
        "broken_quiz.program: ModuleNotFoundError: No module named 'no_such_module'",
    ),
    "an error of syntax": ({**RIGHT, "program.py": "def\n"}, "broken_quiz.program: SyntaxError"),
    "an import that ends Python": (
        {**RIGHT, "program.py": "raise SystemExit(0)\n"},
        "broken_quiz.program: SystemExit: 0",
    ),
    "no module": ({"__init__.py": ""}, "it has no module broken_quiz.program"),
    "no function": (
        {**RIGHT, "program.py": "x = 1\n"},
        "broken_quiz.program has no function create_program",
    ),
    "a function that raises": (
        {**RIGHT, "program.py": "def create_program(): 1 / 0\n"},
        "create_program: ZeroDivisionError",
    ),
    "methods that are missing": (
        {**RIGHT, "program.py": "def create_program(): return 1\n"},
        "int has no batches, catalogue, check, check_output, command, evaluation, generation_row, "
        "needs, problem_files, settings, stages, version",
    ),
    "a catalogue that is damaged": (
        {**RIGHT, "catalogue.json": "{}"},
        "catalogue: KeyError: 'version'",
    ),
    "a check that raises": (quiz_with(check="raise KeyError(1)"), "check: KeyError: 1"),
    "stages that are none": (quiz_with(stages="return 3"), "stages: expected Sequence, got int"),
    "stages of another kind": (quiz_with(stages="return ['x']"), "stages: unexpected str"),
    "no stages": (quiz_with(stages="return []"), "stages: expected [evaluate] or [generate, evalu"),
}


@pytest.mark.parametrize(("number", "mistake"), list(enumerate(WRONG)))
def test_what_is_wrong_with_a_package_is_told(
    number: int, mistake: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, reason = WRONG[mistake]
    package = f"broken_quiz_{number}"
    write_package(tmp_path, "broken", package, files)
    monkeypatch.syspath_prepend(tmp_path)
    row = Row({"model_path": "m", "task_path": "t", "n_shot": "", "eval_suite": "broken"})
    with pytest.raises(AdapterError) as raised:
        program = create_added_program("broken", package)
        program.catalogue()
        program.check(row)
        program.stages(row)
    message = str(raised.value)
    assert (
        message.removeprefix("input: ")
        .removeprefix("eval_suite: ")
        .startswith(
            f"framework broken (package {package}): {reason.replace('broken_quiz', package)}"
        )
    )


@pytest.mark.parametrize("mistake", ["an import that ends Python", "a check that raises"])
def test_a_package_with_a_mistake_is_named_before_anything_is_queued(
    mistake: str, run: Run, packages: Path, model: Path, tmp_path: Path
) -> None:
    files, reason = WRONG[mistake]
    write_package(packages, "broken", "broken_quiz", files)
    env = env_of(packages)
    text = rows(model, "quiz", "broken")
    for command in (["oe-render", "--run_dir=run"], ["oe-run-task"], ["oe-fetch"]):
        told = run(*command, stdin=text, env=env, status=3).stderr
        assert "framework broken (package broken_quiz): " in told
        assert reason in told
    assert not (tmp_path / "run").exists()
    # Rows of others are none of its business.
    run("oe-render", "--run_dir=run", stdin=rows(model, "quiz"), env=env)


def test_errors_of_an_adapter_cost_only_its_rows(
    run: Run, packages: Path, model: Path, tmp_path: Path
) -> None:
    steps = {"needs": "return ['x']", "batches": "return []", "command": "raise KeyError('x')"}
    steps |= {"check_output": "return 1", "evaluation": "return None"}
    steps["stages"] = "raise ValueError('y')"
    for name, body in steps.items():
        write_package(packages, name, f"{name}_quiz", quiz_with(**{name: body}))
    text = rows(model, *steps, "quiz")
    env = env_of(packages)
    done = run("oe-run-task", "--output_dir=out", stdin=text, env=env, status=1)
    assert "1 rows evaluated, 0 already had results, 6 failed" in done.stderr
    found = [json.loads(path.read_text())["oellm"] for path in tmp_path.glob("out/failures/*.json")]
    assert {each["row"]["eval_suite"]: each["failure"]["message"] for each in found} == {
        name: f"stdin:{line}: eval_suite: framework {name} (package {name}_quiz): {reason}"
        for line, (name, reason) in enumerate(
            {
                "needs": "needs: unexpected str",
                "batches": "batches: expected every row in one batch",
                "command": "command: KeyError: 'x'",
                "check_output": "check_output: expected nothing, got int",
                "evaluation": "evaluation: expected Evaluation, got NoneType",
                "stages": "stages: ValueError: y",
            }.items(),
            2,
        )
    }


@pytest.mark.parametrize(
    ("added", "reason"),
    [
        (("lm_eval", "other_eval"), "oellm has the name itself"),
        (("mine-2", "mine"), "expected a name of letters, digits and _"),
        (("inner", "outer.inner"), "expected a package that is in no other"),
    ],
)
def test_a_name_that_cannot_be_used_is_told_to_who_uses_it(
    added: tuple[str, str], reason: str, run: Run, packages: Path, model: Path
) -> None:
    name, package = added
    write_package(packages, name, package, RIGHT)
    env, is_ours = env_of(packages), name == "lm_eval"
    text = rows(model, name, task="arc_easy")
    told = run("oe-render", "--dry_run", stdin=text, env=env, status=0 if is_ours else 2).stderr
    assert f"a framework {name} of another package is left out: package {package}: {reason}" in told
    told = run("oe-render", "--dry_run", stdin=rows(model, "quiz"), env=env).stderr
    assert "left out" not in told


def test_two_packages_cannot_add_one_framework(run: Run, packages: Path, model: Path) -> None:
    write_package(packages, "quiz", "another_quiz", RIGHT)
    told = run(
        *("oe-render", "--dry_run"), stdin=rows(model, "quiz"), env=env_of(packages), status=2
    ).stderr
    assert "both another_quiz and oellm_quiz add it; uninstall one of them" in told


def test_a_package_is_a_folder_that_can_travel(run: Run, packages: Path, model: Path) -> None:
    write_package(packages, "large", "large_quiz", {**RIGHT, "weights.bin": "0" * (17 << 20)})
    env = env_of(packages)
    told = run("oe-render", "--run_dir=run", stdin=rows(model, "large"), env=env, status=3).stderr
    assert "framework large (package large_quiz): it has 17.8 MB, and would travel with" in told


def test_results_are_collected_whatever_reader_a_package_has(
    run: Run, packages: Path, model: Path, tmp_path: Path
) -> None:
    env = env_of(packages)
    readers = {"a": "raise KeyError(1)", "b": "import no_such_module", "c": "x = 1"}
    for name, body in readers.items():
        text = f"def read_scored_rows(document, path):\n    {body}\n" if name == "a" else body
        write_package(packages, name, f"quiz_{name}", {**RIGHT, "results.py": text})
    run("oe-run-task", "--output_dir=out", stdin=rows(model, "quiz"), env=env)
    assert len(rows_of(run("oe-collect", "out", env=env).stdout)) == 1
    (tmp_path / "out" / "results.json").write_text('{"results": {"x": {"acc": 1}}}')
    found = run("oe-collect", "out", env=env, status=1)
    assert len(rows_of(found.stdout)) == 1
    assert "framework a (package quiz_a): results: KeyError: 1" in found.stderr


def test_a_run_can_be_read_without_the_package(
    run: Run, packages: Path, model: Path, tmp_path: Path
) -> None:
    text = rows(model, "quiz", task="apart") + rows(model, "quiz").split("\n", 1)[1]
    env = env_of(packages)
    run("oe-render", "--run_dir=run", stdin=text, env=env)
    run("oe-submit", "run", "--wait=done", env=env)
    without = {"OELLM_CLUSTER": "local"}
    assert len(rows_of(run("oe-collect", "run", env=without).stdout)) == 2
    shown = rows_of(run("oe-status", "run", env=without).stdout)
    assert [row["state"] for row in shown] == ["done", "done"]
    assert not rows_of(run("oe-missing", "run", "--check", env=without).stdout)
    assert len(rows_of(run("oe-missing", "--in=.", stdin=text, env=without).stdout)) == 0
    told = run("oe-render", "--run_dir=again", stdin=text, env=without, status=2).stderr
    assert "eval_suite: expected one of" in told
