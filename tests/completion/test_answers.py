"""What `oellm __complete` answers to the scripts of the shells."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from oellm.completion.command_line import CommandLine, LastWord, split_line
from oellm.completion.offers import enumerated
from oellm.manuals.loading import load_manual
from oellm.wrappers.schedule import CHAIN
from support.processes import ROOT, Run, clean_environment
from support.waiting import wait_until

BREAKS = " \t\n\"'><=;|&(:"
COMMANDS = re.findall(
    r'^([\w-]+) = "\w+:main"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE
)
SCRIPTS = [ROOT / "completions" / name for name in ("bash/oellm", "zsh/_oellm", "fish/oellm.fish")]
# The function of the script for bash, as bash calls it for each of its arguments.
CALL = """
. "$0"; compopt() { :; }
for COMP_LINE; do
    COMP_POINT=${#COMP_LINE}; _oellm; printf '%s\\n' "$COMP_LINE" "${COMPREPLY[@]}" ''
done
"""


def offered(run: Run, line: str, **env: str) -> list[str]:
    """Return the words that bash gets for a line."""
    done = run("oellm", "__complete", "bash", BREAKS, line, env=env)
    assert done.stderr == ""
    return [answer.split("\t")[0] for answer in done.stdout.splitlines()[1:]]


def await_words(run: Run, line: str) -> list[str]:
    """Return words that a busy machine finds too late for the first TAB, and keeps for the next."""
    wait_until(lambda: bool(offered(run, line)))
    return offered(run, line)


def test_every_option_of_every_manual_is_offered(tmp_path: Path) -> None:
    expected = {}
    for command in COMMANDS:
        manual = load_manual(command)
        words = [f"{name}=" if form == "=" else name for name, form in manual.forms.items()]
        if not manual.subcommands():
            expected[f"{command} --"] = set(words)
    chain = {}
    for command in CHAIN:
        chain |= load_manual(command).forms
    for name in ("--list", "--rows", "--check", "--format", "--cancel"):
        del chain[name]
    options = {**chain, **load_manual("oellm").forms}
    every = {f"{name}=" if form == "=" else name for name, form in options.items()}
    expected |= {"oellm schedule-eval --": every, "oellm schedule --": every}
    given = subprocess.run(
        ["bash", "-c", CALL, SCRIPTS[0], *expected, "global-benchmark run --", "oellm run --"],
        env=clean_environment(tmp_path),
        capture_output=True,
        text=True,
        check=True,
    )
    assert given.stderr == ""
    blocks = [block.splitlines() for block in given.stdout.split("\n\n") if block]
    found = {line: set(words) for line, *words in blocks}
    run_options = {"--model=", "--tasks=", "--samples=", "--limit=", "--cell=", "--slurm"}
    run_options |= {"--help", "--version"}
    assert found.pop("global-benchmark run --") == run_options
    assert found.pop("oellm run --") == run_options
    assert found == expected
    assert len(found) == len(COMMANDS)


def test_the_scripts_are_for_all_commands() -> None:
    for script in SCRIPTS:
        lines = script.read_text().replace("\\\n", " ").splitlines()
        start = ("complete ", "    compdef ", "#compdef ")
        for line in (line for line in lines if line.startswith(start)):
            names = re.findall(r"(?<![\w(])(?:oe-[\w-]+|global-benchmark|oellm)\b", line)
            assert set(names) == set(COMMANDS), script
    for shell, suffix in (("bash", ""), ("fish", ".fish")):
        files = (ROOT / "completions" / shell).iterdir()
        assert {path.name for path in files} == {f"{name}{suffix}" for name in COMMANDS}
        assert len({path.read_bytes() for path in (ROOT / "completions" / shell).iterdir()}) == 1


def test_values_that_manuals_list_are_those_that_are_offered() -> None:
    found = {}
    for command in COMMANDS:
        for name, said in load_manual(command).describe_options().items():
            if said.value and (values := enumerated(said.text, name)):
                found.setdefault(name, set()).add(" ".join(values))
    tables = "csv jsonl json table markdown latex html parquet"
    assert found == {
        "--format": {
            "jsonl json csv table markdown latex html",
            f"{tables} dashboard",
            tables,
            "table csv json jsonl",
            "table csv",
            "table csv jsonl json",
        },
        "--way": {"root userns fakeroot proot remote"},
        "--backend": {"hf vllm"},
        "--apply_chat_template": {"true false"},
        "--executor": {"slurm local"},
        "--wait": {"done"},
    }


def test_what_is_given_is_offered_again_only_if_it_may_repeat(run: Run) -> None:
    words = offered(run, "oe-render --set=a=b --dry-run --cluster leonardo --")
    assert "--set=" in words
    assert {"--dry_run", "--cluster="}.isdisjoint(words)
    assert offered(run, "oe-render -- --") == []


def test_commands_and_their_shortcuts(run: Run, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    own = tmp_path / "bin" / "oe-mine"
    own.write_text("#!/bin/sh\n")
    own.chmod(0o755)
    path = f"{own.parent}:{os.environ['PATH']}"
    words = offered(run, "oellm ", PATH=f"{clean_environment(tmp_path)['PATH']}:{path}")
    assert {name.removeprefix("oe-") for name in COMMANDS if name.startswith("oe-")} <= {*words}
    assert {"mine", "schedule-eval", "cancel", "setup", "run", "help", "completion"} <= {*words}
    assert "__complete" not in words
    assert offered(run, "oellm completion ") == ["bash", "zsh", "fish"]
    assert offered(run, "oellm help rend") == ["render"]
    assert offered(run, "oellm cancel --dry") == ["--dry_run"]
    assert offered(run, "oellm cancel --can") == []
    # An option of all commands, whose value decides about another one.
    assert "mbpp" in await_words(run, "oellm schedule --eval_suite bigcode_eval --tasks=mb")
    assert offered(run, "oe-render --set execu") == ["executor="]
    assert offered(run, "oe-render --set executor=") == ["slurm", "local"]


def test_only_the_cached_index_of_tasks_is_read(run: Run, tmp_path: Path) -> None:
    line = "oe-manifest --models=m --tasks=arc_easy,hellasw"
    assert offered(run, line, OELLM_CACHE_DIR=f"{tmp_path}/none") == []
    assert not (tmp_path / "none").exists()
    run("oe-manifest", "--models=a/b", "--tasks=hellaswag")
    assert "arc_easy,hellaswag" in await_words(run, line)


def test_a_file_of_odd_content_takes_away_only_its_own_words(run: Run, tmp_path: Path) -> None:
    (tmp_path / "clusters.json").write_text('{"clusters": [')
    env = {"OELLM_CONFIG": f"{tmp_path}/clusters.json"}
    assert offered(run, "oe-render --cluster=", **env) == []
    assert offered(run, "oe-status ", **env) == []
    assert offered(run, "oe-render --exp", **env) == ["--explain"]
    cluster = {"eval_output_dir": f"{tmp_path}/runs", "hostnames": ["*"], "eval_base_dir": "/x"}
    names = dict.fromkeys(("new\nline", "tab\tulator", "esc\x1b[2J", "plain"), cluster)
    (tmp_path / "clusters.json").write_text(json.dumps({"clusters": names}))
    words = offered(run, "oe-render --cluster=", **env)
    assert "plain" in words
    assert not [word for word in words if word.startswith(("new", "tab", "esc"))]


def test_runs_are_offered_by_names_that_only_one_has(run: Run, tmp_path: Path) -> None:
    runs = tmp_path / "runs" / "me"
    stamps = [f"2026-01-02-03-04-0{second}" for second in range(5)]
    names = [f"{stamps[0]}-tiny", f"{stamps[1]}-twice", f"{stamps[2]}-twice", stamps[3]]
    names += [f"{stamps[3]}-2", f"{stamps[4]}-2-tiny", "by-hand"]
    for name in names:
        (runs / name).mkdir(parents=True)
        (runs / name / "run.json").touch()
    (runs / "2026-01-02-03-04-09-none").mkdir()
    env = {"EVAL_OUTPUT_DIR": str(runs.parent), "OELLM_CLUSTER": "local", "LOGNAME": "me"}
    assert offered(run, "oe-status --name=", **env) == sorted([*names, "tiny"])
    assert offered(run, "oe-collect ti", **env) == ["tiny"]


def test_completion_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; before = {*sys.modules}\n"
        "from oellm.completion import grammar, shells\n"
        "known = grammar.Subcommands(('schedule',), {}, list)\n"
        "for line in sys.argv[1:]: shells.answer('bash', [' =', line], known)\n"
        "print(*{name.partition('.')[0] for name in {*sys.modules} - before}, sep='\\n')"
    )
    lines = ["oellm schedule --tasks=", "oe-render --", "oe-status ", "oe-manifest --eval_suite="]
    lines += ["oe-manifest --task_groups=", "oe-build ", "global-benchmark run --tasks=", "oellm "]
    done = subprocess.run(
        [sys.executable, "-c", code, *lines],
        env=clean_environment(tmp_path),
        capture_output=True,
        text=True,
        check=True,
    )
    own = {path.stem for path in (ROOT / "commands").iterdir()} | {"oellm"}
    assert {*done.stdout.split()} - own - {*sys.stdlib_module_names} == {"orjson"}


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("squashfuse") is None or not os.access("/dev/fuse", os.W_OK) or os.geteuid() != 0,
    reason="needs squashfuse, /dev/fuse and root",
)
def test_a_file_system_that_hangs_costs_two_seconds(run: Run, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "hangs").mkdir()
    make = ["mksquashfs", tmp_path / "empty", tmp_path / "fs"]
    subprocess.run(make, check=True, capture_output=True)
    server = subprocess.Popen(
        ["squashfuse", "-f", tmp_path / "fs", tmp_path / "hangs"], stderr=subprocess.DEVNULL
    )
    try:
        wait_until((tmp_path / "hangs").is_mount, process=server)
        server.send_signal(signal.SIGSTOP)
        env = {"EVAL_OUTPUT_DIR": f"{tmp_path}/hangs", "OELLM_CLUSTER": "local"}
        began = time.monotonic()
        assert offered(run, "oe-status ", **env) == []
        assert 1.5 < time.monotonic() - began < 10
        assert offered(run, "oe-status --wat", **env) == ["--watch"]
    finally:
        server.send_signal(signal.SIGCONT)
        subprocess.run(["umount", "-l", tmp_path / "hangs"], check=False)
        server.wait()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a b c", CommandLine(["a", "b"], LastWord("c"))),
        ("a b ", CommandLine(["a", "b"], LastWord(""))),
        ("X=1 a '' --b=c:d", CommandLine(["a", ""], LastWord("--b=c:d", kept=6))),
        ("a 'b c' \"d\\\" e", CommandLine(["a", "b c"], LastWord('d" e', '"'))),
        (r"a b\ c\=d", CommandLine(["a"], LastWord("b c=d"))),
        ("a --b='c=d", CommandLine(["a"], LastWord("--b=c=d", "'", kept=4))),
        ("a <in 2>err -b >o", CommandLine(["a", "-b"], LastWord("o"), is_file=True)),
        ("a | b 'x;y' $(c d", CommandLine(["c"], LastWord("d"))),
        ("a\\", CommandLine([], LastWord("a"))),
    ],
)
def test_a_line_is_split_as_bash_does(line: str, expected: CommandLine) -> None:
    assert split_line(line, BREAKS) == expected
