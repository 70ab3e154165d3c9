"""What a container sees of this machine: the lines of RUN_DIR/binds.

A path whose way leads through links is found in the container only if each of these links is there,
too, and what the last one leads to. So every directory that holds one of the links is bound.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from oellm.clusters.cluster import Cluster
from oellm.errors import UsageError
from oellm.manifest.argument_texts import ADAPTERS, COMPANIONS
from oellm.manifest.model_spec import ModelSpec, looks_local

# What a line begins with that is the value of --mount, not of --bind.
_MOUNT = "type=bind,"
# Characters with a meaning in the value of --bind.
_SPECIAL = re.compile(r'[:,"\\]')
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# Directories that a container has itself; binding one would hide what the image needs.
_OF_IMAGE = frozenset(
    ("/", "/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/opt", "/proc", "/root", "/run")
) | {"/sbin", "/srv", "/sys", "/tmp", "/usr", "/usr/local", "/var", "/var/tmp"}  # noqa: S108
# As many links as Linux follows.
_MOST_LINKS = 40
# How far below a directory of a model or of tasks links are looked for, and among how many entries.
_MODEL_DEPTH = 2
_TASK_DEPTH = 8
_MOST_ENTRIES = 20_000


def list_binds(
    cluster: Cluster, directory: Path, *, models: Iterable[ModelSpec], paths: Iterable[str]
) -> list[str]:
    """Return what to bind into the container, each path once and none below another.

    These are the shared directories, `directory` (the run's), the local models with their
    tokenizers and adapters, `paths` (of tasks and data), and the setting `binds`. The lines are
    arguments for `bind_option`. Raises UsageError for a path that no option can name.
    """
    wanted = {str(directory), *filter(None, map(cluster.text, ("eval_base_dir", "hf_home")))}
    for path in wanted:
        wanted.update(_way(path))
    for path in map(os.path.abspath, paths):
        wanted.update((path, *_way(path)))
        for link in _links_below(path, _TASK_DEPTH):
            wanted.update(_way(link))
    for model in models:
        for place in _places(model):
            wanted.update(_model_directories(place))
    kept: list[str] = []
    for path in sorted(map(os.path.abspath, wanted)):
        if not any(path == other or path.startswith(f"{other}/") for other in kept):
            kept.append(path)
    return [*map(bind_line, kept), *cluster.items("binds")]


def list_link_targets(path: str) -> Iterator[str]:
    """Yield what a link, and the links in a directory of tasks, lead to, as far as it is there."""
    if os.path.islink(path):
        yield os.path.realpath(path)
    if os.path.isdir(path):
        yield from map(os.path.realpath, _links_below(path, _TASK_DEPTH))


def bind_option(line: str) -> list[str]:
    """Return the options of apptainer for a line of RUN_DIR/binds."""
    return ["--mount" if line.startswith(_MOUNT) else "--bind", line]


def bind_line(path: str) -> str:
    """Return the line for a path; raises UsageError if no option can name it."""
    if _CONTROL.search(path):
        reason = "a path with a line end or control character cannot be bound into a container"
        raise UsageError(f"{path!r}: {reason}")
    if not _SPECIAL.search(path):
        return path
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(["type=bind", f"src={path}", f"dst={path}"])
    return text.getvalue()


def _places(model: ModelSpec) -> Iterator[str]:
    """Yield the directories on this machine that loading a model reads."""
    if model.is_local:
        yield model.path
    for name in (*COMPANIONS, *ADAPTERS):
        path = dict(model.arguments).get(name, "")
        if path and looks_local(path):
            yield os.path.expanduser(path)


def _model_directories(path: str) -> Iterator[str]:
    """Yield what a model needs: the way to it, and the ways of the links in it."""
    yield from _way(path, with_parent=True)
    for link in _links_below(path, _MODEL_DEPTH):
        yield from _way(link, with_parent=True)


def _way(path: str, with_parent: bool = False) -> Iterator[str]:
    """Yield the directories that hold the links on the way to a path, and where it leads.

    `with_parent` yields the directory of the last one: checkpoints of one training run share it,
    which keeps the list short.
    """
    real = "/"
    names = deque(os.path.abspath(path).split("/"))
    links = 0
    while names:
        name = names.popleft()
        if name in ("", "."):
            continue
        step = os.path.dirname(real) if name == ".." else os.path.join(real, name)
        try:
            target = os.readlink(step)
        except OSError:
            real = step
            continue
        links += 1
        if links > _MOST_LINKS:
            return
        yield _holder(step)
        real = "/" if target.startswith("/") else real
        names.extendleft(reversed(target.split("/")))
    yield _holder(real) if with_parent else real


def _holder(path: str) -> str:
    """Return the directory of a path, or the path itself if the container has its own directory."""
    parent, home = os.path.dirname(path), os.path.expanduser("~")
    if parent == home:
        return parent
    return path if parent in _OF_IMAGE or home.startswith(f"{parent}/") else parent


def _links_below(path: str, depth: int) -> Iterator[str]:
    """Yield the links in a directory, and in the directories below it down to a depth.

    Apptainer refuses to bind what does not exist: a link to what is gone counts for nothing.
    """
    waiting = deque([(path, depth)])
    seen = 0
    while waiting and seen < _MOST_ENTRIES:
        directory, more = waiting.popleft()
        try:
            with os.scandir(directory) as entries:
                for entry in islice(entries, _MOST_ENTRIES - seen):
                    seen += 1
                    if entry.is_symlink():
                        if os.path.exists(entry.path):
                            yield entry.path
                    elif more and entry.is_dir(follow_symlinks=False):
                        waiting.append((entry.path, more - 1))
        except OSError:
            # What cannot be listed here is not known to be needed there.
            continue
