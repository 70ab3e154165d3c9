"""What a row costs: guesses that grow with the work, and measured times before guesses."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oellm.manifest.rows import Row, check_row
from oellm.models.sizes import UNKNOWN, ModelSizes, count_parameters
from oellm.plan.costs import CostModel, Estimate
from oellm.plan.measured_rates import Measurement
from support.model_directories import write_model

COUNTS = st.integers(0, 10**20).map(str)
LIMITS = st.one_of(st.just(""), st.integers(1, 10**12).map(str), st.floats(1e-9, 0.9).map(str))
TYPES = ("loglikelihood", "loglikelihood_rolling", "generate_until", "of_another_framework")
CELLS = {
    "model_path": st.sampled_from(["acme/tiny-7b", "acme/tiny", "/no/such/model", "a/b,dtype=fp8"]),
    "task_path": st.sampled_from(["arc_easy", "mmlu", "/t/own.yaml"]),
    "n_shot": st.one_of(st.just(""), st.integers(0, 10**4).map(str)),
    "backend": st.sampled_from(["", "hf", "vllm"]),
    "dtype": st.sampled_from(["", "float32", "bfloat16", "auto"]),
    "tp": st.sampled_from(["", "1", "4", "64"]),
    "limit": LIMITS,
    "batch_size": st.sampled_from(["", "1", "32", "auto:4"]),
    "gen_kwargs": st.sampled_from(["", "max_gen_toks=9", '{"max_new_tokens": 7}', "max_tokens=-1"]),
    "model_bytes": st.one_of(st.just(""), COUNTS),
    "n_docs": st.one_of(st.just(""), COUNTS),
    "n_requests": st.one_of(st.just(""), COUNTS),
    "request_types": st.one_of(
        st.sampled_from(["", "what?", "loglikelihood=", "generate_until=1,loglikelihood=400"]),
        st.builds("{}={}".format, st.sampled_from(TYPES), COUNTS),
    ),
}
ROWS = st.fixed_dictionaries(CELLS).map(Row).map(check_row)
GROWING = ("n_docs", "n_requests", "n_shot", "model_bytes", "limit")


def row(**cells: object) -> Row:
    common = {"model_path": "acme/tiny", "task_path": "arc_easy", "n_shot": "0"}
    sizes = {"model_bytes": 10**9, "n_docs": 100, "n_requests": 400}
    types = {"request_types": "loglikelihood=400"}
    given = {**common, **sizes, **types, **cells}
    return check_row(Row({name: str(value) for name, value in given.items()}))


def measured(of: Row, scoring_s: float, **fields: object) -> Measurement:
    one = Measurement(of, "A100", "leonardo", "2026-01-01", scoring_s, 0.0, 0.0, 0.0, 0.0)
    return one._replace(**fields)  # type: ignore[arg-type]


MEASUREMENTS = st.builds(
    measured,
    st.builds(
        row,
        n_requests=st.integers(1, 10**6),
        n_docs=st.integers(1, 10**5),
        limit=LIMITS,
        model_bytes=st.integers(1, 10**11),
        model_path=CELLS["model_path"],
        task_path=CELLS["task_path"],
    ),
    st.floats(0, 1e5),
    load_s=st.floats(0, 1e3),
    start_s=st.floats(0, 1e3),
    gpu=st.sampled_from(["A100", "MI250X"]),
    finished=st.sampled_from(["2026-01-01", "2026-01-02"]),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(MEASUREMENTS, max_size=5), ROWS)
def test_every_row_has_an_estimate_and_always_the_same(times: list[Measurement], one: Row) -> None:
    costs = CostModel(times, "leonardo")
    estimate = costs.row(one)
    for seconds in (estimate.seconds, costs.load(one), costs.start_s):
        assert math.isfinite(seconds)
        assert seconds > 0
    assert estimate.basis in {"measured", "calibrated", "guessed"}
    again = CostModel(times, "leonardo")
    assert (estimate, costs.load(one)) == (again.row(one), again.load(one))


@given(ROWS, st.sampled_from(GROWING), st.integers(1, 10**9), st.integers(1, 10**9))
def test_more_work_is_never_cheaper(one: Row, column: str, less: int, more: int) -> None:
    costs = CostModel()
    if column == "n_shot":
        less, more = (1 + number % 10**4 for number in (less, more))
    small, large = (one.with_cells(**{column: str(n)}) for n in sorted((less, more)))
    assert costs.row(small).seconds <= costs.row(large).seconds
    assert costs.load(small) <= costs.load(large)


@given(ROWS, st.sampled_from(TYPES), st.integers(0, 10**9), st.integers(0, 10**9))
def test_more_requests_of_a_type_are_never_cheaper(
    one: Row, kind: str, less: int, more: int
) -> None:
    small, large = (one.with_cells(request_types=f"{kind}={n}") for n in sorted((less, more)))
    costs = CostModel()
    assert costs.row(small).seconds <= costs.row(large).seconds


def test_each_part_of_the_work_counts() -> None:
    def seconds(**cells: object) -> float:
        return CostModel().row(row(**cells)).seconds

    usual = seconds()
    assert seconds(request_types="loglikelihood=4000") > 5 * usual
    assert seconds(n_shot=25) > usual
    assert seconds(model_bytes=10**11, n_shot=5) > 20 * usual
    assert seconds(request_types="loglikelihood_rolling=400") > usual
    assert seconds(request_types="generate_until=400") > 50 * usual
    assert seconds(request_types="generate_until=400", gen_kwargs="max_gen_toks=8") < 20 * usual
    assert seconds(batch_size=32) < usual
    assert seconds(dtype="float32", n_shot=25) > seconds(n_shot=25)
    uncounted = {"n_docs": "", "n_requests": "", "request_types": ""}
    assert seconds(**uncounted, limit=10) < usual < seconds(**uncounted)
    assert seconds(**uncounted, limit=0.5) < seconds(**uncounted)


def test_a_measured_time_replaces_the_guess_also_with_another_limit() -> None:
    like = row(limit=100, n_docs=100, n_requests=400)
    times = [measured(like, seconds) for seconds in (38.0, 40.0, 900.0)]
    costs = CostModel(times, "leonardo")
    assert costs.row(like)[:2] == (40.0, "measured")
    assert costs.row(row(model_bytes=1_150_000_000))[:2] == (40.0, "measured")
    # One of the 40 seconds is the first batch, which does not depend on the requests.
    assert costs.row(row(n_requests=800, request_types=""))[:2] == (79.0, "measured")
    uncounted = {"n_docs": "", "n_requests": "", "request_types": ""}
    assert costs.row(row(limit=100, **uncounted))[:2] == (40.0, "measured")
    assert costs.row(row(limit=50, **uncounted))[:2] == (20.5, "measured")
    # The 2000 documents are guessed; the four requests for each of them are not.
    assert costs.row(row(**uncounted))[:2] == (781.0, "measured")
    others: list[dict[str, object]] = [
        {"model_bytes": 2 * 10**9},
        {"n_shot": 5},
        {"task_path": "arc_challenge"},
        {"backend": "vllm"},
        {"tp": 2},
    ]
    for other in others:
        assert costs.row(row(**other)).basis == "calibrated"


def test_other_work_runs_beside_scoring() -> None:
    slow = measured(row(), 10.0, building_s=30.0, beside_s=50.0)
    costs = CostModel([slow], "leonardo")
    assert costs.row(row()).seconds == 40.0
    # The task is built once, however few requests there are.
    assert costs.row(row(request_types="loglikelihood=4")).seconds == 15.25


def test_guesses_are_scaled_by_what_was_measured_on_this_gpu() -> None:
    many = {"request_types": "loglikelihood=400000", "n_requests": 400000}
    other = row(task_path="hellaswag", model_bytes=5 * 10**9, **many)
    guess = CostModel().row(other)
    assert guess.basis == "guessed"

    def calibrated(times: list[Measurement], one: Row = other) -> Estimate:
        return CostModel(times, "leonardo").row(one)

    once, twice = ([measured(row(**many), seconds)] for seconds in (600.0, 1200.0))
    fixed = 2 * calibrated(once)[0] - calibrated(twice)[0]
    assert calibrated(once)[1] == "calibrated"
    assert abs(fixed) < 10
    # One run that was slowed down by something else does not count.
    assert calibrated([*once * 2, measured(row(**many), 1e6)]) == calibrated(once)
    generating = row(task_path="gsm8k", request_types="generate_until=400")
    assert calibrated(once, generating) == CostModel().row(generating)
    elsewhere = once[0]._replace(gpu="MI250X", cluster="lumi", finished="2027")
    assert calibrated([elsewhere]) == guess
    assert calibrated([elsewhere, *once]) == calibrated(once)
    same_gpu = [measured(row(task_path="piqa"), 1.0), other_of(once[0])]
    assert calibrated(same_gpu, row(**many))[:2] == (600.0, "measured")


def other_of(one: Measurement) -> Measurement:
    """Return the measurement as it is on another cluster with the same GPU."""
    return one._replace(cluster="jureca")


def test_the_gpu_of_a_cluster_is_that_of_its_latest_measurement() -> None:
    old = measured(row(), 40.0)
    new = measured(row(task_path="piqa"), 1.0, gpu="H100", finished="2026-06")
    assert CostModel([new, old], "leonardo").row(row()).basis == "calibrated"
    assert (
        CostModel([new._replace(finished="2025"), old], "leonardo").row(row()).basis == "measured"
    )


def test_counts_of_a_task_are_taken_from_any_model_and_cluster() -> None:
    uncounted = row(n_docs="", n_requests="", request_types="")
    elsewhere = measured(row(model_bytes=10**11), 5000.0, cluster="lumi")
    assert CostModel([elsewhere], "leonardo").row(uncounted) == CostModel().row(row())


def test_loading_and_starting_are_measured_too() -> None:
    times = [measured(row(), 1.0, load_s=seconds, start_s=8.0) for seconds in (20.0, 30.0, 90.0)]
    costs = CostModel([*times, measured(row(), 1.0)], "leonardo")
    assert costs.start_s == 8.0
    assert costs.load(row()) == 30.0
    larger, guess = row(model_bytes=10**11), CostModel().load
    assert costs.load(larger) / guess(larger) == pytest.approx(30 / guess(row()))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("EleutherAI/pythia-160m", 160e6),
        ("meta-llama/Llama-3.1-8B", 8e9),
        ("/m/open-sci-ref-v0.01-1.7b-nemotron-300B-4096/hf/iter_0001000", 1.7e9),
        ("mistralai/Mixtral-8x7B-v0.1", 56e9),
        ("Qwen/Qwen3-30B-A3B", 30e9),
        ("/models/tiny/iter_0001000", None),
        ("/models/tiny/step1000-tokens4B", None),
        ("acme/b2b", None),
    ],
)
def test_the_name_of_a_model_says_its_size(path: str, expected: float | None) -> None:
    assert count_parameters(path) == expected


def test_the_size_of_a_model_is_known_by_column_name_or_files(tmp_path: Path) -> None:
    sizes = ModelSizes()
    bare = {"model_bytes": ""}
    assert sizes.size(row(model_path="acme/m-7b")) == 10**9
    assert sizes.size(row(model_path="acme/m-7b", **bare)) == 14 * 10**9
    assert sizes.size(row(model_path="acme/m-7b,dtype=float32", **bare)) == 28 * 10**9
    assert sizes.size(row(**bare)) == sizes.size(row(model_path="/gone", **bare)) == UNKNOWN
    directory = write_model(tmp_path / "own")
    of_files = sum(path.stat().st_size for path in directory.iterdir())
    assert sizes.size(row(model_path=directory, **bare)) == of_files
    (directory / "model.safetensors").unlink()
    assert sizes.size(row(model_path=directory, **bare)) == of_files


def counted(documents: int, **cells: object) -> Row:
    """Return a row with this number of documents of four requests each."""
    types = f"loglikelihood={4 * documents}"
    return row(n_docs=documents, n_requests=4 * documents, request_types=types, **cells)


def test_an_estimate_says_whether_anybody_has_counted_the_documents() -> None:
    uncounted: dict[str, object] = {"n_docs": "", "n_requests": "", "request_types": ""}
    assert CostModel().row(row()).is_counted
    assert CostModel().row(row(**uncounted, limit=10)).is_counted
    assert not CostModel().row(row(**uncounted)).is_counted
    whole = measured(counted(3000), 100.0, cluster="lumi")
    few = measured(counted(10, limit=10), 2.0, cluster="lumi")
    for times in ([whole], [whole, few], [few, whole]):
        costs = CostModel(times)
        assert costs.row(row(**uncounted)).is_counted
        assert costs.row(row(**uncounted, limit=0.2)) == costs.row(counted(600, limit=0.2))
    assert not CostModel([few]).row(row(**uncounted)).is_counted
