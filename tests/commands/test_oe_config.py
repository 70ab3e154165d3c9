"""oe-config: how a proposal gets into the user's clusters file, and what stays as it was."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest

from support.processes import BIN, Run
from support.recorded_slurm import LoginNode
from support.terminal import converse, end, on_terminal

DOWN = "\x1b[B"


@pytest.fixture
def node(tmp_path: Path) -> LoginNode:
    (tmp_path / "node").mkdir()
    return LoginNode(tmp_path / "node", "snellius-23.11")


def own_file(node: LoginNode) -> Any:
    return json.loads(node.file.read_text())


def test_what_it_writes_is_what_oe_detect_takes_at_once(run: Run, node: LoginNode) -> None:
    done = run("oe-config", "--yes", "--set=images.lm_eval=mine.sif", env=node.env)
    assert done.stderr == f"oe-config: {node.file}: wrote the cluster my-snellius\n"
    assert json.loads(done.stdout) == own_file(node)
    (entry,) = own_file(node)["clusters"].values()
    detected = json.loads(run("oe-detect", env=node.env).stdout)
    assert detected["name"] == "my-snellius"
    assert {key: detected[key] for key in entry} == entry
    assert detected["hf_home"] == f"{node.base}/oellm/hf_home"
    assert detected["images"]["lm_eval"] == "mine.sif"


def test_a_proposal_goes_through_a_pipe(run: Run, node: LoginNode, tmp_path: Path) -> None:
    printed = run("oe-detect", "--propose", env=node.env).stdout
    changed = json.loads(printed)
    changed["clusters"]["my-snellius"]["time_limit"] = "02:00:00"
    env = {"OELLM_CONFIG": str(tmp_path / "other.json"), "FAKE_SLURM": "/nowhere"}
    options = ("--yes", "--cluster=mine", "--set=gpu_partition=gpu_vis", "-")
    done = run("oe-config", *options, stdin=json.dumps(changed), env=env)
    (entry,) = json.loads((tmp_path / "other.json").read_text())["clusters"].values()
    assert (entry["time_limit"], entry["partition"]) == ("02:00:00", "gpu_vis")
    assert "gpu_partition" not in entry
    assert json.loads(done.stdout) == {"clusters": {"mine": entry}}


def test_the_rest_of_the_file_stays_as_it_is(run: Run, node: LoginNode, tmp_path: Path) -> None:
    before = """{
    "defaults": {"queue_limit": 7, "shard_time": "0"},
    "clusters": {
        "zeta": {"unknown": 1.50, "hostnames": ["zeta*"]},
        "my-snellius": {"venv": "/v"},
        "alpha": {"account": "é"}
    }
}
"""
    real = tmp_path / "dotfiles.json"
    real.write_text(before)
    real.chmod(0o600)
    node.file.parent.mkdir()
    node.file.symlink_to(real)
    refused = run("oe-config", "--yes", env=node.env, status=2)
    assert refused.stderr == (
        f"oe-config: {node.file} has a cluster my-snellius already: --force replaces it, "
        "--cluster=NAME gives the new one another name\n"
    )
    assert real.read_text() == before
    run("oe-config", "--yes", "--force", env=node.env)
    assert node.file.is_symlink()
    assert real.stat().st_mode & 0o777 == 0o600
    after = json.loads(real.read_text())
    assert list(after) == ["defaults", "clusters"]
    assert list(after["clusters"]) == ["zeta", "my-snellius", "alpha"]
    assert "venv" not in after["clusters"].pop("my-snellius")
    untouched = json.loads(before)
    del untouched["clusters"]["my-snellius"]
    assert after == untouched
    text = real.read_text()
    assert '\n    "defaults": {\n        "queue_limit": 7,' in text
    assert "é" in text
    run("oe-config", "--yes", "--cluster=mine", env=node.env)
    assert list(own_file(node)["clusters"])[-1] == "mine"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{\n  // mine\n  "clusters": {}}', "2:3: expected JSON: "),
        ('{"clusters": {"a": {}, "a": {}}}', " clusters: an object has the key 'a' twice"),
        ('{"cluster": {}}', " unknown key 'cluster', did you mean clusters?"),
        ('{"clusters": []}', " clusters: expected an object, got []"),
        ('{"defaults": {"acount": "x"}}', " defaults: unknown setting 'acount', did you mean "),
    ],
)
def test_a_file_that_oe_detect_refuses_is_left_alone(
    run: Run, node: LoginNode, content: str, message: str
) -> None:
    node.file.parent.mkdir()
    node.file.write_text(content)
    refused = run("oe-config", "--yes", env=node.env, status=2)
    assert refused.stdout == ""
    assert refused.stderr.replace(", defaults:", ": defaults:").startswith(
        f"oe-config: {node.file}:{message}"
    )
    assert node.file.read_text() == content


@pytest.mark.parametrize(
    ("arguments", "given", "message"),
    [
        (["--set=acount=x"], "", "--set acount: unknown setting 'acount', did you mean account?"),
        (["--cluster=a/b"], "", "name of the cluster: expected letters, digits and ._- (no .json"),
        (["-"], "{", "stdin:1:2: expected JSON: "),
        (["-"], '{"clusters": {}}', "stdin: clusters: expected one cluster, got 0"),
        (
            ["-"],
            '{"clusters": {"x": {"acount": 1}}}',
            "stdin: clusters.x: unknown setting 'acount'",
        ),
        (["-"], '{"clusters": {"x": {"tp": -1}}}', "stdin: clusters.x: tp: expected a positive"),
        (["-"], '{"clusters": {"x": {"account": "a"}}}', "needs {eval_base_dir}, which is not set"),
    ],
)
def test_a_bad_setting_is_refused_before_anything_is_written(
    run: Run, node: LoginNode, arguments: list[str], given: str, message: str
) -> None:
    refused = run("oe-config", "--yes", *arguments, stdin=given, env=node.env, status=2)
    assert message in refused.stderr
    assert not node.file.exists()


def test_several_at_once_lose_no_entry(node: LoginNode, tmp_path: Path) -> None:
    proposal = tmp_path / "proposal.json"
    # With the mark that some editors put first.
    content = '{"clusters": {"x": {"hostnames": ["x*"], "eval_base_dir": "/b"}}}'
    proposal.write_text(f"\ufeff{content}")
    names = [f"c{number}" for number in range(6)]
    running = [
        subprocess.Popen(
            [BIN / "oe-config", "--yes", f"--cluster={name}", proposal],
            env=node.environment(tmp_path),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for name in names
    ]
    assert [process.wait() for process in running] == [0] * 6
    assert sorted(own_file(node)["clusters"]) == names


def test_without_a_terminal_nobody_can_be_asked(run: Run, node: LoginNode) -> None:
    refused = run("oe-config", env=node.env, status=2)
    assert refused.stderr == "oe-config: --yes is missing (on a terminal it is asked for)\n"
    assert not node.file.exists()


def test_what_must_be_filled_in_is_said_and_costs_the_status(run: Run, tmp_path: Path) -> None:
    (tmp_path / "node").mkdir()
    node = LoginNode(tmp_path / "node", "jupiter-24.05")
    done = run("oe-config", "--yes", env=node.env, status=1)
    assert "account must be filled in" in done.stderr
    assert "oe-config --force --set=account=…" in done.stderr
    assert "account" not in own_file(node)["clusters"]["my-jupiter"]
    # What was chosen before would be proposed anew.
    done = run("oe-config", "--yes", "--force", "--set=mem=8G", env=node.env, status=1)
    assert "oe-config --force --set=mem=8G --set=account=…" in done.stderr
    run("oe-config", "--yes", "--force", "--set=account=a42", env=node.env)
    assert own_file(node)["clusters"]["my-jupiter"]["account"] == "a42"


def test_an_entry_that_will_not_be_found_is_named(run: Run, node: LoginNode) -> None:
    done = run("oe-config", "--yes", "--set=hostnames=elsewhere*", env=node.env)
    host = socket.gethostname()
    assert f"no host name pattern of my-snellius matches {host}: set hostnames" in done.stderr
    done = run("oe-config", "--yes", "--force", env={**node.env, "OELLM_CLUSTER": "lumi"})
    assert "OELLM_CLUSTER says that this is the cluster lumi: unset it" in done.stderr


def test_a_machine_that_the_file_knows_keeps_its_name(run: Run, node: LoginNode) -> None:
    node.file.parent.mkdir()
    known = {"clusters": {"ours": {"hostnames": [socket.gethostname()], "eval_base_dir": "/b"}}}
    node.file.write_text(json.dumps(known))
    refused = run("oe-config", "--yes", env=node.env, status=2)
    assert "has a cluster ours already" in refused.stderr
    run("oe-config", "--yes", "--force", env=node.env)
    assert list(own_file(node)["clusters"]) == ["ours"]
    # Another entry for the same machine would never be taken.
    done = run("oe-config", "--yes", "--cluster=other", env=node.env)
    assert "a host name pattern of the cluster ours also matches" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a process another host name")
def test_a_login_node_with_a_number_stands_for_its_siblings(run: Run, node: LoginNode) -> None:
    def config_on(host: str) -> Any:
        script = f"hostname {host} && exec oe-config --yes"
        return run("unshare", "--uts", "sh", "-c", script, env=node.env)

    done = config_on("gold-login03.acme.example")
    (entry,) = json.loads(done.stdout)["clusters"].values()
    assert entry["hostnames"] == ["gold-login*.acme.example"]
    # oellm knows this one, and has the same name for it.
    done = config_on("int4.local.snellius.surf.nl")
    assert "this machine is the cluster snellius of oellm already" in done.stderr
    assert list(own_file(node)["clusters"]) == ["my-snellius", "snellius"]


def test_a_terminal_gets_a_path_and_the_next_commands(node: LoginNode, tmp_path: Path) -> None:
    done = on_terminal("oe-config", "--yes", env=node.environment(tmp_path))
    assert done.stdout.splitlines() == [
        str(node.file),
        "all settings:       oe-detect --explain",
        "what a run needs:   oellm doctor",
    ]


def test_somebody_changes_the_proposal_and_writes_it(node: LoginNode, tmp_path: Path) -> None:
    asked = converse("oe-config", env=node.environment(tmp_path), cwd=tmp_path)
    asked.expect("gpu_h100 +88 nodes")
    asked.expect("What next?")
    asked.send("change\r")
    asked.expect("Which setting?")
    asked.send("partition: gpu\r")
    asked.expect("partition:")
    asked.send("gpu_a100\r")
    # What follows from the partition follows the choice.
    asked.expect("gpu_a100 +your choice; also: gpu_h100")
    asked.expect("cpus_per_gpu +18 ")
    asked.expect("What next?")
    asked.send("add\r")
    asked.expect("Which setting?")
    asked.send("shard_time\r")
    asked.expect("How long a shard should take")
    asked.send("an hour\r")
    asked.expect("expected \\[days-\\]hours:minutes:seconds")
    asked.send("\x15" + "02:00:00\r")
    asked.expect("What next?")
    asked.send("name\r")
    asked.expect("Name of the cluster:.*my-snellius")
    asked.send("\x15" + "a/b\r")
    asked.expect("expected letters, digits and ._-")
    asked.send("\x15" + "mine\r")
    asked.expect("The cluster mine:")
    asked.expect("What next?")
    asked.send("write\r")
    assert end(asked) == 0
    entry = own_file(node)["clusters"]["mine"]
    assert (entry["partition"], entry["cpus_per_gpu"]) == ("gpu_a100", 18)
    assert entry["shard_time"] == "02:00:00"


def test_members_of_maps_are_changed_added_and_removed(node: LoginNode, tmp_path: Path) -> None:
    asked = converse("oe-config", env=node.environment(tmp_path), cwd=tmp_path)

    def act(*answers: tuple[str, str]) -> None:
        for question, keys in (
            ("What next", "change a\r"),
            ("Which setting", "images\r"),
            *answers,
        ):
            asked.expect(question)
            asked.send(keys)

    act(("Which of images", "=lm_eval-\r"), (r"lm_eval=lm_eval-\S*:", "remove\r"))
    act(("Which of images", "add\r"), ("Name of the member", "\r"), ("expected a name", "mine\r"))
    asked.expect(r"images\.mine:")
    asked.send("mine.sif\r")
    act(("Which of images", "lighteval=\r"), ("lighteval=", "change\r"))
    asked.expect(r"images\.lighteval:")
    asked.send("\x15other.sif\r")
    act(("Which of images", "back\r"))
    asked.expect("What next")
    asked.send("\r")
    assert end(asked) == 0
    images = own_file(node)["clusters"]["my-snellius"]["images"]
    # Null also unsets what a packaged cluster has.
    assert images["lm_eval"] is None
    assert (images["mine"], images["lighteval"]) == ("mine.sif", "other.sif")
    assert images["evalplus-evaluate"] == "evalplus-evaluate-cpu.sif"


def test_what_is_open_is_asked_for_first(tmp_path: Path) -> None:
    (tmp_path / "node").mkdir()
    node = LoginNode(tmp_path / "node", "jupiter-24.05")
    asked = converse("oe-config", env=node.environment(tmp_path), cwd=tmp_path)
    asked.expect("fill in: which accounts you have")
    asked.expect("Slurm account that is charged")
    asked.send("a42\r")
    asked.expect("What next?")
    asked.send("\r")
    assert end(asked) == 0
    assert own_file(node)["clusters"]["my-jupiter"]["account"] == "a42"


def test_edits_that_are_made_during_the_dialogue_stay(node: LoginNode, tmp_path: Path) -> None:
    asked = converse("oe-config", env=node.environment(tmp_path), cwd=tmp_path)
    asked.expect("What next?")
    node.file.parent.mkdir()
    node.file.write_text('{"clusters": {"other": {"partition": "gpu"}}}')
    asked.send("\r")
    assert end(asked) == 0
    assert list(own_file(node)["clusters"]) == ["other", "my-snellius"]


def test_what_a_given_entry_unsets_stays_unset(run: Run, node: LoginNode) -> None:
    given = {"clusters": {"mine": {"account": None, "eval_base_dir": "/work"}}}
    run("oe-config", "--yes", "-", stdin=json.dumps(given), env=node.env)
    assert own_file(node) == given


def test_somebody_keeps_the_entry_that_is_there(run: Run, node: LoginNode, tmp_path: Path) -> None:
    run("oe-config", "--yes", "--set=venv=/v", env=node.env)
    before = node.file.read_text()
    asked = converse("oe-config", env=node.environment(tmp_path), cwd=tmp_path)
    asked.expect("What next?")
    asked.send("\r")
    asked.expect("has a cluster my-snellius already. It would lose venv")
    asked.send("n")
    asked.expect("nothing was written")
    assert end(asked) == 1
    assert node.file.read_text() == before
    asked = converse("oe-config", env=node.environment(tmp_path), cwd=tmp_path)
    asked.expect("What next?")
    asked.send("stop\r")
    asked.expect("nothing was written")
    assert end(asked) == 1
