"""The process that oe-fetch asks about tasks, if oe-fetch is interrupted."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from oellm.clusters.cluster import resolve_cluster
from oellm.fetch import task_process
from oellm.fetch.task_process import TaskProcess
from oellm.manifest.rows import Row


def test_an_interrupt_stays_one_if_the_process_has_just_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupt_after_the_end(process: subprocess.Popen[bytes], _: bytes) -> None:
        process.wait()
        raise KeyboardInterrupt

    monkeypatch.setattr(task_process, "worker_command", lambda *_, **__: ["true"])
    monkeypatch.setattr(subprocess.Popen, "communicate", interrupt_after_the_end)
    cluster = resolve_cluster("local", [], {"HOME": str(tmp_path)})
    with pytest.raises(KeyboardInterrupt):
        TaskProcess(cluster, fetch=False, jobs=1, relay=print).ask(
            [Row({"model_path": "acme/m", "task_path": "a", "n_shot": "0"})]
        )
