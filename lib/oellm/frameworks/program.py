"""The interface to a framework that is a program of its own, or to a stage of one.

The worker starts the program on the node, in the container of the stage, and in the sandbox if it
runs code that a model wrote. An adapter says what to start and what a valid output is; it never
starts anything itself, so the login node imports no framework.

A framework all of whose stages are programs has a `ProgramFramework`; one with a resident model
has a `Program` for the stages after it. Either is made by `create_program()` in the module
`program` of the framework's package.
A stage's output is a directory. The worker writes it in a place of its own and moves it to
`stages/KEY/NAME/` whole, once `check_output` has found nothing wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from oellm.frameworks.catalogue import Catalogue
from oellm.frameworks.interface import Evaluation
from oellm.frameworks.stages import RowStage
from oellm.manifest.rows import Row


class InvalidOutputError(ValueError):
    """The output of a stage is no valid one; the text is the reason."""


class UnfinishedOutputError(InvalidOutputError):
    """A program of several rows ended before it came to this one; another start computes it."""


class RowSetting(NamedTuple):
    """A setting that a row may carry, as a column or as an argument in `gen_kwargs`.

    Attributes:
        kind: What its value is, for messages: `a positive integer`, `true or false`.
        default: The value if the row does not say, as text; empty for the program's own.
        stage: The first stage that it changes: GENERATE or EVALUATE.
        choices: The texts that are allowed; empty for any of the kind.
    """

    kind: str
    default: str = ""
    stage: str = "generate"
    choices: tuple[str, ...] = ()


class NeededDataSet(NamedTuple):
    """A data set of the hub, which the program finds in the cache below HF_HOME."""

    name: str
    config: str = ""
    revision: str = ""
    split: str = ""


class NeededFile(NamedTuple):
    """A file at an address, which the program gets as the path `Place.files[name]`."""

    name: str
    url: str
    sha256: str


class NeededMetric(NamedTuple):
    """A metric of the library `evaluate`, which the program finds in the cache below HF_HOME."""

    name: str


class NeededNltk(NamedTuple):
    """A package of NLTK, which the program finds by the variable NLTK_DATA."""

    name: str


Need = NeededDataSet | NeededFile | NeededMetric | NeededNltk


@dataclass(frozen=True)
class Place:
    """Where a program runs: paths as it sees them itself, which in a container may be others.

    Attributes:
        python: The Python of the image or virtual environment, which has the framework.
        output: An empty directory, which becomes the output of the stage. The program starts in it.
        private: A directory that is removed afterwards. HOME, TMPDIR, XDG_CACHE_HOME and
            MPLCONFIGDIR lie below it; the worker sets these variables.
        own: The directory of the files that the worker writes for the program (Command.files).
        model: A directory of links to the files of the model; empty if the stage does not ask it.
        inputs: The output of the stage before, read-only, by the KEY of each row's output.
        files: The paths of what the row needs (NeededFile), by name; the user's own problem files
            in include_path take the place of others.
        gpus: The number of GPUs that the program may use; 0 on a CPU.
        cpus: The number of CPU cores that it may use.
        bootstrap_iters: Draws for bootstrapped standard errors.
    """

    python: str
    output: str
    private: str
    own: str
    model: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    gpus: int = 0
    cpus: int = 1
    bootstrap_iters: int = 1000

    def own_file(self, name: str) -> str:
        """Return the path of a file of `Command.files`."""
        return f"{self.own}/{name}"


class Command(NamedTuple):
    """What the worker starts; its stdin is empty, and stdout and stderr go to the job's log.

    Attributes:
        argv: The command line.
        env: Environment variables besides those that the worker sets.
        files: What the worker writes before the start, to the paths that `Place.own_file` gives.
        reads: Paths of this machine that the program reads, and finds under the same names also in
            a container.
        address_space_gib: The limit of the address space of each process in a sandbox; None for
            none, because some programs reserve much more than they use.
        has_samples: Whether it runs each program of the model in a process whose target is named
            `unsafe_execute`, which the sandbox's guard isolates, so that there must be some. If
            not, what it runs in its own processes is protected by the container alone.
        stack_mib: The stack that the program wants to be able to set.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str] = {}  # nobody changes it
    files: Mapping[str, bytes] = {}  # nobody changes it
    reads: tuple[str, ...] = ()
    address_space_gib: int | None = 4
    stack_mib: int | None = None
    has_samples: bool = True


class Program(Protocol):
    """What computes stages of rows by starting a program."""

    def needs(self, row: Row) -> Sequence[Need]:
        """Return what must be on the node before the row's stages can run.

        Depends on the columns task_path and include_path alone.
        """
        ...

    def stages(self, row: Row) -> Sequence[RowStage]:
        """Return the stages of a row, one or two."""
        ...

    def generation_row(self, row: Row) -> Row:
        """Return the row as far as its first stage depends on it.

        Rows with equal ones share one generation: its KEY is the eval_id of what is returned.
        """
        ...

    def batches(self, rows: Sequence[Row], stage: RowStage) -> list[list[Row]]:
        """Return the rows of one model in the batches that one start of the program computes."""
        ...

    def command(self, rows: Sequence[Row], stage: RowStage, place: Place) -> Command:
        """Return what computes a stage of a batch of rows."""
        ...

    def check_output(self, row: Row, stage: RowStage, output: Path) -> None:
        """Raise InvalidOutputError if a stage's output is not valid for a row.

        The exit status was 0. `output` was written by a program that may have run code of a model,
        so its files are read with core/regular_files.
        """
        ...

    def evaluation(self, row: Row, outputs: Mapping[str, Path]) -> Evaluation:
        """Return the scores of a row from the valid outputs of its stages, by stage.

        Raises InvalidOutputError if they hold no scores of this row.
        """
        ...


class ProgramFramework(Program, Protocol):
    """A framework all of whose stages are computed by a program.

    Attributes:
        version: The version of the framework that the adapter was made for.
    """

    version: str

    def catalogue(self) -> Catalogue:
        """Return the tasks and groups of the framework's version; imports no framework."""
        ...

    def settings(self, task: str) -> Mapping[str, RowSetting]:
        """Return the settings that a row of a task may carry, by column or by gen_kwargs' key."""
        ...

    def check(self, row: Row) -> None:
        """Raise InputError, with the column, for what the framework cannot do as the row asks."""
        ...

    def problem_files(self, task: str) -> Sequence[str]:
        """Return the names of files in include_path that a task reads instead of its own.

        Each has one problem a line.
        """
        ...


def generation_arguments(row: Row, settings: Mapping[str, RowSetting]) -> dict[str, Any]:
    """Return the value of each setting in gen_kwargs: the row's own, else the default.

    Settings without a default that the row does not set are left out.
    """
    given = row.typed.gen_kwargs
    values: dict[str, Any] = {name: one.default for name, one in settings.items() if one.default}
    return {**values, **given}
