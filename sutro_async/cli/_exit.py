"""What the exit status of the command tells a script."""

from __future__ import annotations

import enum
import signal
from collections.abc import Iterable
from typing import Final

from sutro_async import (
    ConfigurationError,
    Job,
    JobOutcome,
    JobStatus,
    JobStatusReport,
    JobWaitTimeoutError,
    SutroError,
)

__all__ = ["ExitStatus", "status_of_error", "status_of_interrupt", "status_of_outcomes"]


class ExitStatus(enum.IntEnum):
    """The exit statuses, which `docs/cli.md` explains."""

    OK = 0
    JOB_UNSUCCESSFUL = 1
    USAGE = 2
    API_ERROR = 3
    TIMED_OUT = 124  # as of timeout(1)
    INTERRUPTED = 130  # as a shell has it: 128 and SIGINT
    BROKEN_PIPE = 141  # 128 and SIGPIPE
    TERMINATED = 143  # 128 and SIGTERM


# What leaves more unknown goes first, so that 1 says that all of the jobs have been seen.
_PRECEDENCE: Final = (ExitStatus.API_ERROR, ExitStatus.TIMED_OUT, ExitStatus.JOB_UNSUCCESSFUL)


def status_of_outcomes(
    outcomes: Iterable[JobOutcome[Job] | JobOutcome[JobStatusReport]],
) -> ExitStatus:
    """Choose the one exit status for what came of many jobs."""
    statuses = {_status_of_outcome(outcome) for outcome in outcomes}
    return next((status for status in _PRECEDENCE if status in statuses), ExitStatus.OK)


def status_of_error(error: SutroError) -> ExitStatus:
    """Choose the exit status for an error."""
    if isinstance(error, ConfigurationError):
        return ExitStatus.USAGE
    if isinstance(error, JobWaitTimeoutError):
        return ExitStatus.TIMED_OUT
    return ExitStatus.API_ERROR


def status_of_interrupt(interrupt: KeyboardInterrupt) -> ExitStatus:
    """Choose the exit status for an interrupt, which may name the signal behind it."""
    is_sigterm = interrupt.args[:1] == (signal.SIGTERM,)
    return ExitStatus.TERMINATED if is_sigterm else ExitStatus.INTERRUPTED


def _status_of_outcome(outcome: JobOutcome[Job] | JobOutcome[JobStatusReport]) -> ExitStatus:
    if outcome.error is not None:
        return status_of_error(outcome.error)
    if outcome.value is not None and outcome.value.status in {
        JobStatus.FAILED,
        JobStatus.CANCELLED,
    }:
        return ExitStatus.JOB_UNSUCCESSFUL
    return ExitStatus.OK
