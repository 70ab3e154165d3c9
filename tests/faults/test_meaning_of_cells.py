"""A number or a value means what it says, or it is refused with the reason and its place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.processes import Run

HEADER = "model_path,task_path,n_shot"
RENDER = ("oe-render", "--cluster=local", "--dry_run")


@pytest.mark.parametrize(
    ("column", "text", "message"),
    [
        ("limit", "1.0", "one document: write 1, or leave it empty for all documents"),
        ("limit", "0.99999999999999999", "one document: write 1"),
        ("limit", "1_000", "in plain digits"),
        ("limit", "\u0665", "expected a number of documents"),
        ("limit", "1e300", "at most"),
        ("n_shot", "99999999999", "at most 10000 examples"),
        ("n_shot", "5.5", "expected a non-negative integer"),
        ("n_shot", "9" * 5000, "expected a non-negative integer"),
        ("batch_size", "9" * 5000, "expected a positive integer"),
        ("seed", "99999999999999999999999", "below 2**32"),
        ("seed", "1,4294967296,1,1", "below 2**32"),
        ("seed", "9" * 5000, "expected one seed"),
        ("apply_chat_template", "none", "expected true, false or the name of a chat template"),
        ("apply_chat_template", "Tru", "expected true, false or the name of a chat template"),
        ("gen_kwargs", '{"top_p": NaN}', "NaN is no number"),
        ("gen_kwargs", '{"top_p": 1e999}', "too large"),
        ("gen_kwargs", '{"top_k": 1, "top_k": 2}', "the key 'top_k' twice"),
        ("gen_kwargs", '{"a": ' + "[" * 3000 + "]" * 3000 + "}", "nested too deeply"),
        ("gen_kwargs", '{"a": ' + "[" * 100000, "nested too deeply"),
        ("model_args", '{"a": ' + "[" * 60 + "]" * 60 + "}", "nested too deeply"),
        ("model_path", "acme/a,x=" + "[" * 60 + "]" * 60, "nested too deeply"),
        ("model_path", 'acme/a,x={"a": 1, "a": 2}', "the key 'a' twice"),
    ],
)
def test_a_doubtful_value_is_refused_with_its_place(
    run: Run, column: str, text: str, message: str
) -> None:
    cells = {"model_path": "acme/a", "task_path": "arc_easy", "n_shot": "0", column: text}
    quoted = ('"' + cell.replace('"', '""') + '"' for cell in cells.values())
    done = run(*RENDER, stdin=f"{','.join(cells)}\n{','.join(quoted)}\n", status=2)
    assert done.stderr.startswith(f"oe-render: stdin:2: {column}: expected")
    assert message in done.stderr
    assert len(done.stderr) < 1000


@pytest.mark.parametrize(
    ("column", "text"), [("n_shot", "5.0"), ("batch_size", "8.0"), ("tp", "1.0"), ("limit", "1")]
)
def test_a_whole_number_is_read_also_with_a_point(run: Run, column: str, text: str) -> None:
    cells = {"model_path": "acme/a", "task_path": "arc_easy", "n_shot": "0", column: text}
    run(*RENDER, stdin=f"{','.join(cells)}\n{','.join(cells.values())}\n")


def test_rows_of_old_runs_keep_their_texts(run: Run) -> None:
    row = f"{HEADER},limit,eval_id\nacme/tiny,arc_easy,,1_000,23f4b6deb0b5bef4\n"
    run(*RENDER, stdin=row)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("time_limit=0", "time_limit: expected a time above 0"),
        ("time_limit=00:00:00", "time_limit: expected a time above 0"),
        ("shard_time=" + "1" * 5000, "shard_time: expected [days-]hours:minutes:seconds"),
        ("container_args=" + "[" * 3000, "container_args: expected JSON"),
        ("container_args=" + "[" * 100 + "]" * 100, "container_args: expected JSON"),
        ('env={"A": 1, "A": 2}', "the key 'A' twice"),
    ],
)
def test_a_doubtful_setting_is_refused_by_its_name(run: Run, setting: str, message: str) -> None:
    done = run("oe-detect", "--cluster=local", f"--set={setting}", status=2)
    assert message in done.stderr
    assert len(done.stderr) < 1000


@pytest.mark.parametrize(
    "content",
    [
        '{"clusters": {"here": {"account": "a"}, "here": {"account": "b"}}}',
        '{"clusters": ' + "[" * 3000,
        '{"clusters": {"here": {"env": ' + '{"a":' * 100 + "1" + "}" * 100 + "}}}",
    ],
)
def test_the_users_file_of_clusters_is_refused_for_what_it_cannot_mean(
    run: Run, tmp_path: Path, content: str
) -> None:
    path = tmp_path / "clusters.json"
    path.write_text(content)
    done = run("oe-detect", "--cluster=here", env={"OELLM_CONFIG": str(path)}, status=2)
    assert done.stderr.startswith(f"oe-detect: {path}: ")
    assert "twice" in done.stderr or "nested too deeply" in done.stderr


def test_the_origin_of_a_clusters_name_is_told_and_the_table_is_aligned(run: Run) -> None:
    chosen = run("oe-detect", "--cluster=local", "--explain").stdout.splitlines()
    head = chosen[0]
    assert head.split() == ["setting", "origin", "value"]
    name = next(line for line in chosen if line.startswith("name "))
    assert name.split() == ["name", "--cluster", "local"]
    assert {line[head.index("value") - 1] for line in chosen} == {" "}
    by_variable = run("oe-detect", "--explain", env={"OELLM_CLUSTER": "local"}).stdout
    assert ["name", "OELLM_CLUSTER", "local"] in [line.split() for line in by_variable.splitlines()]
    settings = json.loads(run("oe-detect", "--cluster=local").stdout)
    assert len(chosen) == len(settings) + 1
