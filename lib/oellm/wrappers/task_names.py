"""Names of tasks as people type them: TASK, or FRAMEWORK:TASK for other frameworks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

from oellm import frameworks
from oellm.core import menus, schema
from oellm.core.log import Log


def usual_suite() -> str:
    """Return the framework of tasks whose names tell none."""
    return str(schema.table("manifest")["eval_suite"]["default"])


def split_task(text: str) -> tuple[str, str]:
    """Return the framework and the name of a task."""
    suite, colon, name = text.partition(":")
    return (
        (suite, name) if colon and suite in frameworks.runnable_names() else (usual_suite(), text)
    )


def list_tasks(log: Log) -> Sequence[str]:
    """Return all tasks of all frameworks, those of the usual one first; `log` says which lack."""
    usual = f"{usual_suite()}:"
    texts = sorted(frameworks.list_all_tasks(log), key=lambda text: not text.startswith(usual))
    return [text.removeprefix(usual) for text in texts]


def ask_tasks(
    question: str,
    known: Sequence[str],
    *,
    default: Sequence[str] = (),
    check: Callable[[str], str] | None = None,
) -> tuple[str, ...]:
    """Return names of tasks, perhaps none; `known` are offered while the user types.

    `check` returns what is wrong with a text of names, or an empty text.
    """

    def find(typed: str) -> Iterable[str]:
        letters = typed.lower()
        found = (name for name in known if letters in name.lower())
        return sorted(found, key=lambda name: not name.lower().startswith(letters))

    text = menus.ask_names(question, find, default=", ".join(default), check=check)
    return split_names(text)


def find_unknown(text: str, known: Collection[str]) -> str:
    """Return which of the names of a text is not known; empty if all are."""
    usual = f"{usual_suite()}:"
    for name in split_names(text):
        # A name with a slash is a file.
        if "/" not in name and name.removeprefix(usual) not in known:
            return f"unknown task {name!r}"
    return ""


def split_names(text: str) -> tuple[str, ...]:
    """Return the names that commas separate, each once."""
    return tuple(dict.fromkeys(piece.strip() for piece in text.split(",") if piece.strip()))
