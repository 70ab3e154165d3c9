"""The command lines of container runtimes, and the sandbox in a frozen worker."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from oellm.runs.frozen_worker import freeze_worker
from oellm.sandbox.contained import Contained, Layers, Limits
from oellm.sandbox.job_plan import plan_job
from support.hostile_runs import USER
from support.processes import ROOT

STRONG = Layers(container=True, namespaces=True, guard=True, runtime="/usr/bin/apptainer")
LIMITS = Limits(60)


def command(
    layers: Layers, image: Path | None, inputs: dict[Path, str], *arguments: str
) -> list[str]:
    contained = Contained(
        argv=("python3", "main.py", "/in/a b", "--out=/out/x", "/outside"),
        image=image,
        inputs=inputs,
        output=Path("/results"),
        env={"A": "b", "PYTHONPATH": "/own"},
        limits=LIMITS,
        guard=layers.guard,
        container_args=arguments,
    )
    return plan_job(contained, layers, "/tmp").command


def test_a_container_gets_nothing_but_what_it_is_given(tmp_path: Path) -> None:
    odd = tmp_path / "x, y"
    odd.mkdir()
    words = command(STRONG, Path("/i.sif"), {odd: "/in/a b", Path("/usr"): str(odd)}, "--nv")
    image = words.index("/tmp/image")
    options, program = words[:image], words[image + 1 :]
    assert options[:3] == ["/usr/bin/apptainer", "--quiet", "exec"]
    fixed = "--userns --containall --no-home --cleanenv --no-privs --net --network none"
    assert options[3:11] == fixed.split()
    assert options[11:-2] == [
        *("--bind", "/tmp/guard:/oellm-guard:ro", "--bind", "/tmp/state:/oellm-state"),
        *("--bind", "/tmp/out:/out", "--bind", "/tmp/scratch:/scratch"),
        *("--bind", "/tmp/scratch/tmp:/tmp", "--bind", "/tmp/scratch/var-tmp:/var/tmp"),
        *("--bind", "/tmp/scratch/shm:/dev/shm", "--bind", "/tmp/in/0:/in/a b:ro"),
        *("--mount", f'type=bind,src=/tmp/in/1,"dst={odd}",ro'),
    ]
    assert options[-2:] == ["--pwd", "/out"]
    assert program[0] == "env"
    assert {"A=b", "PYTHONPATH=/oellm-guard:/own", "TMPDIR=/scratch/tmp"} < set(program)
    assert program[-5:] == ["python3", "main.py", "/in/a b", "--out=/out/x", "/outside"]


def test_the_sandbox_has_no_network_whatever_the_cluster_says() -> None:
    given = ("--network", "bridge", "--net", "--network=host", "--cleanenv")
    words = command(STRONG, Path("/i.sif"), {}, *given)
    assert words.count("--cleanenv") == 2
    assert [word for word in words if "net" in word] == ["--net", "--network"]
    assert words[words.index("--network") + 1] == "none"


def test_a_runtime_without_user_namespaces_binds_the_paths_themselves(tmp_path: Path) -> None:
    weak = STRONG._replace(namespaces=False, guard=False)
    words = command(weak, Path("/i.sif"), {tmp_path: "/in/a"})
    assert "--userns" not in words
    assert words[words.index("/i.sif") - 4 :][:2] == ["--bind", f"{tmp_path}:/in/a:ro"]
    assert not any(word.startswith(("PYTHONPATH=/oellm", "OELLM_GUARD")) for word in words)


def test_without_container_and_namespaces_paths_are_those_of_this_machine(tmp_path: Path) -> None:
    none = Layers(container=False, namespaces=False, guard=False)
    words = command(none, None, {tmp_path: "/in/a b"})
    assert words[-5:] == ["python3", "main.py", str(tmp_path), "--out=/tmp/out/x", "/outside"]
    assert "TMPDIR=/tmp/scratch/tmp" in words


def test_the_worker_that_travels_with_a_run_has_the_sandbox(tmp_path: Path) -> None:
    (tmp_path / "worker.pyz").write_bytes(freeze_worker(["lm_eval"]))
    (tmp_path / "samples").write_text('{"right": "pass", "wrong": "assert False"}')
    (tmp_path / "out").mkdir()
    code = f"""
import sys; sys.path.insert(0, {str(tmp_path / "worker.pyz")!r})
from pathlib import Path
from oellm.sandbox.contained import Contained, Layers, Limits
from oellm.sandbox.running import run_contained
place = Path({str(tmp_path)!r})
evaluator = Path({str(ROOT / "tests" / "support" / "toy_evaluator.py")!r})
inputs = {{evaluator: "/in/evaluator", place / "samples": "/in/samples"}}
argv = ("/usr/bin/python3", "/in/evaluator", "/in/samples", "/out/metrics.json")
contained = Contained(argv, None, inputs, place / "out", {{}}, Limits(60))
print(run_contained(contained, Layers(False, True, True, {USER}), place / "log").samples)
"""
    said = subprocess.check_output([sys.executable, "-I", "-S", "-c", code], text=True)
    assert said == "2\n"
    assert "passed" in (tmp_path / "out" / "metrics.json").read_text()
