"""Mistakes of a hand-written manifest and of settings stop at oe-render, not in the job."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.model_directories import write_model
from support.processes import Run

HEADER = "model_path,task_path,n_shot"
RENDER = ("oe-render", "--cluster=local")


def refusal(run: Run, directory: Path, stdin: str, *options: str, status: int = 2) -> str:
    """Return why oe-render refuses a manifest; it must not leave a run directory."""
    target = directory / "run"
    done = run(*RENDER, f"--run_dir={target}", *options, stdin=stdin, status=status)
    assert not target.exists()
    return done.stderr


@pytest.mark.parametrize(
    ("column", "text", "message"),
    [
        ("dtype", "float17", "unknown floating-point type 'float17', did you mean float16?"),
        ("dtype", "bf16", "did you mean bfloat16?"),
        ("backend", "vlm", "lm-eval has no model class 'vlm', did you mean vllm?"),
        ("backend", "transformers", "lm-eval has no model class 'transformers'; known are"),
    ],
)
def test_unknown_types_and_backends_are_refused(
    run: Run, tmp_path: Path, column: str, text: str, message: str
) -> None:
    said = refusal(run, tmp_path, f"{HEADER},{column}\nacme/a,arc_easy,0,{text}\n")
    assert said.startswith(f"oe-render: stdin:2: {column}: ")
    assert message in said
    arguments = ("--models=acme/a", "--tasks=arc", "--unchecked_tasks", f"--{column}={text}")
    assert message in run("oe-manifest", *arguments, status=2).stderr


def test_the_type_among_the_models_arguments_is_looked_at_too(run: Run, tmp_path: Path) -> None:
    said = refusal(run, tmp_path, f'{HEADER}\n"acme/a,dtype=float17",arc_easy,0\n')
    assert "stdin:2: model_path: unknown floating-point type 'float17'" in said


def test_models_that_are_not_there_are_named_all_at_once(run: Run, tmp_path: Path) -> None:
    write_model(tmp_path / "runs" / "x" / "iter_2")
    missing = ["./nope", "/nope", "runs/x/iter_1", "runs/y"]
    rows = "".join(f"{path},arc_easy,{shots}\n" for path in missing for shots in (0, 1))
    lines = refusal(run, tmp_path, f"{HEADER}\n{rows}acme/a,arc_easy,0\n").splitlines()
    assert [line.split(": ")[1] for line in lines] == [f"stdin:{2 * n}" for n in range(1, 5)]
    assert all("no such directory" in line for line in lines)
    # A deleted checkpoint does not stop the other rows of an earlier run.
    old = "/gone,arc_easy,0,950842caf5150be0\n"
    done = run(*RENDER, stdin=f"{HEADER},eval_id\n{old}acme/a,arc_easy,0,\n")
    assert "/gone: no such directory" in done.stderr
    # A dry run may be for another machine.
    done = run(*RENDER, "--dry_run", stdin=f"{HEADER}\n/nope,arc_easy,0\n")
    assert done.stderr.startswith("oe-render: stdin:2: model_path: /nope: no such directory\n")
    # A model of the hub that is in the cache may be called like a directory.
    (tmp_path / "hf" / "hub" / "models--runs--y").mkdir(parents=True)
    cached = f"--set=hf_home={tmp_path}/hf"
    run(*RENDER, "--dry_run", cached, stdin=f"{HEADER}\nruns/y,arc_easy,0\n")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["venv=/nope"], "/nope/bin/python: no such Python; set venv"),
        (["images.lm_eval=/nope.sif"], "/nope.sif: no such image; set images_directory"),
    ],
)
def test_an_environment_that_is_not_there_is_named_by_its_setting(
    run: Run, tmp_path: Path, options: list[str], message: str
) -> None:
    given = [f"--set={option}" for option in (*options, "container_runtime=auto")]
    if "venv" in options[0]:
        given[-1] = "--set=container_runtime=none"
    assert message in refusal(run, tmp_path, f"{HEADER}\nacme/a,arc_easy,0\n", *given, status=3)


def test_a_directory_of_results_that_cannot_be_made_is_named_by_its_setting(
    run: Run, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    base = tmp_path / "file" / "base"
    done = run(
        *("oe-render", "--cluster=local", f"--set=eval_output_dir={base}"),
        stdin=f"{HEADER}\nacme/a,arc_easy,0\n",
        status=3,
    )
    assert done.stderr.startswith(f"oe-render: the setting eval_output_dir: {base} ")


def test_the_root_directory_is_no_model_and_is_not_searched(run: Run, tmp_path: Path) -> None:
    big = tmp_path / "big"
    for number in range(60):
        directory = big / str(number)
        directory.mkdir(parents=True)
        for name in range(100):
            (directory / str(name)).touch()
    for path in ("/", str(big)):
        said = run(*RENDER, "--dry_run", stdin=f"{HEADER}\n{path},arc_easy,0\n", status=2).stderr
        assert said.startswith(f"oe-render: stdin:2: model_path: {path}: there are more than 5000")


def test_a_task_that_does_not_exist_is_told_by_its_option(run: Run) -> None:
    done = run("oe-manifest", "--models=a/b", "--tasks=arc_eazy,copa", "--n_shot=five", status=2)
    lines = done.stderr.splitlines()
    assert any(line.startswith("oe-manifest: --tasks: ") and "arc_eazy" in line for line in lines)
    assert any("n_shot" in line and "five" in line for line in lines)
    assert "task_path" not in done.stderr


def test_a_tokenizer_that_cannot_be_made_leaves_the_checkpoint_out(
    run: Run, tmp_path: Path
) -> None:
    model = write_model(tmp_path / "runs" / "iter_1")
    whole = write_model(tmp_path / "runs" / "iter_2")
    (model / "tokenizer.json").unlink()
    arguments = ("oe-manifest", "--unchecked_tasks", "--tasks=arc", "--models=runs")
    for config in (
        {"tokenizer_class": "PreTrainedTokenizerFast"},
        {"tokenizer_class": "LlamaTokenizer"},
    ):
        (model / "tokenizer_config.json").write_text(json.dumps(config))
        done = run(*arguments, status=1)
        assert f"{model}: " in done.stderr
        assert "tokenizer" in done.stderr
        assert str(whole) in done.stdout
        assert str(model) not in done.stdout
    # Each of these may work.
    own = '{"auto_map": {"AutoTokenizer": ["tok.Tok", null]}}'
    others = ('{"tokenizer_class": "ByT5Tokenizer"}', '{"tokenizer_class": "OwnTokenizer"}')
    for text in (own, *others):
        (model / "tokenizer_config.json").write_text(text)
        assert str(model) in run(*arguments).stdout
    (model / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    run(*arguments[:-1], "--models=runs,tokenizer=acme/a")
    (model / "tokenizer.model").write_bytes(b"x")
    assert str(model) in run(*arguments).stdout
