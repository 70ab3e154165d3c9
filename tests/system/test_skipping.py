"""Tests that lack what they need: skipped on a user's machine, failed in CI."""

from __future__ import annotations

import pytest

from support.skipping import require_program


def test_a_missing_program_skips_a_test_and_fails_it_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    require_program("sh", installer="install-cluster")
    reason = r"no-such-program is missing \(scripts/install-cluster installs it\)"
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=reason):
        require_program("no-such-program", installer="install-cluster")
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match=reason):
        require_program("no-such-program", installer="install-cluster")
