"""Measures in a new child process, with a given source tree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

NOW = Path(__file__).resolve().parents[2]

# asyncio allocates 256 KiB for each `recv`. Depending on what else happens to be on the heap, glibc
# returns them to the kernel each time, and two page faults add 20 µs to a request or do not.
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(2**25), "MALLOC_TRIM_THRESHOLD_": str(2**28)}

# The package comes from the tree that is measured, and the benchmark from this one.
_CHILD = """
import importlib, json, sys
tree, module, arguments = sys.argv[1:]
sys.path.insert(0, tree)
import sutro_async
assert sutro_async.__file__.startswith(tree), sutro_async.__file__
sys.path[0] = {now!r}
measure = importlib.import_module(module).measure
print(json.dumps(measure(**json.loads(arguments))))
"""


def measure_apart(tree: Path, module: str, **arguments: object) -> Any:
    """Call `measure(**arguments)` of a module in a child process, and return its result."""
    command = [sys.executable, "-c", _CHILD.format(now=str(NOW))]
    command += [str(tree), module, json.dumps(arguments)]
    environment = {**os.environ, **_MALLOC}
    result = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE, env=environment)
    return json.loads(result.stdout)
