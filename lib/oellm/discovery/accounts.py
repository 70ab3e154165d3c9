"""Settings that the accounting decides: the account, the QOS, and how many jobs may wait."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from oellm.discovery.machine import Machine
from oellm.discovery.partition_views import PartitionView
from oellm.discovery.proposed_setting import Alternative, ProposedSetting, alternatives
from oellm.slurm.accounting import Association, QosLimits, is_among
from oellm.slurm.notation import parse_count

# Variables that name the account to Slurm's own commands.
_VARIABLES = ("SBATCH_ACCOUNT", "SLURM_ACCOUNT", "SALLOC_ACCOUNT")


def propose_account(
    machine: Machine, view: PartitionView, decided: Mapping[str, Any]
) -> ProposedSetting | None:
    """Return the setting account; None if this Slurm needs none."""
    facts = machine.facts
    if facts.has_accounting is False or "account" in decided:
        return None
    allowed = view.rules.allowed("Accounts")
    denied = view.rules.denied("Accounts")

    def fits(account: str) -> bool:
        return not is_among(account, denied) and (allowed is None or is_among(account, allowed))

    known = [account for account in machine.accounts() if fits(account)]
    environ = machine.environ
    named = [(environ[name], f"${name}") for name in _VARIABLES if environ.get(name)]
    if is_among(facts.default_account, known):
        named.append((facts.default_account, "your default account (sacctmgr)"))
    named += [(account, "your only account (sacctmgr)") for account in known if len(known) == 1]
    named += [(account, "your first account (sacctmgr)") for account in known]
    if named:
        account, origin = named[0]
        return ProposedSetting("account", account, origin, others=_without(known, account))
    # A site may name the accounts after groups of the system.
    hints = alternatives(group for group in machine.groups if group in (allowed or ()))
    if facts.associations is None:
        reason = "which accounts you have is not known: sacctmgr did not answer"
    elif facts.associations:
        reason = f"none of your accounts may use the partition {view.name}"
    else:
        reason = "sacctmgr knows no account of yours on this cluster"
    is_open = facts.needs_association or allowed is not None
    return ProposedSetting("account", None, reason, others=hints, is_open=is_open)


def propose_qos(
    machine: Machine, view: PartitionView, *, account: str, decided: Mapping[str, Any]
) -> ProposedSetting | None:
    """Return the setting qos; None if Slurm's own choice will do."""
    allowed = view.rules.allowed("Qos")
    if allowed is None or "qos" in decided:
        return None
    mine = _associations(machine, account)
    owned = machine.qos_names()
    if any(is_among(association.default_qos, allowed) for association in mine):
        return None
    usable = [name for name in allowed if not owned or is_among(name, owned)]
    if owned and usable:
        origin = f"the partition {view.name} needs it (scontrol), and you have it (sacctmgr)"
        return ProposedSetting("qos", usable[0], origin, others=alternatives(usable[1:]))
    if len(usable) == 1:
        origin = f"the only one that the partition {view.name} accepts (scontrol)"
        return ProposedSetting("qos", usable[0], origin)
    reason = f"the partition {view.name} accepts only some, and which of them you have is not known"
    return ProposedSetting(
        "qos", None, reason, others=alternatives(usable or allowed), is_open=True
    )


def propose_queue_limit(
    machine: Machine, view: PartitionView, *, account: str, qos: str
) -> Iterator[ProposedSetting]:
    """Yield the setting queue_limit, if Slurm bounds the jobs of a user."""
    limits = [
        (
            parse_count(association.max_submit_jobs),
            f"MaxSubmitJobs of account {association.account}",
        )
        for association in _associations(machine, account)
    ]
    limits += [
        (parse_count(limit.max_submit_jobs), f"MaxSubmitJobsPerUser of QOS {limit.name}")
        for limit in qos_limits(machine, view, account=account, qos=qos)
    ]
    if found := [limit for limit in limits if limit[0]]:
        most, origin = min(found)
        yield ProposedSetting("queue_limit", most, f"{origin} (sacctmgr)")


def wall_limits(
    machine: Machine, view: PartitionView, *, account: str, qos: str
) -> Iterator[tuple[str, str]]:
    """Yield the time limits that the accounting sets, as Slurm writes them, and what sets each."""
    for association in _associations(machine, account):
        yield association.max_wall, f"MaxWall of account {association.account}"
    for limit in qos_limits(machine, view, account=account, qos=qos):
        yield limit.max_wall, f"MaxWall of QOS {limit.name}"


def qos_limits(
    machine: Machine, view: PartitionView, *, account: str, qos: str
) -> Iterator[QosLimits]:
    """Yield the limits of the QOS of a job: the one that is named, and the partition's own."""
    defaults = (association.default_qos for association in _associations(machine, account))
    name = qos or next(filter(None, defaults), "")
    for each in dict.fromkeys((name, view.rules.text("QoS"))):
        if limits := machine.facts.qos.get(each.lower()):
            yield limits


def _associations(machine: Machine, account: str) -> list[Association]:
    known = machine.facts.associations or []
    return [each for each in known if not account or is_among(each.account, [account])]


def _without(names: Iterable[str], name: str) -> tuple[Alternative, ...]:
    return alternatives(each for each in names if not is_among(each, [name]))
