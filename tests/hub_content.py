"""What tests put on the hub, or beside it: small data sets in true schemas, tasks, files."""

from __future__ import annotations

import json
from pathlib import Path

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
    config = {
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


def write_arc(directory: Path) -> Path:
    rows = [
        {
            "id": f"row_{number}",
            "question": question,
            "choices": {"text": choices, "label": list("ABCD")},
            "answerKey": answer,
        }
        for number, (question, choices, answer) in enumerate(ARC)
    ]
    return write_dataset(directory, "ARC-Easy", "ARC-Easy", rows)


def write_hellaswag(directory: Path) -> Path:
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
        for number, (label, context, start, endings) in enumerate(HELLASWAG)
    ]
    return write_dataset(directory, "default", "data", rows)


def write_dataset(directory: Path, config: str, folder: str, rows: list[dict]) -> Path:
    """Write a data set as the hub has it: Parquet by split, and a card that names the config."""
    import pyarrow
    import pyarrow.parquet

    (directory / folder).mkdir(parents=True)
    splits = ("train", "validation", "test")
    for split in splits:
        table = pyarrow.Table.from_pylist(rows)
        pyarrow.parquet.write_table(table, directory / folder / f"{split}-00000-of-00001.parquet")
    files = [{"split": split, "path": f"{folder}/{split}-*"} for split in splits]
    card = json.dumps({"configs": [{"config_name": config, "data_files": files}]})
    (directory / "README.md").write_text(f"---\n{card}\n---\n")
    return directory
