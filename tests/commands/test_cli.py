"""Common behaviour of all commands: help, bad command lines, failing streams, interrupts."""

from __future__ import annotations

import fcntl
import importlib
import importlib.metadata
import os
import re
import signal
import subprocess
import termios
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from oellm import __version__
from oellm.manuals.usage import arrange
from support.processes import Run, clean_environment

SCRIPTS = {
    point.name: point.module
    for point in importlib.metadata.distribution("oellm").entry_points
    if point.group == "console_scripts"
}
HEAVY = {
    *("torch", "transformers", "datasets", "lm_eval", "huggingface_hub"),
    *("jinja2", "tabulate", "numpy", "matplotlib", "orjson", "docopt", "dataclasses"),
}
HEADER = b"model_path,task_path,n_shot\n"
# Commands that read stdin, with the beginning of an input that they wait for the rest of.
READERS = {
    "oe-build": (["--cluster=local", "--dir=."], b"\n"),
    "oe-collect": ([], b"\n"),
    "oe-missing": ([], b"\n"),
    "oe-pivot": ([], b"\n"),
    "oe-fetch": (["--cluster=local"], HEADER),
    "oe-render": (["--cluster=local"], HEADER),
    "oe-report": ([], b"model_path,task,metric,value\n"),
    "oe-run-task": ([], HEADER),
    "oe-submit": ([], b"\n"),
}
# More than any buffer or pipe holds.
MANY_TASKS = "--tasks=" + ",".join(["t" * 100] * 1_000)
MANY_ROWS = ["oe-manifest", "--models=a/b", MANY_TASKS, "--unchecked_tasks"]


def manual(script: str) -> str:
    return arrange(importlib.import_module(SCRIPTS[script]).__doc__)


def refusal(program: str, stderr: str) -> str:
    """Return the message about a bad command line; the line after it names the manual."""
    message, _, hint = stderr.partition("\n")
    assert hint == f"see {program} --help\n"
    return only_message(program, f"{message}\n")


def only_message(script: str, stderr: str) -> str:
    """Return the one message of a command."""
    assert stderr.startswith(f"{script}: ")
    assert stderr.endswith("\n")
    assert stderr.count("\n") == 1
    return stderr.removeprefix(f"{script}: ").removesuffix("\n")


def start(
    command: list[str], home: Path, unbuffered: str = "", **options: Any
) -> subprocess.Popen[bytes]:
    environment = clean_environment(home, {"PYTHONUNBUFFERED": unbuffered})
    options = {"stdin": subprocess.DEVNULL, "stderr": subprocess.PIPE, **options}
    process: subprocess.Popen[bytes] = subprocess.Popen(
        command, env=environment, cwd=home, **options
    )
    return process


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_the_manual_and_imports_nothing_heavy(run: Run, script: str) -> None:
    shown = run(script, "--help", env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert shown.stdout == manual(script) + "\n"
    # Terminals of 80 columns leave the last one empty.
    assert [line for line in shown.stdout.splitlines() if len(line) > 79] == []
    # People look for an example first.
    _, _, rest = shown.stdout.partition("Usage:\n")
    assert rest.partition("\n\n")[2].startswith("Example")
    imported = {line.rpartition("|")[2].strip() for line in shown.stderr.splitlines()}
    assert "oellm.cli" in imported
    assert not {name.partition(".")[0] for name in imported} & HEAVY


@pytest.mark.parametrize("script", SCRIPTS)
def test_version_is_that_of_the_package(run: Run, script: str) -> None:
    assert run(script, "--version").stdout == f"{script} {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dry_rum"], "unknown option --dry_rum, did you mean --dry_run?"),
        (["--vers"], "unknown option --vers, did you mean --version?"),
        (["--dry"], "unknown option --dry, did you mean --dry_run?"),
        (["-x"], "unknown option -x"),
        (["--dry_run=yes"], "--dry_run takes no value"),
        (["--run_dir"], "--run_dir needs a value"),
        (["--run_dir", "--dry-run"], "--run_dir needs a value"),
        (["--set=a=b", "--run-dir=x", "--run_dir=y"], "--run_dir is given twice"),
        (["one.csv", "two.csv"], "unexpected argument 'two.csv'"),
    ],
)
def test_a_bad_command_line_is_refused_in_two_lines(
    run: Run, arguments: list[str], message: str
) -> None:
    refused = run("oe-render", *arguments, status=2)
    assert refused.stdout == ""
    assert refusal("oe-render", refused.stderr) == message


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("oe-manifest --tasks=a", "--models is missing"),
        ("oe-manifest --list --limit=1", "--limit does not go with --list"),
        ("oe-run-task e.csv", "unexpected argument 'e.csv'"),
        ("oe-status --log", "--log needs a value"),
        ("oe-compare", "A is missing"),
    ],
)
def test_a_message_says_what_does_not_match_the_usage(
    run: Run, command: str, expected: str
) -> None:
    program, *arguments = command.split()
    assert refusal(program, run(program, *arguments, status=2).stderr) == expected


@pytest.mark.parametrize("script", SCRIPTS)
def test_no_command_takes_abbreviations_or_one_option_twice(run: Run, script: str) -> None:
    head, _, options = manual(script).partition("Options:\n")
    usage = head.partition("\n\nExamples:")[0]
    # Options that may be repeated are in the usage. A switch serves if no other takes a value.
    valued = [name for name in re.findall(r"^  (--\w+)=", options, re.M) if name not in usage]
    switches = re.findall(r"^  (--\w+) ", options, re.M)
    twice = [f"{valued[0]}=1", valued[0], "2"] if valued else [switches[0]] * 2
    first = {"oellm": "schedule-eval", "global-benchmark": "config"}
    subcommand = [first[script]] if script in first else []
    for arguments, message in (
        (["--hel"], "unknown option --hel, did you mean --help?"),
        ([*subcommand, *twice], f"{twice[-2].partition('=')[0]} is given twice"),
    ):
        refused = run(script, *arguments, status=2)
        assert refused.stdout == ""
        assert refusal(script, refused.stderr) == message


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (["oe-fetch", "--jobs=" + "9" * 5000], "--jobs: expected a positive integer, got '999"),
        (["oe-fetch", "--jobs=٣"], "--jobs: expected a positive integer, got '٣'"),
        (["oe-submit", "--poll=³", "."], "--poll: expected a positive integer, got '³'"),
        (
            ["oe-submit", "--queue_limit=", "."],
            "--queue_limit: expected a positive integer",
        ),
        (["oe-status", "--lines=-1", "."], "--lines: "),
        (["oe-run-task", "--jobs=0"], "--jobs: expected a positive integer, got '0'"),
        (["oe-run-task", "--bootstrap_iters=٠"], "--bootstrap_iters: expected a non-negative "),
    ],
)
def test_a_number_has_ascii_digits_only(run: Run, command: list[str], expected: str) -> None:
    done = run(*command, status=2)
    assert expected in done.stderr


@pytest.mark.parametrize("script", ["oe-collect", "oe-missing", "oe-pivot", "oe-report"])
def test_stdin_is_never_dropped_because_of_another_path(run: Run, script: str) -> None:
    refused = run(script, "-", ".", stdin="x", status=2)
    assert refused.stderr == f"{script}: -: stdin cannot be combined with other paths\n"
    # As with an unset variable.
    assert run(script, "", ".", status=2).stderr == f"{script}: expected a path, got ''\n"
    assert "stdin" in run(script, "-", stdin="", status=2).stderr


def test_hyphens_and_underscores_in_option_names_mean_the_same(run: Run) -> None:
    words = ["--models=a/b", "--tasks=t", "--task_groups=mgsm-eu", "--n_shot", "3"]
    words += ["--unchecked_tasks", "--system_instruction=be_brief-please"]
    hyphened = [
        word.replace("_", "-") if word.startswith(("--n", "--task_")) else word for word in words
    ]
    hyphened[-1] = "--system-instruction=be_brief-please"
    manifest = run("oe-manifest", *words).stdout
    assert "be_brief-please" in manifest
    assert run("oe-manifest", *hyphened).stdout == manifest
    rendered = [
        run("oe-render", "--cluster=local", "--run_dir=/r", option, stdin=manifest).stdout
        for option in ("--dry_run", "--dry-run")
    ]
    assert rendered[0] == rendered[1] != ""


def test_a_value_that_may_be_left_out_is_not_taken_from_the_next_word(
    run: Run, tmp_path: Path
) -> None:
    for option, refused in (("--wait", "not a run directory"), ("--wait=dane", "--wait: expected")):
        done = run("oe-submit", option, tmp_path, status=2)
        assert refused in only_message("oe-submit", done.stderr)


@pytest.mark.parametrize("command", [["oe-detect", "--list"], MANY_ROWS], ids=["short", "long"])
def test_output_that_nobody_reads_ends_a_command_silently(
    tmp_path: Path, command: list[str]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = start(command, tmp_path, stdout=writing)
    os.close(writing)
    assert process.communicate(timeout=60)[1] == b""
    assert process.returncode == 141


def test_a_reader_that_leaves_after_one_line_ends_the_command_silently(tmp_path: Path) -> None:
    with start(MANY_ROWS, tmp_path, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"model_path,task_path,n_shot,eval_suite\n"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=60) == 141


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
@pytest.mark.parametrize("command", [["oe-detect", "--list"], MANY_ROWS], ids=["short", "long"])
def test_a_full_disk_is_told_once(tmp_path: Path, command: list[str], unbuffered: str) -> None:
    with Path("/dev/full").open("wb") as full:
        process = start(command, tmp_path, unbuffered, stdout=full)
        message = only_message(command[0], process.communicate()[1].decode())
    assert "No space left on device" in message
    assert process.returncode == 3


@pytest.mark.parametrize("script", READERS)
def test_ctrl_c_while_a_command_reads_ends_it_with_130(tmp_path: Path, script: str) -> None:
    arguments, header = READERS[script]
    with start(
        [script, *arguments],
        tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # Where the tests run in the background, interrupts may be ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        process.stdin.write(header)
        process.stdin.flush()
        while fcntl.ioctl(process.stdin, termios.FIONREAD, b"\0\0\0\0") != b"\0\0\0\0":
            time.sleep(0.01)
        # It has taken all there is; now it waits for more.
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(timeout=20) == 130
        finally:
            process.kill()
        assert only_message(script, process.stderr.read().decode()) == "interrupted"


@pytest.mark.parametrize(
    ("command", "status", "stderr"),
    [
        ("oe-detect --list >&-", 0, ""),
        ("oe-detect --lis 2>&-", 2, ""),
        (
            "oe-render --cluster=local <&-",
            2,
            "oe-render: stdin: expected a CSV header, got nothing: did the command before fail?\n",
        ),
    ],
)
def test_a_closed_stream_is_an_empty_one(run: Run, command: str, status: int, stderr: str) -> None:
    assert run("sh", "-c", command, status=status).stderr == stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "prepare"),
    [
        (["oe-detect", "--cluster=nowhere"], lambda _: None),
        (["oe-render", "--cluster=local", "missing.csv"], lambda _: None),
        (
            ["oe-render", "--cluster=local", "bad.csv"],
            lambda home: (home / "bad.csv").write_text("a,b\n1,2\n"),
        ),
    ],
    ids=["usage", "no file", "input"],
)
def test_a_traceback_is_shown_when_asked_for_and_only_then(
    tmp_path: Path, command: list[str], prepare: Callable[[Path], object]
) -> None:
    prepare(tmp_path)
    quiet, loud = (
        subprocess.run(
            command,
            env=clean_environment(tmp_path, {"OELLM_DEBUG": debug}),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        for debug in ("", "1")
    )
    assert (quiet.returncode, loud.returncode) == (2, 2)
    only_message(command[0], quiet.stderr)
    assert loud.stderr.startswith("Traceback (most recent call last):\n")
    assert loud.stderr.endswith("\n" + quiet.stderr)
