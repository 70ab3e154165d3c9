"""Logins to registries: what apptainer's and docker's logins have kept, and bearer tokens."""

from __future__ import annotations

import base64
import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

from oellm.core import json_codec
from oellm.core.regular_files import STATE, read_regular
from oellm.images.web_requests import TransferError, read_answer, send

_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')
# Docker's own registry has another name in files of logins.
_DOCKER = ("docker.io", "registry-1.docker.io", "index.docker.io", "https://index.docker.io/v1/")


def find_login(host: str, environ: Mapping[str, str]) -> str:
    """Return the value of a Basic header for a registry, empty without a login.

    The variables APPTAINER_DOCKER_USERNAME and APPTAINER_DOCKER_PASSWORD come first, as apptainer
    has it, then the files that its and docker's logins write. Programs that docker's file may name
    (credsStore) are not asked.
    """
    user = environ.get("APPTAINER_DOCKER_USERNAME", "")
    password = environ.get("APPTAINER_DOCKER_PASSWORD", "")
    if user and password:
        return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    names = _DOCKER if host in _DOCKER else (host, f"https://{host}", f"http://{host}")
    for logins in _kept_logins(environ):
        for name in names:
            login = logins.get(name)
            if isinstance(login, dict) and (kept := login.get("auth")):
                return f"Basic {kept}"
    return ""


def _kept_logins(environ: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    home = environ.get("HOME") or os.path.expanduser("~")
    docker = environ.get("DOCKER_CONFIG") or os.path.join(home, ".docker")
    apptainer = environ.get("APPTAINER_CONFIGDIR") or os.path.join(home, ".apptainer")
    for path in (
        environ.get("REGISTRY_AUTH_FILE", ""),
        # Apptainer 1.4 with APPTAINER_CONFIGDIR; without, it writes docker's file. Others before.
        os.path.join(apptainer, "config.json"),
        os.path.join(apptainer, "docker-config.json"),
        os.path.join(home, ".singularity", "docker-config.json"),
        os.path.join(docker, "config.json"),
    ):
        with contextlib.suppress(OSError, ValueError):
            kept = json_codec.loads(read_regular(path, STATE, any_link=True))
            logins = kept.get("auths") if isinstance(kept, dict) else None
            if isinstance(logins, dict):
                yield logins


def answer_challenge(challenge: str, login: str, *, label: str, insecure: bool) -> str:
    """Return the Authorization header that a registry asks for; empty if there is none.

    Raises TransferError if no token can be had.
    """
    kind, _, rest = challenge.partition(" ")
    if kind.lower() != "bearer":
        return login
    wanted = dict(_CHALLENGE.findall(rest))
    realm = wanted.pop("realm", "")
    if not realm.startswith(("https://", "http://")):
        raise TransferError(f"{label}: the registry names no place that gives tokens")
    query = urlencode({key: wanted[key] for key in ("service", "scope") if key in wanted})
    url = realm + ("&" if "?" in realm else "?") + query
    secrets = {"Authorization": login} if login else {}
    with send(url, label=f"{label}: login", secrets=secrets, insecure=insecure) as answer:
        content = read_answer(answer, f"{label}: login")
    try:
        found = json_codec.loads(content)
        return f"Bearer {found.get('token') or found['access_token']}"
    except (ValueError, LookupError, TypeError, AttributeError):
        raise TransferError(f"{label}: the login's answer has no token") from None
