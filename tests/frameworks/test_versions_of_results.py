"""Made-up files in the shape of each version: what is read is what they say, and nothing else."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oellm.frameworks.reading.detect import read_result
from oellm.metrics.records import PrimaryMetrics, make_metric_records
from support.native_results import GENERATORS, Expected, GeneratedFile, generate
from support.processes import Run, rows_of

# Files of each kind that the command reads at once.
MANY = 25


def rounded(score: Expected) -> Expected:
    """Return a score as files compare: the last digits of what we compute may differ."""
    stderr = None if score.stderr is None else round(score.stderr, 9)
    return score._replace(value=float(round(score.value, 9)), stderr=stderr)


def check_file(made: GeneratedFile) -> None:
    content = json.dumps(made.document).encode()
    if not made.scores:
        with pytest.raises(ValueError, match="no metric has a finite value"):
            read_result(content, f"/nowhere/{made.name}")
        return
    rows = read_result(content, f"/nowhere/{made.name}")
    assert rows is not None
    found = [
        Expected(*(getattr(record, name) for name in Expected._fields))
        for row in rows
        for record in make_metric_records(row, PrimaryMetrics({}))
    ]
    assert Counter(map(rounded, found)) == Counter(map(rounded, made.scores))
    assert sum(len(row.remarks) for row in rows) == made.n_lost


@pytest.mark.parametrize("kind", GENERATORS)
def test_what_is_read_is_what_a_file_says(kind: str) -> None:
    @settings(max_examples=60, deadline=None)
    @given(st.integers(0, 2**40))
    def check(seed: int) -> None:
        check_file(generate(kind, seed))

    check()


@pytest.mark.slow
def test_the_command_prints_what_the_files_say(run: Run, tmp_path: Path) -> None:
    expected: Counter[tuple[str, ...]] = Counter()
    n_lost = n_left_out = 0
    for kind in GENERATORS:
        for seed in range(MANY):
            made = generate(kind, seed)
            directory = tmp_path / kind / str(seed)
            directory.mkdir(parents=True)
            (directory / made.name).write_text(json.dumps(made.document))
            n_lost += made.n_lost if made.scores else 1
            n_left_out += not made.scores
            expected.update((str(directory), *map(shown, rounded(s))) for s in made.scores)
    columns = ",".join(["run_dir", *Expected._fields])
    done = run("oe-collect", "--all", f"--columns={columns}", tmp_path, status=1)
    found: Counter[tuple[str, ...]] = Counter()
    for row in rows_of(done.stdout):
        texts = (row[name] for name in Expected._fields)
        number = {"value", "stderr"}
        found[
            (
                str(Path(row["run_dir"]).parent),
                *(
                    shown(round(float(text), 9)) if name in number and text else text
                    for name, text in zip(Expected._fields, texts, strict=True)
                ),
            )
        ] += 1
    assert found == expected
    # A file without any score is left out; the message names one of its metrics.
    lost = re.findall(r"\.json: .* of .* is (?:NaN|Infinity)$", done.stderr, re.MULTILINE)
    assert (len(lost), done.stderr.count("left out, ")) == (n_lost, n_left_out)


def shown(value: object) -> str:
    if value is None:
        return ""
    return repr(float(value)) if isinstance(value, float) else str(value)
