"""What programs see of the shared cache, and which commits of data sets they would load from it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from oellm.frameworks.program import Need, NeededDataSet, NeededFile, NeededMetric, NeededNltk
from oellm.hub.cached_commits import find_commit
from oellm.worker.programs import private_cache

OLD, NEW = "1" * 40, "2" * 40
FILES = (
    "token",
    "hub/datasets--openai--openai_humaneval/blobs/b",
    f"hub/datasets--openai--openai_humaneval/snapshots/{NEW}/README.md",
    "hub/datasets--other--data/blobs/b",
    "hub/models--other--model/blobs/b",
    "hub/spaces--evaluate-metric--code_eval/blobs/b",
    "hub/spaces--evaluate-metric--bleu/blobs/b",
    f"datasets/openai___openai_humaneval/default/0.0.0/{OLD}/test.arrow",
    f"datasets/openai___openai_humaneval/default/0.0.0/{NEW}/test.arrow",
    f"datasets/other___data/default/0.0.0/{OLD}/test.arrow",
    "modules/evaluate_modules/metrics/code.py",
    "nltk_data/tokenizers/punkt_tab/a",
)
DATA = NeededDataSet("openai/openai_humaneval")


def make_cache(home: Path) -> str:
    for number, name in enumerate(FILES):
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
        os.utime(path.parent, (number, number))
    return str(home)


def parts(home: str, *needs: Need) -> list[str]:
    """Return the parts of the cache that needs lead to, after a check of where they are found."""
    found = private_cache.find_parts(home, needs)
    for path, inside in found.items():
        assert inside == f"{private_cache.SHARED}/{path.relative_to(home)}"
    return sorted(str(path.relative_to(home)) for path in found)


def test_a_program_gets_what_its_rows_need_and_no_more(tmp_path: Path) -> None:
    home = make_cache(tmp_path)
    of_data = ["datasets/openai___openai_humaneval", "hub/datasets--openai--openai_humaneval"]
    assert parts(home, DATA) == [*of_data, "modules"]
    of_metric = ["hub/spaces--evaluate-metric--code_eval", "modules"]
    assert parts(home, NeededMetric("code_eval")) == of_metric
    assert parts(home, NeededNltk("punkt_tab")) == ["nltk_data"]
    assert parts(home, NeededFile("x", "https://example.org/x", "")) == []
    assert parts(home, NeededDataSet("no/such")) == ["modules"]
    assert parts(str(tmp_path / "none"), DATA, NeededMetric("code_eval")) == []


def test_its_own_cache_has_links_and_takes_new_files(tmp_path: Path) -> None:
    shared, own = tmp_path / "shared", tmp_path / "own"
    make_cache(shared)
    blob = shared / FILES[1]
    (shared / FILES[2]).unlink()
    (shared / FILES[2]).symlink_to(os.path.relpath(blob, (shared / FILES[2]).parent))
    (shared / "folder").symlink_to("hub")
    check = f"cat '{FILES[2]}' && ls folder/ && touch datasets/lock '{FILES[0]}.lock'"
    command = [sys.executable, "-c", private_cache.LINKER.decode(), shared, own]
    command += ["sh", "-c", f"cd '{own}' && {check}"]
    done = subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True)
    assert done.stdout.startswith(FILES[1])
    assert (own / "datasets" / "lock").exists()
    assert (own / FILES[0]).readlink() == shared / FILES[0]
    assert not (shared / "datasets" / "lock").exists()


def test_the_commit_that_was_prepared_last_is_loaded(tmp_path: Path) -> None:
    home = make_cache(tmp_path)
    assert find_commit(home, DATA.name) == NEW
    assert find_commit(home, DATA.name, "default") == NEW
    assert find_commit(home, DATA.name, "other") == ""
    # A parallel file system, or somebody, may have touched the older one since.
    os.utime((tmp_path / FILES[7]).parent, (99, 99))
    assert find_commit(home, DATA.name) == OLD
    assert find_commit(home, "no/such") == ""
    assert find_commit(str(tmp_path / "none"), DATA.name) == ""
