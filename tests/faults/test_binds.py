"""A container sees models and tasks that are reached through links, or have odd names."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from oellm.clusters.binds import bind_option, list_binds
from oellm.clusters.cluster import Cluster
from oellm.manifest.model_spec import ModelSpec
from support.processes import Run

HEADER = "model_path,task_path,n_shot,include_path,model_args\n"
# As many links as Linux follows.
MOST_LINKS = 40


def make_model(directory: Path) -> Path:
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").write_text("weights")
    return directory


def link(path: Path, target: Path | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(target)
    return path


def binds_of(tmp_path: Path, *models: str, paths: tuple[Path, ...] = ()) -> list[str]:
    """Return what is bound for models that a row names by links, as rows with an eval_id may."""
    cluster = Cluster({"eval_base_dir": str(tmp_path / "base")}, {})
    specs = map(ModelSpec.parse, models)
    return list_binds(cluster, tmp_path / "run", models=specs, paths=map(str, paths))


def render(
    run: Run, tmp_path: Path, *cells: str, status: int = 0, name: str = "run"
) -> tuple[list[str], str]:
    """Return the lines of `binds` of a run of one row, and the messages."""
    (tmp_path / "x.sif").touch()
    row = ",".join('"' + cell.replace('"', '""') + '"' for cell in cells)
    done = run(
        *("oe-render", "--cluster=slurm", f"--set=eval_base_dir={tmp_path}/base"),
        *(f"--set=images.lm_eval={tmp_path}/x.sif", f"--run_dir={tmp_path}/{name}"),
        stdin=HEADER + row + "," * (5 - len(cells)) + "\n",
        status=status,
    )
    path = tmp_path / name / "binds"
    return (path.read_text().split("\n")[:-1] if path.exists() else []), done.stderr


def hops(path: Path) -> list[str]:
    """Return the place of each link on the way to a path, and where the last one leads to."""
    names, real, found = [*path.parts[1:]], "/", []
    while names:
        step = os.path.normpath(os.path.join(real, names.pop(0)))
        if not os.path.islink(step):
            real = step
            continue
        found.append(step)
        assert len(found) <= MOST_LINKS
        target = os.readlink(step)
        real = "/" if target.startswith("/") else real
        names = [*target.split("/"), *names]
    return [*found, real]


def assert_visible(binds: list[str], *paths: Path) -> None:
    for path in paths:
        for hop in hops(path):
            assert any(hop == line or hop.startswith(f"{line}/") for line in binds), (hop, binds)


def test_every_hop_of_a_chain_of_links_is_bound(run: Run, tmp_path: Path) -> None:
    make_model(tmp_path / "real" / "ckpt" / "iter_100")
    link(tmp_path / "mid" / "proj", tmp_path / "real")
    latest = link(tmp_path / "home" / "latest", tmp_path / "mid" / "proj" / "ckpt" / "iter_100")
    binds = binds_of(tmp_path, str(latest))
    assert_visible(binds, latest, latest / "config.json")
    assert f"{tmp_path}/mid" in binds
    binds, _ = render(run, tmp_path, str(latest), "t", "0")
    (row,) = csv.DictReader((tmp_path / "run" / "jobs.csv").open())
    assert_visible(binds, Path(row["model_path"]), Path(row["model_path"]) / "config.json")


def test_a_directory_of_links_into_a_cache_is_bound_with_the_way_to_its_files(
    run: Run, tmp_path: Path
) -> None:
    model = make_model(tmp_path / "ck" / "iter_1")
    (tmp_path / "cache" / "blobs").mkdir(parents=True)
    (model / "model.safetensors").rename(tmp_path / "cache" / "blobs" / "b1")
    snapshot = link(tmp_path / "cache" / "snap" / "model.safetensors", "../blobs/b1")
    weights = link(model / "model.safetensors", snapshot)
    binds, _ = render(run, tmp_path, str(model), "t", "0")
    assert_visible(binds, model, weights)


def test_tokenizer_adapter_and_tasks_are_bound_with_their_links(run: Run, tmp_path: Path) -> None:
    model = make_model(tmp_path / "m" / "iter_1")
    (tmp_path / "t1" / "real").mkdir(parents=True)
    tokenizer = link(tmp_path / "t0" / "tokenizer", "../t1/real")
    adapter = make_model(tmp_path / "a1" / "adapter")
    (tmp_path / "d1").mkdir()
    (tmp_path / "d1" / "data.jsonl").touch()
    tasks = tmp_path / "tasks"
    data = link(tasks / "sub" / "data.jsonl", tmp_path / "d0" / "data.jsonl")
    link(tmp_path / "d0", "d1")
    path = f"{model},tokenizer={tokenizer}"
    lora = make_model(tmp_path / "a2" / "lora")
    arguments = json.dumps({"peft": str(adapter), "lora_local_path": str(lora)})
    binds, _ = render(run, tmp_path, path, "t", "0", str(tasks), arguments)
    assert_visible(binds, model, tokenizer.resolve(), adapter, lora, tasks, data)
    assert_visible(binds_of(tmp_path, path, paths=(tasks,)), model, tokenizer, tasks, data)


def test_what_a_task_names_elsewhere_is_bound(run: Run, tmp_path: Path) -> None:
    model = make_model(tmp_path / "m" / "iter_1")
    data = tmp_path / "data" / "x.jsonl"
    others = [tmp_path / "many" / f"{number}.jsonl" for number in range(30)]
    common = tmp_path / "common" / "base"
    for path in (data, *others, common):
        path.parent.mkdir(exist_ok=True)
        path.write_text("output_type: generate_until\n" if path == common else '{"text": "a"}\n')
    latest = link(tmp_path / "links" / "latest.jsonl", data)
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    for name, pattern in (("one", latest), ("all", f"{tmp_path}/many/*.jsonl")):
        (tasks / f"{name}.yaml").write_text(
            f"task: {name}\ninclude: ../common/base\ntest_split: test\ndataset_path: json\n"
            f"dataset_kwargs: {{data_files: {{test: '{pattern}'}}}}\ndoc_to_text: '{{{{text}}}}'\n"
        )
    binds, _ = render(run, tmp_path, str(model), "one", "0", str(tasks))
    assert_visible(binds, tasks, latest, common)
    binds, _ = render(run, tmp_path, str(model), str(tasks / "all.yaml"), "0", name="run2")
    assert_visible(binds, tasks, *others, common)


def test_a_circle_of_links_ends(run: Run, tmp_path: Path) -> None:
    model = make_model(tmp_path / "m" / "iter_1")
    link(model / "one", "two")
    link(model / "two", "one")
    binds, _ = render(run, tmp_path, str(model), "t", "0")
    assert_visible(binds, model)


def test_a_link_to_what_is_gone_adds_no_bind(run: Run, tmp_path: Path) -> None:
    model = make_model(tmp_path / "m" / "iter_1")
    link(model / "old_optimizer", tmp_path / "purged" / "dir" / "opt.pt")
    tasks = tmp_path / "tasks"
    link(tasks / "old_data", tmp_path / "purged" / "data.jsonl")
    binds, _ = render(run, tmp_path, str(model), "t", "0", str(tasks))
    assert_visible(binds, model, tasks)
    assert not [line for line in binds if line.startswith(f"{tmp_path}/purged")]


def test_directories_of_the_image_are_not_hidden(run: Run, tmp_path: Path) -> None:
    model = make_model(tmp_path / "m" / "iter_1")
    link(model / "python", "/usr/bin/env")
    link(model / "log", "/var/log")
    binds, _ = render(run, tmp_path, str(model), "t", "0")
    assert not {"/", "/usr", "/var", "/tmp", "/etc"} & set(binds)
    assert "/var/log" in binds


@pytest.mark.parametrize("name", ["lr=1,bs=8", "a:b", 'say "x"', "back\\slash"])
def test_a_path_with_a_special_character_is_mounted(run: Run, tmp_path: Path, name: str) -> None:
    model = make_model(tmp_path / name / "iter_1")
    binds, _ = render(run, tmp_path, json.dumps(str(model), ensure_ascii=False), "t", "0")
    (mount,) = (line for line in binds if line.startswith("type=bind"))
    (fields,) = csv.reader([mount], strict=True)
    assert fields == ["type=bind", f"src={model.parent}", f"dst={model.parent}"]


def test_a_line_end_in_a_path_adds_no_bind(run: Run, tmp_path: Path) -> None:
    model = make_model(tmp_path / "evil\n" / "root" / "m")
    binds, said = render(run, tmp_path, str(model), "t", "0", status=2)
    assert binds == []
    assert "evil" in said


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a container of this machine's own programs, skip without Apptainer."""
    if shutil.which("apptainer") is None or os.geteuid() != 0:
        pytest.skip("needs Apptainer, and root for a container without an image")
    root = tmp_path_factory.mktemp("image").resolve() / "root"
    for name in ("bin", "etc", "lib", "proc", "sys", "dev", "tmp", "var/tmp", "root"):
        (root / name).mkdir(parents=True)
    for place in ("etc/passwd", "etc/group", "etc/resolv.conf", "etc/hosts", "etc/localtime"):
        (root / place).touch()
    shutil.copy("/bin/sh", root / "bin" / "sh")
    shutil.copy("/bin/cat", root / "bin" / "cat")
    for program in ("/bin/sh", "/bin/cat"):
        listed = subprocess.run(["ldd", program], capture_output=True, text=True, check=True)
        for word in listed.stdout.split():
            if word.startswith("/"):
                target = root / word[1:]
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(word, target)
    return root


@pytest.mark.cluster
@pytest.mark.slow
def test_apptainer_sees_what_is_bound(tmp_path: Path, image: Path) -> None:
    make_model(tmp_path / "real" / "a:b,c" / "iter_100")
    link(tmp_path / "mid" / "proj", tmp_path / "real")
    target = tmp_path / "mid" / "proj" / "a:b,c" / "iter_100"
    latest = link(tmp_path / "home" / "latest", target)
    weights = tmp_path / "blobs" / "b1"
    weights.parent.mkdir()
    weights.write_text("other weights")
    link(latest / "extra.safetensors", "../../../blobs/b1")
    (tmp_path / "base").mkdir()
    (tmp_path / "run").mkdir()
    options = [text for line in binds_of(tmp_path, str(latest)) for text in bind_option(line)]
    seen = subprocess.run(
        [
            *("apptainer", "exec", "--containall", *options, str(image)),
            *("cat", f"{latest}/model.safetensors", f"{latest}/extra.safetensors"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert seen.stdout == "weightsother weights", seen.stderr
