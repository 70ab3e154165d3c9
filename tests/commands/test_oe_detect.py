"""oe-detect: which cluster this is, and which of several settings counts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from oellm.clusters import cluster
from oellm.core import schema
from oellm.errors import ExitStatus, MachineError, OellmError
from support.processes import BIN, ROOT, Run

PACKAGED = json.loads((ROOT / "clusters.json").read_text())


def detect(run: Run, *arguments: str, env: dict[str, str] | None = None) -> dict[str, Any]:
    return json.loads(run("oe-detect", *arguments, env=env).stdout)


def explained(run: Run, *arguments: str, env: dict[str, str]) -> dict[str, tuple[str, str]]:
    """Return the value and the origin of each setting."""
    head, *lines = run("oe-detect", "--explain", *arguments, env=env).stdout.splitlines()
    origin, value = head.index("origin"), head.index("value")
    return {line[:origin].strip(): (line[value:], line[origin:value].strip()) for line in lines}


def user_file(directory: Path, content: dict[str, Any] | bytes) -> dict[str, str]:
    """Write the user's file and return the environment that names it."""
    path = directory / "mine.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return {"OELLM_CONFIG": "mine.json"}


def test_a_flag_beats_the_environment_beats_the_users_file_beats_the_package(
    run: Run, tmp_path: Path
) -> None:
    arguments = ["--cluster=leonardo", "--set=queue_limit=11"]
    env = {"OELLM_QUEUE_LIMIT": "12"}
    content = {
        "clusters": {"leonardo": {"queue_limit": 13}},
        "defaults": {"queue_limit": 14},
    }
    peeled = []
    for remove in (
        arguments.pop,
        env.clear,
        lambda: content.pop("clusters"),
        lambda: content.pop("defaults"),
        lambda: arguments.__setitem__(0, "--cluster=slurm"),
        lambda: None,
    ):
        variables = {**env, **user_file(tmp_path, content), "EVAL_BASE_DIR": "/b"}
        peeled.append(explained(run, *arguments, env=variables)["queue_limit"])
        remove()
    assert peeled == [
        ("11", "--set queue_limit"),
        ("12", "OELLM_QUEUE_LIMIT"),
        ("13", "mine.json"),
        ("14", "mine.json, defaults"),
        (str(PACKAGED["clusters"]["leonardo"]["queue_limit"]), "clusters.json"),
        (str(PACKAGED["defaults"]["queue_limit"]), "clusters.json, defaults"),
    ]


def test_the_names_of_global_benchmarks_are_names_of_settings(run: Run, tmp_path: Path) -> None:
    content = {"clusters": {"slurm": {"gpu_partition": "b", "tensor_parallel_size": 3}}}
    env = {"EVAL_BASE_DIR": "/b", **user_file(tmp_path, content)}
    found = detect(run, "--cluster=slurm", env=env)
    assert (found["partition"], found["tp"]) == ("b", 3)
    assert not {"gpu_partition", "tensor_parallel_size"} & set(found)
    env["OELLM_TENSOR_PARALLEL_SIZE"] = "4"
    found = detect(run, "--cluster=slurm", "--set=gpu_partition=c", env=env)
    assert (found["partition"], found["tp"]) == ("c", 4)


def test_the_users_file_is_found_below_xdg_config_home_or_home(run: Run, tmp_path: Path) -> None:
    for name, directory in (("xdg", tmp_path / "config"), ("home", tmp_path / "home/.config")):
        (directory / "oellm").mkdir(parents=True)
        content = {"clusters": {"local": {"account": name}}}
        (directory / "oellm" / "clusters.json").write_text(json.dumps(content))
    xdg = {"XDG_CONFIG_HOME": str(tmp_path / "config")}
    assert detect(run, "--cluster=local")["account"] == "home"
    assert detect(run, "--cluster=local", env=xdg)["account"] == "xdg"


def test_paths_follow_the_documented_variables(run: Run) -> None:
    keys = ("eval_base_dir", "eval_output_dir", "hf_home", "images_directory")
    cases = [
        ({"EVAL_BASE_DIR": "/b"}, ("/b", "/b", "/b/hf_home", "/b")),
        ({"EVAL_BASE_DIR": "/b", "HF_HOME": "/h"}, ("/b", "/b", "/h", "/b")),
        ({"EVAL_BASE_DIR": "/b", "EVAL_OUTPUT_DIR": "/o"}, ("/b", "/o", "/b/hf_home", "/b")),
        ({"EVAL_BASE_DIR": "/b", "OELLM_EVAL_BASE_DIR": "/c"}, ("/c", "/c", "/c/hf_home", "/c")),
    ]
    for env, expected in cases:
        found = detect(run, "--cluster=leonardo", env=env)
        assert tuple(found[key] for key in keys) == expected


def test_maps_merge_by_key_lists_are_replaced_and_nothing_unsets(run: Run, tmp_path: Path) -> None:
    content = {
        "defaults": {"env": {"A": "1", "B": "{account}-{user}"}, "binds": ["/x"]},
        "clusters": {"local": {"env": {"B": "2", "C": None}, "account": "a"}},
    }
    env = {**user_file(tmp_path, content), "OELLM_ENV": '{"D": "4", "A": null}'}
    found = detect(run, "--cluster=local", "--set=env.E={account}", "--set=binds=/y, /z", env=env)
    assert found["env"] == {"B": "2", "D": "4", "E": "a"}
    assert found["binds"] == ["/y", "/z"]
    assert "account" not in detect(run, "--cluster=local", "--set=account=", env=env)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("login01.leonardo.local", "leonardo"),
        ("uan02", "lumi"),
        ("jrlogin08.jureca", "jureca"),
        ("jpbl-s01-02", "jupiter"),
        ("int5.local.snellius.surf.nl", "snellius"),
    ],
)
def test_a_login_node_is_recognised_by_its_name(tmp_path: Path, host: str, expected: str) -> None:
    (tmp_path / "empty.json").write_text("{}")
    environ = {"OELLM_CONFIG": str(tmp_path / "empty.json")}
    assert cluster.resolve_cluster(None, [], environ, hostname=host).text("name") == expected
    other = {**environ, "OELLM_CLUSTER": "local"}
    assert cluster.resolve_cluster(None, [], other, hostname=host).text("name") == "local"
    assert cluster.resolve_cluster("local", [], environ, hostname=host).text("name") == "local"


def test_host_names_of_the_users_file_come_before_those_of_the_package(tmp_path: Path) -> None:
    ours = {
        "lumi": {"hostnames": ["lumi-*"]},
        "ours": {"hostnames": ["jp-ours*"], "eval_base_dir": "/b"},
        "theirs": {"hostnames": ["jp-*"], "eval_base_dir": "/b"},
    }
    environ = {"OELLM_CONFIG": str(tmp_path / "mine.json")}
    user_file(tmp_path, {"clusters": ours})

    def name(host: str) -> str:
        try:
            return cluster.resolve_cluster(None, [], environ, hostname=host).text("name")
        except MachineError:  # this machine has sbatch
            return "local"

    hosts = ("jp-ours1", "jp-other", "jpbl-s01-02", "lumi-1", "uan01")
    assert [name(host) for host in hosts] == ["ours", "theirs", "jupiter", "lumi", "local"]


def test_a_machine_that_no_cluster_knows_is_local_only_without_slurm(
    run: Run, tmp_path: Path
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    # Whatever this machine is called, no packaged host name pattern may match it here.
    hostless = {name: {"hostnames": []} for name in PACKAGED["clusters"]}
    env = {"PATH": str(programs), **user_file(tmp_path, {"clusters": hostless})}
    assert json.loads(run(BIN / "oe-detect", env=env).stdout)["name"] == "local"
    (programs / "sbatch").write_text("#!/bin/sh\n")
    (programs / "sbatch").chmod(0o755)
    refused = run(BIN / "oe-detect", env=env, status=3)
    assert refused.stdout == ""
    assert "--cluster or OELLM_CLUSTER" in refused.stderr
    assert json.loads(run(BIN / "oe-detect", "--cluster=local", env=env).stdout)["name"] == "local"


UNSET = "which is not set: set it with --set qos=… or OELLM_QOS"
BAD_SETTINGS = [
    # Texts of --set for the cluster `local`, and the message about them.
    (["acount=x"], "--set acount: unknown setting 'acount', did you mean account?"),
    (["account"], "--set: expected key=value, got 'account'"),
    (["account.x=1"], "--set: 'account' is not a map, so it has no member 'x'"),
    (["mem=64\nG"], "--set mem: mem: expected no line ends or control characters"),
    (["binds=/a,/b\x1b[0m"], "--set binds: binds: expected no line ends or control "),
    (["env.A\nB=1"], "--set env.A\nB: env: expected names of variables, got 'A\\nB'"),
    # The program env would take that for an option.
    (["env.-Stouch x=1"], "--set env.-Stouch x: env: expected names of variables, got '-Stouch x'"),
    (["whole_node=yes"], "--set: whole_node: expected true or false, got 'yes'"),
    (
        ["sbatch.array=0-3"],
        "--set sbatch.array: sbatch: --array must not be changed: "
        "oe-submit chooses the elements of each job array",
    ),
    # sbatch accepts the beginning of a name for the whole.
    (
        ["sbatch.expor=ALL"],
        "--set sbatch.expor: sbatch: --export must not be changed: nothing from",
    ),
    (
        ["sbatch.--exclusive="],
        "--set sbatch.--exclusive: sbatch: expected the long name of an sbatch option "
        "without its dashes, got '--exclusive'",
    ),
    (["sbatch.mail-user=a\nb"], "--set sbatch.mail-user: sbatch: expected no line ends or control"),
    (["queue_limit=ten"], "--set: queue_limit: expected an integer, got 'ten'"),
    (["queue_limit=\u0663"], "--set: queue_limit: expected an integer, got '\u0663'"),
    (["time_limit=\u0663:00:00"], "time_limit: expected [days-]hours:minutes:seconds, got"),
    (["queue_limit=0"], "--set queue_limit: queue_limit: expected a positive integer, got 0"),
    (["time_limit=1 day"], "expected [days-]hours:minutes:seconds, got '1 day'"),
    (["executor=pbs"], "executor: expected one of slurm, local, got 'pbs'"),
    (["env={A: 1}"], "--set: env: expected JSON: "),
    (["binds=[1"], "--set: binds: expected JSON: "),
    (['env={"A": 1, "A": 2}'], "--set: env: expected JSON: an object has the key 'A' twice"),
    (['env={"A": ["x"]}'], "--set env: env: expected texts or numbers, got ['x']"),
    (
        ["env.HF_TOKEN=hf_x"],
        "--set env.HF_TOKEN: env: expected no secret, got HF_TOKEN: run.json",
    ),
    (["binds=[null]"], "--set binds: binds: expected texts or numbers, got None"),
    (["account=\udcff"], "--set account: account: expected UTF-8 text, got '\\udcff'"),
    (["mem={qos}"], f"setting mem needs {{qos}}, {UNSET}"),
    (
        ["mem={acount}"],
        "setting mem needs {acount}, but there is no setting 'acount', did you mean account?",
    ),
    (["mem=a{mem}"], "setting mem: {mem} refers to itself"),
    (["mem={qos}", "qos={mem}"], "setting qos: {qos} refers to itself"),
]


def refusal(
    tmp_path: Path, name: str | None, overrides: Iterable[str] = (), **variables: str
) -> str:
    """Return the message about bad settings; its exit status says that the user can fix them."""
    environ = {"XDG_CONFIG_HOME": str(tmp_path), **variables}
    with pytest.raises(OellmError) as error:
        cluster.resolve_cluster(name, overrides, environ, hostname="nowhere")
    assert error.value.status == ExitStatus.USAGE
    return str(error.value)


@pytest.mark.parametrize(("overrides", "message"), BAD_SETTINGS)
def test_a_bad_setting_is_refused(tmp_path: Path, overrides: list[str], message: str) -> None:
    assert message in refusal(tmp_path, "local", overrides)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"OELLM_ACOUNT": "x"},
            "OELLM_ACOUNT: no setting has this variable, did you mean OELLM_ACCOUNT?",
        ),
        (
            {"OELLM_CLUSTER": "lumy"},
            "unknown cluster 'lumy', did you mean lumi?; oe-detect --list shows them",
        ),
        ({"OELLM_CONCURRENCY": "1.5"}, "OELLM_CONCURRENCY: concurrency: expected an integer, got "),
        ({"HF_HOME": "/a\n/b"}, "HF_HOME: hf_home: expected no line ends or control characters"),
    ],
)
def test_a_bad_variable_is_refused(tmp_path: Path, variables: dict[str, str], message: str) -> None:
    name = None if "OELLM_CLUSTER" in variables else "local"
    assert refusal(tmp_path, name, **variables).startswith(message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"clusters": {\n  "local" 1}}', "mine.json:2:11: expected JSON: "),
        (b"[]", "mine.json: expected an object, got []"),
        (b'{"clusters": {"local": {"mem": "\xff"}}}', "mine.json: expected UTF-8 text, got byte "),
        (b'{"cluster": {}}', "mine.json: unknown key 'cluster'"),
        (b'{"clusters": []}', "mine.json: clusters: expected an object, got []"),
        (
            b'{"clusters": {"local": {"mem": "1G", "mem": "2G"}}}',
            "mine.json: clusters.local: an object has the key 'mem' twice",
        ),
        (b'{"defaults": 1}', "mine.json: defaults: expected an object, got 1"),
        (
            b'{"clusters": {"local": null}}',
            "mine.json: clusters.local: expected an object, got null",
        ),
        (
            b'{"clusters": {"local": {"acount": "x"}}}',
            "mine.json: unknown setting 'acount', did you mean account?",
        ),
        (
            b'{"clusters": {"local": {"account": ["x"]}}}',
            "mine.json: account: expected text, got ['x']",
        ),
        (
            b'{"defaults": {"queue_limit": true}}',
            "mine.json, defaults: queue_limit: expected an integer, got True",
        ),
        (b'{"clusters": {"x": {"hostnames": "*"}}}', "mine.json: hostnames: expected a list, got "),
        (b'{"clusters": {"x": {"hostnames": [["*"]]}}}', "mine.json: hostnames: expected texts "),
    ],
)
def test_a_bad_file_of_the_user_is_refused_by_its_name(
    tmp_path: Path, content: bytes, message: str
) -> None:
    user_file(tmp_path, content)
    path = str(tmp_path / "mine.json")
    name = None if b"hostnames" in content else "local"
    text = refusal(tmp_path, name, OELLM_CONFIG=path)
    assert text.replace(path, "mine.json").startswith(message)


@pytest.mark.parametrize(
    ("arguments", "env", "message"),
    [
        (
            ["--cluster=leonrdo"],
            {},
            "unknown cluster 'leonrdo', did you mean leonardo?; oe-detect --list shows them",
        ),
        (["--cluster=none.json"], {}, "none.json: No such file or directory"),
        ([], {"OELLM_CONFIG": "none.json"}, "none.json: No such file or directory"),
        (
            ["--cluster=local", "--set=mem=\udcff"],
            {},
            "--set mem: mem: expected UTF-8 text, got '\\udcff'",
        ),
    ],
)
def test_errors_go_to_stderr_alone(
    run: Run, arguments: list[str], env: dict[str, str], message: str
) -> None:
    refused = run("oe-detect", *arguments, env=env, status=2)
    assert (refused.stdout, refused.stderr) == ("", f"oe-detect: {message}\n")


@pytest.mark.parametrize("name", PACKAGED["clusters"])
def test_every_packaged_cluster_is_complete_but_for_the_directory_of_a_generic_one(
    tmp_path: Path, name: str
) -> None:
    environ = {"XDG_CONFIG_HOME": str(tmp_path)}
    if name == "slurm":
        assert "needs {eval_base_dir}, which is not set" in refusal(tmp_path, name)
        environ["EVAL_BASE_DIR"] = "/b"
    settings = cluster.resolve_cluster(name, [], environ).settings
    assert settings["name"] == name
    assert list(settings) == [key for key in schema.table("cluster") if key in settings]


def test_what_it_prints_describes_the_same_cluster_anywhere(run: Run, tmp_path: Path) -> None:
    printed = run("oe-detect", "--cluster=lumi", "--set=setup=module load {x}").stdout
    (tmp_path / "f.json").write_text(printed)
    # The file was resolved when it was written, so the environment no longer matters.
    env = {"OELLM_ACCOUNT": "other", "HF_HOME": "/other", "OELLM_CLUSTER": "local"}
    assert run("oe-detect", "--cluster=f.json", env=env).stdout == printed
    changed = detect(run, "--cluster=./f.json", "--set=account=other", env=env)
    assert changed == {**json.loads(printed), "account": "other"}


def test_it_lists_the_clusters_of_the_package_and_of_the_user(run: Run, tmp_path: Path) -> None:
    env = user_file(tmp_path, {"clusters": {"ours": {}, "lumi": {}}})
    listed = run("oe-detect", "--list", env=env).stdout.split()
    assert listed == [*PACKAGED["clusters"], "ours"]


def test_an_empty_map_drops_the_members_before_it(run: Run) -> None:
    one = ("--cluster=local", "--set=env.A=1")
    assert detect(run, *one)["env"] == {"A": "1"}
    assert detect(run, *one, "--set=env={}")["env"] == {}
    assert detect(run, *one, "--set=env={}", "--set=env.B=2")["env"] == {"B": "2"}


def test_options_that_say_different_things_exclude_each_other(run: Run) -> None:
    for other in ("--propose", "--explain"):
        done = run("oe-detect", "--list", other, status=ExitStatus.USAGE)
        assert done.stderr.startswith(f"oe-detect: --list and {other} exclude each other\n")
