"""A wheel, built from the tree or from the sdist, finds its data files once installed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support import man
from support.fake_apptainer import FakeApptainer
from support.processes import Run
from support.wheels import add_dependencies, build_wheel, install_wheel

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["tree", "sdist"])
def installed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a wheel, install it into a new environment, and return the environment's bin/."""
    directory = tmp_path_factory.mktemp(request.param)
    # Without --wheel, build makes the sdist, and then the wheel from the sdist.
    options = ["--wheel"] if request.param == "tree" else []
    bin_directory = install_wheel(build_wheel(directory, *options), directory / "venv")
    add_dependencies(bin_directory, extras=[])
    return bin_directory


def test_commands_of_a_wheel_find_their_data(run: Run, installed: Path, tmp_path: Path) -> None:
    where = "import oellm; print(oellm.__file__)"
    assert run(installed / "python", "-c", where).stdout.startswith(str(installed.parent))
    # Type checkers of other projects use the annotations of a package that has this file.
    assert list(installed.parent.glob("lib/python*/site-packages/oellm/py.typed"))
    assert "leonardo" in run(installed / "oe-detect", "--list").stdout
    rows = run(
        *(installed / "oe-manifest", "--models=acme/tiny", "--task_groups=open-sci-0.01"),
    ).stdout
    assert len(rows.splitlines()) == 13
    run(installed / "oe-render", "--cluster=local", "--run_dir=run", stdin=rows)
    worker = tmp_path / "run" / "oe-run-task.pyz"
    assert run("python3", "-I", "-S", worker, "--version").stdout.startswith("oe-run-task ")
    # The definitions, with the files that they copy.
    apptainer = FakeApptainer(tmp_path / "bin")
    words = (installed / "oe-build", "--cluster=local", "--dir=images", "--way=root")
    run(*words, "evalplus-evaluate-cpu", env=apptainer.environment)
    record = json.loads((tmp_path / "images" / "evalplus-evaluate-cpu.sif.json").read_text())
    assert "containers/requirements/evalplus-evaluate.txt" in record["inputs"]["files"]
    shown = run(
        installed / "oellm",
        "schedule-eval",
        "--models=a/b",
        "--tasks=mmlu",
        "--dry_run",
        "--cluster=lumi",
        env={"PATH": "/usr/bin:/bin"},
    ).stdout
    assert "#SBATCH --account=project_462000963" in shown


def test_shells_complete_after_the_installation_of_a_wheel(run: Run, installed: Path) -> None:
    commands = {"oellm", "global-benchmark", *(path.name for path in installed.glob("oe-*"))}
    share = installed.parent / "share"
    names = {path.name for path in (share / "bash-completion" / "completions").iterdir()}
    assert names == commands
    names = {path.stem for path in (share / "fish" / "vendor_completions.d").glob("*.fish")}
    assert names == commands
    assert (share / "zsh" / "site-functions" / "_oellm").is_file()
    # Without an activated environment, the script that oellm prints finds its way back to it.
    line = "oe-manifest --task-g"
    script = f"""
    eval "$({installed}/oellm completion bash)"; compopt() {{ :; }}
    COMP_LINE='{line}' COMP_POINT={len(line)}; _oellm; echo "$COMPREPLY"
    """
    done = run("bash", "-c", script, env={"PATH": "/usr/bin:/bin"})
    assert done.stdout == "--task_groups=\n"
    for shell in ("zsh", "fish"):
        assert "__complete" in run(installed / "oellm", "completion", shell).stdout


def test_man_and_oe_docs_find_the_pages_of_a_wheel(run: Run, installed: Path) -> None:
    commands = {"oellm", "global-benchmark", *(path.name for path in installed.glob("oe-*"))}
    pages = installed.parent / "share" / "man" / "man1"
    assert {page.stem for page in pages.glob("*.1")} == commands
    listed = run(installed / "oellm", "docs").stdout
    assert commands <= {line.split(" ")[0] for line in listed.splitlines()}
    for topic in ("readme", "results", "containers", "oe-fetch"):
        assert run(installed / "oe-docs", topic).stdout.count("\n") > 30
    # As after `source venv/bin/activate`: man looks beside the directories of PATH.
    env = {"PATH": f"{installed}:/usr/bin:/bin"}
    assert "download the models" in man.show("oe-fetch", env=env)
