"""Tasks of a pinned git source on the dev cluster: fetched once, run in a container offline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from support.dev_cluster import DevCluster
from support.fetching import nowhere
from support.git_repositories import Repository, quiz_files

COUNT = 10


def evaluated(record: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the results of a run, by task."""
    paths = Path(record["run_dir"], "results").glob("*.json")
    found = [json.loads(path.read_text()) for path in paths]
    return {result["oellm"]["row"]["task_path"]: result for result in found}


def test_a_new_commit_is_evaluated_as_far_as_its_tasks_differ(
    cluster: DevCluster, tmp_path: Path, tiny_model: Path
) -> None:
    # The libraries of the hub would expand `$HOME` in the name of the shared directory.
    cluster.env |= {**nowhere(), "HF_HOME": str(tmp_path / "caché d'ir %j #1")}
    remote = Repository(tmp_path / "remote é")
    first = remote.commit({f"tasks/{name}": text for name, text in quiz_files(COUNT).items()})
    changed = quiz_files(COUNT, q3="Say: {{words}}")
    second = remote.commit({f"tasks/{name}": text for name, text in changed.items()})
    tasks = ",".join(f"q{number}" for number in range(COUNT))

    def rows(revision: str) -> list[str]:
        source = f"{remote.url}@{revision}#subdirectory=tasks"
        made = cluster.run(
            *("oe-manifest", "--models", tiny_model, "--tasks", tasks, "--n_shot=1"),
            *("--batch_size=4", f"--include_path={source}"),
        )
        return made.splitlines(keepends=True)

    both = "".join([*rows(first), *rows("main")[1:]])
    header, *fetched = cluster.run("oe-fetch", stdin=both).splitlines(keepends=True)
    of_first, of_second = ("".join([header, *part]) for part in (fetched[:COUNT], fetched[COUNT:]))
    remote.path.rename(tmp_path / "gone")
    before = cluster.submitted(of_first)
    cluster.wait()
    results = evaluated(before)
    assert len(results) == COUNT
    for result in results.values():
        assert f"@{first}#subdirectory=tasks" in result["oellm"]["row"]["include_path"]
        # It is the tree of the cache that lm-eval has read, in the container.
        assert result["oellm"]["provenance"]["container"]

    runs = str(Path(before["run_dir"]).parent)
    missing = cluster.call("oe-missing", "--in", runs, "--format=csv", stdin=of_second)
    assert "9 rows have results of another commit of the task's source" in missing.stderr
    after = cluster.submitted(missing.stdout)
    cluster.wait()
    (result,) = evaluated(after).values()
    assert result["oellm"]["row"]["task_path"] == "q3"
    assert f"@{second}#subdirectory=tasks" in result["oellm"]["row"]["include_path"]
    assert result["configs"]["q3"]["doc_to_text"] == "Say: {{words}}"
    again = cluster.call("oe-missing", "--in", runs, "--check", stdin=of_second)
    assert "0 of 10 rows are missing" in again.stderr
