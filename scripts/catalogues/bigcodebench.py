"""The tasks of bigcodebench: two splits of two subsets."""

import hashlib
import importlib.metadata
import inspect
from typing import Any

# The lines of the data sets of v0.1.4.
_PROBLEMS = {"": 1140, "-hard": 148}


def describe() -> dict[str, Any]:
    from bigcodebench import evaluate, generate, sanitize
    from bigcodebench.data import bigcodebench
    from bigcodebench.provider import utility

    modules = (generate, evaluate, sanitize, bigcodebench, utility)
    code = "".join(map(inspect.getsource, modules))
    digest = hashlib.sha256(code.encode()).hexdigest()[:16]
    tasks = {
        f"bigcodebench{subset}-{split}": {"n_docs": count, "digest": digest}
        for subset, count in _PROBLEMS.items()
        for split in ("complete", "instruct")
    }
    version = importlib.metadata.version("bigcodebench")
    return {"catalogue.json": {"version": version, "tasks": tasks}}
