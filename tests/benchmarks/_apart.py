"""Measures in a new child process, with a given source tree."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

NOW = Path(__file__).resolve().parents[2]

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
    result = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE)
    return json.loads(result.stdout)
