"""A cache with data sets that tasks of lighteval read, made by its own environment."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from support import belebele_rows, hub_content, shared_cache
from support.frameworks import framework_environment
from support.hub import Hub
from support.hub_content import write_dataset

# Its answers have fewer tokens than there are answers.
SHORT = "hrv_Latn"
# The data set has this language, but not the cache.
MISSING = "ces_Latn"
FLORES = "eng_Latn-bul_Cyrl"

_LOAD = "import sys, datasets\nfor name in sys.argv[2:]: datasets.load_dataset(sys.argv[1], name)"
# The tables of NLTK's tokenizer punkt_tab, which may be empty.
_PUNKT = ("collocations.tab", "sent_starters.txt", "abbrev_types.txt", "ortho_context.tab")


def lighteval_cache(right: str = "1") -> dict[str, str]:
    """Return the variables for the cache; `right` is the number of the right answers."""
    environment = framework_environment("lighteval")

    def make(directory: Path) -> None:
        served = directory / "served"
        with Hub() as hub:
            _serve(hub, served, right)
            for name, *configs in (
                ("facebook/belebele", belebele_rows.LANGUAGE, SHORT),
                ("facebook/flores", FLORES),
            ):
                _load(environment, hub, directory / "hf", name=name, configs=configs)

    sources = (Path(__file__), Path(belebele_rows.__file__), Path(hub_content.__file__))
    parts = [environment.name.encode(), right.encode(), *(each.read_bytes() for each in sources)]
    made = shared_cache.cached_directory(f"lighteval-cache-{shared_cache.digest(parts)}", make)
    return {"HF_HOME": str(made / "hf")}


def write_punkt(directory: Path) -> None:
    """Write a tokenizer that knows no abbreviation below a directory for NLTK_DATA."""
    english = directory / "tokenizers" / "punkt_tab" / "english"
    english.mkdir(parents=True)
    for name in _PUNKT:
        (english / name).write_text("")


def _serve(hub: Hub, directory: Path, right: str) -> None:
    rows = [{**row, "correct_answer_num": right} for row in belebele_rows.belebele_rows()]
    short = [{**row, **{f"mc_answer{n}": "0123"[n - 1] for n in range(1, 5)}} for row in rows]
    belebele, flores = directory / "belebele", directory / "flores"
    languages: Mapping[str, list[dict[str, Any]]] = {
        belebele_rows.LANGUAGE: rows,
        SHORT: short,
        MISSING: rows,
    }
    for language, content in languages.items():
        write_dataset(belebele, language, language, content, ("test",))
    sentences = [
        {"id": n, "sentence_eng_Latn": f"Number {n}.", "sentence_bul_Cyrl": f"Число {n}."}
        for n in range(4)
    ]
    write_dataset(flores, FLORES, FLORES, sentences, ("dev", "devtest"))
    hub.add_dataset("facebook/belebele", belebele)
    hub.add_dataset("facebook/flores", flores)


def _load(environment: Path, hub: Hub, hf_home: Path, *, name: str, configs: list[str]) -> None:
    command = [environment / "bin" / "python", "-c", _LOAD, name, *configs]
    subprocess.run(
        [str(word) for word in command],
        env={**os.environ, "HF_HOME": str(hf_home), **hub.environment},
        check=True,
        capture_output=True,
    )
