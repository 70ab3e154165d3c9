"""Proposals for machines whose Slurm, file systems or answers are not as usual."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from oellm.clusters.settings import check_setting
from oellm.discovery.machine import Machine, find_module
from oellm.discovery.partition_views import partition_views
from oellm.discovery.proposal import Proposal, propose
from oellm.discovery.proposed_setting import ProposedSetting
from oellm.discovery.slurm_facts import ask_facts
from oellm.discovery.storage import Storage
from oellm.errors import MachineError, OellmError
from oellm.slurm.commands import call_slurm
from support.recorded_slurm import RECORDED, SITES

Answers = dict[str, str]


def recorded(site: str) -> Answers:
    return {path.name: path.read_text() for path in (RECORDED / site).iterdir()}


def machine(answers: Answers, **environ: str) -> Machine:
    """Return a machine whose commands give these answers, by the names of the recorded files."""

    def ask(command: Sequence[str]) -> str:
        # What Linux allows.
        assert max(map(len, command)) < 2**17
        found = [answers[word] for word in command if word in answers]
        if not found:
            raise OellmError(f"{command[0]} failed")
        return found[0]

    facts = ask_facts("me", ask)
    return Machine(
        host="login01.x.y",
        groups=["users"],
        facts=facts,
        views=partition_views(facts),
        storage=[Storage("/scratch/me", "$SCRATCH", "lustre", 10**13)],
        environ=environ,
    )


def settings(proposal: Proposal) -> dict[str, ProposedSetting]:
    return {each.key: each for each in proposal.settings}


def test_a_cluster_without_gpus_gets_jobs_without_gpus() -> None:
    answers = recorded("snellius-23.11")
    for name in ("sinfo", "partitions"):
        lines = answers[name].splitlines(keepends=True)
        answers[name] = "".join(line for line in lines if "gpu_" not in line)
    found = settings(propose(machine(answers), "x", {}))
    assert (found["partition"].value, found["gpus_per_node"].value) == ("rome", 0)
    assert "no partition has GPUs" in found["partition"].origin
    assert found["images"].value["lm_eval"] == "lm_eval-cpu.sif"
    assert not {"cpu_partition", "container_args", "cpus_per_gpu"} & set(found)


def test_a_large_machine_whose_nodes_are_all_different() -> None:
    answers = recorded("leonardo-23.11")
    line = (
        "boost_usr_prod|boost_usr_prod|1-00:00:00|up|1|32|494000|gpu:a100:4|mix|rack{0}|l{0:05}\n"
    )
    answers["sinfo"] = "".join(line.format(number) for number in range(30_000))
    found = settings(propose(machine(answers), "x", {}))
    assert (found["partition"].value, found["gpus_per_node"].value) == ("boost_usr_prod", 4)
    assert found["cpus_per_gpu"].value == 8


def test_the_only_partition_is_taken_whatever_its_name() -> None:
    answers = {"sinfo": "debug|debug*|infinite|up|2|8|16000|(null)|idle|(null)|n[1-2]\n"}
    found = settings(propose(machine(answers), "x", {}))
    assert (found["partition"].value, found["time_limit"].value) == ("debug", "24:00:00")


def test_what_a_slurm_that_gives_out_whole_nodes_says_counts() -> None:
    answers = recorded("snellius-23.11")
    answers["config"] = answers["config"].replace("select/cons_tres", "select/linear")
    found = settings(propose(machine(answers), "x", {}))
    assert found["whole_node"].origin == "SelectType=select/linear of this Slurm"


@pytest.mark.parametrize(
    ("environ", "change", "account", "origin"),
    [
        ({"SBATCH_ACCOUNT": "mine"}, {}, "mine", "$SBATCH_ACCOUNT"),
        ({}, {"user": "AIFAC_L01_028\n"}, "AIFAC_L01_028", "your default account (sacctmgr)"),
        ({}, {"user": "none\n"}, "AIFAC_L01_028", "your first account (sacctmgr)"),
        ({}, {"associations": ""}, None, "sacctmgr knows no account of yours on this cluster"),
    ],
)
def test_where_the_account_comes_from(
    environ: dict[str, str], change: Answers, account: str | None, origin: str
) -> None:
    found = settings(propose(machine(recorded("leonardo-23.11") | change, **environ), "x", {}))
    assert (found["account"].value, found["account"].origin) == (account, origin)
    assert found["account"].is_open is (account is None)


def test_accounts_that_nobody_must_name_are_not_asked_for() -> None:
    answers = recorded("leonardo-23.11") | {"associations": ""}
    answers["config"] = answers["config"].replace("associations,limits,qos,safe", "none")
    found = settings(propose(machine(answers), "x", {}))
    assert found["account"].value is None
    assert not found["account"].is_open


def test_partitions_that_the_user_may_not_use_are_left_out() -> None:
    answers = recorded("leonardo-23.11")
    found = settings(propose(machine(answers), "x", {}))
    assert [other.value for other in found["partition"].others] == ["boost_usr_dbg"]
    answers["associations"] = "FUA38_PROD||normal||||normal\n".replace("||||", "|||")
    found = settings(propose(machine(answers), "x", {}))
    names = [other.value for other in found["partition"].others]
    assert names == ["boost_fua_prod", "boost_usr_dbg"]


def test_accounts_are_known_in_any_letters() -> None:
    answers = recorded("leonardo-23.11")
    answers["associations"] = answers["associations"].lower()
    answers["user"] = "fua38_prod\n"
    answers["associations"] += "fua38_prod||normal|7||normal\n"
    found = settings(propose(machine(answers), "x", {"partition": "boost_fua_prod"}))
    assert found["account"].value == "fua38_prod"
    chosen = {"partition": "boost_fua_prod", "account": "Fua38_PROD"}
    found = settings(propose(machine(answers), "x", chosen))
    assert found["queue_limit"].value == 7


def test_a_slurm_whose_accounting_is_null_has_none() -> None:
    answers = {"config": "ClusterName = x\nAccountingStorageType   = (null)\n"}
    assert machine(answers).facts.has_accounting is False


def test_a_runtime_that_only_a_module_brings_is_loaded_in_jobs(tmp_path: Path) -> None:
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "apptainer.lua").touch()
    environ = {"MODULEPATH": f"/nowhere:{tmp_path}/core"}
    assert find_module(environ) == "apptainer"
    assert find_module({}) == ""
    site = replace(machine(recorded("lumi-23.02")), module="apptainer")
    assert settings(propose(site, "x", {}))["setup"].value == ["module load apptainer"]


def test_nodes_of_another_architecture_are_told() -> None:
    found = settings(propose(machine(recorded("jupiter-24.05")), "x", {}))
    assert "NVIDIA aarch64 nodes" in found["images"].origin
    assert found["hostnames"].value == ["login*.x.y"]


def damage(text: str, chance: random.Random) -> str:
    """Return text of which a part is gone, doubled or replaced."""
    if not text:
        return text
    start = chance.randrange(len(text))
    end = start + chance.choice((1, 2, 5, 40, 2000))
    filling = chance.choice(("", "x", "|", "=", "-", "9" * 400, text[start:end] * 2, "\n", "é[1-"))
    return text[:start] + filling + text[end:]


@pytest.mark.parametrize("site", SITES)
def test_damaged_answers_still_lead_to_valid_settings(site: str) -> None:
    whole = recorded(site)
    for seed in range(60):
        chance = random.Random(f"{site} {seed}")
        answers = {
            name: damage(text, chance) if chance.random() < 0.7 else text
            for name, text in whole.items()
            if chance.random() < 0.9
        }
        proposal = propose(machine(answers), "x", {})
        for key, value in proposal.entry().items():
            check_setting(key, value, f"{site} {seed}")


def test_a_command_that_cannot_be_run_is_named(tmp_path: Path) -> None:
    program = tmp_path / "sinfo"
    program.write_text("no program")
    program.chmod(0o755)
    with pytest.raises(MachineError, match="sinfo cannot be run: Exec format error"):
        call_slurm([str(program)])
