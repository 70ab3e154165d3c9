"""Host name patterns that the login nodes of a machine have in common, and a name for it."""

from __future__ import annotations

import re
import socket

_LOCAL = re.compile(r"localhost(\..*)?|ip6-.*|.*\.localdomain", re.IGNORECASE)


def own_host_name() -> str:
    """Return the full name of this host if it has one, else the short one."""
    short, full = socket.gethostname(), socket.getfqdn()
    is_better = "." in full and "." not in short and not _LOCAL.fullmatch(full)
    # /etc/hosts may give an address the name of another service first.
    return full if is_better and full.partition(".")[0] == short else short


def host_pattern(host: str) -> str:
    """Return the pattern of a login node and its siblings: `login*.x.y` for `login01.x.y`."""
    first, dot, domain = host.partition(".")
    general = re.sub(r"[0-9]+", "*", first)
    # A pattern without letters would match every host.
    return f"{general if re.search('[A-Za-z]', general) else first}{dot}{domain}"


def place_name(host: str) -> str:
    """Return a name for the machine from that of a login node: `x` for `login01.x.y`."""
    first, _, domain = host.partition(".")
    return clean_name(domain.partition(".")[0] or re.sub(r"[0-9]+", "", first)) or "cluster"


def clean_name(text: str) -> str:
    """Return a text as the name of a cluster: lower case letters, digits, `.`, `_` and `-`."""
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("-._").removesuffix(".json")
