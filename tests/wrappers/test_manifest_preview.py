"""The preview of oellm build-csv."""

from __future__ import annotations

from oellm.manifest.rows import Row
from oellm.wrappers.manifest_preview import ManifestPreview


def test_the_preview_fits_a_terminal_and_counts_what_it_leaves_out() -> None:
    rows = [
        Row(
            {
                "model_path": f"/scratch/project/models/{'deep/' * 20}iter_{number}",
                "task_path": f"multilingual_{'very_' * 10}long_{number % 2}",
                "n_shot": "25",
                "eval_suite": "bigcode_eval",
            }
        )
        for number in range(30)
    ]
    lines = list(ManifestPreview(b"", rows=rows, base=None, is_whole=False).lines())
    assert max(map(len, lines)) <= 79
    assert lines[0] == "30 models × 2 tasks: 30 rows, without broken models"
    assert lines[-1] == "and 24 more"
    # With a menu of eight lines.
    assert len(lines) <= 16
