"""oe-doctor: faults of images and virtual environments, planted once."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import docopt
import pytest

from oellm.clusters import image_digest
from oellm.clusters.cluster import Cluster
from oellm.clusters.runtime import Launcher
from oellm.doctor.environments import JobEnvironment, check_environment
from oellm.images.image_record import StoredImage, record_path
from support.doctor import Doctor, read_found
from support.processes import ROOT, clean_environment

# Starts what follows an image without any container, as `apptainer exec … IMAGE COMMAND…`.
RUNTIME = """#!/bin/bash
if [[ $1 == --version ]]; then echo "apptainer version 9"; exit; fi
while [[ $1 != *.sif ]]; do shift; done
if [[ $(cat "$1") != image ]]; then echo "FATAL: image format not recognized" >&2; exit 255; fi
shift
exec "$@"
"""


@pytest.fixture
def image(doctor: Doctor, tmp_path: Path) -> Path:
    """Have the cluster run its models in an image, with a stand-in for the container runtime."""
    runtime, path = tmp_path / "apptainer", tmp_path / "lm_eval.sif"
    runtime.write_text(RUNTIME)
    runtime.chmod(0o755)
    path.write_text("image\n")
    (tmp_path / "python3").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (tmp_path / "python3").chmod(0o755)
    doctor.env["PATH"] = f"{tmp_path}:{doctor.env['PATH']}"
    doctor.settings |= {
        "container_runtime": "apptainer",
        "images": {"lm_eval": path.name},
        "images_directory": str(tmp_path),
        "venvs": {},
    }
    return path


def record_image(image: Path) -> None:
    """Write the record of an image, as oe-build does."""
    status = image.stat()
    record = StoredImage(
        name="lm_eval",
        digest=hashlib.sha256(image.read_bytes()).hexdigest(),
        size=status.st_size,
        mtime_ns=status.st_mtime_ns,
        labels={},
        source="definition",
        inputs={},
        seconds=1.0,
        finished="2026-01-01T00:00:00Z",
    )
    record_path(image).write_text(json.dumps(record._asdict()))


def test_an_image_as_it_should_be(doctor: Doctor, image: Path) -> None:
    record_image(image)
    # A copy has another time, but the same content.
    os.utime(image)
    found = doctor()
    assert found.wrong() == []
    assert "apptainer version 9" in found.text("runtime")
    assert "as oe-build recorded it" in found.text("image lm_eval")
    assert "lm_eval 0.4." in found.text("image lm_eval")


def test_an_image_that_changes_while_it_is_read(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hash_file = image_digest.hash_file

    def hash_changing_file(path: str) -> str:
        os.utime(path, (0, 0))
        return hash_file(path)

    record_image(image)
    os.utime(image)
    monkeypatch.setattr(image_digest, "hash_file", hash_changing_file)
    environment = JobEnvironment(Launcher(image, "python3"), ("lm_eval",))
    environ = {"OELLM_CACHE_DIR": str(tmp_path / "cache")}
    (found,) = check_environment(Cluster({}, {}), environment, environ)
    assert found.text == f"{image}: it changed while it was read, or cannot be read"


def test_faults_of_images(doctor: Doctor, image: Path) -> None:
    record_image(image)
    image.write_text("changed\n")
    text = doctor().text("image lm_eval")
    assert "its SHA-256 is" in text
    assert "in the record beside it -> build or pull it (oe-build)" in text
    record_path(image).unlink()
    text = doctor().text("image lm_eval")
    assert "does not start (status 255): FATAL: image format not recognized -> " in text
    image.unlink()
    found = doctor()
    assert found.wrong() == ["image lm_eval"]
    assert f"{image}: No such file or directory -> build or pull it" in found.text("image lm_eval")
    doctor.settings["setup"] = ["PATH=/nonexistent"]
    assert "apptainer is not on PATH -> load its module" in doctor().text("runtime")


def test_an_image_that_is_still_to_be_built_is_no_fault(doctor: Doctor, image: Path) -> None:
    doctor.settings["images"] = {"lm_eval": "lm_eval-cpu.sif", "evalplus": "mine.sif"}
    found = doctor()
    assert (found.wrong(), found.state("image lm_eval")) == (["image evalplus"], "warning")
    assert "/lm_eval-cpu.sif: not built yet -> oe-build lm_eval-cpu" in found.text("image lm_eval")


def test_a_failing_line_of_setup_is_no_missing_runtime(doctor: Doctor, image: Path) -> None:
    doctor.settings["setup"] = ["load_no_module"]
    text = doctor().text("runtime")
    assert text.startswith("the lines of setup fail: ")
    assert "load_no_module: command not found" in text
    # What the site prints need not be UTF-8.
    doctor.settings["setup"] = ["printf 'Gru\\xdf\\n' >&2; false"]
    assert "the lines of setup fail: Gru\ufffd" in doctor().text("runtime")
    assert "Gru\ufffd" in doctor().text("python")


def test_faults_of_pythons(doctor: Doctor, image: Path, tmp_path: Path) -> None:
    old = tmp_path / "old-python"
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    doctor.settings["python"] = str(old)
    assert "is no Python 3.10 or newer" in doctor().text("python")
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    doctor.settings |= {"venvs": {"lm_eval": str(venv)}, "container_runtime": "none"}
    found = doctor()
    assert found.wrong() == ["python lm_eval"]
    assert "lacks lm_eval -> install it there" in found.text("python lm_eval")
    doctor.settings["venvs"] = {}
    text = doctor().text("environment")
    assert "has no environment for lm_eval -> set images.lm_eval" in text


def test_another_version_than_the_one_whose_tasks_are_known(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    answer = {"python": "3.12.1", "packages": {"lm_eval": "0.4.9"}}
    python = tmp_path / "bin" / "python"
    python.write_text(f"#!/bin/sh\necho '{json.dumps(answer)}'\n")
    python.chmod(0o755)
    doctor.settings["venvs"] = {"lm_eval": str(tmp_path)}
    found = doctor()
    assert found.state("python lm_eval") == "warning"
    assert "lm_eval 0.4.9, Python 3.12.1; here are the tasks of lm_eval 0.4." in found.text(
        "python lm_eval"
    )


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setpriv") is None,
    reason="only root can become another user, with setpriv",
)
def test_a_user_without_rights(doctor: Doctor, image: Path) -> None:
    # Everybody can reach this directory; only root can write to it, and read the image.
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        place = Path(name)
        place.chmod(0o755)
        (place / "lm_eval.sif").touch(mode=0o600)
        (place / "apptainer").write_text(RUNTIME)
        (place / "apptainer").chmod(0o755)
        doctor.settings |= {"eval_base_dir": name, "images_directory": name}
        doctor.settings["python"] = "/usr/bin/python3"
        settings = doctor.environment()
        shutil.copy(settings["OELLM_CONFIG"], place / "clusters.json")
        packages = Path(docopt.__file__).parent.parent
        settings |= {
            "OELLM_CONFIG": f"{place}/clusters.json",
            "PATH": f"{place}:{os.environ['PATH']}",
            "PYTHONPATH": f"{ROOT}/lib:{ROOT}/commands:{packages}",
        }
        done = subprocess.run(
            [
                *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
                *("/usr/bin/python3", "-m", "oe_doctor", "--set=executor=local"),
            ],
            env=clean_environment(Path("/nonexistent"), settings),
            cwd="/",
            capture_output=True,
            text=True,
            check=False,
        )
    found = read_found(done.returncode, done.stdout, done.stderr)
    assert found.wrong() == ["image lm_eval", "hf_home", "eval_output_dir"]
    assert "lm_eval.sif: Permission denied" in found.text("image lm_eval")
    assert "cannot be written: Permission denied" in found.text("eval_output_dir")
