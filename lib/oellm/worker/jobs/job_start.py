"""What a worker does to its own process before it evaluates: variables, secrets, streams."""

from __future__ import annotations

import os
import sys

from oellm.clusters import gpu_variables
from oellm.core import redaction
from oellm.core.processes import log_lines
from oellm.runs.run_directory import Run
from oellm.worker.job_script import JobScript


def begin_job(run: Run | None) -> JobScript:
    """Prepare this process for evaluating; return the batch script that has started it."""
    script = JobScript(os.environ)
    script.follow()
    order: tuple[str, ...] = ()
    if run is not None:
        settings = (run.setting("container_args") or [], run.setting("gpu_gres") or "")
        order = gpu_variables.order_by_settings(*settings)
    gpu_variables.keep_one_variable(os.environ, order or gpu_variables.order_by_devices())
    if script.exists:
        # A job is offline, so it needs no token, and whatever it prints is in a log.
        redaction.drop_secrets(os.environ)
    if not sys.stderr.isatty():
        log_lines.keep_lines(is_stamped=script.exists)
    return script
