"""The proposal of a cluster entry: a value for each setting, where it comes from, what else is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from oellm.clusters import settings
from oellm.clusters.cluster import known_clusters, match_host, read_override
from oellm.core import schema
from oellm.core.json_config import Node
from oellm.discovery.accounts import propose_account, propose_qos, propose_queue_limit
from oellm.discovery.login_hosts import clean_name, place_name
from oellm.discovery.machine import Machine
from oellm.discovery.nodes import propose_node_settings, propose_time_limit
from oellm.discovery.own_clusters import OwnClusters
from oellm.discovery.partition_views import PartitionView, rank_for_cpus, rank_for_gpus
from oellm.discovery.proposed_setting import Alternative, ProposedSetting, alternatives
from oellm.discovery.surroundings import propose_surroundings


class Proposal(NamedTuple):
    """A proposed entry of a clusters file.

    Attributes:
        name: The name of the cluster.
        settings: The settings, in the order of schema.json.
        decided: The settings that somebody has chosen; without a value, they unset a default.
        failures: What each command of Slurm said that did not answer.
    """

    name: str
    settings: list[ProposedSetting]
    decided: frozenset[str] = frozenset()
    failures: tuple[str, ...] = ()

    def entry(self) -> dict[str, Any]:
        """Return the settings that have a value, or were chosen to have none."""
        kept = (
            each for each in self.settings if each.value is not None or each.key in self.decided
        )
        return {each.key: each.value for each in kept}

    def open_settings(self) -> list[ProposedSetting]:
        """Return the settings that somebody must fill in."""
        return [each for each in self.settings if each.is_open]


def read_decided(overrides: Iterable[str]) -> dict[str, Any]:
    """Return the settings of some texts `key=value`; raises UsageError or InputError."""
    decided: dict[str, Any] = {}
    for text in overrides:
        origin, values = read_override(text)
        for given, value in values.items():
            key = settings.setting_name(given)
            settings.check_setting(key, value, origin)
            decided[key] = settings.join_values(decided.get(key), value)
    return decided


def choose_name(machine: Machine, clusters: OwnClusters, environ: Mapping[str, str]) -> str:
    """Return the name for a machine: that by which oellm knows it already, or Slurm's own."""
    if found := match_host(clusters.known(environ)):
        return found
    own = clean_name(machine.facts.configuration.get("ClusterName", "")) or place_name(machine.host)
    # An entry of a packaged name would inherit the settings of another machine.
    packaged = known_clusters(environ, Node({}, ""))
    return f"my-{own}" if own in packaged else own


def propose_given(name: str, entry: Mapping[str, Any], source: str) -> Proposal:
    """Return the settings of an entry that somebody has made as a proposal."""
    given = [
        ProposedSetting(settings.setting_name(key), value, source) for key, value in entry.items()
    ]
    return Proposal(name, given, decided=frozenset(each.key for each in given))


def propose(machine: Machine, name: str, decided: Mapping[str, Any]) -> Proposal:
    """Return the proposal for a machine.

    `decided` are settings that somebody has chosen, with their values; those that follow from them,
    such as the time limit from the partition, are proposed accordingly.
    """
    found = _propose_partitions(machine, decided)
    partition = decided.get("partition") or next((each.value for each in found), None)
    view = machine.view(partition) or PartitionView.unknown(str(partition or ""))
    if decided.get("gpus_per_node") == 0:
        view = view.without_gpus()
    account = propose_account(machine, view, decided)
    charged = _chosen("account", account, decided)
    qos = propose_qos(machine, view, account=charged, decided=decided)
    billing = {"account": charged, "qos": _chosen("qos", qos, decided)}
    found += filter(None, [account, qos])
    found += propose_queue_limit(machine, view, **billing)
    found += propose_time_limit(machine, view, **billing)
    found += propose_node_settings(machine, view)
    found += propose_surroundings(machine, view, decided)
    return with_decided(Proposal(name, found, failures=tuple(machine.facts.failures)), decided)


def with_decided(proposal: Proposal, decided: Mapping[str, Any]) -> Proposal:
    """Return a proposal with settings that somebody has chosen, in the order of schema.json."""
    by_key = {each.key: each for each in proposal.settings}
    for key, value in decided.items():
        known = by_key.get(key, ProposedSetting(key, None, ""))
        chosen = settings.join_values(known.value, value)
        by_key[key] = known._replace(
            value=chosen, origin="your choice", others=_other_values(known, chosen), is_open=False
        )
    order = {key: place for place, key in enumerate(schema.table("cluster"))}
    ordered = sorted(by_key.values(), key=lambda each: order.get(each.key, len(order)))
    return proposal._replace(settings=ordered, decided=proposal.decided | frozenset(decided))


def _other_values(known: ProposedSetting, chosen: Any) -> tuple[Alternative, ...]:
    """Return what a setting could be instead of the chosen value: first, what was proposed."""
    proposed = alternatives([known.value] if isinstance(known.value, str) else [])
    return tuple(other for other in (*proposed, *known.others) if other.value != chosen)


def _chosen(key: str, setting: ProposedSetting | None, decided: Mapping[str, Any]) -> str:
    proposed = setting.value if setting else None
    return str(decided.get(key, proposed) or "")


def _propose_partitions(machine: Machine, decided: Mapping[str, Any]) -> list[ProposedSetting]:
    """Return the settings partition and cpu_partition."""
    accounts = [str(decided["account"])] if decided.get("account") else machine.accounts()
    usable = [
        view
        for view in machine.views
        if view.is_up and not view.refuses(accounts, machine.qos_names(), machine.groups)
    ]
    # If what Slurm says excludes every partition, it is misread rather than meant.
    views = usable or machine.views
    if not views:
        reason = "Slurm names no partition"
        return [ProposedSetting("partition", None, reason, is_open=True)]
    for_gpus, for_cpus = rank_for_gpus(views), rank_for_cpus(views)
    ranked = for_gpus or for_cpus
    chosen = machine.view(decided.get("partition")) or ranked[0]
    others = [Alternative(view.name, view.describe()) for view in ranked if view is not chosen]
    why = "" if for_gpus else "; no partition has GPUs among its generic resources (gres)"
    found = [
        ProposedSetting("partition", chosen.name, chosen.describe() + why, others=tuple(others))
    ]
    beside = [view for view in for_cpus if view is not chosen and not view.is_for_tests]
    if for_gpus and beside:
        origin = f"{beside[0].describe()}, for evaluations without a GPU"
        names = alternatives(view.name for view in beside[1:])
        found.append(ProposedSetting("cpu_partition", beside[0].name, origin, others=names))
    return found
