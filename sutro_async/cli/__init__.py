"""The command `sutro-async`: its entry, where each run ends with an exit status."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence

from sutro_async import SutroError
from sutro_async.cli._errors import ExitStatus, print_error, print_errors, status_of_error
from sutro_async.cli._process import discard, standard_streams

__all__ = ["main"]

_MISSING_EXTRA = (
    'sutro-async needs click and rich: pip install "sutro-async[cli]", or in a checkout'
    ' pip install ".[cli]"'
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
            discard(sys.stdout)
            return ExitStatus.BROKEN_PIPE
        except OSError as error:
            discard(sys.stdout)
            print_error(f"Error: the output cannot be written: {error.strerror}")
            return ExitStatus.USAGE
        return exit_status


def _run(arguments: Sequence[str]) -> int:
    try:
        from sutro_async.cli import _commands  # noqa: PLC0415 - needs the extra

        return _commands.run(arguments)
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] not in {"click", "rich"}:
            raise
        print_error(_MISSING_EXTRA)
        return ExitStatus.USAGE
    except KeyboardInterrupt as interrupt:
        return 128 + int((*interrupt.args, signal.SIGINT)[0])
    except SutroError as error:
        print_errors([error])
        return status_of_error(error)
