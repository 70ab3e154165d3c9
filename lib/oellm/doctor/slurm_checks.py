"""Whether Slurm answers, and takes the jobs that the settings describe."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from oellm.clusters.cluster import Cluster
from oellm.core.display import format_count
from oellm.core.paths import group_names, user_name
from oellm.doctor.diagnoses import Diagnosis, found_doubtful, found_ok, found_wrong
from oellm.errors import OellmError
from oellm.plan import batch_script, job_resources
from oellm.plan.batch_script import ScriptFrame
from oellm.runs.run_record import Array
from oellm.slurm.accounting import Association, ask_associations, is_among
from oellm.slurm.clusters import cluster_option, find_clusters
from oellm.slurm.commands import SlurmUnavailableError, ask_configuration, call_slurm
from oellm.slurm.notation import parse_time_limit, split_names
from oellm.slurm.partitions import PartitionRules, ask_partitions
from oellm.submit.sbatch_errors import find_settings

# What Slurm's accounting says if a site has none.
_NO_ACCOUNTING = ("accounting_storage", "accounting storage is disabled")
# The states of a partition in which jobs wait, and those in which none can be submitted.
_WAITING, _CLOSED = ("DOWN",), ("INACTIVE", "DRAIN")
_SCRIPT = "oellm-doctor.sbatch"


class SlurmChecks:
    """The checks of the Slurm that the jobs of a cluster go to."""

    def __init__(self, cluster: Cluster, environ: Mapping[str, str]) -> None:
        self._cluster = cluster
        self._names = find_clusters(cluster.mapping("sbatch"), environ)
        self._option = cluster_option(*self._names)

    def check_answers(self) -> Iterator[Diagnosis]:
        """Ask sinfo for its version, scontrol for the partitions and squeue for the user's jobs."""
        try:
            version = call_slurm(["sinfo", "--version"]).strip()
            partitions = self._partitions()
            queue = call_slurm(["squeue", "--me", "--noheader", "--format=%i", *self._option])
        except SlurmUnavailableError as error:
            remedy = "try again later; if it lasts, ask the site"
            yield found_wrong("slurm", str(error), remedy)
        except OellmError as error:
            yield found_wrong("slurm", str(error), "run it on a login node, or load Slurm's module")
        else:
            # Some versions print the name of a cluster above its jobs.
            lines = [line for line in queue.splitlines() if not line.startswith("CLUSTER:")]
            jobs = format_count(len(lines), "job")
            known = format_count(len(partitions), "partition")
            yield found_ok("slurm", f"{version} answers: {known}, {jobs} of yours in the queue")

    def check_partitions(self) -> Iterator[Diagnosis]:
        """Ask scontrol about the partitions of the settings."""
        partitions = self._partitions()
        keys = [key for key in ("partition", "cpu_partition") if self._cluster.text(key)]
        if not keys:
            yield _check_default(partitions)
        for key in keys:
            # Slurm takes a list of partitions, and chooses one for each job.
            names = split_names(self._cluster.text(key))
            for name in names:
                found = self._check_partition(key, name, partitions)
                yield found if len(names) == 1 else found._replace(check=f"{key} {name}")

    def check_account(self) -> Iterator[Diagnosis]:
        """Ask sacctmgr whether the user may use the account and the QOS of the settings."""
        if len(self._names) > 1:
            yield found_ok("account", "jobs go to one of several clusters: sbatch decides")
            return
        try:
            associations = self._ask_associations()
        except OellmError as error:
            if any(words in str(error).lower() for words in _NO_ACCOUNTING):
                yield found_ok("account", "this Slurm has no accounting: nothing to check")
            else:
                yield found_doubtful("account", str(error), "see the line of sbatch, which decides")
            return
        yield from self._check_associations(associations)

    def check_submission(self) -> Iterator[Diagnosis]:
        """Let sbatch judge jobs like those of a run, without submitting them."""
        for array in self._arrays():
            script = batch_script.render_script(
                self._cluster,
                Path("/run"),
                array,
                frame=ScriptFrame(last_shard=0, is_outside=True),
            )
            yield self._judge(array, script)

    def _partitions(self) -> list[PartitionRules]:
        """Return all partitions that jobs may go to, also those that Slurm hides."""
        return ask_partitions(clusters=self._names, hidden=True)

    def _check_partition(
        self, key: str, name: str, partitions: Iterable[PartitionRules]
    ) -> Diagnosis:
        rules = next((rules for rules in partitions if rules.name == name), None)
        if rules is None:
            return found_wrong(key, f"there is no partition {name}", _set(key, _names(partitions)))
        state = rules.values.get("State", "")
        if state in _CLOSED:
            text = f"partition {name} is {state}: it takes no jobs"
            return found_wrong(key, text, f"wait, or set another {key}")
        if state in _WAITING:
            text = f"partition {name} is {state}: jobs wait until it is up"
            return found_doubtful(key, text, f"wait, or set another {key}")
        if refusal := self._refusal(rules):
            return found_wrong(key, f"partition {name} {refusal}", f"set another account or {key}")
        limit = rules.values.get("MaxTime", "UNLIMITED")
        wanted = self._cluster.text("time_limit")
        cut = ""
        seconds, most = parse_time_limit(wanted), parse_time_limit(limit)
        if most is not None and (seconds is None or seconds > most):
            cut = f", which shortens time_limit {wanted}".rstrip()
        return found_ok(key, f"{name} is {state or 'known'}; time limit {limit}{cut}")

    def _refusal(self, rules: PartitionRules) -> str:
        """Return why a partition takes no jobs of this user; empty if nothing says so."""
        for key, kind in (("account", "Accounts"), ("qos", "Qos")):
            name, allowed = self._cluster.text(key), rules.allowed(kind)
            if name and allowed is not None and not is_among(name, allowed):
                return f"takes only {kind.lower()} {','.join(allowed)}, not {name}"
            if name and is_among(name, rules.denied(kind)):
                return f"refuses {kind.lower()} {name}"
        groups = rules.allowed("Groups")
        if groups is not None and set(groups).isdisjoint(group_names()):
            return f"is for the groups {','.join(groups)} only"
        return ""

    def _ask_associations(self) -> list[Association]:
        name = self._names[0] or ask_configuration().get("ClusterName", "")
        return ask_associations(user_name(), name)

    def _check_associations(self, associations: list[Association]) -> Iterator[Diagnosis]:
        account, qos = self._cluster.text("account"), self._cluster.text("qos")
        accounts = sorted({association.account for association in associations})
        if not accounts:
            text = f"Slurm's accounting does not know {user_name()}"
            yield found_doubtful("account", text, "ask the site for an account")
            return
        if account and not is_among(account, accounts):
            text = f"{user_name()} may not use account {account}"
            yield found_wrong("account", text, _set("account", accounts))
        else:
            others = "" if account else f"none is set: one of {', '.join(accounts)}"
            yield found_ok("account", others or f"{account} is one of yours")
        if qos:
            ours = [
                each for each in associations if not account or is_among(account, [each.account])
            ]
            known = sorted({name for each in ours for name in each.qos_names()})
            if not known:
                yield found_ok("qos", f"{qos} is set; which ones you may use is not known")
            elif not is_among(qos, known):
                yield found_wrong("qos", f"you may not use QOS {qos}", _set("qos", known))
            else:
                yield found_ok("qos", f"{qos} is one of yours")

    def _arrays(self) -> Iterator[Array]:
        """Yield the jobs that a run has: those with GPUs, and those of second stages."""
        array = model_array(self._cluster, "", self._cluster.text("time_limit"))
        yield array
        if self._cluster.text("cpu_partition"):
            yield Array(
                _SCRIPT,
                "",
                gpus=0,
                workers=1,
                elements=1,
                first_shard=0,
                time_limit=array.time_limit,
                cpus=1,
                memory_gib=4,
            )

    def _judge(self, array: Array, script: str) -> Diagnosis:
        partition = job_resources.partition_of(self._cluster, array)
        check = "sbatch" if not array.needs_no_gpu else "sbatch cpu"
        with tempfile.TemporaryDirectory(prefix="oellm-") as directory:
            path = os.path.join(directory, _SCRIPT)
            Path(path).write_text(script, encoding="utf-8", errors="surrogateescape")
            try:
                call_slurm(["sbatch", "--test-only", *self._option, path])
            except SlurmUnavailableError:
                raise
            except OellmError as error:
                return found_wrong(check, str(error), self._advise(str(error)))
        parts = [
            job_resources.gres_of_job(self._cluster, array),
            partition and f"in {partition}",
            array.time_limit,
        ]
        return found_ok(check, "it would take a job " + " ".join(filter(None, parts)))

    def _advise(self, error: str) -> str:
        keys = find_settings(error)
        shown = ", ".join(f"{key}={self._cluster.text(key) or '(not set)'}" for key in keys)
        options = " ".join(f"--set={key}=…" for key in keys)
        return f"the settings are {shown}; change them: {options}" if keys else "ask the site"


def model_array(cluster: Cluster, eval_suite: str, time_limit: str) -> Array:
    """Return the array of one job that loads models of the cluster's `tp`."""
    tp = cluster.number("tp") or 1
    return Array(
        _SCRIPT,
        eval_suite,
        gpus=job_resources.gpus_of_worker(cluster, tp),
        workers=job_resources.count_workers(cluster, tp),
        elements=1,
        first_shard=0,
        time_limit=time_limit,
    )


def _check_default(partitions: Iterable[PartitionRules]) -> Diagnosis:
    default = next((rules.name for rules in partitions if rules.says("Default", "YES")), "")
    if default:
        return found_ok("partition", f"none is set: {default}, Slurm's default")
    remedy = _set("partition", _names(partitions))
    return found_wrong("partition", "none is set, and Slurm has no default", remedy)


def _names(partitions: Iterable[PartitionRules]) -> list[str]:
    return list(dict.fromkeys(rules.name for rules in partitions))


def _set(key: str, known: Iterable[str]) -> str:
    shown = ", ".join(known)
    return f"--set={key}=…" + (f", one of {shown}" if shown else "; ask the site which there are")
