"""The tables of docs/FRAMEWORKS.md, made from the adapters and their catalogues."""

import importlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from oellm import frameworks
from oellm.errors import InputError
from oellm.frameworks.lm_eval.code_tasks.known_names import CODE_TASKS
from oellm.frameworks.program import NeededDataSet, NeededNltk, ProgramFramework, RowSetting
from oellm.frameworks.stages import RowStage, environment_key
from oellm.manifest.rows import Row

_ROOT = Path(__file__).resolve().parent.parent
_LIBRARY = _ROOT / "lib" / "oellm"
_MARK = re.compile(r"(<!-- make-docs: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
# A list of more names says too little for its length.
_SHOWN = 7


def fill(page: str) -> str:
    """Return a page with its tables as they are now."""
    return _MARK.sub(lambda mark: f"{mark[1]}{_table(mark[2])}{mark[3]}", page)


def _table(name: str) -> str:
    if name == "overview":
        return _overview()
    framework = frameworks.create_program_framework(name)
    assert framework is not None, name
    return _settings(name, framework)


def _overview() -> str:
    lines = [
        "| framework | version | tasks | stages | keys of `images` and `venvs` | needs |",
        "|---|---|---|---|---|---|",
    ]
    for name in frameworks.runnable_names():
        framework = frameworks.create_program_framework(name)
        cells = _of_program(name, framework) if framework else _of_resident(name)
        lines.append(f"| {' | '.join([f'`{name}`', *cells])} |")
    return "\n".join(lines) + "\n"


def _of_resident(name: str) -> list[str]:
    project = (_ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (versions,) = re.findall(r'"lm-eval([^"]+)"', project)
    several = f"generate (GPU), evaluate (CPU, sandbox): the {len(CODE_TASKS)} that run code"
    return [
        versions.replace("<", "\\<").replace(">", "\\>"),
        "those of its TaskManager, and your own",
        f"evaluate (GPU); {several}",
        f"`{name}`, `{name}-evaluate`",
        "what a task's YAML names",
    ]


def _of_program(name: str, framework: ProgramFramework) -> list[str]:
    catalogue = framework.catalogue()
    rows = [_row(name, task) for task in catalogue.tasks]
    runnable = [row for row in rows if not _obstacle(framework, row)]
    count = f"{len(catalogue.tasks):,}"
    if len(runnable) < len(rows):
        count += f", of which oellm runs {len(runnable):,}"
    if catalogue.groups:
        count += f"; {len(catalogue.groups):,} groups"
    layouts = list(dict.fromkeys(tuple(framework.stages(row)) for row in runnable))
    keys = dict.fromkeys(
        environment_key(name, stage, is_first=number == 0)
        for stages in layouts
        for number, stage in enumerate(stages)
    )
    return [
        catalogue.version,
        count,
        "; or ".join(", ".join(map(_stage, stages)) for stages in layouts),
        ", ".join(f"`{key}`" for key in keys),
        _needs(framework, runnable),
    ]


def _row(name: str, task: str) -> Row:
    cells = {"model_path": "any/model", "task_path": task, "n_shot": "", "eval_suite": name}
    return Row(cells)


def _obstacle(framework: ProgramFramework, row: Row) -> str:
    """Return why a task cannot be run; empty if it can, with whatever settings."""
    try:
        framework.check(row)
    except InputError as error:
        return error.message if error.column == "task_path" else ""
    return ""


def _stage(stage: RowStage) -> str:
    where = "GPU" if stage.uses_gpu else "CPU"
    return f"{stage.name} ({where}{', sandbox' if stage.runs_model_code else ''})"


def _needs(framework: ProgramFramework, rows: Iterable[Row]) -> str:
    needs = dict.fromkeys(need for row in rows for need in framework.needs(row))
    own = dict.fromkeys(
        name for row in rows for name in framework.problem_files(row.typed.task_path)
    )
    told = []
    for kind, noun in ((NeededDataSet, "data set"), (NeededNltk, "NLTK package")):
        names = sorted({need.name for need in needs if isinstance(need, kind)})
        if len(names) > _SHOWN:
            told.append(f"a task's own {noun} on the hub")
        elif names:
            told.append(f"{noun}{'s' * (len(names) > 1)} {_code(names)}")
    others = sorted(
        {need.name for need in needs if not isinstance(need, (NeededDataSet, NeededNltk))}
    )
    told += [_code(others)] if others else []
    told += [f"or your own {_code(own)}"] if own else []
    return "; ".join(told)


def _settings(name: str, framework: ProgramFramework) -> str:
    lines = [
        "| setting | where | value | default | stage | part of eval_id |",
        "|---|---|---|---|---|---|",
    ]
    columns = json.loads((_LIBRARY / "core" / "schema.json").read_text("utf-8"))["manifest"]
    tasks = framework.catalogue().tasks
    known: dict[str, list[RowSetting]] = {}
    for task in tasks:
        for key, setting in framework.settings(task).items():
            known.setdefault(key, []).append(setting)
    for key, found in known.items():
        where = "column" if key in columns else "gen_kwargs"
        is_identity = columns.get(key, {"identity": True}).get("identity", False)
        some = f" (of {len(found)} tasks)" if len(found) < len(tasks) else ""
        defaults = {setting.default for setting in found}
        setting = found[0] if len(defaults) == 1 else found[0]._replace(default="")
        lines.append(_line(f"`{key}`{some}", where, setting, is_identity=is_identity))
    arguments = vars(importlib.import_module(f"oellm.frameworks.{name}.program"))["_MODEL"]
    lines += [
        _line(f"`{key}`", "model_args", setting, is_identity=True)
        for key, setting in arguments.items()
        if key not in known
    ]
    return "\n".join(lines) + "\n"


def _line(label: str, where: str, setting: RowSetting, *, is_identity: bool) -> str:
    value = _code(setting.choices) if setting.choices else setting.kind
    default = f"`{setting.default}`" if setting.default else ""
    used = "yes" if is_identity else "no"
    return f"| {label} | {where} | {value} | {default} | {setting.stage} | {used} |"


def _code(names: Iterable[str]) -> str:
    return ", ".join(_quoted(names))


def _quoted(names: Iterable[str]) -> Iterator[str]:
    for name in names:
        yield f"`{name}`"
