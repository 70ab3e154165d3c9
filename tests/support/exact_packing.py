"""An exhaustive search, for few rows, of whether shards of some length can hold them."""

from __future__ import annotations

from collections.abc import Sequence

Shard = tuple[float, frozenset[int]]


def can_pack(models: Sequence[tuple[float, list[float]]], count: int, length: float) -> bool:
    """Return whether `count` shards of a length can hold the models.

    A model is its load time and the times of its rows. Each shard with a row of it loads it again.
    """
    rows = sorted(
        ((row_s + load_s, row_s, model)
         for model, (load_s, seconds) in enumerate(models) for row_s in seconds),
        reverse=True,
    )  # fmt: skip
    spare_s = count * length - sum(load_s + sum(seconds) for load_s, seconds in models)
    dead: set[tuple[int, tuple[tuple[float, tuple[int, ...]], ...]]] = set()

    def can_go_on(at: int, shards: list[Shard], spare_s: float) -> bool:
        if spare_s < -1e-9 * length or at == len(rows):
            return spare_s >= -1e-9 * length
        state = (at, tuple(sorted((time_s, tuple(sorted(held))) for time_s, held in shards)))
        if state in dead:
            return False
        _, row_s, model = rows[at]
        load_s = models[model][0]
        again = any(model in held for _, held in shards)
        for shard in dict.fromkeys(shards):
            time_s, held = shard
            more_s = row_s + (0.0 if model in held else load_s)
            if time_s + more_s <= length * (1 + 1e-9):
                next_shards = shards.copy()
                next_shards[next_shards.index(shard)] = (time_s + more_s, held | {model})
                wasted_s = load_s if again and model not in held else 0.0
                if can_go_on(at + 1, next_shards, spare_s - wasted_s):
                    return True
        dead.add(state)
        return False

    return can_go_on(0, [(0.0, frozenset())] * count, spare_s)
