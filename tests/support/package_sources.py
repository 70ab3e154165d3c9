"""Where this machine gets Python packages from: the settings of its pip."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"

# pip settings that say where packages come from; the first three may name local folders.
_SOURCES = ("find-links", "index-url", "extra-index-url")
_NETWORK = ("no-index", "trusted-host", "proxy", "timeout", "default-timeout", "retries")


def pip_settings() -> dict[str, str]:
    """Return this machine's pip settings, environment included, for where packages come from."""
    listing = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    ranked: dict[str, dict[str, str]] = {"global": {}, "install": {}, ":env:": {}}
    for line in listing.stdout.splitlines():
        key, _, literal = line.partition("=")
        section, _, name = key.rpartition(".")
        if section in ranked and name in (*_SOURCES, *_NETWORK, "cert"):
            ranked[section][name] = " ".join(str(ast.literal_eval(literal)).split())
    return {**ranked["global"], **ranked["install"], **ranked[":env:"]}


def local_folders(settings: dict[str, str]) -> list[Path]:
    """Return the folders on this machine that pip takes packages from."""
    folders = []
    for name in _SOURCES:
        for source in settings.get(name, "").split():
            path = Path(unquote(urlsplit(source).path))
            if urlsplit(source).scheme not in ("", "file") or not path.is_absolute():
                continue
            # The pages of an index link to files beside it.
            folders.append(path if name == "find-links" and path.is_dir() else path.parent)
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def certificates(settings: dict[str, str]) -> str:
    """Return the file with the certificates that this machine trusts."""
    return settings.get("cert") or os.environ.get("SSL_CERT_FILE") or CA_BUNDLE


def uv_settings(settings: dict[str, str]) -> dict[str, str]:
    """Return the environment that makes uv use the same sources as pip.

    An index in a local folder is left out, since uv has no use for one that lacks a package.
    """
    extra = settings.get("extra-index-url", "").split()
    made = {
        "UV_FIND_LINKS": ",".join(settings.get("find-links", "").split()),
        "UV_DEFAULT_INDEX": settings.get("index-url", ""),
        "UV_INDEX": " ".join(index for index in extra if not index.startswith("file:")),
        # As pip does: the best version of any index.
        "UV_INDEX_STRATEGY": "unsafe-best-match",
        "UV_HTTP_TIMEOUT": settings.get("timeout", settings.get("default-timeout", "")),
        "SSL_CERT_FILE": certificates(settings),
    }
    return {name: value for name, value in made.items() if value}
