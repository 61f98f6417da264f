"""The command `sutro-async`.

It needs the extra `cli`, but for its demo and its version.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence

from sutro_async import SutroError, __version__
from sutro_async.cli._errors import print_error, print_errors
from sutro_async.cli._exit import ExitStatus, status_of_error, status_of_interrupt
from sutro_async.cli._loop import run
from sutro_async.cli._streams import abandon, standard_streams

__all__ = ["main"]

_MISSING_EXTRA = (
    'This needs click and rich: pip install "sutro-async[cli]", or from a checkout'
    ' pip install ".[cli]". `sutro-async demo` does without.'
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Args:
        arguments: What follows the command's name; those of the process by default.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    with standard_streams():
        try:
            exit_status = _run(arguments)
            sys.stdout.flush()
        except BrokenPipeError:
            abandon(sys.stdout)
            return ExitStatus.BROKEN_PIPE
        except OSError as error:
            abandon(sys.stdout)
            print_error(f"Error: the output cannot be written: {error.strerror}")
            return ExitStatus.USAGE
        return exit_status


def _run(arguments: Sequence[str]) -> int:
    try:
        if all(importlib.util.find_spec(name) for name in ("click", "rich")):
            return _run_with_extra(arguments)
        return _run_without_extra(arguments)
    except KeyboardInterrupt as interrupt:
        return status_of_interrupt(interrupt)
    except SutroError as error:
        print_errors([error])
        return status_of_error(error)


def _run_with_extra(arguments: Sequence[str]) -> int:
    import click  # noqa: PLC0415 - of the extra

    from sutro_async.cli import _commands  # noqa: PLC0415 - needs the extra

    try:
        return _commands.run(arguments)
    except click.UsageError as error:
        command = error.ctx.command_path if error.ctx else "sutro-async"
        print_error(f"Error: {error.format_message()}", f"See `{command} --help`.")
        return ExitStatus.USAGE


def _run_without_extra(arguments: Sequence[str]) -> int:
    if list(arguments) == ["--version"]:
        print(f"sutro-async {__version__}")
        return ExitStatus.OK
    if list(arguments) != ["demo"]:
        print_error(_MISSING_EXTRA)
        return ExitStatus.USAGE
    from sutro_async.cli._demo import run_demo  # noqa: PLC0415 - brings a server along

    return run(run_demo())
