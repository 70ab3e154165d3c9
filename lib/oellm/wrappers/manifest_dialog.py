"""The conversation in which the user builds a manifest on a terminal, looks at it, and saves it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from oellm.core import atomic, menus
from oellm.core.display import format_count
from oellm.core.log import Log
from oellm.errors import OellmError
from oellm.manifest.csv_file import read_rows
from oellm.wrappers.manifest_choices import ManifestChoices, shell_text
from oellm.wrappers.manifest_preview import ManifestPreview, make_preview
from oellm.wrappers.manifest_questions import ManifestQuestions

DEFAULT_PATH = "evals.csv"
_ADD, _REPLACE, _LEAVE = "add rows to it", "replace it", "leave it as it is"
_COMMAND = "show the command line that makes these rows"
_STOP = "stop, and write nothing"


class AgreedManifest(NamedTuple):
    """A manifest that the user accepts; `path` is where it was saved, if anywhere."""

    content: bytes
    path: Path | None


Action = Callable[[], "AgreedManifest | None"]


class ManifestDialog:
    """One conversation.

    `path` is the file that is to be written; None if the user is to be asked for it. Without
    `is_saved` nothing is written. `show` gets lines, `log` messages.
    """

    def __init__(
        self,
        questions: ManifestQuestions,
        *,
        path: Path | None,
        is_saved: bool,
        show: Callable[[str], None],
        log: Log,
    ) -> None:
        self._questions = questions
        self._path = path
        self._is_saved = is_saved
        self._show = show
        self._log = log
        self._choices = ManifestChoices()
        # Of the present choices, if they can be made.
        self._preview: ManifestPreview | None = None
        # What is to happen to the file if it is there: _ADD, _REPLACE, or not decided yet.
        self._decision = ""

    def run(self) -> AgreedManifest | None:
        """Return the manifest that the user accepts, None if the user stops.

        Raises KeyboardInterrupt if the user interrupts the work.
        """
        if self._path and not self._decide(self._path):
            return None
        self._change_models()
        self._change_suites()
        if not self._choices.suites or menus.confirm("Single tasks, too?"):
            self._change_tasks()
        self._look()
        while True:
            actions = self._actions()
            answer = menus.choose("What next?", list(actions))
            if answer == _STOP:
                return None
            if agreed := actions[answer]():
                return agreed

    def _actions(self) -> Mapping[str, Action]:
        """Return what can be done now, by the lines of the menu."""
        choices = self._choices
        found: dict[str, Action] = {}
        if self._preview:
            found[self._save_line()] = functools.partial(self._agree, self._preview)
            found[_COMMAND] = self._show_command
        tasks = sum(len(choice.tasks) for choice in choices.tasks)
        settings = ", ".join(f"{name}={value}" for name, value in choices.options.items())
        found |= {
            f"change the models ({len(choices.models)})": self._changing(self._change_models),
            f"change the suites ({len(choices.suites)})": self._changing(self._change_suites),
            f"change the single tasks and their shots ({tasks})": self._changing(
                self._change_tasks
            ),
            f"change other settings ({settings or 'none'})": self._changing(self._change_options),
            _STOP: lambda: None,
        }
        return found

    def _save_line(self) -> str:
        if not self._is_saved:
            return "print it"
        if self._path is None:
            return "save it"
        return f"add it to {self._path}" if self._decision == _ADD else f"save it as {self._path}"

    def _changing(self, change: Callable[[], None]) -> Action:
        def act() -> None:
            change()
            self._look()

        return act

    def _change_models(self) -> None:
        models = self._questions.ask_models(self._choices.models)
        self._choices = self._choices._replace(models=models)

    def _change_suites(self) -> None:
        suites = self._questions.ask_suites(self._choices.suites)
        self._choices = self._choices._replace(suites=suites)

    def _change_tasks(self) -> None:
        tasks = self._questions.ask_tasks(self._choices.tasks)
        self._choices = self._choices._replace(tasks=tasks)

    def _change_options(self) -> None:
        options = self._questions.ask_option(self._choices.options)
        self._choices = self._choices._replace(options=options)

    def _look(self) -> None:
        """Make the manifest, and show it; oe-manifest says what is wrong."""
        self._preview = None
        if obstacle := self._choices.obstacle():
            self._log(obstacle)
            return
        self._preview = make_preview(self._choices, self._base(), log=self._log)
        for line in ("", *self._preview.lines(), "") if self._preview else ():
            self._show(line)

    def _base(self) -> bytes | None:
        """Return the manifest to which rows are added, None without one, also if it has gone."""
        if self._path and self._decision == _ADD and self._path.exists():
            return self._path.read_bytes()
        return None

    def _show_command(self) -> None:
        path = str(self._path or DEFAULT_PATH)
        text = shell_text(self._choices, path, is_addition=self._decision == _ADD)
        for line in ("", *text.splitlines(), ""):
            self._show(line)

    def _agree(self, preview: ManifestPreview) -> AgreedManifest | None:
        """Save the manifest, if it is to be saved; None if the user is to look once more."""
        if not self._is_saved:
            return AgreedManifest(preview.content, None)
        path = self._path or Path(
            menus.ask("Save it as:", default=DEFAULT_PATH, check=find_path_fault).strip()
        )
        if not self._decision and not self._decide(path):
            return None
        self._path = path
        if self._base() != preview.base:
            self._look()
            return None
        try:
            atomic.write_file(path, preview.content)
        except OSError as error:
            self._log(f"{path}: {error.strerror}")
            self._path, self._decision = None, ""
            return None
        return AgreedManifest(preview.content, path)

    def _decide(self, path: Path) -> bool:
        """Ask what is to happen to a file that is there; return False to leave it."""
        if not path.exists():
            return True
        possible = [_ADD, _REPLACE, _LEAVE]
        try:
            with open(path, encoding="utf-8-sig", newline="") as stream:
                rows = format_count(sum(1 for _ in read_rows(stream, str(path))), "row")
        except (OellmError, UnicodeDecodeError) as error:
            self._log(f"no rows can be added: {error}")
            rows, possible = "other content", [_LEAVE, _REPLACE]
        answer = menus.choose(f"{path} is there, with {rows}. What now?", possible)
        self._decision = "" if answer == _LEAVE else answer
        return answer != _LEAVE


def find_path_fault(text: str) -> str:
    """Return why no manifest can have this path; empty if one can."""
    path = Path(text.strip())
    if not text.strip():
        return "expected the name of a file, got nothing"
    if path.exists() and not path.is_file():
        return f"{path} is no file"
    return "" if path.parent.is_dir() else f"{path.parent}: no such directory"
