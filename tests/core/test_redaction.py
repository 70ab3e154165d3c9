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
            *("CLIENT_SECRET_2", "npm_config__authToken", "DB_PASS", "MYSQL_PWD"),
            *("AZURE_CREDENTIALS", "STORAGE_CONNECTION_STRING", "SLACK_WEBHOOK_URL"),
        ]
    )
    plain = ["HF_TOKEN_PATH", "TOKENIZERS_PARALLELISM", "AWS_DEFAULT_REGION", "SECRETS_DIR", "PATH"]
    environ = {name: f"value-of-{name}" for name in (*secret, *plain)}
    # Too short: a word of many texts.
    environ |= {"HOME": str(tmp_path), "A_TOKEN": "1", "B_TOKEN": " seven77\n"}
    assert set(secrets(environ)) == {f"value-of-{name}" for name in secret}


def test_a_key_is_known_by_a_word_of_its_name_unless_its_value_is_a_word() -> None:
    random = "aB3-x9Y2-kLm4"
    hidden = ["OPENAI_KEY", "SSH_KEY", "KEY", "OPENAI_KEY_2", "MY_KEYS", "openaiKey", "DEPLOYKEY"]
    plain = ["KEYBOARD", "MONKEY", "XKB_KEYMAP", "GNOME_KEYRING_CONTROL", "KEYTIMEOUT", "TURKEY"]
    environ = {name: f"{random}-{name}" for name in (*hidden, *plain)}
    environ |= {"SORT_KEY": "accuracy", "ID_KEY": "123456789", "SSH_KEY_PATH": random}
    environ["GIT_KEY"] = "/home/me/.ssh/id_rsa"
    assert set(secrets(environ)) == {f"{random}-{name}" for name in hidden}


def test_a_doubtful_name_hides_no_name_of_a_project_and_no_path() -> None:
    hidden = {"MY_TOKENS": "aB3dE6gH9kaB3dE6", "PROJECT_KEY": "aB3-x9Y2-kLm4-Zt7"}
    plain = {
        "PROJECT_KEY_2": "laion-2024",
        "TEAM_KEY": "laion-multilingual-2024-10",
        "RUN_KEY": "laion400m-en",
        "MAX_TOKENS": "1234567890",
        "FIRST_PASS": "true",
        "PWD": "/p/scratch/laion2b",
        "OLDPWD": "/p/scratch/laion2b/m1",
        "BYPASS": "aB3dE6gH9k",
        "GOOGLE_APPLICATION_CREDENTIALS": "/p/home/me/key1.json",
    }
    assert set(secrets({**hidden, **plain})) == set(hidden.values())


def test_each_line_of_a_private_key_is_a_secret() -> None:
    lines = ["b3BlbnNzaC1rZXktdjEAAAAA", "QyNTUxOQAAACDq4bgTmbcb"]
    key = "\n".join(["-----BEGIN OPENSSH PRIVATE KEY-----", *lines, "-----END-----"])
    redact = Redaction(secrets({"SSH_KEY": key})).redact
    assert redact(f"{key}!") == f"{MARK}!"
    assert redact(f"> {lines[0]}\n> {lines[1]}\n") == f"> {MARK}\n> {MARK}\n"


def test_the_password_of_a_url_is_a_secret_however_short() -> None:
    environ = {"DATABASE_URL": "postgres://u:PW@h/x", "http_proxy": "http://me:longerpw1@proxy:80"}
    redact = Redaction(secrets(environ)).redact
    assert redact("connect postgres://u:PW@h/x") == f"connect postgres://{MARK}/x"
    assert redact("longerpw1 of http://me:longerpw1@proxy:80/") == f"{MARK} of http://{MARK}/"
    assert redact("u:PW, PW@home") == "u:PW, PW@home"
    assert Redaction([]).redact("mongodb://a:b1c2@db.x/t") == f"mongodb://a:{MARK}@db.x/t"


LETTERS = "aB3dE6gH9k"


@pytest.mark.parametrize(
    "token",
    [
        *(f"hf_{LETTERS * 4}", f"api_org_{LETTERS * 4}", f"sk-{LETTERS * 5}"),
        *(f"sk-proj-{LETTERS * 3}_{LETTERS}-x", f"sk-ant-api03-{LETTERS * 3}-{LETTERS}"),
        *(f"ghp_{LETTERS * 4}", f"gho_{LETTERS * 4}", f"github_pat_{LETTERS * 3}_{LETTERS * 5}"),
        *(f"glpat-{LETTERS * 2}", f"wandb_v1_{LETTERS * 4}", f"local-{'0123456789abcdef' * 3:.40}"),
        *(f"xoxb-123456789012-{LETTERS * 2}", "AKIAIOSFODNN7EXAMPLE", f"AIza{LETTERS * 3}abcde"),
        f"eyJ{LETTERS}a.eyJ{LETTERS}b.{LETTERS}",
    ],
)
def test_tokens_are_known_by_their_form(token: str) -> None:
    redaction = Redaction([])
    assert redaction.redact(f"x={token}, y") == f"x={MARK}, y"
    found = json.loads(redaction.redact_json(json.dumps({"a": [f'"{token}"']}).encode()))
    assert found == {"a": [f'"{MARK}"']}


ORDINARY = [
    *("KEYBOARD", "MONKEY", "key", "api key", "the key to the door", "api_key=", "password"),
    *("sk-learn-based-classification-with-trees", "disk-0123456789abcdefghij", "task-1234567890"),
    *(
        "0123456789abcdef0123456789abcdef01234567",
        "hf_hub_download",
        "local-models",
        "ghost_writer",
    ),
    *("https://user:password@example.com/a?b=c:d@e", "key=value", "tokenizer", "secretary", "eyJ"),
    *("git@github.com:acme/x.git", "a:b@c", "org/name@0123456", "http://[::1]:80/", "github_path"),
    *("AKIA", "xoxo-hugs", "postgres://localhost:5432/db", "sk-SK", "SK-1234567890123456789012345"),
]


@PATIENT
@given(st.lists(st.sampled_from(ORDINARY) | st.text(), max_size=9), st.sampled_from(' \n,"/'))
def test_ordinary_texts_stay_as_they_are(parts: list[str], between: str) -> None:
    environ = {
        "KEYBOARD": "us-intl-qwerty",
        "MONKEY": "banana-1234",
        "SORT_KEY": "password",
        "PATH": "/usr/bin:/bin",
        "HOME": "/none",
        "PUBLIC_URL": "https://x.org/key",
        "TOKEN": "",
    }
    redaction = Redaction(secrets(environ))
    text = between.join(parts)
    assert redaction.redact(text) == text
    data = json.dumps({text: [text]}).encode()
    assert redaction.redact_json(data) == data


@pytest.mark.parametrize(
    ("setting", "column"),
    [
        ('env={"OPENAI_KEY": "sk-x1"}', "env"),
        ('env={"DATABASE_URL": "postgres://u:pw1@h/x"}', "env"),
        (f'env={{"X": "{HUB_TOKEN}"}}', "env"),
        (f'setup=["export X={HUB_TOKEN}"]', "setup"),
        ('setup=["curl https://me:pw1@host"]', "setup"),
    ],
)
def test_a_setting_with_a_secret_is_refused_and_never_shown(
    run: Run, setting: str, column: str
) -> None:
    done = run("oe-detect", "--cluster=local", "--set", setting, status=2)
    assert f"{column}: expected no " in done.stderr
    assert not {"sk-x1", "pw1", HUB_TOKEN} & set(done.stderr.replace(":", " ").split())


def test_settings_may_name_keys_and_variables_of_the_shell(run: Run) -> None:
    settings = ('env={"KEYBOARD": "us-1", "SORT_KEY": "name"}', 'setup=["curl https://u:$P@h"]')
    run("oe-detect", "--cluster=local", *(f"--set={text}" for text in settings))


@pytest.mark.parametrize(
    ("variable", "place"),
    [
        ("HF_TOKEN_PATH", "my-token"),
        ("HF_HOME", "shared/token"),
        ("XDG_CACHE_HOME", "cache/huggingface/token"),
        ("HOME", "home/.cache/huggingface/token"),
        ("HOME", "home/.netrc"),
    ],
)
def test_the_token_of_a_login_is_in_no_message(
    run: Run, tmp_path: Path, variable: str, place: str
) -> None:
    file = tmp_path / place
    file.parent.mkdir(parents=True, exist_ok=True)
    is_netrc = place.endswith(".netrc")
    password = "machine api.wandb.ai\n  login user\n  password " if is_netrc else ""
    file.write_text(f"{password}not-of-the-usual-form\n")
    up = place.count("/") if variable != "HF_TOKEN_PATH" else 0
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
