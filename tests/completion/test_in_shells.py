"""TAB in bash, zsh and fish, as their users have it.

A shell that is missing skips its tests; with CI=true in the environment they fail instead.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.processes import BIN, ROOT, clean_environment
from support.shells import SHELLS, Shell
from support.skipping import skip_or_fail
from support.waiting import wait_until

pytestmark = pytest.mark.slow

BASH_COMPLETION = Path("/usr/share/bash-completion/bash_completion")
# File names that must become words as they are, and a text that only one of them begins with.
HOSTILE = {
    "blank and.csv": "bl",
    "quote's.csv": "qu",
    'double".csv': "do",
    "run$(touch pwned).csv": "ru",
    "back`touch pwned`.csv": "ba",
    "semi;touch pwned;.csv": "se",
    "new\nline.csv": "new",
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home with a cluster whose runs, and whose name, are odd."""
    home = tmp_path_factory.mktemp("home")
    for name in ("2026-01-02-03-04-05-tiny", "2026-01-02-03-04-06-big", "odd$(touch pwned)"):
        (home / "runs" / "root" / name).mkdir(parents=True)
        (home / "runs" / "root" / name / "run.json").touch()
    mine = {"hostnames": ["*"], "executor": "local", "eval_base_dir": f"{home}"}
    mine["eval_output_dir"] = f"{home}/runs"
    clusters = {"mine": mine, "mi x$(touch pwned)": {}, "mine\nor": {}}
    (home / "clusters.json").write_text(json.dumps({"clusters": clusters}))
    work = home / "work"
    (work / "leonardo").mkdir(parents=True)
    (work / "models").mkdir()
    for name in HOSTILE:
        (work / name).touch()
    # On a busy machine the first answer comes too late; it is kept for the next one.
    command = ["oellm", "__complete", "zsh", "global-benchmark", "run", "--tasks="]
    wait_until(lambda: b"mmlu" in subprocess.check_output(command, env=environment(home)))
    return home


def environment(home: Path) -> dict[str, str]:
    extra = {"OELLM_CONFIG": f"{home}/clusters.json", "USER": "root", "LOGNAME": "root"}
    return clean_environment(home, extra)


@pytest.fixture(scope="module", params=SHELLS)
def shell(request: pytest.FixtureRequest, home: Path) -> Iterator[Shell]:
    shell = Shell(request.param, env=environment(home), cwd=home / "work")
    yield shell
    shell.close()


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("oellm sub", "oellm submit "),
        ("oe-render --cluster=leo", "oe-render --cluster=leonardo "),
        ("oe-render --cluster leo", "oe-render --cluster leonardo "),
        ("oe-render '--cluster=leo", "oe-render '--cluster=leonardo' "),
        ("oellm status --form", "oellm status --format="),
        ("oellm report --fig", "oellm report --figures="),
        ("oellm schedule-eval --queue-l", "oellm schedule-eval --queue_limit="),
        ("oellm schedule-eval --task_groups=open-sci-0", None),
        ("oe-render --set executor=l", "oe-render --set executor=local "),
        (
            "oe-manifest --models a | oe-render --dry",
            "oe-manifest --models a | oe-render --dry_run ",
        ),
        ("oe-pivot --format=j", "oe-pivot --format=json"),
        ("A=b oe-submit --wait=", "A=b oe-submit --wait=done "),
        ("oe-status ti", "oe-status tiny "),
        ("oe-status --name=ti", "oe-status --name=tiny "),
        ("oe-status --state=done,not", "oe-status --state=done,not_submitted"),
        ("oe-manifest --models=x,mo", "oe-manifest --models=x,models/"),
        ("oe-manifest --include_path=mo", "oe-manifest --include_path=models/"),
        ("global-benchmark se", "global-benchmark setup "),
        ("global-benchmark run -t mmlu,humaneval_p", "global-benchmark run -t mmlu,humaneval_plus"),
        ("oe-build evalplus-ev", "oe-build evalplus-evaluate-cpu "),
    ],
)
def test_what_is_unique_is_completed(shell: Shell, typed: str, line: str | None) -> None:
    expected = line or "oellm schedule-eval --task_groups=open-sci-0.01"
    if shell.name == "fish":
        # It completes only what begins as typed, so it gets the other spelling.
        expected = expected.replace("--queue_limit", "--queue-limit")
    # A list may go on, so no blank follows; fish always puts one.
    assert shell.complete(typed).rstrip() == expected.rstrip()


def test_several_words_are_listed(shell: Shell) -> None:
    shell.require_list("oe-manifest --models a | oe-re", {"oe-render", "oe-report"})
    shell.require_list("oe-collect --format ", {"csv", "jsonl", "table", "latex", "parquet"})
    shell.require_list("global-benchmark ", {"config", "list", "run", "save", "setup"})
    shell.require_list("oe-status ", {"tiny", "big", "2026-01-02-03-04-05-tiny"})


def test_odd_names_become_words_as_they_are_or_are_left_out(shell: Shell, home: Path) -> None:
    odd = {f"oe-render {begin}": name for name, begin in HOSTILE.items()}
    odd["oe-status odd"] = "odd$(touch pwned)"
    odd["oe-render --cluster mi\\ "] = "mi x$(touch pwned)"
    odd["oe-fetch 'bl"] = "blank and.csv"
    for typed, name in odd.items():
        line = shell.complete(typed)
        if "\n" in name and line == typed:
            continue
        assert line != typed
        *_, word = shell.split(line)
        assert word == name
    assert not list(home.rglob("pwned"))


@pytest.mark.parametrize("name", SHELLS)
def test_completion_works_without_an_activated_environment(name: str, home: Path) -> None:
    env = {**environment(home), "PATH": "/usr/bin:/bin"}
    load = {
        "bash": f'eval "$({BIN}/oellm completion bash)"',
        "zsh": f'eval "$({BIN}/oellm completion zsh)"',
        "fish": f"{BIN}/oellm completion fish | source",
    }
    shell = Shell(name, env=env, cwd=home / "work", load=load[name])
    assert shell.complete(f"{BIN}/oe-status --sta") == f"{BIN}/oe-status --state="
    shell.close()


@pytest.mark.parametrize("name", SHELLS)
def test_shells_find_the_files_of_a_wheel(name: str, home: Path, tmp_path: Path) -> None:
    """The wheel has these directories below share/ (tests/system/test_packaging.py)."""
    (tmp_path / "fish").mkdir()
    (tmp_path / "bash-completion").mkdir()
    (tmp_path / "fish" / "vendor_completions.d").symlink_to(ROOT / "completions" / "fish")
    (tmp_path / "bash-completion" / "completions").symlink_to(ROOT / "completions" / "bash")
    load = {
        "bash": f". {BASH_COMPLETION}",
        "zsh": f"fpath=({ROOT}/completions/zsh $fpath); autoload -U compinit; compinit -D",
        "fish": "true",
    }
    if name == "bash" and not BASH_COMPLETION.exists():
        skip_or_fail("no bash-completion")
    env = {**environment(home), "XDG_DATA_DIRS": f"{tmp_path}:/usr/share"}
    shell = Shell(name, env=env, cwd=home / "work", load=load[name])
    assert shell.complete("oe-status --sta") == "oe-status --state="
    assert shell.complete("global-benchmark se") == "global-benchmark setup "
    shell.close()
