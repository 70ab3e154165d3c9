"""How many more array elements the queue takes, by our own limit and by Slurm's."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from oellm.core.log import Log
from oellm.core.paths import user_name
from oellm.errors import OellmError
from oellm.runs.run_directory import Run
from oellm.slurm.accounting import ask_associations, ask_qos_limits, is_among
from oellm.slurm.clusters import OWN
from oellm.slurm.commands import ask_configuration, ask_slurm
from oellm.slurm.queue import QueuedElement

_NUMBER = re.compile("[0-9]+")


class Limit(NamedTuple):
    """How many elements one user may have in the queue.

    Attributes:
        name: What to call it in messages.
        most: The number of elements.
        account: The account whose elements count; empty if all do.
        qos: The QOS whose elements count; empty if all do.
    """

    name: str
    most: int
    account: str = ""
    qos: str = ""

    def room(self, queue: Sequence[QueuedElement]) -> int:
        """Return how many more elements there may be, never less than 0."""
        counted = sum(
            self.account in ("", element.account) and self.qos in ("", element.qos)
            for element in queue
        )
        return max(0, self.most - counted)


class QueueRules(NamedTuple):
    """What bounds a submission.

    Attributes:
        limits: Limits of elements in the queue.
        array_size: Array indices are smaller than this; None if Slurm does not say.
        slurm: The name of the login node's own Slurm; empty if jobs go to another.
    """

    limits: list[Limit]
    array_size: int | None
    slurm: str


def ask_rules(
    run: Run, queue_limit: int | None, log: Log, clusters: Sequence[str] = (OWN,)
) -> QueueRules:
    """Ask Slurm what bounds the submissions of a run to clusters, from which sbatch chooses one.

    `queue_limit` overrides the run's setting. If there is no accounting, or it does not answer,
    its limits stay unknown, and so do those of several clusters. Raises what `ask_slurm` raises.
    """
    configurations = [
        ask_configuration(cluster, lambda command: ask_slurm(command, log)) for cluster in clusters
    ]
    names = [configuration.get("ClusterName", "") for configuration in configurations]
    limits = []
    most = queue_limit or run.setting("queue_limit")
    if most:
        limits.append(Limit("queue_limit", int(most)))
    # Most clusters have accounting. If it does not answer, sbatch has the last word.
    with contextlib.suppress(OellmError):
        if len(names) == 1:
            limits += _ask_accounting_limits(run, names[0])
    sizes = [
        _parse_number(configuration.get("MaxArraySize", "")) for configuration in configurations
    ]
    return QueueRules(
        limits,
        array_size=min(filter(None, sizes), default=None),
        slurm=names[0] if list(clusters) == [OWN] else "",
    )


def _ask_accounting_limits(run: Run, cluster: str) -> list[Limit]:
    associations = [
        association
        for association in ask_associations(user_name(), cluster)
        if is_among(run.setting("account") or association.account, [association.account])
        and association.partition in ("", run.setting("partition"))
    ]
    if len({association.account for association in associations}) != 1:
        # We cannot know which account Slurm would charge.
        return []
    limits = [
        Limit(f"MaxSubmitJobs of account {association.account}", most, account=association.account)
        for association in associations
        if (most := _parse_number(association.max_submit_jobs)) is not None
    ]
    qos = run.setting("qos") or associations[0].default_qos
    if qos:
        limits += [
            Limit(f"MaxSubmitJobsPerUser of QOS {qos}", most, qos=limited.name)
            for limited in ask_qos_limits([qos])
            if (most := _parse_number(limited.max_submit_jobs)) is not None
        ]
    return limits


def _parse_number(text: str) -> int | None:
    return int(text) if _NUMBER.fullmatch(text) else None
