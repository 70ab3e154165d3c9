"""oe-build: what it builds, what it prints, and what it refuses."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from oellm.core import schema
from support.build_yard import Yard
from support.processes import BIN, Run, clean_environment, rows_of
from support.terminal import on_terminal

NAMES = ("bigcode_eval-cpu", "lighteval-cpu", "lm_eval-cpu", "lm_eval-cuda", "lm_eval-rocm")


def names_in(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_an_image_is_built_with_its_record_and_log_and_then_up_to_date(yard: Yard) -> None:
    yard.define("one", "echo hello from the build", arguments={"WORD": "a"})
    (record,) = yard.records("one.def", "--arg", "WORD=b")
    image = yard.images / "one.sif"
    assert record["status"] == "built"
    assert record["path"] == str(image)
    assert record["digest"] == hashlib.sha256(image.read_bytes()).hexdigest()
    assert record["size"] == image.stat().st_size
    assert record["labels"] == {"title": "one"}
    assert record["source"] == "definition"
    assert record["seconds"] >= 0
    assert [*record] == [*schema.table("image")]
    kept = json.loads((yard.images / "one.sif.json").read_text())
    assert [*kept] == [*schema.table("image_record")]
    assert kept["digest"] == record["digest"]
    assert kept["inputs"]["arguments"] == {"WORD": "b"}
    assert kept["inputs"]["base"] == "docker://small"
    log = (yard.images / "one.sif.log").read_text()
    assert "apptainer build --build-arg WORD=b" in log
    assert "hello from the build" in log
    assert names_in(yard.images) == {"one.sif", "one.sif.json", "one.sif.log"}
    assert names_in(yard.scratch) == set()
    # The second one builds nothing, and a forced one builds again.
    (again,) = yard.records("one.def", "--arg", "WORD=b")
    assert (again["status"], again["digest"]) == ("up_to_date", record["digest"])
    assert yard.builds() == 1
    assert yard.records("one.def", "--arg=WORD=b", "--force")[0]["status"] == "built"
    assert yard.builds() == 2


def test_the_digest_is_known_to_whoever_asks_for_it_next(yard: Yard, tmp_path: Path) -> None:
    yard.define("one")
    cache = tmp_path / "cache"
    (record,) = yard.records("one.def", env={"OELLM_CACHE_DIR": str(cache)})
    (kept,) = cache.glob("image-*.json")
    assert json.loads(kept.read_text())["sha256"] == record["digest"]


def touch_image(yard: Yard) -> None:
    with (yard.images / "one.sif").open("a") as image:
        image.write(" ")


def copy_image(yard: Yard) -> None:
    image = yard.images / "one.sif"
    content = image.read_bytes()
    image.unlink()
    image.write_bytes(content)


def edit(name: str, before: str, after: str) -> Callable[[Yard], object]:
    def change(yard: Yard) -> None:
        path = yard.directory / name
        text = path.read_text()
        assert before in text
        path.write_text(text.replace(before, after))

    return change


@pytest.mark.parametrize(
    ("change", "status", "reason"),
    [
        (edit("one.def", "echo one", "echo two"), "out_of_date", "definition changed"),
        (edit("one.def", "# head", "# another comment"), "up_to_date", ""),
        (edit("requirements/a.txt", "a==1", "a==2"), "out_of_date", "lock file changed: a.txt"),
        (edit("tool.py", "1", "2"), "out_of_date", "file changed: tool.py"),
        (lambda yard: (yard.directory / "base").write_text("x"), "out_of_date", "base changed: "),
        (touch_image, "out_of_date", "image changed"),
        (copy_image, "up_to_date", ""),
        (lambda yard: (yard.images / "one.sif.json").unlink(), "out_of_date", "not recorded"),
        (lambda yard: (yard.images / "one.sif.json").write_text("{}"), "out_of_date", "not rec"),
        (lambda yard: (yard.images / "one.sif").unlink(), "missing", ""),
    ],
)
def test_a_list_says_what_is_out_of_date_and_why(
    yard: Yard, change: Callable[[Yard], object], status: str, reason: str
) -> None:
    (yard.directory / "requirements").mkdir()
    (yard.directory / "requirements" / "a.txt").write_text("a==1\n")
    (yard.directory / "tool.py").write_text("1\n")
    (yard.directory / "base").write_text("base")
    head = "# head\nBootstrap: localimage\nFrom: base"
    yard.define("one", "echo one", files=["requirements/a.txt", "tool.py"], head=head)
    yard.run("one.def")
    assert yard.records("--list", "one.def")[0]["status"] == "up_to_date"
    change(yard)
    (listed,) = yard.records("--list", "one.def")
    assert listed["status"] == status
    assert listed["reason"].startswith(reason)
    assert bool(listed["reason"]) == bool(reason)
    # oe-build does what the list says.
    (built,) = yard.records("one.def")
    assert built["status"] == ("up_to_date" if status == "up_to_date" else "built")


def test_an_image_that_was_built_with_other_arguments_is_out_of_date(yard: Yard) -> None:
    yard.define("one", arguments={"FROM": "a"}, head="Bootstrap: docker\nFrom: {{ FROM }}")
    yard.run("one.def", "--arg=FROM=b")
    (listed,) = yard.records("--list", "one.def")
    assert listed["reason"] == "base changed: docker://a; arguments changed"
    assert yard.records("--list", "one.def", "--arg=FROM=b")[0]["status"] == "up_to_date"


def test_names_come_from_stdin_and_records_go_out_in_all_formats(yard: Yard) -> None:
    yard.define("one")
    yard.define("two")
    text = "# all of them\none.def  # first\n\ntwo.def\n"
    records = yard.records(stdin=text)
    assert {record["name"] for record in records} == {"one", "two"}
    rows = rows_of(yard.run("-", "--format=csv", stdin=text).stdout)
    assert [row["status"] for row in rows] == ["up_to_date"] * 2
    assert json.loads(rows[0]["labels"])["title"] == rows[0]["name"]
    table = yard.run("--format=table", stdin=text).stdout.splitlines()
    assert table[0].split() == ["name", "status", "size"]
    assert len(json.loads(yard.run("--format=json", stdin=text).stdout)) == 2
    for words in ((), ("--verify",), ("--pull=oras://h/{name}",), ("--push=oras://h/{name}",)):
        nothing = yard.run(*words, stdin="# nothing\n")
        assert nothing.stdout == ""
        assert nothing.stderr == "oe-build: nothing to do: there are no names\n"


def test_all_definitions_are_listed_without_a_name(yard: Yard) -> None:
    records = yard.records("--list", "--set=images.quiz=quiz.sif", "--set=images.lm_eval=lm.sif")
    found = {record["name"]: record for record in records}
    assert {*NAMES} < {*found}
    assert found["lm_eval-cuda"]["status"] == "missing"
    # The cluster's own images, which no definition makes.
    assert found["quiz"]["used_by"] == ["quiz"]
    assert found["quiz"]["status"] == "missing"
    yard.images.mkdir()
    (yard.images / "quiz.sif").write_text("an image")
    records = yard.records("--list", "--set=images.quiz=quiz.sif", "--set=images.lm_eval=lm.sif")
    (foreign,) = (record for record in records if record["name"] == "quiz")
    assert (foreign["status"], foreign["reason"]) == ("foreign", "no definition makes it")


def test_on_a_terminal_the_images_of_the_cluster_are_built(yard: Yard, tmp_path: Path) -> None:
    env = clean_environment(tmp_path / "home", {**yard.env, "TERM": "xterm"})
    words = ["oe-build", "--cluster=local", f"--dir={yard.images}", "--way=root"]
    words += ["--set=images.lm_eval=lm_eval-cpu.sif", "--set=images.quiz=quiz.sif"]
    done = on_terminal(*words, env=env, is_stderr=True)
    assert done.returncode == 0, done.stdout
    (call,) = yard.apptainer.calls("build")
    assert call[-1].endswith("containers/framework-cpu.def")
    assert "NAME=lm_eval" in call
    assert "quiz.sif: no definition makes it" in done.stdout
    assert "lm_eval-cpu  built" in done.stdout
    # The line of progress is gone in the end.
    assert "\x1b[K" in done.stdout


def test_an_image_that_cannot_be_built_costs_no_other_one(yard: Yard) -> None:
    yard.define("good")
    bad = yard.define("bad", "true")
    yard.run("bad.def")
    before = (yard.images / "bad.sif").read_bytes()
    yard.define("bad", "echo the package is not there; exit 3")
    done = yard.run("bad.def", "good.def", "--jobs=1", status=1)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["status"] for record in records] == ["failed", "built"]
    assert records[0]["reason"] == ("its %post fails: the package is not there")
    assert "oe-build: bad: | the package is not there\n" in done.stderr
    assert "the package is not there" in (yard.images / "bad.sif.log").read_text()
    # The image before stays, and is still out of date.
    assert (yard.images / "bad.sif").read_bytes() == before
    assert yard.records("--list", str(bad))[0]["reason"] == "definition changed"
    assert names_in(yard.scratch) == set()
    assert not [name for name in names_in(yard.images) if name.startswith(".")]


def test_a_file_that_is_no_image_does_not_become_one(yard: Yard) -> None:
    yard.define("one", 'echo "not an image" >"$IMAGE"')
    (record,) = yard.records("one.def", status=1)
    assert record["reason"].startswith("it is no image: ")
    assert names_in(yard.images) == {"one.sif.log"}


def test_a_disk_that_becomes_full_is_the_reason(yard: Yard) -> None:
    yard.define("one", "echo 'write /x: no space left on device'; exit 1")
    (record,) = yard.records("one.def", status=1)
    assert record["reason"] == "the disk became full (No space left on device)"


def test_a_disk_without_room_is_told_before_anything_is_built(yard: Yard, small_disk: Path) -> None:
    yard.define("one")
    for variable, purpose in (
        ("APPTAINER_TMPDIR", "unpacked images (APPTAINER_TMPDIR)"),
        ("APPTAINER_CACHEDIR", "base images (APPTAINER_CACHEDIR)"),
    ):
        done = yard.run("one.def", env={variable: str(small_disk)}, status=3)
        assert done.stderr.startswith(f"oe-build: {small_disk}: about ")
        assert f" are needed for {purpose}, and " in done.stderr
    assert yard.builds() == 0
    # What is up to date needs no room.
    yard.run("one.def")
    yard.run("one.def", env={"APPTAINER_TMPDIR": str(small_disk)})


def test_several_images_are_built_at_once(yard: Yard) -> None:
    meeting = (
        "touch {mine}; for i in $(seq 100); do [ -e {other} ] && exit 0; sleep 0.1; done; exit 1"
    )
    one, two = yard.directory / "begun1", yard.directory / "begun2"
    yard.define("one", meeting.format(mine=one, other=two))
    yard.define("two", meeting.format(mine=two, other=one))
    records = yard.records("one.def", "two.def", "--jobs=2")
    assert [record["status"] for record in records] == ["built", "built"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lm_eval-cud"], "unknown definition 'lm_eval-cud', did you mean lm_eval-cuda?; "),
        (["nothere.def"], "nothere.def: no such file"),
        (["one.def", "--arg=WORD"], "--arg: expected NAME=VALUE, got 'WORD'"),
        (["one.def", "--arg=WORT=x"], "--arg: no definition has the argument 'WORT', did you mean"),
        (["one.def", "--arg=WORD=https://me:geheim77@host/"], "--arg: WORD: expected no token and"),
        (["one.def", "--format=yaml"], "--format: expected one of csv, jsonl, json, table, "),
        (["one.def", "sub/one.def"], "/"),
        (["one.def", "--pull="], "--pull: expected a value, got ''"),
        (["--list", "--verify"], "--list and --verify exclude each other"),
        (["one.def", "--manifest=m.csv"], "--manifest: only --verify looks up its tasks"),
        (["one.def", "--manifest="], "--manifest: expected a value, got ''"),
        (["--verify", "--manifest=-"], "--manifest=-: give the names of images, too, since "),
        (["--verify", "--manifest=-", "-"], "--manifest=-: give the names of images, too, since "),
        (["one.def", "--jobs=0"], "--jobs: expected a positive integer, got '0'"),
    ],
)
def test_bad_usage_is_refused(yard: Yard, words: list[str], message: str) -> None:
    yard.define("one", arguments={"WORD": "a"})
    (yard.directory / "sub").mkdir()
    yard.define("sub/one")
    done = yard.run(*words, status=2)
    assert done.stdout == ""
    assert done.stderr.startswith(f"oe-build: {message}")
    assert yard.builds() == 0


def test_a_machine_without_a_runtime_or_a_directory_says_so(run: Run, yard: Yard) -> None:
    yard.define("one")
    for runtime, message in (
        ("auto", "neither apptainer nor singularity is on PATH: "),
        ("singularity", "singularity is not on PATH: "),
    ):
        words = ["--cluster=local", f"--set=container_runtime={runtime}", "--dir=images"]
        done = run("oe-build", *words, "one.def", env={"PATH": str(BIN)}, status=3)
        assert done.stderr.startswith(f"oe-build: {message}")
    done = run("oe-build", "--cluster=local", "one.def", status=2)
    assert done.stderr == "oe-build: --dir is missing: cluster local has no images_directory\n"


def test_a_table_fits_the_terminal(yard: Yard, tmp_path: Path) -> None:
    yard.define(
        "one", "echo a reason that is much longer than any terminal is wide " * 3 + "; exit 1"
    )
    env = clean_environment(tmp_path / "home", {**yard.env, "TERM": "xterm"})
    words = ["oe-build", "--cluster=local", f"--dir={yard.images}", "--way=root"]
    done = on_terminal(*words, str(yard.directory / "one.def"), env=env, width=80)
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["name", "status", "reason"]
    assert lines[2].endswith("…")
    assert max(map(len, lines)) <= 80
    assert len(lines[2]) == 80
    # What is for a file is whole.
    words += ["--format=markdown", str(yard.directory / "one.def")]
    assert "…" not in on_terminal(*words, env=env, width=80).stdout


def test_one_definition_with_several_spellings_is_one(yard: Yard) -> None:
    path = yard.define("one")
    (record,) = yard.records("--list", "one.def", "./one.def", str(path))
    assert record["name"] == "one"


def test_an_image_whose_place_is_taken_is_not_built(yard: Yard, tmp_path: Path) -> None:
    yard.define("one")
    for name in ("one.sif", "one.sif.json"):
        (yard.images / name).mkdir(parents=True)
        (record,) = yard.records("one.def", status=1)
        assert record["reason"].startswith(f"{yard.images / name} is a directory: move it away")
        (yard.images / name).rmdir()
    assert yard.builds() == 0
    # Files of other names, or of somebody else, are in nobody's way.
    scratch = tmp_path / "relative"
    scratch.mkdir()
    yard.run("one.def", env={"APPTAINER_TMPDIR": str(scratch)})
    (place,) = {Path(call[-2]).name for call in yard.apptainer.calls("build")}
    assert place.startswith(".one.sif.")
    yard.run("lm_eval-cpu", env={"APPTAINER_TMPDIR": "relative"})
    assert names_in(scratch) == set()


def test_a_record_that_a_killed_process_has_left_is_used(yard: Yard) -> None:
    yard.define("one")
    yard.run("one.def")
    record = yard.images / "one.sif.json"
    before = record.read_bytes()
    yard.define("one", "true")
    yard.run("one.def")
    # The image was in place, its record was not.
    record.rename(yard.images / ".one.sif.json.123-0123abcd.tmp")
    record.write_bytes(before)
    assert yard.records("one.def")[0]["status"] == "up_to_date"
    assert yard.builds() == 2
    assert names_in(yard.images) == {"one.sif", "one.sif.json", "one.sif.log"}


def test_what_is_wrong_in_a_definition_is_told_with_its_place(yard: Yard) -> None:
    yard.define("one", files=['"open'])
    done = yard.run("--list", "one.def", status=2)
    assert "one.def: %files: expected paths, got '\"open /opt': No closing quotation" in done.stderr
    yard.define("one", files=["lost"])
    done = yard.run("--list", "one.def", status=2)
    assert f"one.def: it needs {yard.directory / 'lost'}, which is not there" in done.stderr
    yard.define("one", "head -c 99999 /dev/zero | tr '\\0' x; exit 1")
    (record,) = yard.records("one.def", status=1)
    assert len(record["reason"]) < 500
