"""Models that are real, and fail: by which text, at which batch size or how slowly is set here.

A model's code comes with it (trust_remote_code), so that it fails inside of transformers, as one
does whose kernels crash or whose GPU is full.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

# Texts that bring about a fault, one byte of which is in no other text of the tests.
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
    """Does what `faults` in its configuration says, and notes each batch in the file `log`."""

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
        """Wait as long as the file `pace` says, which may change meanwhile."""
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
            # Of prompts: a model of random weights writes any token.
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
    """One call of a model: requests, and tokens of each with padding."""

    pid: int
    requests: int
    tokens: int


class FaultyModel:
    """A model with the weights of another one, and code that fails.

    `loading`: it crashes while it loads. `fits`: the requests that a batch may have. `accelerator`:
    whose message says that memory is full, cuda or hip.
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
        """Have each batch, and each generated token, take so long, also the one that is begun."""
        staged = Path(f"{self.directory}.pace.new")
        staged.write_text(str(seconds))
        staged.replace(f"{self.directory}.pace")

    def noted(self, what: str) -> list[list[str]]:
        """Return what it has noted of one kind: process id and details, each time."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        found = [line.split(maxsplit=2) for line in lines]
        return [[pid, *rest] for pid, kind, *rest in found if kind == what]

    def batches(self) -> list[Batch]:
        """Return the batches that it was asked for, also those that failed."""
        return [Batch(int(pid), *map(int, sizes.split())) for pid, sizes in self.noted("batch")]


def _token(model: Path, text: str) -> int:
    """Return the token of a character's last byte."""
    tokenizer = json.loads((model / "tokenizer.json").read_text())
    # Byte-level BPE writes most bytes that are no ASCII as the character of that number.
    vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
    return vocabulary[chr(text.encode()[-1])]
