"""The command `sutro-async`."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Sequence

from sutro_async import __version__
from sutro_async.cli._demo import run_demo

__all__ = ["main"]

_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Args:
        arguments: What follows the command's name; those of the process by default.
    """
    parser = argparse.ArgumentParser(
        prog="sutro-async", description="Check on Sutro batch jobs and wait for them."
    )
    parser.add_argument("--version", action="version", version=f"sutro-async {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parser(
        "demo",
        help="wait for six jobs on a fake service; needs no key and no network",
        description="Wait for six jobs on a fake service, on this machine.",
    )
    parser.parse_args(arguments)
    try:
        asyncio.run(run_demo())
    except KeyboardInterrupt:
        return _INTERRUPTED
    return 0
