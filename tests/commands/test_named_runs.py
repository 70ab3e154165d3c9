"""Runs with names: where the name is seen, and how oe-status and other commands find runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support.environments import idle_venv
from support.processes import Run, clean_environment, rows_of
from support.submitted_run import write_result
from support.submitting import HEADER, FakeSlurm
from support.terminal import lines_on_terminal


class Account:
    """Renders runs below one directory, and looks at them."""

    def __init__(self, run: Run, slurm: FakeSlurm, base: Path) -> None:
        self._run = run
        settings = {"eval_base_dir": str(base), "venv": str(idle_venv()), "executor": "slurm"}
        (base / "clusters.json").write_text(json.dumps({"clusters": {"here": settings}}))
        config = {"OELLM_CONFIG": str(base / "clusters.json"), "OELLM_CLUSTER": "here"}
        self.env = {**slurm.env, **config, "LOGNAME": "ada"}

    def render(self, *options: str, rows: str = "acme/m,t,0\n", user: str = "ada") -> Path:
        env = {**self.env, "LOGNAME": user}
        return Path(
            json.loads(self._run("oe-render", *options, stdin=HEADER + rows, env=env).stdout)[
                "run_dir"
            ]
        )

    def listed(self, *options: str) -> list[str]:
        """Return the directories of the runs that oe-status lists."""
        told = self._run("oe-status", "--format=jsonl", *options, env=self.env).stdout
        return [Path(json.loads(line)["run_dir"]).name for line in told.splitlines()]

    def call(self, *command: str | Path, **how: Any) -> tuple[str, str]:
        done = self._run(*command, env=self.env, **how)
        return done.stdout, done.stderr


@pytest.fixture
def account(run: Run, slurm: FakeSlurm, tmp_path: Path) -> Account:
    return Account(run, slurm, tmp_path)


def test_a_name_is_in_the_directory_the_record_the_job_and_the_list(
    account: Account, slurm: FakeSlurm, tmp_path: Path
) -> None:
    first, second = (account.render("--name=weekly.1") for _ in range(2))
    assert first.name.endswith("-weekly.1")
    assert first.name != second.name
    record = json.loads((first / "run.json").read_text())
    assert (record["name"], record["user"]) == ("weekly.1", "ada")
    assert "#SBATCH --job-name=weekly.1\n" in (first / "submit_evals.sbatch").read_text()
    dry, _ = account.call("oe-render", "--dry_run", "--name=x", stdin=f"{HEADER}acme/m,t,0\n")
    assert "#SBATCH --job-name=x\n" in dry
    elsewhere = account.render("--name=other", f"--run_dir={first.parent / 'mine'}")
    assert elsewhere.name == "mine"
    lines = lines_on_terminal("oe-status", env=clean_environment(tmp_path, account.env))
    assert [line.split("  ")[0] for line in lines[3:]] == ["mine (other)", second.name, first.name]
    assert max(map(len, lines[2:])) <= 80
    for bad in ("", "a b", "-x", "../x", "x" * 61, "é"):
        _, said = account.call(
            "oe-render", f"--name={bad}", stdin=f"{HEADER}acme/m,t,0\n", status=2
        )
        assert "--name: expected 1 to 60 letters" in said


def test_oe_status_finds_runs_by_what_they_are(account: Account) -> None:
    failed = account.render(
        "--name=broken", rows="EleutherAI/pythia-70m,mmlu,0\nacme/other,arc_easy,0\n"
    )
    (eval_id, _) = (row["eval_id"] for row in rows_of((failed / "jobs.csv").read_text()))
    failure = {"class": "ValueError", "message": "no", "attempts": 1, "log": ""}
    ours = {"failure": failure, "timing": {"finished": "2026-01-01T00:00:00+00:00"}}
    (failed / "failures").mkdir()
    (failed / "failures" / f"{eval_id}.json").write_text(json.dumps({"oellm": ours}))
    done = account.render("--name=done", rows="acme/other,mmlu,0\n")
    write_result(done, "mmlu")
    other = account.render("--name=nightly-7", user="ann")
    names = [done.name, failed.name]
    assert account.listed() == names
    assert account.listed("--last=1") == names[:1]
    assert account.listed("--name=don*") == account.listed("--state=done") == [done.name]
    assert account.listed("--model=*pythia*") == [failed.name]
    assert account.listed("--model=other", "--task=mmlu") == [done.name]
    assert account.listed("--state=not-submitted") == [failed.name]
    assert account.listed("--state=failed,lost", "--task=mm?u") == [failed.name]
    assert account.listed("--user=ann") == [other.name]
    assert account.listed("--user=*", "--name=nightly-[0-9]") == [other.name]
    _, said = account.call("oe-status", "--state=lots", status=2)
    assert "expected one of done, running, pending, not submitted, failed" in said
    _, said = account.call("oe-status", "--task=mmlu", done, status=2)
    assert "--task selects runs of the list: leave out the run" in said
    _, said = account.call("oe-status", "--format=table", "--name=none")
    assert "no such runs below" in said


def test_a_name_stands_for_the_directory_of_the_only_run_that_has_it(
    account: Account, tmp_path: Path
) -> None:
    made = account.render("--name=weekly")
    told, _ = account.call("oe-submit", "weekly")
    assert json.loads(told)["run_dir"] == str(made)
    told, _ = account.call("oe-status", "weekly", status=75)
    assert [row["state"] for row in rows_of(told)] == ["pending"]
    told, _ = account.call("oe-missing", made.name)
    assert [row["task_path"] for row in rows_of(told)] == ["t"]
    write_result(made, "t")
    told, _ = account.call("oe-collect", "weekly")
    assert [row["value"] for row in rows_of(told)] == ["0.5"]
    again = account.render("--name=weekly")
    for command in ("oe-status", "oe-submit", "oe-missing", "oe-collect"):
        _, said = account.call(command, "weekly", status=2)
        assert said == f"{command}: weekly: 2 runs have this name, give one of {again}, {made}\n"
    # A directory of this name comes first.
    (tmp_path / "weekly").mkdir()
    _, said = account.call("oe-status", "weekly", status=2)
    assert "weekly: not a run directory" in said


def test_commands_that_print_scores_know_names_of_runs(account: Account, tmp_path: Path) -> None:
    made = account.render("--name=weekly")
    write_result(made, "t")
    told, _ = account.call("oe-pivot", "--rows=task", "--cols=model_path", "weekly")
    assert rows_of(told)[0]["task"] == "t"
    told, _ = account.call("oe-compare", "weekly", "weekly")
    assert [row["task"] for row in rows_of(told)] == ["t"]
    account.call("oe-report", "--output=page.html", "weekly")
    assert str(made) in (tmp_path / "page.html").read_text()
    again = account.render("--name=weekly")
    words: list[str]
    for words in (
        *(["oe-pivot", "weekly"], ["oe-compare", str(made), "weekly"], ["oe-report", "weekly"]),
        ["oe-missing", "--in=weekly"],
    ):
        _, said = account.call(*words, status=2)
        assert f": 2 runs have this name, give one of {again}, {made}\n" in said


def test_oe_missing_takes_a_manifest_by_its_path_and_runs_by_their_names(account: Account) -> None:
    made = account.render("--name=weekly")
    write_result(made, "t")
    rows = f"{HEADER}acme/m,t,0\nacme/m,u,0\n"
    told, _ = account.call("oe-missing", "--in=weekly", stdin=rows)
    assert [row["task_path"] for row in rows_of(told)] == ["u"]
    _, said = account.call("oe-missing", "--in=weekly", "weekly", status=2)
    assert said == "oe-missing: weekly: No such file or directory\n"


def test_a_named_run_in_a_directory_of_another_name_is_found(account: Account) -> None:
    named = account.render("--name=5")
    elsewhere = account.render("--name=other", f"--run_dir={named.parent / 'mine15'}")
    fifth = account.render("--name=15", f"--run_dir={named.parent / 'run15'}")
    told, _ = account.call("oe-submit", "other")
    assert json.loads(told)["run_dir"] == str(elsewhere)
    told, _ = account.call("oe-submit", "5")
    assert json.loads(told)["run_dir"] == str(named)
    told, _ = account.call("oe-status", "--format=table", elsewhere, status=75)
    assert told.startswith(f"{elsewhere} (other)\n")
    told, _ = account.call("oe-status", "--format=table", fifth, status=75)
    assert told.startswith(f"{fifth} (15)\n")
    _, said = account.call("oe-status", "--cluster=nowhere", "other", status=2)
    assert "unknown cluster" in said
    # Without --cluster, a machine that is no cluster has no names.
    account.env.pop("OELLM_CLUSTER")
    _, said = account.call("oe-status", "other", status=2)
    assert "other: " in said


def test_what_is_no_run_is_told_with_the_reason(run: Run, account: Account, tmp_path: Path) -> None:
    below = f"no such directory, nor a run of this name below {tmp_path}/"
    for command in (("oe-status",), ("oe-submit", "--cancel")):
        _, said = account.call(*command, "gone", status=2)
        assert said.startswith(f"{command[0]}: gone: {below}")
        assert "expected a run" in account.call(*command, "", status=2)[1]
        lost = run(*command, "gone", env={**account.env, "OELLM_CLUSTER": "hre"}, status=2).stderr
        assert "gone: no such directory; names of runs need: unknown cluster 'hre', did" in lost
    for option in ("--name", "--state", "--user", "--log"):
        assert f"{option} needs a value" in account.call("oe-status", f"{option}=", status=2)[1]
    damaged, sound = account.render("--name=damaged"), account.render("--name=sound")
    (damaged / "jobs.csv").unlink()
    listed, said = account.call("oe-status")
    assert sound.name in listed
    assert said.startswith(f"oe-status: {damaged}/jobs.csv: No such file or directory\n")


def test_wait_done_in_two_words_is_explained(account: Account) -> None:
    _, said = account.call("oe-submit", "--wait", "done", status=2)
    assert said == "oe-submit: --wait done: write --wait=done\n"
    _, said = account.call("oe-submit", "--wait", "done", "run", status=2)
    told = "unexpected argument 'run'; a value of --wait follows an equals sign: --wait=…"
    assert said.startswith(f"oe-submit: {told}\n")


def test_a_filter_leaves_older_runs_unseen(account: Account) -> None:
    for name in ("a", "b", "b"):
        account.render(f"--name={name}")
    _, said = account.call("oe-status", "--name=b", "--last=1")
    assert "2 older runs were not looked at; --last=N lists N runs" in said
