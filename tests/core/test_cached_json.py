"""JSON files of caches that others may share."""

from __future__ import annotations

from pathlib import Path

from oellm.core.json_codec import read_cached


def test_only_a_whole_file_that_others_may_not_write_to_is_read(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    assert read_cached(path) is None
    path.write_text('{"a": 1}')
    path.chmod(0o644)
    assert read_cached(path) == {"a": 1}
    assert read_cached(path, largest=4) is None
    path.chmod(0o666)
    assert read_cached(path) is None
    path.chmod(0o644)
    path.write_text('{"a": ')
    assert read_cached(path) is None
