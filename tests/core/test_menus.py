"""Questions on a terminal of 80 × 24, answered key by key; and without a terminal."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oellm.core.menus import choose_several, require_terminal
from oellm.errors import MachineError, UsageError
from support.processes import clean_environment
from support.terminal import converse, end

DOWN, LEAVE, BACKSPACE, END = "\x1b[B", "\x03", "\x7f", "\x04"
Question = Callable[..., Any]
TASKS = ["humaneval", "mbpp", "multiple-cpp", "multiple-py"]

# A command that asks one question and replaces the arguments in a file by the answer.
ASKS = """
import json, sys
from oellm import cli
from oellm.core import menus

def command(arguments):
    menus.require_terminal("--tasks")
    with open(sys.argv[2]) as stream:
        positional, named = json.load(stream)
    answer = getattr(menus, sys.argv[1])(*positional, **named)
    with open(sys.argv[2], "w") as stream:
        json.dump(answer, stream)
    return 0

sys.exit(cli.run("asks", doc="Usage:\\n  asks\\n\\nOptions:\\n", command=command, argv=[]))
"""


@pytest.fixture
def question(tmp_path: Path) -> Question:
    def start(function: str, *arguments: object, **options: object) -> Any:
        file = tmp_path / "answer"
        file.write_text(json.dumps([arguments, options]))
        env = clean_environment(tmp_path)
        return converse("python", "-c", ASKS, function, file, env=env, cwd=tmp_path)

    return start


def answer_in(directory: Path) -> object:
    return json.loads((directory / "answer").read_text())


def test_letters_filter_and_space_marks(question: Question, tmp_path: Path) -> None:
    asked = question("choose_several", "Tasks?", TASKS)
    asked.expect("Space marks")
    asked.send("\r")
    asked.expect("mark at least 1 with Space")
    asked.send("multi" + DOWN + " " + BACKSPACE * 5 + " \r")
    assert end(asked) == 0
    assert answer_in(tmp_path) == ["humaneval", "multiple-py"]


def test_what_was_chosen_before_is_marked(question: Question, tmp_path: Path) -> None:
    asked = question("choose_several", "Tasks?", TASKS, chosen=["mbpp"], least=0)
    asked.expect("Space marks")
    asked.send(DOWN + " \r")
    assert end(asked) == 0
    assert answer_in(tmp_path) == []


def test_one_of_many_is_found_by_a_part_of_its_name(question: Question, tmp_path: Path) -> None:
    names = [f"/scratch/models/{number:05}/checkpoint" for number in range(9000)]
    asked = question("choose", "Model?", names)
    asked.expect("9000 are known; part of their names:")
    asked.send("check\r")
    asked.expect("9000 of 9000 contain this")
    asked.send(BACKSPACE * 5 + "0421\r")
    asked.expect("type to filter")
    asked.send(DOWN * 3 + "\r")
    assert end(asked) == 0
    assert answer_in(tmp_path) == "/scratch/models/04212/checkpoint"


def test_enter_means_no(question: Question, tmp_path: Path) -> None:
    asked = question("confirm", "Overwrite config.json?")
    asked.expect(r"Overwrite config.json\?")
    asked.send("\r")
    assert end(asked) == 0
    assert answer_in(tmp_path) is False


def test_names_of_others_cannot_move_the_cursor(question: Question, tmp_path: Path) -> None:
    evil = "a\x1b[2J\nb"
    asked = question("choose", "Model?", [evil])
    asked.expect("type to filter")
    asked.send("\r")
    assert end(asked) == 0
    assert answer_in(tmp_path) == evil
    assert "\x1b[2J" not in asked.before


def test_somebody_leaves(question: Question) -> None:
    asked = question("ask", "Model?")
    asked.expect(r"Model\?")
    asked.send(LEAVE)
    asked.expect("asks: interrupted")
    assert end(asked) == 130


def test_the_end_of_the_input_is_no_answer(question: Question) -> None:
    asked = question("ask", "Model?")
    asked.expect(r"Model\?")
    asked.send(END)
    asked.expect("asks: the question was not answered")
    assert end(asked) == 2


def test_without_a_terminal_the_missing_option_is_named(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ASKS, "ask", str(tmp_path / "answer")],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "asks: --tasks is missing (on a terminal it is asked for)\n"
    with pytest.raises(UsageError, match="--models is missing"):
        require_terminal("--models")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "questionary", None)
    with pytest.raises(MachineError, match=r"pip install 'oellm\[menu\]'"):
        choose_several("Tasks?", TASKS)
