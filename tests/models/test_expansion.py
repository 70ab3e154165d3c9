"""Models: cells, lists of cells, checkpoints and their training steps."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oellm.manifest.checkpoint_names import StepNames, natural_key, training_run, training_step
from oellm.manifest.model_spec import ModelSpec, split_models

# Examples take as long as a busy machine makes them take.
PATIENT = settings(deadline=None)
# Texts that a cell keeps unchanged: without commas, blanks at the ends, or = in a name.
PART = st.text("aZ09/._-=:{}[] '\n\t\u00e9", max_size=9).map(str.strip)
NAME = st.sampled_from(["revision", "dtype", "_x", "B2"])
ARGUMENTS = st.dictionaries(NAME, PART).map(lambda found: tuple(found.items()))
SPECS = st.builds(ModelSpec, PART.filter(bool), ARGUMENTS)
HUB_IDS = st.sampled_from(["acme/tiny", "EleutherAI/pythia-160m", "gpt2", "a/b-c_d.3"])


@PATIENT
@given(SPECS)
def test_a_model_is_the_same_after_it_was_a_cell(spec: ModelSpec) -> None:
    known = ModelSpec.parse(str(spec))
    assert ModelSpec.parse(str(known)) == known
    assert known.path == spec.path


@PATIENT
@given(st.text(max_size=9).filter(str.strip), st.text("aZ09/,=\"'{}[] \n", max_size=9))
def test_any_path_and_any_name_of_a_revision_can_be_said_in_a_cell(path: str, name: str) -> None:
    spec = ModelSpec(path, (("revision", name), ("dtype", "float16")))
    assert ModelSpec.parse(str(spec)) == spec


@PATIENT
@given(
    st.lists(st.builds(ModelSpec, HUB_IDS, ARGUMENTS), min_size=1, max_size=4),
    st.sampled_from([",", ", ", ",,", " , "]),
)
def test_a_list_of_models_keeps_each_models_arguments(
    specs: list[ModelSpec], separator: str
) -> None:
    assert split_models(separator.join(map(str, specs))) == specs


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("acme/tiny", [("acme/tiny", {})]),
        (
            "EleutherAI/pythia-160m,revision=step1000,dtype=float16,acme/tiny",
            [
                ("EleutherAI/pythia-160m", {"revision": "step1000", "dtype": "float16"}),
                ("acme/tiny", {}),
            ],
        ),
        # A value may have an equals sign; a path may too, since a name has no slash or dot.
        ("/m/lr=3e-4,chat_template_args=a=b", [("/m/lr=3e-4", {"chat_template_args": "a=b"})]),
        ("./lr=1/a,./lr=2/b", [("./lr=1/a", {}), ("./lr=2/b", {})]),
        ("a/b,trust_remote_code=", [("a/b", {"trust_remote_code": ""})]),
        ("", []),
        (" , ", []),
    ],
)
def test_a_piece_of_the_form_key_value_belongs_to_the_model_before_it(
    text: str, expected: list[tuple[str, dict[str, str]]]
) -> None:
    assert [(spec.path, dict(spec.arguments)) for spec in split_models(text)] == expected


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("acme/tiny,float16", "expected key=value after the model's path, got 'float16'"),
        ("acme/tiny,=float16", "expected key=value after the model's path, got '=float16'"),
        ("acme/tiny,", "expected key=value after the model's path, got ''"),
        (",dtype=float16", "expected a model path or hub id, got ',dtype=float16'"),
        ("a/b,x=1,x=2", "expected each model argument once, got 'a/b,x=1,x=2'"),
    ],
)
def test_a_cell_that_is_no_model_is_refused(cell: str, message: str) -> None:
    with pytest.raises(ValueError, match="expected") as error:
        ModelSpec.parse(cell)
    assert str(error.value) == message


NUMBERS = st.lists(st.integers(0, 10**9), unique=True, max_size=9)


@PATIENT
@given(NUMBERS, st.sampled_from(["iter_{}", "{}-b", "a/{}"]))
def test_names_that_differ_in_a_number_sort_by_it(numbers: list[int], name: str) -> None:
    names = [name.format(number) for number in numbers]
    assert sorted(names, key=natural_key) == [name.format(number) for number in sorted(numbers)]


IN_ORDER = ["", "2", "10", "a", "a/b", "a2/iter_3", "a2/iter_3b"]
# The checkpoints of a directory stay together, although a010 and a10 are the same number.
IN_ORDER += ["a010/iter_4", "a10/iter_3", "a10/iter_04", "a10/iter_4", "a-b"]
IN_ORDER += ["a\u00b2", "b\u0663", "\u0663"]


@PATIENT
@given(st.permutations(IN_ORDER))
def test_names_of_all_kinds_have_one_order(names: list[str]) -> None:
    assert sorted(names, key=natural_key) == IN_ORDER


@PATIENT
@given(st.lists(st.text("a01/\u0663"), unique=True))
def test_no_two_paths_are_equal_in_order(paths: list[str]) -> None:
    keys = sorted(map(natural_key, paths))
    assert all(first < second for first, second in pairwise(keys))


@pytest.mark.parametrize(
    ("path", "revision", "step"),
    [
        ("/m/iter_0001000", "", 1000),
        ("/m/iter_10000", "", 10000),
        ("/m/step100000", "", 100000),
        ("/m/global_step500", "", 500),
        ("/m/checkpoint-500", "", 500),
        ("/m/tiny-checkpoint-500", "", 500),
        ("EleutherAI/pythia-160m", "step143000", 143000),
        ("allenai/OLMo-7B", "step1000-tokens4B", 1000),
        ("allenai/OLMo-2-7B", "stage1-step2000-tokens9B", 2000),
        # The revision before the path, and the last directory before those above it.
        ("/m/iter_5", "step7", 7),
        ("/m/iter_5", "main", 5),
        ("/step1/iter_5/hf", "", 5),
        # A unit ends the name; other letters are no units.
        ("allenai/OLMo-7B", "step-100k", 100_000),
        ("/m/iter_20K", "", 20_000),
        ("/m/checkpoint-3M/hf", "", 3_000_000),
        ("/m/step1B", "", 1_000_000_000),
        ("allenai/OLMo-7B", "step-100k-tokens4B", 100_000),
        # Lightning, Composer, NeMo, OLMo, torchtitan, verl, MaxText.
        ("/m/epoch=3-step=12000", "", 12_000),
        ("/m/epoch=3-step=12000-v1.ckpt", "", 12_000),
        ("/m/step=1000", "", 1000),
        ("/m/ep0-ba1000", "", 1000),
        ("/m/ep0-ba1000-rank0.pt", "", 1000),
        ("/m/gpt--val_loss=2.52-step=1000-consumed_samples=8000.0", "", 1000),
        ("/m/gpt--val_loss=0.00-epoch=1-step=1000-last", "", 1000),
        ("/m/step1000-unsharded", "", 1000),
        ("/m/step-1000", "", 1000),
        ("/m/global_step100/actor/huggingface", "", 100),
        ("/m/checkpoints/1000/items", "", 1000),
        ("/m/ckpt_1000", "", 1000),
        ("org/m-Step-1000", "", 1000),
        ("org/m-CKPT-1000", "", 1000),
        ("/m/Checkpoint-1000", "", 1000),
        ("/m/model.ckpt-1000", "", 1000),
        # Neither steps nor clear: units of nothing, tokens, dates, two numbers, another model.
        ("/m/step_100b", "", None),
        ("/m/iter_100kB", "", None),
        ("/m/step_1.5k", "", None),
        ("/m/v1anneal_120k", "", None),
        ("/m/4B", "", None),
        ("/m/1000", "", None),
        ("/m/checkpoints/20241201", "", None),
        ("/m/checkpoint-20241201", "", None),
        ("/m/step1000-iter2000", "", None),
        ("/m/step1000/sft/final", "", None),
        # Numbers of parameters, and models that are called Step.
        ("org/m-BA12B", "", None),
        ("/r/ckpt-7B", "", None),
        ("org/m-CKPT-7B", "", None),
        ("openlm/iter4B", "", None),
        ("org/m-BA12", "", None),
        ("stepfun-ai/step3", "", None),
        ("/models/stepfun-ai/Step3", "", None),
        ("/models/stepfun-ai--Step3", "", None),
        ("/models/Step-2-16k", "", None),
        ("org/Step-2-16k", "", None),
        # Numbers of other things.
        ("meta-llama/Llama-3.2-1B", "", None),
        ("acme/footstep100", "", None),
        ("acme/steps-100", "", None),
        ("/m/final", "v1.0", None),
        ("acme/tiny", "", None),
    ],
)
def test_the_training_step_is_read_from_the_revision_or_the_path(
    path: str, revision: str, step: int | None
) -> None:
    assert training_step(path, revision) == step


@pytest.mark.parametrize(
    ("model", "run"),
    [
        ("/evals/run-a/iter_0001000", "/evals/run-a"),
        ("/evals/run-a/iter_0001000/", "/evals/run-a"),
        ("/evals/run-a/iter_0001000/hf,dtype=float16", "/evals/run-a/hf,dtype=float16"),
        ("/evals/run-a-step1000-tokens4B", "/evals/run-a"),
        ("/step1000", "/step1000"),
        ("step1000", "step1000"),
        ("org/a,revision=step1000-tokens4B,dtype=float16", "org/a,dtype=float16"),
        ("org/a-step5,revision=main", "org/a,revision=main"),
        ("/evals/a/epoch=3-step=12000", "/evals/a"),
        ("/evals/a/ep0-ba1000", "/evals/a"),
        ("/evals/a/step1000/sft/final", "/evals/a/step1000/sft/final"),
        ("org/a,revision=main", "org/a,revision=main"),
    ],
)
def test_checkpoints_of_a_training_run_share_its_name(model: str, run: str) -> None:
    assert training_run(model) == run


@pytest.mark.parametrize(
    ("model", "step", "run"),
    [
        ("/evals/a/v1anneal_120k", 120_000, "/evals/a/v1anneal"),
        ("/evals/a/v1anneal_120k", 120, "/evals/a/v1anneal"),
        ("/evals/a/1000", 1000, "/evals/a"),
        ("/evals/a/other", 1000, "/evals/a/other"),
        # Records of other tools may name models as no cell can.
        ("run a, b", 1000, "run a, b"),
        ("", 1000, ""),
    ],
)
def test_a_step_that_a_column_tells_is_no_part_of_the_runs_name(
    model: str, step: int, run: str
) -> None:
    assert training_run(model, step) == run


@pytest.mark.parametrize(
    ("pattern", "path", "step"),
    [
        (r"anneal_(\d+k)", "/m/v1anneal_120k", 120_000),
        (r"anneal_(\d+)", "/m/v1anneal_120k", 120),
        (r"\d+(?=tok)", "/m/5tok", 5),
        (r"_([\d.]+k)", "/m/step_1.5k", 1500),
        (r"x(\d+)", "/x1/x2", 2),
        (r"x(\d+)", "/m/iter_5", None),
    ],
)
def test_a_pattern_reads_steps_of_other_names(pattern: str, path: str, step: int | None) -> None:
    assert StepNames(pattern).step(path) == step
