"""oe-doctor: each fault that it is to find, planted once."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from support.doctor import Doctor
from support.processes import BIN, Run, clean_environment
from support.terminal import lines_on_terminal, on_terminal
from support.waiting import wait_until


def test_a_sound_cluster(doctor: Doctor) -> None:
    doctor.settings |= {"account": "acme", "qos": "normal", "cpu_partition": "cpu"}
    doctor.slurm.says("associations", "acme|||||normal,long\nother|||||normal\n")
    found = doctor()
    assert found.wrong() == []
    assert list(found.records) == [
        *("versions", "slurm", "partition", "cpu_partition", "account", "qos", "sbatch"),
        *("sbatch cpu", "python lm_eval", "sandbox", "hf_home", "locks hf_home", "clock hf_home"),
        *("eval_output_dir", "locks eval_output_dir", "clock eval_output_dir", "hub"),
    ]
    assert found.state("sandbox") == "warning"
    assert "slurm 23.11.4 answers: 2 partitions, 0 jobs" in found.text("slurm")
    assert "lm_eval 0.4." in found.text("python lm_eval")
    assert "not asked: HF_HUB_OFFLINE is set" in found.text("hub")
    # What sbatch has judged is a script of a run.
    tested = (doctor.slurm.directory / "sbatch.tested").read_text()
    assert "#SBATCH --partition=cpu" in tested
    assert os.listdir(doctor.base) == []


SLURM_FAULTS = {
    "slurm": ({"squeue.fails": "squeue: error: no such option"}, {}, "no such option"),
    "partition": (
        {"partitions": "gpu*\nlong\n"},
        {"partition": "gpuu"},
        "there is no partition gpuu -> --set=partition=…, one of gpu, long",
    ),
    "a closed partition": ({"partition.gpu": "State=DRAIN"}, {}, "gpu is DRAIN: it takes no jobs"),
    "a partition of others": (
        {"partition.gpu": "State=UP AllowAccounts=corp,dept"},
        {"account": "acme"},
        "takes only accounts corp,dept, not acme",
    ),
    "no default partition": ({"partitions": "a\nb\n"}, {"partition": None}, "one of a, b"),
    "account": (
        {"associations": "other|||||normal\nmine|||||long\n"},
        {"account": "acme"},
        "may not use account acme -> --set=account=…, one of mine, other",
    ),
    "qos": (
        {"associations": "acme|||||normal,long\nmine|||||debug\n"},
        {"account": "acme", "qos": "debug"},
        "you may not use QOS debug -> --set=qos=…, one of long, normal",
    ),
    "sbatch": (
        {"sbatch.fails": "sbatch: error: Batch job submission failed: Invalid account"},
        {"account": "acme"},
        "Invalid account -> the settings are account=acme; change them: --set=account=…",
    ),
}


@pytest.mark.parametrize("fault", SLURM_FAULTS)
def test_faults_of_slurm(doctor: Doctor, fault: str) -> None:
    files, settings, said = SLURM_FAULTS[fault]
    for name, text in files.items():
        doctor.slurm.says(name, text)
    doctor.settings |= settings
    found = doctor()
    (check,) = found.wrong()
    assert check in fault
    assert said in found.text(check)


def test_a_partition_that_is_down_is_no_reason_not_to_submit(doctor: Doctor) -> None:
    doctor.slurm.says("partition.gpu", "State=DOWN")
    found = doctor()
    assert (found.status, found.state("partition")) == (0, "warning")
    assert "jobs wait until it is up" in found.text("partition")


def test_a_partition_that_slurm_hides(doctor: Doctor) -> None:
    doctor.slurm.says("partitions", "cpu*\ngpu\n")
    doctor.slurm.says("partition.gpu", "State=UP Hidden=YES")
    # Words of a comment are no jobs.
    doctor.slurm.has_queued("1 0 acme normal my own work")
    found = doctor()
    assert found.state("partition") == "ok"
    assert "2 partitions, 1 job of" in found.text("slurm")


def test_names_of_accounts_in_other_letters_than_slurm_keeps_them(doctor: Doctor) -> None:
    doctor.settings |= {"account": "Acme_prod", "qos": "Normal"}
    doctor.slurm.says("associations", "acme_prod|||||normal\n")
    doctor.slurm.says("partition.gpu", "State=UP AllowAccounts=acme_prod AllowQos=normal")
    assert doctor().wrong() == []


def test_what_slurm_does_not_tell_is_not_known(doctor: Doctor) -> None:
    doctor.slurm.says("associations", "a42|||||\n")
    doctor.slurm.says("partitions", "")
    doctor.settings |= {"partition": None, "account": "a42", "qos": "long"}
    found = doctor()
    assert found.text("qos") == "long is set; which ones you may use is not known -> "
    assert found.text("partition").endswith("-> --set=partition=…; ask the site which there are")


def test_a_list_of_partitions(doctor: Doctor) -> None:
    doctor.settings["partition"] = "gpu,cpu"
    found = doctor()
    assert (found.state("partition gpu"), found.state("partition cpu")) == ("ok", "ok")
    doctor.settings["partition"] = "gpu,other"
    assert "there is no partition other -> --set=partition=" in doctor().text("partition other")


HANGING = """import os, time
fsync = os.fsync
def slow(number):
    open(os.environ["HANGS"], "w").close()
    time.sleep(600)
os.fsync = slow
"""


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL, None])
def test_checks_that_are_ended_leave_nothing(
    doctor: Doctor, tmp_path: Path, end: signal.Signals | None
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(HANGING)
    hangs = tmp_path / "hangs"
    variables = {"PYTHONPATH": str(tmp_path / "site"), "HANGS": str(hangs)}
    env = clean_environment(tmp_path / "home", {**doctor.environment(), **variables})
    words = [BIN / "oe-doctor", f"--timeout={100 if end else 2}"]
    with subprocess.Popen(
        words, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        wait_until(hangs.exists, process=process)
        assert end is None or list(doctor.base.glob("**/.oellm-doctor-*"))
        if end:
            process.send_signal(end)
        process.communicate()
    wait_until(lambda: not list(doctor.base.glob("**/.oellm-doctor-*")))


def test_a_service_that_hangs_delays_no_other_check(doctor: Doctor) -> None:
    doctor.slurm.says("sinfo.hangs", "")
    began = time.monotonic()
    found = doctor("--timeout=5")
    assert time.monotonic() - began < 60
    assert found.wrong() == ["slurm"]
    assert "it did not end within 5 s" in found.text("slurm")
    assert found.state("eval_output_dir") == "ok"


@pytest.mark.skipif(
    shutil.which("squashfuse") is None or not os.access("/dev/fuse", os.W_OK) or os.geteuid() != 0,
    reason="needs squashfuse, /dev/fuse and root",
)
def test_a_file_system_that_hangs_delays_no_other_check(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "hangs").mkdir()
    subprocess.run(
        ["mksquashfs", tmp_path / "empty", tmp_path / "fs"], check=True, capture_output=True
    )
    server = subprocess.Popen(
        ["squashfuse", "-f", tmp_path / "fs", tmp_path / "hangs"], stderr=subprocess.DEVNULL
    )
    try:
        wait_until((tmp_path / "hangs").is_mount, process=server)
        server.send_signal(signal.SIGSTOP)
        doctor.settings["hf_home"] = str(tmp_path / "hangs" / "hf")
        found = doctor("--timeout=5")
    finally:
        server.send_signal(signal.SIGCONT)
        subprocess.run(["umount", "-l", tmp_path / "hangs"], check=False)
        server.wait()
    assert "it did not end within 5 s" in found.text("hf_home")
    assert found.state("eval_output_dir") == "ok"


def test_people_get_lines_that_fit_their_terminal(doctor: Doctor, tmp_path: Path) -> None:
    doctor.slurm.says("partition.gpu", "State=DOWN")
    env = {**clean_environment(tmp_path / "home", doctor.environment()), "TERM": "xterm"}
    lines = lines_on_terminal("oe-doctor", env=env, width=80)
    assert max(map(len, lines)) <= 80
    (line,) = [number for number, text in enumerate(lines) if text.startswith("warning partition")]
    assert "partition gpu is DOWN" in lines[line]
    assert lines[line + 2].strip().startswith("→ wait, or set another partition")
    assert not any(text.startswith("{") for text in lines)
    # What it waits for is gone before the next line appears.
    shown = on_terminal("oe-doctor", env=env, is_stderr=True).stdout
    (number,) = re.findall(r", ([0-9]+) warnings?\b", shown)
    assert f", {number} warning{'' if number == '1' else 's'}" in shown
    assert "oe-doctor: checking versions, slurm" in shown
    assert "checking" not in re.sub(r"[^\n]*\r\x1b\[K", "", shown)


def test_no_cluster_and_bad_usage(run: Run, doctor: Doctor) -> None:
    env = {**doctor.slurm.env, "OELLM_CONFIG": ""}
    assert "no known cluster" in run("oe-doctor", env=env, status=3).stderr
    assert "--format: expected" in run("oe-doctor", "--format=xml", status=2).stderr
