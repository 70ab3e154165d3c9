"""The identity of a row: the same for the same evaluation, another for another one."""

from __future__ import annotations

import io
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oellm.core import schema
from oellm.errors import InputError
from oellm.manifest import cells, csv_file
from oellm.manifest import rows as manifest
from oellm.manifest.model_key import model_key
from oellm.manifest.rows import Row, eval_id

# Rows with the eval_id that the first version gave them.
IDENTITIES = Path(__file__).with_name("identities.csv")
# A busy machine may take any time for an example.
PATIENT = settings(deadline=None)
# For each column of the identity: different values, each with its equivalent spellings.
EXAMPLES = {
    "model_path": [
        [
            "acme/tiny,revision=step5,dtype=float16",
            "acme/tiny,dtype=float16,revision=step5",
            " acme/tiny , dtype=float16 , revision = step5 ",
        ],
        ["acme/tiny"],
        ["acme/tiny,revision=step5"],
        ["acme/tiny,revision=step05,dtype=float16"],
        ["/models/acme/tiny"],
    ],
    "task_path": [["arc_easy"], ["arc_challenge"], ["/tasks/arc_easy.yaml"]],
    "n_shot": [[""], ["0", "00", " 0"], ["5", "05", "5 ", "5.0"], ["10"]],
    "eval_suite": [
        ["", "lm_eval", "lm-eval", "lm-eval-harness", "lm-evaluation-harness", " lm_eval"],
        ["bigcodebench"],
    ],
    "backend": [["", "hf"], ["vllm"]],
    "dtype": [[""], ["float16"], ["bfloat16"]],
    "trust_remote_code": [["", "false", "0", "No"], ["true", "TRUE", "1", " yes"]],
    "model_args": [
        [""],
        ["parallelize=True,max_length=2048", "max_length = 2048,parallelize=True"],
        ['{"max_length": 2048}', "max_length=2048", '{ "max_length" : "2048" }'],
        ['{"max_length": [2048]}'],
    ],
    "limit": [[""], ["10", "10.0", "1e1", "010"], ["0.5", ".5", "5e-1"], ["5"]],
    "apply_chat_template": [
        [""],
        ["true", "True", "1", "yes"],
        ["false", "FALSE", "0", "no"],
        ["tool_use"],
    ],
    "fewshot_as_multiturn": [[""], ["true", "TRUE", "1", "yes"], ["false", "0", "No"]],
    "system_instruction": [[""], ["Be brief."], ["Be brief. "], ['Say "A",\r\nor\nB.'], ["Été"]],
    "gen_kwargs": [
        [""],
        ["temperature=0,top_p=0.9", "top_p=0.9,temperature=0", "top_p = 0.9, temperature=0"],
        ["temperature=1,top_p=0.9"],
        ["temperature=0", '{"temperature": 0}'],
        ['{"until": ["\\n", "Q:"]}'],
        ['{"until": ["Q:", "\\n"]}'],
    ],
    "seed": [[""], ["7", "7,7,7,7", "07", "7, 7, 7, 7"], ["7,7,7,8"], ["7,None,7,7"], ["8"]],
    "include_path": [[""], ["/tasks"], ["/other"]],
    "model_revision": [[""], ["4f2c"], ["4f2d"]],
}
OTHERS = [name for name, spec in schema.table("manifest").items() if not spec.get("identity")]
CHOICES = st.fixed_dictionaries({name: st.sampled_from(EXAMPLES[name]) for name in EXAMPLES})
TEXT = st.text('ab,=": \r\n\t\u00e9\u2028', max_size=9)
UNKNOWN = st.dictionaries(st.sampled_from(["note", "Limit", "n_shot ", "x"]), TEXT)
RANDOM = st.randoms(use_true_random=False)


def spelled(choice: dict[str, list[str]], rng: random.Random) -> Row:
    """Return a row with these values, each in any spelling, and the columns in any order."""
    cells = {name: rng.choice(spellings) for name, spellings in choice.items()}
    # An empty cell and no column are the same.
    kept = [name for name in cells if cells[name] or rng.random() < 0.5]
    rng.shuffle(kept)
    return Row({name: cells[name] for name in kept})


def test_every_column_of_the_identity_has_examples_here() -> None:
    table = schema.table("manifest")
    assert list(EXAMPLES) == [name for name, spec in table.items() if spec.get("identity")]
    assert all(len(values) > 1 for values in EXAMPLES.values())


@PATIENT
@given(CHOICES, RANDOM)
def test_spelling_and_order_of_columns_never_change_it(
    choice: dict[str, list[str]], rng: random.Random
) -> None:
    assert eval_id(spelled(choice, rng)) == eval_id(spelled(choice, rng))


@PATIENT
@given(CHOICES, RANDOM, UNKNOWN, st.integers(0, 99))
def test_other_columns_never_change_it(
    choice: dict[str, list[str]], rng: random.Random, unknown: dict[str, str], number: int
) -> None:
    row = spelled(choice, rng)
    cells = {**dict.fromkeys(OTHERS, str(number)), **unknown, **row.cells}
    assert eval_id(Row(cells)) == eval_id(row)


@PATIENT
@given(CHOICES, RANDOM, st.sampled_from(list(EXAMPLES)))
def test_another_value_of_any_column_of_the_identity_changes_it(
    choice: dict[str, list[str]], rng: random.Random, column: str
) -> None:
    row = spelled(choice, rng)
    identities = {
        eval_id(row.with_cells(**{column: rng.choice(spellings)})) for spellings in EXAMPLES[column]
    }
    assert len(identities) == len(EXAMPLES[column])


@PATIENT
@given(CHOICES, RANDOM, TEXT, TEXT)
def test_a_value_counts_only_in_its_own_column(
    choice: dict[str, list[str]], rng: random.Random, one: str, other: str
) -> None:
    row = spelled(choice, rng)
    texts = [("a", one), ("a", other), (one, "a"), (other, "a")]
    rows = {
        (task, text): eval_id(row.with_cells(task_path=task, system_instruction=text))
        for task, text in texts
    }
    assert len(set(rows.values())) == len(rows)


def written(row: Row, rng: random.Random) -> str:
    """Return the row as CSV by any of its writers: quotes, line ends, mark and blank lines."""
    end = rng.choice(["\n", "\r\n"])

    def cell(text: str) -> str:
        if set(text) & set(',"\r\n') or rng.random() < 0.5:
            return '"' + text.replace('"', '""') + '"'
        return text

    lines = [",".join(map(cell, row.cells)), ",".join(map(cell, row.cells.values()))]
    return rng.choice(["", "\ufeff"]) + (end * rng.randint(1, 2)).join([*lines, ""])


@PATIENT
@given(CHOICES, RANDOM)
def test_writing_and_reading_csv_never_changes_it(
    choice: dict[str, list[str]], rng: random.Random
) -> None:
    row = spelled(choice, rng).with_cells(n_shot=rng.choice(choice["n_shot"]))
    ours = io.StringIO(newline="")
    csv_file.ManifestWriter(ours).write(row)
    for text in (ours.getvalue(), written(row, rng)):
        stream = io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8-sig", newline="")
        (again,) = csv_file.read_rows(stream, "jobs.csv")
        assert eval_id(again) == eval_id(row)


@PATIENT
@given(st.integers(0, 10**20), st.integers(0, 3), st.sampled_from(["", " ", "  "]))
def test_spelling_of_numbers_never_changes_it(number: int, zeros: int, blank: str) -> None:
    def with_numbers(n_shot: str, limit: str, seed: str) -> str:
        cells = {"task_path": "t", "n_shot": n_shot, "limit": limit, "seed": seed}
        return eval_id(Row(cells))

    spelled = "0" * zeros + str(number)
    # A limit is read as a float, which counts to 2**53.
    limit = number % 2**52 + 1
    plain = with_numbers(str(number), str(limit), str(number))
    limits = (f"{limit}.0", f"{limit}e0", f"{'0' * zeros}{limit}", f"{blank}{limit}{blank}")
    for other in limits:
        seed = ",".join([f"{blank}{spelled}{blank}"] * 4)
        assert with_numbers(f"{blank}{spelled}{blank}", other, seed) == plain
    assert with_numbers(str(number + 1), str(limit), str(number)) != plain
    assert with_numbers(str(number), str(limit + 1), str(number)) != plain
    assert with_numbers(str(number), str(limit), str(number + 1)) != plain


ARGUMENTS = st.dictionaries(
    st.text("abcXYZ_09", min_size=1, max_size=3), st.text("ab=.\u00e9", max_size=3), max_size=5
)


@PATIENT
@given(ARGUMENTS, ARGUMENTS, RANDOM)
def test_arguments_count_by_name_and_value_and_not_by_their_order(
    arguments: dict[str, str], others: dict[str, str], rng: random.Random
) -> None:
    def with_arguments(arguments: dict[str, str]) -> set[str]:
        pairs = [f"{name}={value}" for name, value in arguments.items()]
        rng.shuffle(pairs)
        text = ",".join(pairs)
        model = Row({"model_path": ",".join(["acme/tiny", *pairs]), "task_path": "t"})
        return {
            eval_id(model),
            eval_id(Row({"model_path": "m", "gen_kwargs": text})),
            eval_id(Row({"model_path": "m", "model_args": text})),
        }

    assert with_arguments(arguments) == with_arguments(arguments)
    if arguments != others:
        assert not with_arguments(arguments) & with_arguments(others)


def test_it_stays_the_same_if_the_cache_of_cells_overflows() -> None:
    rows = [Row({"model_path": "m", "task_path": f"task{number}"}) for number in range(80_000)]
    first = [eval_id(row) for row in rows]
    assert len(set(first)) == len(rows)
    assert cells._cached_cell.cache_info().currsize < len(rows) / 2
    assert [eval_id(row) for row in rows[:500]] == first[:500]
    long = Row({"model_path": "m", "system_instruction": "x" * 100_000})
    misses = cells._cached_cell.cache_info().misses
    assert eval_id(long) == eval_id(long)
    assert cells._cached_cell.cache_info().misses == misses


def test_changing_a_value_changes_no_other_row() -> None:
    cells = {"gen_kwargs": '{"until": ["Q:"]}', "seed": "7"}
    Row(cells).value("gen_kwargs")["until"].append("A:")
    Row(cells).value("seed").clear()
    assert Row(cells).value("gen_kwargs") == {"until": ["Q:"]}
    assert Row(cells).value("seed") == [7, 7, 7, 7]


def test_rows_have_the_identity_that_they_had_in_the_first_version() -> None:
    with open(IDENTITIES, encoding="utf-8", newline="") as stream:
        rows = list(csv_file.read_rows(stream, str(IDENTITIES)))
    assert [eval_id(row) for row in rows] == [row["eval_id"] for row in rows]
    assert len({row["eval_id"] for row in rows}) > 80


def test_it_is_the_one_that_existing_results_have() -> None:
    """If a value here changes, all earlier results count as missing: that needs a new version."""
    assert manifest.IDENTITY_VERSION == 1
    plain = {"model_path": "EleutherAI/pythia-160m", "task_path": "hellaswag", "n_shot": "5"}
    assert eval_id(Row(plain)) == "5ee25f64f320396c"
    every_column = {
        "model_path": "acme/tiny,revision=step5,dtype=float16",
        "task_path": "arc_easy",
        "n_shot": "5",
        "eval_suite": "bigcodebench",
        "backend": "vllm",
        "dtype": "bfloat16",
        "limit": "0.25",
        "apply_chat_template": "true",
        "fewshot_as_multiturn": "false",
        "system_instruction": "Réponds.",
        "gen_kwargs": "temperature=0,top_p=0.9",
        "seed": "0,1,None,3",
        "include_path": "/tasks",
        "model_revision": "4f2c",
    }
    assert eval_id(Row(every_column)) == "0e67dbde024ffb3c"


def test_a_row_that_was_changed_after_it_was_identified_is_refused() -> None:
    text = "model_path,task_path,n_shot,limit,eval_id\nacme/tiny,arc_easy,5,,\n"
    (row,) = csv_file.read_rows(io.StringIO(text), "jobs.csv")
    identified = manifest.identify_row(row)
    assert identified["eval_id"] == eval_id(row)
    assert manifest.identify_row(identified) == identified
    stale = text.replace("5,,", f"6,,{identified['eval_id']}")
    rows = list(csv_file.read_rows(io.StringIO(stale.replace("\n", "\n\n", 1)), "jobs.csv"))
    with pytest.raises(InputError) as error:
        manifest.identify_row(rows[0])
    expected = f"expected {eval_id(rows[0])}, got {identified['eval_id']!r}: the row was changed"
    assert str(error.value).startswith(f"jobs.csv:3: eval_id: {expected}")


# One model each, whatever its spelling; the first is the one whose eval_id stays as it was.
ONE_MODEL = [
    [
        "acme/a,trust_remote_code=true",
        "acme/a,trust_remote_code=True",
        "acme/a,trust_remote_code=TRUE",
    ],
    ["acme/a,x=false,y=None", "acme/a,y=none,x=False"],
    ["acme/a,revision=123123", 'acme/a,revision="123123"', "acme/a,revision='123123'"],
    [
        'acme/a,max_memory={"0": "10GiB", "1": "9GiB"}',
        'acme/a,max_memory={"1":"9GiB","0":"10GiB"}',
        'acme/a, max_memory = {"0":"10GiB" , "1":"9GiB"} ',
    ],
]


@pytest.mark.parametrize("spellings", ONE_MODEL)
def test_one_model_has_one_identity_and_one_load_however_it_is_spelled(
    spellings: list[str],
) -> None:
    rows = [Row({"model_path": text, "task_path": "t", "n_shot": "0"}) for text in spellings]
    assert len({eval_id(row) for row in rows}) == 1
    assert len({model_key(row) for row in rows}) == 1


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("do_sample=true", "do_sample=True"),
        ('until=["a","b"],top_k=1', '{"until": ["a", "b"], "top_k": 1}'),
        ('{"stop": null}', "stop=None"),
    ],
)
@pytest.mark.parametrize("column", ["gen_kwargs", "model_args"])
def test_arguments_have_one_identity_however_they_are_spelled(
    one: str, other: str, column: str
) -> None:
    rows = [Row({"model_path": "m", "task_path": "t", column: text}) for text in (one, other)]
    assert eval_id(rows[0]) == eval_id(rows[1])
    assert rows[0].value(column) == rows[1].value(column)


def test_a_structure_stays_one_and_a_name_stays_a_text() -> None:
    names = dict.fromkeys(("revision", "subfolder", "variant", "tokenizer", "peft"), "0123")
    texts = ",".join(f"{name}={text}" for name, text in names.items())
    row = Row({"model_path": f'a/b,max_memory={{"0":"10GiB"}},top=["x","y"],{texts}'})
    assert row.model_arguments == {"max_memory": {"0": "10GiB"}, "top": ["x", "y"], **names}


def test_a_row_keeps_the_identity_that_it_got_when_spellings_counted() -> None:
    row = Row({"model_path": "acme/a,trust_remote_code=True", "task_path": "t", "n_shot": "0"})
    old = row.with_cells(eval_id="d3fbc824c6d873d1")
    assert manifest.identify_row(old)["eval_id"] == "d3fbc824c6d873d1"
    assert manifest.identify_row(row)["eval_id"] != "d3fbc824c6d873d1"
    with pytest.raises(InputError, match="the row was changed"):
        manifest.identify_row(old.with_cells(task_path="u"))
