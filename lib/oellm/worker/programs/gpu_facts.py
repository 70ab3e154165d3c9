"""The GPUs of a worker that starts programs: it has no torch to ask."""

from __future__ import annotations

import glob
import os
import re

from oellm.clusters import gpu_variables
from oellm.runs.provenance import gpu_driver
from oellm.runs.result_record import Facts

_MODEL = re.compile(r"^Model:\s*(.+?)\s*$", re.MULTILINE)


def find_gpus(count: int, root: str = "/") -> Facts:
    """Return the worker's GPUs as the provenance has them; `root` is the root of system files.

    Which of a machine's GPUs they are decides nothing but their names, which are mostly the same.
    """
    names = [_read_model(path) for path in sorted(glob.glob(f"{root}proc/driver/nvidia/gpus/*"))]
    variable = gpu_variables.choose_variable(os.environ, gpu_variables.order_by_devices(root))
    numbers = gpu_variables.list_gpus(os.environ[variable]) if variable else []
    chosen = [names[int(text)] for text in numbers if text.isdecimal() and int(text) < len(names)]
    named = (chosen or names)[:count]
    return {"gpus": [{"name": name} for name in named if name], "driver": gpu_driver(root)}


def _read_model(directory: str) -> str:
    try:
        with open(f"{directory}/information", encoding="utf-8", errors="replace") as stream:
            match = _MODEL.search(stream.read())
    except OSError:
        return ""
    return match[1] if match else ""
