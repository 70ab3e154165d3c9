"""What runs a framework, or a stage of it, by the settings `images`, `venvs` and `venv`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from oellm.clusters.cluster import Cluster
from oellm.clusters.runtime import find_launcher
from oellm.errors import MachineError

IMAGE, LATER, OWN, SHARED = (
    Path("/i/one.sif"),
    Path("/i/two.sif"),
    "/own/bin/python",
    "/v/bin/python",
)


def found(environment: str, **settings: Any) -> tuple[Path | None, str]:
    given = {"name": "here", "executor": "slurm", "images_directory": "/i", **settings}
    return find_launcher(Cluster(given, {}), environment)


def test_a_second_stage_has_its_own_environment_or_that_of_the_first() -> None:
    images = {"bigcode_eval": "one.sif"}
    assert found("bigcode_eval", images=images) == (IMAGE, "python3")
    assert found("bigcode_eval-evaluate", images=images) == (IMAGE, "python3")
    both = {**images, "bigcode_eval-evaluate": "two.sif"}
    assert found("bigcode_eval-evaluate", images=both) == (LATER, "python3")
    assert found("bigcode_eval", images=both) == (IMAGE, "python3")
    own = {"bigcode_eval-evaluate": "/own"}
    assert found("bigcode_eval-evaluate", images=images, venvs=own) == (None, OWN)


def test_what_is_set_for_a_framework_comes_before_what_is_set_for_all() -> None:
    assert found("evalplus", venvs={"evalplus": "/own"}, venv="/v") == (None, OWN)
    assert found("evalplus-evaluate", venvs={"evalplus": "/own"}, venv="/v") == (None, OWN)
    assert found("lm_eval", venvs={"evalplus": "/own"}, venv="/v") == (None, SHARED)
    images = {"evalplus": "one.sif"}
    assert found("evalplus", images=images, venvs={"evalplus": "/own"}) == (IMAGE, "python3")
    without = {"images": images, "container_runtime": "none"}
    assert found("evalplus", **without, venv="/v") == (None, SHARED)
    assert found("evalplus", executor="local") == (None, sys.executable)


def test_a_framework_without_environment_is_named_with_the_settings_that_give_it_one() -> None:
    with pytest.raises(MachineError, match=r"set images\..* or venvs\."):
        found("evalplus-evaluate", venvs={"lm_eval": "/own"})
