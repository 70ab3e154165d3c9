"""Variables of several vendors for one job's GPUs: a worker gets one of them, in every mode."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from support.processes import Run
from support.submitting import HEADER, fake_worker

# All processes of these tests are scripts.
pytestmark = pytest.mark.slow

SHOW = 'echo "oe-run-task: $(env | grep -E "^(CUDA|ROCR|HIP|GPU)_" | sort | tr "\\n" " ")" >&2'
ALL = {
    "CUDA_VISIBLE_DEVICES": "4,5",
    "ROCR_VISIBLE_DEVICES": "4,5",
    "HIP_VISIBLE_DEVICES": "4,5",
    "GPU_DEVICE_ORDINAL": "4,5",
}


def render(run: Run, tmp_path: Path, *settings: str) -> Path:
    fake_worker(tmp_path, SHOW)
    given = (f"venv={tmp_path}/venv", f"eval_base_dir={tmp_path}/base", "shard_time=0", *settings)
    rows = HEADER + "acme/a,mmlu,0\nacme/b,mmlu,0\n"
    command = ("oe-render", "--cluster=slurm", *(f"--set={text}" for text in given))
    return Path(json.loads(run(*command, stdin=rows).stdout)["run_dir"])


@pytest.mark.parametrize("whole_node", [False, True])
@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        (['container_args=["--rocm"]'], "ROCR_VISIBLE_DEVICES"),
        (["gpu_gres=gpu:mi250"], "ROCR_VISIBLE_DEVICES"),
        (['container_args=["--nv"]'], "CUDA_VISIBLE_DEVICES"),
    ],
)
def test_a_job_passes_on_one_vendors_variable(
    run: Run, tmp_path: Path, settings: list[str], kept: str, *, whole_node: bool
) -> None:
    node = ["whole_node=true"] if whole_node else []
    directory = render(run, tmp_path, "gpus_per_node=2", *node, *settings)
    script = directory / "submit_evals.sbatch"
    log = directory / "slurm_logs" / "local_0.0.log"
    log.symlink_to(tmp_path / "victim")
    done = run("bash", script, "0", directory, env=ALL | {"SLURM_ARRAY_TASK_ID": "0"})
    assert not (tmp_path / "victim").exists()
    logs = [path.read_text() for path in (directory / "slurm_logs").glob("*.log") if path.exists()]
    seen = re.findall(r"oe-run-task: (.*)", "\n".join([done.stderr, *logs]))
    expected = [f"{kept}=4 ", f"{kept}=5 "] if whole_node else [f"{kept}=4,5 "]
    assert sorted(seen) == expected


def test_a_variable_that_hides_all_gpus_reaches_the_worker(run: Run, tmp_path: Path) -> None:
    directory = render(run, tmp_path, "gpus_per_node=0")
    env = {"SLURM_ARRAY_TASK_ID": "0", "CUDA_VISIBLE_DEVICES": ""}
    done = run("bash", directory / "submit_evals.sbatch", "0", directory, env=env)
    assert "oe-run-task: CUDA_VISIBLE_DEVICES= \n" in done.stderr


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        (['container_args=["--rocm"]'], "ROCR_VISIBLE_DEVICES"),
        (['container_args=["--nv"]'], "CUDA_VISIBLE_DEVICES"),
    ],
)
def test_the_local_executor_gives_each_element_a_gpu_in_one_variable(
    run: Run, tmp_path: Path, settings: list[str], kept: str
) -> None:
    directory = render(run, tmp_path, *settings)
    command = ("oe-submit", "--executor=local", "--jobs=2", directory)
    done = run(*command, env=ALL, status=1)
    assert sorted(re.findall(r"shard \d: (.*)", done.stderr)) == [f"{kept}=4", f"{kept}=5"]
