"""Secrets are removed from everything that is written, and refused in settings."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oellm.core.redaction import MARK, Redaction, secrets
from oellm.manifest import cells as manifest_cells
from support.processes import Run

# Examples take as long as a busy machine makes them take.
PATIENT = settings(deadline=None, max_examples=50)
HEADER = "model_path,task_path,n_shot"
HUB_TOKEN = "hf_" + "aB3" * 11
TEXT = st.text("ab\"\\/n'u0019\n\t\x7f\u00e9\u2028\U0001f600", min_size=8, max_size=12)
SECRETS = TEXT.filter(lambda text: len(text.strip()) >= 8).map(str.strip)


def values(secret: str) -> st.SearchStrategy[Any]:
    """JSON values with a secret, or JSON that holds one, among other texts and numbers."""
    texts = st.one_of(TEXT, st.just(secret), st.just(json.dumps({"x": secret})))
    leaves = st.one_of(texts, st.integers(), st.booleans(), st.none())
    return st.lists(st.dictionaries(texts, leaves, max_size=1) | leaves, max_size=4)


def flat(value: list[Any] | dict[str, Any]) -> list[Any]:
    return value if isinstance(value, list) else [part for item in value.items() for part in item]


@PATIENT
@given(st.data(), SECRETS, st.booleans())
def test_json_stays_json_and_loses_the_secret_alone(
    data: st.DataObject, secret: str, ascii_only: bool
) -> None:
    value = data.draw(values(secret))
    cleaned = json.loads(
        Redaction([secret]).redact_json(json.dumps(value, ensure_ascii=ascii_only).encode())
    )
    quoted = {spelled[1:-1] for spelled in (json.dumps(secret), repr(secret))} - {secret}

    def compare(found: Any, given: Any) -> None:
        if isinstance(given, str):
            is_quoted = any(spelling in given for spelling in quoted)
            assert MARK in found if is_quoted else found == given.replace(secret, MARK)
            assert secret not in found
        elif isinstance(given, (list, dict)):
            assert type(found) is type(given)
            for pair in zip(flat(found), flat(given), strict=True):
                compare(*pair)
        else:
            assert found == given

    compare(cleaned, value)


@PATIENT
@given(SECRETS, st.text(), st.text())
def test_a_text_keeps_what_is_around_a_secret(secret: str, before: str, after: str) -> None:
    cleaned = Redaction([secret]).redact(f"{before}\0{secret}\0{after}")
    assert f"\0{MARK}\0" in cleaned
    untouched = Redaction([secret]).redact(before)
    assert untouched == before or secret in before


def test_what_looks_like_a_token_of_the_hub_is_one() -> None:
    redact = Redaction([]).redact
    assert redact(f"at {HUB_TOKEN}.") == f"at {MARK}."
    assert redact("hf_hub_download of hf_" + "x" * 29) == "hf_hub_download of hf_" + "x" * 29
    # The longest first: what is left of a longer one would tell most of it.
    assert Redaction(["longsecret", "longsecret-and-more"]).redact("longsecret-and-more") == MARK


def test_secrets_are_known_by_the_names_of_their_variables(tmp_path: Path) -> None:
    secret = dict.fromkeys(
        [
            *("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "GITHUB_TOKEN", "OPENAI_API_KEY", "SLURM_JWT"),
            *("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "WANDB_API_KEY", "DB_PASSWORD"),
            *("CLIENT_SECRET_2", "npm_config__authToken"),
        ]
    )
    plain = ["HF_TOKEN_PATH", "TOKENIZERS_PARALLELISM", "AWS_DEFAULT_REGION", "SECRETS_DIR", "PATH"]
    environ = {name: f"value-of-{name}" for name in (*secret, *plain)}
    # Too short: a word of many texts.
    environ |= {"HOME": str(tmp_path), "A_TOKEN": "1", "B_TOKEN": " seven77\n"}
    assert set(secrets(environ)) == {f"value-of-{name}" for name in secret}


@pytest.mark.parametrize(
    ("variable", "place"),
    [
        ("HF_TOKEN_PATH", "my-token"),
        ("HF_HOME", "shared/token"),
        ("XDG_CACHE_HOME", "cache/huggingface/token"),
        ("HOME", "home/.cache/huggingface/token"),
    ],
)
def test_the_token_of_a_login_is_in_no_message(
    run: Run, tmp_path: Path, variable: str, place: str
) -> None:
    file = tmp_path / place
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("not-of-the-usual-form\n")
    up = {"HF_TOKEN_PATH": 0, "HF_HOME": 1, "XDG_CACHE_HOME": 2, "HOME": 3}[variable]
    env = {variable: str([file, *file.parents][up])}
    done = run("oe-detect", "--cluster=not-of-the-usual-form", env=env, status=2)
    assert MARK in done.stderr
    assert "usual" not in done.stderr


@pytest.mark.parametrize("debug", ["", "1"])
def test_no_message_of_a_command_shows_a_token(run: Run, tmp_path: Path, debug: str) -> None:
    env = {"WANDB_API_KEY": "0123456789abcdef", "OELLM_DEBUG": debug}
    (tmp_path / "m.csv").write_text(f"{HEADER}\na/b,t,0123456789abcdef{HUB_TOKEN}\n")
    shell = ["bash", "-c", "oe-render --cluster=local m.csv 2>&1 | sed s/Traceback/traceback/"]
    shown = run(*shell, env=env).stdout
    assert shown.endswith(f"n_shot: expected a non-negative integer, got '{MARK}{MARK}'\n")
    assert "0123456789abcdef" not in shown
    assert HUB_TOKEN not in shown
    assert ("traceback" in shown) == bool(debug)


WRITE = """
import os, sys
from pathlib import Path
from oellm.runs.result_store import ResultStore
secret = os.environ["OPENAI_API_KEY"]
store = ResultStore(Path(sys.argv[1]))
metrics = [{"task": "t", "metric": "acc", "filter": "none", "value": 0.12345678}]
row = {"model_path": "m", "task_path": "t", "note": secret}
ours = {"eval_id": "a", "status": "done", "metrics": metrics, "row": row}
assert store.write_result({"config": {secret: [secret]}, "oellm": ours}, {"t": [{"doc": secret}]})
failure = {"class": "KeyError", "traceback": f'File "x"\\n{secret!r}'}
store.write_failure({"oellm": {"eval_id": "b", "failure": failure}})
"""


# The second one begins as the end of an escape sequence, the third is also part of a number.
@pytest.mark.parametrize("secret", ['pass"word\\1\u00e9', "nabcdefgh", "12345678", HUB_TOKEN])
def test_no_file_of_a_row_has_a_secret(run: Run, tmp_path: Path, secret: str) -> None:
    run(sys.executable, "-c", WRITE, tmp_path / "run", env={"OPENAI_API_KEY": secret})
    result, failure, sample = (
        json.loads((tmp_path / "run" / name).read_text())
        for name in ("results/a.json", "failures/b.json", "samples/a.jsonl")
    )
    assert result["config"] == {MARK: [MARK]}
    assert result["oellm"]["row"]["note"] == MARK
    assert result["oellm"]["metrics"][0]["value"] == 0.12345678
    assert MARK in failure["oellm"]["failure"]["traceback"]
    assert sample == {"task": "t", "doc": MARK}


@pytest.mark.parametrize("argument", ["use_auth_token=True", "HF_Token=my-key", " token ="])
def test_all_names_of_tokens_are_refused_and_never_shown(argument: str) -> None:
    for column, text in (("model_args", argument), ("model_path", f"a/b,{argument}")):
        with pytest.raises(ValueError, match="expected no argument") as error:
            manifest_cells.parse_cell(column, text)
        assert "my-key" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("column", "cell", "name"),
    [
        ("model_path", f"a/b,dtype=float16,token={HUB_TOKEN}", "token"),
        ("model_args", "api_key=my-key", "api_key"),
        ("model_args", json.dumps({"hf_token": "my-key"}), "hf_token"),
    ],
)
def test_a_manifest_with_a_secret_is_refused_by_its_place(
    run: Run, tmp_path: Path, column: str, cell: str, name: str
) -> None:
    quoted = '"' + cell.replace('"', '""') + '"'
    cells = ("a/b", quoted) if column == "model_args" else (quoted, "")
    rows = f"{HEADER},model_args\na/b,t,0,\n{cells[0]},t,0,{cells[1]}\n"
    problem = f"expected no argument {name!r}: files would show it; "
    problem += "set the environment variable HF_TOKEN instead"
    done = run("oe-render", "--cluster=local", stdin=rows, status=2)
    assert done.stderr == f"oe-render: stdin:3: {column}: {problem}\n"
    assert not (tmp_path / "oellm-output").exists()
    options = ["--models", "a/b", "--tasks=t", "--unchecked_tasks"]
    options += ["--model_args", cell] if column == "model_args" else ["--models", cell]
    done = run("oe-manifest", *options, status=2)
    place = "model_args" if column == "model_args" else "--models"
    assert (done.stdout, done.stderr) == ("", f"oe-manifest: {place}: {problem}\n")
