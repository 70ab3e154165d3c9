"""oe-build takes images from a real registry and elsewhere, whatever happens on the way."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.hub import Fault, Hub
from support.image_site import Site, apptainer, digest, push
from support.registry import Registry
from support.relays import Relay
from support.small_images import small_image, small_tree
from support.terminal import on_terminal
from support.waiting import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def endless(site: Site) -> Iterator[str]:
    """Serve an image without telling its size; return its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self.wfile.write(small_image().read_bytes())

        def log_message(self, *arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        port = server.server_address[1]
        yield f"http://127.0.0.1:{port}/suite.sif#sha256={digest(small_image())}"
        server.shutdown()


def downloads(registry: Registry) -> int:
    """Return how often the registry was asked for an image's content."""
    return len(registry.served(f"GET .*/blobs/sha256:{digest(small_image())}"))


def test_an_image_is_pulled_once(site: Site, address: str, registry: Registry) -> None:
    records, told = site.run("--pull", address)
    assert digest(site.path) == digest(small_image())
    record = json.loads(site.path.with_name("suite.sif.json").read_text())
    (printed,) = records
    assert printed["status"] == "pulled"
    for found in (record, printed):
        assert found["digest"] == digest(small_image())
        assert found["source"] == address
        assert "org.label-schema.build-date" in found["labels"]
    assert "suite: pulled in" in told
    assert site.files() == {"suite.sif", "suite.sif.json", "suite.sif.log"}
    (again,), _ = site.run("--pull", address)
    assert again["status"] == "up_to_date"
    assert downloads(registry) == 1
    push(small_image(1), registry)
    (newer,), told = site.run("--pull", address)
    assert newer["status"] == "pulled"
    assert f"suite: {address} is another image" in told
    assert digest(site.path) == digest(small_image(1))


def test_what_was_pulled_is_not_built(site: Site, address: str) -> None:
    name = "lm_eval-cpu"
    site.run("--pull", address, name)
    (record,), _ = site.run("--list", name)
    assert record["status"] == "up_to_date"
    assert record["reason"] == f"from {address}"
    (record,), _ = site.run(name)
    assert record["status"] == "up_to_date"
    (record,), _ = site.run("--pull", address, "--force", name)
    assert record["status"] == "pulled"
    with (site.images / f"{name}.sif").open("ab") as image:
        image.write(b"more")
    (record,), _ = site.run("--list", name)
    assert record["reason"] == "image changed"
    (record,), told = site.run("--pull", address, name)
    assert record["status"] == "pulled"
    assert f"{name}: image changed" in told


def test_a_cut_connection_costs_no_bytes(site: Site, address: str, relay: Relay) -> None:
    relay.cuts.extend([1_000_000, 900_000])
    site.run("--pull", f"oras://{relay.host}/oellm/suite:1")
    assert digest(site.path) == digest(small_image())
    assert site.log().count("the connection was cut; continuing after") == 2
    assert relay.sent < small_image().stat().st_size + 200_000


def test_a_wrong_digest_leaves_the_image_before(
    site: Site, address: str, registry: Registry
) -> None:
    site.run("--pull", address)
    push(small_image(1), registry)
    kept = registry.blob_file(digest(small_image(1)))
    content = bytearray(kept.read_bytes())
    content[-1] ^= 1
    kept.write_bytes(content)
    (record,), told = site.run("--pull", address, status=1)
    found = hashlib.sha256(content).hexdigest()
    assert record["status"] == "failed"
    assert f"expected sha256 {digest(small_image(1))}, found {found}" in told
    assert digest(site.path) == digest(small_image())
    assert site.files() == {"suite.sif", "suite.sif.json", "suite.sif.log"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
@pytest.mark.parametrize(
    ("source", "message"), [("address", "no room: "), ("endless", "No space left on device")]
)
def test_a_full_disk_is_named(
    site: Site, request: pytest.FixtureRequest, source: str, message: str
) -> None:
    site.images.mkdir()
    script = (
        f"mount -t tmpfs -o size=1m none {site.images} || exit 99; "
        f'"$@"; status=$?; ls -A {site.images}; exit $status'
    )
    words = site.command("--format=csv", "--pull", request.getfixturevalue(source))
    done = subprocess.run(
        ["unshare", "--mount", "bash", "-c", script, "bash", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=site.env,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert message in done.stderr
    assert done.stdout.splitlines()[2:] == ["suite.sif.log"]


def test_an_image_of_the_hub_is_pulled(site: Site, hub: Hub, tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    shutil.copy(small_image(), files / "suite.sif")
    hub.add_dataset("acme/images", files)
    hub.fault("GET */suite.sif", Fault(cut=1_000_000), times=1)
    site.env |= hub.environment | {"HF_HUB_OFFLINE": "1"}
    (record,), told = site.run("--pull", "hf://datasets/acme/images/suite.sif")
    assert record["source"] == "hf://datasets/acme/images/suite.sif"
    assert "HF_HUB_OFFLINE is ignored" in told
    assert digest(site.path) == digest(small_image())
    assert hub.served("GET */suite.sif bytes=1000000-")


def test_an_image_of_a_web_server_is_checked(site: Site, endless: str) -> None:
    (record,), _ = site.run("--pull", endless, "mine")
    assert record["name"] == "mine"
    assert digest(site.images / "mine.sif") == digest(small_image())


def test_two_at_once_share_one_download(
    site: Site, address: str, registry: Registry, relay: Relay
) -> None:
    relay.pause_s = 0.05
    first = site.start("--pull", f"oras://{relay.host}/oellm/suite:1")
    wait_until(lambda: site.partial_size() > 0, process=first)
    second = site.start("--pull", f"oras://{relay.host}/oellm/suite:1")
    told = [process.communicate() for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], told
    statuses = [json.loads(out)["status"] for out, _ in told]
    assert statuses == ["pulled", "up_to_date"]
    assert "another process makes it; waiting" in told[1][1]
    assert downloads(registry) == 1


def test_the_next_one_continues_after_a_kill(site: Site, address: str, relay: Relay) -> None:
    relay.pause_s = 0.04
    process = site.start("--pull", f"oras://{relay.host}/oellm/suite:1")
    wait_until(lambda: site.partial_size() > 1_000_000, process=process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    sent, relay.pause_s = relay.sent, 0
    assert not site.path.exists()
    (record,), _ = site.run("--pull", f"oras://{relay.host}/oellm/suite:1")
    assert record["status"] == "pulled"
    assert "continuing after" in site.log()
    assert digest(site.path) == digest(small_image())
    assert relay.sent - sent < small_image().stat().st_size - 900_000
    assert site.files() == {"suite.sif", "suite.sif.json", "suite.sif.log"}


def test_an_interrupted_pull_keeps_what_it_has(site: Site, address: str, relay: Relay) -> None:
    relay.pause_s = 0.04
    process = site.start("--pull", f"oras://{relay.host}/oellm/suite:1")
    wait_until(lambda: site.partial_size() > 0, process=process)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate()
    assert process.returncode == 130, told
    (partial,) = [name for name in site.files() if name.endswith(".partial")]
    assert site.files() == {"suite.sif.log", partial}


def test_what_has_arrived_stays_until_it_is_in_place(
    site: Site, address: str, relay: Relay, tmp_path: Path
) -> None:
    source = f"oras://{relay.host}/oellm/suite:1"
    broken = tmp_path / "broken" / "apptainer"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\necho 'FATAL: no user namespaces' >&2\nexit 255\n")
    broken.chmod(0o755)
    path = site.env["PATH"]
    site.env["PATH"] = f"{broken.parent}:{path}"
    (record,), _ = site.run("--pull", source, status=1)
    assert "no user namespaces" in record["reason"]
    site.env["PATH"] = path
    sent = relay.sent
    (record,), _ = site.run("--pull", source)
    assert record["status"] == "pulled"
    assert relay.sent - sent < 100_000


def test_layers_are_pulled_and_converted(site: Site, registry: Registry, relay: Relay) -> None:
    registry.add_tree(small_tree(), "base/suite", "1")
    relay.cuts.append(1_000_000)
    source = f"docker://{relay.host}/base/suite:1"
    (record,), _ = site.run("--pull", source)
    assert record["status"] == "pulled"
    assert record["digest"] == digest(site.path)
    assert "trying again in 2 s" in site.log()
    apptainer("exec", "--userns", str(site.path), "/bin/sh", "-c", "true", env=site.env)
    (record,), _ = site.run("--pull", source)
    assert record["status"] == "up_to_date"
    (record,), told = site.run("--pull", source.replace(":1", ":2"), "suite", status=1)
    assert "manifest unknown" in told


def test_a_definition_has_its_base_from_a_registry(
    site: Site, registry: Registry, tmp_path: Path
) -> None:
    registry.add_tree(small_tree(), "base/tiny", "1")
    site.images.mkdir()
    (site.images / ".suite.sif.0123456789abcdef.partial").write_bytes(b"of a pull")
    definition = tmp_path / "suite.def"
    definition.write_text(
        "Bootstrap: {{ BOOTSTRAP }}\nFrom: {{ FROM }}\n\n"
        "%arguments\n    BOOTSTRAP=docker\n    FROM=example.org/tiny:1\n\n"
        "%post\n    echo made >/made\n\n%test\n    cat /made\n"
    )
    base = f"{registry.host}/base/tiny:1"
    (record,), _ = site.run("--arg", f"FROM={base}", definition)
    assert record["status"] == "built"
    assert record["labels"]["org.label-schema.usage.apptainer.version"]
    assert "+ echo made" in site.log()
    assert site.partial_size() == 0
    (record,), _ = site.run("--arg", f"FROM={base}", definition)
    assert record["status"] == "up_to_date"


def test_a_terminal_shows_how_far_it_is(site: Site, address: str, relay: Relay) -> None:
    relay.pause_s = 0.04
    command = site.command("--pull", f"oras://{relay.host}/oellm/suite:1")
    done = on_terminal(*command, env=site.env, width=160, is_stderr=True)
    assert done.returncode == 0
    assert re.search(r"suite, \d s, pulling: \d+ %, \S+ .B of 3.12 MB, \S+ .B/s", done.stdout)
    command = site.command("--push", f"oras://{relay.host}/oellm/suite:2")
    shutil.copy(small_image(1), site.path)
    done = on_terminal(*command, env=site.env, width=160, is_stderr=True)
    assert done.returncode == 0
    assert re.search(r"pushing suite: \d+ %, \S+ .B of 3.12 MB, \S+ .B/s", done.stdout)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--pull", "suite.sif"], "cannot pull from 'suite.sif'"),
        (["--pull", "oras://h/a:1", "one", "two"], "write {name} in the address"),
        (["--push", "docker://h/a:1", "one"], "expected oras://"),
        (["--push", "oras://h/a:1", "one", "two"], "write {name} in the address"),
        (["--push", f"oras://h/a@sha256:{'0' * 64}", "one"], "expected a tag to push to"),
        (["--push", "oras://h/a:1", "--pull", "oras://h/a:1"], "--pull and --push"),
        (["--pull", "oras://h/a:1", "--list"], "--list and --pull"),
    ],
)
def test_bad_usage_is_explained(site: Site, words: list[str], message: str) -> None:
    _, told = site.run(*words, status=2)
    assert message in told
