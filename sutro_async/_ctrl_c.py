"""Ctrl-C while the command `sutro-async` starts: the process exits at once, without a traceback.

This package is imported before any code of the command runs, and that is most of its start.
In every other program this module does nothing.
"""

from __future__ import annotations

# Nothing else: until `install` has run, Ctrl-C leaves a traceback.
import os
import signal
import sys

__all__ = ["install"]


def install(argv: list[str], orig_argv: list[str]) -> bool:
    """Let SIGINT exit with status 130, if this process is the command; return whether it is.

    Args:
        argv: `sys.argv`.
        orig_argv: `sys.orig_argv`, which names the module of `python -m`.
    """
    program = argv[0] if argv else ""
    is_script = program.replace("\\", "/").endswith(("/sutro-async", "/sutro-async.exe"))
    is_module = program == "-m" and orig_argv[-len(argv)] == "sutro_async"
    if not (is_script or is_module):
        return False
    # A script that starts the command in the background has SIGINT ignored, and it stays so.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda number, _: os._exit(128 + number))
    return True


install(sys.argv, sys.orig_argv)
