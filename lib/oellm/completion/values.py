"""What the values of options and the arguments of commands may be.

Their names in the manuals say it, such as FILE or BOOL, or their descriptions, which list words.
The tables here have only what a manual cannot list: clusters, suites, tasks, runs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from oellm.completion.offers import Files, OfferedWord, Value, enumerated, first_sentence
from oellm.manuals.usage import OptionText


class TypedPlace(NamedTuple):
    """Where a value is typed.

    Attributes:
        command: The command.
        option: The option; empty for an argument.
        given: The options before it, with their values.
    """

    command: str
    option: str
    given: Mapping[str, str]


def of_option(said: OptionText, place: TypedPlace) -> Value:
    """Return what the value of an option may be, of which a manual says something."""
    special = _OF_OPTIONS.get((place.option, said.value)) or _OF_OPTIONS.get((place.option, ""))
    if special or said.value in _OF_NAMES:
        return (special or _OF_NAMES[said.value])(place)
    return Value(lambda: map(OfferedWord, enumerated(said.text, place.option)))


def of_argument(name: str, place: TypedPlace) -> Value:
    """Return what an argument may be that a usage names."""
    return _OF_NAMES.get(name, _files)(place)


def _kept(name: str, find: Callable[[], list[str]]) -> Iterator[OfferedWord]:
    from oellm.completion.word_cache import cached_words

    return map(OfferedWord, cached_words(name, find))


def _files(_: TypedPlace) -> Value:
    return Value(files=Files.ANY)


def _directories(_: TypedPlace) -> Value:
    return Value(files=Files.DIRECTORIES)


def _booleans(_: TypedPlace) -> Value:
    return Value(lambda: [OfferedWord("true"), OfferedWord("false")])


def _clusters(_: TypedPlace) -> Value:
    def find() -> Iterator[OfferedWord]:
        from oellm.clusters.cluster import known_clusters

        return map(OfferedWord, known_clusters(os.environ))

    return Value(find, Files.ANY)


def _suites(place: TypedPlace) -> Value:
    def find() -> Iterator[OfferedWord]:
        from oellm.tasks.suite_files import ALL
        from oellm.tasks.suites import load_suites

        own = [place.given["--suites"]] if "--suites" in place.given else []
        yield OfferedWord(ALL, "every suite")
        for name, suite in load_suites(own, os.environ).suites.items():
            yield OfferedWord(name, suite.description)

    return Value(find)


def _tasks(place: TypedPlace) -> Value:
    def list_names() -> list[str]:
        from oellm import frameworks
        from oellm.wrappers.task_names import usual_suite

        return frameworks.list_known_task_names(suite or usual_suite())

    suite = place.given.get("--eval_suite", "")
    # It is a part of a file's name.
    if not re.fullmatch(r"\w*", suite):
        return Value(files=Files.ANY)
    return Value(lambda: _kept(f"tasks-{suite}", list_names), Files.ANY)


def _benchmarks(_: TypedPlace) -> Value:
    def list_names() -> list[str]:
        from oellm.global_benchmark.benchmark_tasks import known_tasks

        return list(known_tasks())

    return Value(lambda: _kept("benchmarks", list_names))


def _frameworks(_: TypedPlace) -> Value:
    def list_names() -> list[str]:
        from oellm import frameworks

        return frameworks.runnable_names()

    return Value(lambda: _kept("frameworks", list_names))


def _definitions(_: TypedPlace) -> Value:
    def find() -> Iterator[OfferedWord]:
        from oellm.images.definitions import containers_directory, definition_names

        return map(OfferedWord, definition_names(containers_directory()))

    return Value(find, Files.ANY)


def _settings(_: TypedPlace) -> Value:
    def find() -> Iterator[OfferedWord]:
        from oellm.core import schema

        for key, spec in schema.table("cluster").items():
            yield OfferedWord(f"{key}=", first_sentence(spec["meaning"]))
            choices = spec.get("choices", ["true", "false"] if spec["type"] == "boolean" else [])
            yield from (OfferedWord(f"{key}={choice}") for choice in choices)

    return Value(find)


def _columns(_: TypedPlace) -> Value:
    def find() -> Iterator[OfferedWord]:
        from oellm.core import schema

        for name, spec in schema.table("metric").items():
            yield OfferedWord(name, first_sentence(spec["meaning"]))

    return Value(find)


def _states(_: TypedPlace) -> Value:
    def find() -> Iterator[OfferedWord]:
        from oellm.core import schema

        states = schema.table("totals")["state"]["choices"]
        return (OfferedWord(state.replace(" ", "_")) for state in states)

    return Value(find)


def _runs(place: TypedPlace) -> Value:
    def find() -> Iterator[OfferedWord]:
        from oellm.runs.places.run_names import list_names

        return map(OfferedWord, list_names(place.given.get("--cluster"), os.environ))

    return Value(find, Files.ANY, is_mixed=True)


def _models(place: TypedPlace) -> Value:
    def find() -> Iterator[OfferedWord]:
        from oellm.clusters.cluster import resolve_cluster
        from oellm.hub.cache import list_models

        cluster = resolve_cluster(place.given.get("--cluster"), [], os.environ)
        return map(OfferedWord, list_models(os.path.join(cluster.text("hf_home"), "hub")))

    return Value(find, Files.ANY, is_mixed=True)


def _topics(_: TypedPlace) -> Value:
    def find() -> Iterator[OfferedWord]:
        from oellm.manuals.topics import list_topics

        return (OfferedWord(topic.name, topic.about) for topic in list_topics())

    return Value(find)


def _run_names(place: TypedPlace) -> Value:
    return _runs(place)._replace(files=Files.NONE)


_Kind = Callable[[TypedPlace], Value]
# By an option, and the name of its value if that matters.
_OF_OPTIONS: dict[tuple[str, str], _Kind] = {
    ("--cluster", ""): _clusters,
    ("--task_groups", ""): _suites,
    ("--tasks", "TASKS"): _tasks,
    ("--tasks", "TASK"): _benchmarks,
    ("--eval_suite", ""): _frameworks,
    ("--definitions", ""): _definitions,
    ("--state", ""): _states,
    ("--name", "PATTERN"): _run_names,
    ("--in", ""): _runs,
    ("--columns", ""): _columns,
}
# By the name of an argument, or of an option's value.
_OF_NAMES: dict[str, _Kind] = {
    **dict.fromkeys(("FILE", "MANIFEST"), _files),
    **dict.fromkeys(("MODEL", "MODELS"), _models),
    **dict.fromkeys(("DIR", "DIRECTORY", "SOURCES"), _directories),
    **dict.fromkeys(("RUN_DIR", "PATH", "A", "B"), _runs),
    "BOOL": _booleans,
    "COLUMNS": _columns,
    "DEF": _definitions,
    "KEY=VALUE": _settings,
    "TOPIC": _topics,
}
