"""The tasks of evalplus: its two data sets, with the files that it would download."""

import hashlib
import importlib.metadata
import inspect
from typing import Any

# evalplus does not say how many problems a file has; these are the lines of the files.
_PROBLEMS = {"humaneval": 164, "mbpp": 378}


def describe() -> dict[str, Any]:
    from evalplus import codegen, evaluate
    from evalplus.data import humaneval, mbpp

    code = "".join(map(inspect.getsource, (codegen, evaluate, humaneval, mbpp)))
    digest = hashlib.sha256(code.encode()).hexdigest()[:16]
    tasks = {name: {"n_docs": count, "digest": digest} for name, count in _PROBLEMS.items()}
    return {"catalogue.json": {"version": importlib.metadata.version("evalplus"), "tasks": tasks}}
