"""How many GPUs a program may use: those of its worker, or those that the machine shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from oellm.manifest.rows import Row
from oellm.worker.gpu_check import GpuDemand
from oellm.worker.programs.program_gpus import ProgramGpus, find_gpus


def row(tp: str = "", arguments: str = "") -> Row:
    return Row(
        {"model_path": "m", "task_path": "t", "n_shot": "", "tp": tp, "model_args": arguments}
    )


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the root of a machine with AMD's GPUs, which need no driver's library to be seen."""
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "kfd").touch()
    for name in ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    return str(tmp_path)


def gpus(demand: GpuDemand, root: str, *rows: Row) -> list[int] | str:
    """Return the GPUs of each row's program, or why the machine has none for them."""
    said: list[str] = []
    found = ProgramGpus(demand, said.append, root)
    if (halt := found.check(rows)) is not None:
        assert halt.is_unusable
        return halt.reason
    return [found.count(each) for each in rows]


def test_a_worker_uses_what_it_was_given(machine: str) -> None:
    rows = (row(), row(tp="2"), row(arguments="device=cpu"))
    assert gpus(GpuDemand(2), machine, *rows) == [2, 2, 0]


def test_a_worker_that_was_given_none_uses_what_the_machine_shows(
    machine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = (row(), row(tp="2"), row(arguments="device=cpu"))
    assert gpus(GpuDemand(0), machine, *rows) == [1, 2, 0]
    # A variable that names none hides them.
    monkeypatch.setenv("ROCR_VISIBLE_DEVICES", "")
    assert gpus(GpuDemand(0), machine, *rows) == [0, 0, 0]
    assert gpus(GpuDemand(0), str(tmp_path / "none"), *rows) == [0, 0, 0]


def test_gpus_that_were_given_and_are_not_there(tmp_path: Path) -> None:
    nothing = str(tmp_path)
    reason = gpus(GpuDemand(1), nothing, row())
    assert isinstance(reason, str)
    assert reason.startswith("the GPU that the worker was given cannot be used: this machine shows")
    assert gpus(GpuDemand(1, allow_cpu=True), nothing, row()) == [0]


def test_the_names_of_the_gpus_that_a_variable_chooses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, name in enumerate(("NVIDIA A100", "NVIDIA H100", "NVIDIA H100")):
        place = tmp_path / "proc" / "driver" / "nvidia" / "gpus" / f"0000:0{number}:00.0"
        place.mkdir(parents=True)
        (place / "information").write_text(f"Model: \t\t {name}\nIRQ:   \t\t 44\n")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,2")
    root = f"{tmp_path}/"
    assert [gpu["name"] for gpu in find_gpus(2, root)["gpus"]] == ["NVIDIA H100", "NVIDIA H100"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert [gpu["name"] for gpu in find_gpus(1, root)["gpus"]] == ["NVIDIA A100"]
    assert find_gpus(0, root)["gpus"] == []
    assert find_gpus(1, f"{tmp_path}/none/")["gpus"] == []
