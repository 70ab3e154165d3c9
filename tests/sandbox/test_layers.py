"""Which layers a machine has, with container runtimes that can more or less."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oellm.clusters.cluster import Cluster
from oellm.errors import MachineError, UsageError
from oellm.sandbox import layers as layers_module
from oellm.sandbox.contained import Layers
from oellm.sandbox.layers import find_layers

# A container runtime without a container: it does what follows the image, or fails.
_RUNTIME = """#!/bin/sh
case " $* " in {refuses}) echo 'FATAL: {says}' >&2; exit 255;; esac
while [ "$1" != "$(dirname "$0")/image" ] && [ "$1" != /tmp/image ] && [ $# -gt 0 ]; do shift; done
shift
mkdir -p "$HOME"
exec "$@"
"""
ALL = Layers(container=True, namespaces=True, guard=True)
User = pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")


@pytest.fixture
def public() -> Iterator[Path]:
    """Yield a directory that every user can reach."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def find(public: Path) -> Callable[..., Layers]:
    """Return a function that finds the layers with a runtime that refuses some arguments."""

    def call(
        refuses: str = "never", says: str = "", unsafe_execution: bool = False, **settings: str
    ) -> Layers:
        layers_module._try_layers.cache_clear()
        runtime = public / "apptainer"
        runtime.write_text(_RUNTIME.format(refuses=refuses, says=says))
        runtime.chmod(0o755)
        (public / "image").write_text("")
        cluster = Cluster({"container_runtime": str(runtime), **settings}, {})
        found = find_layers(cluster, public / "image", unsafe_execution=unsafe_execution)
        return found._replace(user=None, runtime="")

    return call


def test_all_layers_need_nothing_from_the_settings(find: Callable[..., Layers]) -> None:
    found = find()
    assert (found, str(found)) == (ALL, "container+guard")


def test_a_runtime_without_user_namespaces_is_enough_if_the_cluster_says_so(
    find: Callable[..., Layers],
) -> None:
    reason = "user namespaces are disabled"
    with pytest.raises(MachineError) as caught:
        find("*--userns*", reason)
    assert "this machine has only `container`" in str(caught.value)
    assert reason in str(caught.value)
    assert "sandbox=weak" in str(caught.value)
    found = find("*--userns*", reason, sandbox="weak")
    assert str(found) == "container"
    assert (found.namespaces, found.guard) == (False, False)
    assert reason in found.missing


def test_without_any_container_only_the_user_permits_it(find: Callable[..., Layers]) -> None:
    says = "no FUSE"
    for sandbox in ("strong", "weak"):
        with pytest.raises(MachineError) as caught:
            find("*", says, sandbox=sandbox)
        assert "runs only in a container, and there is none" in str(caught.value)
        assert says in str(caught.value)
        assert "--unsafe_execution" in str(caught.value)
    found = find("*", says, unsafe_execution=True)
    assert str(found) == "guard"
    assert says in found.missing


def test_what_is_missing_for_a_container_is_named(public: Path) -> None:
    image = public / "x.sif"
    (public / "there").write_text("")
    for cluster, path, reason in (
        (Cluster({}, {}), None, "the cluster has no image for it"),
        (Cluster({"container_runtime": "none"}, {}), image, "the cluster has no image for it"),
        (Cluster({}, {}), image, f"{image}: no such image"),
        (Cluster({"container_runtime": "/no/x"}, {}), public / "there", "no /no/x on PATH"),
    ):
        with pytest.raises(MachineError, match=reason):
            find_layers(cluster, path)


@User
def test_root_becomes_the_user_of_the_settings() -> None:
    for name, message in (("no-such-user", "no user no-such-user"), ("0", "other than root")):
        with pytest.raises(UsageError, match=message):
            find_layers(Cluster({"sandbox_user": name}, {}), None)
    for name in ("nobody", "61234"):
        cluster = Cluster({"sandbox_user": name}, {})
        found = find_layers(cluster, None, unsafe_execution=True)
        assert found.user is not None
        assert found.user[0] == (65534 if name == "nobody" else 61234)
