"""oe-doctor --job: each fault of a job and its node, planted once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from oellm.clusters.cluster import resolve_cluster
from oellm.doctor.probe_directory import probe_directory
from oellm.doctor.probe_job import run_probe_job
from support.doctor import Doctor, read_found
from support.processes import BIN, clean_environment
from support.waiting import wait_until


def start_job(doctor: Doctor, home: Path, *before: str) -> subprocess.Popen[str]:
    """Start the command and wait until its job is in the queue."""
    process = subprocess.Popen(
        [*before, BIN / "oe-doctor", "--job"],
        env=clean_environment(home, doctor.environment()),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until((doctor.slurm.directory / "queue").exists, process=process)
    return process


@pytest.mark.slow
def test_the_job_without_slurm(doctor: Doctor) -> None:
    doctor.settings |= {"executor": "local", "gpus_per_node": 0}
    found = doctor("--job")
    assert found.wrong() == []
    assert "slurm" not in found.records
    assert "starts: lm_eval 0.4." in found.text("job start")
    assert found.text("job gpu") == "its jobs get no GPUs -> "
    for check in ("job hf_home (worker)", "job eval_output_dir (node)", "job locks hf_home"):
        assert found.state(check) == "ok"
    assert os.listdir(doctor.base) == []
    # A machine whose GPUs cannot be seen is no machine for a run.
    doctor.settings["gpus_per_node"] = 1
    found = doctor("--job")
    assert found.wrong() == ["job gpu"]
    assert "the GPU that the worker was given cannot be used" in found.text("job gpu")


def test_a_job_before_any_image_is_built(doctor: Doctor) -> None:
    images = {"lm_eval": "lm_eval-cpu.sif", "evalplus-evaluate": "evalplus-evaluate-cpu.sif"}
    doctor.settings |= {"executor": "local", "container_runtime": "auto", "images": images}
    doctor.settings |= {"venvs": {}}
    found = doctor("--job")
    assert [check for check in found.wrong() if check != "runtime"] == []
    assert "the image of lm_eval is not built yet" in found.text("job start")
    assert "oe-build lm_eval-cpu makes it" in found.text("job start")
    assert found.state("job eval_output_dir (node)") == "ok"
    assert not [check for check in found.records if "sandbox" in check or "job image" in check]


def test_a_job_whose_worker_does_not_start(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.write_text("#!/bin/sh\necho 'no module named anything' >&2\nexit 1\n")
    python.chmod(0o755)
    doctor.settings |= {"executor": "local", "venvs": {"lm_eval": str(tmp_path)}}
    found = doctor("--job")
    assert "job start" in found.wrong()
    assert "did not end well on this machine: no module named anything" in found.text("job start")
    assert found.state("job eval_output_dir (node)") == "ok"


def test_a_job_that_waits_is_cancelled_by_ctrl_c(doctor: Doctor, tmp_path: Path) -> None:
    process = start_job(doctor, tmp_path / "home")
    process.send_signal(signal.SIGINT)
    _, messages = process.communicate(timeout=60)
    assert process.returncode == 130, messages
    assert doctor.slurm.queue() == []
    assert os.listdir(doctor.base) == []


def test_a_signal_that_nohup_ignores_stays_ignored(doctor: Doctor, tmp_path: Path) -> None:
    nohup = ("sh", "-c", "trap '' HUP; exec \"$@\"", "sh")
    process = start_job(doctor, tmp_path / "home", *nohup)
    (ignored,) = [
        int(line.split()[1], 16)
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
        if line.startswith("SigIgn:")
    ]
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert ignored & 1 << signal.SIGHUP - 1


def test_a_job_that_would_wait_for_ever(doctor: Doctor) -> None:
    doctor.slurm.says("sbatch.reason", "InvalidAccount")
    # A site may replace the comment by which a job is known.
    doctor.slurm.says("sbatch.comment", "acme")
    found = doctor("--job")
    assert found.wrong() == ["job"]
    why = "there is no such account (InvalidAccount)"
    assert f"would wait for ever: {why}" in found.text("job")
    assert f"oe-doctor: job 4711 waits: {why}" in found.messages
    assert doctor.slurm.queue() == []
    assert os.listdir(doctor.base) == []


def test_a_job_of_another_cluster_with_the_same_number_is_left_alone(doctor: Doctor) -> None:
    doctor.slurm.says("sbatch.reason", "InvalidAccount")
    doctor.slurm.says("sbatch.cluster", "west")
    foreign = "4711|0|RUNNING|None|n1|0|0|N/A|N/A|acme|normal|my own work|\n"
    doctor.slurm.says("queue.east", foreign)
    found = doctor("--job", env={"SBATCH_CLUSTERS": "east,west"})
    assert "job 4711 would wait for ever" in found.text("job")
    assert (doctor.slurm.directory / "queue.west").read_text() == ""
    assert (doctor.slurm.directory / "queue.east").read_text() == foreign
    assert not (doctor.slurm.directory / "queue").exists()


def test_a_job_that_enters_the_queue_late_does_not_stay_there(doctor: Doctor) -> None:
    doctor.slurm.says("sbatch.loses", "sbatch: error: Socket timed out on send/recv operation")
    doctor.slurm.says("sbatch.late", "")
    doctor.slurm.says("scancel.stumbles", "scancel: error: Socket timed out")
    found = doctor("--job")
    assert "Socket timed out on send" in found.text("job")
    assert "oe-doctor: scancel failed: scancel: error: Socket timed out\n" in found.messages
    assert doctor.slurm.queue() == []


def test_patience_with_a_slurm_that_stops_answering(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = resolve_cluster("dev", [], doctor.environment())
    for name, value in doctor.slurm.env.items():
        monkeypatch.setenv(name, value)

    def log(text: str) -> None:
        if "waits" in text:
            doctor.slurm.says("squeue.fails", "Unable to contact slurm controller")
        if "next try" in text:
            (doctor.slurm.directory / "squeue.fails").unlink()

    (found,) = run_probe_job(cluster, 2.0, log=log, show=lambda _: None)
    assert found.check == "job"
    assert "Unable to contact slurm controller" in found.text
    assert doctor.slurm.queue() == []


def test_a_job_that_slurm_forgets_and_that_left_nothing(doctor: Doctor, tmp_path: Path) -> None:
    process = start_job(doctor, tmp_path / "home")
    doctor.slurm.says("queue", "")
    output, messages = process.communicate(timeout=60)
    found = read_found(process.returncode, output, messages)
    assert found.wrong() == ["job start", "job python"]
    assert "the worker of lm_eval did not end well on its node" in found.text("job start")
    assert os.listdir(doctor.base) == []


def test_a_node_that_has_another_directory_of_that_name(doctor: Doctor, tmp_path: Path) -> None:
    """The worker of the job looks for what this machine has put into the directories."""
    doctor.settings |= {"executor": "local", "gpus_per_node": 0}
    cluster = resolve_cluster("dev", [], doctor.environment())
    with probe_directory(cluster, lambda _: None) as probed:
        run_json = probed.path / "run.json"
        content = json.loads(run_json.read_text())
        content["probe"]["marks"]["hf_home"] = str(tmp_path / "node" / "mark")
        content["probe"]["skew_s"] += 30
        run_json.write_text(json.dumps(content))
        node = probed.shards[1].index
        script = probed.path / probed.arrays[1].script
        environment = {**os.environ, "SLURM_ARRAY_TASK_ID": "0"}
        subprocess.run(["bash", script, "0", probed.path], env=environment, check=True)
        found = json.loads((probed.path / "findings" / f"{node}.json").read_text())
    assert found["ended"]
    texts = {check: (state, text) for check, state, text, *_ in found["findings"]}
    assert texts["job hf_home (node)"][0] == "wrong"
    assert f"{tmp_path}/node is not the one of" in texts["job hf_home (node)"][1]
    assert texts["job eval_output_dir (node)"][0] == "ok"
    assert texts["job clock"][0] == "warning"
    assert "30 s behind" in texts["job clock"][1]
    assert os.listdir(doctor.base) == []


def test_settings_of_which_no_job_can_be_made(doctor: Doctor) -> None:
    doctor.settings["whole_node"] = True
    found = doctor("--job")
    assert found.wrong() == ["sbatch", "job"]
    assert "setting whole_node needs gpus_per_node" in found.text("job")


def test_a_job_that_sbatch_refuses(doctor: Doctor) -> None:
    doctor.slurm.says("sbatch.fails", "sbatch: error: Invalid partition name specified")
    found = doctor("--job")
    assert found.wrong() == ["sbatch", "job"]
    assert found.text("job").endswith("Invalid partition name specified -> --set=partition=…")
    assert os.listdir(doctor.base) == []
