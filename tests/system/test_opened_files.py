"""Files of shared directories are opened only through core/regular_files and core/atomic."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from support.processes import ROOT

_OPENING = {"open", "read_bytes", "read_text", "write_bytes", "write_text", "fdopen", "mkfifo"}
# Each place that opens a file by other means, with what it opens.
_ALLOWED = {
    "lib/oellm/build/image_jobs.py": "a new log, which fails if the name exists; its own image",
    "lib/oellm/build/image_lock.py": "a lock; it follows no link, nor waits",
    "lib/oellm/build/task_lookup.py": "a new file of a directory of its own",
    "lib/oellm/cli.py": "stdin, stdout and stderr, /dev/null, and files that the user names",
    "lib/oellm/completion/timed_answer.py": "/dev/null, and a pipe to its own child",
    "lib/oellm/completion/shells.py": "files of the installation",
    "lib/oellm/core/atomic.py": "new files: it fails if the name exists",
    "lib/oellm/core/processes/children.py": "/dev/null",
    "lib/oellm/core/processes/process_trees.py": "files below /proc, and its own stderr",
    "lib/oellm/core/regular_files.py": "everything else",
    "lib/oellm/discovery/own_clusters.py": "a directory, to lock it",
    "lib/oellm/discovery/storage.py": "a file below /proc",
    "lib/oellm/doctor/check_processes.py": "/dev/null, and a pipe to its own child",
    "lib/oellm/doctor/directories.py": "new files of its own",
    "lib/oellm/doctor/environments.py": "new files of a directory of its own",
    "lib/oellm/doctor/node_probe.py": "new files of a directory of its own",
    "lib/oellm/doctor/probe_directory.py": "new files of a directory of its own",
    "lib/oellm/doctor/slurm_checks.py": "new files of a directory of its own",
    "lib/oellm/frameworks/bigcode_eval/launcher.py": "files that the worker made for it",
    "lib/oellm/frameworks/bigcodebench/launcher.py": "files that the worker made or checked for it",
    "lib/oellm/frameworks/evalplus/launcher.py": "files that the worker made or checked for it",
    "lib/oellm/frameworks/lighteval/launcher.py": "files that the worker made, and its own",
    "lib/oellm/frameworks/lm_eval/catalog/index_cache.py": "a lock; it follows no link, nor waits",
    "lib/oellm/fetch/task_process.py": "a pipe to its own child",
    "lib/oellm/images/downloads.py": "a new partial file: it fails if the name exists",
    "lib/oellm/images/web_requests.py": "addresses",
    "lib/oellm/manuals/topics.py": "files of the installation",
    "lib/oellm/report/page.py": "files of the installation",
    "lib/oellm/runs/frozen_worker.py": "files of the installation",
    "lib/oellm/runs/provenance.py": "files of the system, below /proc, /sys and /etc",
    "lib/oellm/runs/stages/stage_store.py": "a directory, to flush it",
    "lib/oellm/runs/submit_lock.py": "a new lock: it fails if the name exists",
    "lib/oellm/sandbox/job_layer/box.py": "new files of the sandbox itself",
    "lib/oellm/sandbox/guard.py": "files below /proc, /dev/null, and a file of the sandbox itself",
    "lib/oellm/sandbox/job_layer/host_root.py": "new files of the sandbox itself",
    "lib/oellm/sandbox/job_layer/process.py": "as guard.py",
    "lib/oellm/sandbox/layers.py": "the log of its own trial",
    "lib/oellm/sandbox/job_layer/leftovers.py": "regular files, without following links or waiting",
    "lib/oellm/sandbox/namespaces.py": "files below /proc",
    "lib/oellm/sandbox/output.py": "new files: it fails if the name exists",
    "lib/oellm/sandbox/running.py": "a descriptor of its caller",
    "lib/oellm/sandbox/job_layer/usage.py": "files below /proc",
    "lib/oellm/status/observer.py": "a file below /proc",
    "lib/oellm/task_sources/git_trees.py": "a new file: it fails if the name exists",
    "lib/oellm/worker/programs/program_gpus.py": "files below /proc",
    "lib/oellm/worker/programs/private_directory.py": "new files of a directory of its own",
    "lib/oellm/wrappers/manifest_dialog.py": "a manifest that the user names",
    "lib/oellm/wrappers/manifest_preview.py": "new files of a directory of its own",
    "lib/oellm/wrappers/pipeline.py": "its own terminal",
    "commands/oellm_cli.py": "a manifest that the user names",
}


def _opens() -> Iterator[tuple[str, int]]:
    for path in sorted([*ROOT.glob("lib/**/*.py"), *ROOT.glob("commands/*.py")]):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                function = node.func
                name = function.id if isinstance(function, ast.Name) else ""
                name = function.attr if isinstance(function, ast.Attribute) else name
                if name in _OPENING:
                    yield str(path.relative_to(ROOT)), node.lineno


def test_no_file_is_opened_beside_the_two_modules() -> None:
    others = [f"{path}:{line}" for path, line in _opens() if path not in _ALLOWED]
    assert others == [], "use core/regular_files, or say here what is opened, and why that is safe"


def test_the_exceptions_are_in_use() -> None:
    assert {path for path, _ in _opens()} >= _ALLOWED.keys()
