"""config.json: what it may say, how it becomes settings of the cluster object, and its errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from oellm.clusters.settings import setting_name
from oellm.errors import MachineError, OellmError
from oellm.global_benchmark.benchmark_run import BenchmarkRun
from oellm.global_benchmark.config_file import DEFAULTS, read_config, write_defaults
from oellm.global_benchmark.run_cluster import resolve_benchmark_cluster


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a configuration with the defaults, on a machine that is no known cluster."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OELLM_CLUSTER", "slurm")
    write_defaults(tmp_path / "config.json")
    return Path("config.json")


def change(path: Path, section: str, **values: Any) -> None:
    content = json.loads(path.read_text())
    content[section] |= values
    path.write_text(json.dumps(content))


def settings(path: Path, *, slurm: bool) -> dict[str, Any]:
    config = read_config(path, slurm=slurm)
    environ = {"OELLM_CLUSTER": "slurm"}
    return dict(resolve_benchmark_cluster(config, environ, slurm=slurm).settings)


def test_every_setting_reaches_the_cluster_under_its_name(path: Path, tmp_path: Path) -> None:
    found = settings(path, slurm=True)
    for section in DEFAULTS.values():
        for name, value in section.items():
            if value not in (None, []) and name != "images_directory":
                assert found[setting_name(name)] == value, name
    assert found["images_directory"] == str(tmp_path / "images")
    given = {"account": "a", "gpu_constraint": "c", "exclude": "n[1-2]", "concurrency": 3}
    change(path, "slurm", **given, time_limit="02:00:00")
    assert settings(path, slurm=True).items() >= {**given, "time_limit": "02:00:00"}.items()


def test_the_section_slurm_counts_on_slurm_only(path: Path) -> None:
    change(path, "slurm", account="a")
    here = settings(path, slurm=False)
    assert here["executor"] == "local"
    assert not {"account", "partition", "cpu_partition", "mem"} & here.keys()
    assert (here["dtype"], here["tp"]) == ("bfloat16", 1)


def test_binds_are_texts_or_objects_and_models_are_found_by_them(path: Path) -> None:
    Path("weights/tiny").mkdir(parents=True)
    Path("data").mkdir()
    bound = {"source": "./weights", "target": "/models"}
    change(path, "run", binds=[bound, "data", "data:/d"])
    here = Path.cwd()
    config = read_config(path, slurm=False)
    expected = [f"{here}/weights:/models", f"{here}/data:{here}/data", f"{here}/data:/d"]
    assert config.run["binds"] == expected
    assert config.find_on_host("/models/tiny") == f"{here}/weights/tiny"
    assert config.find_on_host("acme/tiny") == "acme/tiny"
    assert config.find_on_host(f"{here}/weights") == f"{here}/weights"


def test_tp_is_another_name(path: Path) -> None:
    content = {"run": {"tp": 2}, "slurm": {"gpu_gres": "gpu:a100:2"}}
    path.write_text(json.dumps(content))
    assert read_config(path, slurm=True).run == {"tp": 2}


@pytest.mark.parametrize(
    ("section", "values", "told"),
    [
        ("run", {"dtpye": 1}, "run.dtpye: unknown key, did you mean dtype?"),
        ("run", {"dtype": "int8"}, "run.dtype: expected one of float16, bfloat16, float32, got"),
        ("run", {"tensor_parallel_size": "two"}, "run.tensor_parallel_size: expected an integer"),
        ("run", {"tensor_parallel_size": 0}, "run.tensor_parallel_size: expected a positive int"),
        ("run", {"tp": 1}, "run.tp: run.tensor_parallel_size is the same setting"),
        ("run", {"tensor_parallel_size": 2}, "expected at most 1, the GPUs of slurm.gpu_gres"),
        ("run", {"binds": "/a"}, "run.binds: expected a list of binds"),
        ("run", {"binds": ["gone"]}, r"run.binds\[0\]: .*/gone is not there"),
        ("run", {"binds": [{"source": "gone", "target": "/a"}]}, r"run.binds\[0\].source: .*/gone"),
        ("run", {"binds": [{"source": "."}]}, r"run.binds\[0\]: the key 'target' is missing"),
        ("run", {"binds": [5]}, r"run.binds\[0\]: expected \"/a\", \"/a:/b\" or"),
        ("run", {"binds": [".:b"]}, r"run.binds\[0\]: .*with an absolute target, got \"\.:b\""),
        ("run", {"binds": [".:/a:/b"]}, r"run.binds\[0\]: .* got \"\.:/a:/b\""),
        ("run", {"binds": [".:/a,b"]}, r"run.binds\[0\]: .* got \"\.:/a,b\""),
        ("run", {"binds": [".:/a", "/:/a/"]}, r"run.binds\[1\]: run.binds\[0\] has the same tar"),
        ("run", {"tensor_parallel_size": "2"}, "expected at most 1, the GPUs of slurm.gpu_gres"),
        ("run", {"tensor_parallel_size": "0"}, "run.tensor_parallel_size: expected a positive int"),
        ("run", {"mem": "1G"}, "slurm.mem: run.mem is the same setting"),
        ("run", {"executor": "local"}, "run.executor: unknown key"),
        ("slurm", {"cpus_per_gpu": -1}, "slurm.cpus_per_gpu: expected a positive integer, got -1"),
        ("slurm", {"account": ["a"]}, "slurm.account: expected text, got"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(
    path: Path, section: str, values: dict[str, Any], told: str
) -> None:
    change(path, section, **values)
    with pytest.raises(OellmError, match=f"^config.json: .*{told}") as caught:
        read_config(path, slurm=True)
    assert caught.value.status == 2


def test_files_that_are_no_configuration(path: Path) -> None:
    for content, told in (
        ("[]", "expected an object"),
        ("{}", "the key 'run' is missing"),
        ('{"run": {}, "slrum": {}}', "unknown key 'slrum', did you mean slurm?"),
        ('{"run": {}}', "the key 'slurm' is missing"),
        ('{"run": {', "expected JSON"),
        ('{"run": {"tp": 1, "tp": 1}}', ": run: an object has the key 'tp' twice"),
        ('{"run": {"binds": [0, 1e400]}}', r": run.binds\[1\]: the number 1e400 is"),
        ('{"run": {"tp": NaN}}', ": run.tp: NaN is no number"),
        ('\ufeff{"run": {"tp": 0}}', ": run.tp: expected a positive integer"),
    ):
        path.write_text(content)
        with pytest.raises(OellmError, match=f"^config.json.*{told}"):
            read_config(path, slurm=True)
    path.unlink()
    with pytest.raises(OellmError, match="global-benchmark config"):
        read_config(path, slurm=False)
    path.mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        write_defaults(path)
    assert caught.value.filename == "config.json"


@pytest.mark.parametrize("value", [None, "", ...])
def test_images_are_in_the_directory_images_unless_a_setting_says_another(
    path: Path, tmp_path: Path, value: object
) -> None:
    content = json.loads(path.read_text())
    del content["run"]["images_directory"]
    if value is not ...:
        content["run"]["images_directory"] = value
    path.write_text(json.dumps(content))
    assert settings(path, slurm=True)["images_directory"] == str(tmp_path / "images")
    if value is ...:
        change(path, "slurm", images_directory="/mine")
        assert settings(path, slurm=True)["images_directory"] == "/mine"


def test_nothing_stays_of_a_run_whose_commands_are_not_there(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = resolve_benchmark_cluster(
        read_config(path, slurm=True), {"OELLM_CLUSTER": "slurm"}, slurm=True
    )
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sys.argv", [str(tmp_path / "global-benchmark")])
    run = BenchmarkRun.create()
    with pytest.raises(MachineError, match="oe-fetch is neither"):
        run.evaluate([], cluster, lambda _: None)
    assert list(Path("results").iterdir()) == []
