"""The documentation says what the code does; the README's example runs."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from oellm import frameworks
from oellm.core import schema
from oellm.errors import ExitStatus
from support.processes import DEMO_TASKS, ROOT, Run, clean_environment, make_tiny_model

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_generated_pages_are_up_to_date() -> None:
    made = subprocess.run(
        [sys.executable, ROOT / "scripts" / "make-docs", "--check"],
        capture_output=True,
        check=False,
    )
    assert made.returncode == 0, f"{made.stderr.decode()}\nrun: make docs"


def test_every_command_and_exit_status_is_in_the_readme() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    commands = re.findall(r'^([\w-]+) = "\w+:main"$', project, re.MULTILINE)
    assert len(commands) == len([*ROOT.glob("commands/*.py")])
    for command in commands:
        assert f"| [{command}](docs/{command}.md) |" in README
    (statuses,) = re.findall(r"Exit status: (.*?)\.", README, re.DOTALL)
    told = [int(part.split()[0]) for part in statuses.split(",")]
    assert told == [int(status) for status in ExitStatus]


def test_no_link_is_broken() -> None:
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("containers/*.md")):
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert link.startswith("https://") or (page.parent / link).exists(), (page, link)


def test_the_manifest_in_the_readme_is_valid(run: Run) -> None:
    (manifest,) = re.findall(r"```csv\n(.*?)```", README, re.DOTALL)
    run("oe-render", "--cluster=local", "--dry_run", stdin=manifest)


def test_the_clusters_of_the_page_are_valid(run: Run, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "CLUSTERS.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    homes = {"mine": "/scratch/a42/evals/hf_home", "plain": "/scratch/me/evals/hf_home"}
    for cluster, (name, home) in zip(blocks, homes.items(), strict=True):
        (tmp_path / "clusters.json").write_text(cluster)
        env = {"OELLM_CONFIG": str(tmp_path / "clusters.json")}
        shown = json.loads(run("oe-detect", f"--cluster={name}", env=env).stdout)
        assert shown["hf_home"] == home


def test_every_framework_that_runs_is_on_its_page_and_its_rows_are_valid(
    run: Run, tmp_path: Path
) -> None:
    page = (ROOT / "docs" / "FRAMEWORKS.md").read_text(encoding="utf-8")
    tried = page.partition("## What was tried")[2].partition("\n## ")[0]
    for name in frameworks.runnable_names():
        assert f"\n| `{name}` | " in tried
        assert f"\n## {name}\n" in page
        is_program = frameworks.create_program_framework(name) is not None
        assert (f"<!-- make-docs: {name} -->" in page) == is_program
    (settings,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    (tmp_path / "clusters.json").write_text(settings)
    shown = run(
        "oe-detect", "--cluster=mine", env={"OELLM_CONFIG": str(tmp_path / "clusters.json")}
    )
    assert json.loads(shown.stdout)["images"]["evalplus-evaluate"] == "evalplus-evaluate-cpu.sif"
    manifests = re.findall(r"```csv\n(.*?)```", page, re.DOTALL)
    assert len(manifests) >= 4
    for manifest in manifests:
        command = ["oe-render", "--cluster=local", "--dry_run", "--unsafe_execution"]
        run(*command, stdin=manifest)


def test_no_code_repeats_the_list_of_columns() -> None:
    columns = set(schema.table("metric"))
    for path in (*ROOT.glob("commands/*.py"), ROOT / "lib" / "oellm" / "core" / "tables.py"):
        named = set(re.findall(r'"(\w+)"', path.read_text(encoding="utf-8")))
        assert len(named & columns) < 4, path


@pytest.mark.slow
def test_the_readmes_example_prints_what_the_readme_shows(tmp_path: Path) -> None:
    block, results = re.findall(r"```console\n\$ (.*?)```", README, re.DOTALL)
    command, _, shown = block.partition("\nstep")
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "tasks").symlink_to(DEMO_TASKS)
    for step in (1000, 2000):
        make_tiny_model(tmp_path / f"demo/output/models/tiny/iter_{step}", step)
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=clean_environment(tmp_path, {"OELLM_CLUSTER": "local"}),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    expected = [line.split() for line in f"step{shown}".splitlines()]
    printed = [line.split() for line in done.stdout.splitlines()]
    assert printed[0] == expected[0]
    assert [line[:4] for line in printed[2:]] == [line[:4] for line in expected[2:]]
    for ours, theirs in zip(printed[2:], expected[2:], strict=True):
        # Another CPU may round a near tie of this random model the other way.
        assert float(ours[4]) == pytest.approx(float(theirs[4]), abs=0.11)
    (run_dir,) = (tmp_path / "oellm-output").glob("*/*")
    for example in results.split("\n$ "):
        assert_prints(example.replace("RUN_DIR", str(run_dir)), tmp_path)


def assert_prints(example: str, home: Path) -> None:
    """Compare an example's output, if this machine has its tools. Scores may differ a little."""
    command, *expected = example.splitlines()
    needed = [tool for tool in ("jq", "csvsort") if f"| {tool} " in command]
    if not all(map(shutil.which, needed)):
        return
    done = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        env=clean_environment(home),
        check=True,
    )
    number = r"\d+\.\d+"
    assert (
        re.sub(number, "0", done.stdout).split() == re.sub(number, "0", "\n".join(expected)).split()
    )


def test_the_demonstration_runs_the_pipeline_of_the_readme() -> None:
    def words(text: str) -> list[str]:
        return text.replace("\\\n", " ").split()

    block, *_ = re.findall(r"```console\n\$ (.*?)\nstep", README, re.DOTALL)
    script = (ROOT / "demo" / "run").read_text()
    assert words(script[script.index("oe-manifest") :]) == words(block)
    assert os.access(ROOT / "demo" / "run", os.X_OK)
