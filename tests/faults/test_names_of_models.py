"""One model has one name, and no odd name loses a model."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import pytest

from support.model_directories import write_model
from support.processes import Run, rows_of

MANIFEST = ("oe-manifest", "--unchecked_tasks", "--tasks=arc", "--n_shot=0")


def planned(run: Run, directory: Path, manifest: str) -> list[dict[str, str]]:
    """Return the rows that oe-render writes for a manifest."""
    target = directory / f"run{len(list(directory.glob('run*')))}"
    run("oe-render", "--cluster=local", f"--run_dir={target}", stdin=manifest)
    return rows_of((target / "jobs.csv").read_text())


def test_a_model_has_one_name_however_its_path_is_spelled(run: Run, tmp_path: Path) -> None:
    model = write_model(tmp_path / "runs" / "iter_1000")
    (tmp_path / "runs" / "latest").symlink_to(model)
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (tmp_path / "elsewhere" / "link").symlink_to(tmp_path / "runs")
    spellings = [str(model), f"{model}/", f"{tmp_path}//runs//iter_1000", f"/{model}"]
    spellings += ["runs/iter_1000", "./runs/./iter_1000", "runs/../runs/iter_1000", "runs/latest"]
    spellings += ["elsewhere/link/iter_1000", "elsewhere/link/../runs/iter_1000"]
    for spelling in spellings:
        found = rows_of(run(*MANIFEST, f"--models={spelling}").stdout)
        assert [row["model_path"] for row in found] == [str(model)], spelling
    by_hand = "".join(f"{spelling},arc_easy,0\n" for spelling in spellings)
    rows = planned(run, tmp_path, f"model_path,task_path,n_shot\n{by_hand}")
    assert [row["model_path"] for row in rows] == [str(model)]


def test_a_name_with_an_accent_is_the_directory_that_is_there(run: Run, tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "mod\u00e8le") for form in ("NFC", "NFD"))
    write_model(tmp_path / decomposed)
    for name in (composed, decomposed):
        (row,) = rows_of(run(*MANIFEST, f"--models=./{name}").stdout)
        assert row["model_path"] == f"{tmp_path}/{decomposed}"
    write_model(tmp_path / composed)
    (row,) = rows_of(run(*MANIFEST, f"--models=./{composed}").stdout)
    assert row["model_path"] == f"{tmp_path}/{composed}"


@pytest.mark.parametrize(
    ("given", "arguments", "commit"),
    [
        ("", "", "b" * 40),
        (f"/snapshots/{'a' * 40}", "", "a" * 40),
        (",revision=old", ",revision=old", "a" * 40),
        # The path says which commit it is.
        (f"/snapshots/{'a' * 40},revision=step1000,dtype=float16", ",dtype=float16", "a" * 40),
    ],
)
def test_a_directory_of_the_hubs_cache_is_the_model_of_the_hub(
    run: Run, tmp_path: Path, given: str, arguments: str, commit: str
) -> None:
    cache = tmp_path / "home" / ".cache" / "huggingface" / "hub" / "models--acme--a"
    for name in ("a" * 40, "b" * 40):
        write_model(cache / "snapshots" / name)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("b" * 40)
    (cache / "refs" / "old").write_text("a" * 40)
    done = run(*MANIFEST, f"--models={cache}{given}")
    (row,) = rows_of(done.stdout)
    assert (row["model_path"], row["model_revision"]) == (f"acme/a{arguments}", commit)
    assert f"this is acme/a of the hub at {commit[:12]}" in done.stderr
    for revision in ("", commit):
        manifest = "model_path,task_path,n_shot,model_revision\n"
        manifest += f'"{cache}{given}",arc_easy,0,{revision}\n'
        (written,) = planned(run, tmp_path, manifest)
        assert (written["model_path"], written["model_revision"]) == (f"acme/a{arguments}", commit)


def test_a_directory_is_a_model_also_with_commas_and_equals_signs(run: Run, tmp_path: Path) -> None:
    write_model(tmp_path / "lr=1e-4")
    odd = write_model(tmp_path / "runs" / "lr=1e-4,bs=8" / "iter_100")
    plain = write_model(tmp_path / "runs" / "ok" / "iter_1")
    blank = write_model(tmp_path / "runs" / "ok" / "iter_2 ")
    found = rows_of(run(*MANIFEST, "--models=acme/a,lr=1e-4").stdout)
    assert [row["model_path"] for row in found] == ["acme/a", f"{tmp_path}/lr=1e-4"]
    quoted = [json.dumps(str(path)) for path in (odd, blank)]
    for given in ("runs", f"{odd},acme/a,runs/ok"):
        done = run(*MANIFEST, f"--models={given}")
        models = {row["model_path"] for row in rows_of(done.stdout)}
        assert models - {"acme/a"} == {quoted[0], str(plain), quoted[1]}
    listed = run(*MANIFEST, "--models=-,dtype=float16", stdin=f"{odd}\n").stdout
    assert [row["model_path"] for row in rows_of(listed)] == [f"{quoted[0]},dtype=float16"]
    rows = planned(
        run, tmp_path, f'model_path,task_path,n_shot\n"{odd},dtype=float16",arc_easy,0\n'
    )
    assert [row["model_path"] for row in rows] == [f"{quoted[0]},dtype=float16"]


def test_a_path_that_no_manifest_can_name_costs_only_itself(run: Run, tmp_path: Path) -> None:
    write_model(Path(f"{tmp_path}/runs/\udcff"))
    plain = write_model(tmp_path / "runs" / "iter_1")
    done = run(*MANIFEST, "--models=runs", status=1)
    assert [row["model_path"] for row in rows_of(done.stdout)] == [str(plain)]
    assert "the path is not UTF-8" in done.stderr
    assert run(*MANIFEST, "--models=runs", "--skip_broken").stdout == done.stdout


def test_spellings_of_arguments_are_one_model_and_structures_stay(run: Run, tmp_path: Path) -> None:
    cells = ["dtype=float16,trust_remote_code=true", "trust_remote_code=True,dtype=float16"]
    manifest = "".join(f'"acme/a,{text}",arc_easy,{n}\n' for n, text in enumerate(cells))
    done = run(
        *("oe-render", "--cluster=local", "--dry_run"),
        stdin=f"model_path,task_path,n_shot\n{manifest}",
    )
    assert "models: 1, rows: 2" in done.stderr
    text = 'acme/a,max_memory={"0":"10GiB","1":"10GiB"},revision="123"'
    (row,) = rows_of(run(*MANIFEST, f"--models={text}").stdout)
    assert row["model_path"] == ('acme/a,max_memory={"0": "10GiB", "1": "10GiB"},revision=123')
    bad = run(*MANIFEST, "--models=acme/a,max_memory={0:10,1:20}", status=2)
    assert "--model_args" in bad.stderr


def test_links_to_models_that_are_there_are_counted(run: Run, tmp_path: Path) -> None:
    for number in (1, 2):
        write_model(tmp_path / "runs" / f"iter_{number}")
    for number in range(30):
        link = tmp_path / "runs" / f"link{number}"
        link.symlink_to(tmp_path / "runs" / f"iter_{number % 2 + 1}")
    done = run(*MANIFEST, "--models=runs")
    assert len(rows_of(done.stdout)) == 2
    assert "30 links lead to models that are there already" in done.stderr


@pytest.mark.parametrize(
    ("names", "options", "steps"),
    [
        (["step=1000", "step=2000"], [], {"step=1000": ""}),
        (["1000", "2000", "2500"], [], {"1000": "1000"}),
        (["anneal_120k", "anneal_5k"], [r"--step_pattern=anneal_(\d+k)"], {"anneal_5k": "5000"}),
    ],
)
def test_steps_of_all_kinds_of_names_are_selected_and_travel(
    run: Run, tmp_path: Path, names: list[str], options: list[str], steps: dict[str, str]
) -> None:
    for name in names:
        write_model(tmp_path / "runs" / name)
    for name, cell in steps.items():
        step = cell or name.partition("=")[2]
        found = rows_of(run(*MANIFEST, "--models=runs", f"--checkpoints={step}", *options).stdout)
        assert [row["model_path"] for row in found] == [f"{tmp_path}/runs/{name}"]
        assert found[0].get("step", "") == cell


@pytest.mark.parametrize(
    ("pattern", "message"),
    [("(", "expected a regular expression"), ("zzz([0-9])", "it finds no number in")],
)
def test_a_pattern_of_steps_that_is_none_or_fits_nothing_is_refused(
    run: Run, tmp_path: Path, pattern: str, message: str
) -> None:
    write_model(tmp_path / "runs" / "a")
    done = run(*MANIFEST, "--models=runs", f"--step_pattern={pattern}", status=2)
    assert f"--step_pattern: {message}" in done.stderr


def test_all_models_that_are_missing_are_named(run: Run) -> None:
    done = run(*MANIFEST, "--models=./nope,~/b,dir/*", status=2)
    lines = done.stderr.splitlines()
    assert len(lines) == 3
    assert any("home/b: no such directory" in line for line in lines)
    assert any("the shell expands a pattern" in line for line in lines)
