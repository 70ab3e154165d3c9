"""The batch script as oe-render writes it: for each kind of cluster, and for hostile settings."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from oellm import __version__
from support.golden_files import assert_golden
from support.processes import Run, clean_environment, runner

HEADER = "model_path,task_path,n_shot\n"
MANIFEST = HEADER + "acme/tiny,hellaswag,5\nacme/tiny,mmlu,\nacme/small,hellaswag,5\n"

VENV_CLUSTER = [
    "--cluster=slurm",
    "--set=eval_base_dir=/scratch/evals",
    "--set=venv=/scratch/venvs/eval",
    "--set=partition=gpu",
    "--set=account=a42",
    "--set=qos=normal",
    "--set=reservation=ours",
    "--set=gpu_constraint=a100&80g",
    "--set=exclude=n[1-3]",
    "--set=concurrency=4",
    "--set=mem=64G",
    "--set=time_limit=1-00:00:00",
    "--set=stage_dir=${TMPDIR}/oellm models",
    "--sbatch=mail-type=FAIL",
    "--sbatch=exclusive",
    '--set=setup=["module load cuda"]',
]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("leonardo", ["--cluster=leonardo"]),
        ("lumi", ["--cluster=lumi"]),
        # Whole nodes: three models on four GPUs, and two at a time on two GPUs each.
        ("jureca", ["--cluster=jureca"]),
        ("jupiter", ["--cluster=jupiter", "--set=tp=2", "--set=stage_dir=/tmp"]),
        ("venv", VENV_CLUSTER),
    ],
)
def test_script_of_each_kind_of_cluster_is_golden(
    run: Run, name: str, arguments: list[str]
) -> None:
    done = run(
        *("oe-render", "--dry_run", "--run_dir=/scratch/run 1", "--set=shard_time=0", *arguments),
        stdin=MANIFEST + "acme/large,hellaswag,5\n",
        env={"LOGNAME": "ada"},
    )
    # The golden scripts stay as they are when the version changes.
    assert f"# Written by oe-render {__version__}. " in done.stdout
    assert_golden(
        f"{name}.sbatch", done.stdout.replace(f"oe-render {__version__}", "oe-render 0.1.0")
    )
    assert "hellaswag" not in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sbatch==x"], "--sbatch: expected NAME=VALUE, or NAME, got '=x'"),
        (
            ["--sbatch=time=1"],
            "--set sbatch.time: sbatch: --time must not be changed: "
            "the plan chooses it; the setting time_limit is its upper limit",
        ),
        (["--run_dir=/x\ntouch y"], r"run directory '/x\ntouch y': expected no control characters"),
        (["--run_dir=/x\\y"], r"run directory '/x\\y': expected no control characters and no b"),
        (
            ["--set=tp=8", "--set=gpus_per_node=4"],
            "stdin:2: tp: expected at most 4, got 8: a node of slurm has 4 GPUs (setting "
            "gpus_per_node), and a worker cannot use more than one",
        ),
    ],
)
def test_what_a_script_cannot_have_is_refused(run: Run, arguments: list[str], message: str) -> None:
    base = ["--cluster=slurm", "--set=venv=/v", "--set=eval_base_dir=/b"]
    done = run("oe-render", "--dry_run", *base, *arguments, stdin=MANIFEST, status=2)
    # Each bad line is named; it is the same for all here.
    first = next(line for line in done.stderr.splitlines() if "expected" in line or "must" in line)
    assert first.startswith(f"oe-render: {message}")
    assert done.stdout == ""


# Nothing that the scripts get may start one of these words.
TOUCH = "$(touch PWNED)`touch PWNED`;touch PWNED&touch PWNED|touch PWNED"
HOSTILE = {
    "shell": f"a b'c\"d{TOUCH}%j#é世  $HOME*?~!%A'; touch PWNED; '\"\u2028touch PWNED\u202e",
    "dashes": "--wrap=touch PWNED -Stouch --pwd=/ '",
    "long": ("é" * 100 + TOUCH).ljust(300, "x"),
}

# Notes its arguments, byte for byte; each process by itself, since two may write at once.
STUB = """#!/bin/bash
printf '%s\\0' "$@" >>"$0.called.$$"
"""


def stub(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(STUB)
    path.chmod(0o755)
    return path


def calls(program: Path) -> list[str]:
    notes = sorted(program.parent.glob(f"{program.name}.called.*"))
    return b"".join(note.read_bytes() for note in notes).decode().split("\0")[:-1]


def execute(script: Path, directory: Path, **environment: str) -> None:
    gpus = {"CUDA_VISIBLE_DEVICES": "4,5", "SLURM_ARRAY_TASK_ID": "0"}
    subprocess.run(
        ["bash", script, "0", script.parent],
        env=clean_environment(directory, gpus | environment),
        cwd=directory,
        check=True,
        timeout=60,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "workers"), [("shell", 1), ("shell", 2), ("dashes", 1), ("long", 2)]
)
def test_hostile_settings_stay_data_when_the_script_runs(
    tmp_path: Path, kind: str, workers: int
) -> None:
    hostile = HOSTILE[kind]
    # A part of a path has at most 255 bytes.
    name = hostile.replace("/", "")
    base = tmp_path.joinpath(*(name[start : start + 100] for start in range(0, len(name), 100)))
    apptainer = stub(tmp_path / "bin" / "apptainer")
    (base / "models").mkdir(parents=True)
    image = base / f"{name[:40]}.sif"
    image.touch()
    words = ["account", "partition", "gpu_constraint", "reservation", "exclude", "qos"]
    rendered = runner(tmp_path)(
        *("oe-render", "--cluster=slurm", f"--set=eval_base_dir={base}"),
        *(f"--run_dir={base}/run", f"--set=images.lm_eval={image}", f"--set=env.PROBE={hostile}"),
        *(f"--set={key}={hostile}" for key in words),
        f"--set=container_args={json.dumps([hostile])}",
        f"--set=binds={json.dumps([hostile])}",
        f"--set=stage_dir=$STAGE/{name[:100].replace('$', '')}",
        *(f"--sbatch=mail-user={hostile}", "--set=gpus_per_node=2"),
        f"--set=whole_node={'true' if workers == 2 else 'false'}",
        stdin=f'{HEADER}"a,revision={TOUCH.replace("&", "")}",{json.dumps(TOUCH)},0\n'
        f"{base}/models,t,0\n",
    )
    run_dir = Path(json.loads(rendered.stdout)["run_dir"])
    path = f"{apptainer.parent}:{clean_environment(tmp_path)['PATH']}"
    stage = tmp_path / f"stage {kind} $(touch PWNED)"
    execute(run_dir / "submit_evals.sbatch", tmp_path, PATH=path, STAGE=str(stage))
    called = calls(apptainer)
    assert called.count("exec") == workers
    one = called[: len(called) // workers]
    assert one[:4] == ["exec", "--pwd", str(run_dir), hostile]
    bound = [one[n + 1] for n, word in enumerate(one) if word == "--bind"]
    assert bound[-2] == hostile
    assert bound[-1].startswith(f"{stage}/")
    assert Path(bound[-1]).is_dir()
    assert f"PROBE={hostile}" in one
    assert f"STAGE={stage}" in one
    assert str(image) in one
    shards = {called[n + 1] for n, word in enumerate(called) if word == "--shard"}
    assert shards == ({"0", "1"} if workers == 2 else {"0"})
    worker = ["python3", f"{run_dir}/oe-run-task.pyz", "--run_dir", str(run_dir), "--shard"]
    assert one[-6:-1] == worker
    assert not list(tmp_path.rglob("PWNED"))
