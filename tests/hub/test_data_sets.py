"""What hub/data_sets.py assumes about `datasets`: each test fails if upstream changes that."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import pytest

from oellm.hub import data_sets

pytestmark = pytest.mark.slow


def load_local(directory: Path) -> object:
    import datasets

    (directory / "one.json").write_text(json.dumps({"text": "x"}) + "\n")
    files = {"train": str(directory / "one.json")}
    return datasets.load_dataset("json", data_files=files, cache_dir=str(directory / "cache"))


def test_the_arguments_that_we_look_at_are_where_we_look() -> None:
    import datasets.load

    # Not datasets.load_dataset, which may be replaced already.
    parameters = list(inspect.signature(datasets.load.load_dataset).parameters)
    assert parameters[:4] == ["path", "name", "data_dir", "data_files"]
    assert "revision" in parameters


def test_frameworks_call_the_function_that_we_replace() -> None:
    import lm_eval.api.task

    assert "datasets.load_dataset(" in inspect.getsource(lm_eval.api.task)


def test_paths_in_the_cache_tell_configuration_and_origin(tmp_path: Path) -> None:
    import datasets

    configuration, origin = data_sets._origin(load_local(tmp_path))
    assert configuration.startswith("default-")
    assert len(origin) == 64
    assert data_sets._default_file("acme/BigWords").parent.name == "acme___big_words"
    # Versions that some frameworks need still load data sets without an organisation.
    assert data_sets._default_file("openai_humaneval").parent.name == "openai_humaneval"
    assert isinstance(datasets.config.HF_HUB_OFFLINE, bool)


def test_each_split_has_a_fingerprint(tmp_path: Path) -> None:
    (fingerprint,) = data_sets.fingerprints(load_local(tmp_path)).values()
    assert len(fingerprint) == 16
    assert data_sets.fingerprints(None) == {}
