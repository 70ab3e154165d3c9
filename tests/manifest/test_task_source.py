"""The texts of include_path: what is one source, what are several, and what is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from oellm.manifest.locations import locate_row
from oellm.manifest.rows import Row, eval_id
from oellm.manifest.task_source import TaskSource, join_sources, parse_sources, without_commits

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_sources_are_split_at_colons_that_are_no_ports() -> None:
    text = (
        "~/mine:git+https://example.org:8443/o/r.git@v1#subdirectory=a/b:"
        "git+ssh://git@example.org:22/r:hf://datasets/o/n@refs%2Fpr%2F1/d%3Ae:/x"
    )
    assert parse_sources(text) == [
        TaskSource("directory", "~/mine"),
        TaskSource("git", "https://example.org:8443/o/r.git", "v1", "a/b"),
        TaskSource("git", "ssh://git@example.org:22/r"),
        TaskSource("hub", "o/n", "refs/pr/1", "d:e"),
        TaskSource("directory", "/x"),
    ]
    assert join_sources(parse_sources(text)) == text


def test_an_existing_directory_may_have_a_colon_in_its_name(tmp_path: Path) -> None:
    odd = tmp_path / "a:b"
    assert len(parse_sources(str(odd))) == 2
    odd.mkdir()
    assert parse_sources(str(odd)) == [TaskSource("directory", str(odd))]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("/a::/b", "expected one or more sources of tasks, separated by `:`, got '/a::/b'"),
        ("/a:", "expected one or more sources"),
        ("https://example.org/r", r"expected a directory, git\+URL@REVISION#subdirectory=DIR"),
        ("git+http://example.org/r", "expected git.* with an https://, ssh:// or file:// URL"),
        ("git+ext::sh -c x", "expected a directory, git"),
        ("git+file://host/r", "with three slashes"),
        (
            "git+https://secret@example.org/r",
            "^expected an address without a user or token: (?!.*secret)",
        ),
        ("git+https://a:secret@example.org/r", r"^expected git\+https://HOST/PATH (?!.*secret)"),
        ("git+ssh://git@example.org:o/r", r"expected git\+ssh://HOST/PATH"),
        ("git+ssh://-oProxyCommand=x/r", r"expected git\+ssh://HOST/PATH"),
        ("git+https://example.org/r@--upload-pack=x", "the name of a branch, tag or commit"),
        ("git+https://example.org/r@a%20b", "the name of a branch, tag or commit"),
        ("git+https://example.org/r@a#subdirectory=../b", "a directory within the tree"),
        ("git+https://example.org/r@a#egg=b", "expected a directory, git"),
        ("hf://models/o/n", "expected hf://datasets/ORG/NAME@REVISION/DIR"),
        ("hf://datasets/n", "expected hf://datasets/ORG/NAME@REVISION/DIR"),
    ],
)
def test_what_is_no_source_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_sources(text)


def test_a_pinned_source_is_part_of_the_identity_with_its_commit() -> None:
    row = Row({"model_path": "a/b", "task_path": "t", "n_shot": "0"})
    url = "git+https://example.org/r"
    texts = [
        f"{url}@{COMMIT}#subdirectory=a",
        f"{url}@{COMMIT[::-1]}#subdirectory=a",
        f"{url}@{COMMIT}",
    ]
    identities = {eval_id(row.with_cells(include_path=text)) for text in texts}
    assert len(identities) == 3
    # Other spellings of one source become the same, and directories become absolute beside it.
    spelled = row.with_cells(include_path=f"{url}@{COMMIT.upper()}#subdirectory=./a/:tasks")
    located = locate_row(spelled)["include_path"]
    assert located == f"{texts[0]}:{Path('tasks').absolute()}"
    assert TaskSource.parse(texts[0]).is_pinned
    assert without_commits(located) == f"{url}#subdirectory=a:{Path('tasks').absolute()}"
    assert without_commits(f"/x:{url}@main") == ""
