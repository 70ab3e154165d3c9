"""The log of a job: what computes, when, which score, and no secret."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.processes import Run
from support.task_files import write_task

TOKEN = "hf_" + "aB3" * 11
CODE = """
import os
import sys
import warnings

import datasets


def load(**_):
    print("environment:", dict(os.environ))
    print(open(os.path.expanduser("~/token")).read(), file=sys.stderr)
    print("KEYBOARD, MONKEY and the key", end="", flush=True)
    print(" to the door")
    documents = [{"text": "What shines?", "choices": ["the moon", "the sun"], "answer": 1}] * 4
    return datasets.DatasetDict({"test": datasets.Dataset.from_list(documents)})
"""
STAMP = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d "


@pytest.mark.slow
@pytest.mark.parametrize("whole_node", [False, True])
def test_the_log_of_a_healthy_job(
    run: Run, tiny_model: Path, tmp_path: Path, *, whole_node: bool
) -> None:
    (tmp_path / "home" / "token").write_text(f"the token {TOKEN}!\n")
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    (tasks / "tasks.py").write_text(CODE)
    metrics = "[{metric: acc}, {metric: acc_norm}]"
    choice = {"doc_to_choice": '"{{choices}}"', "doc_to_target": '"{{answer}}"'}
    write_task(tasks, "prints", metric_list=metrics, **choice)
    header = "model_path,task_path,n_shot,include_path,batch_size,primary_metric\n"
    rows = header + f"{tiny_model},prints,0,{tasks},8,acc_norm\n"
    node = ["whole_node=true", "gpus_per_node=2", "allow_cpu=true"] if whole_node else []
    command = ("oe-render", "--cluster=local", *(f"--set={text}" for text in node))
    directory = Path(json.loads(run(*command, stdin=rows).stdout)["run_dir"])
    secrets = {"HF_TOKEN": "value-of-a-token", "MY_KEY": "value-of-4-keys"}
    env = secrets | ({"CUDA_VISIBLE_DEVICES": "0,1"} if whole_node else {})
    done = run("oe-submit", "--executor=local", directory, env=env)
    name = "local_0.0.log" if whole_node else "local_0.log"
    log = (directory / "slurm_logs" / name).read_text()
    assert [line for line in log.splitlines() if not re.match(STAMP, line)] == []
    for secret in (TOKEN, *secrets.values()):
        assert secret not in log
        assert secret not in done.stderr
    assert "environment: {" in log
    assert "the token [redacted]!\n" in log
    assert re.search(rf"^{STAMP}KEYBOARD, MONKEY and the key to the door$", log, re.MULTILINE)
    loaded = rf"^{STAMP}oe-run-task: node \S+, CPU only \(.*, \d+ cores\), lm-eval [\d.]+: "
    loaded += rf"model {tiny_model} loaded in [\d.]+ s, batch size 8$"
    assert re.search(loaded, log, re.MULTILINE)
    assert re.search(r"prints n_shot=0 done in [\d.]+ s: acc_norm [01]\.\d{4}$", log, re.MULTILINE)
    assert "oe-run-task: 1 rows evaluated, 0 already had results, 0 failed\n" in log
    if not whole_node:
        assert re.search(rf"^oe-submit: shard 0: node .*: model {tiny_model} ", done.stderr, re.M)


PRINT = """
import os, sys
from oellm.core.processes import log_lines
log_lines.keep_lines(is_stamped=len(sys.argv) > 1)
sys.stdout.write("half ")
if os.fork() == 0:
    print("child")
    os._exit(0)
os.wait()
print(f"a line of {os.environ['MY_TOKEN']}")
print("x" * 70000, end="")
print("é\\u2028\\x85\\nlast", end="")
"""


@pytest.mark.parametrize("stamped", [False, True])
def test_lines_are_whole_and_nothing_is_lost_or_twice(stamped: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PRINT, *(["stamped"] if stamped else [])],
        env={"MY_TOKEN": "value-of-a-token"},
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert done.stderr == ""
    lines = done.stdout.split("\n")
    if stamped:
        assert [line for line in lines if not re.match(STAMP, line)] == []
        lines = [re.sub(STAMP, "", line, count=1) for line in lines]
    expected = ["child", "half a line of [redacted]", "x" * 70000 + "é\u2028\x85", "last"]
    assert lines == expected
