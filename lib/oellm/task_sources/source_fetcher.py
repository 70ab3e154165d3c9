"""Resolving sources to their commits, and fetching their trees into the cache."""

from __future__ import annotations

from collections.abc import Mapping

from oellm.core.log import Log
from oellm.hub.errors import Problem
from oellm.manifest.task_source import GIT, TaskSource, join_sources, parse_sources
from oellm.task_sources import cache, git_trees, hub_trees
from oellm.task_sources.errors import SourceError


class SourceFetcher:
    """Pins the sources of rows, each once, and fetches what the cache does not have.

    `environ` says where the cache is; `log` gets what was fetched. If the hub gives no answer,
    `hub_problem` says so.
    """

    def __init__(self, environ: Mapping[str, str], hub_problem: Problem | None, log: Log) -> None:
        self._environ = environ
        self._hub_problem = hub_problem
        self._log = log
        self._pinned: dict[TaskSource, TaskSource | SourceError] = {}

    def pin(self, text: str) -> str:
        """Return a cell's sources with the commits of its references, whose trees are cached now.

        A cell without references stays as it is. Raises SourceError, with the source and the
        reason.
        """
        sources = parse_sources(text) if text else []
        if not any(source.is_reference for source in sources):
            return text
        return join_sources(dict.fromkeys(map(self.resolve, sources)))

    def resolve(self, source: TaskSource) -> TaskSource:
        """Return one source at its commit, whose tree is in the cache now; a directory as it is.

        A pinned source that is in the cache needs no network. Raises SourceError.
        """
        if not source.is_reference:
            return source
        if source not in self._pinned:
            try:
                self._pinned[source] = self._fetch(source)
            except SourceError as error:
                self._pinned[source] = error
            except OSError as error:
                place = f"{error.filename}: " if error.filename else ""
                self._pinned[source] = SourceError(f"{source}: {place}{error.strerror or error}")
        found = self._pinned[source]
        if isinstance(found, SourceError):
            raise found
        return found

    def _fetch(self, source: TaskSource) -> TaskSource:
        pinned = source
        if not source.is_pinned:
            pinned = source.pinned(self._find_commit(source))
            self._log(f"{source} is at commit {pinned.revision}")
        path = cache.tree_path(pinned, self._environ)
        if not path.is_dir():
            if source.kind == GIT:
                git_trees.fetch_tree(pinned, path, self._log)
            else:
                self._require_hub(source)
                hub_trees.fetch_directory(pinned, path, self._environ, log=self._log)
            self._log(f"{pinned} is in the cache: {path}")
        cache.cached_directory(pinned, self._environ)
        return pinned

    def _find_commit(self, source: TaskSource) -> str:
        if source.kind == GIT:
            return git_trees.find_commit(source)
        self._require_hub(source)
        return hub_trees.find_hub_commit(source, self._environ, self._log)

    def _require_hub(self, source: TaskSource) -> None:
        if self._hub_problem is not None:
            text = f"{source}: {self._hub_problem.text}"
            raise SourceError(text, is_unreachable=self._hub_problem.unreachable)
