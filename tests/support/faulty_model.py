"""Real models that fail: at a text, at a batch size, or by being slow, as a test chooses.

A model brings its code (trust_remote_code), so it fails inside transformers, like one whose kernels
crash or whose GPU is full.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

# Texts that cause a fault. The last byte of each is in no other text of the tests.
SEGFAULT, CUDA_ERROR, NEVER_FITS = "§", "¶", "±"

CODE = '''
import functools
import os
import signal
import sys
import time
from pathlib import Path

import torch
from transformers import LlamaForCausalLM


class FaultyForCausalLM(LlamaForCausalLM):
    """Fails as `faults` in its configuration says, and notes each batch in the file `log`."""

    def __init__(self, config):
        super().__init__(config)
        self.faults = config.faults
        self.directory = Path(config.name_or_path)
        self._note("stdin " + repr(sys.stdin.read()))
        if "loading" in self.faults:
            os.kill(os.getpid(), signal.SIGSEGV)

    def _note(self, text):
        with open(f"{self.directory}.log", "a") as log:
            log.write(f"{os.getpid()} {text}\\n")

    def _wait(self):
        """Wait for the seconds in the file `pace`, which may change during the wait."""
        started = time.monotonic()
        pace = Path(f"{self.directory}.pace")
        while pace.exists() and time.monotonic() - started < float(pace.read_text()):
            time.sleep(0.01)

    @functools.wraps(LlamaForCausalLM.forward)
    def forward(self, input_ids=None, **named):
        rows, length = input_ids.shape
        self._note(f"batch {rows} {length}")
        self._wait()
        for fault, token in self.faults["tokens"].items():
            # Only in prompts: a model with random weights may generate any token.
            if length > 1 and (input_ids == token).any():
                self._fail(fault)
        if rows > self.faults.get("fits", rows):
            self._fail("memory")
        return super().forward(input_ids=input_ids, **named)

    def _fail(self, fault):
        self._note(fault)
        if fault == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        elif fault == "cuda":
            raise RuntimeError("CUDA error: device-side assert triggered")
        elif self.faults.get("accelerator") == "hip":
            raise RuntimeError("HIP out of memory. Tried to allocate 2.00 GiB")
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
'''


class Batch(NamedTuple):
    """One call of a model: its process, requests, and tokens of each request with padding."""

    pid: int
    requests: int
    tokens: int


class FaultyModel:
    """A model with the weights of another one, and with code that fails.

    `loading`: it crashes while it loads. `fits`: the largest batch that fits into memory, in
    requests. `accelerator`: whose message says that memory is full, cuda or hip.
    """

    def __init__(self, source: Path, directory: Path, **faults: Any) -> None:
        self.directory = directory
        self.log = Path(f"{directory}.log")
        directory.mkdir(parents=True)
        for path in source.iterdir():
            if path.name != "config.json":
                (directory / path.name).symlink_to(path)
        (directory / "modeling_faulty.py").write_text(CODE)
        texts = {"segfault": SEGFAULT, "cuda": CUDA_ERROR, "memory": NEVER_FITS}
        tokens = {fault: _token(source, text) for fault, text in texts.items()}
        config = json.loads((source / "config.json").read_text())
        config |= {
            "architectures": ["FaultyForCausalLM"],
            "auto_map": {"AutoModelForCausalLM": "modeling_faulty.FaultyForCausalLM"},
            "faults": {"tokens": tokens, **faults},
        }
        (directory / "config.json").write_text(json.dumps(config))

    def set_pace(self, seconds: float) -> None:
        """Make each batch and each generated token take this long, including the current one."""
        staged = Path(f"{self.directory}.pace.new")
        staged.write_text(str(seconds))
        staged.replace(f"{self.directory}.pace")

    def noted(self, what: str) -> list[list[str]]:
        """Return its notes of one kind, each as process id and details."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        found = [line.split(maxsplit=2) for line in lines]
        return [[pid, *rest] for pid, kind, *rest in found if kind == what]

    def batches(self) -> list[Batch]:
        """Return the batches that it got, including those that failed."""
        return [Batch(int(pid), *map(int, sizes.split())) for pid, sizes in self.noted("batch")]


def _token(model: Path, text: str) -> int:
    """Return the token of a character's last byte."""
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    # Byte-level BPE writes most bytes outside ASCII as the character of that number.
    vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
    return vocabulary[chr(text.encode()[-1])]
