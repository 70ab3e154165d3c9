"""The digest of a task changes with all that its scores depend on, and with nothing else."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest

from oellm.errors import InputError
from oellm.frameworks.lm_eval.tasks import create_tasks
from support.processes import DEMO_TASKS, INDICES

DATA = '{"text": "a", "split": "test"}\n'


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OELLM_CACHE_DIR", str(INDICES))
    directory = tmp_path / "tasks"
    (directory / "prompts").mkdir(parents=True)
    (directory / "base").write_text("output_type: generate_until\nrepeats: 1\n")
    (directory / "mine.yaml").write_text(
        "task: mine\n"
        "include: base\n"
        "tag: mine_tag\n"
        "dataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {tmp_path}/documents.jsonl}}}}\n"
        "test_split: test\n"
        'doc_to_text: "{{text}}"\n'
        "process_docs: !function helpers.clean\n"
        "metadata: {version: 2.0}\n"
    )
    (directory / "other.yaml").write_text(
        "task: other\ntag: mine_tag\ncustom_dataset: !function others.load\n"
        "metadata: {version: 3}\n"
    )
    (directory / "both.yaml").write_text("group: both\ntask: [mine, {task: other, repeats: 2}]\n")
    (directory / "helpers.py").write_text(
        "from pathlib import Path\n"
        "from prompts import wording\n"
        "HERE = Path(__file__).parent\n"
        "EXAMPLES = HERE / 'examples.json'\n"
        "LETTERS = HERE / 'data' / 'letters' / 'all.txt'\n"
        "def words(language):\n    return HERE / 'data' / f'words_{language}.txt'\n"
        "def signs(language):\n    return open('%s/signs/%s.csv' % (HERE, language))\n"
        "def clean(documents):\n    return documents\n"
    )
    (directory / "prompts" / "__init__.py").write_text("")
    (directory / "signs").mkdir()
    (directory / "data" / "letters").mkdir(parents=True)
    for name in ("data/letters/all.txt", "data/words_en.txt", "data/other.txt", "signs/de.csv"):
        (directory / name).write_text(name)
    (directory / "prompts" / "wording.py").write_text("TEXT = 'Question:'\n")
    (directory / "examples.json").write_text("[]")
    (directory / "others.py").write_text("def load(**_):\n    return {}\n")
    (tmp_path / "documents.jsonl").write_text(DATA)
    return directory


def digest(directory: Path, task: str = "mine") -> str:
    found = create_tasks(pytest.fail).task_digest(task, str(directory))
    assert len(found) == 16
    return found


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


def replace(path: Path, old: str, new: str) -> None:
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new))


SAME: dict[str, Callable[[Path], None]] = {
    "a comment": lambda at: append(at / "mine.yaml", "# a comment\n"),
    "a comment in an included file": lambda at: append(at / "base", "# a comment\n"),
    "the order of keys": lambda at: replace(
        at / "mine.yaml", "task: mine\ninclude: base\n", "include: base\ntask: mine\n"
    ),
    "another task": lambda at: append(at / "other.yaml", "repeats: 3\n"),
    "the code of another task": lambda at: append(at / "others.py", "A = 1\n"),
    "a new file": lambda at: (at / "new.py").write_text("A = 1\n") and None,
    "a file beside those that the code names": lambda at: append(at / "data" / "other.txt", "a"),
    "a new task": lambda at: (at / "new.yaml").write_text("task: new\n") and None,
    "the time of a file": lambda at: os.utime(at / "mine.yaml", (1, 1)),
}
DIFFERENT: dict[str, Callable[[Path], None]] = {
    "a prompt": lambda at: replace(at / "mine.yaml", "{{text}}", "{{text}}?"),
    "an included file": lambda at: replace(at / "base", "repeats: 1", "repeats: 2"),
    "the body of a function": lambda at: replace(at / "helpers.py", "return documents", "return 1"),
    "the name of a function": lambda at: replace(at / "mine.yaml", "helpers.clean", "helpers.neat"),
    "a module that the code imports": lambda at: replace(
        at / "prompts" / "wording.py", "Question", "Q"
    ),
    "a file that the code names": lambda at: append(at / "examples.json", " "),
    "a file in directories that the code names": lambda at: append(
        at / "data" / "letters" / "all.txt", "z"
    ),
    "one of the files that a name with a gap means": lambda at: append(
        at / "data" / "words_en.txt", "a"
    ),
    "another one in their directory": lambda at: append(at / "signs" / "de.csv", "!"),
    "data": lambda at: append(at.parent / "documents.jsonl", DATA),
    "data of the same size": lambda at: replace(at.parent / "documents.jsonl", '"a"', '"b"'),
    "the version": lambda at: replace(at / "mine.yaml", "2.0", "2.1"),
}


@pytest.mark.parametrize("change", SAME.values(), ids=SAME.keys())
def test_a_digest_stays_with(tasks: Path, change: Callable[[Path], None]) -> None:
    before = digest(tasks)
    change(tasks)
    assert digest(tasks) == before


@pytest.mark.parametrize("change", DIFFERENT.values(), ids=DIFFERENT.keys())
def test_a_digest_changes_with(tasks: Path, change: Callable[[Path], None]) -> None:
    before = digest(tasks)
    of_group, of_tag, of_other = (digest(tasks, name) for name in ("both", "mine_tag", "other"))
    change(tasks)
    assert digest(tasks) != before
    assert digest(tasks, "both") != of_group
    assert digest(tasks, "mine_tag") != of_tag
    assert digest(tasks, "other") == of_other


def test_an_empty_file_that_code_waits_for_is_no_data(tasks: Path) -> None:
    append(tasks / "helpers.py", "READY = Path(__file__).with_name('ready')\n")
    before = digest(tasks)
    (tasks / "ready").touch()
    assert digest(tasks) == before
    (tasks / "ready").write_text("data")
    assert digest(tasks) != before


def test_a_group_changes_with_what_it_overrides(tasks: Path) -> None:
    before = digest(tasks, "both")
    replace(tasks / "both.yaml", "repeats: 2", "repeats: 3")
    assert digest(tasks, "both") != before


def test_a_digest_does_not_depend_on_the_place(tasks: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    os.rename(tasks, elsewhere)
    moved = digest(elsewhere)
    os.rename(elsewhere, tasks)
    assert digest(tasks) == moved


def test_a_task_may_be_a_file(tasks: Path) -> None:
    found = create_tasks(pytest.fail)
    before = found.task_digest(str(tasks / "mine.yaml"), "")
    replace(tasks / "helpers.py", "return documents", "return 1")
    assert "" != before != found.task_digest(str(tasks / "mine.yaml"), "")
    assert found.task_version(str(tasks / "mine.yaml"), "") == "2.0"


def test_data_beside_the_code_that_loads_them_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OELLM_CACHE_DIR", str(INDICES))
    for path in DEMO_TASKS.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    before = digest(tmp_path, "oellm_choice"), digest(tmp_path, "oellm_prose")
    append(tmp_path / "oellm_choice.jsonl", "{}\n")
    after = digest(tmp_path, "oellm_choice"), digest(tmp_path, "oellm_prose")
    assert after[0] != before[0]
    assert after[1] == before[1]


def test_the_version_of_a_group_is_that_of_all_its_tasks(tasks: Path) -> None:
    found = create_tasks(pytest.fail)
    versions = [found.task_version(name, str(tasks)) for name in ("mine", "other", "both")]
    assert versions == ["2.0", "3", ""]
    replace(tasks / "other.yaml", "version: 3", "version: 2.0")
    assert create_tasks(pytest.fail).task_version("both", str(tasks)) == "2.0"


def test_nothing_is_run_or_waited_for(tasks: Path) -> None:
    (tasks / "helpers.py").write_text("raise SystemExit('it ran')\n")
    assert digest(tasks)
    os.mkfifo(tasks / "pipe.yaml")
    os.mkfifo(tasks / "pipe.jsonl")
    assert digest(tasks)
    # What cannot be read leaves the digest unknown.
    replace(tasks / "mine.yaml", f"{tasks.parent}/documents.jsonl", f"{tasks}/pipe.jsonl")
    assert create_tasks(pytest.fail).task_digest("mine", str(tasks)) == ""
    os.remove(tasks / "helpers.py")
    os.symlink("/dev/zero", tasks / "helpers.py")
    assert create_tasks(pytest.fail).task_digest("mine", str(tasks)) == ""


def test_very_many_data_files_leave_the_digest_of_the_code(tasks: Path) -> None:
    for number in range(600):
        (tasks / "data" / f"words_{number}.txt").write_text("a")
    before = digest(tasks)
    append(tasks / "helpers.py", "A = 1\n")
    assert digest(tasks) != before


def test_code_does_not_make_anybody_search_a_file_system(tasks: Path) -> None:
    deep = "/".join(["*"] * 30)
    append(
        tasks / "helpers.py", f"A = ['/usr/lib', '/usr/share', '{deep}/*.txt', '../{deep}.py']\n"
    )
    append(tasks / "helpers.py", "".join(f"B{n} = 'usr/*/*/*/{n}_*.so'\n" for n in range(2000)))
    (tasks / "loop").symlink_to("/")
    append(tasks / "helpers.py", "C = 'loop', 'usr', 'proc', 'sys', 'lib'\n")
    started = time.monotonic()
    assert digest(tasks)
    assert time.monotonic() - started < 5


def test_anchors_that_multiply_cost_nothing(tasks: Path) -> None:
    lines = ["task: bomb", "l0: &l0 [a, b, c, d, e, f, g, h, i]"]
    lines += [f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 40)]
    lines += ["dataset_path: json", "dataset_kwargs: {x: *l39}", "circle: &c [*c, {d: *c}]"]
    (tasks / "bomb.yaml").write_text("\n".join(lines))
    assert digest(tasks, "bomb")


def test_an_unknown_task_is_an_error(tasks: Path) -> None:
    create_tasks(print).require("arc_easy", "")
    with pytest.raises(InputError, match="did you mean mine"):
        create_tasks(pytest.fail).task_digest("minne", str(tasks))


def test_the_digest_of_a_shipped_task_needs_no_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OELLM_CACHE_DIR", str(tmp_path))
    # Neither does it take the time for one, nor does it say that one begins.
    assert create_tasks(pytest.fail).task_digest("arc_easy", "") == ""
    monkeypatch.setenv("OELLM_CACHE_DIR", str(INDICES))
    create_tasks(print).require("arc_easy", "")
    assert digest(Path(), "arc_easy") != digest(Path(), "arc_challenge")


YAML_TEXT = st.one_of(
    st.binary(max_size=200),
    st.text("tas k:[]{}&*!-\n\"'?#|>0123456789.<=,%@\t", max_size=200).map(str.encode),
    st.text("task: x\n&a*b[]{},- !function include:.y", max_size=300).map(str.encode),
)


@pytest.mark.slow
@hypothesis.settings(
    max_examples=100, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(config=YAML_TEXT, code=st.one_of(st.binary(max_size=80), st.text(max_size=80)))
def test_any_files_have_a_digest_or_none(tasks: Path, config: bytes, code: str | bytes) -> None:
    (tasks / "odd.yaml").write_bytes(config)
    written = code if isinstance(code, bytes) else code.encode("utf-8", "surrogatepass")
    (tasks / "helpers.py").write_bytes(written)
    found = create_tasks(pytest.fail)
    assert re.fullmatch("[0-9a-f]{16}|", found.task_digest("mine", str(tasks)))
    assert re.fullmatch("[0-9a-f]{16}", found.task_digest("other", str(tasks)))
    try:
        assert re.fullmatch("[0-9a-f]{16}|", found.task_digest(str(tasks / "odd.yaml"), ""))
    except InputError as error:
        assert "odd.yaml" in str(error)
