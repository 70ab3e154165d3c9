"""Downloads of models by oe-fetch: real processes, and a hub that misbehaves."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support.hub import Fault, File, Hub
from support.hub_content import write_files, write_task
from support.model_directories import write_model
from support.processes import BIN, clean_environment, rows_of
from support.waiting import wait_until

pytestmark = pytest.mark.slow

# The command with constants of the library changed, so that a test need not wait for minutes.
HURRIED = """
import sys
import oe_fetch
from oellm.hub import errors
from oellm.core.processes import transfer_progress
transfer_progress._IN_LOG_S = 0.2
errors._BACKOFF = errors.Backoff(0.5, 0.5, 60.0)
sys.exit(oe_fetch.main())
"""
OE_FETCH = (BIN / "oe-fetch",)
HURRIED_FETCH = (sys.executable, "-c", HURRIED)


class Site:
    """A login node: a cache, a task that needs no hub, and a way to the hub."""

    def __init__(self, root: Path, hub: Hub) -> None:
        self.root = root
        self.hub = hub
        self.hf_home = root / "hf"
        self.tasks = write_task(root / "tasks", "quiz")
        self.variables = {"OELLM_CLUSTER": "local", "HF_HUB_DISABLE_TELEMETRY": "1"}

    @property
    def environment(self) -> dict[str, str]:
        own = {**self.hub.environment, **self.variables, "HF_HOME": str(self.hf_home)}
        return clean_environment(self.root, own)

    def manifest(self, *models: str) -> str:
        rows = "".join(f'"{model}",quiz,0,{self.tasks}\n' for model in models)
        return f"model_path,task_path,n_shot,include_path\n{rows}"

    def start(
        self, *models: str, command: tuple[str | Path, ...] = OE_FETCH
    ) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*command, "-"],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        process.stdin.write(self.manifest(*models))
        process.stdin.close()
        # So that communicate() does not write to it.
        process.stdin = None
        return process

    def fetch(
        self, *models: str, command: tuple[str | Path, ...] = OE_FETCH, status: int = 0
    ) -> tuple[list[str], str]:
        """Return the models of the rows that came through, and the messages."""
        with self.start(*models, command=command) as process:
            output, messages = process.communicate(timeout=180)
        assert process.returncode == status, messages
        assert "Traceback" not in messages
        return [row["model_path"] for row in rows_of(output)], messages

    def cache(self, model: str) -> Path:
        return self.hf_home / "hub" / f"models--{model.replace('/', '--')}"

    def held(self, model: str) -> dict[str, bytes]:
        """The files of a model's one snapshot."""
        snapshots = list(self.cache(model).glob("snapshots/*"))
        assert len(snapshots) <= 1
        return {
            path.relative_to(snapshots[0]).as_posix(): path.read_bytes()
            for path in snapshots[0].rglob("*.*")
        }

    def assert_sound(self, model: str, source: Path) -> None:
        """Assert that the cache has the whole model, each content under its digest, and no more."""
        held = self.held(model)
        assert held == {name: (source / name).read_bytes() for name in held}
        assert held.keys() >= {"config.json", "model.safetensors", "tokenizer.json"}
        blobs = list(self.cache(model).glob("blobs/*"))
        assert {path.name for path in blobs} == {File.read(source / name).etag for name in held}


@pytest.fixture
def site(tmp_path: Path, hub: Hub) -> Site:
    return Site(tmp_path, hub)


def test_passing_faults_are_outlasted(site: Site, hub: Hub, tmp_path: Path) -> None:
    names = ["busy", "down", "cut", "hanging", "trickling", "tagged", "swapped", "garbled"]
    sources = {
        f"acme/{name}": write_model(tmp_path / name, size=12_000_000, seed=seed)
        for seed, name in enumerate(names)
    }
    for model, source in sources.items():
        hub.add_model(model, source)
    busy = Fault(429, {"Retry-After": "1"})
    hub.fault("GET /acme/busy/*/model.safetensors", busy, times=1)
    hub.fault("GET /api/models/acme/busy*", Fault(429, {"RateLimit": '"api";r=0;t=1'}), times=1)
    hub.fault("GET /api/models/acme/down*", Fault(500), times=2)
    hub.fault("* /acme/down/*/model.safetensors", Fault(503), times=2)
    hub.fault("GET /acme/cut/*/model.safetensors", Fault(cut=11_000_000), times=1)
    hub.fault("GET /acme/hanging/*/model.safetensors", Fault(hang=11_000_000), times=1)
    hub.fault("GET /acme/trickling/*/model.safetensors", Fault(bytes_per_second=5_000_000))
    hub.fault("* /acme/tagged/*/model.safetensors", Fault(etag="0" * 64))
    config = File.read(tmp_path / "swapped" / "config.json").etag
    hub.fault("HEAD /acme/swapped/*/model.safetensors", Fault(etag=config), times=1)
    length = (tmp_path / "garbled" / "model.safetensors").stat().st_size
    hub.fault("GET /acme/garbled/*/model.safetensors", Fault(content=b"x" * length), times=1)
    site.variables["HF_HUB_DOWNLOAD_TIMEOUT"] = "2"

    passed, messages = site.fetch(*sources)
    assert passed == list(sources)
    for model, source in sources.items():
        site.assert_sound(model, source)
    for text in [
        "acme/busy@main: the hub limits requests; next try in 1 s",
        "acme/down@main: the hub answers 500; next try in 2 s",
        "acme/garbled@main: model.safetensors: not what the hub lists; downloading it again",
        "model acme/cut at ",
        "8 of 8 rows fetched",
    ]:
        assert f"oe-fetch: {text}" in messages
    # Warnings of the hub's library become messages, too.
    assert not [line for line in messages.splitlines() if not line.startswith("oe-")], messages
    # The downloaded part is kept; the hub's library writes blocks of 10 MiB.
    for name in ("cut", "hanging"):
        assert len(hub.served(f"GET /acme/{name}/*/model.safetensors bytes=10485760-")) == 1

    # A second time, the hub is asked for nothing but the commits.
    hub.heal()
    hub.requests.clear()
    assert site.fetch(*sources)[0] == list(sources)
    assert hub.served("* /acme/*") == []


def test_lasting_faults_are_named_and_leave_nothing_half(
    site: Site, hub: Hub, tmp_path: Path
) -> None:
    names = ["good", "gated", "forbidden", "token", "garbled", "short", "busy", "down", "lost"]
    for name in names:
        token = "hf_other" if name == "gated" else None
        hub.add_model(f"acme/{name}", write_model(tmp_path / name), token=token)
    hub.fault("* /acme/forbidden/*", Fault(403))
    invalid = {"X-Error-Message": "Invalid credentials in Authorization header"}
    hub.fault("GET /api/models/acme/token*", Fault(401, invalid))
    length = (tmp_path / "garbled" / "model.safetensors").stat().st_size
    hub.fault("GET /acme/garbled/*/model.safetensors", Fault(content=b"x" * length))
    hub.fault("GET /acme/short/*/model.safetensors", Fault(content=b"x" * 100))
    hub.fault("GET /api/models/acme/busy*", Fault(429, {"Retry-After": "3600"}))
    hub.fault("GET /api/models/acme/down*", Fault(502))
    hub.fault("* /acme/lost/*/model.safetensors", Fault(404, {"X-Error-Code": "EntryNotFound"}))
    models = [f"acme/{name}" for name in [*names, "nowhere"]]

    passed, messages = site.fetch(*models, command=HURRIED_FETCH, status=1)
    assert passed == ["acme/good"]
    for line, text in enumerate(
        [
            f"gated: accept the licence on its page, then set HF_TOKEN ({hub.url}/acme/gated)",
            "no access: the token's account or its permissions do not allow it",
            "the token is wrong or has expired: set HF_TOKEN, or log in again",
            "model.safetensors: the hub twice sent something other than what it lists",
            "the download is shorter or longer than the hub said: try again later",
            "the hub limits requests: set HF_TOKEN, which raises the limit, or try again later",
            "the hub answers 502: try again later",
            "the hub does not have a file that it lists: tell the owner",
            "not found on the hub: check the name; if it is private, set HF_TOKEN",
        ],
        3,
    ):
        place = f"oe-fetch: stdin:{line}: model_path: {models[line - 2]}@main: "
        assert messages.count(f"{place}{text}") == 1, messages
    assert "1 of 10 rows fetched" in messages
    for model in ("acme/garbled", "acme/short", "acme/lost"):
        assert "model.safetensors" not in site.held(model)
        assert all(path.stat().st_size < 1000 for path in site.cache(model).glob("blobs/*"))


def test_killed_fetch_goes_on(site: Site, hub: Hub, tmp_path: Path) -> None:
    source = write_files(write_model(tmp_path / "a", size=50_000), "shard-1.safetensors")
    hub.add_model("acme/a", source)
    slow = Fault(bytes_per_second=1000)
    hub.fault("GET /acme/a/*/model.safetensors", slow)
    blobs = site.cache("acme/a") / "blobs"
    snapshots = site.cache("acme/a") / "snapshots"
    with site.start("acme/a") as process:
        wait_until(lambda: len(list(snapshots.glob("*/*"))) == 3, process=process)
        wait_until(lambda: bool(list(blobs.glob("*.incomplete"))), process=process)
        process.kill()
    assert "model.safetensors" not in site.held("acme/a")
    hub.heal()
    hub.requests.clear()
    site.fetch("acme/a")
    assert [re.sub(".*/", "", line) for line in hub.served("GET /acme/a/*")] == [
        "model.safetensors"
    ]
    # Its unfinished file is removed once it is certain that nobody writes to it.
    [left] = blobs.glob("*.incomplete")
    os.utime(left, (0, 0))
    site.fetch("acme/a")
    site.assert_sound("acme/a", source)


def test_two_at_once_share_the_work(site: Site, hub: Hub, tmp_path: Path) -> None:
    models = ("acme/a", "acme/b")
    for seed, model in enumerate(models):
        hub.add_model(model, write_model(tmp_path / model, size=100_000, seed=seed))
    hub.fault("GET /acme/*/model.safetensors", Fault(bytes_per_second=50_000))
    # Both begin at the same time, however long each takes to start.
    hub.answering.clear()
    with site.start(*models) as first, site.start(*models) as second:
        wait_until(lambda: len(hub.served("GET /api/models/*")) == 4, process=first)
        hub.answering.set()
        for process in (first, second):
            output, messages = process.communicate(timeout=120)
            assert process.returncode == 0, messages
            assert len(output.splitlines()) == 3
    downloads = hub.served("GET /acme/*")
    assert len(downloads) == len(set(downloads)) == 6
    for model in models:
        site.assert_sound(model, tmp_path / model)


def test_nothing_is_downloaded_without_room(site: Site, hub: Hub, tmp_path: Path) -> None:
    for name in ("here", "large", "small"):
        hub.add_model(f"acme/{name}", write_model(tmp_path / name))
    site.fetch("acme/here")
    hub.requests.clear()
    hub.fault("GET /api/models/acme/large*", Fault(listed_size=10**15))
    passed, messages = site.fetch("acme/here", "acme/large", "acme/small", status=1)
    assert passed == ["acme/here"]
    assert hub.served("* /acme/*") == []
    text = rf"no room: the models need 3\.15 PB more in {site.hf_home}/hub, but only \d\S* \wB are "
    for line, model in ((3, "large"), (4, "small")):
        assert re.search(rf"stdin:{line}: model_path: acme/{model}@main: {text}", messages)


def test_disk_full_in_the_middle(site: Site, hub: Hub, small_disk: Path, tmp_path: Path) -> None:
    hub.add_model("acme/large", write_model(tmp_path / "large", size=500_000))
    hub.add_model("acme/small", write_model(tmp_path / "small"))
    # The hub does not say how large they are, so that this is seen only when it is written.
    hub.fault("GET /api/models/*", Fault(lists_sizes=False))
    # One after the other: together, the small one may find the disk full with the large one.
    command = (*OE_FETCH, "--jobs=1")
    passed, messages = site.fetch("acme/large", "acme/small", command=command, status=1)
    assert passed == ["acme/small"]
    problem = "stdin:2: model_path: acme/large@main: the file system is full: free some space"
    assert problem in messages
    assert "model.safetensors" not in site.held("acme/large")
    assert not list(small_disk.rglob("*.incomplete"))
    site.assert_sound("acme/small", tmp_path / "small")


def test_progress_in_a_log_and_on_a_terminal(site: Site, hub: Hub, tmp_path: Path) -> None:
    hub.add_model("acme/a", write_model(tmp_path / "a", size=20_000_000))
    hub.add_model("acme/b", write_model(tmp_path / "b", size=20_000_000, seed=1))
    hub.fault("GET *.safetensors", Fault(bytes_per_second=9_000_000))
    _, log = site.fetch("acme/a", command=HURRIED_FETCH)
    line = r"oe-fetch: downloading: \d+ %, 10.5 MB of 20 MB, [\d.]+ MB/s, \d+ s left\n"
    assert re.search(line, log)
    assert "\r" not in log
    assert re.search(r"model acme/a@main: 3 files, 20 MB to download\n", log)
    assert re.search(r"model acme/a at \w{12} downloaded, 20 MB \(1 of 1\)\n", log)

    shown, other = pty.openpty()
    manifest = tmp_path / "manifest.csv"
    manifest.write_text(site.manifest("acme/b"))
    environment = site.environment | {"TERM": "xterm"}
    with subprocess.Popen(
        [*OE_FETCH, manifest], env=environment, stdout=subprocess.PIPE, stderr=other
    ) as process:
        os.close(other)
        screen = b"".join(iter(lambda: _read(shown), b"")).decode()
    os.close(shown)
    assert process.returncode == 0
    assert re.search(r"\r\x1b\[Koe-fetch: downloading: \d+ %, 10.5 MB of 20 MB", screen)
    # At the end the line is gone, and messages are whole.
    assert re.search(r"\r\x1b\[K(oe-[^\r\x1b]*\r\n)*oe-fetch: 1 of 1 rows fetched\r\n\Z", screen)


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 4096)
    except OSError:
        # Reading a terminal fails so when no process can write to it any more.
        return b""


def test_code_and_tokenizer_of_other_repositories(site: Site, hub: Hub, tmp_path: Path) -> None:
    source = write_model(tmp_path / "a")
    (source / "config.json").write_text(
        '{"model_type": "odd", "auto_map": {"AutoConfig": "acme/code--configuration_odd.Odd"}}'
    )
    code = write_files(tmp_path / "code", "README.md")
    (code / "configuration_odd.py").write_text(
        "from transformers import PretrainedConfig\nfrom .names import NAME\n"
        "class Odd(PretrainedConfig):\n    model_type = NAME\n"
    )
    (code / "names.py").write_text("NAME = 'odd'\n")
    commit = hub.add_model("acme/a", source)
    hub.add_model("acme/code", code)
    words = write_model(tmp_path / "words", seed=1)
    hub.add_model("acme/words", write_files(words, "pytorch_model.bin"))
    site.fetch("acme/a,trust_remote_code=True,tokenizer=acme/words")
    assert site.held("acme/words").keys() == {"config.json", "tokenizer.json"}
    environment = site.environment | {"HF_HUB_OFFLINE": "1"}
    hub.stop()
    load = (
        "import sys, transformers, huggingface_hub\n"
        "config = transformers.AutoConfig.from_pretrained(\n"
        "    'acme/a', revision=sys.argv[1], trust_remote_code=True)\n"
        "assert config.model_type == 'odd'\n"
        # Readers that look for all of a snapshot find it, though not all was downloaded.
        "huggingface_hub.snapshot_download('acme/words', local_files_only=True)\n"
    )
    subprocess.run([sys.executable, "-c", load, commit], env=environment, check=True)


LEAVE = """
import sys, time
from oellm.fetch.model_downloads import ModelDownloads
from oellm.hub.repositories import HubModel
with ModelDownloads(sys.argv[1], None, 1, log=print) as downloads:
    downloads.start([HubModel("acme/a", "main"), HubModel("acme/b", "main")])
    sys.stdin.readline()
sys.stdout.write("left\\n")
sys.stdout.flush()
time.sleep(2)
"""


def test_no_download_begins_after_its_context_and_the_process_ends(
    site: Site, hub: Hub, tmp_path: Path
) -> None:
    for name in ("a", "b"):
        hub.add_model(f"acme/{name}", write_model(tmp_path / name))
    hub.answering.clear()
    with subprocess.Popen(
        [sys.executable, "-c", LEAVE, hub.url],
        env=site.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        wait_until(lambda: len(hub.served("GET /api/models/acme/a*")) == 1, process=process)
        process.stdin.write("\n")
        process.stdin.close()
        assert process.stdout.readline() == "left\n"
        hub.answering.set()
        assert process.wait(timeout=30) == 0
    assert hub.served("GET /api/models/acme/b*") == []
    assert hub.served("GET /acme/*") == []
