"""A run names its image by a digest, which is computed once."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.environments import idle_venv
from support.processes import Run

# It starts many processes, some of which wait.
pytestmark = pytest.mark.slow

MANIFEST = "model_path,task_path,n_shot\nacme/tiny,mmlu,5\n"
Render = Callable[..., dict[str, Any]]


@pytest.fixture
def render(run: Run, tmp_path: Path) -> Render:
    """Render a run for an image, with its own cache; return its run object."""

    def call(image: Path, *options: str, cache: Path = tmp_path / "cache") -> dict[str, Any]:
        done = run(
            *("oe-render", "--cluster=slurm", f"--set=eval_base_dir={tmp_path}/base", *options),
            f"--set=images.lm_eval={image}",
            stdin=MANIFEST,
            env={"OELLM_CACHE_DIR": str(cache)},
        )
        record: dict[str, Any] = json.loads(done.stdout)
        assert json.loads(Path(record["run_dir"], "run.json").read_text()) == record
        record["messages"] = done.stderr
        return record

    return call


def entry(image: Path, content: bytes | None) -> list[dict[str, Any]]:
    digest = None if content is None else hashlib.sha256(content).hexdigest()
    size = None if content is None else len(content)
    return [{"eval_suite": "lm_eval", "path": str(image), "bytes": size, "sha256": digest}]


def rewrite(image: Path, content: bytes, mtime_ns: int) -> None:
    image.write_bytes(content)
    os.utime(image, ns=(mtime_ns, mtime_ns))


def test_a_run_names_its_image_by_a_digest_that_is_worked_out_once(
    render: Render, tmp_path: Path
) -> None:
    image, link = tmp_path / "x.sif", tmp_path / "latest.sif"
    rewrite(image, b"one", 10**18)
    link.symlink_to(image)
    first = render(image)
    assert first["images"] == entry(image, b"one")
    assert "SHA-256" not in first["messages"]
    # Size and time of change are the same, so the file is not read again.
    rewrite(image, b"two", 10**18)
    assert render(link)["images"] == entry(link, b"one")
    rewrite(image, b"two", 10**18 + 1)
    assert render(image)["images"] == entry(image, b"two")
    rewrite(image, b"three", 10**18 + 1)
    assert render(link)["images"] == entry(link, b"three")
    assert len(list((tmp_path / "cache").glob("image-*"))) == 1


def test_a_damaged_cache_is_ignored(render: Render, tmp_path: Path) -> None:
    image = tmp_path / "x.sif"
    image.write_bytes(b"one")
    render(image)
    (file,) = (tmp_path / "cache").glob("image-*")
    whole = file.read_bytes()
    for content in (whole[:-9], b"[1]"):
        file.write_bytes(content)
        assert render(image)["images"] == entry(image, b"one")
        assert file.read_bytes() == whole


@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_a_digest_that_others_may_have_written_is_computed_again(
    render: Render, tmp_path: Path, mode: int
) -> None:
    image = tmp_path / "x.sif"
    image.write_bytes(b"one")
    render(image)
    (file,) = (tmp_path / "cache").glob("image-*")
    whole = file.read_bytes()
    file.write_text(json.dumps({**json.loads(whole), "sha256": "0" * 64}))
    file.chmod(mode)
    assert render(image)["images"] == entry(image, b"one")
    assert (file.read_bytes(), file.stat().st_mode & 0o022) == (whole, 0)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_the_digest_of_a_colleague_is_computed_again(render: Render, tmp_path: Path) -> None:
    image = tmp_path / "x.sif"
    image.write_bytes(b"one")
    render(image)
    (file,) = (tmp_path / "cache").glob("image-*")
    file.write_text(json.dumps({**json.loads(file.read_bytes()), "sha256": "0" * 64}))
    os.chown(file, 65534, 65534)
    assert render(image)["images"] == entry(image, b"one")


def test_without_a_place_for_the_cache_there_is_a_digest_all_the_same(
    render: Render, tmp_path: Path
) -> None:
    (tmp_path / "x.sif").write_bytes(b"one")
    (tmp_path / "file").touch()
    record = render(tmp_path / "x.sif", cache=tmp_path / "file")
    assert record["images"] == entry(tmp_path / "x.sif", b"one")


def test_a_sandbox_has_no_digest_and_a_venv_no_image(render: Render, tmp_path: Path) -> None:
    (tmp_path / "sandbox").mkdir()
    assert render(tmp_path / "sandbox")["images"] == entry(tmp_path / "sandbox", None)
    without = render(tmp_path, "--set=container_runtime=none", f"--set=venv={idle_venv()}")
    assert without["images"] == []


@pytest.mark.slow
def test_a_large_image_is_reported_only_if_a_run_is_written(
    run: Run, render: Render, tmp_path: Path
) -> None:
    image = tmp_path / "x.sif"
    image.touch()
    os.truncate(image, 1_050_000_000)
    dry = run(
        *("oe-render", "--cluster=slurm", "--dry_run", f"--set=images.lm_eval={image}"),
        f"--set=eval_base_dir={tmp_path}/base",
        stdin=MANIFEST,
    )
    assert "SHA-256" not in dry.stderr
    told = f"oe-render: SHA-256 of {image}, 1.1 GB\n"
    assert render(image)["messages"].count(told) == 1
    assert told not in render(image)["messages"]


def test_a_run_that_was_rendered_before_there_were_digests_can_be_read(
    run: Run, render: Render, tmp_path: Path
) -> None:
    (tmp_path / "x.sif").touch()
    record = render(tmp_path / "x.sif")
    path = Path(record["run_dir"]) / "run.json"
    older = {key: value for key, value in json.loads(path.read_text()).items() if key != "images"}
    path.write_text(json.dumps(older))
    done = run("oe-missing", stdin=json.dumps(older))
    assert "1 of 1 rows have no valid result" in done.stderr
