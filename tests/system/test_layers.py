"""The rules of the house: who may import whom, what a start may load, how large a thing may be.

Each rule is a function that returns its violations, as "file:line: what is wrong". The tests
run the rules over this project, and over small trees with one planted violation each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.processes import ROOT
from support.source_tree import (
    Import,
    Module,
    Modules,
    classes,
    find_circles,
    functions,
    is_third_party,
    loaded_modules,
    parse_tree,
    positional_arguments,
    words,
)

# From the bottom to the top. A room may import rooms of lower lines, but none of its own line.
LAYERS = (
    ("errors",),
    ("core",),
    ("manifest", "manuals"),
    ("clusters", "tasks", "slurm"),
    ("hub", "sandbox"),
    ("images", "task_sources"),
    ("models",),
    ("runs",),
    ("metrics",),
    ("frameworks",),
    # The stages: no stage enters another.
    ("discovery", "fetch", "plan", "submit", "worker", "status", "collect", "build"),
    # The report shows what oe-collect and oe-status find; the doctor submits a job as a run does.
    ("report", "doctor"),
    # What runs other commands; it looks at no other stage.
    ("wrappers",),
    # A wrapper with a configuration and results of its own.
    ("global_benchmark",),
    # What may follow on a command line: of every command, and of what they know.
    ("completion",),
)
LEVELS = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}

# These are light enough for the start of every command. Functions import everything else.
LIGHT = {"docopt", "orjson"}
# The worker's archive brings docopt; orjson is used if the Python of the job has it.
TRAVELS_WITH_WORKER = {"docopt"}

# What only the framework's own folder may say, and the registry of frameworks.
FRAMEWORK_NAMES = ("lm_eval", "lm-eval")
REGISTRY = "lib/oellm/frameworks/__init__.py"

MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 50
MAX_ROOM_MODULES = 15
MAX_POSITIONAL_ARGUMENTS = 3


def upward_imports(modules: Modules) -> Iterator[str]:
    """A room imports only rooms of lower layers. Imports in functions count."""
    for module, imported, target in project_imports(modules):
        if module.is_command or target.is_command or module.room == target.room:
            continue
        if target.name == "oellm" or "cli" in (module.room, target.room):
            continue
        if module.room not in LEVELS:
            yield f"{module.file}:1: the room {module.room} is in no layer"
        elif target.room not in LEVELS:
            yield f"{at(module, imported)}: the room {target.room} is in no layer"
        elif LEVELS[target.room] >= LEVELS[module.room]:
            yield f"{at(module, imported)}: {module.room} must not import {target.name}"


def circles(modules: Modules) -> Iterator[str]:
    """No files import each other in a circle. Imports in functions count."""
    for imported, *names in find_circles(modules):
        assert isinstance(imported, Import)
        yield f"{at(modules[str(names[-2])], imported)}: a circle: {' -> '.join(map(str, names))}"


def imported_commands(modules: Modules) -> Iterator[str]:
    """Nothing imports a command: neither another command nor the library."""
    for module, imported, target in project_imports(modules):
        if target.is_command:
            yield f"{at(module, imported)}: imports the command {target.name}"


def uses_of_the_frame(modules: Modules) -> Iterator[str]:
    """Only commands import oellm.cli, the frame around every command."""
    for module, imported, target in project_imports(modules):
        if target.name == "oellm.cli" and not module.is_command:
            yield f"{at(module, imported)}: only commands import oellm.cli"


def heavy_starts(modules: Modules) -> Iterator[str]:
    """No command loads a third-party library at its start, except light ones."""
    commands = [module.name for module in modules.values() if module.is_command]
    for module in loaded_modules(modules, *commands, only_at_start=True):
        for imported in module.imports:
            is_heavy = is_third_party(imported.target, *LIGHT)
            if imported.at_start and is_heavy:
                yield f"{at(module, imported)}: the start of a command loads {imported.target}"


def imports_that_a_job_lacks(modules: Modules) -> Iterator[str]:
    """A Python that has nothing but the framework can load all that the worker may load.

    The rule does not hold for the rooms of the frameworks: that Python has them.
    """
    # The worker imports adapters, and the code of its processes, by names in strings.
    by_name = [name for name, module in modules.items() if module.room in ("frameworks", "worker")]
    by_name += [name for name in modules if name == "oellm.doctor.node_probe"]
    for module in loaded_modules(modules, "oe_run_task", *by_name, only_at_start=False):
        if module.room == "frameworks":
            continue
        for imported in module.imports:
            is_foreign = is_third_party(imported.target, *TRAVELS_WITH_WORKER)
            if imported.at_start and not imported.may_fail and is_foreign:
                yield f"{at(module, imported)}: a job may lack {imported.target}"


def names_of_lm_eval(modules: Modules) -> Iterator[str]:
    """Only lm-eval's own folder and the registry name it. Docstrings do not count."""
    for module in modules.values():
        if "frameworks.lm_eval" in module.name or module.file == REGISTRY:
            continue
        for text, line in words(module):
            if any(name in text for name in FRAMEWORK_NAMES):
                yield f"{module.file}:{line}: names lm_eval"


def repeated_class_names(modules: Modules) -> Iterator[str]:
    """No two classes of the library share a name. Private classes do not count."""
    first: dict[str, Module] = {}
    for module in modules.values():
        for name, line in classes(module) if not module.is_command else ():
            known = first.setdefault(name, module)
            if known is not module and not name.startswith("_"):
                yield f"{module.file}:{line}: class {name} is in {known.file}, too"


def nameless_arguments(modules: Modules) -> Iterator[str]:
    """A call with many arguments names them: two swapped numbers would go unnoticed."""
    for module in modules.values():
        for name, line, count in positional_arguments(module):
            if count > MAX_POSITIONAL_ARGUMENTS:
                yield f"{module.file}:{line}: {name} gets {count} positional arguments"


def large_things(modules: Modules) -> Iterator[str]:
    """Modules, functions and rooms stay small enough to read in one go."""
    for module in modules.values():
        if module.lines > MAX_MODULE_LINES:
            yield f"{module.file}:1: a module of {module.lines} lines"
        for name, line, lines in functions(module):
            if lines > MAX_FUNCTION_LINES:
                yield f"{module.file}:{line}: {name} has {lines} lines"
    in_folders = Counter(
        module.file.rpartition("/")[0]
        for module in modules.values()
        # Commands are no room: there is one module for each executable.
        if not module.is_command and not module.file.endswith("/__init__.py")
    )
    for folder, count in in_folders.items():
        if count > MAX_ROOM_MODULES:
            yield f"{folder}: a room of {count} modules"


RULES: tuple[Callable[[Modules], Iterator[str]], ...] = (
    upward_imports,
    circles,
    imported_commands,
    uses_of_the_frame,
    heavy_starts,
    imports_that_a_job_lacks,
    names_of_lm_eval,
    repeated_class_names,
    nameless_arguments,
    large_things,
)


def project_imports(modules: Modules) -> Iterator[tuple[Module, Import, Module]]:
    """Yield each import within this project: importing module, import, imported module."""
    for module in modules.values():
        for imported in module.imports:
            if target := modules.get(imported.target):
                yield module, imported, target


def at(module: Module, imported: Import) -> str:
    return f"{module.file}:{imported.line}"


@pytest.fixture(scope="module")
def project() -> Modules:
    return parse_tree(ROOT)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_the_project_keeps_the_rule(
    project: Modules, rule: Callable[[Modules], Iterator[str]]
) -> None:
    assert list(rule(project)) == []


# A tree that breaks no rule. Each planted violation adds or replaces files.
SOUND = {
    "lib/oellm/__init__.py": "",
    "lib/oellm/errors.py": "",
    "lib/oellm/cli.py": "import docopt\nfrom oellm import errors\n",
    "lib/oellm/core/codec.py": "try:\n    import orjson\nexcept ImportError:\n    pass\n",
    "lib/oellm/metrics/records.py": "from oellm.core import codec\n",
    "lib/oellm/collect/collection.py": "def collect():\n    import pandas\n",
    "lib/oellm/status/table.py": "from oellm.metrics import records\n",
    "lib/oellm/report/page.py": "from oellm.collect import collection\nimport jinja2\n",
    "commands/oe_report.py": "from oellm import cli\ndef f():\n    from oellm.report import page\n",
    "commands/oe_run_task.py": "from oellm import cli\nfrom oellm.core import codec\n",
}
LONG_FUNCTION = "def long():\n" + "    pass\n" * 50
PLANTED = {
    "a lower room imports a higher one": (
        {"lib/oellm/core/codec.py": "import json\nfrom oellm.metrics import records\n"},
        "lib/oellm/core/codec.py:2: core must not import oellm.metrics.records",
    ),
    "within a function": (
        {"lib/oellm/errors.py": "def f():\n    import oellm.core.codec\n"},
        "lib/oellm/errors.py:2: errors must not import oellm.core.codec",
    ),
    "for type checkers alone": (
        {"lib/oellm/errors.py": "if TYPE_CHECKING:\n    from oellm.core.codec import Codec\n"},
        "lib/oellm/errors.py:2: errors must not import oellm.core.codec",
    ),
    "a stage imports another": (
        {"lib/oellm/status/table.py": "from oellm.collect import collection\n"},
        "lib/oellm/status/table.py:1: status must not import oellm.collect.collection",
    ),
    "a room that no layer has": (
        {"lib/oellm/misc/things.py": "from oellm.core import codec\n"},
        "lib/oellm/misc/things.py:1: the room misc is in no layer",
    ),
    "a circle within a room": (
        {
            "lib/oellm/core/codec.py": "from oellm.core import paths\n",
            "lib/oellm/core/paths.py": "def f():\n    from oellm.core.codec import dumps\n",
        },
        "lib/oellm/core/paths.py:2: a circle: "
        "oellm.core.codec -> oellm.core.paths -> oellm.core.codec",
    ),
    "a command imports another": (
        {"commands/oe_report.py": "\nimport oe_run_task\n"},
        "commands/oe_report.py:2: imports the command oe_run_task",
    ),
    "the library imports a command": (
        {"lib/oellm/collect/collection.py": "def f():\n    from oe_report import main\n"},
        "lib/oellm/collect/collection.py:2: imports the command oe_report",
    ),
    "the library imports the frame": (
        {"lib/oellm/report/page.py": "from oellm.cli import run\n"},
        "lib/oellm/report/page.py:1: only commands import oellm.cli",
    ),
    "a heavy import at the start of a command": (
        {"commands/oe_report.py": "from oellm import cli\nimport torch.utils\n"},
        "commands/oe_report.py:2: the start of a command loads torch.utils",
    ),
    "a heavy import of what a command loads": (
        {"commands/oe_report.py": "from oellm.report import page\n"},
        "lib/oellm/report/page.py:2: the start of a command loads jinja2",
    ),
    "a heavy import of a package above": (
        {"lib/oellm/core/__init__.py": "import numpy\n"},
        "lib/oellm/core/__init__.py:1: the start of a command loads numpy",
    ),
    "a light import that jobs lack": (
        {"lib/oellm/core/codec.py": "import orjson\n"},
        "lib/oellm/core/codec.py:1: a job may lack orjson",
    ),
    "a heavy import of what the worker loads later": (
        {
            "commands/oe_run_task.py": "def f():\n    from oellm.core import figures\n",
            "lib/oellm/core/figures.py": "import matplotlib\n",
        },
        "lib/oellm/core/figures.py:1: a job may lack matplotlib",
    ),
    "a framework's name in code": (
        {"lib/oellm/core/codec.py": '"""For lm_eval."""\n\nlm_eval_task = 1\n'},
        "lib/oellm/core/codec.py:3: names lm_eval",
    ),
    "a framework's name in a string": (
        {"commands/oe_report.py": 'def f(x):\n    return x == "lm-eval"\n'},
        "commands/oe_report.py:2: names lm_eval",
    ),
    "a class with the name of another": (
        {
            "lib/oellm/metrics/records.py": "class Cell: ...\n",
            "lib/oellm/status/table.py": "\nclass Cell: ...\n",
        },
        "lib/oellm/status/table.py:2: class Cell is in lib/oellm/metrics/records.py, too",
    ),
    "a call with four positional arguments": (
        {"commands/oe_report.py": "def f(a, *b):\n    f(a, a, a, *b)\n    f(a, a, a, a)\n"},
        "commands/oe_report.py:3: f gets 4 positional arguments",
    ),
    "a large module": (
        {"lib/oellm/core/codec.py": "\n" * 401},
        "lib/oellm/core/codec.py:1: a module of 401 lines",
    ),
    "a long function": (
        {"commands/oe_report.py": f"class C:\n    x = 1\n\n{LONG_FUNCTION}"},
        "commands/oe_report.py:4: long has 51 lines",
    ),
    "a full room": (
        {f"lib/oellm/core/module{number}.py": "" for number in range(15)},
        "lib/oellm/core: a room of 16 modules",
    ),
}


def broken_rules(root: Path, files: dict[str, str]) -> list[str]:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    modules = parse_tree(root)
    return [violation for rule in RULES for violation in rule(modules)]


def test_a_sound_tree_keeps_all_rules(tmp_path: Path) -> None:
    assert broken_rules(tmp_path, SOUND) == []


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_violation_is_found(planted: str, tmp_path: Path) -> None:
    files, message = PLANTED[planted]
    assert message in broken_rules(tmp_path, {**SOUND, **files})
