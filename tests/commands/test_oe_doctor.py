"""oe-doctor: each fault that it is to find, planted once."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import docopt
import pytest

from oellm.doctor.machine_checks import check_hub
from oellm.images.image_record import StoredImage, record_path
from support.doctor import Doctor, read_found
from support.processes import BIN, ROOT, Run, clean_environment
from support.submitting import FakeSlurm
from support.terminal import lines_on_terminal, on_terminal
from support.waiting import wait_until

# Starts what follows an image without any container, as `apptainer exec … IMAGE COMMAND…`.
RUNTIME = """#!/bin/bash
if [[ $1 == --version ]]; then echo "apptainer version 9"; exit; fi
while [[ $1 != *.sif ]]; do shift; done
if [[ $(cat "$1") != image ]]; then echo "FATAL: image format not recognized" >&2; exit 255; fi
shift
exec "$@"
"""


@pytest.fixture
def doctor(run: Run, tmp_path: Path, slurm: FakeSlurm) -> Doctor:
    return Doctor(run, tmp_path, slurm)


@pytest.fixture
def image(doctor: Doctor, tmp_path: Path) -> Path:
    """Have the cluster run its models in an image, with a stand-in for the container runtime."""
    runtime, path = tmp_path / "apptainer", tmp_path / "lm_eval.sif"
    runtime.write_text(RUNTIME)
    runtime.chmod(0o755)
    path.write_text("image\n")
    (tmp_path / "python3").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (tmp_path / "python3").chmod(0o755)
    doctor.env["PATH"] = f"{tmp_path}:{doctor.env['PATH']}"
    doctor.settings |= {
        "container_runtime": "apptainer",
        "images": {"lm_eval": path.name},
        "images_directory": str(tmp_path),
        "venvs": {},
    }
    return path


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


def record_image(image: Path) -> None:
    """Write the record of an image, as oe-build does."""
    status = image.stat()
    record = StoredImage(
        name="lm_eval",
        digest=hashlib.sha256(image.read_bytes()).hexdigest(),
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        labels={},
        source="definition",
        inputs={},
        seconds=1.0,
        finished="2026-01-01T00:00:00Z",
    )
    record_path(image).write_text(json.dumps(record._asdict()))


def test_an_image_as_it_should_be(doctor: Doctor, image: Path) -> None:
    record_image(image)
    # A copy has another time, but the same content.
    os.utime(image)
    found = doctor()
    assert found.wrong() == []
    assert "apptainer version 9" in found.text("runtime")
    assert "as oe-build recorded it" in found.text("image lm_eval")
    assert "lm_eval 0.4." in found.text("image lm_eval")


def test_faults_of_images(doctor: Doctor, image: Path) -> None:
    record_image(image)
    image.write_text("changed\n")
    text = doctor().text("image lm_eval")
    assert "its SHA-256 is" in text
    assert "in the record beside it -> build or pull it (oe-build)" in text
    record_path(image).unlink()
    text = doctor().text("image lm_eval")
    assert "does not start (status 255): FATAL: image format not recognized -> " in text
    image.unlink()
    found = doctor()
    assert found.wrong() == ["image lm_eval"]
    assert f"{image}: No such file or directory -> build or pull it" in found.text("image lm_eval")
    doctor.settings["setup"] = ["PATH=/nonexistent"]
    assert "apptainer is not on PATH -> load its module" in doctor().text("runtime")


def test_an_image_that_is_still_to_be_built_is_no_fault(doctor: Doctor, image: Path) -> None:
    doctor.settings["images"] = {"lm_eval": "lm_eval-cpu.sif", "evalplus": "mine.sif"}
    found = doctor()
    assert (found.wrong(), found.state("image lm_eval")) == (["image evalplus"], "warning")
    assert "/lm_eval-cpu.sif: not built yet -> oe-build lm_eval-cpu" in found.text("image lm_eval")


def test_a_failing_line_of_setup_is_no_missing_runtime(doctor: Doctor, image: Path) -> None:
    doctor.settings["setup"] = ["load_no_module"]
    text = doctor().text("runtime")
    assert text.startswith("the lines of setup fail: ")
    assert "load_no_module: command not found" in text
    # What the site prints need not be UTF-8.
    doctor.settings["setup"] = ["printf 'Gru\\xdf\\n' >&2; false"]
    assert "the lines of setup fail: Gru\ufffd" in doctor().text("runtime")
    assert "Gru\ufffd" in doctor().text("python")


def test_faults_of_pythons(doctor: Doctor, image: Path, tmp_path: Path) -> None:
    old = tmp_path / "old-python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    doctor.settings["python"] = str(old)
    assert "is no Python 3.10 or newer" in doctor().text("python")
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    doctor.settings |= {"venvs": {"lm_eval": str(venv)}, "container_runtime": "none"}
    found = doctor()
    assert found.wrong() == ["python lm_eval"]
    assert "lacks lm_eval -> install it there" in found.text("python lm_eval")
    doctor.settings["venvs"] = {}
    text = doctor().text("environment")
    assert "has no environment for lm_eval -> set images.lm_eval" in text


def test_another_version_than_the_one_whose_tasks_are_known(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    answer = {"python": "3.12.1", "packages": {"lm_eval": "0.4.9"}}
    python = tmp_path / "bin" / "python"
    python.write_text(f"#!/bin/sh\necho '{json.dumps(answer)}'\n")
    python.chmod(0o755)
    doctor.settings["venvs"] = {"lm_eval": str(tmp_path)}
    found = doctor()
    assert found.state("python lm_eval") == "warning"
    assert "lm_eval 0.4.9, Python 3.12.1; here are the tasks of lm_eval 0.4." in found.text(
        "python lm_eval"
    )


def test_a_directory_that_cannot_be_written(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    doctor.settings |= {"hf_home": str(tmp_path / "file"), "eval_output_dir": "/proc/evals"}
    found = doctor()
    assert found.wrong() == ["hf_home", "eval_output_dir"]
    assert "cannot be written: Not a directory" in found.text("hf_home")
    assert "/proc/evals does not exist yet; /proc: cannot be written" in found.text(
        "eval_output_dir"
    )


def test_a_full_disk(doctor: Doctor, small_disk: Path) -> None:
    doctor.settings["hf_home"] = str(small_disk)
    found = doctor()
    assert found.wrong() == ["hf_home"]
    assert "writable, 410 kB free" in found.text("hf_home")
    assert "-> free some room" in found.text("hf_home")


PATCHES = {
    "locks that say yes": (
        "import fcntl\nfcntl.flock = lambda *_: None",
        "locks hf_home",
        ("warning", "two processes get the same file lock -> run one oe-fetch at a time"),
    ),
    "no locks": (
        "import fcntl\ndef flock(*_):\n    raise OSError(38, 'no locks')\nfcntl.flock = flock",
        "locks hf_home",
        ("warning", "no file locks: no locks -> run one oe-fetch at a time"),
    ),
    "a clock that is late": (
        "import time\nnow = time.time\ntime.time = lambda: now() - 1000",
        "clock hf_home",
        ("wrong", "1000 s behind the file system -> tell the site"),
    ),
    "a clock that is a little fast": (
        "import time\nnow = time.time\ntime.time = lambda: now() + 20",
        "clock hf_home",
        ("warning", "20 s ahead of the file system -> tell the site"),
    ),
}


@pytest.mark.parametrize("patch", PATCHES)
def test_locks_and_clocks(doctor: Doctor, tmp_path: Path, patch: str) -> None:
    code, check, (state, text) = PATCHES[patch]
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(code)
    found = doctor(env={"PYTHONPATH": str(tmp_path / "site")})
    assert found.state(check) == state
    assert text in found.text(check)


class _Hub(http.server.BaseHTTPRequestHandler):
    # Where requests are sent on to, and whose token came along.
    elsewhere = ""
    tokens: ClassVar[list[str | None]] = []

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_GET(self) -> None:
        self.tokens.append(self.headers["Authorization"])
        if self.elsewhere and self.path.startswith("/api"):
            self.send_response(302)
            self.send_header("Location", f"{self.elsewhere}/elsewhere")
            self.end_headers()
            return
        known = self.headers["Authorization"] == "Bearer hf_right"
        self.send_response(200 if known else 401)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_hub_and_the_token(doctor: Doctor, address: str) -> None:
    doctor.env |= {"HF_HUB_OFFLINE": "", "HF_ENDPOINT": address}
    assert "answers; no token" in doctor().text("hub")
    assert "knows your token" in doctor(env={"HF_TOKEN": "hf_right"}).text("hub")
    found = doctor(env={"HF_TOKEN": "hf_wrong"})
    assert found.wrong() == ["hub"]
    assert "not to your token (status 401) -> log in again" in found.text("hub")
    found = doctor(env={"HF_ENDPOINT": "http://127.0.0.1:9"})
    assert found.state("hub") == "warning"
    assert "does not answer" in found.text("hub")
    for token in ("hf_a\nb", "hf_ł"):
        assert "has letters that no request can have" in doctor(env={"HF_TOKEN": token}).text("hub")
    found = doctor(env={"HF_ENDPOINT": "http://[bad"})
    assert "HF_ENDPOINT: expected http://… or https://…, got 'http://[bad'" in found.text("hub")
    assert "not asked: HF_HUB_OFFLINE" in doctor(env={"HF_HUB_OFFLINE": "Yes"}).text("hub")


def test_a_token_goes_to_no_other_host(
    doctor: Doctor, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Hub, "elsewhere", address.replace("127.0.0.1", "localhost"))
    monkeypatch.setattr(_Hub, "tokens", [])
    doctor(env={"HF_HUB_OFFLINE": "", "HF_ENDPOINT": address, "HF_TOKEN": "hf_right"})
    assert _Hub.tokens == ["Bearer hf_right", None]


def test_a_token_of_the_current_directory_is_nobodys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    (tmp_path / "token").write_text("hf_right")
    monkeypatch.chdir(tmp_path)
    environ = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "none")}
    (found,) = check_hub(environ, "")
    assert "no token" in found.text


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


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None,
    reason="only root can become another user, with setpriv",
)
def test_a_user_without_rights(doctor: Doctor, image: Path) -> None:
    # Everybody can reach this directory; only root can write to it, and read the image.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        place = Path(name)
        place.chmod(0o755)
        (place / "lm_eval.sif").touch(mode=0o600)
        (place / "apptainer").write_text(RUNTIME)
        (place / "apptainer").chmod(0o755)
        doctor.settings |= {"eval_base_dir": name, "images_directory": name}
        doctor.settings["python"] = "/usr/bin/python3"
        settings = doctor.environment()
        shutil.copy(settings["OELLM_CONFIG"], place / "clusters.json")
        packages = Path(docopt.__file__).parent.parent
        settings |= {
            "OELLM_CONFIG": f"{place}/clusters.json",
            "PATH": f"{place}:{os.environ['PATH']}",
            "PYTHONPATH": f"{ROOT}/lib:{ROOT}/commands:{packages}",
        }
        done = subprocess.run(
            [
                *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
                *("/usr/bin/python3", "-m", "oe_doctor", "--set=executor=local"),
            ],
            env=clean_environment(Path("/nonexistent"), settings),
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
    found = read_found(done.returncode, done.stdout, done.stderr)
    assert found.wrong() == ["image lm_eval", "hf_home", "eval_output_dir"]
    assert "lm_eval.sif: Permission denied" in found.text("image lm_eval")
    assert "cannot be written: Permission denied" in found.text("eval_output_dir")
