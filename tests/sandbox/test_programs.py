"""Programs in the sandbox: what they get, what they may use, and how they end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import pytest

from oellm.errors import MachineError, UsageError
from oellm.sandbox.contained import Limits
from sandbox.conftest import BARE, Sandboxed, python
from support.hostile_runs import NUMBER, USER
from support.waiting import wait_until

# Without namespaces: only processes of the sandbox's user end with the program.
PLAIN = BARE._replace(namespaces=False, guard=False)
BOTH = pytest.mark.parametrize("layers", [BARE, PLAIN], ids=["namespaces", "plain"])


def processes_with(mark: str) -> list[str]:
    """Return the command lines of processes that have a text in them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if mark in line and path.parent.name != str(os.getpid()):
            found.append(line)
    return found


def test_the_environment_is_complete_and_private(
    sandboxed: Sandboxed, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    code = "import os; print(dict(os.environ), os.getcwd(), os.getuid(), os.getpid() < 5)"
    end = sandboxed(*python(code), env={"A": "b c"})
    assert end.status == 0, (directory / "log").read_text()
    private = {
        name: f"/scratch/{place}"
        for name, place in (
            ("TMPDIR", "tmp"),
            ("HOME", "home"),
            ("XDG_CACHE_HOME", "cache"),
            ("MPLCONFIGDIR", "matplotlib"),
        )
    }
    said = (directory / "log").read_text()
    assert "hf_secret" not in said
    for name, value in {"A": "b c", **private}.items():
        assert f"'{name}': '{value}'" in said
    user = USER[0] if USER else os.geteuid()
    assert said.rstrip().endswith(f"}} /out {user} True")


def test_a_secret_is_not_given(sandboxed: Sandboxed) -> None:
    with pytest.raises(UsageError, match="HF_TOKEN: code that a model writes must not see"):
        sandboxed("true", env={"HF_TOKEN": "hf_abc"})


def test_inputs_are_where_they_are_wanted_and_read_only(
    sandboxed: Sandboxed, directory: Path
) -> None:
    odd = directory / 'a é,b:c "d"'
    odd.mkdir()
    (odd / "file").write_text("text")
    code = (
        "import sys\n"
        "for path in sys.argv[1:]:\n"
        "    print(open(path).read())\n"
        "    try: open(path, 'w'); print('WRITTEN')\n"
        "    except OSError as error: print(error.errno)\n"
    )
    inputs = {odd / "file": "/in/file", odd: str(odd)}
    end = sandboxed(*python(code), "/in/file", f"{odd}/file", inputs=inputs)
    said = (directory / "log").read_text()
    assert end.status == 0, said
    assert "WRITTEN" not in said
    assert said.count("text") == 2


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("inputs", {Path("/no/such"): "/in/x"}, "/no/such: no such file or directory"),
        ("inputs", {Path("/usr"): "/out/usr"}, "/out/usr: the sandbox has a directory of its own"),
        ("inputs", {Path("/usr"): "/in/../out"}, "expected an absolute path"),
        ("container_args", ("--bind=/:/host",), "--bind=/:/host would let code that a model"),
        ("container_args", ("-B", "/"), "-B would let code that a model"),
        ("container_args", ("--writable-tmpfs",), "--writable-tmpfs would let code"),
    ],
)
def test_what_would_widen_the_sandbox_is_refused(
    field: str, value: object, message: str, sandboxed: Sandboxed
) -> None:
    with pytest.raises((UsageError, MachineError), match=message):
        sandboxed("true", **{field: value})


@BOTH
def test_a_program_that_takes_too_long_ends_with_all_its_processes(
    layers: object, sandboxed: Sandboxed, directory: Path
) -> None:
    mark = uuid.uuid4().hex
    code = (
        "import os, signal, time\n"
        "for n in range(1, 65):\n"
        "    try: signal.signal(n, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork(): os._exit(0)\n"
        "time.sleep(100)"
    )
    end = sandboxed(*python(code), mark, layers=layers, limits=Limits(1.5))
    assert (end.status, end.reason) == (-1, "it ran longer than 1.5 s")
    assert 1.5 <= end.seconds < 20
    assert processes_with(mark) == []


@BOTH
def test_a_daemon_ends_with_the_program(
    layers: object, sandboxed: Sandboxed, directory: Path
) -> None:
    mark = uuid.uuid4().hex
    code = (
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork(): os._exit(0)\n"
        "    while True: open('late', 'a').write('x' * 1000); time.sleep(0.01)\n"
        "time.sleep(0.3)"
    )
    end = sandboxed(*python(code), mark, layers=layers)
    assert (end.status, end.copied) == (0, ("late",))
    assert processes_with(mark) == []


@BOTH
def test_memory_of_all_processes_together_is_limited(layers: object, sandboxed: Sandboxed) -> None:
    code = (
        "import os, time\n"
        "for n in range(4):\n"
        "    if os.fork() == 0: kept = bytearray(b'x') * (50 << 20); time.sleep(50)\n"
        "time.sleep(50)"
    )
    end = sandboxed(*python(code), layers=layers, limits=Limits(30, memory_bytes=150 << 20))
    assert end.reason == f"its processes used more than {150 << 20} bytes of memory"


def test_memory_that_processes_share_counts_once(sandboxed: Sandboxed) -> None:
    code = (
        "import os, time\nshared = bytearray(b'x') * (60 << 20)\n"
        "children = [os.fork() or time.sleep(1) or os._exit(0) for n in range(6)]\n"
        "time.sleep(1)"
    )
    assert sandboxed(*python(code), limits=Limits(30, memory_bytes=150 << 20)).status == 0


def test_processes_and_output_are_limited(sandboxed: Sandboxed, directory: Path) -> None:
    code = (
        "import os, time\n"
        "try:\n"
        "    for n in range(300): os.fork() or time.sleep(5) or os._exit(0)\n"
        "except OSError as error: print('forks', n)\n"
        "try:\n"
        "    for n in range(300): open(f'{n}', 'w').close()\n"
        "except OSError as error: print('files', n)\n"
        "try: open('0', 'wb', buffering=0).write(bytes(2 << 20)); print(os.stat('0').st_size)\n"
        "except OSError as error: print('full')\n"
    )
    limits = Limits(30, output_bytes=1 << 20, output_files=20, processes=50)
    sandboxed(*python(code), limits=limits)
    said = (directory / "log").read_text().split()
    assert said[:2][0] == "forks"
    assert int(said[1]) < 50
    assert said[2:4] == ["files", "20"]
    assert said[4:] in (["full"], [str(1 << 20)])


def test_the_log_is_cut(sandboxed: Sandboxed, directory: Path) -> None:
    code = "import os\nfor n in range(200): os.write(n % 2 + 1, b'x' * 100_000)"
    end = sandboxed(*python(code), limits=Limits(30, log_bytes=1 << 20))
    assert end.status == 0
    log = (directory / "log").read_bytes()
    assert log == b"x" * (1 << 20) + b"\n[the log's limit is reached]\n"


def test_a_caller_stops_a_program(sandboxed: Sandboxed) -> None:
    mark = uuid.uuid4().hex
    stop = time.monotonic() + 1
    end = sandboxed(
        *python("import time; time.sleep(100)"), mark, stop=lambda: time.monotonic() > stop
    )
    assert (end.status, end.reason, end.copied) == (-1, "stopped", ())
    assert processes_with(mark) == []


def test_everything_ends_with_a_caller_that_is_killed(directory: Path) -> None:
    mark = uuid.uuid4().hex
    caller = subprocess.Popen(
        [
            *(sys.executable, "-c"),
            "import sys; from pathlib import Path\n"
            "from oellm.sandbox.contained import Contained, Layers, Limits\n"
            "from oellm.sandbox.running import run_contained\n"
            "layers = Layers(False, True, True, eval(sys.argv[3]))\n"
            "argv = ('sh', '-c', 'sleep 100; true', sys.argv[1])\n"
            "contained = Contained(argv, None, {}, Path(sys.argv[2]), {}, Limits(100), False)\n"
            "run_contained(contained, layers, Path(sys.argv[2]) / 'log')",
            *(mark, str(directory / "out"), str(BARE.user)),
        ]
    )
    # The caller, and what it has started.
    wait_until(lambda: len(processes_with(mark)) > 1)
    caller.send_signal(signal.SIGKILL)
    caller.wait()
    wait_until(lambda: processes_with(mark) == [])


def test_a_program_that_does_not_exist_says_so(sandboxed: Sandboxed, directory: Path) -> None:
    end = sandboxed("/no/such/program")
    assert (end.status, end.reason) == (127, "it ended with status 127")
    assert "/no/such/program" in (directory / "log").read_text()


def test_a_stack_limit_that_the_machine_lacks_is_named(
    sandboxed: Sandboxed, directory: Path
) -> None:
    code = "import resource; resource.setrlimit(resource.RLIMIT_STACK, (1 << 20, 1 << 20))\n"
    command = [sys.executable, "-c", code + _WITH_STACK, str(directory), str(BARE.user)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "it needs a hard stack limit of 8388608 bytes; this machine's is 1048576" in said


_WITH_STACK = """
import sys; from pathlib import Path
from oellm.sandbox.contained import Contained, Layers, Limits
from oellm.sandbox.running import run_contained
place = Path(sys.argv[1])
limits = Limits(60, stack_bytes=8 << 20)
contained = Contained(('true',), None, {}, place / 'out', {}, limits, guard=False)
run_contained(contained, Layers(False, True, True, eval(sys.argv[2])), place / 'log')
print((place / 'log').read_text())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_root_does_not_run_anything(sandboxed: Sandboxed) -> None:
    with pytest.raises(MachineError, match="root must not run what a model has written"):
        sandboxed("true", layers=BARE._replace(user=None))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_root_shows_what_only_root_can_reach(sandboxed: Sandboxed, directory: Path) -> None:
    closed = directory / "closed"
    closed.mkdir(mode=0o700)
    (closed / "open").write_text("shown")
    (closed / "shut").write_text("hidden")
    (closed / "shut").chmod(0o600)
    assert sandboxed("cat", "/in/x", inputs={closed / "open": "/in/x"}).status == 0
    assert (directory / "log").read_text() == "shown"
    end = sandboxed("cat", "/in/x", inputs={closed / "shut": "/in/x"})
    assert f"{closed}/shut: user {NUMBER} may not read it" in end.reason


def test_a_directory_that_a_program_has_closed_is_removed(sandboxed: Sandboxed) -> None:
    code = "import os; os.makedirs('a/b/c'); os.chmod('a/b', 0); os.chmod('a', 0)"
    assert sandboxed(*python(code), layers=PLAIN).status == 0
    user = USER[0] if USER else os.geteuid()
    boxes = Path(tempfile.gettempdir()).glob("oellm-sandbox-*")
    assert [box for box in boxes if box.stat().st_uid == user] == []
