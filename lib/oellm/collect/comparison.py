"""Compares two sets of metric records, A and B: what changed, and whether it is significant."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

from oellm.collect import significance
from oellm.collect.samples import DocumentScores, RowSamples
from oellm.collect.significance import Difference
from oellm.core import schema
from oellm.core.processes.process_map import map_in_processes
from oellm.core.text_enum import TextEnum
from oellm.errors import InputError
from oellm.metrics import model_names
from oellm.metrics import records as metric_records
from oellm.metrics.comparability import describe_limits, find_differences
from oellm.metrics.model_names import ModelName, short_names
from oellm.metrics.records import PARTIAL, MetricRecord
from oellm.metrics.score_groups import select_primary

# Two records are compared if they agree in these columns, and in the model.
MATCHING = ("task", "group", "n_shot", "limit", "eval_suite", "metric", "filter")

# Columns that do not tell why a side has two records.
_SCORES = ("value", "stderr", "n_samples", "finished", "is_primary")
# The number of records that a message names.
_MOST_NAMED = 3


class NoiseMethod(TextEnum):
    """How the standard error of a difference is known (column `method`)."""

    PAIRED = "paired"
    INDEPENDENT = "independent"
    NONE = ""


class Verdict(TextEnum):
    """What a difference means (column `verdict`)."""

    BETTER = "better"
    WORSE = "worse"
    SAME = "same"
    DIFFERENT = "different"
    UNKNOWN = "unknown"
    NOT_COMPARABLE = "not comparable"


class RecordPair(NamedTuple):
    """Two records that are compared."""

    a: MetricRecord
    b: MetricRecord


class RecordPairs(NamedTuple):
    """The records of two sides, matched.

    Attributes:
        both: in the order of A.
        not_primary: the metrics that both sides have, if none of them is primary.
        n_partial: the number of scores from parts of groups. They are not compared, because which
            tasks of the group they cover is unknown.
    """

    both: list[RecordPair]
    not_primary: list[str]
    only_a: list[MetricRecord]
    only_b: list[MetricRecord]
    n_partial: int


class ComparisonRecord(NamedTuple):
    """What changed in one score. The fields are the columns of schema.json's table `comparison`."""

    task: str
    group: str
    n_shot: int | None
    limit: float | None
    eval_suite: str
    metric: str
    filter: str
    model_a: str
    model_b: str
    value_a: float
    value_b: float
    difference: float
    stderr: float | None
    method: NoiseMethod
    n_samples: int | None
    p_value: float | None
    p_holm: float | None
    verdict: Verdict
    remark: str
    # No columns, but the users' own columns of both sides by name.
    extra_a: Mapping[str, str]
    extra_b: Mapping[str, str]


class Comparison(NamedTuple):
    """What changed from A to B.

    Attributes:
        caption: what holds for all scores; part of a table for people.
        messages: what only one side has, and a summary; one text each, without line ends.
    """

    records: list[ComparisonRecord]
    caption: list[str]
    messages: list[str]


def column_names() -> list[str]:
    """Return the columns that every comparison record has, in order."""
    return list(ComparisonRecord._fields[:-2])


def column_types(columns: Iterable[str], extra: Iterable[str]) -> dict[str, str]:
    """Return the type of some columns, and of two for each of the users' own: NAME_a and NAME_b."""
    types = {column: schema.table("comparison")[column]["type"] for column in columns}
    own = (f"{name}_{side}" for name in extra for side in ("a", "b"))
    return types | {name: "text" for name in own if name not in types}


def select_columns(
    records: Iterable[ComparisonRecord], columns: Sequence[str]
) -> Iterator[list[Any]]:
    """Yield the values of each record in some columns of `column_types`."""
    for record in records:
        sides = (("a", record.extra_a), ("b", record.extra_b))
        own = {f"{name}_{side}": text for side, extra in sides for name, text in extra.items()}
        values = {**own, **record._asdict()}
        yield [values.get(column, "") for column in columns]


def shorten_models(records: Iterable[ComparisonRecord]) -> list[ComparisonRecord]:
    """Return the records with the names of models that tables show."""
    records = list(records)
    paths = [path for each in records for path in (each.model_a, each.model_b)]
    names = {model.path: name for model, name in short_names(map(ModelName, paths)).items()}
    return [
        each._replace(model_a=names[each.model_a], model_b=names[each.model_b]) for each in records
    ]


def describe_left_out(records: Iterable[ComparisonRecord]) -> str:
    """Return what tables leave out of the names of models; empty if it is nothing."""
    paths = [path for each in records for path in (each.model_a, each.model_b)]
    return model_names.describe_left_out(short_names(map(ModelName, paths)))


def compare_records(
    records_a: Iterable[MetricRecord], records_b: Iterable[MetricRecord], every: bool = False
) -> Comparison:
    """Compare metric records of the same task and metric, in the order of A.

    Compares primary metrics, or all of them if `every` is set. Reads the samples of both sides, if
    there are any, row by row. Raises InputError if a side is empty or ambiguous (pair_records).
    """
    pairs = pair_records(records_a, records_b, every)
    rows = [list(of_rows) for _, of_rows in itertools.groupby(pairs.both, _rows)]
    # Rows are compared in parallel, because parsing samples takes most of the time.
    compared = itertools.chain.from_iterable(map_in_processes(_compare_row, rows))
    records = _with_corrected_p_values(list(compared))
    limit = describe_limits(record.limit for record in records)
    caption = [f"all scores: {limit}"] if limit else []
    messages = [*_messages_about_rest(pairs), *_messages_about_mixtures(records), *caption]
    if pairs.not_primary:
        there = ", ".join(pairs.not_primary)
        messages.append(f"none is of a primary metric; there are {there}: choose with --metric")
        return Comparison(records, caption, messages)
    return Comparison(records, caption, [*messages, _summary(records)])


def _with_corrected_p_values(records: list[ComparisonRecord]) -> list[ComparisonRecord]:
    known = [record.p_value for record in records if record.p_value is not None]
    corrected = iter(significance.correct_by_holm(known))
    return [
        record if record.p_value is None else record._replace(p_holm=next(corrected))
        for record in records
    ]


def _rows(pair: RecordPair) -> list[tuple[str, str]]:
    """Return the rows of A and B that two records are from; each row has its own samples file."""
    return [(record.run_dir, record.eval_id) for record in pair]


def _compare_row(pairs: list[RecordPair]) -> list[ComparisonRecord]:
    samples_a = RowSamples([pair.a for pair in pairs])
    samples_b = RowSamples([pair.b for pair in pairs])
    records = []
    for a, b in pairs:
        of_a, of_b = samples_a.document_scores(a), samples_b.document_scores(b)
        scores, remark = _match_documents(of_a, of_b)
        whole = (len(of_a.scores), len(of_b.scores)) == (a.n_samples, b.n_samples)
        others = whole and scores is None
        difference, method, n_samples = _difference(a, b, scores)
        verdict = _verdict(difference, a.higher_is_better, b.higher_is_better)
        if reasons := [*find_differences(a, b), *([remark] if others else [])]:
            difference, method = Difference(b.value - a.value, None, None), NoiseMethod.NONE
            verdict, remark = Verdict.NOT_COMPARABLE, "; ".join(reasons)
        records.append(
            ComparisonRecord(
                task=a.task,
                group=a.group,
                n_shot=a.n_shot,
                limit=a.limit,
                eval_suite=a.eval_suite,
                metric=a.metric,
                filter=a.filter,
                model_a=a.model_path,
                model_b=b.model_path,
                value_a=a.value,
                value_b=b.value,
                difference=difference.value,
                stderr=difference.stderr,
                method=method,
                n_samples=n_samples,
                p_value=difference.p_value,
                p_holm=None,
                verdict=verdict,
                remark="; ".join(filter(None, [remark, *_remarks(a, b)])),
                extra_a=a.extra,
                extra_b=b.extra,
            )
        )
    return records


def _remarks(a: MetricRecord, b: MetricRecord) -> Iterator[str]:
    """Yield what is not as asked on either side."""
    if a.remark == b.remark:
        yield a.remark
        return
    for name, record in (("A", a), ("B", b)):
        if record.remark:
            yield f"{name}: {record.remark}"


def _difference(
    a: MetricRecord, b: MetricRecord, scores: tuple[list[float], list[float]] | None
) -> tuple[Difference, NoiseMethod, int | None]:
    """Return the difference, the method that its error is from, and the number of documents."""
    if scores:
        difference = significance.paired_difference(*scores)
        if difference.stderr is not None:
            return difference, NoiseMethod.PAIRED, len(scores[0])
    difference = significance.independent_difference(
        b.value - a.value, (a.stderr, b.stderr), (a.n_samples, b.n_samples)
    )
    method = NoiseMethod.NONE if difference.stderr is None else NoiseMethod.INDEPENDENT
    return difference, method, a.n_samples if a.n_samples == b.n_samples else None


def _match_documents(
    a: DocumentScores, b: DocumentScores
) -> tuple[tuple[list[float], list[float]] | None, str]:
    """Return the scores of both sides, document by document; else None, and a remark on why."""
    if a.scores and b.scores:
        if a.scores.keys() == b.scores.keys():
            of_b = [b.scores[document] for document in a.scores]
            return (list(a.scores.values()), of_b), ""
        return None, (
            f"{len(a.scores.keys() - b.scores.keys())} of {len(a.scores)} documents only in A, "
            f"{len(b.scores.keys() - a.scores.keys())} of {len(b.scores)} only in B"
        )
    # One remark for both; none if neither side has samples, which is usual.
    if not a.scores and not b.scores and a.reason == b.reason:
        return None, a.reason or ""
    return None, "; ".join(
        f"{name}: {side.reason or 'no samples'}"
        for name, side in (("A", a), ("B", b))
        if not side.scores
    )


def _verdict(difference: Difference, direction_a: bool | None, direction_b: bool | None) -> Verdict:
    if difference.p_value is None:
        return Verdict.UNKNOWN
    if difference.p_value >= significance.LEVEL:
        return Verdict.SAME
    if direction_a is None or direction_a != direction_b:
        return Verdict.DIFFERENT
    return Verdict.BETTER if (difference.value > 0) == direction_a else Verdict.WORSE


def _messages_about_rest(pairs: RecordPairs) -> Iterator[str]:
    for name, records in (("A", pairs.only_a), ("B", pairs.only_b)):
        if records:
            named = [describe_record(record) for record in records[:_MOST_NAMED]]
            more = ["…"] if len(records) > _MOST_NAMED else []
            yield f"not compared, {len(records)} only in {name}: {'; '.join(named + more)}"
    if pairs.n_partial:
        yield (f"not compared, {pairs.n_partial} partial: their members are not known")


def _messages_about_mixtures(records: Sequence[ComparisonRecord]) -> Iterator[str]:
    """Yield a line for each reason why scores cannot be compared."""
    tasks: dict[str, dict[str, None]] = {}
    for record in records:
        if record.verdict is Verdict.NOT_COMPARABLE:
            tasks.setdefault(record.remark, {})[record.task] = None
    for reason, names in tasks.items():
        yield f"not comparable, {reason}: {', '.join(names)}"


def _summary(records: list[ComparisonRecord]) -> str:
    if not records:
        return "A and B have no metric of the same task, shots and limit"
    level = significance.LEVEL
    tested = [record for record in records if record.p_value is not None]
    unpaired = sum(record.method is NoiseMethod.INDEPENDENT for record in tested)
    mixed = sum(record.verdict is Verdict.NOT_COMPARABLE for record in records)
    beyond = sum(record.p_value < level for record in tested if record.p_value is not None)
    holding = sum(record.p_holm < level for record in tested if record.p_holm is not None)
    unknown = len(records) - len(tested) - mixed
    return (
        f"{beyond} of {len(tested)} differences are significant at {level * 100:g} %; "
        f"chance alone gives up to {len(tested) * level:.3g}; after Holm's correction {holding}"
        + (f"; {unpaired} of them without pairs of documents" if unpaired else "")
        + (f"; {unknown} could not be tested" if unknown else "")
        + (f"; {mixed} are not comparable" if mixed else "")
    )


def pair_records(
    records_a: Iterable[MetricRecord], records_b: Iterable[MetricRecord], every: bool
) -> RecordPairs:
    """Match records by MATCHING and the model; if each side has one model, these two match.

    Keeps pairs of which at least one record is primary, or all if `every` is set. Raises InputError
    if a side has no records or two that match the same, or if no model of one side is in the other.
    """
    all_a, all_b = list(records_a), list(records_b)
    columns = MATCHING if _is_one_each(all_a, all_b) else (*MATCHING, "model_path")
    of_a, of_b = _by_key(all_a, columns, "A"), _by_key(all_b, columns, "B")
    matching = [RecordPair(a, of_b[key]) for key, a in of_a.items() if key in of_b]
    primary = {id(record) for side in (all_a, all_b) for record in select_primary(side)}
    both = [pair for pair in matching if every or primary & {id(pair.a), id(pair.b)}]
    return RecordPairs(
        both=both,
        not_primary=list(dict.fromkeys(pair.a.metric for pair in matching)) if not both else [],
        only_a=[a for key, a in of_a.items() if key not in of_b and (every or id(a) in primary)],
        only_b=[b for key, b in of_b.items() if key not in of_a and (every or id(b) in primary)],
        n_partial=sum(record.aggregate == PARTIAL for record in (*all_a, *all_b)),
    )


def describe_record(record: MetricRecord) -> str:
    """Return model, task, metric and settings of a record, as messages name it."""
    settings = [
        f"{name}={value}"
        for name, value in (("n_shot", record.n_shot), ("limit", record.limit))
        if value is not None
    ]
    metric = f"{record.metric},{record.filter}"
    return " ".join([record.model_path, record.task, metric, *settings])


def _is_one_each(all_a: list[MetricRecord], all_b: list[MetricRecord]) -> bool:
    """Return whether both sides have one model; raises InputError if the models do not match."""
    models_a, models_b = ({record.model_path for record in side} for side in (all_a, all_b))
    for side, models in (("A", models_a), ("B", models_b)):
        if not models:
            raise InputError("expected metric records, got none", side)
    if len(models_a) == len(models_b) == 1:
        return True
    if models_a.isdisjoint(models_b):
        raise InputError(
            f"expected a model that A and B share, or one in each; A has {len(models_a)}, B has "
            f"{len(models_b)}: choose with --filter_a model_path=… and --filter_b model_path=…"
        )
    return False


def _by_key(
    records: list[MetricRecord], columns: tuple[str, ...], side: str
) -> dict[tuple[Any, ...], MetricRecord]:
    key_of = attrgetter(*columns)
    by_key: dict[tuple[Any, ...], MetricRecord] = {}
    for record in records:
        if record.aggregate == PARTIAL:
            continue
        other = by_key.setdefault(key_of(record), record)
        if other is not record:
            names = dict.fromkeys(
                column
                for column in (*metric_records.column_names(), *record.extra, *other.extra)
                if column not in _SCORES and record.value_in(column) != other.value_in(column)
            )
            raise InputError(
                f"expected {describe_record(record)} once, got it twice, with different "
                f"{', '.join(names) or 'scores'}: choose with --filter_{side.lower()}",
                side,
            )
    return by_key
