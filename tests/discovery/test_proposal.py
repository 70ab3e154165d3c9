"""oe-detect --propose: what is found out about clusters whose Slurm and file systems differ."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from oellm.discovery import slurm_facts, storage
from oellm.discovery.gpu_makers import AMD, NVIDIA, find_maker, is_slice
from oellm.discovery.login_hosts import clean_name, host_pattern, place_name
from oellm.discovery.storage import find_storage
from oellm.slurm.gres import parse_gpus, parse_tres_gpus
from oellm.slurm.partitions import first_host
from support.processes import BIN, ROOT, Run
from support.recorded_slurm import SITES, LoginNode
from support.terminal import on_terminal

PACKAGED = json.loads((ROOT / "clusters.json").read_text())["clusters"]
# The settings of clusters.json that Slurm can tell.
TOLD = (
    *("account", "partition", "cpu_partition", "queue_limit", "time_limit", "gpus_per_node"),
    *("whole_node", "cpus_per_gpu"),
)


@pytest.fixture
def site(tmp_path: Path) -> Any:
    def login_node(name: str) -> LoginNode:
        (tmp_path / name).mkdir()
        return LoginNode(tmp_path / name, name)

    return login_node


def proposed(run: Run, node: LoginNode, *options: str, status: int = 0) -> dict[str, Any]:
    done = run("oe-detect", "--propose", *options, env=node.env, status=status)
    entry: dict[str, Any]
    (entry,) = json.loads(done.stdout)["clusters"].values()
    return entry


@pytest.mark.parametrize(
    ("name", "differing"),
    [
        # Partitions for work without GPUs are not in clusters.json.
        ("leonardo-23.11", {"cpu_partition": "dcgp_usr_prod", "time_limit": "1-00:00:00"}),
        ("lumi-23.02", {"cpu_partition": "small", "time_limit": "3-00:00:00"}),
        ("jureca-22.05", {"cpu_partition": "dc-cpu", "time_limit": "1-00:00:00"}),
        ("snellius-23.11", {"time_limit": "5-00:00:00"}),
        # There sacctmgr gives no answer, and the only partition without GPUs is for logins.
        ("jupiter-24.05", {"account": None, "queue_limit": None, "time_limit": "1-00:00:00"}),
    ],
)
def test_what_is_found_out_is_what_clusters_json_says(
    run: Run, site: Any, name: str, differing: dict[str, Any]
) -> None:
    cluster = name.partition("-")[0]
    entry = proposed(run, site(name), status=1 if cluster == "jupiter" else 0)
    wanted = {key: PACKAGED[cluster].get(key) for key in TOLD} | differing
    assert {key: entry.get(key) for key in TOLD} == wanted
    gpu_argument = entry["container_args"][0]
    assert gpu_argument == PACKAGED[cluster]["container_args"][0]
    assert entry["images"]["lm_eval"] == f"lm_eval-{'rocm' if cluster == 'lumi' else 'cuda'}.sif"
    assert entry["eval_base_dir"].endswith("/shared/oellm")


def test_a_recorded_slurm_without_accounting_needs_no_account(run: Run, site: Any) -> None:
    done = run("oe-detect", "--propose", env=site("dev-22.05").env)
    ((name, entry),) = json.loads(done.stdout)["clusters"].items()
    assert (name, done.stderr) == ("oellm-dev", "")
    told = {key: entry[key] for key in TOLD if key in entry}
    assert told == {
        "partition": "gpu",
        "cpu_partition": "cpu",
        "time_limit": "01:00:00",
        "gpus_per_node": 4,
        "cpus_per_gpu": 2,
    }
    # Its default memory is a GPU's share, so jobs need not ask for any.
    assert "sbatch" not in entry


def test_mixed_gpus_qos_and_memory(run: Run, site: Any) -> None:
    node = site("mixed-24.05")
    entry = proposed(run, node)
    assert (entry["gpu_gres"], entry["gpus_per_node"]) == ("gpu:a100", 4)
    # The partition has no limit; the QOS that it demands has one, and its own QOS another.
    assert (entry["qos"], entry["time_limit"], entry["queue_limit"]) == ("gpu", "12:00:00", 20)
    # Without a default, a job of one GPU would get all of the node's 512000 MiB.
    assert entry["sbatch"] == {"mem-per-gpu": "121600M"}
    longer = proposed(run, node, "--set=qos=gpu-long")
    assert (longer["qos"], longer["time_limit"], longer["queue_limit"]) == (
        *("gpu-long", "2-00:00:00"),
        4,
    )


def test_what_follows_from_a_choice_changes_with_it(run: Run, site: Any) -> None:
    node = site("lumi-23.02")
    entry = proposed(run, node, "--set=partition=standard-g", "--set=env.A=1")
    assert (entry["partition"], entry["whole_node"]) == ("standard-g", True)
    assert (entry["time_limit"], entry["env"]) == ("2-00:00:00", {"A": "1"})
    assert "sbatch" not in entry
    # Slurm chooses one of a list; the first that it knows stands for all.
    several = proposed(run, node, "--set=partition=x,standard-g", "--set=images={}")
    assert (several["partition"], several["whole_node"]) == ("x,standard-g", True)
    assert several["images"] == {}
    cpus = proposed(run, node, "--set=partition=small")
    assert cpus["gpus_per_node"] == 0
    assert "container_args" not in cpus
    assert cpus["images"]["lm_eval"] == "lm_eval-cpu.sif"


def test_without_gpus_there_are_images_for_cpus(run: Run, site: Any) -> None:
    entry = proposed(run, site("lumi-23.02"), "--set=gpus_per_node=0")
    assert entry["gpus_per_node"] == 0
    assert entry["images"]["lm_eval"] == "lm_eval-cpu.sif"
    assert not {"container_args", "gpu_gres", "cpus_per_gpu"} & entry.keys()


def test_without_containers_there_are_no_images_but_a_virtual_environment(
    run: Run, site: Any
) -> None:
    node, choice = site("lumi-23.02"), "--set=container_runtime=none"
    entry = proposed(run, node, choice, status=1)
    assert not entry.keys() & {"images", "container_args", "setup"}
    assert "venv" in run("oe-detect", "--propose", choice, env=node.env, status=1).stderr
    table = run("oe-detect", "--propose", "--explain", choice, env=node.env, status=1).stdout
    assert "your choice; also: auto" in " ".join(table.split())
    entry = proposed(run, node, choice, "--set=venv=/v")
    assert (entry["venv"], "images" in entry) == ("/v", False)


def test_commands_that_fail_are_named_and_leave_their_settings_open(run: Run, site: Any) -> None:
    node = site("leonardo-23.11")
    node.lose("associations", "sinfo")
    done = run("oe-detect", "--propose", env=node.env, status=1)
    entry = json.loads(done.stdout)["clusters"]["my-leonardo"]
    assert "oe-detect: sacctmgr failed: You are not running a supported" in done.stderr
    assert "oe-detect: sinfo failed: slurm_load_partitions: Unable to contact" in done.stderr
    assert "oe-detect: account must be filled in: which accounts you have is not" in done.stderr
    assert "account" not in entry
    # scontrol alone tells the partitions, and the GPUs among their resources.
    assert (entry["partition"], entry["gpus_per_node"]) == ("boost_usr_prod", 4)
    node.fail("slurm_load_ctl_conf error: Unable to contact slurm controller\n")
    done = run("oe-detect", "--propose", "--explain", env=node.env, status=1)
    lines = {line.split()[0]: line.split(maxsplit=2)[1:] for line in done.stdout.splitlines()}
    assert lines["partition"] == ["?", "fill in: Slurm names no partition"]
    # Nothing tells whether they would have GPUs.
    assert not {"images", "container_args", "cpus_per_gpu"} & set(lines)
    assert done.stderr.count("scontrol failed: slurm_load_ctl_conf error: Unable to contact") == 2


def test_a_slurm_that_hangs_costs_the_patience_of_one_question(
    site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = site("leonardo-23.11")
    node.hang()
    for name, value in node.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(slurm_facts, "_TIMEOUT_S", 1.0)
    began = time.monotonic()
    facts = slurm_facts.ask_facts("me")
    assert time.monotonic() - began < 8
    assert facts.failures == ["scontrol did not answer within 1 s"] * 3
    assert (len(facts.nodes), facts.default_account) == (8, "OELLM_prod2026")


def test_without_slurm_there_is_nothing_to_propose(run: Run, tmp_path: Path) -> None:
    done = run(BIN / "oe-detect", "--propose", env={"PATH": str(tmp_path)}, status=3)
    assert done.stdout == ""
    assert "this machine has no Slurm" in done.stderr
    assert "oellm runs here as the cluster `local`" in done.stderr


@pytest.mark.parametrize("name", SITES)
def test_the_table_fits_a_terminal_and_names_alternatives(site: Any, name: str) -> None:
    node = site(name)
    node.env["WORK"] = node.env["SCRATCH"] = str(node.base)
    done = on_terminal("oe-detect", "--propose", "--explain", env=node.environment(node.directory))
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["setting", "value", "where", "it", "comes", "from"]
    long = [line for line in lines if len(line) > 80]
    # A path is never broken.
    assert not [line for line in long if "/" not in line]
    text = " ".join(done.stdout.split())
    if name == "snellius-23.11":
        assert "gpu_h100 88 nodes of 4×h100; also: gpu_a100, gpu_vis, gpu_mig" in text


def test_directories_are_those_in_which_one_may_write(tmp_path: Path) -> None:
    for name in ("scratch", "work", "a{b}"):
        (tmp_path / name).mkdir()
    (tmp_path / "closed").write_text("a file")
    environ = {
        "SCRATCH": str(tmp_path / "scratch"),
        "WORK_lab": str(tmp_path / "work"),
        "PROJECT": str(tmp_path / "a{b}"),
        "FLASH": str(tmp_path / "closed"),
        "FAST": "relative",
    }
    found = find_storage(environ, [])
    # What lies on scratch is removed after a while.
    assert [place.origin for place in found[:2]] == ["$WORK_lab", "$SCRATCH"]
    assert found[2].origin.startswith("your home directory")
    assert len(found) == 3
    assert found[0].free == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.5)


def test_file_systems_that_hang_do_not_add_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang(_: str) -> str:
        time.sleep(60)
        return ""

    monkeypatch.setattr(storage, "_PATIENCE_S", 1.0)
    monkeypatch.setattr(storage, "file_system_type", hang)
    environ = {f"WORK_{name}": str(tmp_path / name) for name in "abc"}
    for place in environ.values():
        Path(place).mkdir()
    began = time.monotonic()
    assert find_storage(environ, []) == []
    assert time.monotonic() - began < 2


@pytest.mark.parametrize(
    ("text", "gpus", "total"),
    [
        ("gpu:a100:4(S:0-3)", ["4×a100"], 4),
        ("gres/gpu:a100=4,gres/gpu=4,cpu=64", ["4×a100", "4 GPUs"], 4),
        ("mem512:1,gpu:4", ["4 GPUs"], 4),
        ("gpu", ["1 GPU"], 1),
        ("gpu:a100:2(S:0),gpu:v100:4(S:1,3),shard:8,mps:3", ["4×v100", "2×a100"], 6),
        ("gpu:a100_3g.20gb:8", ["8×a100_3g.20gb"], 8),
        ("(null)", [], 0),
    ],
)
def test_gpus_are_read_in_every_form(text: str, gpus: list[str], total: int) -> None:
    assert [str(one) for one in parse_gpus(text)] == gpus
    assert parse_tres_gpus(text) == total


@pytest.mark.parametrize(
    ("host", "pattern", "name"),
    [
        ("login01.x.y", "login*.x.y", "x"),
        ("uan02", "uan*", "uan"),
        ("jrlogin08.jureca", "jrlogin*.jureca", "jureca"),
        ("jpbl-s01-02", "jpbl-s*-*", "jpbl-s"),
        ("vm", "vm", "vm"),
        ("10.0.0.7", "10.0.0.7", "0"),
        ("1234", "1234", "cluster"),
    ],
)
def test_siblings_of_a_login_node_have_its_pattern(host: str, pattern: str, name: str) -> None:
    assert host_pattern(host) == pattern
    assert place_name(host) == name


def test_names_of_nodes_clusters_and_gpus() -> None:
    assert first_host("n[001-010,012],login1") == "n001"
    assert first_host("jpbo-[001-123]-[01-48]") == "jpbo-001-01"
    assert clean_name("(null)") == "null"
    assert clean_name("My Cluster/1.json") == "my-cluster-1"
    makers = {name: find_maker(name) for name in ("mi250", "nvidia_h100_80gb_hbm3", "GH200", "gpu")}
    assert list(makers.values()) == [AMD, NVIDIA, NVIDIA, None]
    assert [is_slice(kind) for kind in ("a100_3g.20gb", "1g", "a100", "gh200")] == [
        *(True, True),
        *(False, False),
    ]
