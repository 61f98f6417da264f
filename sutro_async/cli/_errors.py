"""Errors as the command tells of them: on standard error, with what to do about them."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from datetime import timedelta
from typing import Final

from sutro_async import (
    APIConnectionError,
    APIError,
    APIStatusError,
    AuthenticationError,
    GoneError,
    InvalidResponseError,
    JobNotFoundError,
    JobWaitTimeoutError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
    SutroError,
)
from sutro_async.cli._format import count, duration, job_count
from sutro_async.cli._streams import abandon

__all__ = ["print_error", "print_errors", "print_timeouts"]

# So many errors of one kind are told one by one.
_MAX_LINES: Final = 10

_URL: Final = "(--base-url, SUTRO_API_URL)"
# The first that fits is given. An error of configuration says itself what to set.
_ADVICE: Final[tuple[tuple[type[SutroError], str], ...]] = (
    (AuthenticationError, f"Check SUTRO_API_KEY, and that it is for this service {_URL}."),
    (
        PermissionDeniedError,
        "Check that the key is that of the account of the job.",
    ),
    (JobNotFoundError, "Check the id, and that the key is that of the account of the job."),
    (GoneError, f"Trying again cannot help: check the id, and the URL {_URL}."),
    (RateLimitError, "Try again later, or with a smaller --max-concurrency."),
    (ServerError, "The service is unavailable: try again later."),
    (APIStatusError, "The service does not take the request: check the id, or ask its support."),
    (APIConnectionError, f"Check the network, and the URL {_URL}."),
    (InvalidResponseError, f"Check that this is the URL of a Sutro service {_URL}."),
)


def print_error(*lines: str) -> None:
    """Print lines on standard error, if anybody reads it."""
    try:
        sys.stderr.write("".join(f"{line}\n" for line in lines))
        sys.stderr.flush()
    except OSError:
        abandon(sys.stderr)


def print_errors(errors: Iterable[SutroError]) -> None:
    """Print errors, and for each kind of them what to do."""
    kinds: dict[type[SutroError], list[SutroError]] = {}
    for error in errors:
        kinds.setdefault(type(error), []).append(error)
    for kind, members in kinds.items():
        print_error(*(f"Error: {error}" for error in members[:_MAX_LINES]))
        if len(members) > _MAX_LINES:
            print_error(f"Error: and {count(len(members) - _MAX_LINES)} more of that kind")
        print_error(*_advice(kind))


def print_timeouts(timeouts: Iterable[JobWaitTimeoutError], number_of_jobs: int) -> None:
    """Print that a wait is over before its jobs have ended, and why they may not have been seen."""
    timeouts = list(timeouts)
    if not timeouts:
        return
    unseen = sum(timeout.last_report is None for timeout in timeouts)
    never_seen = f", {count(unseen)} of them never seen" if unseen else ""
    span = duration(timedelta(seconds=timeouts[0].timeout))
    print_error(
        f"Error: timed out after {span}:"
        f" {count(len(timeouts))} of {job_count(number_of_jobs)} had not finished{never_seen}"
    )
    failures = [error.__cause__ for error in timeouts if isinstance(error.__cause__, APIError)]
    _print_failed_polls(failures)
    if unseen < len(timeouts):
        print_error(
            "Unfinished jobs are still running on the service: run the command again to resume,"
            " or with a longer --timeout."
        )
    elif not failures:
        print_error("The service has not answered yet: wait again with a longer --timeout.")


def _print_failed_polls(failures: Iterable[APIError]) -> None:
    """Print why the last polls failed, each text once, and what to do."""
    polls = {_without_job(error): error for error in failures}
    print_error(*(f"Error: the last poll failed: {text}" for text in list(polls)[:_MAX_LINES]))
    if len(polls) > _MAX_LINES:
        print_error(
            f"Error: and the last polls failed in {count(len(polls) - _MAX_LINES)} more ways"
        )
    print_error(*dict.fromkeys(line for error in polls.values() for line in _advice(type(error))))


def _advice(kind: type[SutroError]) -> list[str]:
    return next(([advice] for base, advice in _ADVICE if issubclass(kind, base)), [])


def _without_job(error: APIError) -> str:
    return str(error).removeprefix(f"job {error.job_id!r}: ")
