"""The facts that are recorded about the process, the machine and the container of a result."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from oellm.runs import provenance
from support.processes import Run

NVIDIA = "NVRM version: NVIDIA UNIX {}  {}  Tue Mar  5 22:23:56 UTC 2024\nGCC version:  gcc 8.5.0\n"
INTEL = "processor\t: 0\nmodel\t\t: 106\nmodel name\t: Intel(R) Xeon(R) CPU: 8358\nbugs\t: x\n"
ARM = "processor\t: 0\nBogoMIPS\t: 2000.00\nCPU implementer\t: 0x41\nCPU part\t: 0xd4f\n"
REPORT = """
import json, os
from oellm.runs import provenance
facts = [provenance.process_facts()]
if child := os.fork():
    os.waitpid(child, 0)
else:
    facts = [provenance.process_facts(), child]
    print(json.dumps(facts[0]), flush=True)
    os._exit(0)
print(json.dumps(facts[0]))
"""


def write(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def test_a_process_and_its_fork_describe_themselves(run: Run) -> None:
    env = {
        "SLURM_JOB_ID": "4712",
        "SLURM_ARRAY_JOB_ID": "4711",
        "SLURM_JOB_PARTITION": "gpu",
        "SLURM_NODELIST": "n1",
        "WANDB_API_KEY": "0123456789abcdef",
    }
    done = run(sys.executable, "-c", REPORT, "--key=0123456789abcdef", env=env)
    fork, process = map(json.loads, done.stdout.splitlines())
    assert process["host"] == socket.gethostname()
    assert process["pid"] != fork["pid"]
    assert process["command"] == [sys.executable, "-c", REPORT, "--key=[redacted]"]
    assert process["slurm"] == {
        name: env[name] for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_JOB_PARTITION")
    }
    assert process["cpu"]["cores"] == len(os.sched_getaffinity(0))
    assert set(process["versions"]) == {"oellm", "python"}
    assert process["container"] == {}
    assert {**fork, "pid": process["pid"]} == process


def test_the_start_of_a_process_includes_the_start_of_python() -> None:
    # A process name that breaks parsers that split the line of /proc at blanks.
    script = (
        "import time; open('/proc/self/comm', 'w').write(') 1 ('); time.sleep(0.3);"
        "from oellm.runs.provenance import start_seconds; print(start_seconds())"
    )
    started = time.monotonic()
    shell = ["bash", "-c", 'sleep 0.2; exec "$0" -c "$1"', sys.executable, script]
    done = subprocess.run(shell, capture_output=True, text=True, check=True)
    elapsed = time.monotonic() - started
    assert 0.5 <= float(done.stdout) + 0.02 <= elapsed + 0.04


@pytest.mark.parametrize(
    ("cpuinfo", "model"),
    [
        (INTEL * 2, "Intel(R) Xeon(R) CPU: 8358"),
        (ARM * 2, "CPU implementer 0x41, CPU part 0xd4f"),
        ("", ""),
    ],
)
def test_the_processor_has_a_name(tmp_path: Path, cpuinfo: str, model: str) -> None:
    write(tmp_path, "proc/cpuinfo", cpuinfo)
    assert provenance.cpu_model(str(tmp_path)) == model


@pytest.mark.parametrize("runtime", ["APPTAINER", "SINGULARITY"])
def test_a_container_is_described_by_path_labels_and_definition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, runtime: str
) -> None:
    monkeypatch.delenv("APPTAINER_CONTAINER", raising=False)
    monkeypatch.delenv("SINGULARITY_CONTAINER", raising=False)
    assert provenance.container_facts(str(tmp_path)) == {}
    monkeypatch.setenv(f"{runtime}_CONTAINER", "/images/x.sif")
    assert provenance.container_facts(str(tmp_path)) == {"path": "/images/x.sif"}
    labels = {"org.opencontainers.image.title": "lm_eval-cuda", "org.label-schema.x": "y"}
    write(tmp_path, ".singularity.d/labels.json", json.dumps(labels))
    write(tmp_path, ".singularity.d/Singularity", "Bootstrap: docker\n")
    assert provenance.container_facts(str(tmp_path)) == {
        "path": "/images/x.sif",
        "title": "lm_eval-cuda",
        "definition_sha256": hashlib.sha256(b"Bootstrap: docker\n").hexdigest(),
    }


@pytest.mark.parametrize(
    ("file", "text", "driver"),
    [
        (
            "proc/driver/nvidia/version",
            NVIDIA.format("x86_64 Kernel Module", "550.54.15"),
            "550.54.15",
        ),
        (
            "proc/driver/nvidia/version",
            NVIDIA.format("Open Kernel Module for aarch64", "570.86"),
            "570.86",
        ),
        ("sys/module/amdgpu/version", "6.3.6\n", "6.3.6"),
    ],
)
def test_gpus_are_the_ones_that_torch_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str, text: str, driver: str
) -> None:
    write(tmp_path, file, text)
    gpu = SimpleNamespace(name="NVIDIA A100-SXM-64GB", total_memory=68_000_000_000, minor=0)
    cuda = SimpleNamespace(
        is_available=lambda: True, device_count=lambda: 2, get_device_properties=lambda _: gpu
    )
    torch = SimpleNamespace(cuda=cuda, version=SimpleNamespace(cuda="12.8", hip=None))
    monkeypatch.setitem(sys.modules, "torch", torch)
    assert provenance.accelerator_facts(str(tmp_path)) == {
        "gpus": [{"name": "NVIDIA A100-SXM-64GB", "memory_bytes": 68_000_000_000}] * 2,
        "driver": driver,
        "cuda": "12.8",
        "hip": "",
    }
    cuda.is_available = lambda: False
    assert provenance.accelerator_facts(str(tmp_path / "none"))["gpus"] == []
