"""What a worker says about a file that it cannot read or write."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from oellm.worker.halts import describe_storage


def test_the_room_is_told_of_a_full_disk_alone(tmp_path: Path) -> None:
    def said(number: int) -> str:
        return describe_storage(OSError(number, os.strerror(number), str(tmp_path / "file")))

    assert said(errno.EACCES) == f"{tmp_path / 'file'}: Permission denied"
    assert said(errno.ENOSPC).startswith(
        f"{tmp_path / 'file'}: No space left on device ({tmp_path}"
    )
    assert said(errno.ENOSPC).endswith(" free)")
