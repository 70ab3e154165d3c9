"""Whether scores that stand side by side may be compared: what they were computed from.

Scores of one task and metric cannot be compared if they are of other versions of the task, other
documents, other prompts, other shots or another limit. What is unknown does not count.

The hash of a task covers its documents and prompts. A chat template makes prompts that depend on
the model, so hashes are compared only between scores without one, or with the same one. Models may
have different chat templates, but a model, or checkpoints of one training run, may not.
"""

from __future__ import annotations

import functools
import itertools
import string
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

from oellm.core.tables import cell_text
from oellm.manifest.checkpoint_names import training_run
from oellm.metrics.records import NO_TEMPLATE, PARTIAL, MetricRecord
from oellm.runs.contents import Contents, find_changes

# Returns what a score was computed from in one respect; empty if unknown.
_Respect = Callable[[MetricRecord], str]


class LineMixture(NamedTuple):
    """Why the scores of a line of a table are not of one kind.

    Attributes:
        summary: the values that are mixed: `task version 1.0 and 2.0`; empty if none are.
        notes: what is other in a record than in most of the line, by its number in the line.
    """

    summary: str
    notes: dict[int, list[str]]


class _Trait(NamedTuple):
    """One respect in which scores may differ.

    Attributes:
        name: what precedes the value in a note; may be empty.
        value: the value of a record; empty if unknown.
        key: records are compared with others of the same key.
        is_consequence: whether it follows from other respects if one of them differs.
        shows_value: whether the value tells people something.
    """

    name: str
    value: _Respect
    key: Callable[[MetricRecord], Hashable] = lambda _: None
    is_consequence: bool = False
    shows_value: bool = True

    def mixed(self, records: Sequence[MetricRecord]) -> dict[str, list[int]]:
        """Return the numbers of the records by value, if there are several; else nothing."""
        by_key: dict[Hashable, dict[str, list[int]]] = {}
        for number, record in enumerate(records):
            if value := self.value(record):
                by_value = by_key.setdefault(self.key(record), {})
                by_value.setdefault(value, []).append(number)
        found: dict[str, list[int]] = {}
        for by_value in by_key.values():
            for value, numbers in by_value.items() if len(by_value) > 1 else ():
                found.setdefault(value, []).extend(numbers)
        return found

    def note(self, value: str) -> str:
        """Return what is other in a record."""
        return f"{self.name} {value}".strip() if self.shows_value else f"other {self.name}"

    def summary(self, values: Iterable[str], joint: str = " and ") -> str:
        """Return that records differ in it."""
        return f"{self.name} {joint.join(values)}".strip() if self.shows_value else self.note("")


def find_differences(a: MetricRecord, b: MetricRecord) -> list[str]:
    """Return why two scores of one task and metric cannot be compared; nothing if they can."""
    found: list[str] = []
    for trait in _traits([a, b]):
        if (values := list(trait.mixed([a, b]))) and not (found and trait.is_consequence):
            found.append(trait.summary(values, " → "))
    return found


def find_mixture(records: Sequence[MetricRecord]) -> LineMixture:
    """Return in what the scores of one task and metric differ that cannot be compared.

    Scores of parts of a group are left out: they are marked as such.
    """
    places = [number for number, record in enumerate(records) if record.aggregate != PARTIAL]
    whole = [records[place] for place in places]
    summaries: list[str] = []
    notes: dict[int, list[str]] = {}
    for trait in _traits(whole):
        mixed = trait.mixed(whole)
        others = _other_than_most(mixed)
        if trait.is_consequence:
            # What was found before explains it.
            others = {value: of for value, of in others.items() if not {*of} & notes.keys()}
        if not others:
            continue
        summaries.append(trait.summary(mixed))
        for value, numbers in others.items():
            for number in numbers:
                notes.setdefault(number, []).append(trait.note(value))
    return LineMixture("; ".join(summaries), {places[n]: found for n, found in notes.items()})


def letter_footnotes(texts: Iterable[str]) -> dict[str, str]:
    """Return the letter of each distinct footnote, in order of appearance: a, b, … z, aa, …"""
    alphabet = string.ascii_lowercase
    names = ("".join(n) for size in (1, 2, 3) for n in itertools.product(alphabet, repeat=size))
    return dict(zip(dict.fromkeys(texts), names, strict=False))


def describe_environments(records: Iterable[MetricRecord]) -> list[str]:
    """Return in what the environments of scores differ, as `backend hf (3), vllm (1)`.

    How answers were generated counts for scores of the same task only.
    """
    records = list(records)
    found = _generation(records)
    for name, column in (("framework version", "framework_version"), ("backend", "backend")):
        counts = Counter(filter(None, (record.value_in(column) for record in records)))
        if len(counts) > 1:
            shown = [f"{value} ({number})" for value, number in counts.most_common()]
            found.append(f"{name} {', '.join(shown)}")
    return found


def describe_states(records: Iterable[MetricRecord]) -> list[str]:
    """Return the models of which some scores are of other files than others, and what differs."""
    states: dict[tuple[str, str], dict[str, None]] = {}
    for record in records:
        name = record.model_path, record.model_revision
        states.setdefault(name, {})[record.model_digest] = None
    found = []
    for (model, _), digests in states.items():
        pairs = itertools.pairwise(map(Contents, filter(None, digests)))
        changes = dict.fromkeys(text for pair in pairs for text in find_changes(*pair))
        if changes:
            found.append(f"{model}: {', '.join(changes)}")
    return found


def _generation(records: Iterable[MetricRecord]) -> list[str]:
    """Return the tasks of which some scores have other generation arguments than others."""
    of_tasks: dict[str, Counter[str]] = {}
    for record in records:
        text = record.value_in("gen_kwargs") or "of the task itself"
        of_tasks.setdefault(record.task, Counter())[text] += 1
    return [
        f"gen_kwargs of {task}: " + ", ".join(f"{text} ({n})" for text, n in counts.most_common())
        for task, counts in of_tasks.items()
        if len(counts) > 1
    ]


def describe_limits(limits: Iterable[float | None]) -> str:
    """Return the limit of documents that scores have, as captions say it; empty if none has one."""
    distinct = dict.fromkeys(limits)
    named = [f"limit {cell_text(limit)}" for limit in distinct if limit is not None]
    if named and None in distinct:
        named.append("no limit")
    return ", ".join(named)


def _traits(records: Sequence[MetricRecord]) -> list[_Trait]:
    """Return the respects in which scores may differ, the most telling first."""
    asked = [_VERSION, _TEMPLATE, _OWN_TEMPLATE, _SHOTS, _LIMIT]
    if _share_hash(records):
        # They have the same documents, whatever commit these came from.
        return asked
    names = dict.fromkeys(name for record in records for name in _commits(record))
    data = [_Trait(f"data {name}", functools.partial(_commit, name)) for name in names]
    return [*asked, *data, _HASH, _DOCUMENTS]


def _commit(name: str, record: MetricRecord) -> str:
    return _commits(record).get(name, "")[:12]


def _commits(record: MetricRecord) -> dict[str, str]:
    words = record.dataset_revision.split()
    return dict(word.rpartition("@")[::2] for word in words if "@" in word)


def _version(record: MetricRecord) -> str:
    """Return a task's version; 1 and 1.0 are the same, because YAML has both."""
    try:
        return str(float(record.task_version)) if record.task_version else ""
    except ValueError:
        return record.task_version


def _template(record: MetricRecord) -> str:
    if not record.chat_template:
        return ""
    return "no chat template" if record.chat_template == NO_TEMPLATE else "chat template"


def _own_template(record: MetricRecord) -> str:
    is_known = record.chat_template not in ("", NO_TEMPLATE, "used")
    return record.chat_template[:8] if is_known else ""


def _task_hash(record: MetricRecord) -> str:
    # Of prompts with an unknown template, nothing is known.
    return "" if record.chat_template == "used" else record.task_hash


def _share_hash(records: Sequence[MetricRecord]) -> bool:
    """Return whether all scores are known to have the same documents and prompts."""
    states = {(record.chat_template, _task_hash(record)) for record in records}
    return len(states) == 1 and all(task_hash for _, task_hash in states)


def _shots(record: MetricRecord) -> str:
    return "" if record.n_shot is None else f"{record.n_shot} shots"


def _limit(record: MetricRecord) -> str:
    return "no limit" if record.limit is None else f"limit {cell_text(record.limit)}"


def _documents(record: MetricRecord) -> str:
    return "" if record.n_samples is None else f"{record.n_samples} documents"


def _same_run(record: MetricRecord) -> Hashable:
    path, step = record.model_path, record.step
    return path if step is None else training_run(path, step)


def _same_prompts(record: MetricRecord) -> Hashable:
    return record.chat_template, record.n_shot, record.limit


_VERSION = _Trait("task version", _version)
_TEMPLATE = _Trait("", _template)
_OWN_TEMPLATE = _Trait("chat template", _own_template, key=_same_run)
_SHOTS = _Trait("", _shots)
_LIMIT = _Trait("", _limit)
_HASH = _Trait(
    "documents or prompts", _task_hash, key=_same_prompts, is_consequence=True, shows_value=False
)
_DOCUMENTS = _Trait("", _documents, key=_limit, is_consequence=True)


def _other_than_most(mixed: Mapping[str, list[int]]) -> dict[str, list[int]]:
    """Return all but the value that most records have; all values if there is no such value."""
    sizes = [len(numbers) for numbers in mixed.values()]
    largest = max(sizes, default=0)
    is_most = sizes.count(largest) == 1
    return {
        value: numbers
        for value, numbers in mixed.items()
        if not (is_most and len(numbers) == largest)
    }
