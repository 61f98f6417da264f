"""The options of the benchmarks, and their tables."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import aiohttp

import sutro_async
from tests.benchmarks._apart import NOW


def parser(description: str, *, rounds: int) -> argparse.ArgumentParser:
    """Make the parser of the options that all benchmarks share."""
    result = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument("--json", action="store_true", help="one JSON object a line")
    result.add_argument("--rounds", type=int, default=rounds, help="rounds of each contender")
    return result


def add_before(to: argparse.ArgumentParser) -> None:
    """Add the option that names another source tree to compare with."""
    to.add_argument("--before", type=Path, metavar="PATH", help="measure this source tree as well")


def trees(options: argparse.Namespace) -> dict[str, Path]:
    """Return the source trees to measure."""
    before = {} if options.before is None else {"before": options.before.resolve()}
    return {"now": NOW, **before}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Minimum, median and maximum."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def progress(text: str) -> None:
    """Say on stderr what has been measured, since a benchmark runs for minutes."""
    print(text, file=sys.stderr, flush=True)


def show(title: str, rows: Sequence[Mapping[str, object]], *, as_json: bool) -> None:
    """Print rows that have the same keys, as a table or as JSON lines."""
    if as_json:
        for row in rows:
            print(json.dumps({"benchmark": title, **row}))
        return
    machine = f"Python {platform.python_version()}, aiohttp {aiohttp.__version__}"
    print(f"\n{title} (sutro_async {sutro_async.__version__}, {machine})\n")
    cells = [list(rows[0]), *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    for line in cells:
        first, *others = (cell.rjust(width) for cell, width in zip(line, widths, strict=True))
        print("  ".join([line[0].ljust(len(first)), *others]))
    sys.stdout.flush()


def _cell(value: object) -> str:
    if isinstance(value, dict):
        return " / ".join(_cell(part) for part in value.values())
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    if isinstance(value, int):
        return f"{value:,}"
    return "-" if value is None else str(value)
