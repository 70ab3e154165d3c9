"""The limit on how often a job may requeue itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from oellm.worker.requeues import count_timeout


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "4711")
    return monkeypatch


def test_a_job_that_gets_nowhere_is_requeued_a_few_times_in_a_row(
    job: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def stop(progress: bool) -> bool:
        return count_timeout(tmp_path, 5, made_progress=progress, limit=2)

    assert [stop(progress=False) for _ in range(4)] == [True, True, False, False]
    assert stop(progress=True)
    assert [stop(progress=False) for _ in range(3)] == [True, True, False]
    # A new submission has a new job number.
    job.setenv("SLURM_ARRAY_JOB_ID", "4712")
    assert [stop(progress=False) for _ in range(3)] == [True, True, False]
    assert count_timeout(tmp_path, 6, made_progress=False, limit=1)
    assert not count_timeout(tmp_path, 7, made_progress=False, limit=0)
    assert count_timeout(tmp_path, 7, made_progress=True, limit=0)


def test_outside_of_slurm_nothing_is_counted(job: pytest.MonkeyPatch, tmp_path: Path) -> None:
    job.delenv("SLURM_ARRAY_JOB_ID")
    assert all(count_timeout(tmp_path, 0, made_progress=False, limit=1) for _ in range(5))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"4711", b"4711 many\n", b"4711 2 3\n", b"\xff\x00 2\n"])
@pytest.mark.usefixtures("job")
def test_a_count_that_nobody_understands_is_begun_anew(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "stops").mkdir()
    (tmp_path / "stops" / "0").write_bytes(content)
    assert [count_timeout(tmp_path, 0, made_progress=False, limit=1) for _ in range(2)] == [
        True,
        False,
    ]


@pytest.mark.usefixtures("job")
def test_a_count_that_cannot_be_kept_is_an_error_not_a_permission(tmp_path: Path) -> None:
    (tmp_path / "stops").touch()
    with pytest.raises(OSError, match="stops"):
        count_timeout(tmp_path, 0, made_progress=False, limit=1)
