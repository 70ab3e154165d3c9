"""The images that are asked for: where they are, what is to be done, and what became of it."""

from __future__ import annotations

import functools
import heapq
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from oellm.build.disk_room import Need, needs_of_build, require_room
from oellm.build.image_builder import ImageBuilder
from oellm.build.image_jobs import ImageJob
from oellm.build.image_states import (
    ImageTarget,
    StateReader,
    foreign_images,
    images_of_cluster,
)
from oellm.build.outcomes import ImageOutcome
from oellm.build.parallel_jobs import ParallelJobs
from oellm.build.verification import ImageCheck
from oellm.build.ways import WAYS, BuildWay, find_way
from oellm.clusters.cluster import Cluster
from oellm.core.log import Log
from oellm.core.redaction import holds_secret
from oellm.errors import UsageError, nearest
from oellm.images.definitions import (
    SUFFIX,
    containers_directory,
    definition_names,
    find_definition,
    read_inputs,
    select_arguments,
)
from oellm.images.image_files import find_runtime
from oellm.images.image_record import StoredImage
from oellm.manifest.rows import Row

_IMAGE_NAME = re.compile(r"[\w.+-]+(?: [\w.+-]+)*")


def parse_arguments(texts: Iterable[str]) -> dict[str, str]:
    """Return build arguments from texts NAME=VALUE; raises UsageError for another text."""
    pairs = [text.partition("=") for text in texts]
    for name, equals, value in pairs:
        if not equals or not name:
            raise UsageError(f"--arg: expected NAME=VALUE, got {name + equals!r}")
        if holds_secret(value):
            raise UsageError(
                f"--arg: {name}: expected no token and no password: everybody can read the "
                "definition in an image; give it to the runtime as APPTAINERENV_NAME"
            )
    return {name: value for name, _, value in pairs}


def choose_way(name: str | None) -> BuildWay | None:
    """Return the way to build of this name, None for None; raises UsageError for another name."""
    if name is not None and name not in WAYS:
        hint = nearest(name, WAYS)
        raise UsageError(f"--way: expected one of {', '.join(WAYS)}, got {name!r}{hint}")
    return WAYS[name] if name else None


def _with_absolute_base(arguments: Mapping[str, str]) -> dict[str, str]:
    """Return build arguments that mean the same in another directory: a local base is a path."""
    if arguments.get("BOOTSTRAP") != "localimage" or "FROM" not in arguments:
        return dict(arguments)
    return {**arguments, "FROM": os.path.abspath(os.path.expanduser(arguments["FROM"]))}


def _name_of(text: str) -> str:
    """Return the name of an image from it, or from the path of its file or definition."""
    path = Path(text)
    return path.stem if path.suffix in (SUFFIX, ".def") else path.name


class ImageCollection:
    """The images of a cluster, in one directory.

    Attributes:
        directory: The directory.
    """

    def __init__(
        self, cluster: Cluster, directory: str | None, environ: Mapping[str, str], log: Log
    ) -> None:
        place = directory or cluster.text("images_directory")
        if not place:
            name = cluster.text("name")
            raise UsageError(f"--dir is missing: cluster {name} has no images_directory")
        self.directory = Path(place).absolute()
        self._cluster = cluster
        self._environ = environ
        self._log = log
        self._containers = containers_directory()
        self._states = StateReader(environ, log)
        self._used = images_of_cluster(cluster.mapping("images"), self.directory)

    @property
    def runtime(self) -> str:
        """The path of the container runtime; raises MachineError if there is none."""
        return find_runtime(self._cluster.text("container_runtime"))

    def all_names(self) -> list[str]:
        """Return the names of all definitions."""
        return definition_names(self._containers)

    def names_in_use(self) -> list[str]:
        """Return the names of all images that the cluster names."""
        return [path.stem for path in self._used]

    def names_of_cluster(self) -> list[str]:
        """Return the definitions of the images that the cluster names.

        Raises UsageError if there are none.
        """
        known = self.all_names()
        names = [path.stem for path in self._used if path.stem in known]
        for path in self._used:
            if path.stem not in known:
                self._log(f"{path.name}: no definition makes it")
        if not names:
            name = self._cluster.text("name")
            raise UsageError(
                f"the images of cluster {name} name no definition: name one of {', '.join(known)}"
            )
        return names

    def path_of(self, name: str) -> Path:
        """Return where an image is, or will be; raises UsageError if it cannot have this name."""
        if not _IMAGE_NAME.fullmatch(name):
            raise UsageError(f"expected the name of an image, got {name!r}")
        paths = {path.stem: path for path in self._used}
        return paths.get(name, self.directory / f"{name}{SUFFIX}")

    def targets(self, names: Sequence[str], arguments: Mapping[str, str]) -> list[ImageTarget]:
        """Return the images of definitions; raises UsageError for names that none has."""
        found = [find_definition(name, self._containers) for name in names]
        # One definition may have several spellings.
        definitions = list({(each.path, each.name): each for each in found}.values())
        by_name = {definition.name: definition for definition in definitions}
        for definition in definitions:
            if (other := by_name[definition.name]) is not definition:
                raise UsageError(f"{definition.path} and {other.path}: two images of one name")
        selected = select_arguments(definitions, _with_absolute_base(arguments))
        return [
            ImageTarget(
                definition,
                arguments=selected[definition.name],
                inputs=read_inputs(definition, selected[definition.name]),
                path=self.path_of(definition.name),
            )
            for definition in definitions
        ]

    def describe(self, targets: Sequence[ImageTarget], is_whole: bool) -> Iterator[ImageOutcome]:
        """Yield the state of images; with `is_whole`, also that of the cluster's other images."""
        for target in targets:
            yield self._states.describe(target, self._used.get(target.path, ()))
        for path, keys in foreign_images(self._used, targets) if is_whole else ():
            yield self._states.describe_foreign(path, keys)

    def verify(self, names: Iterable[str], rows: Iterable[Row]) -> Iterator[ImageOutcome]:
        """Yield whether each image is sound, whoever has made it; see ImageCheck."""
        check = ImageCheck(self.runtime, self._environ, self._log, rows=rows)
        for path in dict.fromkeys(self.path_of(_name_of(name)) for name in names):
            yield check.verify(path.stem, path, self._used.get(path, ()))

    def build(
        self,
        targets: Sequence[ImageTarget],
        jobs: ParallelJobs,
        *,
        at_once: int,
        is_forced: bool,
        way: BuildWay | None,
    ) -> Iterator[ImageOutcome]:
        """Build what is not up to date; yield the outcome of each image as it ends.

        Raises MachineError before anything is built if this machine lacks the rights or the room.
        """
        runtime = self.runtime
        find = functools.cache(lambda: way or find_way(runtime, self._environ))
        needed = [
            (target, record)
            for target in targets
            for reason, record in [self._states.why_out_of_date(target)]
            if reason or is_forced
        ]
        if needed:
            find()
            self._require_room(needed, at_once)
        return jobs.run(
            ImageJob(
                ImageBuilder(target, find, runtime=runtime, environ=self._environ),
                runtime,
                self._environ,
                is_forced=is_forced,
            )
            for target in targets
        )

    def _require_room(
        self, needed: Sequence[tuple[ImageTarget, StoredImage | None]], at_once: int
    ) -> None:
        images: list[Need] = []
        unpacked: list[Need] = []
        for target, record in needed:
            size = record.size if record else None
            image, temporary, *cache = needs_of_build(
                target.inputs.base, target.path.parent, self._environ, known_size=size
            )
            images += [image, *cache]
            unpacked.append(temporary)
        # What is unpacked is removed when its image is built.
        together = heapq.nlargest(at_once, unpacked, key=lambda need: need.size)
        require_room([*images, *together])
