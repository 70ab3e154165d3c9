"""The index of tasks: what it finds, what it passes over, and whose cache it believes."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from oellm.errors import InputError
from oellm.frameworks.lm_eval.catalog import task_index, task_yaml
from oellm.frameworks.lm_eval.catalog.task_index import KINDS, TaskIndex, TaskIndices
from oellm.frameworks.lm_eval.catalog.task_lookup import require_task
from oellm.frameworks.lm_eval.catalog.task_managers import TaskManagers
from support.processes import INDICES


def write(directory: Path, **files: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (directory / f"{name}.yaml").write_text(content)
    return directory


def indices(cache: Path) -> TaskIndices:
    return TaskIndices({"OELLM_CACHE_DIR": str(cache)}, pytest.fail)


@pytest.mark.slow
def test_it_is_what_lm_eval_finds_itself() -> None:
    from lm_eval.tasks import TaskManager

    index = TaskIndices({"OELLM_CACHE_DIR": str(INDICES)}, print).shipped()
    theirs = {
        name: (KINDS[entry.kind.name], str(entry.yaml_path or ""), {*entry.tags})
        for name, entry in TaskManager().task_index.items()
    }
    assert len(theirs) > 10_000
    assert theirs == {
        name: (kind, os.path.join(index.root, path) if path else "", {*tags})
        for name, (kind, path, tags) in index.entries.items()
    }


@pytest.mark.slow
def test_what_lm_eval_finds_in_a_directory_of_odd_files_is_found(tmp_path: Path) -> None:
    from lm_eval.tasks import TaskManager

    directory = write(
        tmp_path / "tasks",
        a="task: a\ntag: [t, a_too]\n",
        a_too="task: a_too\n",
        b="group: b\ntask: [a]\ntag: t\n",
        c="class: !function code.C\ntask: c\n",
        d="class: !function code.D\n",
        e="task: a\n",
        f="include: f.yaml\ntask: f\n",
        g="include: [base, base]\ntask: g\n",
        h="- a\n",
        i="task: [\n",
        j="task: !other j\n",
        k="include: base\n",
        l="",
    )
    (directory / "base").write_text("task: from_base\ntag: t\n")
    write(directory / "__pycache__", m="task: m\n")
    write(directory / "n", n="include: ../base\ntask: n\n")
    theirs = TaskManager(include_path=str(directory), include_defaults=False).task_index
    ours = task_index._scan(str(directory))
    assert {name: {*entry.tags} for name, entry in ours.entries.items()} == {
        name: {*entry.tags} for name, entry in theirs.items()
    }
    assert sorted(ours.passed_over) == [f"{name}.yaml" for name in ("a_too", *"defghijl")]


@pytest.mark.slow
def test_a_configuration_is_what_lm_eval_reads(tmp_path: Path) -> None:
    from lm_eval.tasks._yaml_loader import load_yaml

    directory = write(
        tmp_path,
        top="include: [one.yaml, sub/two.yaml]\ntask: top\na: 1\nx: !function m.f\n",
        one="a: 2\nb: 2\ntask_list: [1]\nd: &d {e: 2020-01-01}\n",
    )
    write(directory / "sub", two="include: ../three\nb: 3\nc: !function n.g\n")
    (directory / "three").write_text("c: 4\nf: [1.0, null, yes]\n")
    ours = task_yaml.read_config(str(directory / "top.yaml"))
    theirs = load_yaml(directory / "top.yaml", resolve_func=False)
    functions = {"x": f"{directory}/m.f", "c": f"{directory}/sub/n.g"}
    assert {key: theirs[key] for key in functions} == functions
    assert {key: ours[key].directory + "/" + ours[key].name for key in functions} == functions
    assert {**ours, **functions} == theirs


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"bad": "task: my_fn\ninclude: gone.yaml\n"},
            "lm-eval has no task, group or tag 'my_fn'; passed over: "
            "{at}/bad.yaml:2 includes gone.yaml, which is not there",
        ),
        (
            {"bad": 'task: my_fn\ninclude: "g\\x6fne.yaml"\n'},
            "lm-eval has no task, group or tag 'my_fn'; passed over: "
            "{at}/bad.yaml includes gone.yaml, which is not there",
        ),
        (
            {"bad": "task: my_fn\nx: [\n"},
            "lm-eval has no task, group or tag 'my_fn'; passed over: {at}/bad.yaml is not YAML "
            "that lm-eval reads: line 3: did not find expected node content",
        ),
        (
            {"z": "task: my_fn\nx: [\n", **dict.fromkeys("abcd", "[")},
            "lm-eval has no task, group or tag 'my_fn'; passed over: {at}/z.yaml is not YAML that "
            "lm-eval reads: line 3: did not find expected node content; passed over: "
            "{at}/a.yaml is not YAML that lm-eval reads: line 2: did not find expected node "
            "content; passed over: {at}/b.yaml is not YAML that lm-eval reads: line 2: did not "
            "find expected node content; and 2 more files",
        ),
        (
            {"good": "task: my_fn\nprocess_docs: !function nowhere.fn\n"},
            "{at}/good.yaml:2: process_docs: !function nowhere.fn: there is no {at}/nowhere.py, "
            "nor a module 'nowhere'",
        ),
        (
            {"good": "task: my_fn\nmetric_list: [{{metric: !function nowhere.fn}}]\n"},
            "{at}/good.yaml:2: metric: !function nowhere.fn: there is no {at}/nowhere.py, "
            "nor a module 'nowhere'",
        ),
    ],
)
def test_a_file_that_is_passed_over_is_named_with_the_reason(
    tmp_path: Path, files: dict[str, str], message: str
) -> None:
    directory = write(tmp_path / "inc", **{n: text.format() for n, text in files.items()})
    found = TaskIndices({"OELLM_CACHE_DIR": str(INDICES)}, print)
    with pytest.raises(InputError) as caught:
        require_task(found, "my_fn", str(directory))
    assert caught.value.message == message.format(at=directory)


def test_a_damaged_file_is_not_named_for_a_slip_of_the_pen(tmp_path: Path) -> None:
    directory = write(tmp_path / "inc", bad="[", good="task: my_fn\n")
    found = TaskIndices({"OELLM_CACHE_DIR": str(INDICES)}, print)
    with pytest.raises(InputError) as caught:
        require_task(found, "my_fnn", str(directory))
    assert caught.value.message.endswith("'my_fnn', did you mean my_fn?")


def test_a_comma_does_not_separate_directories(tmp_path: Path) -> None:
    both = f"{write(tmp_path / 'a')},{write(tmp_path / 'b')}"
    with pytest.raises(InputError, match="no such directory; several are separated by `:`"):
        require_task(indices(tmp_path), "x", both)


def test_several_sources_define_tasks_and_no_name_twice(tmp_path: Path) -> None:
    a = write(tmp_path / "a", x="task: x\n", both="\ntask: both\ntag: few\n", g="task: other\n")
    b = write(
        tmp_path / "b",
        y="task: y\ntag: few\n",
        both="group: both\ntask: [y]\n",
        up="group: up\ntask: [x, y]\n",
        down="group: down\ntask: [up, {group: within, task: [both]}]\n",
    )
    # A directory that is named twice is one.
    known, sources = TaskManagers(indices(tmp_path)), f"{a}:{b}:{a}"
    for name in ("x", "y", "up"):
        known.require(name, sources)
        assert known.digest(name, sources)
    assert known.local_paths("up", sources) == {f"{a}/x.yaml", f"{b}/y.yaml", f"{b}/up.yaml"}
    places = f"{a}/both.yaml:2 and {b}/both.yaml:1 both define both: name one of the sources only"
    for act in (known.require, known.find_unknown, known.digest):
        with pytest.raises(InputError) as caught:
            act("both", sources)
        assert str(caught.value) == f"include_path: {places}"
    with pytest.raises(InputError, match=r"both.yaml:3 and .*y.yaml:2 both define few"):
        known.require("few", sources)
    # Also behind a group that is asked for.
    with pytest.raises(InputError, match=r"a/both.yaml:2 and .*b/both.yaml:1 both define both"):
        known.digest("down", sources)
    with pytest.raises(InputError, match=f"{tmp_path}/c: no such directory"):
        known.require("x", f"{a}:{tmp_path}/c")


def test_a_directory_that_is_no_directory_of_tasks_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_index, "_MOST_FILES", 3)
    write(tmp_path / "tasks", a="", b="", c="", d="")
    with pytest.raises(InputError, match="more than 3 files lie below it"):
        indices(tmp_path).directory(str(tmp_path / "tasks"))


def test_a_cache_that_others_may_write_to_is_ignored(tmp_path: Path) -> None:
    directory = write(tmp_path / "tasks", a="task: a\n", b="task: b\n")
    cache = tmp_path / "cache"
    true = indices(cache).directory(str(directory))
    (file,) = cache.glob("*/*.json")
    content = json.loads(file.read_bytes())
    del content["content"][0]["a"]

    def read(change: Callable[[], object]) -> TaskIndex:
        file.write_text(json.dumps(content))
        file.chmod(0o644)
        change()
        found = indices(cache).directory(str(directory))
        file.parent.chmod(0o755)
        return found

    # What it lacks shows that it is believed.
    assert "a" not in read(lambda: None).entries
    assert read(lambda: file.chmod(0o664)) == true
    assert read(lambda: file.parent.chmod(0o777)) == true
    if os.geteuid() == 0:
        assert read(lambda: os.chown(file, 65534, 65534)) == true
        os.chown(file, 0, 0)
        assert read(lambda: os.chown(file.parent, 65534, 65534)) == true


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077])
def test_a_cache_is_used_again_whatever_the_umask_is(tmp_path: Path, umask: int) -> None:
    directory = write(tmp_path / "tasks", a="task: a\n")
    before = os.umask(umask)
    try:
        indices(tmp_path / "cache").directory(str(directory))
    finally:
        os.umask(before)
    (file,) = (tmp_path / "cache").glob("*/*.json")
    made = file.stat().st_mtime_ns
    indices(tmp_path / "cache").directory(str(directory))
    assert file.stat().st_mtime_ns == made


def test_several_processes_share_one_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = write(tmp_path / "site-packages" / "tasks", a="task: a\n")
    said: list[str] = []
    scan = task_index._scan

    def slow_scan(root: str) -> TaskIndex:
        threading.Event().wait(0.5)
        return scan(root)

    monkeypatch.setattr(task_index, "_scan", slow_scan)

    def ask() -> None:
        environ = {"OELLM_CACHE_DIR": str(tmp_path / "cache")}
        assert list(TaskIndices(environ, said.append).directory(str(directory)).entries) == ["a"]

    threads = [threading.Thread(target=ask) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(said) == 1
