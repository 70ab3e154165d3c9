"""Where single large files of data-set repositories are, for downloads without the hub's cache."""

from __future__ import annotations

from typing import NamedTuple

from oellm.core.log import Log
from oellm.errors import MachineError, OellmError
from oellm.hub import errors
from oellm.hub.cache import HubFile

# Seconds within which the hub must begin to answer.
_ANSWER_S = 30.0


class HubFileError(OellmError):
    """The hub does not have a file, or does not give it."""


class SilentHubError(MachineError):
    """The hub gives no answer."""


class LocatedFile(NamedTuple):
    """A file of a commit.

    Attributes:
        url: Its address.
        commit: The commit's hash.
        file: Its name, size and SHA-256.
        token: The user's token, empty without one.
    """

    url: str
    commit: str
    file: HubFile
    token: str


def locate_file(
    repository: str, revision: str, path: str, *, endpoint: str, log: Log
) -> LocatedFile:
    """Return where a large file of a data-set repository is, and what its content must be.

    An empty revision is the default branch. Waits while the hub is out of order. Raises
    HubFileError, and SilentHubError if the hub cannot be reached.
    """
    from huggingface_hub import HfApi, get_token, hf_hub_url

    label = f"hf://datasets/{repository}/{path}"
    try:
        info = errors.retry_request(
            label,
            log,
            lambda: HfApi(endpoint=endpoint).dataset_info(
                repository, revision=revision or None, files_metadata=True, timeout=_ANSWER_S
            ),
        )
    except Exception as error:
        page = f"{endpoint.rstrip('/')}/datasets/{repository}"
        problem = errors.explain_error(error, endpoint, page)
        kind = SilentHubError if problem.unreachable else HubFileError
        raise kind(f"{label}: {problem.text}") from error
    entry = next((entry for entry in info.siblings or [] if entry.rfilename == path), None)
    if entry is None:
        raise HubFileError(f"{label}: the repository has no such file")
    file = HubFile.from_entry(path, entry)
    if len(file.digest) != 64:
        raise HubFileError(f"{label}: the hub lists no SHA-256 of it (only of files in Git LFS)")
    commit = str(info.sha)
    url = hf_hub_url(
        repository, path, repo_type="dataset", revision=commit, endpoint=endpoint.rstrip("/")
    )
    return LocatedFile(url, commit, file, token=get_token() or "")
