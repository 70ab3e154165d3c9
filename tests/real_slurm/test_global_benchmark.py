"""global-benchmark on a Slurm that no known cluster describes, answered on a terminal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from support import code_rows
from support.code_metric import serve_code_metric
from support.dev_cluster import DevCluster
from support.frameworks import KNOWN, PROBLEMS, framework_image, reciting_model
from support.hub import Hub
from support.processes import clean_environment
from support.terminal import converse, end

BACKSPACE = "\x7f"
# The images as oe-build names them, and the environments whose packages they have.
IMAGES = {
    "bigcode_eval-cpu": "bigcode_eval",
    "bigcodebench-evaluate-cpu": "bigcodebench-evaluate",
    "vllm-cpu-cpu": "vllm-cpu",
}
SLURM = {"cpus_per_task": 2, "cpus_per_gpu": 2, "mem": "5000M", "gpu_gres": "gpu:4"}


@pytest.fixture
def env(cluster: DevCluster, hub: Hub, image: Path, tmp_path: Path) -> dict[str, str]:
    """Return the environment of a user with images, a model to bind, and problems to solve."""
    code_rows.serve_human_eval(hub, tmp_path / "human_eval")
    serve_code_metric(hub, tmp_path / "served")
    images = tmp_path / "images"
    images.mkdir()
    (images / "lm_eval-cpu.sif").symlink_to(image)
    for name, environment in IMAGES.items():
        (images / f"{name}.sif").symlink_to(framework_image(environment))
    # The settings of the dev cluster do not count: its name is not given.
    named = {**cluster.env, "OELLM_CLUSTER": "", "HF_HOME": str(tmp_path / "hf")}
    return clean_environment(tmp_path, {**named, **hub.environment})


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    """Return a directory with made problems of bigcodebench, and their hard subset."""
    own = tmp_path / "own"
    own.mkdir()
    lines = code_rows.write_bigcodebench(own / "bigcodebench.jsonl", PROBLEMS).read_text()
    hard = lines.splitlines(keepends=True)[KNOWN - 1 : KNOWN + 1]
    (own / "bigcodebench-hard.jsonl").write_text("".join(hard))
    return own


def configure(env: dict[str, str], directory: Path) -> None:
    assert end(converse("global-benchmark", "config", env=env, cwd=directory)) == 0
    path = directory / "config.json"
    config = json.loads(path.read_text())
    bind = {"source": str(reciting_model()), "target": "/models/eight"}
    # The GPUs of this cluster are files without a device.
    config["run"] |= {"dtype": "float32", "binds": [bind], "allow_cpu": True}
    config["slurm"] |= {**SLURM, "env": {"OMP_NUM_THREADS": "1"}}
    path.write_text(json.dumps(config))


def test_three_frameworks_in_containers_have_their_known_scores(
    env: dict[str, str], problems: Path, tmp_path: Path
) -> None:
    configure(env, tmp_path)
    asked: Any = converse(
        *("global-benchmark", "run", "--slurm", f"--limit={PROBLEMS}"),
        "--cell=lm_eval.gen_kwargs=max_gen_toks=300",
        "--cell=bigcodebench.gen_kwargs=max_new_tokens=300",
        "--cell=bigcodebench.model_args=max_model_len=1024,enforce_eager=true",
        "--cell=bigcodebench.apply_chat_template=false",
        f"--cell=bigcodebench.include_path={problems}",
        env=env,
        cwd=tmp_path,
    )
    asked.expect("Which model")
    asked.send("\r")
    asked.expect("Which tasks")
    asked.send("humaneval " + BACKSPACE * 9 + "bench_complete " + BACKSPACE * 14 + "other \r")
    asked.expect("Other tasks, separated by commas", timeout=120)
    asked.send("bigcode_eval:humaneval\r")
    for suite in ("bigcodebench", "bigcode_eval"):
        asked.expect(rf"{suite}\)")
        asked.expect("Pairs of")
        asked.send("(0, 1)\r")
    asked.timeout = 1500
    assert end(asked) == 0, asked.before

    (path,) = tmp_path.glob("results/*.json")
    found = json.loads(path.read_text())
    share, drawn = pytest.approx(KNOWN / PROBLEMS), {"temperature": 0, "n_samples": 1}
    assert found["model"] == str(reciting_model())
    assert found["humaneval"][0]["pass@1,create_test"] == share
    assert found["bigcode_eval:humaneval"] == [{"pass@1": share, **drawn}]
    full, hard = found["big_code_bench_complete"]
    assert (full, hard) == (
        {"pass@1": share, **drawn, "subset": "full"},
        {"pass@1": 0.5, **drawn, "subset": "hard"},
    )
    record = json.loads((path.with_suffix("") / "run.json").read_text())
    names = {Path(image["path"]).name for image in record["images"]}
    assert names == {"lm_eval-cpu.sif", *(f"{name}.sif" for name in IMAGES)}
    assert record["cluster"]["name"] == "slurm"
