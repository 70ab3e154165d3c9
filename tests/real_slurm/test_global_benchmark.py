"""A new cluster: from an empty environment with a wheel to scores of three frameworks.

The commands are those of README.md and docs/GLOBAL_BENCHMARK.md, on a Slurm whose login node no
known cluster describes.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support import code_rows
from support.chat_server import human_eval_server
from support.code_metric import serve_code_metric
from support.doctor import read_found
from support.frameworks import KNOWN, PROBLEMS, image_of, reciting_model
from support.hub import Hub
from support.processes import BIN, ROOT, clean_environment
from support.registry import Registry
from support.terminal import converse, end
from support.waiting import wait_until
from support.wheels import add_dependencies, build_wheel, install_wheel

BACKSPACE = "\x7f"
IMAGES = ("lm_eval-cpu", "bigcode_eval-cpu", "bigcodebench-evaluate-cpu", "vllm-cpu-cpu")
README = (ROOT / "README.md").read_text()
PAGE = (ROOT / "docs" / "GLOBAL_BENCHMARK.md").read_text()
# This machine has two cores, and its GPUs are files without a device.
RUN = {"dtype": "float32", "gpus_per_node": 0, "env": {"OMP_NUM_THREADS": "1"}}
SLURM = {"cpus_per_task": 2, "cpus_per_gpu": 2, "mem": "5000M"}


class NewUser:
    """Somebody with an empty home, and an environment that has a wheel of oellm."""

    def __init__(self, directory: Path, env: dict[str, str]) -> None:
        wheel = build_wheel(directory / "wheel", "--wheel")
        self.bin = install_wheel(wheel, directory / "venv")
        add_dependencies(self.bin, extras=["menu"])
        self.work = directory / "work"
        self.work.mkdir()
        home = directory / "home"
        home.mkdir(exist_ok=True)
        others = [path for path in os.environ["PATH"].split(":") if Path(path) != BIN]
        self.started: list[subprocess.Popen[str]] = []
        self.env = clean_environment(home, env) | {"PATH": ":".join([str(self.bin), *others])}

    def start(self, script: str) -> subprocess.Popen[str]:
        """Start lines of a page without a terminal."""
        process = subprocess.Popen(
            ["bash", "-e", "-c", script],
            cwd=self.work,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def type(self, script: str, status: int = 0) -> tuple[str, str]:
        """Run lines of a page without a terminal; return what they print."""
        return finish(self.start(script), status)

    def converse(self, *words: str) -> Any:
        """Start global-benchmark on a terminal."""
        return converse(self.bin / "global-benchmark", *words, env=self.env, cwd=self.work)


def finish(process: subprocess.Popen[str], status: int = 0) -> tuple[str, str]:
    """Wait for the end of a process; return what it has written to stdout and stderr."""
    output, messages = process.communicate()
    assert process.returncode == status, f"{output}\n{messages}"
    return output, messages


@pytest.fixture
def user(tmp_path: Path, hub: Hub, slurm_conf: Path, image: Path) -> Iterator[NewUser]:
    code_rows.serve_human_eval(hub, tmp_path / "human_eval")
    serve_code_metric(hub, tmp_path / "served")
    hub.add_model("acme/tiny", reciting_model())
    scratch = tmp_path / "scratch é #1"
    scratch.mkdir()
    env = {"SLURM_CONF": str(slurm_conf), "SCRATCH": str(scratch), **hub.environment}
    yield (made := NewUser(tmp_path, env))
    for process in made.started:
        process.terminate()
    # Images are large.
    shutil.rmtree(tmp_path / "work" / "images", ignore_errors=True)


@pytest.fixture
def cells(tmp_path: Path) -> list[str]:
    """Return options for few problems and short answers; bigcodebench's are in a directory."""
    own = tmp_path / "own"
    own.mkdir()
    lines = code_rows.write_bigcodebench(own / "bigcodebench.jsonl", PROBLEMS).read_text()
    hard = lines.splitlines(keepends=True)[KNOWN - 1 : KNOWN + 1]
    (own / "bigcodebench-hard.jsonl").write_text("".join(hard))
    return [
        # Not bigcodebench: the first problems of both sets would need a generation for each.
        f"--cell=lm_eval.limit={PROBLEMS}",
        f"--cell=bigcode_eval.limit={PROBLEMS}",
        # To find the largest batch takes a CPU minutes.
        f"--cell=lm_eval.batch_size={PROBLEMS}",
        "--cell=lm_eval.gen_kwargs=max_gen_toks=300",
        "--cell=bigcodebench.gen_kwargs=max_new_tokens=300",
        f"--cell=bigcodebench.include_path={own}",
    ]


def block(page: str, title: str) -> str:
    """Return the first indented lines below a title."""
    section = page.partition(f"# {title}\n")[2]
    match = re.search(r"(?:^    .*\n)+", section, re.MULTILINE)
    assert match is not None
    return match[0]


def test_from_a_wheel_to_scores_as_the_pages_say(
    user: NewUser, registry: Registry, cells: list[str]
) -> None:
    for name in IMAGES:
        registry.add_file(image_of(name), f"oellm/{name}", "1.0")
    configure_cluster(user)
    chat = "--cell=bigcodebench.apply_chat_template=false"
    vllm = "--cell=bigcodebench.model_args=max_model_len=1024,enforce_eager=true"
    run = follow_page(user, registry, [*cells, chat, vllm])
    # The model is in the cache as soon as the jobs are in the queue.
    wait_until(lambda: any(user.work.glob("results/*/run.json")), 300, process=run)
    with human_eval_server(KNOWN) as address:
        server = f"--cell=bigcodebench.model_args=base_url={address}"
        answer_questions(user, [*cells, "--cell=bigcodebench.backend=openai", server])
    output, _ = finish(run)
    found = {path: read_results(path) for path in user.work.glob("results/*.json")}
    assert user.work / output.strip() in found
    one, other = found.values()
    assert one == other


def configure_cluster(user: NewUser) -> None:
    _, refusal = user.type("oe-detect", status=3)
    assert "`oellm config` describes it" in refusal
    assert not (user.bin.parent / "lib/python3.11/site-packages/torch").exists()
    commands = block(README, "Clusters").splitlines()
    assert commands[0].startswith("    oellm config --yes ")
    written, _ = user.type(commands[0])
    (entry,) = json.loads(written)["clusters"].values()
    assert (entry["partition"], entry["gpus_per_node"]) == ("gpu", 4)
    assert commands[1].startswith("    oellm doctor --job ")
    found = read_found(0, *user.type(commands[1]))
    assert "not built yet -> oe-build " in found.text("image lm_eval")
    assert found.state("job clock") == "ok"
    explained, _ = user.type(commands[2])
    assert "partition" in explained


def follow_page(user: NewUser, registry: Registry, cells: list[str]) -> subprocess.Popen[str]:
    """Do what the page shows, with the images and problems that are here; return the run."""
    commands = block(PAGE, "Global Benchmarks")
    assert commands == block(README, "Global Benchmarks")
    config, setup, run = commands.replace("\\\n", " ").splitlines()
    user.type(config)
    path = user.work / "config.json"
    content = json.loads(path.read_text())
    content["run"] |= RUN
    content["slurm"] |= SLURM
    path.write_text(json.dumps(content))
    setup = setup.replace("registry.example.org", registry.host)
    # Its evaluation has the compilers of twelve languages, which take long to install.
    setup = setup.replace("big_code_evaluation_harness", "bigcode_eval-cpu")
    pulled, _ = user.type(setup)
    records = [json.loads(line) for line in pulled.splitlines()]
    statuses = {record["name"]: record["status"] for record in records}
    assert statuses == dict.fromkeys(IMAGES, "pulled")
    return user.start(f"{run} {shlex.join(cells)}")


def answer_questions(user: NewUser, cells: list[str]) -> None:
    """Do the same on a terminal, where global-benchmark asks for what no option says."""
    asked = user.converse("config")
    asked.expect("Overwrite it")
    asked.send("n")
    assert end(asked) == 0
    asked = user.converse("setup")
    asked.expect("Which images")
    for name in IMAGES:
        asked.send(f"{name} " + BACKSPACE * len(name))
    asked.send("\r")
    asked.expect("up_to_date", timeout=60)
    assert end(asked) == 0
    asked = user.converse("run", "--slurm", *cells)
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


def read_results(path: Path) -> dict[str, Any]:
    """Return what a file of results has, after a look at its run."""
    found: dict[str, Any] = json.loads(path.read_text())
    share, drawn = pytest.approx(KNOWN / PROBLEMS), {"temperature": 0, "n_samples": 1}
    assert found["model"] == "acme/tiny"
    assert found["humaneval"][0]["pass@1,create_test"] == share
    assert found["bigcode_eval:humaneval"] == [{"pass@1": share, **drawn}]
    full, hard = found["big_code_bench_complete"]
    assert full == {"pass@1": share, **drawn, "subset": "full"}
    assert hard == {"pass@1": 0.5, **drawn, "subset": "hard"}
    run_dir = path.with_suffix("")
    record = json.loads((run_dir / "run.json").read_text())
    assert {Path(image["path"]).stem for image in record["images"]} == {*IMAGES}
    assert all(image["sha256"] for image in record["images"])
    assert record["cluster"]["name"] == "oellm-dev"
    # Four rows, of which both subsets of bigcodebench have one generation.
    assert len(list(run_dir.glob("stages/*/generate"))) == 3
    return found
