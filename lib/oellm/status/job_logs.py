"""The logs of a run's shards, and how they end."""

from __future__ import annotations

import os
from pathlib import Path

from oellm.core import json_codec
from oellm.errors import InputError
from oellm.runs.run_directory import LOGS, Run
from oellm.status import run_status


def named(run: Run, name: str) -> Path:
    """Return the log of a shard (its number), or of a row (its eval_id, or the beginning of it).

    That is the file which the failure of a row names, else the newest submission's. Raises
    InputError where there is none, or the name stands for no row or several.
    """
    place = str(run.path)
    if name.isdecimal() and int(name) < len(run.shards):
        shard = int(name)
    else:
        rows = [row for row in run.rows() if row["eval_id"].startswith(name)]
        if len(rows) != 1:
            expected = "expected a shard, or the beginning of one row's eval_id"
            raise InputError(f"--log: {expected}; {len(rows)} rows begin with {name!r}", place)
        if (path := _of_failure(run, rows[0]["eval_id"])) is not None:
            return path
        shard = int(rows[0]["shard"])
    submission = run_status.places(run).get(shard)
    found = None
    if submission is not None:
        worker = run_status.worker(run, shard, submission)
        found = of_worker(run.path, run_status.log_stem(run, shard, submission), worker)
    if found is None:
        raise InputError(f"--log: shard {shard} has no log yet", place)
    return found


def of_worker(run_dir: Path, stem: str, worker: int) -> Path | None:
    """Return the log of a worker, None where there is none.

    `stem` names the log of its array element, 4711_3 of 4711_3.log. Where an element has several
    workers, each may have a log of its own, 4711_3.1.log.
    """
    paths = (run_dir / LOGS / f"{name}.log" for name in (f"{stem}.{worker}", stem))
    return next(filter(Path.is_file, paths), None)


def end(path: Path, size: int) -> str:
    """Return the whole lines within the last `size` bytes of a file; nothing of one that is not."""
    try:
        with open(path, "rb") as stream:
            length = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, length - size))
            content = stream.read()
    except OSError:
        return ""
    if length > size:
        content = content.partition(b"\n")[2]
    return content.decode("utf-8", "replace")


def _of_failure(run: Run, eval_id: str) -> Path | None:
    try:
        content = run.store.failure_path(eval_id).read_bytes()
        path = Path(json_codec.loads(content)["oellm"]["failure"]["log"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return path if path.is_file() else None
