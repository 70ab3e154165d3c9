"""What errors of the hub's libraries mean: classes that exist, and no library imported for it."""

from __future__ import annotations

import errno
import importlib
import subprocess
import sys

import datasets.exceptions
import pytest
import requests
from huggingface_hub import errors as hub_errors

from oellm.hub import errors

ADDRESS = "https://hub"
# The HTTP library of the installed huggingface_hub.
http = importlib.import_module(hub_errors.HfHubHTTPError.__bases__[0].__module__.partition(".")[0])


def with_response(status: int, headers: dict[str, str] | None = None) -> Exception:
    request = http.Request("GET", ADDRESS)
    response = http.Response(status, headers=headers or {}, request=request)
    return hub_errors.HfHubHTTPError(f"{status}", response=response)


def caused_by(error: BaseException) -> Exception:
    outer = RuntimeError("wrapped")
    outer.__cause__ = error
    return outer


def names() -> list[str]:
    """Return all classes by which errors are recognised, as module.Class."""
    meanings = [name for meaning in errors._MEANINGS for name in meaning.classes]
    return sorted({*meanings, *errors._CONNECTION_ERRORS, *errors._XET_ERRORS})


@pytest.mark.parametrize("name", names())
def test_the_classes_exist(name: str) -> None:
    module, _, class_name = name.rpartition(".")
    try:
        library = importlib.import_module(module)
    except ImportError:
        # Of all HTTP libraries that releases of huggingface_hub have used, one is installed.
        assert module in ("httpx", "httpx2"), name
        pytest.skip(f"{module} is not installed")
    assert issubclass(getattr(library, class_name), Exception)


def test_the_classes_of_the_http_library_in_use_are_known() -> None:
    assert f"{http.__name__}.TransportError" in errors._CONNECTION_ERRORS
    assert f"{http.__name__}.ProxyError" in errors._PROXY_ERRORS


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (PermissionError(errno.EACCES, "denied", "/hf/x"), "/hf/x: no permission to write there"),
        (OSError(errno.EROFS, "read-only"), "the file system is read-only"),
        (datasets.exceptions.DatasetNotFoundError("it is gated"), "gated: accept the licence"),
        (datasets.exceptions.DatasetNotFoundError("Revision x"), "there is no such revision"),
        (datasets.exceptions.DatasetNotFoundError("x"), "not found on the hub"),
        (hub_errors.FileMetadataError("x"), "the server that answers is not a hub"),
        (http.ProxyError("x"), "the proxy refuses"),
        (requests.exceptions.ProxyError("x"), "the proxy refuses"),
        (OSError("Consistency check failed: 3"), "the download is shorter or longer"),
        (RuntimeError("No space left on device (os error 28)"), "the file system is full: free "),
        (with_response(401), "the token is wrong or has expired"),
        (with_response(502), "the hub answers 502: try again later"),
        (http.ConnectError("x"), "https://hub cannot be reached"),
        (requests.exceptions.ConnectTimeout("x"), "https://hub cannot be reached"),
        (TimeoutError("x"), "https://hub cannot be reached"),
        (ValueError("****\nsomething else\n****"), "ValueError: something else"),
    ],
)
def test_an_error_is_explained_also_below_others(error: Exception, text: str) -> None:
    assert errors.explain_error(error, ADDRESS).text.startswith(text)
    is_known = not text.startswith("ValueError")
    if is_known:
        assert errors.explain_error(caused_by(error), ADDRESS).text.startswith(text)


def test_only_silence_is_unreachable() -> None:
    assert errors.explain_error(http.ReadTimeout("x"), ADDRESS).unreachable
    assert not errors.explain_error(with_response(500), ADDRESS).unreachable


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (with_response(429), True),
        (with_response(503), True),
        (with_response(404), False),
        (http.ConnectError("x"), True),
        (http.ProxyError("x"), False),
        (hub_errors.XetDownloadError("x"), True),
        (OSError("Consistency check failed"), True),
        (ValueError("x"), False),
    ],
)
def test_what_may_pass(error: Exception, expected: bool) -> None:
    assert errors.may_pass(error) is expected
    assert errors.may_pass(caused_by(error)) is expected


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "٧"}, None),
        ({"RateLimit": '"api"; r=0; t=55'}, 55.0),
        ({"RateLimit": '"api";r=3;t=55'}, None),
        ({}, None),
    ],
)
def test_the_hub_may_ask_for_a_pause(headers: dict[str, str], seconds: float | None) -> None:
    error = with_response(429)
    error.response.headers = headers  # type: ignore[attr-defined]
    assert errors.requested_pause(error) == seconds


def test_explaining_an_error_imports_no_library() -> None:
    code = (
        "import sys; from oellm.hub import errors; errors.explain_error(ValueError('x'), 'a'); "
        "print({'huggingface_hub', 'datasets', 'requests'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
