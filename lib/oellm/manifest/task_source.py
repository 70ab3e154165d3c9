"""Where the tasks of a row come from: the texts of the column include_path.

It holds one source or several, separated by `:`, as lm-eval takes them. Each is

    DIR                                                a directory on this machine
    git+URL@REVISION#subdirectory=DIR                  https, ssh or file
    hf://datasets/ORG/NAME@REVISION/DIR                a data set of the hub

The last two are references; REVISION is a branch, a tag or a commit, and DIR may be missing. A
reference is pinned if REVISION is the name of a commit in full.

A `:` before the port of an address belongs to it; elsewhere in a reference, a `:` is written %3A. A
text that as a whole is an existing directory is that directory, whatever its name; beside other
sources, no directory can have a `:` in its name.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple
from urllib.parse import quote, unquote

from oellm.core.schema import unexpected

SEPARATOR = ":"
# The other schemes of git are without encryption, or run programs.
SCHEMES = ("https", "ssh", "file")
GIT, HUB, DIRECTORY = "git", "hub", "directory"

_COMMIT = re.compile(r"[0-9a-fA-F]{40}")
# One source at the beginning of a text: what has an address may have a `:` before its port.
_FIRST = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^/]*[^:]*|[^:]*")
_REFERENCE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|git\+|hf:")
_GIT = re.compile(
    r"git\+(?P<place>(?P<scheme>[a-z]+)://(?P<authority>[^/]*)/[^:@#]*)"
    r"(@(?P<revision>[^:#]+))?(#subdirectory=(?P<subdirectory>[^:#]*))?"
)
_HUB = re.compile(
    r"hf://datasets/(?P<place>[\w-][\w.-]*/[\w-][\w.-]*)"
    r"(@(?P<revision>[^/@:#]+))?(/(?P<subdirectory>[^:#]*))?",
    re.ASCII,
)
# Neither a user nor a host begins with `-`, which ssh would take for an option.
_AUTHORITY = re.compile(
    r"(?P<user>\w[\w.-]*@)?(\w[\w.-]*|\[[0-9a-fA-F:]+\])(:[0-9]{1,5})?", re.ASCII
)
_REVISION = re.compile(r"[^\s~^:?*\[\\\x00-\x20\x7f-][^\s~^:?*\[\\\x00-\x20\x7f]*")
_EXPECTED_GIT = "git+URL@REVISION#subdirectory=DIR with an https://, ssh:// or file:// URL"
_EXPECTED_HUB = "hf://datasets/ORG/NAME@REVISION/DIR"


class TaskSource(NamedTuple):
    """One source of tasks.

    Attributes:
        kind: GIT, HUB or DIRECTORY.
        place: The URL of a repository, the name of a data set, or the path of a directory.
        revision: A branch, tag or commit; empty for the default branch, and for a directory.
        subdirectory: The directory in the tree of that commit, without slashes at its ends; empty
            for the tree itself.
    """

    kind: str
    place: str
    revision: str = ""
    subdirectory: str = ""

    @classmethod
    def parse(cls, text: str) -> TaskSource:
        """Return the source that a text without others names.

        Raises ValueError, with `expected …, got …`, for what looks like a reference and is none.
        """
        if not _REFERENCE.match(text):
            return cls(DIRECTORY, text)
        is_hub = text.startswith("hf:")
        match = (_HUB if is_hub else _GIT).fullmatch(text)
        if match is None:
            raise unexpected(_EXPECTED_HUB if is_hub else f"a directory, {_EXPECTED_GIT}", text)
        if not is_hub:
            _check_address(text, match["scheme"], match["authority"])
        revision = unquote(match["revision"] or "")
        if revision and not _REVISION.fullmatch(revision):
            raise unexpected("the name of a branch, tag or commit after @", text)
        if _COMMIT.fullmatch(revision):
            revision = revision.lower()
        subdirectory = _subdirectory(text, unquote(match["subdirectory"] or ""))
        return cls(
            HUB if is_hub else GIT,
            place=match["place"],
            revision=revision,
            subdirectory=subdirectory,
        )

    def __str__(self) -> str:
        if self.kind == DIRECTORY:
            return self.place
        safe = "" if self.kind == HUB else "/"
        revision = f"@{quote(self.revision, safe=safe)}" if self.revision else ""
        directory = quote(self.subdirectory)
        if self.kind == HUB:
            return f"hf://datasets/{self.place}{revision}" + (f"/{directory}" if directory else "")
        end = f"#subdirectory={directory}" if directory else ""
        return f"git+{self.place}{revision}{end}"

    @property
    def is_reference(self) -> bool:
        """Whether it is no directory of this machine."""
        return self.kind != DIRECTORY

    @property
    def is_pinned(self) -> bool:
        """Whether the text says which commit it means; a directory has none."""
        return bool(_COMMIT.fullmatch(self.revision))

    def pinned(self, commit: str) -> TaskSource:
        """Return the same source at a commit; an empty one stands for any."""
        return self._replace(revision=commit)


def parse_sources(text: str) -> list[TaskSource]:
    """Return the sources in a cell, in order, each once.

    Raises ValueError for one that is empty, or none.
    """
    if not _REFERENCE.match(text) and _is_directory(text):
        return [TaskSource(DIRECTORY, text)]
    sources = []
    rest = text
    while True:
        found = _FIRST.match(rest)
        assert found is not None
        if not found[0].strip():
            raise unexpected("one or more sources of tasks, separated by `:`", text)
        sources.append(TaskSource.parse(found[0]))
        rest = rest[found.end() :]
        if not rest:
            return list(dict.fromkeys(sources))
        rest = rest.removeprefix(SEPARATOR)


def check_sources(text: str) -> str:
    """Return the text of a cell; raises ValueError if it does not name sources."""
    parse_sources(text)
    return text


def join_sources(sources: Iterable[TaskSource]) -> str:
    """Return the text of a cell with these sources."""
    return SEPARATOR.join(map(str, sources))


def move_directories(text: str, move: Callable[[str], str]) -> str:
    """Return the text of a cell with other paths of its directories."""
    return join_sources(
        source if source.is_reference else source._replace(place=move(source.place))
        for source in parse_sources(text)
    )


def without_commits(text: str) -> str:
    """Return the text of a cell with its references at no commit; empty if none is pinned."""
    sources = parse_sources(text)
    if not any(source.is_pinned for source in sources):
        return ""
    return join_sources(source.pinned("") if source.is_pinned else source for source in sources)


def _check_address(text: str, scheme: str, authority: str) -> None:
    if scheme not in SCHEMES:
        raise unexpected(_EXPECTED_GIT, text)
    if scheme == "file":
        if authority:
            raise unexpected("git+file:///PATH, with three slashes", text)
        return
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        # The text may hold a password.
        raise ValueError(f"expected git+{scheme}://HOST/PATH or git+{scheme}://HOST:PORT/PATH")
    if match["user"] and scheme == "https":
        hint = "git's credential helpers know it, and results would show it"
        raise ValueError(f"expected an address without a user or token: {hint}")


def _subdirectory(text: str, path: str) -> str:
    parts = [part for part in posixpath.normpath(path).split("/") if part not in ("", ".")]
    if ".." in parts or "\0" in path:
        raise unexpected("a directory within the tree", text)
    return "/".join(parts)


def _is_directory(text: str) -> bool:
    return "\0" not in text and os.path.isdir(os.path.expanduser(text))
