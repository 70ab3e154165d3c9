"""oe-manifest: models × tasks × shots, and the names and settings it refuses."""

from __future__ import annotations

import csv
import io
import os
import re
import shlex
from pathlib import Path

import pytest

import oe_manifest
from oellm import schema
from processes import Run


def rows(run: Run, *arguments: str | Path, cwd: Path | None = None) -> list[dict[str, str]]:
    printed = run("oe-manifest", *arguments, cwd=cwd).stdout
    return list(csv.DictReader(io.StringIO(printed, newline=""), strict=True))


def refusal(run: Run, *arguments: str) -> str:
    """Return the message of a command line that nothing may come of."""
    refused = run("oe-manifest", *arguments, status=2)
    assert refused.stdout == ""
    assert refused.stderr.startswith("oe-manifest: ")
    return refused.stderr.removeprefix("oe-manifest: ").removesuffix("\n")


def make_checkpoints(root: Path, *names: str) -> None:
    for name in names:
        (root / name).mkdir(parents=True)
        (root / name / "config.json").write_text("{}")


# What each command line in the manual prints.
GOLDEN = {
    "oe-manifest --models EleutherAI/pythia-160m --tasks hellaswag,mmlu --n_shot 0,5": """\
model_path,task_path,n_shot,eval_suite
EleutherAI/pythia-160m,hellaswag,0,lm_eval
EleutherAI/pythia-160m,hellaswag,5,lm_eval
EleutherAI/pythia-160m,mmlu,0,lm_eval
EleutherAI/pythia-160m,mmlu,5,lm_eval
""",
    "--models 'EleutherAI/pythia-160m,revision=step1000,dtype=float16,acme/tiny'": """\
model_path,task_path,n_shot,eval_suite
"EleutherAI/pythia-160m,revision=step1000,dtype=float16",arc,,lm_eval
acme/tiny,arc,,lm_eval
""",
}


def test_the_examples_of_the_manual_print_these_rows(run: Run) -> None:
    shown = re.findall(r"^  (oe-manifest --.*|--models .*)$", oe_manifest.__doc__, re.MULTILINE)
    assert set(shown) == set(GOLDEN)
    for line, expected in GOLDEN.items():
        command = line if line.startswith("oe-") else f"oe-manifest --tasks arc {line}"
        assert run(*shlex.split(command)).stdout == expected


def test_lists_may_be_separated_by_commas_or_given_by_repeating_the_option(run: Run) -> None:
    joined = ["--models=a/b,dtype=float16,c/d", "--tasks=t, u,", "--n_shot=0,5"]
    joined += ["--task_groups=mgsm-eu[de],mgsm-eu[fr|en]"]
    repeated = ["--models=a/b,dtype=float16", "--models=c/d", "--tasks=t", "--tasks=u"]
    repeated += ["--n_shot", "0", "--n_shot", "5"]
    repeated += ["--task_groups=mgsm-eu[de]", "--task_groups=mgsm-eu[fr|en]"]
    found = rows(run, *joined)
    assert len(found) == 2 * (2 * 2 + 3)
    assert found == rows(run, *repeated)


def test_a_directory_stands_for_the_checkpoints_below_it_in_natural_order(
    run: Run, tmp_path: Path
) -> None:
    root = tmp_path / "runs"
    make_checkpoints(root, "iter_2000", "iter_10000", "b/hf/iter_900", "b/hf/iter_1000")
    make_checkpoints(root, "a/hf/iter_5", ".cache/model", "too/deep/for/this")
    (root / "logs").mkdir()
    arguments = ["--models=runs,dtype=float16,acme/tiny", "--tasks=arc,copa"]
    expected = ["a/hf/iter_5", "b/hf/iter_900", "b/hf/iter_1000", "iter_2000", "iter_10000"]
    paths = [f"{root / name},dtype=float16" for name in expected]
    models = [row["model_path"] for row in rows(run, *arguments)]
    assert models == [path for path in [*paths, "acme/tiny"] for _ in range(2)]
    one = rows(run, "--models=./iter_2000", "--tasks=arc", cwd=root)
    assert [row["model_path"] for row in one] == [str(root / "iter_2000")]


def test_local_paths_become_absolute_and_names_stay(run: Run, tmp_path: Path) -> None:
    make_checkpoints(tmp_path, "m", "home/m")
    arguments = ["--models=m,~/m,acme/m", "--tasks=arc,t/x.yaml,~/y.yml", "--include_path=t"]
    found = rows(run, *arguments)
    here = str(tmp_path)
    assert [row["model_path"] for row in found[::3]] == [f"{here}/m", f"{here}/home/m", "acme/m"]
    tasks = ["arc", f"{here}/t/x.yaml", f"{here}/home/y.yml"]
    assert [row["task_path"] for row in found[:3]] == tasks
    assert {row["include_path"] for row in found} == {f"{here}/t"}


def test_a_task_group_brings_its_shots_languages_and_metrics(run: Run) -> None:
    found = rows(run, "--models=a/b", "--task_groups=belebele-eu-5-shot[deu_Latn|fra_Latn]")
    cells = [(row["task_path"], row["n_shot"], row["language"]) for row in found]
    # In the order of the suite.
    assert cells == [
        ("belebele_fra_Latn", "5", "fra_Latn"),
        ("belebele_deu_Latn", "5", "deu_Latn"),
    ]
    whole = rows(run, "--models=a/b", "--tasks=t", "--n_shot=3", "--task_groups=open-sci-0.01")
    assert {row["eval_suite"] for row in whole} == {"lm_eval"}
    chosen = {row["task_path"]: (row["n_shot"], row["primary_metric"]) for row in whole}
    assert chosen["t"] == ("3", "")
    assert chosen["mmlu"] == ("5", "acc")
    assert chosen["hellaswag"] == ("10", "acc_norm")
    assert [row["task_group"] for row in whole] == ["", *["open-sci-0.01"] * (len(whole) - 1)]


# For each setting: cells that it takes, and one that it refuses, with what it expects instead.
SETTINGS = {
    "backend": (["vllm"], "hf vllm", "one word"),
    "dtype": (["bfloat16"], "float 16", "one word"),
    "limit": (["10", "0.25"], "1.5", "a number of documents, or a fraction below 1"),
    "batch_size": (["8", "auto:4"], "0", "a positive integer, auto or auto:N"),
    "apply_chat_template": (["true", "tool_use"], None, ""),
    "fewshot_as_multiturn": (["false"], "maybe", "true or false"),
    "system_instruction": (['Answer "A", or\nB.'], None, ""),
    "gen_kwargs": (["temperature=0,do_sample=False"], "temperature", "key=value,key=value"),
    "seed": (["7", "0,1,None,3"], "1,2", "one seed, or four separated by commas"),
    "include_path": (["/tasks"], None, ""),
    "log_samples": (["true"], "ja", "true or false"),
}


def test_every_setting_of_the_schema_is_an_option_of_the_manual_and_tested_here() -> None:
    flags = [name for name, spec in schema.table("manifest").items() if spec.get("flag")]
    options = re.findall(r"^  --(\w+)(?:=|  )", oe_manifest.__doc__, re.MULTILINE)
    others = ["models", "tasks", "n_shot", "task_groups", "eval_suite", "help", "version"]
    assert sorted(options) == sorted([*flags, *others])
    assert list(SETTINGS) == flags


@pytest.mark.parametrize("position", [0, -1])
def test_a_setting_becomes_the_cell_of_its_column(run: Run, position: int) -> None:
    cells = {name: good[position] for name, (good, _, _) in SETTINGS.items()}
    options = [f"--{name}={text}" for name, text in cells.items()]
    row = {"model_path": "a/b", "task_path": "arc", "n_shot": "", "eval_suite": "lm_eval"}
    assert rows(run, "--models=a/b", "--tasks=arc", *options) == [row | cells]
    assert rows(run, "--models=a/b", "--tasks=arc") == [row]


@pytest.mark.parametrize("name", [name for name, (_, bad, _) in SETTINGS.items() if bad])
def test_a_bad_setting_is_refused_by_the_name_of_its_column(run: Run, name: str) -> None:
    _, bad, expected = SETTINGS[name]
    message = refusal(run, "--models=a/b", "--tasks=arc", f"--{name}={bad}")
    assert message == f"{name}: expected {expected}, got {bad!r}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models=a/b"], "nothing to evaluate: give --tasks or --task_groups"),
        (["--models=a/b", "--tasks=,"], "nothing to evaluate: give --tasks or --task_groups"),
        (["--models=a/b", "--tasks=t", "--limit="], "--limit: expected a value, got nothing"),
        (["--models=,", "--tasks=t"], "--models: expected at least one model"),
        (["--models=a/b", "--tasks=t", "--n_shot=0,five"], "n_shot: expected a non-negative int"),
        (["--models=a/b", "--tasks=t", "--n_shot=-1"], "n_shot: expected a non-negative integer"),
        (
            ["--models=a/b", "--task_groups=mgsm-eu", "--n_shot=3"],
            "--n_shot applies to --tasks; task groups have their own shots",
        ),
        (
            ["--models=a/b", "--task_groups=mgms-eu"],
            "--task_groups: unknown suite 'mgms-eu', did you mean mgsm-eu?",
        ),
        (
            ["--models=a/b", "--task_groups=belebele-eu-5-shot[deu_Latn|deu_Lat]"],
            "--task_groups: belebele-eu-5-shot has no language 'deu_Lat', did you mean deu_Latn?",
        ),
        (["--models=a/b", "--task_groups=mgsm-eu[]"], "--task_groups: mgsm-eu has no language ''"),
        (["--models=a/b", "--task_groups=mgsm-eu[de"], "--task_groups: expected SUITE or SUITE["),
        (
            ["--models=a/b", "--task_groups=open-sci-0.01[deu_Latn]"],
            "--task_groups: open-sci-0.01 has no language 'deu_Latn'",
        ),
        (["--models=a/b c", "--tasks=t"], "'a/b c' is neither a directory nor a hub id"),
        (["--models=dtype=float16,a/b", "--tasks=t"], "'dtype=float16' is neither a directory nor"),
        (["--models=a/b,revision=1,revision=2", "--tasks=t"], "--models: expected each model arg"),
        (["--models=./none", "--tasks=t"], "{here}/none: no such directory"),
        (["--models=empty", "--tasks=t"], "{here}/empty: no model here: no config.json in it or"),
        # The comma is in the second model, when the first one could have been printed.
        (["--models=runs", "--tasks=t"], "'{here}/runs/iter_2,x': a model's path cannot have a "),
        (["--models=a/b", "--tasks=\udcff"], "task_path: expected UTF-8 text without NUL, got '"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_before_the_first_row(
    run: Run, tmp_path: Path, arguments: list[str], message: str
) -> None:
    make_checkpoints(tmp_path, "runs/iter_1", "runs/iter_2,x")
    (tmp_path / "empty").mkdir()
    assert refusal(run, *arguments).startswith(message.format(here=os.fspath(tmp_path)))
