"""Reads the JSON lines beside this file, so the tasks need neither a hub nor a cache."""

import json
from pathlib import Path


def load(file: str, **_: object) -> object:
    """Return a data set with the splits `fewshot` and `test` of a file."""
    import datasets

    lines = (Path(__file__).parent / file).read_text(encoding="utf-8").splitlines()
    documents = [json.loads(line) for line in lines]
    return datasets.DatasetDict(
        {
            split: datasets.Dataset.from_list([d for d in documents if d["split"] == split])
            for split in ("fewshot", "test")
        }
    )
