"""The rows of a run that have no valid result yet."""

from __future__ import annotations

from oellm.run_directory import Run


class UnfinishedRows:
    """Looks for results again each time it is asked, except for rows that have one already."""

    def __init__(self, run: Run) -> None:
        self._store = run.store
        self._of_shard: dict[int, list[str]] = {}
        for row in run.rows():
            self._of_shard.setdefault(int(row["shard"]), []).append(row["eval_id"])

    def count(self) -> int:
        """Return how many there are."""
        return sum(self.in_shard(shard) for shard in self._of_shard)

    def in_shard(self, shard: int) -> int:
        """Return how many there are in a shard."""
        valid = self._store.valid_result
        rows = [eval_id for eval_id in self._of_shard.get(shard, ()) if valid(eval_id) is None]
        self._of_shard[shard] = rows
        return len(rows)
