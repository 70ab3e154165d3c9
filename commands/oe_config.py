"""oe-config: describe this machine in your clusters file.

Usage:
  oe-config [options] [--set=KEY=VALUE]... [FILE]

Options:
  --yes            Write the proposal as it is; ask nothing.
  --cluster=NAME   Name of the cluster; by default Slurm's own (ClusterName).
  --set=KEY=VALUE  Choose a setting; KEY.MEMBER=VALUE sets a member of a map.
                   What follows from it, such as the time limit from the
                   partition, is proposed accordingly.
  --force          Replace your entry of the same name.
  --help           Print this text.
  --version        Print the version.

Examples:
  oellm config
  oe-config --yes --set=account=a42 --set=partition=gpu
  oe-detect --propose | jq '.clusters[].time_limit = "02:00:00"' |
      oe-config --yes -

Run it on a login node of a cluster that oellm does not know. It asks Slurm
(scontrol, sinfo, sacctmgr) and the file system, and shows a table of settings:
where each value comes from, what else is possible, and what must be filled in.
On a terminal you can change each of them before it is written. With FILE (or
`-`, stdin) it writes what oe-detect --propose has printed, or somebody
changed.

The entry goes into $OELLM_CONFIG, else $XDG_CONFIG_HOME/oellm/clusters.json,
else ~/.config/oellm/clusters.json, beside what is in it. A file that is
not JSON stays as it is. So does the file if oe-detect would not accept the new
entry.

Without a terminal --yes is needed. An entry of the same name is replaced only
with --force, or if you say so on the terminal.

Output: the entry that was written, as JSON; on a terminal, the file's path and
the next commands.

Exit status: 0 written, 1 nothing was written or a setting must be filled in,
2 bad setting or file, 3 this machine has no Slurm: it is the cluster `local`.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from oellm import cli
from oellm.errors import ExitStatus, UsageError

if TYPE_CHECKING:
    from oellm.discovery.own_clusters import OwnClusters
    from oellm.discovery.proposal import Proposal

Propose = Callable[[Mapping[str, Any]], "Proposal"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command."""
    return cli.run("oe-config", doc=__doc__, command=_config, argv=argv)


def _config(arguments: cli.Arguments) -> int:
    from oellm.core import menus
    from oellm.discovery.own_clusters import host_problem, read_own_clusters
    from oellm.discovery.proposal import read_decided

    if not arguments["--yes"]:
        menus.require_terminal("--yes")
    clusters = read_own_clusters(os.environ)
    decided = read_decided(arguments["--set"])
    propose = _proposer(arguments["FILE"], arguments["--cluster"], clusters)
    proposal = _agree(propose, decided, clusters, is_asking=not arguments["--yes"])
    # Somebody may have edited the file during the dialogue.
    before = read_own_clusters(os.environ)
    if proposal is None or not _may_write(proposal, before, arguments):
        cli.message("nothing was written")
        return ExitStatus.FAILED
    written = _write(proposal, before)
    cli.message(f"{written.path}: wrote the cluster {proposal.name}")
    if problem := host_problem(written, proposal.name, os.environ):
        cli.message(problem)
    _print_entry(proposal, written)
    return _report_open(proposal, arguments["--set"])


def _proposer(path: str | None, name: str | None, clusters: OwnClusters) -> Propose:
    """Return what makes a proposal from settings that somebody has decided."""
    from oellm.core.regular_files import DOCUMENT
    from oellm.discovery.machine import look_at_machine
    from oellm.discovery.own_clusters import packaged_name, read_entry
    from oellm.discovery.proposal import choose_name, propose, propose_given, with_decided

    if path is not None:
        with cli.open_input(path) as stream:
            content = stream.buffer.read(DOCUMENT)
        source = cli.input_name(path)
        given, entry = read_entry(content, source)
        return lambda decided: with_decided(propose_given(name or given, entry, source), decided)
    show_status = cli.status_line() or (lambda _: None)
    show_status("asking Slurm and the file systems")
    machine = look_at_machine(os.environ)
    show_status("")
    for failure in machine.facts.failures:
        cli.message(failure)
    if known := packaged_name(clusters, os.environ):
        cli.message(
            f"this machine is the cluster {known} of oellm already; each setting of an entry of "
            "yours comes before that of oellm"
        )
    chosen = name or choose_name(machine, clusters, os.environ)
    return lambda decided: propose(machine, chosen, decided)


def _agree(
    propose: Propose, decided: Mapping[str, Any], clusters: OwnClusters, *, is_asking: bool
) -> Proposal | None:
    """Return the proposal that is to be written; None if somebody stops."""
    from oellm.discovery.dialog import discuss

    if is_asking:
        return discuss(propose, decided, show=_show, goal=str(clusters.path))
    proposal = propose(decided)
    if sys.stderr.isatty():
        _show(proposal)
    return proposal


def _show(proposal: Proposal) -> None:
    import shutil

    from oellm.discovery.listing import list_settings

    cli.relay(f"\nThe cluster {proposal.name}:\n\n")
    for line in list_settings(proposal.settings, shutil.get_terminal_size().columns):
        cli.relay(f"{line}\n")
    cli.relay("\n")


def _may_write(proposal: Proposal, clusters: OwnClusters, arguments: cli.Arguments) -> bool:
    """Return whether an entry may be written, perhaps over one of the same name."""
    from oellm.core import menus

    name = proposal.name
    if arguments["--force"] or not clusters.has(name):
        return True
    if arguments["--yes"]:
        raise UsageError(
            f"{clusters.path} has a cluster {name} already: --force replaces it, "
            "--cluster=NAME gives the new one another name"
        )
    lost = [key for key in clusters.keys(name) if key not in proposal.entry()]
    loss = f" It would lose {', '.join(lost)}." if lost else ""
    return menus.confirm(f"{clusters.path} has a cluster {name} already.{loss} Replace it?")


def _write(proposal: Proposal, before: OwnClusters) -> OwnClusters:
    """Write an entry if that of its name is still as it was; return the whole file."""
    from oellm.discovery.own_clusters import only_writer, read_own_clusters, write_own_clusters

    name = proposal.name
    with only_writer(os.environ):
        now = read_own_clusters(os.environ)
        if not now.has_same(before, name):
            raise UsageError(f"{now.path}: the cluster {name} was just changed: look at it first")
        written = now.with_entry(name, proposal.entry())
        write_own_clusters(written, name, os.environ)
    return written


def _print_entry(proposal: Proposal, clusters: OwnClusters) -> None:
    from oellm.discovery.own_clusters import format_entry

    if sys.stdout.isatty():
        print(clusters.path)
        print("all settings:       oe-detect --explain")
        print("what a run needs:   oellm doctor")
    else:
        sys.stdout.write(format_entry(proposal.name, proposal.entry()))


def _report_open(proposal: Proposal, chosen: Sequence[str]) -> int:
    """Say what must still be filled in, beside what was chosen; return the exit status."""
    options = "".join(f"{shlex.quote(f'--set={text}')} " for text in chosen)
    for setting in proposal.open_settings():
        cli.message(
            f"{setting.key} must be filled in, {setting.origin}: "
            f"oe-config --force {options}--set={setting.key}=…"
        )
    return ExitStatus.FAILED if proposal.open_settings() else ExitStatus.DONE


if __name__ == "__main__":
    sys.exit(main())
