"""The Hugging Face hub: its caches, its models, and what its errors mean."""

from __future__ import annotations

import fnmatch
import glob
import os
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, MutableMapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from oellm.errors import UsageError
from oellm.models import ModelSpec

_OFFLINE = (
    "HF_HUB_OFFLINE",
    "TRANSFORMERS_OFFLINE",
    "HF_DATASETS_OFFLINE",
    "HF_EVALUATE_OFFLINE",
)
# Each moves one cache away from HF_HOME, which is all that a job is told.
_CACHES = (
    "HF_HUB_CACHE",
    "HUGGINGFACE_HUB_CACHE",
    "HF_DATASETS_CACHE",
    "HF_EVALUATE_CACHE",
    "HF_METRICS_CACHE",
    "HF_MODULES_CACHE",
    "TRANSFORMERS_CACHE",
)
_PROGRESS_BARS = ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS")
# Seconds within which a hub must answer at all.
_PATIENCE = 15.0
# Model arguments that name a second repository.
COMPANIONS = ("tokenizer", "peft", "delta")
# What training leaves behind, and weights in formats that no backend here loads.
_UNNEEDED = (
    "original/*",
    "global_step*/*",
    "optimizer*.pt",
    "optimizer*.bin",
    "*_optim_states.pt",
    "scheduler.pt",
    "rng_state*.pth",
    "events.out.tfevents.*",
    "*.h5",
    "*.msgpack",
    "*.ot",
    "*.onnx",
    "*.onnx_data",
)
_GATED = "gated: accept the licence on its page, then set HF_TOKEN"
_NO_REVISION = "there is no such revision: check the branches and tags"
_NOT_FOUND = "not found on the hub: check the name; if it is private, set HF_TOKEN"
# Class of an error, words in its text, meaning; the first that fits counts. `datasets` wraps the
# hub's errors without keeping them.
_MEANINGS = (
    ("GatedRepoError", "", _GATED),
    ("DatasetNotFoundError", "gated", _GATED),
    ("RevisionNotFoundError", "", _NO_REVISION),
    ("DatasetNotFoundError", "Revision", _NO_REVISION),
    ("RepositoryNotFoundError", "", _NOT_FOUND),
    ("DatasetNotFoundError", "", _NOT_FOUND),
)
# The HTTP library differs between releases of huggingface_hub and datasets; the names do not.
_CONNECTION_ERRORS = {"ConnectionError", "Timeout", "TransportError"}


@dataclass(frozen=True)
class HubModel:
    """A model repository to download.

    `revision` is empty for the default branch of a repository that is looked up by name alone.
    """

    path: str
    revision: str
    gguf_file: str = ""


@dataclass(frozen=True)
class Problem:
    """Why something could not be fetched, and what to do about it."""

    text: str
    # Whether no answer came from the hub.
    unreachable: bool = False


def configure(environ: MutableMapping[str, str], hf_home: str) -> list[str]:
    """Make `hf_home` the one cache, and downloads allowed; return the variables ignored for it.

    To be called before a Hugging Face library is imported: they read these variables only then.
    Raises OSError where the directory cannot be made.
    """
    ignored = [name for name in (*_OFFLINE, *_CACHES) if environ.pop(name, "")]
    if hf_home:
        before = environ.get("HF_HOME") or os.path.join(
            environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface"
        )
        token = os.path.expanduser(os.path.join(before, "token"))
        # The user's own login counts, although HF_HOME may be a directory of the whole group.
        if os.path.exists(token):
            environ.setdefault("HF_TOKEN_PATH", token)
        home = Path(hf_home).expanduser().absolute()
        home.mkdir(parents=True, exist_ok=True)
        environ["HF_HOME"] = str(home)
    for name in _PROGRESS_BARS:
        environ.setdefault(name, "1")
    return ignored


def forbid(environ: MutableMapping[str, str]) -> None:
    """Keep the Hugging Face libraries from trying a hub that gives no answer, 25 s each time."""
    for name in _OFFLINE:
        environ[name] = "1"


def endpoint(environ: MutableMapping[str, str]) -> str:
    """Return the address of the hub."""
    return environ.get("HF_ENDPOINT") or "https://huggingface.co"


def silence(address: str) -> str:
    """Return why the hub gives no answer at all, or nothing where it gives any.

    Raises UsageError where the address is no URL.
    """
    if not address.startswith(("http://", "https://")):
        raise UsageError(f"HF_ENDPOINT: expected http://… or https://…, got {address!r}")
    answers: list[str] = []
    # A thread, because looking up a name and trying all its addresses have no common time-out.
    thread = threading.Thread(target=lambda: answers.append(_asked(address)), daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    return answers[0] if answers else f"no answer within {_PATIENCE:.0f} s"


def _asked(address: str) -> str:
    request = urllib.request.Request(address, method="HEAD")  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=_PATIENCE):  # noqa: S310
            return ""
    except urllib.error.HTTPError:
        return ""
    except (OSError, HTTPException) as error:
        reason = getattr(error, "reason", error)
        # The hub's own library may know the certificate that Python does not.
        return "" if isinstance(reason, ssl.SSLError) else str(reason)


def repositories(spec: ModelSpec, model_revision: str) -> Iterator[HubModel]:
    """Yield what the hub must give for a model: the model itself first, unless it is local."""
    arguments = dict(spec.arguments)
    if not spec.is_local:
        revision = model_revision or arguments.get("revision") or "main"
        yield HubModel(spec.path, revision, arguments.get("gguf_file", ""))
    for name in COMPANIONS:
        if name in arguments and not (companion := ModelSpec(arguments[name])).is_local:
            yield HubModel(companion.path, "")


def download(model: HubModel) -> str:
    """Download a model into the cache and return its commit; whole files there are kept.

    Raises what the hub's library raises.
    """
    from huggingface_hub import HfApi, snapshot_download

    info = HfApi().model_info(model.path, revision=model.revision or None, timeout=30)
    names = [file.rfilename for file in info.siblings or []]
    snapshot_download(
        model.path,
        # By name, so that the cache knows what the name stands for; else the commit just seen.
        revision=info.sha if model.revision else None,
        ignore_patterns=[glob.escape(name) for name in unneeded(names, model.gguf_file)],
    )
    return str(info.sha)


def unneeded(names: Iterable[str], gguf_file: str = "") -> list[str]:
    """Return which files of a model repository no evaluation reads."""
    names = list(names)
    safe = {os.path.dirname(name) for name in names if name.endswith(".safetensors")}
    return [name for name in names if name != gguf_file and _is_unneeded(name, safe)]


def _is_unneeded(name: str, safe: set[str]) -> bool:
    directory, base = os.path.split(name)
    if base.endswith(".gguf") or (base.endswith(".bin") and directory in safe):
        return True
    return any(
        fnmatch.fnmatchcase(name if "/" in pattern else base, pattern) for pattern in _UNNEEDED
    )


def problem(error: BaseException, address: str) -> Problem:
    """Return what an error of the hub's libraries means for the user."""
    chain = list(_chain(error))
    for name, words, meaning in _MEANINGS:
        if any(name in _classes(link) and words in str(link) for link in chain):
            return Problem(meaning)
    if any(_is_silence(link) for link in chain):
        return no_answer(address)
    return Problem(f"{type(error).__name__}: {first_line(error)}")


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text."""
    return next(iter(str(error).strip().splitlines()), "")


def no_answer(address: str) -> Problem:
    """Return the problem of a hub that cannot be reached."""
    text = f"{address} cannot be reached: run where there is internet, or set HTTPS_PROXY"
    return Problem(text, unreachable=True)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _classes(error: BaseException) -> set[str]:
    return {base.__name__ for base in type(error).__mro__}


def _is_silence(error: BaseException) -> bool:
    # In these words `datasets` says offline that a data set is there but not this part of it.
    partly = str(error).startswith("Couldn't find cache for")
    return partly or bool(_classes(error) & _CONNECTION_ERRORS)
