"""oellm build-csv on a terminal of 80 × 24: from questions to a manifest, and back."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.model_directories import write_model
from support.processes import BIN, Run, clean_environment
from support.terminal import converse, end

DOWN, LEAVE, ERASE = "\x1b[B", "\x03", "\x15"
Start = Callable[..., Any]
NEXT = r"What next\?"


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    snapshot = tmp_path / "home/.cache/huggingface/hub/models--acme--tiny/snapshots/1234"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (tmp_path / "here").mkdir()
    home = tmp_path / "home"
    return clean_environment(home, {"OELLM_CLUSTER": "local", "PATH": f"{BIN}:{os.defpath}"})


@pytest.fixture
def start(env: dict[str, str], tmp_path: Path) -> Start:
    def begin(*words: str) -> Any:
        return converse(*words, env=env, cwd=tmp_path / "here")

    return begin


def answer(asked: Any, question: str, keys: str) -> None:
    asked.expect(question)
    asked.expect(r"\)|: ")
    asked.send(keys)


def choose_tiny(asked: Any, tasks: str, shots: str = "") -> None:
    """Choose the model of the cache, no suite, and some tasks."""
    answer(asked, r"Which models\?", "tiny \r")
    answer(asked, r"Which suites\?", "\r")
    answer(asked, "Single tasks", f"{tasks}\r")
    answer(asked, "Numbers of their examples", f"{shots}\r")


def shown_command(asked: Any) -> str:
    """Let it show the command line, and return that."""
    answer(asked, NEXT, "command line\r")
    asked.expect("show the command line that makes these rows.*?(oe-manifest .*?)" + NEXT)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\r", "", asked.match[1])
    return str(text.rpartition("\n\n")[0])


@pytest.mark.slow
def test_the_questions_end_in_what_oe_manifest_prints(
    run: Run, start: Start, env: dict[str, str], tmp_path: Path
) -> None:
    write_model(tmp_path / "here" / "runs" / "iter_1")
    write_model(tmp_path / "here" / "runs" / "iter_2")
    asked = start("oellm", "build-csv")
    # Nothing is chosen yet.
    answer(asked, r"Which models\?", "\r")
    answer(asked, "mark at least 1", "tiny " + "\x7f" * 4 + "others \r")
    asked.expect("Names on the hub, or paths:")
    asked.send("runs/it")
    asked.expect("iter_2")
    asked.send(DOWN + DOWN + "\r\r")
    answer(asked, r"Which suites\?", "belebele \r")
    answer(asked, r"All 24 languages of these suites\?", "n")
    answer(asked, r"Which languages\?", "deu \x7f\x7f\x7ffra \r")
    answer(asked, r"Single tasks, too\?", "y")
    answer(asked, "Single tasks, separated by commas", "gsm8k, gsm9k, evalplus:humaneval\r")
    answer(asked, "Numbers of their examples", "0,x")
    asked.expect("expected a non-negative integer, got 'x'")
    asked.send("\x7f5\r")
    # Back to what was wrong.
    asked.expect("oe-manifest: --tasks: .*gsm9k.*evalplus has no few-shot examples")
    answer(asked, NEXT, "single\r")
    answer(asked, r"Which of the single tasks\?", "\r")
    answer(asked, "Single tasks, separated by commas", f"{ERASE}gsm8k\r")
    answer(asked, "Numbers of their examples", "\r")
    asked.expect("2 models × 3 tasks: 8 rows")
    answer(asked, NEXT, "single\r")
    answer(asked, r"Which of the single tasks\?", "add\r")
    answer(asked, "Single tasks, separated by commas", "evalplus:humaneval\r")
    answer(asked, "Numbers of their examples", "\r")
    answer(asked, NEXT, "other settings\r")
    answer(asked, r"Which setting\?", "batch\r")
    answer(asked, "batch_size", "8\r")
    asked.expect("2 models × 4 tasks: 10 rows")
    command = shown_command(asked)
    assert "'--task_groups=belebele-eu-5-shot[fra_Latn|deu_Latn]'" in command
    asked.send("save\r")
    answer(asked, "Save it as", "\r")
    asked.expect("evals.csv\r\nwhat it costs: ")
    asked.expect("oe-fetch evals.csv | oe-render | oe-submit")
    assert end(asked) == 0
    saved = (tmp_path / "here" / "evals.csv").read_bytes()
    (tmp_path / "here" / "evals.csv").unlink()
    subprocess.run(["sh", "-ec", command], env=env, cwd=tmp_path / "here", check=True)
    assert (tmp_path / "here" / "evals.csv").read_bytes() == saved
    assert sorted(os.listdir(tmp_path / "here")) == ["evals.csv", "runs"]


@pytest.mark.slow
def test_rows_are_added_to_a_file_that_is_there(
    start: Start, env: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "here" / "old.csv"
    old = "model_path,task_path,n_shot,note\nacme/tiny,gsm8k,5,mine\n"
    file.write_text(old)
    asked = start("oellm", "build-csv", "old.csv")
    answer(asked, "old.csv is there, with 1 row. What now", "leave\r")
    asked.expect("nothing was written")
    assert end(asked) == 1
    assert file.read_text() == old
    asked = start("oellm", "build-csv", "old.csv")
    answer(asked, "old.csv is there, with 1 row. What now", "\r")
    choose_tiny(asked, "gsm8k", "0,5")
    asked.expect("1 row left out, which came before")
    asked.expect("1 model × 1 task: 1 row, added to 1 row")
    command = shown_command(asked)
    # Somebody else changes it meanwhile.
    file.write_text(old + "acme/tiny,mmlu,5,theirs\n")
    asked.send("add it\r")
    asked.expect("1 model × 1 task: 1 row, added to 2 rows")
    answer(asked, NEXT, "add it\r")
    assert end(asked) == 0
    new = "model_path,task_path,n_shot,note,eval_suite\nacme/tiny,gsm8k,5,mine,\n"
    last = "acme/tiny,gsm8k,0,,lm_eval\n"
    assert file.read_text() == f"{new}acme/tiny,mmlu,5,theirs,\n{last}"
    file.write_text(old)
    subprocess.run(["sh", "-ec", command], env=env, cwd=tmp_path / "here", check=True)
    assert file.read_text() == new + last
    assert os.listdir(tmp_path / "here") == ["old.csv"]


@pytest.mark.slow
def test_a_pipe_gets_the_rows_and_no_file_is_overwritten_unasked(
    run: Run, start: Start, tmp_path: Path
) -> None:
    (tmp_path / "here" / "evals.csv").write_text("no manifest\n")
    asked = start("/bin/sh", "-c", "oellm build-csv - | cat > rows")
    choose_tiny(asked, "gsm8k")
    answer(asked, NEXT, "print\r")
    assert end(asked) == 0
    rows = run("oe-manifest", "--models=acme/tiny", "--tasks=gsm8k").stdout
    assert (tmp_path / "here" / "rows").read_text() == rows
    asked = start("oellm", "build-csv")
    choose_tiny(asked, "gsm8k")
    answer(asked, NEXT, "save\r")
    answer(asked, "Save it as", "\r")
    asked.expect("no rows can be added: evals.csv")
    answer(asked, "evals.csv is there, with other content. What now", "\r")
    answer(asked, NEXT, "save\r")
    answer(asked, "Save it as", f"{ERASE}no/where.csv\r")
    asked.expect("no: no such directory")
    asked.send(f"{ERASE}second.csv\r")
    assert end(asked) == 0
    assert (tmp_path / "here" / "evals.csv").read_text() == "no manifest\n"
    assert (tmp_path / "here" / "second.csv").read_text() == rows


def test_somebody_leaves_and_nothing_stays(start: Start, tmp_path: Path) -> None:
    asked = start("oellm", "build-csv", "rows.csv")
    answer(asked, r"Which models\?", "tiny \r")
    answer(asked, r"Which suites\?", LEAVE)
    asked.expect("oellm: interrupted")
    assert end(asked) == 130
    assert os.listdir(tmp_path / "here") == []


def test_what_is_missing_is_said(run: Run, start: Start, tmp_path: Path) -> None:
    refused = run("oellm", "build-csv", status=2)
    assert refused.stderr == (
        "oellm: build-csv asks on a terminal, and stdin or stderr is none: use oe-manifest\n"
        "see oe-manifest --help\n"
    )
    program = (
        "import sys; sys.modules['questionary'] = None; sys.argv = ['oellm', 'build-csv']; "
        "import oellm_cli; sys.exit(oellm_cli.main())"
    )
    asked = start("python", "-c", program)
    asked.expect(r"needs the package questionary: pip install 'oellm\[menu\]'")
    assert end(asked) == 3
    asked = start("oellm", "build-csv", "no/where.csv")
    asked.expect("oellm: no: no such directory")
    assert end(asked) == 2
