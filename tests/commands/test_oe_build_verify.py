"""oe-build --verify: what is wrong with an image that is there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from support.build_yard import Yard
from support.processes import DEMO_TASKS


def test_an_image_is_verified(yard: Yard, tmp_path: Path) -> None:
    def define(version: str, test: str) -> None:
        path = yard.define("one", test=test)
        path.write_text(path.read_text().replace("title one", f"title one\nlm_eval {version}"))
        yard.run("one.def")

    words = ("--verify", "one.def", "--set=images.lm_eval=one.sif")
    define("0.4.13", "true")
    assert yard.records(*words)[0]["status"] == "verified"
    define("0.4.9", "echo no torch; exit 1")
    (record,) = yard.records(*words, status=1)
    assert record["status"] == "failed"
    assert record["reason"] == (
        "its %test fails: no torch; "
        "lm-eval 0.4.9 is too old, 0.4.12 is the oldest that oellm works with"
    )
    # A name may have a dot.
    define("0.4.13", "true")
    (yard.images / "lm_eval-0.4.13.sif").write_bytes((yard.images / "one.sif").read_bytes())
    (record,) = yard.records("--verify", "lm_eval-0.4.13", status=1)
    assert record["path"].endswith("/lm_eval-0.4.13.sif")
    assert record["reason"] == "no record says what its digest must be"
    # A change that the size and the time of the file do not tell.
    define("0.4.13", "true")
    image = yard.images / "one.sif"
    status = image.stat()
    image.write_bytes(image.read_bytes().replace(b"title", b"owner"))
    os.utime(image, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert yard.records("--list", "one.def")[0]["status"] == "up_to_date"
    (record,) = yard.records(*words, status=1)
    assert record["reason"].startswith("its SHA-256 is ")
    # An image that must have a framework.
    (record,) = yard.records(*words[:2], "--set=images.lighteval=one.sif", status=1)
    assert "lighteval is not installed" in record["reason"]
    assert yard.records("--verify", "lm_eval-rocm", status=1)[0]["reason"] == "there is no image"


@pytest.mark.slow
def test_an_image_must_have_the_tasks_of_a_manifest(yard: Yard, tmp_path: Path) -> None:
    path = yard.define("one")
    path.write_text(path.read_text().replace("title one", "title one\nlm_eval 0.4.13"))
    yard.run("one.def")
    manifest = tmp_path / "evals.csv"
    rows = ["a/b,hellaswag,0,,", "a/b,hellaswagg,0,,", "a/b,humaneval_of_bigcode,0,bigcode_eval,"]
    rows += [f"a/b,{name},0,,{DEMO_TASKS}" for name in ("oellm_choice", "oellm_nothing")]
    head = "model_path,task_path,n_shot,eval_suite,include_path"
    manifest.write_text("\n".join([head, *rows]) + "\n")
    words = ("--verify", f"--manifest={manifest}", "one")
    (record,) = yard.records(*words, status=1)
    assert [part.partition(", did you")[0] for part in record["reason"].split("; ")] == [
        f"{manifest}:3: task_path: lm-eval has no task, group or tag 'hellaswagg'",
        f"{manifest}:6: task_path: lm-eval has no task, group or tag 'oellm_nothing'",
    ]
    # It is for another framework, whatever else it has.
    used = ("--set=images.lighteval=one.sif", "--set=images.lm_eval=other.sif")
    (record,) = yard.records(*words, *used, status=1)
    assert record["reason"] == "lighteval is not installed"
