"""The definition files of containers/: what each must have, and what none may have."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from oellm import __version__
from oellm.build.image_builder import describe_revision
from oellm.images.definitions import DefinitionText, definition_names, find_definition
from support.frameworks import framework_environment
from support.processes import ROOT

CONTAINERS = ROOT / "containers"
README = (CONTAINERS / "README.md").read_text()
DEFINITIONS = sorted(CONTAINERS.glob("*.def"))
LOCKS = sorted((CONTAINERS / "requirements").glob("*.txt"))
each_definition = pytest.mark.parametrize("path", DEFINITIONS, ids=lambda path: path.stem)


def section(path: Path, name: str) -> str:
    found = re.search(rf"^%{name}$(.*?)(?=^%|\Z)", path.read_text(), re.MULTILINE | re.DOTALL)
    assert found, f"{path.name} has no %{name}"
    return found[1]


def test_a_definition_or_a_lock_file_makes_an_image_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "requirements").mkdir()
    for name in ("framework-cpu", "framework-cuda", "own-cuda"):
        (tmp_path / f"{name}.def").write_text("Bootstrap: docker\n")
    locks = {"plain": "torch==1\n", "small": "numpy==1\n", "own-cuda": "numpy==1\n"}
    for name, pins in {**locks, "for-cpu": "torch==1\n"}.items():
        (tmp_path / "requirements" / f"{name}.txt").write_text(f"# Made\n{pins}")
    names = definition_names(tmp_path)
    assert names == ["for-cpu-cpu", "own-cuda", "plain-cpu", "plain-cuda", "small-cpu"]
    assert find_definition("plain-cuda", tmp_path).arguments == {"NAME": "plain"}
    assert find_definition("own-cuda", tmp_path).arguments == {}


@each_definition
def test_a_definition_has_the_sections_labels_and_test(path: Path) -> None:
    for name in ("arguments", "files", "environment"):
        section(path, name)
    assert "python3" in section(path, "help")
    labels = section(path, "labels")
    for name in ("title", "description", "revision {{ REVISION }}"):
        assert f"    org.opencontainers.image.{name}" in labels
    for name in ("requirements", "base {{ FROM }}"):
        assert f"    oellm.{name}" in labels
    assert re.search(r"/opt/framework/check\.py (--torch \w+ )?\S+", section(path, "test"))
    head = path.read_text().partition("Bootstrap:")[0]
    assert "not tried" in head.lower(), "say in the head what was not tried"


@each_definition
def test_arguments_are_used_documented_and_complete(path: Path) -> None:
    used = set(re.findall(r"\{\{ (\w+) \}\}", path.read_text()))
    defaults = DefinitionText(path).defaults
    assert used == {*defaults}
    for argument in defaults:
        assert re.search(rf"^\| .*`{argument}`.* \|", README, re.MULTILINE), argument


@each_definition
def test_bases_have_tags_and_no_other_host_is_named(path: Path) -> None:
    base = DefinitionText(path).defaults["FROM"]
    assert re.search(r":[\w.-]*\d[\w.-]*$|@sha256:[0-9a-f]{64}$", base), base
    body = re.sub(r"^ *#.*$", "", path.read_text().replace(base, ""), flags=re.MULTILINE)
    body = body.replace("{{ FROM }}", "")
    assert not re.findall(r"https?://|\b[\w-]+\.(?:com|org|io|net|eu|de)/", body)


@each_definition
def test_post_stops_at_errors_and_installs_only_what_is_pinned(path: Path) -> None:
    post = section(path, "post")
    assert post.startswith("\n    set -eu\n")
    assert not re.search(r"(curl|wget)\b", post)
    installs = re.findall(r"^.*(?:pip install|\{\{ INSTALL \}\}).*$", post, re.MULTILINE)
    assert installs
    assert all("--no-deps" in line for line in installs)
    for source in DefinitionText(path).sources({"NAME": "lm_eval"}):
        assert (ROOT / source).is_file(), source


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_lock_files_pin_every_package(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    assert lines
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []


def test_the_definitions_for_cuda_and_rocm_differ_in_what_they_must() -> None:
    cuda, rocm = ((CONTAINERS / f"framework-{kind}.def").read_text() for kind in ("cuda", "rocm"))
    bodies = [text.partition("\nBootstrap")[2] for text in (cuda, rocm)]
    bodies[0] = bodies[0].replace("cuda", "rocm").replace("NVIDIA", "AMD").replace("--nv", "--rocm")
    differing = [
        line for line, other in zip(*map(str.splitlines, bodies), strict=True) if line != other
    ]
    assert [line.strip().partition("=")[0] for line in differing] == [
        "FROM",
        "apptainer exec --rocm IMAGE python3 -c 'import torch; print(torch.rocm.is_available())'",
    ]


@pytest.mark.parametrize("name", [n for n in definition_names(CONTAINERS) if n[-4:] != "-cpu"])
def test_what_was_compiled_for_a_gpu_stays_that_of_the_base(name: str) -> None:
    found = find_definition(name, CONTAINERS)
    lock = CONTAINERS / "requirements" / f"{found.arguments.get('NAME', name)}.txt"
    chosen = run_install(f"print(*install.chosen({lock.read_text()!r}, {{'tqdm'}}))").split()
    names = {line.partition("==")[0] for line in chosen}
    assert not names & {"torch", "triton", "vllm", "tqdm"}
    assert ("nvidia-bigcode-eval" in names) == ("bigcode" in name)
    assert len(chosen) > 50


def test_a_base_image_without_torch_is_refused() -> None:
    done = subprocess.run(
        [sys.executable, "-S", CONTAINERS / "install.py", LOCKS[0], "true"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, "has no torch" in done.stderr) == (1, True), done.stderr


def test_the_revision_is_the_commit_or_the_version(tmp_path: Path) -> None:
    assert describe_revision(tmp_path) == f"oellm-{__version__}"
    (tmp_path / ".git").mkdir()
    assert describe_revision(tmp_path) == f"oellm-{__version__}"
    commit = ["-c", "user.name=x", "-c", "user.email=x", "commit", "-q", "--allow-empty", "-m", "x"]
    for words in (["init", "-q"], commit):
        subprocess.run(["git", "-C", tmp_path, *words], check=True)
    head = subprocess.check_output(["git", "-C", tmp_path, "rev-parse", "HEAD"], text=True)
    assert describe_revision(tmp_path) == head.strip()


@pytest.mark.slow
def test_a_wrong_score_fails_the_check() -> None:
    python = framework_environment("bigcode_eval") / "bin" / "python"
    code = "import check; check.BAD = check.GOOD; check.score_bigcode()"
    done = subprocess.run(
        [python, "-c", code], cwd=CONTAINERS, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "bigcode's pass@1 is 1.0, expected 0.5" in done.stderr


def run_install(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", f"import install; {code}"],
        cwd=CONTAINERS,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout
