"""Definitions: their names, and what an image of one is made of."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from oellm.core.json_config import read_json_file
from oellm.core.paths import data_file
from oellm.core.regular_files import DOCUMENT
from oellm.errors import InputError, UsageError
from oellm.images.definitions import (
    ImageDefinition,
    containers_directory,
    definition_names,
    find_definition,
    read_inputs,
    select_arguments,
)
from support.fake_apptainer import write_definition

HEAD = "Bootstrap: {{ BOOTSTRAP }}\nFrom: {{FROM}}"
ARGUMENTS = {"BOOTSTRAP": "docker", "FROM": "python:3", "NAME": "a"}


@pytest.fixture
def containers(tmp_path: Path) -> Path:
    directory = tmp_path / "containers"
    (directory / "requirements").mkdir(parents=True)
    for name in ("a", "b-evaluate"):
        (directory / "requirements" / f"{name}.txt").write_text(name)
    files = ["containers/requirements/{{ NAME }}.txt"]
    for name in ("framework-cpu", "own-cuda"):
        write_definition(directory / f"{name}.def", files=files, head=HEAD, arguments=ARGUMENTS)
    return directory


def test_each_definition_and_each_lock_file_has_a_name(containers: Path) -> None:
    assert definition_names(containers) == ["a-cpu", "b-evaluate-cpu", "own-cuda"]
    definition = find_definition("b-evaluate-cpu", containers)
    assert definition.path == containers / "framework-cpu.def"
    assert definition.arguments == {"NAME": "b-evaluate"}
    with pytest.raises(UsageError, match="unknown definition 'own-cude', did you mean own-cuda"):
        find_definition("own-cude", containers)


def test_inputs_are_those_of_the_lock_file_and_the_base_that_the_arguments_say(
    containers: Path,
) -> None:
    definition = find_definition("b-evaluate-cpu", containers)
    inputs = read_inputs(definition, {})
    assert inputs.base == "docker://python:3"
    assert [*inputs.files] == ["containers/requirements/b-evaluate.txt"]
    assert read_inputs(definition, {"FROM": "debian"}).base == "docker://debian"
    # A local base is another one if it has changed.
    base = containers / "base.sif"
    local = {"BOOTSTRAP": "localimage", "FROM": str(base)}
    base.write_text("x")
    before = read_inputs(definition, local)
    os.utime(base, ns=(1, 1))
    (difference,) = read_inputs(definition, local).differences(before.to_json())
    assert difference.startswith("base changed: localimage://")


def test_the_files_of_an_image_are_those_of_this_machine(containers: Path) -> None:
    (containers / "tools").mkdir()
    for name in ("a.py", "b.py"):
        (containers / "tools" / name).write_text(name)
    # More than what is read as a whole, and nothing on the disk.
    with (containers / "large").open("wb") as large:
        large.truncate(DOCUMENT + 1)
    path = write_definition(containers / "own.def", files=["tools/*.py", "large"], head=HEAD)
    with path.open("a") as definition:
        definition.write("\n%files from builder\n/opt/made /opt/made\n")
    own = ImageDefinition("own", path, {}, root=containers)
    before = read_inputs(own, {})
    assert [*before.files] == ["tools/a.py", "tools/b.py", "large"]
    (containers / "tools" / "b.py").write_text("changed")
    (difference,) = read_inputs(own, {}).differences(before.to_json())
    assert difference == "file changed: b.py"
    path = write_definition(containers / "own.def", files=["tools/*.txt"], head=HEAD)
    with pytest.raises(InputError, match="which is not there"):
        read_inputs(own, {})


def test_an_argument_that_only_some_definitions_have_is_for_these(containers: Path) -> None:
    write_definition(containers / "plain.def")
    definitions = [find_definition(name, containers) for name in ("own-cuda", "plain", "a-cpu")]
    selected = select_arguments(definitions, {"FROM": "x"})
    assert selected == {"own-cuda": {"FROM": "x"}, "plain": {}, "a-cpu": {"FROM": "x"}}
    # The name of the image stands for this one.
    with pytest.raises(UsageError, match="no definition has the argument 'NAME'"):
        select_arguments(definitions[2:], {"NAME": "b-evaluate"})


def test_all_definitions_of_the_project_can_be_read() -> None:
    containers = containers_directory()
    names = definition_names(containers)
    for name in names:
        inputs = read_inputs(find_definition(name, containers), {})
        assert inputs.base.startswith("docker://")
        assert "{{" not in inputs.base


# By framework stage, the kinds of machines for which the project has a definition.
KINDS = {
    "bigcode_eval": ("cpu", "cuda", "rocm"),
    "bigcode_eval-multiple": ("cpu",),
    "bigcodebench-evaluate": ("cpu",),
    "bigcodebench-published": ("cpu",),
    "evalplus-evaluate": ("cpu",),
    "evalplus-generate": ("cpu", "cuda", "rocm"),
    "lighteval": ("cpu", "cuda", "rocm"),
    "lm_eval": ("cpu", "cuda", "rocm"),
    "vllm": ("cuda",),
    "vllm-cpu": ("cpu",),
}


def test_each_stage_has_its_definitions_and_clusters_name_what_they_make() -> None:
    names = definition_names(containers_directory())
    assert names == sorted(f"{stage}-{kind}" for stage, kinds in KINDS.items() for kind in kinds)
    clusters = read_json_file(data_file("clusters.json")).value["clusters"]
    named = {
        (cluster, image)
        for cluster, settings in clusters.items()
        for image in settings.get("images", {}).values()
    }
    # The seed project's own images have a name for each cluster, and no definition here.
    others = {(cluster, f"eval_env-{cluster}.sif") for cluster, _ in named}
    assert {image.removesuffix(".sif") for _, image in named - others} <= {*names}
    assert len({cluster for cluster, _ in named - others}) == 5
