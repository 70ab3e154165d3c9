"""Slurm's commands: asking is apart from reading the answer."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from oellm.core.retry import Backoff, retry
from oellm.errors import MachineError, OellmError
from oellm.slurm.notation import parse_duration, ranges

Report = Callable[[str], None]

_TIMEOUT_S = 60
_BACKOFF = Backoff(total_s=120.0, first_s=1.0, longest_s=30.0)

_MAY_PASS = re.compile(
    r"timed out|unable to contact slurm controller|connection (refused|reset|aborted)"
    r"|connect(ion)? failure|zero bytes were transmitted|temporarily un(able|available)"
    r"|controller not responding|controller in standby|transport endpoint is not connected",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class QueuedElement:
    """One job or array element in the queue; `index` is None where the job is no array."""

    job_id: int
    index: int | None
    account: str = ""
    qos: str = ""
    # As sbatch was given it.
    comment: str = ""


class SlurmUnavailableError(MachineError):
    """Slurm does not answer, or says that it cannot just now."""


class AnswerError(OellmError):
    """A command succeeded, but with an answer that cannot be read."""


def ask(command: Sequence[str], report: Report = lambda _: None) -> str:
    """Run a Slurm command that may be repeated, and return its stdout.

    What may pass by itself is tried again, for two minutes; `report` is told. Raises MachineError
    where the command is missing, SlurmUnavailableError where it did not pass, OellmError with the
    command's own words where it fails otherwise.
    """
    return retry(
        lambda: call(command),
        _BACKOFF,
        may_pass=lambda error: isinstance(error, SlurmUnavailableError),
        before_retry=lambda error, wait: report(f"{error}; next try in {wait:.0f} s"),
    )


def call(command: Sequence[str]) -> str:
    """Run a Slurm command once and return its stdout; raises what `ask` raises."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_TIMEOUT_S,
            env=_environment(),
            check=False,
        )
    except FileNotFoundError:
        raise MachineError(f"{command[0]} is not on PATH: is this a Slurm login node?") from None
    except subprocess.TimeoutExpired:
        raise SlurmUnavailableError(f"{command[0]} did not answer within {_TIMEOUT_S} s") from None
    if done.returncode == 0:
        return done.stdout
    if done.returncode < 0:
        raise SlurmUnavailableError(f"{command[0]} was killed by signal {-done.returncode}")
    words = done.stderr.strip() or f"exit status {done.returncode}"
    kind = SlurmUnavailableError if _MAY_PASS.search(words) else OellmError
    raise kind(f"{command[0]} failed: {words}")


def _environment() -> dict[str, str]:
    """Return the environment without variables that change what Slurm's commands do.

    SBATCH_PARTITION and its like win over the batch script, SQUEUE_FORMAT over our format, and
    the SLURM_ variables of an interactive job would shape the jobs that are submitted from it.
    """
    prefixes = ("SBATCH_", "SQUEUE_", "SLURM_")
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(prefixes) or name == "SLURM_CONF"
    }


def queued(report: Report = lambda _: None, *, recent: bool = False) -> list[QueuedElement]:
    """Return this user's jobs in the queue, each array element by itself.

    With `recent`, also those that ended so lately that Slurm still knows them.
    """
    states = ["--states=all"] if recent else []
    command = ["squeue", "--me", "--all", "--noheader", "--array", *states]
    return parse_queue(ask([*command, "--format=%F %K %a %q %k"], report))


def parse_queue(text: str) -> list[QueuedElement]:
    """Read `squeue --format='%F %K %a %q %k'`; what follows the element's index may be missing.

    These are the array's job id, the element's index, account, QOS and comment.
    """
    elements = []
    for line in text.splitlines():
        match = re.fullmatch(r"(\d+) (\d+|N/A)(?: (\S+) (\S+)(?: (.*))?)?", line.strip())
        if not match:
            raise OellmError(f"squeue: expected a job id and an array index, got {line!r}")
        job_id, index, account, qos, comment = match.groups(default="")
        elements.append(
            QueuedElement(
                int(job_id), None if index == "N/A" else int(index), account, qos, comment
            )
        )
    return elements


def partition_limit(name: str) -> int | None:
    """Return the longest time limit, in seconds, that Slurm allows in a partition.

    An empty name is the partition that Slurm chooses. None where it has no limit, or this Slurm no
    such partition. Raises what `call` raises.
    """
    asked = [f"--partition={name}"] if name else []
    answer = call(["sinfo", "--all", "--noheader", "--format=%P %l", *asked])
    return parse_partition_limit(answer, name)


def parse_partition_limit(text: str, name: str) -> int | None:
    """Read `sinfo --format='%P %l'`, where the name of the default partition ends with a star."""
    for line in text.splitlines():
        partition, _, limit = line.strip().partition(" ")
        if partition.endswith("*") if not name else partition.rstrip("*") == name:
            return parse_duration(limit)
    return None


def parse_configuration(text: str) -> dict[str, str]:
    """Read `scontrol show config`: lines of the form `Name = value`."""
    pairs = (line.partition("=") for line in text.splitlines())
    return {name.strip(): value.strip() for name, equals, value in pairs if equals}


def hides_jobs() -> bool:
    """Return whether Slurm shows users only their own jobs (its setting PrivateData)."""
    configuration = parse_configuration(call(["scontrol", "show", "config"]))
    return "jobs" in configuration.get("PrivateData", "").lower().split(",")


def submit_command(
    script: str, indices: Sequence[int], concurrency: int | None, offset: int, comment: str
) -> list[str]:
    """Return the sbatch command line that submits some array indices of a script.

    `offset` is the element of array index 0; the script gets it as its argument.
    """
    throttle = f"%{concurrency}" if concurrency else ""
    return [
        *("sbatch", "--parsable", f"--array={ranges(indices)}{throttle}"),
        *(f"--comment={comment}", script, *([str(offset)] if offset else [])),
    ]


def parse_job_id(text: str) -> int:
    """Read the answer of `sbatch --parsable`: `JOB` or `JOB;CLUSTER`, after any site's banner."""
    lines = text.strip().splitlines()
    match = re.fullmatch(r"(\d+)(;.*)?", lines[-1].strip()) if lines else None
    if not match:
        raise AnswerError(f"sbatch: expected a job id, got {text!r}")
    return int(match.group(1))
