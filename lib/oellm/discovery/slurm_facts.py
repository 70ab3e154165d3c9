"""What Slurm says about itself and about a user, and which of its commands did not answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from oellm.errors import OellmError
from oellm.slurm.accounting import (
    Association,
    QosLimits,
    ask_associations,
    ask_default_account,
    ask_qos_limits,
)
from oellm.slurm.commands import call_slurm, parse_configuration
from oellm.slurm.partitions import (
    NodeGroup,
    PartitionRules,
    ask_node_details,
    ask_nodes,
    ask_partitions,
)

Ask = Callable[[Sequence[str]], str]
T = TypeVar("T")

# Somebody waits for the answers, and a Slurm that works answers within seconds.
_TIMEOUT_S = 20.0
# The most nodes to ask details of, largest groups first: the length of a command line is limited.
_MOST_EXAMPLES = 200


@dataclass
class SlurmFacts:
    """What Slurm says; what it does not say is empty.

    Attributes:
        configuration: `scontrol show config`.
        partitions: `scontrol show partitions`.
        nodes: `sinfo`: the nodes of all partitions, alike ones together.
        details: `scontrol show node`, by the node's name, of one node of each kind.
        associations: The user's accounts; None if unknown.
        default_account: The account that Slurm charges if a job names none.
        qos: Limits of the QOS that the user or a partition has, by name in small letters.
        failures: What each command said that did not answer.
    """

    configuration: dict[str, str] = field(default_factory=dict)
    partitions: list[PartitionRules] = field(default_factory=list)
    nodes: list[NodeGroup] = field(default_factory=list)
    details: dict[str, dict[str, str]] = field(default_factory=dict)
    associations: list[Association] | None = None
    default_account: str = ""
    qos: dict[str, QosLimits] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    @property
    def has_accounting(self) -> bool | None:
        """Return whether this Slurm knows accounts; None if it does not say."""
        kind = self.configuration.get("AccountingStorageType")
        return None if kind is None else kind != "(null)" and not kind.endswith("/none")

    @property
    def needs_association(self) -> bool:
        """Return whether Slurm refuses jobs of users who have no account, as far as it says."""
        enforced = self.configuration.get("AccountingStorageEnforce")
        if enforced is None:
            return self.has_accounting is not False
        # All other words imply this one, but for these two.
        return not set(enforced.lower().split(",")) <= {"none", "nojobs", "nosteps", "0", ""}


def ask_briefly(command: Sequence[str]) -> str:
    """Run a Slurm command once, for a person who waits; raises what `call_slurm` raises."""
    return call_slurm(command, _TIMEOUT_S)


class _Interview:
    """Questions to Slurm, each of which may fail without ending the others."""

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.failures: list[str] = []

    def attempt(self, question: Callable[[Ask], T], otherwise: T) -> T:
        """Return the answer to a question, or `otherwise` if it fails."""
        try:
            return question(self.ask)
        except OellmError as error:
            self.failures.append(" ".join(str(error).split()))
            return otherwise


def ask_facts(user: str, ask: Ask = ask_briefly) -> SlurmFacts:
    """Ask Slurm what it says about itself and a user; its failures are facts, too."""
    interview = _Interview(ask)
    # A Slurm that hangs costs the time of one question, not of three.
    with ThreadPoolExecutor(3) as pool:
        configuration = pool.submit(interview.attempt, _ask_own_configuration, {})
        partitions = pool.submit(interview.attempt, ask_partitions, [])
        nodes = pool.submit(interview.attempt, ask_nodes, [])
    facts = SlurmFacts(configuration.result(), partitions.result(), nodes.result())
    facts.failures = interview.failures
    # If each node has features of its own, no two are alike.
    groups = sorted(facts.nodes, key=lambda group: -group.nodes)
    names = dict.fromkeys(group.first_node for group in groups if group.first_node)
    examples = list(names)[:_MOST_EXAMPLES]
    if examples:
        facts.details = interview.attempt(lambda ask: ask_node_details(examples, ask), {})
    if facts.has_accounting is not False:
        _ask_accounting(facts, user, interview)
    return facts


def _ask_own_configuration(ask: Ask) -> dict[str, str]:
    return parse_configuration(ask(["scontrol", "--local", "show", "config"]))


def _ask_accounting(facts: SlurmFacts, user: str, interview: _Interview) -> None:
    """Add what the accounting says; nothing if it does not answer."""
    cluster = facts.configuration.get("ClusterName", "")
    facts.associations = interview.attempt(lambda ask: ask_associations(user, cluster, ask), None)
    if facts.associations is None:
        return
    facts.default_account = interview.attempt(lambda ask: ask_default_account(user, ask), "")
    names = [name for each in facts.associations for name in (each.default_qos, *each.qos_names())]
    names += [rules.text("QoS") for rules in facts.partitions]
    if known := sorted(set(filter(None, names))):
        none: list[QosLimits] = []
        limits = interview.attempt(lambda ask: ask_qos_limits(known, ask), none)
        facts.qos = {limit.name.lower(): limit for limit in limits}
