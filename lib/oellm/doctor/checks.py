"""What is checked on this machine, for the settings of a cluster."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from oellm.clusters.cluster import Cluster
from oellm.doctor import directories, environments, machine_checks
from oellm.doctor.check_processes import Check
from oellm.doctor.diagnoses import Diagnosis, found_wrong
from oellm.doctor.slurm_checks import SlurmChecks
from oellm.errors import MachineError


def list_checks(cluster: Cluster, environ: Mapping[str, str]) -> list[Check]:
    """Return the checks on this machine, in the order in which they are told."""
    checks = [Check("versions", machine_checks.check_versions)]
    if cluster.text("executor") == "slurm":
        slurm = SlurmChecks(cluster, environ)
        checks += [
            Check("slurm", slurm.check_answers),
            Check("partition", slurm.check_partitions),
            Check("account", slurm.check_account),
            Check("sbatch", slurm.check_submission),
        ]
    checks += _environment_checks(cluster, environ)
    checks += [
        Check(key, partial(directories.check_directory, key, cluster.text(key)))
        for key in ("hf_home", "eval_output_dir")
    ]
    hf_home = cluster.text("hf_home")
    checks.append(Check("hub", partial(machine_checks.check_hub, environ, hf_home)))
    return checks


def _environment_checks(cluster: Cluster, environ: Mapping[str, str]) -> Iterator[Check]:
    try:
        found = environments.find_environments(cluster)
    except MachineError as error:
        yield Check("environment", partial(_describe_error, str(error)))
        return
    images = [one.launcher.image for one in found if one.launcher.image]
    if images:
        yield Check("runtime", partial(environments.check_runtime, cluster))
        yield Check("python", partial(machine_checks.check_node_python, cluster))
    for one in found:
        yield Check(
            one.check, partial(environments.check_environment, cluster, one, environ=environ)
        )
    there = [one for one in found if not one.find_unbuilt()]
    if there:
        image = environments.find_sandbox_image(there)
        yield Check("sandbox", partial(machine_checks.check_sandbox, cluster, image))


def _describe_error(text: str) -> Iterator[Diagnosis]:
    yield found_wrong("environment", text.partition(": set ")[0], text.partition(": ")[2])
