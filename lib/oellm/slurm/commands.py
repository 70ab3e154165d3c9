"""Slurm's commands. One function runs them; others, which are pure, read what they print."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from oellm.core.log import Log
from oellm.core.retry import Backoff, retry
from oellm.errors import MachineError, OellmError
from oellm.slurm.clusters import OWN, cluster_option
from oellm.slurm.notation import format_ranges, parse_time_limit

_TIMEOUT_S = 60
_BACKOFF = Backoff(total_s=120.0, first_s=1.0, longest_s=30.0)

_MAY_PASS = re.compile(
    r"timed out|unable to contact slurm controller|connection (refused|reset|aborted)"
    r"|connect(ion)? failure|zero bytes were transmitted|temporarily un(able|available)"
    r"|controller not responding|controller in standby|transport endpoint is not connected"
    # If slurmctld hands out slurm.conf, and does not answer.
    r"|failed to fetch config|could not establish a configuration source",
    re.IGNORECASE,
)


class SlurmUnavailableError(MachineError):
    """Slurm does not answer, or says that it cannot just now."""


class AnswerError(OellmError):
    """A command succeeded, but its answer cannot be read."""


def ask_slurm(command: Sequence[str], log: Log = lambda _: None) -> str:
    """Run a Slurm command that may be repeated, and return its stdout.

    Errors that may pass by themselves are retried for two minutes, and `log` gets a message for
    each. Raises MachineError if the command is missing, SlurmUnavailableError if Slurm still does
    not answer, and OellmError with the command's own words if it fails otherwise.
    """
    return retry(
        lambda: call_slurm(command),
        _BACKOFF,
        may_pass=lambda error: isinstance(error, SlurmUnavailableError),
        before_retry=lambda error, wait: log(f"{error}; next try in {wait:.0f} s"),
    )


def call_slurm(command: Sequence[str], timeout_s: float = _TIMEOUT_S) -> str:
    """Run a Slurm command once and return its stdout; raises what `ask_slurm` raises."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout_s,
            env=_environment(),
            check=False,
        )
    except FileNotFoundError:
        raise MachineError(f"{command[0]} is not on PATH: is this a Slurm login node?") from None
    except OSError as error:
        raise MachineError(f"{command[0]} cannot be run: {error.strerror}") from None
    except subprocess.TimeoutExpired:
        raise SlurmUnavailableError(
            f"{command[0]} did not answer within {timeout_s:.0f} s"
        ) from None
    if done.returncode == 0:
        return done.stdout
    if done.returncode < 0:
        raise SlurmUnavailableError(f"{command[0]} was killed by signal {-done.returncode}")
    words = done.stderr.strip() or f"exit status {done.returncode}"
    kind = SlurmUnavailableError if _MAY_PASS.search(words) else OellmError
    raise kind(f"{command[0]} failed: {words}")


def _environment() -> dict[str, str]:
    """Return the environment without variables that change what Slurm's commands do.

    SBATCH_PARTITION and the like override the batch script, SQUEUE_FORMAT overrides our format,
    and the SLURM_ variables of an interactive job would shape the jobs that are submitted from it.
    """
    prefixes = ("SBATCH_", "SQUEUE_", "SLURM_")
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(prefixes) or name == "SLURM_CONF"
    }


def ask_partition_limit(name: str, cluster: str = OWN) -> int | None:
    """Return the longest time limit, in seconds, that Slurm allows in a partition of a cluster.

    An empty name stands for the partition that Slurm chooses. Returns None if the partition has
    no limit, or this Slurm has no such partition. Raises what `call_slurm` raises.
    """
    selected = [*cluster_option(cluster), *([f"--partition={name}"] if name else [])]
    answer = call_slurm(["sinfo", "--all", "--noheader", "--format=%P %l", *selected])
    return parse_partition_limit(answer, name)


def parse_partition_limit(text: str, name: str) -> int | None:
    """Read `sinfo --format='%P %l'`, in which a star marks the default partition."""
    for line in text.splitlines():
        partition, _, limit = line.strip().partition(" ")
        if partition.endswith("*") if not name else partition.rstrip("*") == name:
            return parse_time_limit(limit)
    return None


def parse_configuration(text: str) -> dict[str, str]:
    """Read `scontrol show config`: lines of the form `Name = value`."""
    pairs = (line.partition("=") for line in text.splitlines())
    return {name.strip(): value.strip() for name, equals, value in pairs if equals}


def ask_configuration(
    cluster: str = OWN, ask: Callable[[Sequence[str]], str] = call_slurm
) -> dict[str, str]:
    """Return the configuration of a cluster; raises what `ask` raises."""
    return parse_configuration(ask(["scontrol", *cluster_option(cluster), "show", "config"]))


def hides_jobs(configuration: Mapping[str, str]) -> bool:
    """Return whether Slurm shows users only their own jobs (its setting PrivateData)."""
    return "jobs" in configuration.get("PrivateData", "").lower().split(",")


def sbatch_command(
    script: str,
    indices: Sequence[int],
    *,
    concurrency: int | None,
    comment: str,
    options: Sequence[str] = (),
    arguments: Sequence[str] = (),
) -> list[str]:
    """Return the sbatch command line that submits some array indices of a script.

    `concurrency` bounds how many of them run at a time. `options` override those of the script,
    which gets the `arguments`.
    """
    throttle = f"%{concurrency}" if concurrency else ""
    return [
        *("sbatch", "--parsable", f"--array={format_ranges(indices)}{throttle}"),
        *(f"--comment={comment}", *options, script, *arguments),
    ]


class JobNumber(NamedTuple):
    """The answer of sbatch: the number of a job, and the cluster if sbatch names one."""

    job_id: int
    cluster: str

    def __str__(self) -> str:
        return f"{self.job_id};{self.cluster}" if self.cluster else str(self.job_id)


def parse_job_number(text: str) -> JobNumber:
    """Read the answer of `sbatch --parsable`: `JOB` or `JOB;CLUSTER`, after any site's banner."""
    lines = text.strip().splitlines()
    match = re.fullmatch(r"([0-9]+)(?:;(.*))?", lines[-1].strip()) if lines else None
    if not match:
        raise AnswerError(f"sbatch: expected a job id, got {text!r}")
    return JobNumber(int(match[1]), (match[2] or OWN).strip())
