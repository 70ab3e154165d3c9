"""A node of a real Slurm that ends jobs at once, and the run that goes on without it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.dev_cluster import DevCluster
from support.stub_worker import render_for_stub

ROWS = 24
# On node n1 the worker cannot even start.
STUB = """
if os.environ["SLURMD_NODENAME"] == "n1":
    sys.exit("no GPU on n1")
time.sleep(2)
"""


@pytest.fixture
def run_dir(shared_cluster: DevCluster) -> Path:
    """Return a run of many elements, whose workers are the stub."""
    rows = "".join(f"acme/m{n},t,0\n" for n in range(ROWS))
    return Path(render_for_stub(shared_cluster, rows, STUB)["run_dir"])


def test_a_run_goes_on_without_the_node_that_swallows_its_jobs(
    shared_cluster: DevCluster, run_dir: Path
) -> None:
    first = shared_cluster.call("oe-submit", "--wait=done", "--poll=1", run_dir, status=1)
    assert "why the others have none: oe-status " in first.stderr
    assert "node n1 is excluded from now on: " in first.stderr
    assert "its job ended with status 1: no GPU on n1; " in first.stderr
    # The elements that waited got to know it, too.
    assert "may still go to excluded nodes" not in first.stderr
    assert not first.stderr.count(f" 0 of {ROWS} rows have results")
    done = shared_cluster.call("oe-submit", "--wait=done", "--poll=1", run_dir)
    assert f"{ROWS} of {ROWS} rows have results" in done.stderr
    record = json.loads((run_dir / "run.json").read_text())
    assert "--exclude=n1" in record["jobs"][-1]["command"]
    assert {entry["node"] for entry in record["nodes"] if len(entry["ended"]) > 1} == {"n1"}


def test_an_option_that_leaves_no_node_is_refused_with_the_way_back(
    shared_cluster: DevCluster, run_dir: Path
) -> None:
    path = run_dir / "run.json"
    record = json.loads(path.read_text())
    ended = {"ended": ["1_0", "1_1"], "reason": "no GPU", "since": "2026-01-01T00:00:00+00:00"}
    record["nodes"] = [{"node": "n1", **ended}]
    record["cluster"]["exclude"] = "n2"
    path.write_text(json.dumps(record))
    refused = shared_cluster.call("oe-submit", run_dir, status=1)
    assert "Requested node configuration is not available" in refused.stderr
    assert "oe-submit --include_nodes=all" in refused.stderr
