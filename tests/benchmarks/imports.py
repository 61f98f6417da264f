"""Import time and memory of sutro_async, against its dependencies and against aiohttp alone."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.benchmarks._report import parser, show, spread

CONTENDERS = {
    "nothing": "pass",
    "aiohttp alone": "import aiohttp",
    "the dependencies": "import aiohttp, attrs, cattrs, tenacity",
    "sutro_async": "import sutro_async",
}
CODE = """
import time
began = time.perf_counter()
{}
elapsed = time.perf_counter() - began
pages = int(open("/proc/self/statm").read().split()[1])
print(elapsed * 1000, pages * 4096 / 2**20)
"""


def measure(statement: str) -> tuple[float, float]:
    """Return milliseconds and MiB."""
    command = [sys.executable, "-c", CODE.format(statement)]
    # What is installed has been compiled, so let the checkout be as well.
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    output = subprocess.run(
        command, capture_output=True, check=True, text=True, env=environment
    ).stdout
    milliseconds, mebibytes = map(float, output.split())
    return milliseconds, mebibytes


def main() -> None:
    options = parser(__doc__ or "", rounds=15).parse_args()
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in CONTENDERS}
    for _ in range(options.rounds + 1):
        for name, statement in CONTENDERS.items():
            measured[name].append(measure(statement))
    # The first round may have had to compile.
    floor = [milliseconds for milliseconds, _ in measured["the dependencies"][1:]]
    rows = []
    for name, runs in measured.items():
        times = [milliseconds for milliseconds, _ in runs[1:]]
        ratios = [time / other for time, other in zip(times, floor, strict=True)]
        rows.append(
            {
                "min / median / max": name,
                "ms": spread(times),
                "MiB": spread([mebibytes for _, mebibytes in runs[1:]]),
                "ratio to the dependencies": spread(ratios),
            }
        )
    show("imports", rows, as_json=options.json)


if __name__ == "__main__":
    main()
