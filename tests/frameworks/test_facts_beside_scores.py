"""What a result says beside its scores: what they lack, and what they were made from and with."""

from __future__ import annotations

import math

from support.result_documents import OLD, read, result


def test_what_was_predicted_and_not_scored_is_a_note() -> None:
    values = {"alias": "arc", "bypass,none": 999, "bypass_stderr,none": "N/A"}
    (row,) = read({**result(model_args="pretrained=a/b"), "results": {"arc": values}})
    assert (row.scores, row.remarks) == ([], ())
    assert row.notes == ("arc was predicted, not scored",)


def test_what_has_no_number_is_a_remark_on_the_other_scores() -> None:
    values = {"acc,none": 0.5, "perplexity,none": math.inf, "f1,none": None}
    (row,) = read({**result(model_args="pretrained=a/b"), "results": {"arc": values}})
    assert row.tasks["arc"].remark == "perplexity is Infinity; f1 is null"
    assert row.remarks == ("perplexity of arc is Infinity", "f1 of arc is null")


def test_chosen_documents_are_no_whole_task() -> None:
    document = result(model_args="pretrained=a/b", limit=None)
    document["n-samples"] = {"arc": {"original": 10, "effective": 3}}
    (row,) = read(document)
    assert row.notes == ("arc: 3 chosen documents of 10 were evaluated",)
    assert row.row["documents"] == "chosen"
    assert row.tasks["arc"].remark == "3 chosen documents of 10 were evaluated"
    document["config"]["limit"] = 3.0
    (limited,) = read(document)
    assert (limited.notes, limited.row["limit"]) == ((), "3")


def test_results_say_what_they_were_computed_from_and_with() -> None:
    document = result(
        model="hf", model_args="pretrained=a/b", model_sha="c" * 40, model_dtype="torch.bfloat16"
    )
    document |= {
        "versions": {"arc": 2.0},
        "task_hashes": {"arc": "d" * 64},
        "lm_eval_version": "0.4.9",
        "chat_template": "{{x}}",
        "chat_template_sha": "e" * 64,
        "pretty_env_info": "PyTorch version: 2\nGPU 0: NVIDIA A100\nGPU 1: NVIDIA A100\n",
    }
    (row,) = read(document)
    assert (row.contents.model, row.contents.chat_template) == ("c" * 40, "e" * 16)
    assert row.environment == ("0.4.9", "hf", "bfloat16", "NVIDIA A100", "")
    assert row.tasks == {"arc": ("2.0", "d" * 64, "")}
    assert {row.tasks["piqa"].version for row in read(OLD)[:1]} == {"0"}
