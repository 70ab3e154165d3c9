"""oe-doctor: faults of file systems, clocks and the hub, planted once."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from oellm.doctor.machine_checks import check_hub
from support.doctor import Doctor


def test_a_directory_that_cannot_be_written(doctor: Doctor, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    doctor.settings |= {"hf_home": str(tmp_path / "file"), "eval_output_dir": "/proc/evals"}
    found = doctor()
    assert found.wrong() == ["hf_home", "eval_output_dir"]
    assert "cannot be written: Not a directory" in found.text("hf_home")
    assert "/proc/evals does not exist yet; /proc: cannot be written" in found.text(
        "eval_output_dir"
    )


def test_a_full_disk(doctor: Doctor, small_disk: Path) -> None:
    doctor.settings["hf_home"] = str(small_disk)
    found = doctor()
    assert found.wrong() == ["hf_home"]
    assert "writable, 410 kB free" in found.text("hf_home")
    assert "-> free some room" in found.text("hf_home")


PATCHES = {
    "locks that say yes": (
        "import fcntl\nfcntl.flock = lambda *_: None",
        "locks hf_home",
        ("warning", "two processes get the same file lock -> run one oe-fetch at a time"),
    ),
    "no locks": (
        "import fcntl\ndef flock(*_):\n    raise OSError(38, 'no locks')\nfcntl.flock = flock",
        "locks hf_home",
        ("warning", "no file locks: no locks -> run one oe-fetch at a time"),
    ),
    "a clock that is late": (
        "import time\nnow = time.time\ntime.time = lambda: now() - 1000",
        "clock hf_home",
        ("wrong", "1000 s behind the file system -> tell the site"),
    ),
    "a clock that is a little fast": (
        "import time\nnow = time.time\ntime.time = lambda: now() + 20",
        "clock hf_home",
        ("warning", "20 s ahead of the file system -> tell the site"),
    ),
}


@pytest.mark.parametrize("patch", PATCHES)
def test_locks_and_clocks(doctor: Doctor, tmp_path: Path, patch: str) -> None:
    code, check, (state, text) = PATCHES[patch]
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(code)
    found = doctor(env={"PYTHONPATH": str(tmp_path / "site")})
    assert found.state(check) == state
    assert text in found.text(check)


class _Hub(http.server.BaseHTTPRequestHandler):
    # Where requests are sent on to, and whose token came along.
    elsewhere = ""
    tokens: ClassVar[list[str | None]] = []

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.end_headers()

    def do_GET(self) -> None:
        self.tokens.append(self.headers["Authorization"])
        if self.elsewhere and self.path.startswith("/api"):
            self.send_response(302)
            self.send_header("Location", f"{self.elsewhere}/elsewhere")
            self.end_headers()
            return
        known = self.headers["Authorization"] == "Bearer hf_right"
        self.send_response(200 if known else 401)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_hub_and_the_token(doctor: Doctor, address: str) -> None:
    doctor.env |= {"HF_HUB_OFFLINE": "", "HF_ENDPOINT": address}
    assert "answers; no token" in doctor().text("hub")
    assert "knows your token" in doctor(env={"HF_TOKEN": "hf_right"}).text("hub")
    found = doctor(env={"HF_TOKEN": "hf_wrong"})
    assert found.wrong() == ["hub"]
    assert "not to your token (status 401) -> log in again" in found.text("hub")
    found = doctor(env={"HF_ENDPOINT": "http://127.0.0.1:9"})
    assert found.state("hub") == "warning"
    assert "does not answer" in found.text("hub")
    for token in ("hf_a\nb", "hf_ł"):
        assert "has letters that no request can have" in doctor(env={"HF_TOKEN": token}).text("hub")
    found = doctor(env={"HF_ENDPOINT": "http://[bad"})
    assert "HF_ENDPOINT: expected http://… or https://…, got 'http://[bad'" in found.text("hub")
    assert "not asked: HF_HUB_OFFLINE" in doctor(env={"HF_HUB_OFFLINE": "Yes"}).text("hub")


def test_a_token_goes_to_no_other_host(
    doctor: Doctor, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Hub, "elsewhere", address.replace("127.0.0.1", "localhost"))
    monkeypatch.setattr(_Hub, "tokens", [])
    doctor(env={"HF_HUB_OFFLINE": "", "HF_ENDPOINT": address, "HF_TOKEN": "hf_right"})
    assert _Hub.tokens == ["Bearer hf_right", None]


def test_a_token_of_the_current_directory_is_nobodys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    (tmp_path / "token").write_text("hf_right")
    monkeypatch.chdir(tmp_path)
    environ = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "none")}
    (found,) = check_hub(environ, "")
    assert "no token" in found.text
