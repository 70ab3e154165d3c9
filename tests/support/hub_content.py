"""Content for the hub of the tests: small data sets in their true schemas, tasks, files."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

# Written for this project, in the schema of allenai/ai2_arc.
ARC = [
    ("Which of these gives off its own light?", ["the Moon", "the Sun", "a mirror", "ice"], "B"),
    ("What do roots take up from soil?", ["water", "light", "sound", "wind"], "A"),
    ("Which tool measures mass?", ["a ruler", "a clock", "a cup", "a balance"], "D"),
    ("What turns water into vapour?", ["heat", "shade", "salt", "glass"], "A"),
]
# Written for this project, in the schema of Rowan/hellaswag.
HELLASWAG = [
    (
        "Baking bread",
        "A man kneads dough.",
        "he",
        ["shapes a loaf.", "swims.", "flies.", "sleeps."],
    ),
    ("Rowing", "Two women sit in a boat.", "they", ["pull the oars.", "ski.", "cook.", "paint."]),
    ("Painting", "A girl holds a brush.", "she", ["dips it in paint.", "eats.", "dives.", "runs."]),
]


def write_files(directory: Path, *names: str) -> Path:
    for name in names:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{directory.name}/{name}")
    return directory


def write_task(directory: Path, name: str, dataset: str = "json") -> Path:
    """Write a task over four local documents, or over a data set of the hub."""
    directory.mkdir(parents=True, exist_ok=True)
    documents = [
        {"question": question, "choices": choices, "answer": "ABCD".index(label)}
        for question, choices, label in ARC
    ]
    data = directory / f"{name}.jsonl"
    data.write_text("".join(json.dumps(document) + "\n" for document in documents))
    config: dict[str, Any] = {
        "task": name,
        "dataset_path": dataset,
        "output_type": "multiple_choice",
        "test_split": "test",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    if dataset == "json":
        config["dataset_kwargs"] = {"data_files": {"test": str(data)}}
    (directory / f"{name}.yaml").write_text(json.dumps(config))
    return directory


def write_code(directory: Path, name: str, code: str, **config: str) -> Path:
    """Write a task whose config names functions of its own module."""
    write_task(directory, name)
    (directory / f"{name}_code.py").write_text(code)
    path = directory / f"{name}.yaml"
    functions = "".join(
        f", {key}: !function {name}_code.{function}" for key, function in config.items()
    )
    path.write_text(path.read_text()[:-1] + functions + "}")
    return path


def write_arc(directory: Path, count: int = len(ARC)) -> Path:
    documents = itertools.islice(itertools.cycle(ARC), count)
    rows = [
        {
            "id": f"row_{number}",
            "question": question,
            "choices": {"text": choices, "label": list("ABCD")},
            "answerKey": answer,
        }
        for number, (question, choices, answer) in enumerate(documents)
    ]
    return write_dataset(directory, "ARC-Easy", "ARC-Easy", rows)


def write_hellaswag(directory: Path, copies: int = 1) -> Path:
    rows = [
        {
            "ind": number,
            "activity_label": label,
            "ctx_a": context,
            "ctx_b": start,
            "ctx": f"{context} {start}",
            "endings": endings,
            "source_id": f"oellm~{number}",
            "split": "val",
            "split_type": "indomain",
            "label": "0",
        }
        for number, (label, context, start, endings) in enumerate(HELLASWAG * copies)
    ]
    return write_dataset(directory, "default", "data", rows)


def write_mmlu(directory: Path, subjects: Iterable[str]) -> Path:
    """Write cais/mmlu: a configuration for each subject, with a split of examples."""
    rows = [
        {"question": question, "subject": "", "choices": choices, "answer": "ABCD".index(label)}
        for question, choices, label in ARC * 2
    ]
    for subject in subjects:
        write_dataset(directory, subject, subject, rows, ("test", "validation", "dev"))
    return directory


def write_belebele(directory: Path) -> Path:
    """Write facebook/belebele: a configuration for each language, all in the split test."""
    for language in ("deu_Latn", "fra_Latn"):
        rows = [
            {
                "flores_passage": f"{language} {question}",
                "question": question,
                **{f"mc_answer{number}": choice for number, choice in enumerate(choices, 1)},
                "correct_answer_num": str("ABCD".index(label) + 1),
            }
            for question, choices, label in ARC
        ]
        write_dataset(directory, language, language, rows, ("test",))
    return directory


def write_polemo(directory: Path) -> Path:
    """Write allegro/klej-polemo2-in."""
    rows = [{"sentence": question, "target": "__label__meta_plus_m"} for question, _, _ in ARC]
    return write_dataset(directory, "default", "data", rows)


def write_metric(directory: Path, name: str) -> Path:
    """Write a metric of `evaluate` that calls every answer right."""
    directory.mkdir(parents=True)
    (directory / f"{name}.py").write_text(METRIC.replace("NAME", name))
    return directory


METRIC = """
import datasets
import evaluate

class Metric(evaluate.Metric):
    def _info(self):
        features = datasets.Features(
            {"predictions": datasets.Value("int32"), "references": datasets.Value("int32")}
        )
        return evaluate.MetricInfo(
            description="", citation="", inputs_description="", features=features
        )

    def _compute(self, predictions, references, **options):
        return {"NAME": 1.0}
"""


def write_dataset(
    directory: Path,
    config: str,
    folder: str,
    rows: list[dict[str, Any]],
    splits: Sequence[str] = ("train", "validation", "test"),
) -> Path:
    """Write a configuration of a data set as on the hub: in Parquet, named in the card."""
    import pyarrow
    import pyarrow.parquet

    (directory / folder).mkdir(parents=True)
    table = pyarrow.Table.from_pylist(rows)
    for split in splits:
        pyarrow.parquet.write_table(table, directory / folder / f"{split}-00000-of-00001.parquet")
    card = directory / "README.md"
    configs = json.loads(card.read_text().strip("-\n"))["configs"] if card.exists() else []
    files = [{"split": split, "path": f"{folder}/{split}-*"} for split in splits]
    configs.append({"config_name": config, "data_files": files})
    card.write_text(f"---\n{json.dumps({'configs': configs})}\n---\n")
    return directory
