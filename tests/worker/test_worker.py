"""oe-run-task: a failure in a row or in a model costs that row and nothing else."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from commands.test_oe_run_task import manifest
from support.faulty_model import CUDA_ERROR, NEVER_FITS, SEGFAULT, FaultyModel
from support.processes import BIN, DEMO_TASKS, clean_environment
from support.task_files import write_task

pytestmark = pytest.mark.slow

CODE = """
import os
import signal
import subprocess
import sys
import threading
import time


def load(mark="", count=12, **_):
    import datasets

    document = {"choices": ["the moon", "the sun"], "answer": 1}
    documents = [document | {"text": f"What shines{mark} {n:02}?"} for n in range(count)]
    splits = {"test": documents, "fewshot": documents[:2]}
    return datasets.DatasetDict(
        {split: datasets.Dataset.from_list(each) for split, each in splits.items()}
    )


def leaves(**_):
    sys.exit("enough of this")


def crashes(*_, **__):
    os.kill(os.getpid(), signal.SIGSEGV)


def ends(*_):
    os._exit(0)


def refuses(document):
    raise LookupError(f"no prompt for {document['text']}")


def is_unknown(*_):
    return {"acc": float("nan")}


def is_for_some(document, _):
    return {"acc": 1.0} if "01" in document["text"] else {}


def reads(**_):
    assert (sys.stdin.read(), os.read(0, 1)) == ("", b"")
    return load()


def dies_while_it_is_served(log, **_):
    def die():
        while not (os.path.exists(log) and "batch" in open(log).read()):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=die).start()
    return load()


def prints(**_):
    print("printed")
    sys.stdout.flush()
    os.write(1, b"written\\n")
    subprocess.run(["echo", "echoed"], check=True)
    return load()
"""
# Tasks by name, with the keys that they add to the common keys or replace.
TASKS = {
    "sound": {},
    "leaves": {"custom_dataset": "!function tasks.leaves"},
    "lacks_a_package": {"custom_dataset": "!function needs_a_package.load"},
    "crashes_when_built": {"custom_dataset": "!function tasks.crashes"},
    "crashes_when_scored": {"process_results": "!function tasks.crashes"},
    "ends_when_scored": {"process_results": "!function tasks.ends"},
    "refuses": {"doc_to_text": "!function tasks.refuses"},
    "is_unknown": {"process_results": "!function tasks.is_unknown"},
    "has_no_metric": {"metric_list": "[{metric: bypass}]"},
    "has_no_documents": {"dataset_kwargs": "{count: 0}"},
    "is_for_some": {"process_results": "!function tasks.is_for_some"},
    "reads": {"custom_dataset": "!function tasks.reads"},
    "prints": {"custom_dataset": "!function tasks.prints"},
    "segfault": {"dataset_kwargs": f"{{mark: {SEGFAULT}}}"},
    "cuda_error": {"dataset_kwargs": f"{{mark: {CUDA_ERROR}}}"},
    "never_fits": {"dataset_kwargs": f"{{mark: {NEVER_FITS}}}"},
}
# The failure of each row: class, part of the message, and part of the traceback.
REASONS = {
    "leaves": ("SystemExit", "enough of this", "in leaves"),
    "lacks_a_package": ("ModuleNotFoundError", "no_such_package", "needs_a_package.py"),
    "crashes_when_built": ("ProcessEnded", "the row's process was killed by signal 11", ""),
    "crashes_when_scored": ("ProcessEnded", "the row's process was killed by signal 11", ""),
    "ends_when_scored": ("ProcessEnded", "the row's process ended with status 0", ""),
    "refuses": ("LookupError", "no prompt for What shines 00?", "in refuses"),
    "is_unknown": ("ValueError", "no metric is a number: acc is nan in ", ""),
    "has_no_metric": ("ValueError", "it has no metrics", ""),
    "has_no_documents": ("IndexError", "is out of bounds for size 0", "self.task_docs[0]"),
}
UNLOADABLE = {"unloadable", "unloadable, too"}


class Session:
    """One process of oe-run-task: exit status, messages, and records by the notes of rows."""

    def __init__(self, rows: str, home: Path) -> None:
        self.directory = home / "out"
        self.log = home / "log"
        with open(self.log, "w") as log:
            done = subprocess.run(
                [BIN / "oe-run-task", "--output_dir", self.directory],
                input=rows,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=clean_environment(home),
                cwd=home,
                check=False,
            )
        self.status = done.returncode
        self.messages = self.log.read_text()
        records = [json.loads(line) for line in done.stdout.splitlines()]
        self.records = {record["oellm"]["row"]["note"]: record for record in records}
        assert len(self.records) == len(records)

    def statuses(self) -> dict[str, str]:
        return {note: record["oellm"]["status"] for note, record in self.records.items()}

    def failure(self, note: str) -> dict[str, Any]:
        failure: dict[str, Any] = self.records[note]["oellm"]["failure"]
        return failure

    def usage(self, note: str) -> dict[str, Any]:
        usage: dict[str, Any] = self.records[note]["oellm"]["usage"]
        return usage

    def samples(self, note: str) -> list[Any]:
        path = self.directory / "samples" / f"{self.records[note]['oellm']['eval_id']}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def models(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, FaultyModel]:
    home = tmp_path_factory.mktemp("models")
    faults: dict[str, dict[str, Any]] = {
        "crashing": {},
        "unloadable": {"loading": True},
        "sound": {},
        "small": {"fits": 3},
        "small_hip": {"fits": 3, "accelerator": "hip"},
        "large": {"fits": 40},
        "slow": {},
    }
    made = {name: FaultyModel(tiny_model, home / name, **each) for name, each in faults.items()}
    made["slow"].set_pace(0.3)
    return made


@pytest.fixture(scope="module")
def tasks(models: dict[str, FaultyModel], tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tasks")
    (directory / "tasks.py").write_text(CODE)
    (directory / "needs_a_package.py").write_text("import no_such_package\n")
    common = {
        "fewshot_split": "fewshot",
        "doc_to_choice": '"{{choices}}"',
        "doc_to_target": '"{{answer}}"',
    }
    for name, keys in TASKS.items():
        write_task(directory, name, **{**common, **keys})
    # The process of this row ends after the model has begun a batch.
    dying = {
        "custom_dataset": "!function tasks.dies_while_it_is_served",
        "dataset_kwargs": f"{{log: {models['slow'].log}}}",
    }
    write_task(directory, "dies", **{**common, **dying})
    return directory


@pytest.fixture(scope="module")
def faulty_rows(
    tiny_model: Path, tasks: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Session, Session]:
    """Evaluate sound rows with faulty rows between them, twice."""
    common = {"model_path": tiny_model, "n_shot": 0, "include_path": tasks, "batch_size": 4}
    rows: list[Mapping[str, object]] = [{**common, "task_path": "sound", "note": "before"}]
    rows += [{**common, "task_path": name, "note": name} for name in REASONS]
    rows.insert(5, {**common, "task_path": "reads", "note": "reads"})
    rows.insert(7, {**common, "task_path": "prints", "note": "prints"})
    rows.append({**common, "task_path": "is_for_some", "note": "is for some"})
    rows.append({**common, "task_path": "sound", "n_shot": 1, "note": "after"})
    home = tmp_path_factory.mktemp("rows")
    return Session(manifest(*rows), home), Session(manifest(*rows), home)


def test_a_faulty_row_fails_and_those_around_it_do_not(
    faulty_rows: tuple[Session, Session],
) -> None:
    sound = dict.fromkeys(("before", "reads", "prints", "is for some", "after"), "done")
    for session in faulty_rows:
        assert session.statuses() == {**sound, **dict.fromkeys(REASONS, "failed")}
        assert session.status == 1
    assert "5 rows evaluated, 0 already had results, 9 failed" in faulty_rows[0].messages
    assert "0 rows evaluated, 5 already had results, 9 failed" in faulty_rows[1].messages


@pytest.mark.parametrize("note", REASONS)
def test_the_failure_of_a_row_has_its_reason(
    faulty_rows: tuple[Session, Session], note: str
) -> None:
    kind, message, traceback = REASONS[note]
    for attempts, session in enumerate(faulty_rows, start=1):
        failure = session.failure(note)
        assert failure["class"] == kind
        assert message in failure["message"]
        assert traceback in failure["traceback"]
        assert failure["log"] == str(session.log)
        assert failure["attempts"] == attempts


def test_what_a_task_prints_is_in_the_log(faulty_rows: tuple[Session, Session]) -> None:
    # There are only records on stdout: each line was parsed as one.
    for text in ("printed", "written", "echoed"):
        assert text in faulty_rows[0].messages


def test_a_metric_that_some_documents_lack_is_told(faulty_rows: tuple[Session, Session]) -> None:
    record = faulty_rows[0].records["is for some"]["oellm"]
    assert record["remarks"] == ["is_for_some has a metric for only 1 of 12 documents"]
    assert record["metrics"][0]["n_samples"] == 1


@pytest.fixture(scope="module")
def faulty_models(
    models: dict[str, FaultyModel], tasks: Path, tmp_path_factory: pytest.TempPathFactory
) -> Session:
    """Evaluate rows on models that crash or have little memory."""

    def row(model: str, task: str, note: str, **more: object) -> dict[str, object]:
        place = DEMO_TASKS if task.startswith("oellm_") else tasks
        common = {"n_shot": 0, "include_path": place, "trust_remote_code": "true"}
        path = models[model].directory
        return {"model_path": path, "task_path": task, "note": note, **common, **more}

    rows = [
        row("crashing", "sound", "before"),
        row("crashing", "segfault", "segfault"),
        row("crashing", "sound", "between", n_shot=1),
        row("crashing", "cuda_error", "cuda error"),
        row("crashing", "sound", "after", n_shot=2),
        row("unloadable", "sound", "unloadable"),
        row("unloadable", "oellm_copy", "unloadable, too"),
        row("small", "sound", "short", batch_size=8, log_samples="true"),
        row("small", "sound", "as short", batch_size=8, limit=9),
        row("small", "sound", "longer", batch_size=8, n_shot=1),
        row("small_hip", "oellm_copy", "texts", batch_size=8, log_samples="true"),
        row("small_hip", "never_fits", "never fits", batch_size=8),
        row("small_hip", "sound", "fits", batch_size=3),
        row("slow", "dies", "dies", batch_size=4),
        row("slow", "sound", "goes on", batch_size=8),
        row("large", "sound", "automatic", batch_size="auto"),
        row("large", "sound", "automatic, too", batch_size="auto", limit=9),
        row("sound", "sound", "short, batches of 2", batch_size=2, log_samples="true"),
        row("sound", "oellm_copy", "texts, batches of 2", batch_size=2, log_samples="true"),
        row("sound", "sound", "dummy", backend="dummy"),
    ]
    return Session(manifest(*rows), tmp_path_factory.mktemp("faulty-models"))


def test_a_faulty_model_fails_the_rows_that_it_fails_for(faulty_models: Session) -> None:
    failed = {note for note, status in faulty_models.statuses().items() if status == "failed"}
    assert failed == {"segfault", "cuda error", "never fits", "dies"} | UNLOADABLE
    assert len(faulty_models.records) == 20
    assert faulty_models.status == 1


def test_after_a_crash_the_model_is_loaded_again(
    faulty_models: Session, models: dict[str, FaultyModel]
) -> None:
    crash = faulty_models.failure("segfault")
    assert crash["message"] == "the model's process was killed by signal 11 SIGSEGV"
    error = faulty_models.failure("cuda error")
    assert error["class"] == "RuntimeError"
    assert error["message"] == "CUDA error: device-side assert triggered"
    assert "modeling_faulty.py" in error["traceback"]
    model = models["crashing"]
    ((crashed, *_),) = model.noted("segfault")
    ((broken, *_),) = model.noted("cuda")
    # Three processes: the one that crashed and the one with a broken GPU got no more requests.
    pids = [str(batch.pid) for batch in model.batches()]
    in_order = list(dict.fromkeys(pids))
    assert len(in_order) == len(model.noted("stdin"))
    assert {crashed, broken} <= set(in_order)
    assert crashed != broken
    # The batches of a process are consecutive, and its last one is the faulty one.
    assert pids == sorted(pids, key=in_order.index)


def test_a_model_that_crashes_while_it_loads_is_loaded_once(
    faulty_models: Session, models: dict[str, FaultyModel]
) -> None:
    for note in UNLOADABLE:
        failure = faulty_models.failure(note)
        assert failure["class"] == "ProcessEnded"
        crash = "the model's process was killed by signal 11 SIGSEGV"
        assert failure["message"] == f"the model did not load: {crash}"
    assert len(models["unloadable"].noted("stdin")) == 1


def test_a_row_that_dies_while_it_is_served_leaves_the_model_to_others(
    faulty_models: Session, models: dict[str, FaultyModel]
) -> None:
    crash = faulty_models.failure("dies")["message"]
    assert crash == "the row's process was killed by signal 9 SIGKILL"
    assert len(models["slow"].noted("stdin")) == 1


def test_a_models_code_has_nothing_on_stdin(
    faulty_models: Session, models: dict[str, FaultyModel]
) -> None:
    assert {tuple(said) for model in models.values() for _, *said in model.noted("stdin")} == {
        ("''",)
    }


def test_batches_that_do_not_fit_are_halved_and_scores_are_those_of_the_size_that_fits(
    faulty_models: Session,
) -> None:
    for note in ("short", "texts"):
        reference = f"{note}, batches of 2"
        assert faulty_models.usage(note)["batch_size"] == 2
        # The scores of each document are equal to the last digit.
        assert faulty_models.samples(note) == faulty_models.samples(reference)
        ours, theirs = faulty_models.records[note], faulty_models.records[reference]
        assert ours["results"] == theirs["results"]
    assert "batch size 4 from now on: CUDA out of memory." in faulty_models.messages
    assert "batch size 2 from now on: HIP out of memory." in faulty_models.messages


def test_a_batch_size_that_did_not_fit_is_not_tried_again(
    faulty_models: Session, models: dict[str, FaultyModel]
) -> None:
    notes = ("short", "as short", "longer")
    assert [faulty_models.usage(note)["batch_size"] for note in notes] == [2, 2, 2]
    too_large = [batch for batch in models["small"].batches() if batch.requests > 3]
    # Batches of eight and four requests; twice if the longer requests came first.
    assert len(too_large) in {2, 4}
    for number, batch in enumerate(too_large):
        for before in too_large[:number]:
            assert batch.requests < before.requests or batch.tokens < before.tokens


def test_what_never_fits_is_one_failed_row(
    faulty_models: Session, models: dict[str, FaultyModel]
) -> None:
    failure = faulty_models.failure("never fits")
    assert failure["class"] == "RuntimeError"
    assert failure["message"].startswith("HIP out of memory. Tried to allocate")
    assert faulty_models.usage("fits")["batch_size"] in (1, 3)
    # The same process goes on: running out of memory breaks nothing.
    assert len(models["small_hip"].noted("stdin")) == 1


def test_an_automatic_batch_size_is_found_once(
    faulty_models: Session, models: dict[str, FaultyModel]
) -> None:
    for note in ("automatic", "automatic, too"):
        assert faulty_models.records[note]["config"]["batch_sizes"] == [40]
        assert faulty_models.usage(note)["batch_size"] == 40
    tried = [batch.requests for batch in models["large"].batches() if batch.requests > 24]
    assert tried == [64, 57, 51, 45, 40, 40, 40, 40, 40]


def test_a_backend_that_is_no_torch_module_answers(faulty_models: Session) -> None:
    record = faulty_models.records["dummy"]
    assert record["config"]["model"] == "dummy"
    assert record["n-samples"]["sound"]["effective"] == 12
    assert faulty_models.usage("dummy")["requests"] == 24
