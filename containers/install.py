"""Install the packages of a lock file beside those of a base image that has torch.

Usage: python3 install.py [--keep] LOCK COMMAND…

The base image's own Python runs this. It makes /opt/framework, a virtual environment that sees
the packages of the base image behind its own. From LOCK it gets what was not compiled for the
accelerator: torch, triton and their like stay those of the base image, and so does, with --keep,
every other package that the base image has. COMMAND installs; it gets `-r FILE` as well.

Fails if the base image has no torch. Standard library only, since definition files run it.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from importlib.metadata import distributions
from pathlib import Path

TARGET = Path("/opt/framework")
# What was compiled for an accelerator, or for the torch of the base image.
COMPILED = re.compile(
    r"(py)?torch.*|(pytorch-)?triton.*|vllm.*|nvidia-(?!bigcode-eval$).*|intel-.*"
)


def normalised(name: str) -> str:
    """Return the name of a package as all of its spellings have it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def base_packages() -> set[str]:
    """Return the packages of the running Python; fails if torch is not one of them."""
    found = {normalised(each.name) for each in distributions() if each.name}
    if "torch" not in found:
        raise SystemExit(f"install: the base image has no torch in {sys.executable}")
    return found


def chosen(lock: str, kept: set[str]) -> list[str]:
    """Return the lines of a lock file without comments, compiled packages and those kept."""
    lines = [line for line in lock.splitlines() if line and not line.startswith("#")]
    names = [normalised(line.partition("==")[0]) for line in lines]
    return [
        line
        for line, name in zip(lines, names, strict=True)
        if not COMPILED.fullmatch(name) and name not in kept
    ]


def link_base(environment: Path) -> None:
    """Make an environment see the packages of the running Python, behind its own.

    The option --system-site-packages would not do if that Python is itself one of an environment.
    """
    folders = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    (packages,) = environment.glob("lib/python3*/site-packages")
    lines = [f"import site; site.addsitedir({folder!r})\n" for folder in folders]
    (packages / "base_image.pth").write_text("".join(lines))


def main() -> None:
    """Do what the docstring above says."""
    keeps = sys.argv[1:2] == ["--keep"]
    lock, *command = sys.argv[2:] if keeps else sys.argv[1:]
    packages = base_packages()
    wanted = chosen(Path(lock).read_text(), packages if keeps else set())
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(TARGET)], check=True)
    link_base(TARGET)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(wanted) + "\n")
        file.flush()
        subprocess.run([*command, "-r", file.name], check=True)


if __name__ == "__main__":
    main()
