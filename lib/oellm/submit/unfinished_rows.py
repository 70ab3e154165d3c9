"""The rows of a run that have no valid result yet."""

from __future__ import annotations

from oellm.runs.run_directory import Run


class UnfinishedRows:
    """The rows of each shard without a valid result; one that was valid is not read again."""

    def __init__(self, run: Run) -> None:
        self._store = run.store
        self._names: frozenset[str] = frozenset()
        self._of_shard: dict[int, list[str]] = {}
        for row in run.rows():
            self._of_shard.setdefault(int(row["shard"]), []).append(row["eval_id"])

    def look(self) -> None:
        """See which results are there now: one question, where opening each would be one a row."""
        self._names = self._store.result_names()

    def count(self) -> int:
        """Return how many there are now."""
        self.look()
        return sum(self.in_shard(shard) for shard in self._of_shard)

    def in_shard(self, shard: int) -> int:
        """Return how many there were in a shard at the last look."""
        rows = [
            eval_id
            for eval_id in self._of_shard.get(shard, ())
            if f"{eval_id}.json" not in self._names or self._store.valid_result(eval_id) is None
        ]
        self._of_shard[shard] = rows
        return len(rows)
