"""The job of oe-doctor: submitted, followed while it waits, read when it has ended."""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
import subprocess
import time
from collections.abc import Generator, Iterator

from oellm.clusters import gpu_variables
from oellm.clusters.cluster import Cluster
from oellm.core import json_codec
from oellm.core.display import format_duration
from oellm.core.log import Log
from oellm.core.processes.children import signal_at_parents_end
from oellm.core.processes.stop_signals import catch_signals
from oellm.core.regular_files import read_regular
from oellm.doctor.diagnoses import MEND_THAT, Diagnosis, Health, found_ok, found_wrong
from oellm.doctor.probe_directory import ENDED, FINDINGS, JOB, probe_directory
from oellm.errors import OellmError
from oellm.runs.run_directory import LOGS, Run
from oellm.runs.shard_jobs import read_log_end
from oellm.slurm.clusters import OWN, cluster_option, find_clusters
from oellm.slurm.commands import (
    AnswerError,
    JobNumber,
    SlurmUnavailableError,
    call_slurm,
    parse_job_number,
    sbatch_command,
)
from oellm.slurm.job_ends import explain_end, last_line
from oellm.slurm.job_states import ACTIVE, RUNNING, ArrayTask, JobState, SlurmJob
from oellm.slurm.queue import QueuedElement, ask_comment, ask_job_states, ask_queue
from oellm.submit.batch_call import log_option, script_arguments
from oellm.submit.job_environment import job_environment
from oellm.submit.local_gpus import LocalGpus
from oellm.submit.sbatch_errors import find_settings

# What Slurm's reasons for waiting mean.
_REASONS = {
    "Resources": "no node has room for it now",
    "Priority": "other jobs come first",
    "Dependency": "it waits for another job",
    "BeginTime": "its time has not come",
    "PartitionDown": "the partition is down",
    "ReqNodeNotAvail": "the nodes that it could have are down or reserved",
    "Licenses": "a licence is not free",
    "Reservation": "its reservation has not begun",
}
# Reasons for which a job would wait forever.
_HOPELESS = {
    "AccountNotAllowed": "the partition refuses the account",
    "BadConstraints": "no node has what it asks for (gpu_constraint, gpu_gres)",
    "InvalidAccount": "there is no such account",
    "InvalidQOS": "there is no such QOS",
    "JobHeldAdmin": "an administrator holds it",
    "PartitionNodeLimit": "the partition gives no job what it asks for",
    "PartitionTimeLimit": "the partition gives no job that time",
    "QOSNotAllowed": "the partition or account refuses the QOS",
}
# Seconds: between two looks at the queue, for files to appear, and for a job to leave.
_FIRST_LOOK_S, _LONGEST_LOOK_S = 1.0, 10.0
_FILES_S = 15.0
_LEAVE_S = 60.0
# Seconds after which a job whose number got lost would be in the queue if Slurm has it.
_SETTLED_S = 20.0
# The longest time of the job on this machine, without Slurm.
_LOCAL_S = 600.0
_NAME = "oellm-doctor"
# What stands for the state of a job that Slurm no longer knows.
_FORGOTTEN = "FORGOTTEN"


def run_probe_job(
    cluster: Cluster, patience_s: float, *, log: Log, show: Log
) -> Iterator[Diagnosis]:
    """Run a job as those of a run, and yield what it has found on its node.

    Without Slurm it runs on this machine. `show` gets what it waits for. The job is cancelled after
    `patience_s` in the queue, and if this is interrupted; then nothing stays of it.
    """
    try:
        with _interruptible(), probe_directory(cluster, log) as run:
            if cluster.text("executor") == "slurm":
                yield from _run_in_slurm(run, patience_s, log=log, show=show)
            else:
                yield from _run_here(run, show)
    except OellmError as error:
        yield found_wrong("job", str(error), MEND_THAT)
    finally:
        show("")


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Let the signals that end a process do so as Ctrl-C does: in order."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = catch_signals((signal.SIGTERM, signal.SIGHUP), interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _run_in_slurm(run: Run, patience_s: float, *, log: Log, show: Log) -> Iterator[Diagnosis]:
    comment = f"{_NAME}:{run.path.name}"
    number, is_refused = None, False
    began, since = datetime.datetime.now().astimezone(), time.monotonic()
    try:
        try:
            number = _submit(run, comment)
        except OellmError as error:
            is_refused = not isinstance(error, (SlurmUnavailableError, AnswerError))
            keys = " ".join(f"--set={key}=…" for key in find_settings(str(error)))
            yield found_wrong("job", str(error), keys or "see the lines above")
            return
        known = ask_comment(number, comment, log)
        job = SlurmJob(number.job_id, known, began, cluster=number.cluster)
        state = yield from _follow(job, patience_s, log=log, show=show)
    finally:
        if not is_refused:
            _cancel(run, comment, number, log=log)
    if state is not None:
        yield from _read_findings(run, state, time.monotonic() - since)


def _submit(run: Run, comment: str) -> JobNumber:
    command = sbatch_command(
        str(run.path / JOB),
        [0],
        concurrency=None,
        comment=comment,
        options=[
            *cluster_option(*_clusters(run)),
            *log_option(run),
            *(f"--job-name={_NAME}", "--no-requeue"),
        ],
        arguments=script_arguments(run, 0),
    )
    return parse_job_number(call_slurm(command))


def _follow(
    job: SlurmJob, patience_s: float, *, log: Log, show: Log
) -> Generator[Diagnosis, None, JobState | None]:
    """Wait until the job has ended; return how, or None after a finding that says why not."""
    since = heard = time.monotonic()
    task = ArrayTask(job.job_id, 0, cluster=job.cluster, comment=job.comment)
    pause_s = _FIRST_LOOK_S
    last = JobState("PENDING")
    while True:
        time.sleep(pause_s)
        pause_s = min(_LONGEST_LOOK_S, pause_s * 1.3)
        waited_s = time.monotonic() - since
        try:
            state = ask_job_states([job]).get(task)
        except SlurmUnavailableError as error:
            show(f"job {job.job_id}: {error}")
            if (silent_s := time.monotonic() - heard) > patience_s:
                text = f"job {job.job_id}: no answer for {format_duration(silent_s)}: {error}"
                yield found_wrong("job", text, "try again later; if it lasts, ask the site")
                return None
            continue
        heard = time.monotonic()
        if state is None:
            # Some sites forget a job as soon as it has ended.
            return last._replace(state=_FORGOTTEN)
        if state.state not in ACTIVE:
            return state
        reason, last = last.reason, state
        if state.state in RUNNING:
            show(f"job {job.job_id} runs on {state.nodes}")
            continue
        why = explain_waiting(state.reason)
        if state.reason != reason:
            log(f"job {job.job_id} waits: {why}")
        show(f"job {job.job_id} waits for {format_duration(waited_s)}: {why}")
        if state.reason in _HOPELESS:
            remedy = "change the settings account, partition, qos, time_limit or gpu_gres"
            yield found_wrong("job", f"job {job.job_id} would wait for ever: {why}", remedy)
            return None
        if waited_s > patience_s:
            text = f"job {job.job_id} still waits after {format_duration(waited_s)}: {why}"
            yield found_wrong("job", text, "try again later, or wait longer (--patience)")
            return None


def _clusters(run: Run) -> list[str]:
    return find_clusters(run.setting("sbatch") or {}, os.environ)


def explain_waiting(reason: str) -> str:
    """Return why a job waits: Slurm's reason in brackets, after its meaning if that is known."""
    meaning = {**_REASONS, **_HOPELESS}.get(reason.partition(",")[0], "")
    if not meaning and reason.startswith(("QOS", "Assoc")):
        meaning = "a limit of the QOS or account is reached"
    word = reason if reason not in ("", "None") else "no reason given yet"
    return f"{meaning} ({word})" if meaning else word


def _read_findings(
    run: Run, state: JobState, seconds: float, *, files_s: float = _FILES_S
) -> Iterator[Diagnosis]:
    """Yield what each worker of a job that has ended has written, or why one has not.

    A shared file system may show what a node has written `files_s` late.
    """
    node = state.nodes or "its node"
    text = f"ended on {node} {format_duration(seconds)} after it was submitted"
    unsound = state.state not in ("COMPLETED", _FORGOTTEN)
    if unsound:
        log = "".join(read_log_end(path) for path in (run.path / LOGS).glob("*_*.log"))
        end = explain_end(state, log)
        yield found_wrong("job", f"{end.reason} on {node}: {end.last_line}", MEND_THAT)
    else:
        yield found_ok("job", text)
    deadline = time.monotonic() + (0 if unsound else files_s)
    # The workers of a node mostly find the same.
    told: set[Diagnosis] = set()
    for shard in run.shards:
        content = _read(run, shard.index)
        ended = run.path / FINDINGS / f"{run.arrays[shard.array].script}{ENDED}"
        is_last = False
        while content is None and not is_last and time.monotonic() < deadline:
            # What a worker has written was there before this file.
            is_last = ended.exists()
            time.sleep(0.5)
            os.listdir(run.path / FINDINGS)
            content = _read(run, shard.index)
        findings, has_ended = content or ([], False)
        if not has_ended:
            findings.append(_describe_silence(run, shard.index, node))
        yield from (finding for finding in findings if finding not in told)
        told.update(findings)


def _read(run: Run, shard: int) -> tuple[list[Diagnosis], bool] | None:
    """Return what a worker has found, and whether that is all; None if there is nothing."""
    try:
        content = json_codec.loads(read_regular(run.path / FINDINGS / f"{shard}.json"))
        findings = [Diagnosis.from_json(one) for one in content["findings"]]
        return findings, bool(content["ended"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _describe_silence(run: Run, shard: int, node: str) -> Diagnosis:
    """Return why a worker has not found all that it should: the end of its log says it."""
    array = run.arrays[run.shards[shard].array]
    logs = [run.path / LOGS / f"{array.script}.log"]
    logs += (run.path / LOGS).glob(f"*_0.{shard - array.first_shard}.log")
    said = "".join(map(read_log_end, logs))
    reason = last_line(said) or "it left no message"
    is_inside = bool(array.eval_suite)
    what = f"the worker of {array.eval_suite}" if is_inside else "the worker on the node"
    remedy = (
        f"images.{array.eval_suite}, container_args and binds decide; oe-build makes images"
        if is_inside
        else "--set=python=…, a Python 3.10 or newer that the nodes have"
    )
    text = f"{what} did not end well on {node}: {reason}"
    check = "job start" if is_inside else "job python"
    return Diagnosis(check, Health.WRONG, text, remedy=remedy, host=node)


def _cancel(run: Run, comment: str, number: JobNumber | None, *, log: Log) -> None:
    """Take the job out of the queue, if it is there, and wait until it has left.

    It is looked up by its comment, since sbatch's answer may be lost, or an interrupt come before
    it. Then it may enter the queue late. `log` is told if it may stay there.
    """
    began = time.monotonic()
    clusters = dict.fromkeys((*_clusters(run), *([number.cluster] if number else [])))
    told: set[JobNumber] = set()
    trouble = ""

    def is_ours(queued: QueuedElement) -> bool:
        # Another cluster may have given the same number to another job.
        has_number = number is not None and number.job_id == queued.job_id
        is_there = number is not None and number.cluster in (OWN, queued.cluster)
        return comment in queued.comment or (has_number and is_there)

    while (waited_s := time.monotonic() - began) < _LEAVE_S:
        try:
            ours = [queued for queued in ask_queue(log, clusters) if is_ours(queued)]
            for found in {JobNumber(each.job_id, each.cluster) for each in ours} - told:
                call_slurm(["scancel", *cluster_option(found.cluster), str(found.job_id)])
                told.add(found)
        except OellmError as error:
            if str(error) != trouble:
                log(trouble := str(error))
        else:
            if not ours and (number or told or waited_s > _SETTLED_S):
                return
        time.sleep(0.5)
    log(f"its job may still be in the queue; to end it: scancel --name={_NAME}")


def _run_here(run: Run, show: Log) -> Iterator[Diagnosis]:
    """Run the job on this machine."""
    show("running the job on this machine")
    arguments = run.setting("container_args") or []
    order = gpu_variables.order_by_settings(arguments, run.setting("gpu_gres") or "")
    gpus = LocalGpus(os.environ, order or gpu_variables.order_by_devices())
    wanted = max(array.gpus * array.workers for array in run.arrays)
    environment = {
        **job_environment(os.environ, run.setting("stage_dir") or ""),
        **gpus.variables(gpus.take(wanted) if gpus.suffice(wanted) else []),
        "SLURM_ARRAY_TASK_ID": "0",
    }
    began = time.monotonic()
    process = subprocess.Popen(
        ["bash", str(run.path / JOB), *script_arguments(run, 0)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment,
        start_new_session=True,
        preexec_fn=lambda: signal_at_parents_end(signal.SIGKILL),  # noqa: PLW1509
    )
    try:
        process.wait(_LOCAL_S)
        state = JobState("COMPLETED", nodes="this machine")
    except subprocess.TimeoutExpired:
        state = JobState("TIMEOUT", nodes="this machine")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    yield from _read_findings(run, state, time.monotonic() - began, files_s=0.0)
