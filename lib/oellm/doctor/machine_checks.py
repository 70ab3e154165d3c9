"""Whether the hub answers, which versions run here, and what contains a model's programs."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

from oellm import __version__
from oellm.clusters.cluster import Cluster
from oellm.clusters.runtime import require_node_python
from oellm.doctor.diagnoses import Diagnosis, found_doubtful, found_ok, found_wrong
from oellm.errors import MachineError, UsageError
from oellm.hub import environment
from oellm.images.web_requests import TransferError, send
from oellm.sandbox.layers import find_layers
from oellm.slurm.job_ends import last_line

_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
# What the libraries of the hub take for a yes.
_TRUE = ("1", "ON", "YES", "TRUE")
_IS_SOUND = "import sys; sys.exit(sys.version_info < (3, 10))"


def check_versions() -> Iterator[Diagnosis]:
    """Tell what runs here."""
    yield found_ok("versions", f"oellm {__version__}, Python {platform.python_version()}")


def check_hub(environ: Mapping[str, str], hf_home: str) -> Iterator[Diagnosis]:
    """Ask the hub for any answer, and whether it knows the token, if there is one."""
    address = environment.hub_address(environ)
    if offline := [name for name in _OFFLINE if environ.get(name, "").upper() in _TRUE]:
        yield found_ok("hub", f"not asked: {offline[0]} is set (oe-fetch asks nevertheless)")
        return
    try:
        silence = environment.find_silence(address)
    except UsageError as error:
        yield found_wrong("hub", str(error), "set HF_ENDPOINT to the address of a hub")
        return
    if silence is not None:
        remedy = "run oe-fetch on a machine with internet access, or set HTTPS_PROXY"
        yield found_doubtful("hub", f"{address} does not answer: {silence}", remedy)
        return
    token = environment.find_token(environ, hf_home)
    if not token:
        yield found_ok("hub", f"{address} answers; no token, which only gated models need")
        return
    # As a secret it goes to the hub alone, and to no host that it redirects to.
    secrets = {"Authorization": f"Bearer {token}"}
    label = f"{address}: asked for the token's owner"
    try:
        send(f"{address}/api/whoami-v2", label=label, secrets=secrets, insecure=True).close()
        yield found_ok("hub", f"{address} answers, and knows your token")
    except TransferError as error:
        if error.code in (401, 403):
            text = f"{address} answers, but not to your token (status {error.code})"
            yield found_wrong("hub", text, "log in again (hf auth login), or unset HF_TOKEN")
        elif error.code:
            yield found_ok("hub", f"{address} answers; the token was not checked")
        else:
            yield found_doubtful("hub", str(error), "try again later")


def check_node_python(cluster: Cluster) -> Iterator[Diagnosis]:
    """Start the Python that starts containers on the nodes."""
    try:
        python = require_node_python(cluster)
    except MachineError as error:
        yield found_wrong("python", str(error), "--set=python=…, a Python 3.10 or newer")
        return
    script = "\n".join(["set -e", *cluster.items("setup"), 'exec "$0" -c "$1"'])
    command = ["bash", "-c", script, python, _IS_SOUND]
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    if done.returncode:
        reason = last_line(done.stderr) or "it is older"
        text = f"{python} is no Python 3.10 or newer: {reason}"
        yield found_wrong("python", text, "--set=python=…, one that the nodes have, too")
    else:
        yield found_ok("python", python)


def check_sandbox(cluster: Cluster, image: Path | None) -> Iterator[Diagnosis]:
    """Try what would contain programs that a model has written."""
    try:
        layers = find_layers(cluster, image)
    except (MachineError, UsageError, OSError) as error:
        text = str(error).partition("; mend that")[0]
        remedy = "only rows whose answers are programs need it: oellm docs security"
        yield found_doubtful("sandbox", text, remedy)
        return
    if layers.missing:
        text = f"only {layers}: {layers.missing}"
        yield found_doubtful("sandbox", text, "ask the site for user namespaces")
    else:
        yield found_ok("sandbox", f"programs that a model writes run in: {layers}")
