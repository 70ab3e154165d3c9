"""Programs that a model might write to harm: none of them may work, nor harm other samples.

Each program ends normally only if its attack has worked, and raises an exception otherwise (or is
ended). So if it is put before a right solution, `passed` means that the sandbox has a hole. The
programs use `posix` where evaluators take functions of `os` away.

They are harmless where nothing contains them: what they start ends by itself, what they fill is
bounded, and what they overwrite they overwrite with what was there.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping

# What a test replaces in a program: a port of this machine on which somebody listens, a text that
# no sample must find, a directory of this machine to write to, and bytes of memory to use.
PLACEHOLDERS = ("PORT", "SECRET", "CANARY", "MEMORY")

_PROGRAMS = {
    "sockets": """
        import socket
        for address in (("127.0.0.1", PORT), ("::1", PORT)):
            try:
                socket.create_connection(address, timeout=1)
            except OSError:
                continue
            break
        else:
            raise RuntimeError("nobody answers")
        """,
    "secrets": """
        import io, posix
        def read(path):
            try:
                with io.open(path, "rb") as file:
                    return file.read(1 << 20)
            except OSError:
                return b""
        places = ["/proc/self/environ", "/proc/1/environ", "CANARY/token"]
        places += ["/proc/%s/environ" % name for name in posix.listdir("/proc") if name.isdigit()]
        names = ("token", ".netrc", ".cache/huggingface/token")
        for home in ("/root", "/home", "CANARY"):
            places += [home + "/" + name for name in names]
        if not any(b"SECRET" in read(place) for place in places):
            raise RuntimeError("no secret found")
        """,
    "write_outside": """
        import io, posix
        places = ["/", "/usr", "/usr/bin", "/etc", "/opt", "/in", "/oellm-guard", "/dev", "CANARY"]
        places += ["/home", "/root", "/var", "/var/lib", "/run", "/sys/fs/cgroup"]
        for place in places:
            try:
                with io.open(place + "/oellm-written", "w") as file:
                    file.write("x")
            except OSError:
                continue
            break
        else:
            for setting in ("core_pattern", "modprobe", "hostname"):
                path = "/proc/sys/kernel/" + setting
                try:
                    text = io.open(path).read()
                    io.open(path, "w").write(text)
                except OSError:
                    continue
                break
            else:
                raise RuntimeError("nothing outside can be written")
        """,
    "fork_bomb": """
        import posix, time
        for number in range(1500):
            try:
                pid = posix.fork()
            except OSError:
                raise RuntimeError("after %d forks" % number)
            if pid == 0:
                time.sleep(20)
                posix._exit(0)
        """,
    "threads": """
        import threading, time
        for number in range(1500):
            threading.Thread(target=time.sleep, args=(20,), daemon=True).start()
        """,
    "address_space": """
        import mmap, time
        mmap.mmap(-1, 50 << 30)
        kept = [bytearray(b"x") * (1 << 20) for _ in range(MEMORY >> 20)]
        time.sleep(4)
        """,
    "memory": """
        import time
        kept = [bytearray(b"x") * (1 << 20) for _ in range(MEMORY >> 20)]
        time.sleep(4)
        """,
    "memory_of_many": """
        import posix, time
        children = 8
        told, tell = posix.pipe()
        for number in range(children):
            if posix.fork() == 0:
                try:
                    kept = [bytearray(b"x") * (1 << 20) for _ in range(MEMORY // children >> 20)]
                    posix.write(tell, b"x")
                    time.sleep(20)
                finally:
                    posix._exit(0)
        posix.close(tell)
        count = 0
        while part := posix.read(told, children):
            count += len(part)
            if count == children:
                break
        else:
            raise RuntimeError("no memory")
        time.sleep(4)
        """,
    "endless": """
        import signal, time
        for number in range(1, 65):
            try:
                signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError):
                pass
        try:
            signal.setitimer(signal.ITIMER_REAL, 0)
        finally:
            end = time.monotonic() + 600
            while time.monotonic() < end:
                time.sleep(1)
        """,
    "print_1_gb": """
        import posix
        for descriptor in (1, 2):
            for number in range(512):
                posix.write(descriptor, b"x" * (1 << 20))
        raise RuntimeError("nobody reads it")
        """,
    "file_1_gb": """
        import io, signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        for place in (".", "/tmp", "/scratch", "/dev/shm", "/out", "/var/tmp"):
            try:
                with io.open(place + "/large", "wb", buffering=0) as file:
                    for number in range(1024):
                        file.write(b"x" * (1 << 20))
            except OSError:
                continue
            break
        else:
            raise RuntimeError("the disk is full")
        """,
    "files_100000": """
        import posix
        for place in (".", "/tmp", "/scratch", "/dev/shm", "/out", "/var/tmp"):
            try:
                for number in range(100_000):
                    name = "%s/many-%d" % (place, number)
                    posix.close(posix.open(name, posix.O_CREAT | posix.O_WRONLY))
            except OSError:
                continue
            break
        else:
            raise RuntimeError("no more files")
        """,
    "kill_parent": """
        import posix
        parent = posix.getppid()
        if parent > 1:
            posix.kill(parent, 9)
        else:
            raise RuntimeError("no parent to see")
        """,
    "kill_all": """
        import posix
        for number in (15, 9):
            for pid in (-1, 0):
                try:
                    posix.kill(pid, number)
                except OSError:
                    pass
        raise RuntimeError("still there")
        """,
    "daemon": """
        import io, posix, time
        if posix.fork() == 0:
            posix.setsid()
            if posix.fork() == 0:
                for number in range(60):
                    for name in ("/out/metrics.json", "CANARY/oellm-written"):
                        try:
                            io.open(name, "w").write('{"pass@1": 1.0}')
                        except OSError:
                            pass
                    time.sleep(1)
            posix._exit(0)
        raise RuntimeError("the daemon goes on")
        """,
    "odd_output": """
        import posix
        for place in ("/out", "."):
            for number, make in enumerate((
                lambda path: posix.symlink("/etc/passwd", path + "/metrics.json"),
                lambda path: posix.symlink("CANARY", path + "/directory"),
                lambda path: posix.mkfifo(path + "/pipe"),
                lambda path: posix.mkdir(path + "/\\n\\x1b[31m;$(touch x) -rf \\udcff"),
                lambda path: posix.mkdir(path + "/..."),
            )):
                try:
                    make(place)
                except OSError:
                    pass
        raise RuntimeError("as odd as can be")
        """,
    "ptrace": """
        import ctypes, io, posix
        libc = ctypes.CDLL(None)
        own = posix.getpid()
        others = [int(name) for name in posix.listdir("/proc") if name.isdigit()]
        others = [pid for pid in others if pid != own] or [posix.getppid()]
        for pid in others:
            attached = pid > 0 and libc.ptrace(16, pid, None, None) == 0
            if attached:
                libc.ptrace(17, pid, None, None)
                break
            try:
                io.open("/proc/%d/mem" % pid, "r+b").close()
            except OSError:
                continue
            break
        else:
            raise RuntimeError("no other process")
        """,
    "forged_metrics": """
        import io, posix
        text = '{"pass@1": 1.0, "humaneval": {"pass@1": 1.0}, "forged": "passed"}'
        for place in ("/out", "/scratch", "/tmp", "."):
            names = ["metrics.json", "results.json", "samples_eval_results.json"]
            try:
                names += posix.listdir(place)
            except OSError:
                continue
            for name in names:
                try:
                    io.open(place + "/" + name, "w").write(text)
                    posix.chmod(place + "/" + name, 0o444)
                except OSError:
                    pass
        raise RuntimeError("forged")
        """,
    "patched_test": """
        import builtins, json, sys, unittest
        unittest.TestCase.run = lambda self, result=None: result
        unittest.TestResult.addFailure = lambda *arguments: None
        json.dump = json.dumps = lambda *arguments, **options: '{"pass@1": 1.0}'
        for module in list(sys.modules.values()):
            for name in ("check", "check_correctness", "untrusted_check", "estimate_pass_at_k"):
                if hasattr(module, name):
                    setattr(module, name, lambda *arguments, **options: {"passed": True})
        raise RuntimeError("patched")
        """,
    "exit_0": """
        import posix
        posix._exit(0)
        """,
    "descriptors": """
        import posix, stat
        # One pipe goes to the process that waits for the sample.
        pipes = 0
        for descriptor in range(3, 1024):
            try:
                mode = posix.fstat(descriptor).st_mode
            except OSError:
                continue
            pipes += stat.S_ISFIFO(mode)
            if stat.S_ISSOCK(mode) or pipes > 1:
                break
        else:
            raise RuntimeError("no connection to the evaluator")
        """,
    "manager": """
        import posix, stat
        waiting = ["/tmp", "/var/tmp", "/scratch", "/out", "/dev/shm", "."]
        found = False
        for place in waiting:
            try:
                names = posix.listdir(place)
            except OSError:
                continue
            for name in names if len(waiting) < 1000 else ():
                mode = posix.lstat(place + "/" + name).st_mode
                found = found or stat.S_ISSOCK(mode)
                if stat.S_ISDIR(mode):
                    waiting.append(place + "/" + name)
        if not found:
            raise RuntimeError("no socket of a manager")
        """,
    "shared_memory": """
        import ctypes, io
        found = False
        for line in io.open("/proc/self/maps"):
            addresses, permissions = line.split()[:2]
            if permissions.startswith("rw") and permissions.endswith("s"):
                begin, end = [int(address, 16) for address in addresses.split("-")]
                # Whoever waits for a semaphore in it waits for ever.
                ctypes.memset(begin, 0, end - begin)
                found = True
        if not found:
            raise RuntimeError("no memory is shared")
        """,
    "namespaces": """
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(0x10000000 | 0x20000) and libc.umount2(b"/out", 2):
            raise RuntimeError("no new namespaces, no mount taken away")
        """,
}


NAMES = list(_PROGRAMS)


def hostile_samples(values: Mapping[str, object]) -> dict[str, str]:
    """Return the programs by name, with the placeholders replaced."""
    assert values.keys() == set(PLACEHOLDERS)
    programs = {}
    for name, text in _PROGRAMS.items():
        program = textwrap.dedent(text).lstrip()
        for placeholder, value in values.items():
            program = program.replace(placeholder, str(value))
        programs[name] = program
    return programs
